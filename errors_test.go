package grpcdial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/subchannel"
)

func refusedAttempt(addr string) Attempt {
	return Attempt{Addr: addr, Phase: PhaseDial, Elapsed: 1200 * time.Microsecond, Hint: "is the server running?",
		Err: &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}
}

func TestDialErrorText(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  DialError
		want string
	}{
		{"one attempt", DialError{Attempts: []Attempt{refusedAttempt("a:1")}, Err: context.DeadlineExceeded},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s (context deadline exceeded): ` +
				`a:1: dial failed after 1.2ms: dial tcp: connect: connection refused; is the server running?`},
		{"it ended the wait", DialError{Attempts: []Attempt{refusedAttempt("a:1")}, Err: errors.New("for good")},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s: ` +
				`a:1: dial failed after 1.2ms: dial tcp: connect: connection refused; is the server running?`},
		{"several", DialError{Attempts: []Attempt{refusedAttempt("a:1"), {Addr: "b:1", Phase: PhaseTLS, Elapsed: time.Second, Err: ErrUnfinished}}, Err: context.Canceled, Omitted: 3},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s (context canceled)` + "\n" +
				"\ta:1: dial failed after 1.2ms: dial tcp: connect: connection refused; is the server running?\n" +
				"\tb:1: tls not finished after 1s\n" +
				"\tand 3 more"},
		{"closed", DialError{Attempts: []Attempt{refusedAttempt("a:1")}, Err: errClosing},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s (grpc: the client connection is closing): ` +
				`a:1: dial failed after 1.2ms: dial tcp: connect: connection refused; is the server running?`},
		{"none", DialError{Err: errors.New("closed")},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s (closed)`},
		{"nobody waited", DialError{Attempts: []Attempt{{Addr: "b:1", Elapsed: time.Second, Err: ErrUnfinished}}},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s: b:1 not finished after 1s`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.err.Target, tt.err.State, tt.err.Elapsed, tt.err.InState = "dns:///x", connectivity.TransientFailure, 2345*time.Millisecond, 1200*time.Millisecond
			assert.Equal(t, tt.want, tt.err.Error())
		})
	}
}

// What errors.Is and errors.As find in a DialError.
func TestDialErrorChain(t *testing.T) {
	own := &net.OpError{Op: "dial", Err: fmt.Errorf("slow: %w", context.DeadlineExceeded)}
	lost := Attempt{Addr: "b:1", Phase: PhaseDial, Err: context.Canceled}
	late := Attempt{Addr: "c:1", Phase: PhaseDial, Err: own}
	odd := Attempt{Addr: "d:1", Phase: PhaseTLS, Err: fmt.Errorf("alts: %w", status.Error(codes.PermissionDenied, "no"))}
	attempts := []Attempt{refusedAttempt("a:1"), lost, late, odd}
	for _, tt := range []struct {
		name               string
		ended              error
		deadline, canceled bool
		code               codes.Code
	}{
		{"the waiter's deadline", context.DeadlineExceeded, true, false, codes.DeadlineExceeded},
		{"the waiter was canceled", context.Canceled, false, true, codes.Canceled},
		{"a failure", own, false, false, codes.Unavailable},
		{"nobody waited", nil, false, false, codes.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var err error = fmt.Errorf("main: %w", &DialError{Attempts: attempts, Err: tt.ended})
			assert.Equal(t, tt.deadline, errors.Is(err, context.DeadlineExceeded))
			assert.Equal(t, tt.canceled, errors.Is(err, context.Canceled))
			assert.ErrorIs(t, err, syscall.ECONNREFUSED)
			assert.ErrorIs(t, err, status.Error(codes.PermissionDenied, "no"))
			var op *net.OpError
			assert.ErrorAs(t, err, &op)
			assert.Equal(t, tt.code, status.Code(err), "and not an attempt's")
		})
	}
}

func TestDialErrorIsCapped(t *testing.T) {
	cc := plain(t, "x:1")
	for i := range 40 {
		cc.attempts.Failed(fmt.Sprint(i), failure.List{{Addr: fmt.Sprint(i), Phase: failure.Dial, Err: errors.New("no")}})
	}
	e := cc.reason().dialError(time.Now(), time.Second, nil)
	require.Len(t, e.Attempts, maxAttempts)
	assert.Equal(t, "39", e.Attempts[maxAttempts-1].Addr)
	assert.True(t, strings.HasSuffix(e.Error(), fmt.Sprintf("\n\tand %d more", 40-maxAttempts)))

	var all failure.List // of one name, which has so many addresses
	for i := range 40 {
		all = append(all, &failure.Attempt{Addr: fmt.Sprint(i), Phase: failure.Dial, Err: errors.New("no")})
	}
	cause := cc.causeOf(&subchannel.Endpoint{State: connectivity.TransientFailure, Why: all})
	require.ErrorAs(t, cause, &e)
	assert.Len(t, e.Attempts, maxAttempts)
	assert.Equal(t, 40-maxAttempts, e.Omitted)
}

