package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/grpcdial/grpcdial/internal/text"
)

// bodyWait is how long a refusal's body may take to come. Bytes that come later are not
// in the error.
const bodyWait = 500 * time.Millisecond

// http has an HTTP proxy connect to the destination (RFC 9110 §9.3.6). A refusal
// goes into a.failed.
func (a attempt) http(ctx context.Context, nc net.Conn, to destination) error {
	a.failed.Authenticated = a.proxy.user != nil
	if _, err := nc.Write(a.connectRequest(to)); err != nil {
		return err
	}
	head, status, err := readAnswer(nc)
	if status == 0 || status == http.StatusOK {
		return err
	}
	a.failed.StatusCode = status
	a.failed.Status = statusText(head, a.proxy.secrets())
	if err != nil {
		whole := bytes.LastIndexByte(head, '\n') + 1 // of its lines
		a.readRefusal(strings.NewReader(string(head[:whole]) + "\r\n"))
		return err
	}
	// The body is on the connection yet; it is read until it ends, is long enough,
	// or has had its time.
	ctx, cancel := context.WithTimeout(ctx, bodyWait)
	defer cancel()
	release := closeAtEnd(ctx, nc)
	defer release()
	a.readRefusal(io.MultiReader(bytes.NewReader(head), nc))
	return errRefused
}

// connectRequest is the request. Nothing in it can end a line before its time:
// the destination was parsed, the credentials are base64.
func (a attempt) connectRequest(to destination) []byte {
	var b bytes.Buffer
	b.WriteString("CONNECT " + to.String() + " HTTP/1.1\r\nHost: " + to.String() + "\r\n")
	if a.opts.UserAgent != "" {
		b.WriteString("User-Agent: " + headerValue.Replace(a.opts.UserAgent) + "\r\n")
	}
	if u := a.proxy.user; u != nil {
		password, _ := u.Password()
		b.WriteString("Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)) + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// headerValue keeps a user agent on its line.
var headerValue = strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ")

// readRefusal takes from an answer that is no tunnel what explains it.
func (a attempt) readRefusal(r io.Reader) {
	answer, err := http.ReadResponse(bufio.NewReader(r), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return // the status says enough
	}
	secrets := a.proxy.secrets()
	for _, c := range challenges(answer.Header.Values("Proxy-Authenticate")) {
		a.failed.Challenges = append(a.failed.Challenges, secrets.Mask(c))
	}
	// More is read than is kept, so that a secret at the end is seen whole.
	body, _ := io.ReadAll(io.LimitReader(answer.Body, int64(maxBody+secrets.Longest())))
	a.failed.Body = text.Cut(onlyText(secrets.Mask(string(body))), maxBody)
	// The body is not closed: that would read on.
}

// challenges are the names of the schemes in the values of a Proxy-Authenticate
// header: "Basic realm=x, y=z, Negotiate" has two (RFC 9110 §11.6.1).
func challenges(values []string) []string {
	const most, longest = 8, 32
	var schemes []string
	for _, v := range values {
		for element := range splitUnquoted(v) {
			scheme, _, _ := strings.Cut(strings.TrimSpace(element), " ")
			if scheme == "" || len(scheme) > longest || strings.ContainsFunc(scheme, notInToken) {
				continue // a parameter of the scheme before it
			}
			if len(schemes) == most {
				return schemes
			}
			schemes = append(schemes, scheme)
		}
	}
	return schemes
}

func notInToken(r rune) bool {
	return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '-' && r != '_'
}

// splitUnquoted yields what is between the commas that are not in quotes.
func splitUnquoted(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(s); i++ {
			switch {
			case s[i] == '"':
				quoted = !quoted
			case s[i] == '\\' && quoted:
				i++
			case s[i] == ',' && !quoted:
				if !yield(s[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(s[start:])
	}
}
