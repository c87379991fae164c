package text

import (
	"strconv"
	"strings"
)

// mask stands for a secret. It is the one that net/url uses.
const mask = "xxxxx"

// Bounds, so that a hostile text does not cost more than its length.
const (
	maxURL    = 1024 // bytes of a URL or a target that are looked at
	maxMasked = 8    // user informations whose pieces are looked for
)

// Redact returns s with the user name and password of each URL and each target in
// it masked: "http://user:pw@host:80" becomes "http://xxxxx@host:80", and
// "user:pw@host:80" becomes "xxxxx@host:80". Texts of errors quote URLs as they were
// written, even those that are not valid, so a password need not be encoded to be
// found; a piece of it that is quoted elsewhere in s is masked too, as in
//
//	parse "http://user:p%zz@host": invalid URL escape "%zz"
//
// When in doubt it masks: of "http://host:80/a@b" it cannot know whether "80/a" is a
// password. It returns s itself if there is nothing to mask.
func Redact(s string) string {
	s = maskPort(s)
	if strings.IndexByte(s, '@') < 0 {
		return s
	}
	var b strings.Builder
	var masked []string
	rest := s
	for {
		start, at := findUserinfo(rest)
		if at < 0 {
			break
		}
		b.WriteString(rest[:start] + mask + "@")
		if len(masked) < maxMasked {
			masked = append(masked, rest[start:at])
		}
		rest = rest[at+1:]
	}
	if masked == nil {
		return s
	}
	b.WriteString(rest)
	out := b.String()
	for _, userinfo := range masked {
		out = maskPieces(out, userinfo)
	}
	return out
}

// Target returns a target, or an address, as it may be shown: clean, and without the
// user name and password in it. It knows more than Redact, which has to find out where
// a user information begins.
func Target(s string) string { return redactTarget(Clean(s)) }

// QuoteTarget returns a target in double quotes, with what is not to be shown as it is
// escaped, and without the user name and password in it.
func QuoteTarget(s string) string { return strconv.Quote(redactTarget(s)) }

func redactTarget(s string) string {
	if at := strings.LastIndexByte(s, '@'); at > 0 && !strings.Contains(s, "://") && hasPassword(s[:at]) && !isUnix(s) {
		return mask + s[at:]
	}
	return Redact(s)
}