// inOutage returns a channel in TRANSIENT_FAILURE: that many backends refuse connections.
// None is dialed again while a test runs.
func inOutage(t *testing.T, backends int, policy string, opts ...DialOption) *ClientConn {
	t.Helper()
	r, target, option := handResolver(t)
	var addrs []resolver.Address
	for i := range backends {
		addrs = append(addrs, resolver.Address{Addr: fmt.Sprintf("backend-%d.example:443", i)})
	}
	r.InitialState(resolver.State{Addresses: addrs})
	p := ConnectParams{MinConnectTimeout: time.Minute}
	p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = time.Hour, time.Hour, 1
	refuse := func(_ context.Context, addr string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("connect: %w", syscall.ECONNREFUSED)}
	}
	cc := plain(t, target, append(opts, option, WithDefaultServiceConfig(backendtest.PolicyConfig(policy)), WithConnectParams(p), WithContextDialer(refuse))...)
	cc.Connect()
	backendtest.Eventually(t, func() bool {
		_, tried := cc.attempts.ByAddress()
		return cc.GetState() == connectivity.TransientFailure && len(tried) == backends
	}, "every backend has refused")
	return cc
}

// An outage must stay cheap: what a call costs that fails fast does not depend on how
// many backends are down, and not on the error's being looked at for its code.
func TestRefusedCallIsCheap(t *testing.T) {
	for _, policy := range []string{"pick_first", "round_robin"} {
		for _, backends := range []int{1, 20, 300} {
			t.Run(fmt.Sprint(policy, " ", backends), func(t *testing.T) {
				cc := inOutage(t, backends, policy)
				request, reply := new(wrapperspb.StringValue), new(wrapperspb.StringValue)
				ctx := context.Background()
				call := func() {
					if err := cc.Invoke(ctx, "/test.Backend/Name", request, reply); status.Code(err) != codes.Unavailable {
						t.Errorf("%v is not Unavailable", err)
					}
				}
				// Goroutines that end the outage's attempts may still run, and count.
				backendtest.Undisturbed(t, func(t *testing.T) (bool, string) {
					const calls = 1000
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					for range calls {
						call()
					}
					runtime.ReadMemStats(&after)
					objects, bytes := (after.Mallocs-before.Mallocs)/calls, (after.TotalAlloc-before.TotalAlloc)/calls
					return objects <= 10 && bytes <= 2000, fmt.Sprintf("%d objects and %d bytes a call", objects, bytes)
				})
			})
		}
	}
}

// The status message of an RPC that finds no connection, and of a DialError, fits into a
// header: a handler may return the error as its own. Everything is in the DialError.
func TestRefusalsMessageIsShort(t *testing.T) {
	long := strings.Repeat("a-long-name.", 40) + "example:443"
	for name, cc := range map[string]*ClientConn{
		"one":         inOutage(t, 1, "pick_first"),
		"twenty":      inOutage(t, 20, "round_robin"),
		"long target": plain(t, "passthrough:///"+long, WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, backendtest.ErrRefused })),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			var e *DialError
			require.ErrorAs(t, err, &e)
			message := status.Convert(err).Message()
			assert.LessOrEqual(t, len(message), 300)
			assert.LessOrEqual(t, len(e.GRPCStatus().Message()), 300)
			assert.LessOrEqual(t, len(err.Error()), 1100)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.ErrorIs(t, err, status.Convert(err).Err())
			assert.ErrorIs(t, err, syscall.ECONNREFUSED)
			assert.NotErrorIs(t, err, io.EOF)
			assert.Equal(t, connectivity.TransientFailure, e.State)
			assert.Positive(t, e.InState)
			assert.Contains(t, message, "refused")
			if name == "long target" {
				return
			}
			assert.Contains(t, message, "in TRANSIENT_FAILURE for ")
			assert.Contains(t, message, e.Attempts[0].Addr+": dial failed after ")
			whole := e.Error()
			for _, a := range e.Attempts {
				assert.Contains(t, whole, a.Addr+": dial failed after ")
				assert.Contains(t, whole, a.Hint)
			}
			if name == "twenty" {
				assert.Len(t, e.Attempts, maxAttempts)
				assert.Equal(t, 20-maxAttempts, e.Omitted)
				assert.Regexp(t, `\| and 1[89] more$`, message)
				assert.Contains(t, whole, fmt.Sprintf("\n\tand %d more", 20-maxAttempts))
			}
		})
	}
}

