package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// names looks names up in a table.
type names map[string][]string

func (n names) lookUp(_ context.Context, host string) ([]netip.Addr, error) {
	var ips []netip.Addr
	for _, s := range n[host] {
		ips = append(ips, netip.MustParseAddr(s))
	}
	return ips, nil
}

func TestSOCKS(t *testing.T) {
	h2test.CheckLeaks(t)
	o := Options{LookUp: names{"a.example": {"192.0.2.1"}, "v6.example": {"2001:db8::1"}, "mapped.example": {"::ffff:192.0.2.1"}}.lookUp}
	addr := serve(t, greet)
	p := proxytest.ListenSOCKS(t, map[string]string{
		"a.example:443": addr, "192.0.2.1:443": addr, "[2001:db8::1]:443": addr, "[fe80::1]:443": addr, "xn--bcher-kva.example:443": addr,
	}, "")
	tests := []struct {
		scheme, target string
		want           string // what the proxy is asked for
	}{
		{"socks5", "a.example:443", "192.0.2.1:443"},
		{"socks5", "v6.example:443", "[2001:db8::1]:443"},
		{"socks5", "mapped.example:443", "192.0.2.1:443"},
		{"socks5", "[2001:db8::1]:443", "[2001:db8::1]:443"},
		{"socks5", "[fe80::1%lo]:443", "[fe80::1]:443"},
		{"socks5h", "a.example:443", "a.example:443"},
		{"socks5h", "a.example:https", "a.example:443"},
		{"socks5h", "bücher.example:443", "xn--bcher-kva.example:443"},
		{"socks5h", "192.0.2.1:443", "192.0.2.1:443"},
		{"SOCKS5H", "[2001:db8::1]:443", "[2001:db8::1]:443"},
	}
	for _, tt := range tests {
		t.Run(tt.scheme+" "+tt.target, func(t *testing.T) {
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: tt.scheme, Host: p.Addr}, tt.target, o)
			require.NoError(t, err)
			defer nc.Close()
			assert.IsType(t, (*net.TCPConn)(nil), nc, "writes without blocking are made on this very type only")
			exchange(t, nc)
			seen := p.Requests()
			last := seen[len(seen)-1]
			assert.Equal(t, tt.want, last.Target())
			assert.Equal(t, []byte{0}, last.Methods)
		})
	}
}

// The target's first bytes may come in the same segment as the proxy's reply.
func TestSOCKSTargetSpeaksFirst(t *testing.T) {
	h2test.CheckLeaks(t)
	const first = "\x05\x00\x00\x00\x12\x04"
	for name, reply := range map[string]string{
		"IPv4": "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x09",
		"IPv6": "\x05\x00\x00\x04" + strings.Repeat("\x01", 16) + "\x00\x09",
		"name": "\x05\x00\x00\x03\x02ab\x00\x09",
	} {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, func(nc net.Conn) {
				_, _ = io.ReadFull(nc, make([]byte, 3))
				_, _ = nc.Write([]byte{5, 0})
				_, _ = nc.Read(make([]byte, 100))
				_, _ = io.WriteString(nc, reply+first)
				_, _ = io.Copy(io.Discard, nc)
			})
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "socks5h", Host: addr}, "a.example:1", Options{})
			require.NoError(t, err)
			defer nc.Close()
			b := make([]byte, len(first))
			_, err = io.ReadFull(nc, b)
			require.NoError(t, err)
			assert.Equal(t, first, string(b))
		})
	}
}

