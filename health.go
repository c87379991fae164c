package grpcdial

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backoff"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/failure"
)

// healthWatch follows what the health service of a backend says of one of its
// services, on one connection, with a goroutine of its own (gRFC A17, gRPC's
// health-checking document):
//
//	            ┌─────────────────── SERVING ───▶ READY
//	CONNECTING ─┼─ NOT_SERVING, any other status ─▶ TRANSIENT_FAILURE
//	    ▲       ├─── UNIMPLEMENTED: no health service ─▶ READY, for good
//	    │       └──────────────── the stream failed ─▶ TRANSIENT_FAILURE
//	    └──── back-off, none if the stream said something ──┘
//
// It ends when it is stopped, or when its connection takes no new streams.
type healthWatch struct {
	cc      *ClientConn
	line    *call.Line
	addr    string
	service string
	since   time.Time                              // when the verdict in force, or the wait for one, began
	report  func(to connectivity.State, why error) // on the watch's goroutine, with no lock held
}

// healthService returns the service to ask about; ok is false if backends are
// not to be checked.
func (cc *ClientConn) healthService() (service string, ok bool) {
	config := cc.config.Load()
	if cc.opts.disableHealthCheck || config == nil || config.HealthCheck == nil {
		return "", false
	}
	return config.HealthCheck.ServiceName, true
}

func (cc *ClientConn) newHealthWatch(line *call.Line, addr resolver.Address, service string) *healthWatch {
	return &healthWatch{cc: cc, line: line, addr: addr.Addr, service: service}
}

// start starts the watch. It does nothing on a channel that is closed. The
// function returned ends the watch and does not wait for that.
func (w *healthWatch) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	w.cc.mu.Lock()
	defer w.cc.mu.Unlock()
	if !w.cc.closed {
		w.cc.running.Add(1)
		go w.run(ctx)
	}
	return cancel
}

// run is the goroutine. Close ends it, by ending its RPC.
func (w *healthWatch) run(ctx context.Context) {
	defer w.cc.running.Done()
	for failures := 0; ; {
		w.since = time.Now()
		w.report(connectivity.Connecting, nil)
		answered, err := w.ask(ctx)
		switch {
		case w.over(ctx):
			return
		case status.Code(err) == codes.Unimplemented:
			w.healthy()
			return
		}
		w.unhealthy(fmt.Errorf("the health service does not answer for service %q: %w", w.service, err), "")
		if failures++; answered {
			failures = 0
		}
		if failures > 0 && !w.pause(ctx, backoff.Delay(grpcbackoff.DefaultConfig, failures-1, rand.Float64())) {
			return
		}
	}
}

// ask is one stream. It returns why the stream ended, which is never nil, and
// whether the server had said something on it.
func (w *healthWatch) ask(ctx context.Context) (answered bool, err error) {
	stream, err := healthpb.NewHealthClient(call.Direct{Channel: w.cc.calls, Endpoint: w}).
		Watch(ctx, &healthpb.HealthCheckRequest{Service: w.service}, grpc.WaitForReady(false))
	if err != nil {
		return false, err
	}
	for {
		answer, err := stream.Recv()
		switch {
		case err == io.EOF:
			return answered, status.Error(codes.Unavailable, "the server ended the stream")
		case err != nil:
			return answered, err
		case answer.Status == healthpb.HealthCheckResponse_SERVING:
			w.healthy()
		default:
			w.unhealthy(fmt.Errorf("service %q is %v", w.service, answer.Status), hintOf(answer.Status))
		}
		answered = true
	}
}

// hintOf says what to do about a status that is not SERVING.
func hintOf(s healthpb.HealthCheckResponse_ServingStatus) string {
	if s == healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		return "the server's health service does not know the service: is serviceName in the service config's healthCheckConfig right?"
	}
	return "the server is there and says that it does not serve now"
}

func (w *healthWatch) healthy() {
	w.since = time.Now()
	w.cc.attempts.Connected(w.addr)
	w.report(connectivity.Ready, nil)
}

