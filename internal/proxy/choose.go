package proxy

import (
	"errors"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/grpcdial/grpcdial/internal/text"
)

// Func chooses the proxy of a target, which is "host:port". nil is none: the
// target is dialed directly. The URL must not be changed afterwards, by neither
// side. It may be called concurrently.
type Func func(target string) (*url.URL, error)

// errUnusable does not quote the value: what cannot be parsed may hold a
// password anywhere.
var errUnusable = errors.New(`the environment's HTTPS_PROXY is no URL: it is "http://host:port", with "user:password@" before the host if the proxy wants it, their special characters percent-encoded`)

// FromEnvironment is the choice that HTTPS_PROXY and NO_PROXY make, or
// https_proxy and no_proxy, which win if both are set. It reads them once, now;
// the Func does not look at the environment.
//
// The rules are those of package httpproxy, and so net/http's: HTTPS_PROXY is a
// URL, or a host with or without port of an http proxy; localhost and loopback
// addresses take no proxy, nor does what NO_PROXY lists. Without HTTPS_PROXY there
// is no proxy, and the Func is nil. HTTP_PROXY, which a CGI
// script's client can set by a header, means nothing here.
//
// One thing differs: an HTTPS_PROXY that is no URL is an error of each target
// that NO_PROXY does not except. httpproxy would make "http://user:a#b@host" a
// proxy on the host "http", and lets connections go past what it cannot read.
func FromEnvironment() Func {
	if os.Getenv("HTTPS_PROXY") == "" && os.Getenv("https_proxy") == "" {
		return nil // without a look at the other variables
	}
	cfg := httpproxy.FromEnvironment()
	bad := !isURL(cfg.HTTPSProxy)
	if bad {
		cfg.HTTPSProxy = "http://unusable.invalid" // for the sake of NO_PROXY's verdict
	}
	choose := cfg.ProxyFunc()
	return func(target string) (*url.URL, error) {
		u, err := choose(&url.URL{Scheme: "https", Host: asHost(target)})
		if u != nil && bad {
			return nil, errUnusable
		}
		return u, err
	}
}

// isURL says whether a variable that is set is a URL with a host, or could be
// one with the scheme http before it.
func isURL(value string) bool {
	if value == "" {
		return true
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	return err == nil && u.Host != ""
}

// asHost makes the host of a URL of a target. Names are lower case there, as
// the rules compare them (RFC 4343 §2), IPv6 addresses bracketed, and an absent
// one is localhost.
func asHost(target string) string {
	if ip, err := netip.ParseAddr(target); err == nil && ip.Is6() {
		return "[" + target + "]"
	}
	if strings.HasPrefix(target, ":") {
		return "localhost" + target
	}
	return strings.ToLower(target)
}

// Choose is f's choice for a target, and finds out whether it is of use: an
// *Error says that f failed, or that its URL is none of a proxy. f nil knows no
// proxy.
func (f Func) Choose(target string) (*url.URL, error) {
	if f == nil {
		return nil, nil
	}
	u, err := f(target)
	if e := (*Error)(nil); errors.As(err, &e) {
		return nil, e // f is one of ForTarget
	}
	if err != nil {
		return nil, &Error{Target: target, Step: StepChoose, Err: text.Error(err)}
	}
	if u == nil {
		return nil, nil
	}
	if _, err := parse(u); err != nil {
		return nil, &Error{Proxy: Redact(u), Target: target, Step: StepURL, Err: err}
	}
	return u, nil
}

// ForTarget is the choice for the addresses of one channel, whose target has the
// endpoint "host:port". If f knows no proxy for the endpoint, nil is returned:
// none of the addresses takes one, whatever f would say to them. A NO_PROXY that
// lists a server by its name so holds for the addresses that the name has.
//
// Otherwise the Func returned gives each address the endpoint's proxy, but for
// those for which f knows none: a NO_PROXY that lists a network holds too.
//
// Errors are those of Choose.
func (f Func) ForTarget(endpoint string) (Func, error) {
	chosen, err := f.Choose(endpoint)
	if chosen == nil || err != nil {
		return nil, err
	}
	return func(address string) (*url.URL, error) {
		if address == endpoint {
			return chosen, nil
		}
		if u, err := f.Choose(address); u == nil || err != nil {
			return nil, err
		}
		return chosen, nil
	}, nil
}
