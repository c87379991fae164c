package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/grpcdial/grpcdial/internal/text"
)

// The schemes of proxies' URLs.
const (
	schemeHTTP    = "http"    // CONNECT
	schemeHTTPS   = "https"   // TLS to the proxy, then CONNECT
	schemeSOCKS5  = "socks5"  // the target's name is looked up on this side
	schemeSOCKS5H = "socks5h" // the target's name is looked up by the proxy
)

var defaultPorts = map[string]string{
	schemeHTTP:    "80",
	schemeHTTPS:   "443",
	schemeSOCKS5:  "1080",
	schemeSOCKS5H: "1080",
}

// server is what a proxy's URL says.
type server struct {
	scheme string
	host   string // without port and brackets
	addr   string // to dial
	user   *url.Userinfo
}

// parse reads a proxy's URL. Its errors do not quote what may be a password.
func parse(u *url.URL) (server, error) {
	if u == nil {
		return server{}, errors.New("the URL is nil")
	}
	s := server{scheme: strings.ToLower(u.Scheme), host: u.Hostname(), user: u.User}
	port, ok := defaultPorts[s.scheme]
	switch {
	case s.scheme == "":
		return server{}, errors.New(`the URL has no scheme: it is one of "http", "https", "socks5" and "socks5h"`)
	case !ok:
		return server{}, fmt.Errorf(`scheme %q is not supported: it is one of "http", "https", "socks5" and "socks5h"`, s.scheme)
	case s.host == "":
		return server{}, errors.New("the URL names no host")
	case strings.Contains(u.Host, "@"), isMisread(u):
		return server{}, errors.New(`the URL has a "@" where none belongs: percent-encode the user name and the password, and give them as such`)
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return server{}, fmt.Errorf("port %q is not between 1 and 65535", p)
		}
		port = p
	}
	s.addr = net.JoinHostPort(s.host, port)
	if _, _, err := net.SplitHostPort(s.addr); err != nil { // a bracket in a zone, which net/url lets pass
		return server{}, fmt.Errorf("host %q is malformed", s.host)
	}
	return s, nil
}

// secrets are what is sent to the proxy and must not be shown; nil: nothing.
func (s server) secrets() *text.Secrets { return secretsOf(s.user) }

func secretsOf(user *url.Userinfo) *text.Secrets {
	if user == nil {
		return nil
	}
	password, _ := user.Password()
	return text.NewSecrets(user.Username(), password)
}

// Secrets are the user name and the password in a proxy's URL, which the proxy may echo,
// also in place of the target; nil: there are none.
func Secrets(u *url.URL) *text.Secrets {
	if u == nil {
		return nil
	}
	return secretsOf(u.User)
}

func (s server) isSOCKS() bool { return s.scheme == schemeSOCKS5 || s.scheme == schemeSOCKS5H }

// Address is the "host:port" of the proxy. The port is 80 for http, 443 for
// https and 1080 for socks5 and socks5h unless the URL has one. A URL that is
// of no use is an *Error without a target.
func Address(u *url.URL) (string, error) {
	s, err := parse(u)
	if err != nil {
		return "", &Error{Proxy: Redact(u), Step: StepURL, Err: err}
	}
	return s.addr, nil
}

// TakesNames reports whether the proxy is given the target's host name and looks
// it up itself, which all do but those of the scheme socks5.
func TakesNames(u *url.URL) bool {
	return u != nil && !strings.EqualFold(u.Scheme, schemeSOCKS5)
}

// Redact is the scheme, the host and the port of a proxy's URL, for eyes: user
// name, password and all else are left out. It is empty for nil.
func Redact(u *url.URL) string {
	if u == nil {
		return ""
	}
	bare := url.URL{Scheme: u.Scheme}
	if !isMisread(u) {
		bare.Host = u.Host[strings.LastIndexByte(u.Host, '@')+1:] // a "@" only if it was not parsed but put together
	}
	return bare.String()
}

// isMisread reports whether what stands for the host of u is in truth the
// beginning of a user name and password: "http://user:1/2@host" has the host
// user and the port 1.
func isMisread(u *url.URL) bool {
	return strings.Contains(u.Path, "@") || strings.Contains(u.RawQuery, "@") || strings.Contains(u.Fragment, "@")
}