func TestSOCKSAuthentication(t *testing.T) {
	h2test.CheckLeaks(t)
	addr := serve(t, greet)
	demanding := proxytest.ListenSOCKS(t, map[string]string{"a.example:443": addr}, "user:secret")
	open := proxytest.ListenSOCKS(t, map[string]string{"a.example:443": addr}, "")
	right := url.UserPassword("user", "secret")

	for _, p := range []*proxytest.SOCKS{demanding, open} {
		nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "socks5h", User: right, Host: p.Addr}, "a.example:443", Options{})
		require.NoError(t, err)
		exchange(t, nc)
		require.NoError(t, nc.Close())
		assert.Equal(t, []byte{0, 2}, p.Requests()[0].Methods)
	}

	for name, tt := range map[string]struct {
		user  *url.Userinfo
		cause error
		hint  string
	}{
		"none":  {nil, errAuthMethods, "wants a user name and a password"},
		"wrong": {url.UserPassword("user", "sekrit"), errAuthRefused, "check the user name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Connect(t.Context(), dialer, &url.URL{Scheme: "socks5h", User: tt.user, Host: demanding.Addr}, "a.example:443", Options{})
			e := failure(t, err)
			assert.Equal(t, StepHandshake, e.Step)
			assert.ErrorIs(t, e, tt.cause)
			assert.Contains(t, e.Hint(), tt.hint)
			assert.True(t, e.Permanent())
			assert.NotContains(t, e.Error(), "sekrit")
		})
	}
	for name, user := range map[string]*url.Userinfo{
		"no name":       url.UserPassword("", "secret"),
		"long name":     url.User(strings.Repeat("u", 256)),
		"long password": url.UserPassword("u", strings.Repeat("secret", 50)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Connect(t.Context(), noDial(t), &url.URL{Scheme: "socks5", User: user, Host: "p"}, "a.example:443", Options{})
			e := failure(t, err)
			assert.Equal(t, StepURL, e.Step)
			assert.NotContains(t, e.Error(), "secret")
		})
	}
	t.Run("refuses what is offered", func(t *testing.T) {
		addr := serve(t, answering("\x05\xff"))
		_, err := Connect(t.Context(), dialer, &url.URL{Scheme: "socks5", User: right, Host: addr}, "192.0.2.1:1", Options{})
		e := failure(t, err)
		assert.ErrorIs(t, e, errAuthMethods)
		assert.Contains(t, e.Hint(), "all that is spoken here")
	})
}

func noDial(t *testing.T) DialFunc {
	return func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed")
		return nil, errors.New("not here")
	}
}

func TestSOCKSReplies(t *testing.T) {
	h2test.CheckLeaks(t)
	p := proxytest.ListenSOCKS(t, map[string]string{
		"r:1": "1", "r:2": "2", "r:3": "3", "r:4": "4", "r:5": "5", "r:6": "6", "r:7": "7", "r:8": "8", "r:9": "9", "r:200": "200",
	}, "")
	tests := []struct {
		code      int
		status    string
		hint      string
		permanent bool
	}{
		{1, "general SOCKS server failure", "", false},
		{2, "connection not allowed by ruleset", "NO_PROXY", true},
		{3, "network unreachable", "did not reach the target", false},
		{4, "host unreachable", "did not reach the target", false},
		{5, "connection refused", "nothing listens there", false},
		{6, "TTL expired", "did not reach the target", false},
		{7, "command not supported", "", true},
		{8, "address type not supported", "socks5h", true},
		{9, "reply 9", "", false},
		{200, "reply 200", "", false},
	}
	for _, tt := range tests {
		for _, user := range []*url.Userinfo{nil, url.User("user")} { // credentials that the proxy does not ask for
			t.Run(tt.status, func(t *testing.T) {
				_, err := Connect(t.Context(), dialer, &url.URL{Scheme: "socks5h", User: user, Host: p.Addr}, net.JoinHostPort("r", strconv.Itoa(tt.code)), Options{})
				e := failure(t, err)
				assert.Equal(t, StepHandshake, e.Step)
				assert.Equal(t, tt.code, e.StatusCode)
				assert.Equal(t, tt.status, e.Status)
				assert.Contains(t, e.Error(), `it answered "`+tt.status+`"`)
				assert.Contains(t, e.Hint(), tt.hint)
				assert.Equal(t, tt.permanent, e.Permanent())
			})
		}
	}
}

