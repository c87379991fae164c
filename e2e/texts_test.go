package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// evil is what terminals and logs obey, around the word EVIL, which is to be seen.
const (
	evil     = "EVIL\x1b[31m\x07\x00\x7f\u0080\u009b2J\u202e\u2066\u200f\u061c\u2028\u2029\u0085\r\nforged\t\xff\xc3"
	evilText = "EVIL\x1b[31m\u009b2J\u202e\u2066\u2028\r\nforged" // valid UTF-8
	evilJSON = `EVIL\u001b\u202e` + "\u009b2J\u202e\u2066\u2028"  // in a string of JSON
	evilIA5  = "EVIL\x1b[31m\r\n.test"                            // ASCII, as in a certificate's names
)

// TestHostileTexts: what a peer, a resolver, a certificate, a proxy or a name server
// says leaves the library without characters that a terminal or a log obeys, whichever
// way it takes.
func TestHostileTexts(t *testing.T) {
	h2test.CheckLeaks(t)
	insecure := grpcdial.WithInsecure()
	ca := h2test.NewCA(t)
	secure := func(name string) grpcdial.DialOption {
		return grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig(name)))
	}
	byHand := func(s resolver.State, opts ...grpcdial.DialOption) func(t *testing.T) *exits {
		return func(t *testing.T) *exits {
			r := manual.NewBuilderWithScheme("hand")
			r.InitialState(s)
			return useChannel(t, "hand:///x", append(opts, insecure, grpcdial.WithResolvers(r))...)
		}
	}
	dialer := func(err error) grpcdial.DialOption {
		return grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, err })
	}
	proxied := func(answer string) func(t *testing.T) *exits {
		return func(t *testing.T) *exits {
			return useChannel(t, "backend.test:443", insecure, viaURL("http", answering(t, answer), nil))
		}
	}
	for name, use := range map[string]func(t *testing.T) *exits{
		"certificate: names": func(t *testing.T) *exits {
			return useChannel(t, serveTLS(t, ca.Server(evilIA5, "other"+evilIA5)), secure("a.test"))
		},
		"certificate: subject": func(t *testing.T) *exits {
			other := h2test.NewCA(t)
			return useChannel(t, serveTLS(t, other.Server(evilIA5)), secure("a.test"))
		},
		"certificate: accepted": func(t *testing.T) *exits {
			return useChannel(t, serveTLS(t, ca.Server("a.test", evilIA5)), secure("a.test"))
		},
		"health service": func(t *testing.T) *exits {
			addr := serveHealth(t, status.Error(codes.Unavailable, evilText))
			return useChannel(t, addr, insecure, grpcdial.WithDefaultServiceConfig(
				`{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "s"}}`))
		},
		"proxy: refusal":       proxied("HTTP/1.1 502 Bad " + noBreaks(evil) + "\r\nProxy-Authenticate: EVIL\r\nContent-Length: 60\r\n\r\n" + evil + strings.Repeat(evil, 3)),
		"proxy: other bytes":   proxied(evil),
		"proxy: in the tunnel": proxied("HTTP/1.1 200 OK\r\n\r\n" + evil),
		"GOAWAY": func(t *testing.T) *exits {
			return useChannel(t, answering(t, settingsFrame+goAwayFrame(http2.ErrCodeEnhanceYourCalm, evil)), insecure)
		},
		"GOAWAY in place of SETTINGS": func(t *testing.T) *exits {
			return useChannel(t, answering(t, goAwayFrame(http2.ErrCodeNo, evil)), insecure)
		},
		"DNS: TXT": func(t *testing.T) *exits {
			s := dnstest.Listen(t, dnstest.Zone{
				"one.test":              {Addrs: []string{"127.0.0.1"}},
				"_grpc_config.one.test": {TXT: []string{`grpc_config=[{"serviceConfig":{"methodConfig":"` + evilJSON + `"}}]`}},
			})
			return useChannel(t, "dns://"+s.Addr()+"/one.test:1", insecure)
		},
		"DNS: TXT: unknown field": func(t *testing.T) *exits {
			s := dnstest.Listen(t, dnstest.Zone{
				"one.test":              {Addrs: []string{"127.0.0.1"}},
				"_grpc_config.one.test": {TXT: []string{`grpc_config=[{"` + evilJSON + `":1}]`}},
			})
			return useChannel(t, "dns://"+s.Addr()+"/one.test:1", insecure)
		},
		"DNS: no such name": func(t *testing.T) *exits {
			s := dnstest.Listen(t, dnstest.Zone{})
			return useChannel(t, "dns://"+s.Addr()+"/EVIL%1b%5B31m%e2%80%ae:1", insecure)
		},
		"first bytes":        func(t *testing.T) *exits { return useChannel(t, answering(t, "SSH-2.0-"+evil), insecure) },
		"first bytes: HTTP":  func(t *testing.T) *exits { return useChannel(t, answering(t, "HTTP/1.1 400 "+evil), insecure) },
		"first bytes in TLS": func(t *testing.T) *exits { return useChannel(t, answering(t, evil+evil), secure("a.test")) },
		"HTTP response": func(t *testing.T) *exits {
			return useChannel(t, h2Server(t, func(s *h2test.Stream) {
				s.Conn().Headers(s.ID, false, ":status", "502", "content-type", "text/EVIL\u202e")
				s.Conn().Data(s.ID, true, []byte(evil))
			}), insecure)
		},
		"grpc-message without grpc-status": func(t *testing.T) *exits {
			return useChannel(t, h2Server(t, func(s *h2test.Stream) {
				s.Conn().Headers(s.ID, true, ":status", "200", "content-type", "application/grpc", "grpc-message", "EVIL%1B%E2%80%AE%0A")
			}), insecure)
		},
		"resolver's error": func(t *testing.T) *exits {
			r := manual.NewBuilderWithScheme("hand")
			r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
				cc.ReportError(errors.New(evil))
			}
			return useChannel(t, "hand:///x", insecure, grpcdial.WithResolvers(r))
		},
		"resolver's addresses": byHand(resolver.State{Addresses: []resolver.Address{{Addr: evil, ServerName: evil}}}),
		"resolver's addresses with a dialer": byHand(resolver.State{Addresses: []resolver.Address{{Addr: evil, ServerName: evil}}},
			dialer(errors.New("no"))),
		"service config error": byHand(resolver.State{Addresses: []resolver.Address{{Addr: "127.0.0.1:1"}},
			ServiceConfig: &serviceconfig.ParseResult{Err: errors.New(evil)}}),
		"builder's error": func(t *testing.T) *exits {
			return useChannel(t, "failing:///x", insecure, grpcdial.WithResolvers(failingBuilder{errors.New(evil)}))
		},
		"dialer's error": func(t *testing.T) *exits { return useChannel(t, "x", insecure, dialer(errors.New(evil))) },
		"joined errors": func(t *testing.T) *exits {
			return useChannel(t, "x", insecure, dialer(errors.Join(io.EOF, errors.New(evil))))
		},
		"choice of proxy": func(t *testing.T) *exits {
			return useChannel(t, "x:1", insecure, grpcdial.WithProxy(func(string) (*url.URL, error) { return nil, errors.New(evil) }))
		},
		"target":              func(t *testing.T) *exits { return useChannel(t, evil, insecure) },
		"target for a dialer": func(t *testing.T) *exits { return useChannel(t, evil, insecure, dialer(errors.New("no"))) },
		"target of no scheme": func(t *testing.T) *exits { return useChannel(t, "EVIL\u202e\u009b:1", insecure) },
		"authority": func(t *testing.T) *exits {
			return useChannel(t, "127.0.0.1:1", insecure, grpcdial.WithAuthority("EVIL\u202e\u009b"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := use(t)
			if name != "certificate: accepted" && name != "proxy: refusal" {
				assert.True(t, x.anywhere("EVIL"), "it is not said at all")
			}
			x.each(func(way, text string) {
				assert.True(t, utf8.ValidString(text), "%s: %q", way, text)
				assert.False(t, strings.ContainsFunc(text, obeyed), "%s: %q", way, text)
				assert.Less(t, len(text), 3000, "%s: %q", way, text)
			})
		})
	}
}

