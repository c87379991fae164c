package subchannel

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/latch"
	"github.com/grpcdial/grpcdial/internal/metrics"
	"github.com/grpcdial/grpcdial/internal/serial"
)

// fakeHost plays a channel with one policy, which keeps the states that it gets.
type fakeHost struct {
	t       *testing.T
	queue   serial.Queue
	closing latch.Latch
	log     attempts.Log
	calls   *call.Channel
	group   Group
	connect func(ctx context.Context, cfg *connect.Config, addr resolver.Address, name string) (*h2.Conn, error)
	service *string      // whose health is watched
	most    atomic.Int32 // connections of a subchannel
	states  chan balancer.SubConnState

	params *grpc.ConnectParams

	mu     sync.Mutex // guards connect too, once a subchannel was made
	events []string
}

func newFakeHost(t *testing.T) *fakeHost {
	t.Helper()
	h := &fakeHost{t: t, calls: call.New(call.Config{}), connect: connect.Connect, states: make(chan balancer.SubConnState, 1000)}
	h.group.Init(Config{
		Age:     new(Age),
		Params:  &grpc.ConnectParams{Backoff: grpcbackoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}, MinConnectTimeout: 10 * time.Second},
		Calls:   h.calls,
		Log:     &h.log,
		Metrics: metrics.New(nil, nil, nil),
		Closing: &h.closing,
	})
	h.params = h.group.cfg.Params
	t.Cleanup(h.close)
	return h
}

// close ends the channel, once.
func (h *fakeHost) close() {
	if h.isClosing() {
		return
	}
	h.closing.Close()
	h.calls.Close()
	h.group.Close(errors.New("closed"), status.New(codes.Canceled, "closed"))
	h.queue.Close(func() {
		for _, sc := range h.group.Of(h) {
			sc.Shutdown()
			sc.End()
		}
	})
	h.group.Wait()
	h.queue.Wait()
}

func (h *fakeHost) isClosing() bool { return h.closing.Closed() }

// newSubchannel makes a subchannel and has it connect.
func (h *fakeHost) newSubchannel(opts balancer.NewSubConnOptions, addrs ...string) *Subchannel {
	sc := h.group.New(h, addresses(addrs...), opts)
	sc.Connect()
	return sc
}

func addresses(addrs ...string) (all []resolver.Address) {
	for _, a := range addrs {
		all = append(all, resolver.Address{Addr: a})
	}
	return all
}

// expect waits for states and returns the latest.
func (h *fakeHost) expect(want ...connectivity.State) (last balancer.SubConnState) {
	h.t.Helper()
	for _, w := range want {
		select {
		case last = <-h.states:
			require.Equal(h.t, w, last.ConnectivityState)
		case <-time.After(time.Minute):
			require.FailNow(h.t, "no state", "want %v", w)
		}
	}
	return last
}

// ask makes an RPC that a picker sends to the subchannel.
func (h *fakeHost) ask(sc *Subchannel) error {
	h.calls.SetResolved(true)
	h.calls.SetPicker(backendtest.PickerFor(sc, balancer.SubConnState{ConnectivityState: connectivity.Ready}))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // longer than extra connections are kept
	defer cancel()
	_, err := backendtest.AskName(ctx, h.calls)
	return err
}

// setConnect changes what attempts do.
func (h *fakeHost) setConnect(f func(ctx context.Context, cfg *connect.Config, addr resolver.Address, name string) (*h2.Conn, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.connect = f
}

func (h *fakeHost) note(event string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, event)
}

func (h *fakeHost) Post(f func()) {
	h.queue.Post(func() {
		if !h.isClosing() {
			f()
		}
	})
}
func (h *fakeHost) Hold(f func()) bool { return h.queue.Hold(f) }
func (h *fakeHost) Run()               { h.queue.Run() }
func (h *fakeHost) AssertOnQueue()     { h.queue.AssertOn() }
func (h *fakeHost) Closed() bool       { return false }
func (h *fakeHost) Report(_ *Subchannel, to connectivity.State, why error) {
	h.states <- State(to, why)
}
func (h *fakeHost) Config(credentials.Bundle) (*connect.Config, []credentials.PerRPCCredentials) {
	return &connect.Config{Creds: insecure.NewCredentials()}, nil
}
func (h *fakeHost) Connect(ctx context.Context, cfg *connect.Config, a Attempt) (*h2.Conn, failure.List) {
	h.mu.Lock()
	f := h.connect
	h.mu.Unlock()
	conn, err := f(ctx, cfg, a.Addr, a.ServerName)
	if err == nil {
		return conn, nil
	}
	return nil, failure.List{{ID: a.ID, Addr: a.Addr.Addr, Phase: failure.Dial, Start: a.Since, Elapsed: time.Since(a.Since), Err: err}}
}
func (h *fakeHost) ServerName(addr resolver.Address) string { return addr.Addr }
func (h *fakeHost) HealthService() (string, bool) {
	if h.service == nil {
		return "", false
	}
	return *h.service, true
}
func (h *fakeHost) MaxConnections() int                            { return max(int(h.most.Load()), 1) }
func (h *fakeHost) ResolveNow()                                    { h.note("resolve") }
func (h *fakeHost) Recheck()                                       {}
func (h *fakeHost) Interrupted(error, string, failure.List)        { h.note("interrupted") }
func (h *fakeHost) TooManyPings(time.Duration)                     { h.note("too many pings") }
func (h *fakeHost) AttemptFailed(uint64, failure.List)             { h.note("failed") }
func (h *fakeHost) ConnReady(Attempt, time.Duration)               { h.note("ready") }
func (h *fakeHost) ConnLost(_ Attempt, _ time.Duration, why error) { h.note("lost") }
func (h *fakeHost) BackingOff(addr string, wait time.Duration)     { h.note("back-off") }
