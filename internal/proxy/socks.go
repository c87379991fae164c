package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/net/proxy"
)

// Of SOCKS 5 (RFC 1928 §3, §6 and RFC 1929 §2).
const (
	socksVersion = 5

	socksUserPassword = 0x02
	socksNoMethod     = 0xff

	socksNotAllowed      = 2
	socksNetUnreachable  = 3
	socksHostUnreachable = 4
	socksRefused         = 5
	socksTTLExpired      = 6
	socksNoCommand       = 7
	socksNoAddressType   = 8
)

var socksReplies = map[int]string{
	1:                    "general SOCKS server failure",
	socksNotAllowed:      "connection not allowed by ruleset",
	socksNetUnreachable:  "network unreachable",
	socksHostUnreachable: "host unreachable",
	socksRefused:         "connection refused",
	socksTTLExpired:      "TTL expired",
	socksNoCommand:       "command not supported",
	socksNoAddressType:   "address type not supported",
}

var (
	errAuthMethods = errors.New("it takes none of the authentication methods offered")
	errAuthRefused = errors.New("it refused the user name or the password")
	errUserLength  = errors.New("SOCKS 5 takes a user name of 1 to 255 bytes and a password of at most 255")
)

// checkUser says whether SOCKS 5 can carry the user name and the password.
func (s server) checkUser() error {
	if !s.isSOCKS() || s.user == nil {
		return nil
	}
	password, _ := s.user.Password()
	if n := len(s.user.Username()); n == 0 || n > 255 || len(password) > 255 {
		return errUserLength
	}
	return nil
}

// socks has a SOCKS 5 proxy connect to the destination. A refusal goes into
// a.failed. It reads exactly the proxy's answers.
func (a attempt) socks(nc net.Conn, to destination) error {
	var auth *proxy.Auth
	if u := a.proxy.user; u != nil {
		a.failed.Authenticated = true
		auth = &proxy.Auth{User: u.Username()}
		auth.Password, _ = u.Password()
	}
	heard := &transcript{Conn: nc}
	dialer, err := proxy.SOCKS5("tcp", a.proxy.addr, auth, dialed{heard})
	if err != nil {
		return err
	}
	// With this very context the dialer starts no goroutine and leaves the
	// deadlines alone: the caller closes nc when the time comes. The connection it
	// returns adds nothing to nc.
	_, err = dialer.(proxy.ContextDialer).DialContext(context.Background(), "tcp", to.String())
	if err == nil {
		return nil
	}
	return a.explain(heard.first, err)
}

// explain finds in what the proxy said why err came: the dialer flattens it.
func (a attempt) explain(heard []byte, err error) error {
	answer := heard
	if len(answer) > 0 && answer[0] != socksVersion {
		return &unexpectedError{"answer of SOCKS 5", answer}
	}
	if len(answer) < 2 {
		return cause(err)
	}
	switch method := answer[1]; {
	case method == socksNoMethod:
		return errAuthMethods
	case method == socksUserPassword && a.proxy.user != nil:
		if len(answer) < 4 {
			return cause(err)
		}
		if answer[3] != 0 {
			return errAuthRefused
		}
		answer = answer[4:]
	default:
		answer = answer[2:]
	}
	if len(answer) < 2 || answer[0] != socksVersion || answer[1] == 0 {
		return cause(err)
	}
	reply := int(answer[1])
	a.failed.StatusCode = reply
	a.failed.Status = socksReplies[reply]
	if a.failed.Status == "" {
		a.failed.Status = fmt.Sprintf("reply %d", reply)
	}
	return errRefused
}

// cause takes off the dialer's own *net.OpError, which names both addresses.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

// transcript keeps the first bytes that were read from a connection.
type transcript struct {
	net.Conn
	first []byte
}

// maxTranscript is the method, the verdict on the user and the reply.
const maxTranscript = 8

func (t *transcript) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.first = append(t.first, p[:min(n, maxTranscript-len(t.first))]...)
	return n, err
}

// dialed is a dialer that has dialed already.
type dialed struct{ nc net.Conn }

// Dial implements proxy.Dialer.
func (d dialed) Dial(string, string) (net.Conn, error) { return d.nc, nil }

// DialContext implements proxy.ContextDialer.
func (d dialed) DialContext(context.Context, string, string) (net.Conn, error) { return d.nc, nil }