// RPCs that one state refuses have errors of their own.
func TestRefusalsAreIndependent(t *testing.T) {
	cc := inOutage(t, 3, "round_robin")
	var first, second *DialError
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.True(t, errors.As(err, &first))
	first.Attempts[0].Addr = "changed"
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	require.True(t, errors.As(err, &second))
	assert.NotEqual(t, "changed", second.Attempts[0].Addr)
	assert.NotContains(t, status.Convert(err).Message(), "changed")
	assert.GreaterOrEqual(t, second.InState, first.InState)
}

// The reason that RPCs share is replaced when something changes: a failure, an attempt
// that begins, a phase, the state.
func TestReasonIsNeverStale(t *testing.T) {
	gate := make(chan struct{})
	var attempts int // of the one link's goroutine
	cc := plain(t, "passthrough:///x:1", fastBackoff(), WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		if attempts++; attempts == 1 {
			return nil, backendtest.ErrRefused
		}
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return nil, errors.New("refused anew")
	}))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.ErrorIs(t, err, backendtest.ErrRefused)
	backendtest.Eventually(t, func() bool {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		var e *DialError
		return errors.As(err, &e) && len(e.later) == 1 && e.later[0].Phase == PhaseDial
	}, "an RPC's error has the attempt in progress")
	close(gate)
	backendtest.Eventually(t, func() bool {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		return err != nil && strings.Contains(err.Error(), "refused anew")
	}, "an RPC's error has the latest failure")
}

// TestSampleOfAFailure: the failed dial in the package's documentation has the text that
// such a failure has.
func TestSampleOfAFailure(t *testing.T) {
	attempt := func(addr, name string, phase failure.Phase, elapsed time.Duration, err error) Attempt {
		a := failure.New(addr, name, time.Now(), phase, err)
		a.Elapsed = elapsed
		return publicAttempt(a)
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443},
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	issued := &x509.Certificate{Issuer: pkix.Name{CommonName: "Example CA"}, RawIssuer: []byte("Example CA"), RawSubject: []byte("api.example.com")}
	untrusted := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{Cert: issued}}
	failed := &DialError{
		Target: "dns:///api.example.com:443", State: connectivity.TransientFailure,
		Elapsed: 5 * time.Second, InState: 4990 * time.Millisecond, Err: context.DeadlineExceeded,
		Attempts: []Attempt{
			attempt("192.0.2.1:443", "api.example.com:443", failure.Dial, 1200*time.Microsecond, refused),
			attempt("192.0.2.2:443", "api.example.com:443", failure.TLS, 8300*time.Microsecond, untrusted),
		},
	}

	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var sample []string
	for line := range strings.Lines(string(doc)) {
		text := strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "//\t")
		if strings.HasPrefix(text, "grpcdial: no connection") || strings.HasPrefix(text, "\t192.0.2.") {
			sample = append(sample, text)
		}
	}
	assert.Equal(t, failed.Error(), strings.Join(sample, "\n"))
}

// TestTextNamesWhatFailed: the failures of one address do not stand for the picker's error,
// which is of another.
func TestTextNamesWhatFailed(t *testing.T) {
	failed := func(addr string, why error) *failure.Attempt {
		return failure.New(addr, "", time.Now(), failure.Dial, why)
	}
	refused, reset := failed("a:1", syscall.ECONNREFUSED), failed("b:1", syscall.ECONNRESET)
	r := &reason{target: "shop:///x", state: connectivity.Ready, failed: failure.List{refused}}
	for _, err := range []error{reset, failure.List{reset}, fmt.Errorf("cluster b: %w", failure.List{reset})} {
		said := r.Text(err, time.Now(), 1000)
		assert.Contains(t, said, "b:1")
		assert.Contains(t, said, "reset")
		assert.Contains(t, said, "a:1")
	}
	for _, err := range []error{refused, failure.List{refused}, failed("a:1", syscall.ECONNRESET)} {
		assert.NotContains(t, r.Text(err, time.Now(), 1000), "reset")
		assert.Equal(t, 1, strings.Count(r.Text(err, time.Now(), 1000), "a:1"))
	}
}
