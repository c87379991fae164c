package call

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// quietBackend is a backend that reads nothing from its connection.
func quietBackend(t testing.TB) *backend {
	t.Helper()
	nc, other := net.Pipe()
	t.Cleanup(func() { nc.Close(); other.Close() })
	w := h2.NewWire(nc)
	b := &backend{}
	b.transport.Store(transportTo(h2.New(w, w, h2.Config{})))
	return b
}

func pickNow(ctx context.Context, ch *Channel, opts ...grpc.CallOption) (*attempt, bool, error) {
	r := &rpc{ch: ch, method: "/s/m", opts: opts, began: ch.now()}
	r.options()
	a := new(attempt)
	drop, err := r.pick(ctx, a)
	return a, drop, err
}

func TestPickGivesWhatThePickerGave(t *testing.T) {
	b := quietBackend(t)
	ch := New(Config{})
	ctx := context.Background()
	ch.SetPicker(pickerFunc(func(info balancer.PickInfo) (balancer.PickResult, error) {
		assert.Equal(t, "/s/m", info.FullMethodName)
		assert.Equal(t, ctx, info.Ctx)
		return balancer.PickResult{SubConn: b, Done: func(balancer.DoneInfo) {}, Metadata: map[string][]string{"k": {"v"}}}, nil
	}))
	a, _, err := pickNow(ctx, ch)
	require.NoError(t, err)
	assert.Same(t, b.Conn(), a.conn)
	assert.NotNil(t, a.done)
	assert.Equal(t, []string{"v"}, a.pickMD["k"])
	assert.Equal(t, "test.example", a.authority)
	assert.False(t, a.pickDelayed)

	b = b.having("address", token("x"))
	a, _, err = pickNow(ctx, ch)
	require.NoError(t, err)
	assert.Equal(t, "address", a.authority)
	assert.Equal(t, []credentials.PerRPCCredentials{token("x")}, a.transport.PerRPC)
}

func TestPickAllocatesNothing(t *testing.T) {
	ch := New(Config{})
	ch.SetPicker(fixed{quietBackend(t)})
	r := &rpc{ch: ch, method: "/s/m"}
	a := new(attempt)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = r.pick(context.Background(), a) }))
}

func TestPickErrors(t *testing.T) {
	failure := errors.New("connection refused")
	explained := errors.New("explained")
	because := &knownReason{err: explained}
	tests := []struct {
		name    string
		err     error
		code    codes.Code
		drop    bool
		message string
	}{
		{"other errors are Unavailable", failure, codes.Unavailable, false, "connection refused"},
		{"a status ends the RPC, Unavailable too", status.Error(codes.Unavailable, "down"), codes.Unavailable, true, "down"},
		{"a status ends the RPC", status.Error(codes.PermissionDenied, "no"), codes.PermissionDenied, true, "no"},
		{"a status that A54 forbids", status.Error(codes.NotFound, "no"), codes.Internal, true, "no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			failing := pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) { return balancer.PickResult{}, tt.err })
			forgotten := New(Config{Owner: owner{explain: func() Reason { return nil }}})
			forgotten.SetFailingPicker(failing, because)
			_, _, err := pickNow(context.Background(), forgotten)
			assert.Equal(t, tt.code == codes.Unavailable, errors.Is(err, explained), "a backend is back, but not its picker")

			ch := New(Config{Owner: owner{explain: func() Reason { return because }}})
			ch.SetPicker(failing)
			_, drop, err := pickNow(context.Background(), ch)
			assert.Equal(t, tt.code, status.Code(err), "%v", err)
			assert.Equal(t, tt.drop, drop)
			assert.Contains(t, status.Convert(err).Message(), tt.message)
			assert.ErrorIs(t, err, tt.err)
			assert.Equal(t, tt.code == codes.Unavailable, errors.Is(err, explained))
			if tt.err != failure { // wait-for-ready makes no difference
				_, _, err := pickNow(context.Background(), ch, grpc.WaitForReady(true))
				assert.Equal(t, tt.code, status.Code(err))
			}
		})
	}
}