// unhealthy makes the verdict the latest failed attempt at the address.
func (w *healthWatch) unhealthy(why error, hint string) {
	a := failure.New(w.addr, w.line.Authority, w.since, failure.Health, why)
	if hint != "" {
		a.Hint = hint
	}
	w.since = time.Now()
	w.cc.noteFailure(w.addr, failure.List{a})
	w.cc.observer.failed(0, failure.List{a})
	w.report(connectivity.TransientFailure, a)
}

// over reports whether what ended a stream was the end of the watch, its
// connection or the channel, of which the backend is not to blame.
func (w *healthWatch) over(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	case <-w.cc.closing:
		return true
	case <-w.line.Conn.Done():
		return true
	default:
		return false
	}
}

// pause waits for d. It reports false if the watch is over.
func (w *healthWatch) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-w.cc.closing:
	case <-w.line.Conn.Done():
	}
	return false
}

// Line makes the watch the endpoint of its own RPCs: they go to its connection,
// whatever the state of the subchannel.
func (w *healthWatch) Line() *call.Line { return w.line }

var _ call.Endpoint = (*healthWatch)(nil)

// RegisterHealthListener makes the subchannel report to f whether the backend is
// healthy, on the policy queue, as long as it stays READY and no other listener takes
// the place of f. nil only removes the listener before.
//
// Without health checking the backend is healthy: f hears READY once.
func (sc *subConn) RegisterHealthListener(f func(balancer.SubConnState)) {
	mine := sc.listener.Add(1)
	sc.cc.post(func() {
		if sc.listener.Load() != mine {
			return
		}
		sc.endWatch()
		if f != nil && sc.told == connectivity.Ready && !sc.policy.closed {
			sc.listen(mine, f)
		}
	})
}

// listen begins to report to f, which is registered under number mine. Policy queue only.
func (sc *subConn) listen(mine uint32, f func(balancer.SubConnState)) {
	sc.cc.policyQueue.AssertOn()
	service, checked := sc.cc.healthService()
	if !checked {
		f(balancer.SubConnState{ConnectivityState: connectivity.Ready})
		return
	}
	w := sc.listenerWatch(service)
	if w == nil {
		return // the connection is lost, which is about to be reported to the policy
	}
	w.report = func(to connectivity.State, why error) {
		sc.cc.post(func() {
			if sc.listener.Load() == mine && !sc.policy.closed {
				sc.noteHealth(why)
				f(subConnState(to, why))
			}
		})
	}
	sc.unwatch = w.start()
}

// listenerWatch makes a watch of the connection in use; nil if there is none.
func (sc *subConn) listenerWatch(service string) *healthWatch {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.state != connectivity.Ready {
		return nil
	}
	return sc.cc.newHealthWatch(sc.link.line, sc.link.addr, service)
}

// noteHealth keeps what speaks against a backend that is connected; nil: nothing.
func (sc *subConn) noteHealth(why error) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.state == connectivity.Ready {
		sc.why = why
	}
}

// endWatch ends the watch of the listener in force. Policy queue only.
func (sc *subConn) endWatch() {
	sc.cc.policyQueue.AssertOn()
	if sc.unwatch != nil {
		sc.unwatch()
		sc.unwatch = nil
	}
}

// checked is connected for a policy that has asked, by HealthCheckEnabled, that
// the subchannel is READY only while the backend is healthy. It reports false if
// nothing is to be checked. sc.mu is held.
func (l *link) checked() bool {
	sc := l.sc
	service, asked := sc.cc.healthService()
	if !asked || !sc.opts.HealthCheckEnabled {
		return false
	}
	w := sc.cc.newHealthWatch(l.line, l.addr, service)
	w.report = l.judged
	l.cancel = w.start()
	return true
}

// judged makes the transition to the state that the backend's health asks for. It
// does nothing if the subchannel is not the link's any more.
func (l *link) judged(to connectivity.State, why error) {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if !l.ownsLocked() {
		return
	}
	if sc.line.Store(nil); to == connectivity.Ready {
		sc.line.Store(l.line)
	}
	sc.setLocked(to, why)
}