func TestSOCKSNoAnswer(t *testing.T) {
	h2test.CheckLeaks(t)
	unexpected := isAny[*unexpectedError]
	tests := []struct {
		name      string
		peer      func(net.Conn)
		cause     func(error) bool
		hint      string
		permanent bool
	}{
		{"ends", answeringAndEnding(""), func(err error) bool { return errors.Is(err, io.EOF) }, "without an answer", false},
		{"ends after the method", answeringAndEnding("\x05\x00"), func(err error) bool { return errors.Is(err, io.EOF) }, "without an answer", false},
		{"ends in the reply", answeringAndEnding("\x05\x00\x05\x00\x00\x01"), func(err error) bool { return errors.Is(err, io.EOF) }, "without an answer", false},
		{"HTTP", answering("HTTP/1.1 400 Bad Request\r\n\r\n"), unexpected, "http://", true},
		{"TLS", answering("\x15\x03\x01\x00\x02\x02\x46"), unexpected, "TLS", true},
		{"SSH", answering("SSH-2.0-x\r\n"), unexpected, "port", true},
		{"method not offered", answering("\x05\x01\x05\x01"), func(err error) bool { return err != nil }, "", false},
		{"other version later", answering("\x05\x00\x04\x01\x00\x01\x00\x00\x00\x00\x00\x00"), func(err error) bool { return err != nil }, "", false},
		{"address type", answering("\x05\x00\x05\x00\x00\x09\x00\x00\x00\x00\x00\x00"), func(err error) bool { return err != nil }, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := serve(t, tt.peer)
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "socks5", User: url.UserPassword("u", "secret"), Host: addr}, "192.0.2.1:1", Options{})
			assert.Nil(t, nc)
			e := failure(t, err)
			assert.Equal(t, StepHandshake, e.Step)
			assert.Zero(t, e.StatusCode)
			assert.True(t, tt.cause(e.Err), "%v", e.Err)
			assert.Contains(t, e.Hint(), tt.hint)
			assert.Equal(t, tt.permanent, e.Permanent())
			assert.NotContains(t, e.Error(), "secret")
		})
	}
}

func TestSOCKSLookUp(t *testing.T) {
	h2test.CheckLeaks(t)
	addr := serve(t, greet)
	n := names{"two.example": {"192.0.2.1", "192.0.2.2"}, "none.example": nil, "down.example": {"192.0.2.3", "192.0.2.4"}}
	p := proxytest.ListenSOCKS(t, map[string]string{"192.0.2.1:443": "5", "192.0.2.2:443": addr, "192.0.2.3:443": "5", "192.0.2.4:443": "3"}, "")
	u := &url.URL{Scheme: "socks5", Host: p.Addr}

	t.Run("next address", func(t *testing.T) {
		nc, err := Connect(t.Context(), dialer, u, "two.example:443", Options{LookUp: n.lookUp})
		require.NoError(t, err)
		defer nc.Close()
		exchange(t, nc)
	})
	t.Run("all fail", func(t *testing.T) {
		_, err := Connect(t.Context(), dialer, u, "down.example:443", Options{LookUp: n.lookUp})
		e := failure(t, err)
		assert.Equal(t, "connection refused", e.Status)
		assert.Equal(t, "down.example:443", e.Target)
	})
	t.Run("no address", func(t *testing.T) {
		_, err := Connect(t.Context(), noDial(t), u, "none.example:443", Options{LookUp: n.lookUp})
		e := failure(t, err)
		assert.Equal(t, StepResolve, e.Step)
		var dns *net.DNSError
		require.ErrorAs(t, err, &dns)
		assert.Equal(t, "none.example", dns.Name)
		assert.Contains(t, e.Hint(), "socks5h")
	})
	t.Run("proxy is down", func(t *testing.T) {
		dials := 0
		_, err := Connect(t.Context(), func(context.Context, string, string) (net.Conn, error) {
			dials++
			return nil, io.ErrClosedPipe
		}, u, "two.example:443", Options{LookUp: n.lookUp})
		e := failure(t, err)
		assert.Equal(t, StepDial, e.Step)
		assert.Equal(t, 1, dials)
	})
	t.Run("system's resolver", func(t *testing.T) {
		p := proxytest.ListenSOCKS(t, map[string]string{"127.0.0.1:443": addr, "[::1]:443": addr}, "")
		nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "socks5", Host: p.Addr}, "localhost:443", Options{})
		require.NoError(t, err)
		defer nc.Close()
		exchange(t, nc)
	})
}
