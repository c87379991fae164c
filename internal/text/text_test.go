package text

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"plain":                             "plain",
		"Grüße, 世界, שלום":                   "Grüße, 世界, שלום",
		"a\x1b[31mb":                        "a\uFFFD[31mb",
		"a\x00\x07\x7fb":                    "a\uFFFD\uFFFD\uFFFDb",
		"a\u0080\u009bb":                    "a\uFFFD\uFFFDb", // C1: 0x9b begins an escape sequence
		"a\r\nb\tc\v\fd":                    "a  b c  d",
		"a\u0085b\u2028c\u2029d":            "a b c d",
		"a\u202eb\u202ac\u2066d\u2069":      "a\uFFFDb\uFFFDc\uFFFDd\uFFFD",
		"a\u200eb\u200fc\u061cd":            "a\uFFFDb\uFFFDc\uFFFDd",
		"a\xff\xfeb\xe2\x80":                "a\uFFFD\uFFFDb\uFFFD\uFFFD",
		"a\uFFFDb":                          "a\uFFFDb",                          // as it was
		"family \U0001F468\u200d\U0001F469": "family \U0001F468\u200d\U0001F469", // a joiner is no control
	} {
		assert.Equal(t, want, Clean(in), "%q", in)
	}
	const plain = "nothing to do, nichts zu tun: ü"
	assert.Zero(t, testing.AllocsPerRun(10, func() { Clean(plain) }))
}

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                   "",
		"one":                "one",
		" a  b\n\nc\t":       "a b c",
		"a\u2028b\u00a0 c":   "a b c",
		"x http://u:p@h/ y ": "x http://xxxxx@h/ y",
		"forged\nlevel=ERROR msg=\"all is lost\"": `forged level=ERROR msg="all is lost"`,
	} {
		assert.Equal(t, want, Line(in), "%q", in)
	}
	const plain = "dial tcp 192.0.2.1:443: connect: connection refused"
	assert.Zero(t, testing.AllocsPerRun(10, func() { Line(plain) }))
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc..."},
		{"äöüß", 8, "äöüß"},
		{"äöüßx", 8, "äö..."},
		{"äöüßx", 7, "äö..."},
		{"世界", 5, "..."},
		{"\xff\xff\xff\xff\xff", 4, "\xff..."},
		{"abcd", 3, "..."},
	} {
		assert.Equal(t, tt.want, Cut(tt.in, tt.n), "%q at %d", tt.in, tt.n)
		assert.LessOrEqual(t, len(Cut(tt.in, tt.n)), max(tt.n, 3))
	}
}

// TestRound: three digits, wherever a duration is shown.
func TestRound(t *testing.T) {
	for in, want := range map[time.Duration]string{
		0:                                  "0s",
		7 * time.Nanosecond:                "7ns",
		1234 * time.Nanosecond:             "1.23µs",
		40123 * time.Nanosecond:            "40.1µs",
		999600 * time.Nanosecond:           "1ms",
		1234567:                            "1.23ms",
		150149 * time.Microsecond:          "150ms",
		1504 * time.Millisecond:            "1.5s",
		59987 * time.Millisecond:           "1m0s",
		61234 * time.Millisecond:           "1m1.2s",
		100499 * time.Millisecond:          "1m40s",
		3*time.Hour + 499*time.Millisecond: "3h0m0s",
		5025*time.Second + 123456:          "1h23m45s",
		-1234567:                           "-1.23ms",
	} {
		assert.Equal(t, want, Round(in).String(), in.String())
	}
}

type panicking struct{ text string }

func (p *panicking) Error() string { return p.text }

func TestError(t *testing.T) {
	assert.NoError(t, Error(nil))
	assert.Same(t, io.EOF, Error(io.EOF), "an error that is fit is not touched")

	op := &net.OpError{Op: "dial", Err: errors.New("a\x1bb\nc")}
	err := Error(op)
	assert.EqualError(t, err, "dial: a\uFFFDb c")
	assert.ErrorIs(t, err, op)
	var found *net.OpError
	assert.ErrorAs(t, err, &found)
	assert.Same(t, op, Original(err))
	assert.Same(t, err, Error(err))
	assert.Same(t, io.EOF, Original(io.EOF))

	assert.Equal(t, "two | a | b", Of(errors.New("two\n\ta\n\tb ")))
	assert.Equal(t, "a b", Of(errors.Join(errors.New("a"), errors.New("b"))))

	err = Error((*panicking)(nil))
	assert.EqualError(t, err, "<nil>", "it does not panic when it is shown")
	assert.ErrorIs(t, err, (*panicking)(nil))

	secret := fmt.Errorf("it said hunter22: %w", io.EOF)
	err = NewSecrets("me", "hunter22").Error(secret)
	assert.EqualError(t, err, "it said xxxxx: EOF")
	assert.ErrorIs(t, err, io.EOF)
	assert.Same(t, io.EOF, (*Secrets)(nil).Error(io.EOF))
	assert.Same(t, secret, Original(NewSecrets("", "hunter22").Error(Error(secret))))
}

// FuzzText: whatever comes in, what leaves is valid, clean and short.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b[31m\u202e\u2028", "http://u:p@h", "\xff@:", `parse "http://u:%zz@h": invalid "%zz"`, "ß\n\tb"} {
		f.Add(s, 10)
	}
	for i := range 4 { // where looking for the beginning of a user information ends
		f.Add(strings.Repeat("\u20ac", maxURL)+strings.Repeat("u", i)+":p@h", 10)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		for name, out := range map[string]string{"Clean": Clean(s), "Line": Line(s), "Of": Of(errors.New(s)), "Cut": Cut(Line(s), max(3, n))} {
			if !utf8.ValidString(out) {
				t.Fatalf("%s: %q is not UTF-8", name, out)
			}
			if i := strings.IndexFunc(out, forbidden); i >= 0 {
				t.Fatalf("%s: %q at %d", name, out, i)
			}
			if Clean(out) != out {
				t.Fatalf("%s: %q is not clean to Clean", name, out)
			}
		}
		if out := Cut(s, max(3, n)); len(out) > max(3, n) {
			t.Fatalf("%q has more than %d bytes", out, n)
		}
		if out := Line(s); strings.Contains(out, "  ") || strings.TrimSpace(out) != out {
			t.Fatalf("%q is not one line", out)
		}
		if utf8.ValidString(s) && !strings.ContainsFunc(s, forbidden) && Clean(s) != s {
			t.Fatalf("%q was clean", s)
		}
	})
}

// forbidden is the rule, in other words than the code's.
func forbidden(r rune) bool {
	const controls = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2028\u2029\u2066\u2067\u2068\u2069"
	return r <= 0x1f || r >= 0x7f && r <= 0x9f || strings.ContainsRune(controls, r)
}