// maskPort masks what package url complains of as a port: it reads the password of
// "http://user:pa#ss@host" so, and its error quotes only what is before the "#".
func maskPort(s string) string {
	const complaint = `: invalid port `
	i := strings.Index(s, complaint)
	if i < 0 {
		return s
	}
	port, _, _ := strings.Cut(strings.TrimLeft(s[i+len(complaint):], `\"`), `"`)
	port = strings.TrimRight(strings.TrimPrefix(port, ":"), `\`)
	if strings.Trim(port, "0123456789") == "" {
		return s // it is out of range
	}
	return strings.ReplaceAll(s, ":"+port, ":"+mask)
}

// findUserinfo returns where the first user information in s begins and the "@" that
// ends it; at is -1 if there is none.
func findUserinfo(s string) (start, at int) {
	from := 0
	for {
		colons, a := strings.Index(s[from:], "://"), strings.IndexByte(s[from:], '@')
		switch {
		case a < 0:
			return 0, -1
		case colons >= 0 && colons < a:
			colons += from
			if start, at = userinfoOfURL(s, colons); at >= 0 {
				return start, at
			}
			from = colons + len("://")
			if end, _ := endOfURL(s, colons); !strings.Contains(s[from:end], "://") {
				from = end // none of its "@" ends a user information
			}
		default:
			a += from
			start, at, end := userinfoOfTarget(s, a)
			if at >= 0 && start >= from {
				return start, at
			}
			from = max(end, a+1)
		}
	}
}

// userinfoOfURL looks for the user information of the URL whose "://" is at colons.
func userinfoOfURL(s string, colons int) (start, at int) {
	end, quoted := endOfURL(s, colons)
	start = colons + len("://")
	direct := true // the authority follows; else it is a target's endpoint
	for start < end && s[start] == '/' {
		start, direct = start+1, false
	}
	whole := s[start:end]
	authority := whole
	if i := strings.IndexAny(whole, "/?#"); i >= 0 {
		authority = whole[:i]
	}
	if strings.HasSuffix(authority, ":") && strings.HasPrefix(whole[len(authority):], "//") {
		return 0, -1 // a URL within the URL, which is looked at next
	}
	at = strings.LastIndexByte(whole, '@')
	switch inAuthority := strings.Contains(authority, "@"); {
	case at < 0 && !quoted && !isHostPort(authority): // a password with white space or a quote, perhaps
		if i := strings.IndexByte(s[end:min(len(s), end+maxURL)], '@'); i >= 0 {
			return start, end + i
		}
		return 0, -1
	case at > 0 && inAuthority && (direct || hasPassword(whole[:at])):
		return start, start + at
	case at > 0 && !inAuthority && hasPassword(authority): // "user:1/2@host"
		return start, start + at
	}
	return 0, -1
}

// endOfURL returns where the URL whose "://" is at colons ends: at the quote that
// closes the one before it, or else at white space or a quote.
func endOfURL(s string, colons int) (end int, quoted bool) {
	scheme, from := colons, colons+len("://")
	s = s[:min(len(s), from+maxURL)]
	for scheme > 0 && colons-scheme < maxURL && isSchemeByte(s[scheme-1]) {
		scheme--
	}
	if scheme > 0 && isQuote(s[scheme-1]) {
		if i := closingQuote(s[from:], s[scheme-1], scheme > 1 && s[scheme-2] == '\\'); i >= 0 {
			return from + i, true
		}
	}
	for end = from; end < len(s) && strings.IndexByte(endsURL, s[end]) < 0; end++ {
	}
	return end, false
}

// closingQuote returns where a text in quotes ends, -1 if it does not. escaped says that
// the quotes are a part of a text in quotes.
func closingQuote(s string, quote byte, escaped bool) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == quote:
			return i
		case s[i] != '\\':
		case escaped && i+1 < len(s) && s[i+1] == quote:
			return i
		case escaped: // "\\\"" is a quote within
			for i+1 < len(s) && s[i+1] == '\\' {
				i++
			}
			i++
		default:
			i++
		}
	}
	return -1
}

// What no URL, and no target in a text, goes beyond. Control characters are none of it:
// a clean text has none.
const (
	endsURL    = " \"'`<>"
	endsTarget = endsURL + "()=,;"
)

// userinfoOfTarget looks for the user information of a target without a scheme,
// "user:password@host", in which an "@" is at the index of. The target ends at end; at is
// -1 if it has none.
func userinfoOfTarget(s string, of int) (start, at, end int) {
	first, last := startOfRune(s, max(0, of-maxURL)), min(len(s), of+maxURL)
	for start = of; start > first && strings.IndexByte(endsTarget, s[start-1]) < 0; start-- {
	}
	for end = of; end < last && strings.IndexByte(endsTarget, s[end]) < 0; end++ {
	}
	at = start + strings.LastIndexByte(s[start:end], '@')
	if userinfo := s[start:at]; !hasPassword(userinfo) || isUnix(userinfo) {
		return start, -1, end
	}
	if host := s[at+1 : end]; host == "" || !isSchemeByte(host[0]) && host[0] != '[' {
		return start, -1, end
	}
	return start, at, end
}

// isUnix reports whether s is the beginning of the target of a unix socket, whose
// path may have an "@".
func isUnix(s string) bool {
	return strings.HasPrefix(s, "unix:/") || strings.HasPrefix(s, "unix:.") || strings.HasPrefix(s, "unix-abstract:")
}

// hasPassword reports whether userinfo has a password that is not empty.
func hasPassword(userinfo string) bool {
	if strings.HasPrefix(userinfo, "[") { // an IPv6 address
		_, userinfo, _ = strings.Cut(userinfo, "]")
	}
	_, password, ok := strings.Cut(userinfo, ":")
	return ok && password != ""
}

// isHostPort reports whether what follows a colon in authority, if there is one, may
// be a port.
func isHostPort(authority string) bool {
	if strings.HasPrefix(authority, "[") {
		_, authority, _ = strings.Cut(authority, "]")
	}
	_, port, _ := strings.Cut(authority, ":")
	return strings.Trim(port, "0123456789") == ""
}

func isSchemeByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.' || c == '_'
}

func isQuote(c byte) bool { return c == '"' || c == '\'' || c == '`' }

// maskPieces masks in s what else there is of userinfo: its password, and what stands
// in quotes and is a piece of it.
func maskPieces(s, userinfo string) string {
	if _, password, _ := strings.Cut(userinfo, ":"); len(password) >= minSecret {
		s = strings.ReplaceAll(s, password, mask)
	}
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, `"`)
		piece, after, closed := strings.Cut(rest, `"`)
		if !ok || !closed {
			b.WriteString(s)
			return b.String()
		}
		if piece == "" || !strings.Contains(userinfo, piece) {
			b.WriteString(before + `"`)
			s = rest // its closing quote may open another
			continue
		}
		b.WriteString(before + `"` + mask + `"`)
		s = after
	}
}