// obeyed reports whether r is a character that must not leave.
func obeyed(r rune) bool {
	const controls = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2028\u2029\u2066\u2067\u2068\u2069"
	return r < ' ' || r >= 0x7f && r <= 0x9f || strings.ContainsRune(controls, r)
}

// TestServersOwnStatusStays: the status that a server ends an RPC with is the
// program's to read, as the server sent it.
func TestServersOwnStatusStays(t *testing.T) {
	h2test.CheckLeaks(t)
	addr := serveHealth(t, status.Error(codes.NotFound, evilText))
	cc, err := grpcdial.NewClient(addr, grpcdial.WithInsecure())
	require.NoError(t, err)
	defer cc.Close()
	_, err = healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
	assert.Equal(t, evilText, status.Convert(err).Message())
}

// TestErrorsKeepWhatTheyAre: a text that was filtered is that of an error that is
// found nevertheless.
func TestErrorsKeepWhatTheyAre(t *testing.T) {
	h2test.CheckLeaks(t)
	own := &net.OpError{Op: "tunnel", Err: errors.New(evil)}
	_, err := grpcdial.DialContext(t.Context(), "x", grpcdial.WithInsecure(), grpcdial.WithBlock(),
		grpcdial.WithGiveUp(func(grpcdial.Attempt) bool { return true }),
		grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, own }))
	assert.ErrorIs(t, err, own)
	var found *net.OpError
	require.ErrorAs(t, err, &found)
	assert.Same(t, own, found)
}

