package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// steps keeps the steps that a trace receives.
type steps struct {
	mu  sync.Mutex
	all []Step
}

func (s *steps) add(step Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, step)
}

// lines are the steps, each as one line: "(" for the beginning, ")" for the end, the
// phase and the address, and "!" for one that failed.
func (s *steps) lines() (lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, step := range s.all {
		mark, failed := "(", ""
		if step.Done {
			mark = ")"
		}
		if step.Err != nil {
			failed = " !"
		}
		lines = append(lines, fmt.Sprintf("%s%s %s%s", mark, step.Phase, step.Addr, failed))
	}
	return lines
}

func (s *steps) last(phase failure.Phase) Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.all) - 1; i >= 0; i-- {
		if s.all[i].Phase == phase {
			return s.all[i]
		}
	}
	return Step{}
}

func TestTrace(t *testing.T) {
	h2test.CheckLeaks(t)
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	secure := credentials.NewTLS(ca.ClientConfig(""))
	srv := h2test.Listen(t, h2test.WithTLSConfig(ca.ServerConfig("a.test")))
	srv.Serve(func(*h2test.Stream) {}, h2test.MaxConcurrentStreams(7))
	_, port, err := net.SplitHostPort(srv.Addr())
	require.NoError(t, err)
	refused := h2test.RefusedAddr(t)
	p := proxytest.ListenHTTP(t, map[string]string{"a.test:443": srv.Addr()}, authorization, nil)

	tests := []struct {
		name  string
		addr  string
		alter func(*Config)
		want  []string
		check func(*testing.T, *steps)
	}{
		{"to the end", "a.test:" + port, nil, []string{
			"(resolve a.test:" + port, ")resolve a.test:" + port,
			"(dial " + srv.Addr(), ")dial " + srv.Addr(),
			"(tls " + srv.Addr(), ")tls " + srv.Addr(),
			"(http2 " + srv.Addr(), ")http2 " + srv.Addr(),
		}, func(t *testing.T, s *steps) {
			assert.Equal(t, []string{srv.Addr()}, s.last(failure.Resolve).Addrs)
			secured := s.last(failure.TLS)
			assert.Equal(t, "a.test", secured.ServerName)
			info := secured.AuthInfo.(credentials.TLSInfo)
			assert.Equal(t, "h2", info.State.NegotiatedProtocol)
			assert.Equal(t, []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 7}}, s.last(failure.HTTP2).Settings)
			for _, step := range s.all {
				assert.Equal(t, step.Done, step.Elapsed > 0)
			}
		}},
		{"no TLS, no look-up", srv.Addr(), func(c *Config) { c.Creds, c.Secure = plaintext, false }, []string{
			"(dial " + srv.Addr(), ")dial " + srv.Addr(),
			"(http2 " + srv.Addr(), ")http2 " + srv.Addr() + " !",
		}, nil},
		{"no such name", "absent.test:1", nil, []string{"(resolve absent.test:1", ")resolve absent.test:1 !"}, func(t *testing.T, s *steps) {
			assert.ErrorAs(t, s.last(failure.Resolve).Err, new(*net.DNSError))
		}},
		{"refused", refused, nil, []string{"(dial " + refused, ")dial " + refused + " !"}, nil},
		{"a certificate that is not trusted", srv.Addr(), func(c *Config) { c.Creds = credentials.NewTLS(other.ClientConfig("")) }, []string{
			"(dial " + srv.Addr(), ")dial " + srv.Addr(),
			"(tls " + srv.Addr(), ")tls " + srv.Addr() + " !",
		}, func(t *testing.T, s *steps) {
			assert.ErrorAs(t, s.last(failure.TLS).Err, new(*tls.CertificateVerificationError))
		}},
		{"through a proxy", "a.test:443", func(c *Config) { c.Proxy = through("http", p.Addr) }, []string{
			"(dial " + p.Addr, ")dial " + p.Addr,
			"(proxy a.test:443", ")proxy a.test:443",
			"(tls a.test:443", ")tls a.test:443",
			"(http2 a.test:443", ")http2 a.test:443",
		}, func(t *testing.T, s *steps) {
			for _, phase := range []failure.Phase{failure.Proxy, failure.TLS, failure.HTTP2} {
				assert.Equal(t, "http://"+p.Addr, s.last(phase).Proxy)
			}
		}},
		{"a proxy that is not there", "a.test:443", func(c *Config) { c.Proxy = through("http", refused) },
			[]string{"(dial " + refused, ")dial " + refused + " !"}, nil},
		{"a proxy that refuses", "b.test:443", func(c *Config) { c.Proxy = through("http", p.Addr) }, []string{
			"(dial " + p.Addr, ")dial " + p.Addr,
			"(proxy b.test:443", ")proxy b.test:443 !",
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := new(steps)
			cfg := &Config{Creds: secure, Secure: true, Trace: s.add, Resolver: zone{"a.test": {"127.0.0.1"}}.resolver(t)}
			if tt.alter != nil {
				tt.alter(cfg)
			}
			c, err := Connect(t.Context(), cfg, resolver.Address{Addr: tt.addr}, "a.test")
			if err == nil {
				finish(t, c)
			}
			assert.Equal(t, tt.want, s.lines())
			assert.Equal(t, strings.HasSuffix(tt.want[len(tt.want)-1], "!"), err != nil)
			if tt.check != nil {
				tt.check(t, s)
			}
		})
	}
}

// While addresses race, each has its own steps, and what is called off ends too.
func TestTraceOfARace(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t)
	srv.Serve(nil)
	_, port, err := net.SplitHostPort(srv.Addr())
	require.NoError(t, err)
	s := new(steps)
	cfg := &Config{Creds: plaintext, Trace: s.add, Resolver: zone{"two.test": {"127.0.0.2", "127.0.0.1"}}.resolver(t)}
	c, err := Connect(t.Context(), cfg, resolver.Address{Addr: "two.test:" + port}, "two.test")
	require.NoError(t, err)
	finish(t, c)
	lines := s.lines()
	var begun, ended int
	for _, l := range lines {
		if strings.HasPrefix(l, "(") {
			begun++
		} else {
			ended++
		}
	}
	assert.Equal(t, begun, ended, "%q", lines)
	assert.Contains(t, lines, ")http2 "+srv.Addr())
}

// A step that the context ends says so.
func TestTraceOfATimeOut(t *testing.T) {
	h2test.CheckLeaks(t)
	var s *steps
	addr := serve(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	longEnough(t, 20*time.Millisecond, func(ctx context.Context) bool {
		s = new(steps)
		_, err := Connect(ctx, &Config{Creds: plaintext, Trace: s.add}, resolver.Address{Addr: addr}, "a.test")
		return attempt(t, err).Phase == failure.HTTP2
	})
	assert.True(t, errors.Is(s.last(failure.HTTP2).Err, context.DeadlineExceeded))
}

// Without a trace, steps cost nothing.
func TestNoTraceCostsNothing(t *testing.T) {
	cfg := &Config{}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		step := Step{Phase: failure.Dial, Addr: "a:1"}
		cfg.begin(&step)
		cfg.end(&step, io.EOF)
	}))
}
