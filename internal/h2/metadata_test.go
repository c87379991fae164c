package h2_test

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// timeoutUnits are those of grpc-timeout (gRPC's PROTOCOL-HTTP2).
var timeoutUnits = map[byte]time.Duration{'n': time.Nanosecond, 'u': time.Microsecond, 'm': time.Millisecond, 'S': time.Second, 'M': time.Minute, 'H': time.Hour}

// parseTimeout reads a grpc-timeout as a server does.
func parseTimeout(s string) (time.Duration, error) {
	var n int64
	var unit byte
	if k, err := fmt.Sscanf(s, "%d%c", &n, &unit); k != 2 || err != nil {
		return 0, fmt.Errorf("%q: %v", s, err)
	}
	if len(s) < 2 || len(s) > 9 || timeoutUnits[unit] == 0 || n < 0 {
		return 0, fmt.Errorf("%q is no timeout", s)
	}
	if n > math.MaxInt64/int64(timeoutUnits[unit]) {
		return math.MaxInt64, nil
	}
	return time.Duration(n) * timeoutUnits[unit], nil
}

func TestTimeoutEncoding(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{1, "1n"},
		{999, "999n"},
		{1000, "1u"},
		{1001, "1002n"},
		{99999999, "100m"},
		{time.Second, "1S"},
		{time.Second - 900*time.Microsecond, "1S"},
		{time.Second - 1100*time.Microsecond, "999m"},
		{10 * time.Second, "10S"},
		{10*time.Second - 1, "10S"},
		{10*time.Second - 11*time.Millisecond, "9990m"},
		{1500 * time.Millisecond, "1500m"},
		{59*time.Second + 999*time.Millisecond, "1M"},
		{time.Hour - 1, "1H"},
		{90 * time.Minute, "90M"},
		{12345678 * time.Second, "206000M"},
		{99999999*time.Second + 1, "1666667M"},
		{math.MaxInt64, "2562048H"},
	} {
		require.Equal(t, tt.want, string(h2.AppendTimeout(nil, tt.d)), tt.d)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		checkTimeout(t, time.Duration(rnd.Int64()>>rnd.IntN(63)))
	}
}

// checkTimeout shows that d is encoded within the rules, never too short, and
// close to what it is.
func checkTimeout(t *testing.T, d time.Duration) {
	t.Helper()
	s := string(h2.AppendTimeout([]byte("x"), d))
	require.Equal(t, "x", s[:1])
	got, err := parseTimeout(s[1:])
	require.NoError(t, err)
	require.GreaterOrEqual(t, got, d)
	require.LessOrEqual(t, float64(got-d), float64(d)/500, "%v became %q", d, s)
}

func FuzzTimeout(f *testing.F) {
	for _, d := range []int64{1, 99999999, 100000000, math.MaxInt64} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, d int64) {
		if d > 0 {
			checkTimeout(t, time.Duration(d))
		}
	})
}

func TestMessageDecoding(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"plain", "plain"},
		{"a%20b", "a b"},
		{"%E2%82%AC", "\u20ac"},
		{"%e2%82%ac", "\u20ac"},
		{"100%", "100%"},
		{"%4", "%4"},
		{"%zz%41", "%zzA"},
		{"%%41", "%A"},
		{"%ff", "\uFFFD"},
		{"%2541", "%41"},
	} {
		require.Equal(t, tt.want, h2.DecodeMessage(tt.in), tt.in)
	}
}

// Decoding a grpc-message never fails, gives valid UTF-8 where it decodes anything, and
// undoes encoding.
func FuzzMessage(f *testing.F) {
	for _, s := range []string{"", "a%20b", "%", "%f", "%zz", "\u20ac\x00%", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := h2.DecodeMessage(s)
		if strings.Contains(s, "%") && !utf8.ValidString(got) {
			t.Errorf("%q became %q", s, got)
		}
		var encoded strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&encoded, "%%%02X", s[i])
		}
		if want := strings.ToValidUTF8(s, "\uFFFD"); h2.DecodeMessage(encoded.String()) != want {
			t.Errorf("%q came back as %q", want, h2.DecodeMessage(encoded.String()))
		}
	})
}

// A "-bin" value is decoded whether it is padded or not, or several in one; what is
// neither is an error.
func FuzzBinary(f *testing.F) {
	for _, s := range []string{"", "YQ", "YQ==", "YQ==,YWI=", "!", ",", "Y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := h2.DecodeBinary(s); err == nil && len(got) != strings.Count(s, ",")+1 {
			t.Errorf("%q became %q", s, got)
		}
		padded, bare := base64.StdEncoding.EncodeToString([]byte(s)), base64.RawStdEncoding.EncodeToString([]byte(s))
		got, err := h2.DecodeBinary(padded + "," + bare)
		if err != nil || len(got) != 2 || got[0] != s || got[1] != s {
			t.Errorf("%q came back as %q, %v", s, got, err)
		}
	})
}