func noBreaks(s string) string { return strings.NewReplacer("\r", "", "\n", "").Replace(s) }

// answering is the address of a server that reads a little, says this and closes.
func answering(t *testing.T, answer string) string {
	return proxytest.Serve(t, func(nc net.Conn) {
		_, _ = nc.Read(make([]byte, 4096))
		_, _ = io.WriteString(nc, answer)
	})
}

// settingsFrame is a server's first frame, without settings (RFC 9113 §6.5).
const settingsFrame = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// goAwayFrame is a GOAWAY frame with debug data (RFC 9113 §6.8).
func goAwayFrame(code http2.ErrCode, debug string) string {
	n := 8 + len(debug)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(code)}) + debug
}

// h2Server is the address of a server that handles each stream so.
func h2Server(t *testing.T, handle func(*h2test.Stream)) string {
	s := h2test.Listen(t)
	s.Serve(handle)
	return s.Addr()
}

// serveTLS is the address of a gRPC server with a certificate.
func serveTLS(t *testing.T, cert tls.Certificate) string {
	addr, _ := backendtest.Run(t, grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert))))
	return addr
}

// serveHealth is the address of a server whose health service fails with err.
func serveHealth(t *testing.T, err error) string {
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, failingHealth{err: err})
	addr, _ := backendtest.Run(t, s)
	return addr
}

type failingHealth struct {
	healthpb.UnimplementedHealthServer
	err error
}

func (h failingHealth) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return nil, h.err
}

func (h failingHealth) Watch(*healthpb.HealthCheckRequest, healthpb.Health_WatchServer) error {
	return h.err
}

type failingBuilder struct{ err error }

func (failingBuilder) Scheme() string { return "failing" }

func (b failingBuilder) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, b.err
}

// viaURL is the choice of one proxy.
func viaURL(scheme, host string, user *url.Userinfo) grpcdial.DialOption {
	return grpcdial.WithProxy(func(string) (*url.URL, error) { return &url.URL{Scheme: scheme, Host: host, User: user}, nil })
}

func tlsServer(nc net.Conn, cert tls.Certificate) *tls.Conn {
	return tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
}