// knownReason is a Reason that counts how often it was put into words.
type knownReason struct {
	err               error
	texts, errs, most atomic.Int32
}

func (r *knownReason) Err(time.Time, time.Duration) error { r.errs.Add(1); return r.err }

func (r *knownReason) Text(failed error, _ time.Time, most int) string {
	r.texts.Add(1)
	r.most.Store(int32(most))
	if failed == nil {
		return r.err.Error()
	}
	return fmt.Sprintf("%v: %v", failed, r.err)
}

// Of an RPC that finds no connection, nothing is put into words before its error is
// read, and then once.
func TestRefusalIsMadeWhenItIsRead(t *testing.T) {
	why := &knownReason{err: errors.New("nothing answered")}
	ch := New(Config{Owner: owner{explain: func() Reason { return why }}})
	ch.SetResolved(true)
	refused := errors.New("refused")
	ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) { return balancer.PickResult{}, refused }))
	err := ch.Invoke(context.Background(), unaryMethod, request("x"), new(testpb.SimpleResponse))
	require.Error(t, err)
	assert.Zero(t, why.texts.Load())
	assert.Zero(t, why.errs.Load())
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.EqualValues(t, 300, why.most.Load(), "bytes of the status message")
	assert.EqualError(t, err, "rpc error: code = Unavailable desc = refused: nothing answered")
	assert.EqualValues(t, 1000, why.most.Load(), "bytes of the error's text")
	var readers sync.WaitGroup
	for range 10 {
		readers.Go(func() {
			assert.Equal(t, "refused: nothing answered", status.Convert(err).Message())
			assert.ErrorIs(t, err, refused)
			assert.ErrorIs(t, err, why.err)
			assert.ErrorIs(t, err, status.Convert(err).Err())
		})
	}
	readers.Wait()
	assert.EqualValues(t, 2, why.texts.Load())
	assert.EqualValues(t, 1, why.errs.Load())
}

// restrictedCodes are those that gRFC A54 keeps from the control plane.
var restrictedCodes = map[codes.Code]bool{
	codes.InvalidArgument: true, codes.NotFound: true, codes.AlreadyExists: true, codes.FailedPrecondition: true,
	codes.Aborted: true, codes.OutOfRange: true, codes.DataLoss: true,
}

// TestControlPlaneStatusCodes: what a picker, or per-RPC credentials, say ends an
// RPC with their code, but for those that gRFC A54 turns into Internal.
func TestControlPlaneStatusCodes(t *testing.T) {
	b := insecureBackend(t, startServer(t, streamService()))
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		t.Run(code.String(), func(t *testing.T) {
			want := code
			if restrictedCodes[code] {
				want = codes.Internal
			}
			said := status.Error(code, "no")
			picker := ready(t, Config{}, b)
			picker.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) { return balancer.PickResult{}, said }))
			creds := credFunc{get: func(context.Context, ...string) (map[string]string, error) { return nil, said }}
			channels := map[string]*Channel{"picker": picker, "credentials": ready(t, Config{}, b.having("test.example", creds))}
			for name, ch := range channels {
				for _, wait := range []bool{false, true} {
					err := ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse), grpc.WaitForReady(wait))
					assert.Equal(t, want, status.Code(err), "%s, wait for ready %t: %v", name, wait, err)
					assert.ErrorIs(t, err, said)
					_, err = ch.NewStream(soon(t), bidiDesc, bidiMethod, grpc.WaitForReady(wait))
					assert.Equal(t, want, status.Code(err), "%s, wait for ready %t: %v", name, wait, err)
				}
				requireNoneActive(t, ch)
			}
		})
	}
}

