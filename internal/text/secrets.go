package text

import (
	"cmp"
	"encoding/base64"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Secrets are a user name and a password that were sent to a peer, in the forms in
// which the peer may echo them. nil: there are none. It is not modified after it was
// made.
type Secrets struct{ forms []string }

const (
	minSecret = 4 // bytes: a shorter one is masked only where it stands alone, as a word
	minPrefix = 8 // bytes: the beginning of a longer secret that is masked, of a text that was cut
)

// NewSecrets returns the secrets of HTTP's Basic authentication (RFC 7617) with a
// user name and a password: both, their Base64, and both as they are written in URLs,
// in HTML and in quotes.
func NewSecrets(user, password string) *Secrets {
	if user == "" && password == "" {
		return nil
	}
	pair := user + ":" + password
	all := []string{
		pair, user, password,
		base64.RawStdEncoding.EncodeToString([]byte(pair)),
		base64.RawURLEncoding.EncodeToString([]byte(pair)),
		base64.RawStdEncoding.EncodeToString([]byte(user)),
		base64.RawStdEncoding.EncodeToString([]byte(password)),
	}
	for _, s := range []string{user, password} {
		all = append(all, url.QueryEscape(s), url.PathEscape(s), url.User(s).String(), html.EscapeString(s), strings.Trim(strconv.Quote(s), `"`))
	}
	all = slices.DeleteFunc(all, func(s string) bool { return s == "" })
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b)) })
	return &Secrets{slices.Compact(all)}
}

// Longest returns the length in bytes of the longest form: how much more than is to
// be shown of a text must be known for Mask to find a secret at its end.
func (s *Secrets) Longest() int {
	if s == nil {
		return 0
	}
	return len(s.forms[0])
}

// Mask returns text with every secret in it masked, and with the beginning of a long
// one masked. It is UTF-8 if text is.
func (s *Secrets) Mask(text string) string {
	if s == nil {
		return text
	}
	var b strings.Builder
	done := 0 // what of text is in b
	for i := 0; i < len(text); {
		n := s.matchAt(text, i)
		if n == 0 {
			i++
			continue
		}
		// Bytes of a secret may be some of a character's, which is masked whole.
		b.WriteString(text[done:max(done, startOfRune(text, i))] + mask)
		i = endOfRune(text, i+n)
		done = i
	}
	if done == 0 {
		return text
	}
	return b.String() + text[done:]
}

// MaskBytes is Mask for bytes, which it does not modify.
func (s *Secrets) MaskBytes(b []byte) []byte {
	if s == nil {
		return b
	}
	return []byte(s.Mask(string(b)))
}

// MaskQuoted is Mask for a text of this library's that quotes others' in double
// quotes: its own words stay, even if they happen to be the user name.
func (s *Secrets) MaskQuoted(text string) string {
	if s == nil {
		return text
	}
	parts := strings.Split(text, `"`)
	for i := 1; i < len(parts); i += 2 {
		parts[i] = s.Mask(parts[i])
	}
	return strings.Join(parts, `"`)
}

// matchAt returns how many bytes of text from i on are a secret.
func (s *Secrets) matchAt(text string, i int) (longest int) {
	for _, form := range s.forms {
		n := commonPrefix(text[i:], form)
		switch {
		case n <= longest, n == 0:
		case n == len(form) && (n >= minSecret || isWord(text, i, i+n)), n >= minPrefix:
			longest = n
		}
	}
	return longest
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// isWord reports whether text[from:to] has no letter or digit beside it.
func isWord(text string, from, to int) bool {
	return (from == 0 || !isWordByte(text[from-1])) && (to == len(text) || !isWordByte(text[to]))
}

func isWordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}
