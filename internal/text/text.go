// Package text prepares the texts that leave the library: in errors, snapshots, events,
// logs, channelz data and the command's output. Text that a peer, a resolver, a
// certificate, a proxy or a name server sent passes through it before it leaves the
// library, so that it can neither steer a terminal, nor forge a line of a log, nor
// carry a password.
//
// There is one rule for each: which characters may leave (Clean), how a text
// becomes one line (Line), how it is shortened (Cut), how a duration is rounded
// (Round), and what is a secret (Redact, Secrets).
package text

import (
	"strings"
	"time"
	"unicode/utf8"
)

// Clean returns s as valid UTF-8 without characters that a terminal or a log
// viewer obeys: the control characters C0, DEL and C1, and those that change the
// direction of writing. White space among them, the line and paragraph separators
// included, becomes a space; everything else becomes U+FFFD, as does what is not
// UTF-8. It returns s itself if there is nothing to replace.
func Clean(s string) string {
	i := firstUnclean(s)
	if i < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	b.WriteString(s[:i])
	for _, r := range s[i:] { // RuneError for each byte that is not UTF-8
		switch {
		case isBreak(r):
			b.WriteByte(' ')
		case isControl(r):
			b.WriteRune(utf8.RuneError)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// firstUnclean returns the index of the first character that Clean replaces, -1 if
// there is none.
func firstUnclean(s string) int {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return i
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || isBreak(r) || isControl(r) {
			return i
		}
		i += size
	}
	return -1
}

// isBreak reports whether r is white space that is not shown as such.
func isBreak(r rune) bool {
	switch r {
	case '\t', '\n', '\v', '\f', '\r', 0x85, 0x2028, 0x2029:
		return true
	}
	return false
}

// isControl reports whether r is a control character (C0, DEL, C1) or one of the
// Unicode Bidirectional Algorithm's formatting characters (UAX #9, section 2).
func isControl(r rune) bool {
	switch {
	case r < ' ', r >= 0x7f && r <= 0x9f:
		return true
	case r == 0x061c, r == 0x200e, r == 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}

// maxLine bounds a line, in bytes: a peer may send any number.
const maxLine = 16 << 10

// Line returns s on one line, clean and without passwords: each run of white space
// is one space, and there is none at the ends. A longer text than 16 KiB is cut. It
// returns s itself if that is so already.
func Line(s string) string {
	s = Redact(Clean(Cut(strings.TrimSpace(s), maxLine)))
	if isLine(s) {
		return s
	}
	return strings.Join(strings.Fields(s), " ")
}

// isLine reports whether joining the fields of s would not change it. It may be
// false for a line that has white space beyond ASCII.
func isLine(s string) bool {
	before := byte(' ')
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf || s[i] == ' ' && before == ' ' {
			return false
		}
		before = s[i]
	}
	return before != ' ' || s == ""
}

// ellipsis ends a text that was cut.
const ellipsis = "..."

// Cut shortens s to at most n bytes, which are not fewer than three, at the boundary
// of a character. A text that was shortened ends with "...".
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:startOfRune(s, n-len(ellipsis))] + ellipsis
}

// startOfRune returns i, which is below len(s), or the index before it at which the character
// begins that i is in the middle of. In what is not UTF-8 it goes no further than in what is.
func startOfRune(s string, i int) int {
	for least := max(0, i-(utf8.UTFMax-1)); i > least && !utf8.RuneStart(s[i]); {
		i--
	}
	return i
}

// endOfRune returns i, or the index behind it at which the character ends that i is in the
// middle of; as startOfRune does.
func endOfRune(s string, i int) int {
	for most := min(len(s), i+utf8.UTFMax-1); i < most && !utf8.RuneStart(s[i]); {
		i++
	}
	return i
}

// Round returns d with three significant digits, but not below a nanosecond and, from
// 100 seconds on, in whole seconds.
func Round(d time.Duration) time.Duration {
	if d < 0 {
		return -Round(-d)
	}
	for unit := time.Duration(1); unit < time.Second; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit)
		}
	}
	return d.Round(time.Second)
}