// TestPickWaits lets a picker not be of use and a second one be.
func TestPickWaits(t *testing.T) {
	tests := []struct {
		name   string
		opts   []grpc.CallOption
		picker balancer.Picker
	}{
		{"no picker", nil, nil},
		{"no subchannel available", nil, pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
		})},
		{"failure, wait for ready", []grpc.CallOption{grpc.WaitForReady(true)}, pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{}, errors.New("refused")
		})},
		{"endpoint not ready", nil, fixed{&backend{}}},
		{"an endpoint that is not ours", nil, fixed{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				picks := 0
				ch := New(Config{})
				if tt.picker != nil {
					ch.SetPicker(pickerFunc(func(info balancer.PickInfo) (balancer.PickResult, error) {
						picks++
						return tt.picker.Pick(info)
					}))
				}
				b := quietBackend(t)
				go func() {
					time.Sleep(time.Minute)
					ch.SetPicker(fixed{b})
				}()
				r := &rpc{ch: ch, opts: tt.opts}
				r.options()
				a := new(attempt)
				_, err := r.pick(context.Background(), a)
				require.NoError(t, err)
				assert.Same(t, b.Conn(), a.conn)
				assert.True(t, a.pickDelayed)
				assert.Equal(t, time.Minute, r.times.Connecting.Truncate(time.Second))
				assert.LessOrEqual(t, picks, 1, "a picker is asked once")
			})
		})
	}
}

func TestPickCallsDoneForAnEndpointThatIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := New(Config{})
		var done []balancer.DoneInfo
		ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{SubConn: &backend{}, Done: func(i balancer.DoneInfo) { done = append(done, i) }}, nil
		}))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _, err := pickNow(ctx, ch)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
		assert.Equal(t, []balancer.DoneInfo{{}}, done)
	})
}

func TestPickPassesOverAConnectionThatTakesNoStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := New(Config{})
		closed, open := quietBackend(t), quietBackend(t)
		closed.Conn().Close(errors.New("lost"), nil)
		ch.SetPicker(fixed{closed})
		go func() {
			time.Sleep(time.Second)
			ch.SetPicker(fixed{open})
		}()
		a, _, err := pickNow(context.Background(), ch)
		require.NoError(t, err)
		assert.Same(t, open.Conn(), a.conn)
	})
}

func TestDeadlineSaysWhereTheTimeWent(t *testing.T) {
	refused := errors.New("dial tcp: refused")
	invoke := func(ch *Channel) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return ch.Invoke(ctx, unaryMethod, request(""), new(testpb.SimpleResponse), grpc.WaitForReady(true))
	}
	phase := func(t *testing.T, err error, want Stage, message string) *Error {
		t.Helper()
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		e := err.(*Error)
		assert.Equal(t, want, e.Stage)
		assert.Equal(t, 10*time.Second, e.Elapsed)
		assert.Equal(t, message, status.Convert(err).Message())
		return e
	}
	t.Run("resolving", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := phase(t, invoke(New(Config{})), StageResolve, "context deadline exceeded after 10s: waiting for the name resolver's first result")
			assert.Equal(t, 10*time.Second, e.Resolving)
		})
	})
	t.Run("connecting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ch := New(Config{Owner: owner{explain: func() Reason { return &knownReason{err: refused} }}})
			go func() {
				time.Sleep(3 * time.Second)
				ch.SetResolved(true)
			}()
			e := phase(t, invoke(ch), StageConnect,
				"context deadline exceeded after 10s: waiting for a connection (resolving 3s, connecting 7s): dial tcp: refused")
			assert.Equal(t, 3*time.Second, e.Resolving)
			assert.Equal(t, 7*time.Second, e.Connecting)
			assert.ErrorIs(t, e, refused)
		})
	})
	t.Run("connecting, with a picker's error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ch := New(Config{Owner: owner{explain: func() Reason { return &knownReason{err: refused} }}})
			ch.SetResolved(true)
			picked := errors.New("all backends are down")
			ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) { return balancer.PickResult{}, picked }))
			e := phase(t, invoke(ch), StageConnect, "context deadline exceeded after 10s: waiting for a connection: all backends are down: dial tcp: refused")
			assert.ErrorIs(t, e, refused)
			assert.ErrorIs(t, e, picked)
		})
	})
	t.Run("picking", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var isReady atomic.Bool
			ch := New(Config{Owner: owner{ready: isReady.Load}})
			ch.SetResolved(true)
			go func() {
				time.Sleep(3 * time.Second)
				isReady.Store(true)
				ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
					return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
				}))
			}()
			e := phase(t, invoke(ch), StagePick,
				"context deadline exceeded after 10s: waiting for the load-balancing policy to pick a connection (connecting 3s, picking 7s)")
			assert.Equal(t, Times{Connecting: 3 * time.Second, Picking: 7 * time.Second}, e.Times)
		})
	})
	t.Run("cancelled, with a cause", func(t *testing.T) {
		ch := New(Config{})
		why := errors.New("the user has left")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(why)
		err := ch.Invoke(ctx, unaryMethod, request(""), new(testpb.SimpleResponse))
		assert.Equal(t, codes.Canceled, status.Code(err))
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, err, why)
	})
}

func TestClose(t *testing.T) {
	invoke := func(ch *Channel) error {
		return ch.Invoke(context.Background(), unaryMethod, request(""), new(testpb.SimpleResponse))
	}
	closing := func(t *testing.T, err error) {
		t.Helper()
		assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
		assert.Equal(t, codes.Canceled, status.Code(err))
	}
	tests := map[string]func(*Channel){
		"while resolving":  func(ch *Channel) {},
		"while connecting": func(ch *Channel) { ch.SetResolved(true) },
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ch := New(Config{})
				prepare(ch)
				go func() {
					time.Sleep(time.Second)
					ch.Close()
				}()
				closing(t, invoke(ch))
				closing(t, invoke(ch)) // a new one
				_, err := ch.NewStream(context.Background(), &grpc.StreamDesc{}, "/s/m")
				closing(t, err)
				requireNoneActive(t, ch)
				ch.Close() // again
			})
		})
	}
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		woken := 0
		var ch *Channel
		start := time.Now()
		ch = New(Config{Owner: owner{wake: func() {
			woken++
			running, _ := ch.Active()
			assert.Equal(t, 1, running, "an RPC is counted before it looks whether the channel is idle")
		}}})
		running, lastEnd := ch.Active()
		assert.Zero(t, running)
		assert.Equal(t, start, lastEnd)

		call := func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_ = ch.Invoke(ctx, unaryMethod, request(""), new(testpb.SimpleResponse))
		}
		call()
		assert.Zero(t, woken)
		ch.SetIdle(true)
		call()
		assert.Equal(t, 1, woken)
		ch.SetIdle(false)
		call()
		assert.Equal(t, 1, woken)
		running, lastEnd = ch.Active()
		assert.Zero(t, running)
		assert.Equal(t, start.Add(3*time.Minute), lastEnd)
	})
}

func TestResolvedCanBeTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := New(Config{})
		ch.SetResolved(true)
		ch.SetResolved(true)
		ch.SetResolved(false)
		ch.SetResolved(false)
		r := &rpc{ch: ch}
		go func() {
			time.Sleep(time.Second)
			ch.SetResolved(true)
		}()
		require.NoError(t, r.awaitResolved(context.Background()))
		assert.True(t, r.resolverDelayed)
		assert.Equal(t, time.Second, r.times.Resolving)
	})
}

// owner is a channel's control plane of functions, of which each may be nil.
type owner struct {
	wake, wanted func()
	explain      func() Reason
	backends     func() int
	ready        func() bool
}

func (o owner) Wake() {
	if o.wake != nil {
		o.wake()
	}
}

func (o owner) Wanted() {
	if o.wanted != nil {
		o.wanted()
	}
}

func (o owner) Explain() Reason {
	if o.explain == nil {
		return nil
	}
	return o.explain()
}

func (o owner) Backends() int {
	if o.backends == nil {
		return 1
	}
	return o.backends()
}

func (o owner) Ready() bool { return o.ready != nil && o.ready() }
