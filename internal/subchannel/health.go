package subchannel

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backoff"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// healthWatch follows what the health service of a backend reports of one of its
// services, with a goroutine of its own (gRFC A17, gRPC's health-checking document):
//
//	            ┌─────────────────── SERVING ───▶ READY
//	CONNECTING ─┼─ NOT_SERVING, any other status ─▶ TRANSIENT_FAILURE
//	    ▲       ├─── UNIMPLEMENTED: no health service ─▶ READY, for good
//	    │       └──────────────── the stream failed ─▶ TRANSIENT_FAILURE
//	    └── back-off, none if the stream had a response ──┘
//
// It asks on one of the subchannel's connections and moves to another when that one is
// taken out of use. It ends when it is stopped, or when no connection is in use.
type healthWatch struct {
	sc      *Subchannel
	service string
	report  func(to connectivity.State, why error) // on the watch's goroutine, with no lock held

	// The watch's goroutine only.
	transport *call.Transport // that it asks on
	addr      string
	since     time.Time // when the report in force, or the wait for one, began

	// Guarded by sc.mu.
	serving bool               // of Subchannel.check: connections may be used
	stop    func()             // of Subchannel.check: ends it
	on      *loop              // whose connection it asks on
	leave   context.CancelFunc // ends the stream on that
}

// start starts the watch. It does nothing on a channel that is closed. The
// function returned ends the watch and does not wait for that.
func (w *healthWatch) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	if w.sc.g.enter() {
		go w.run(ctx)
	}
	return cancel
}

// run is the goroutine. Close ends it, by ending its RPC.
func (w *healthWatch) run(ctx context.Context) {
	defer w.sc.g.running.Done()
	defer w.end()
	moved := false
	for failures := 0; ; {
		stream, leave := context.WithCancel(ctx)
		if !w.enter(leave) {
			leave()
			return
		}
		if w.since = time.Now(); !moved {
			w.report(connectivity.Connecting, nil)
		}
		answered, err := w.ask(stream)
		if moved = w.transport.Conn.IsDone() || stream.Err() != nil; moved {
			select {
			case <-stream.Done(): // the connection was taken out of use
			case <-w.sc.g.cfg.Closing.Done():
			}
		}
		leave()
		switch {
		case ctx.Err() != nil || w.sc.g.cfg.Closing.Closed():
			return
		case moved:
			continue
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

// enter chooses the connection to ask on: the oldest that can open a stream, else the
// oldest that may later. leave is called when that is taken out of use. It reports false if none is in use.
func (w *healthWatch) enter(leave context.CancelFunc) bool {
	sc := w.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if len(sc.conns) == 0 {
		return false
	}
	i := slices.IndexFunc(sc.conns, func(l *loop) bool { return l.conn.HasSlot() })
	if i < 0 {
		i = max(slices.IndexFunc(sc.conns, func(l *loop) bool { return !l.conn.IsDone() }), 0)
	}
	w.on, w.leave = sc.conns[i], leave
	w.transport, w.addr = w.on.transport, w.on.addr.Addr
	if sc.watches == nil {
		sc.watches = make(map[*healthWatch]struct{})
	}
	sc.watches[w] = struct{}{}
	return true
}

// follow notes that the watch asks on conn: it had to wait for a stream, and that was the
// first connection with one.
func (w *healthWatch) follow(conn *h2.Conn) {
	if conn == w.transport.Conn {
		return
	}
	sc := w.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	i := slices.IndexFunc(sc.conns, func(l *loop) bool { return l.conn == conn })
	if i < 0 { // it was taken out of use meanwhile
		w.leave()
		return
	}
	w.on = sc.conns[i]
	w.transport, w.addr = w.on.transport, w.on.addr.Addr
}

// end notes that the watch asks on no connection any more.
func (w *healthWatch) end() {
	w.sc.mu.Lock()
	defer w.sc.mu.Unlock()
	delete(w.sc.watches, w)
}

// ask is one stream. It returns why the stream ended, which is never nil, and
// whether the server had responded on it.
func (w *healthWatch) ask(ctx context.Context) (answered bool, err error) {
	stream, err := call.Direct{Channel: w.sc.g.cfg.Calls, Endpoint: w}.
		NewStream(ctx, &healthpb.Health_ServiceDesc.Streams[0], healthpb.Health_Watch_FullMethodName, grpc.WaitForReady(false))
	if err != nil {
		return false, err
	}
	w.follow(call.ConnOf(stream))
	if err := stream.SendMsg(&healthpb.HealthCheckRequest{Service: w.service}); err != nil {
		return false, err
	}
	for {
		answer := new(healthpb.HealthCheckResponse)
		err := stream.RecvMsg(answer)
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
	w.sc.g.cfg.Log.Connected(w.addr)
	w.report(connectivity.Ready, nil)
}

// unhealthy makes the report the latest failed attempt at the address.
func (w *healthWatch) unhealthy(why error, hint string) {
	a := failure.New(w.addr, w.transport.Authority, w.since, failure.Health, why)
	if hint != "" {
		a.Hint = hint
	}
	w.since = time.Now()
	w.sc.g.cfg.Log.Failed(w.addr, failure.List{a})
	w.sc.host.Recheck()
	w.sc.host.AttemptFailed(0, failure.List{a})
	w.report(connectivity.TransientFailure, a)
}

// pause waits for d. It reports false if the watch is over.
func (w *healthWatch) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-w.sc.g.cfg.Closing.Done():
	}
	return false
}

// Transport makes the watch the endpoint of its own RPCs: they go to its connection,
// whatever the state of the subchannel.
func (w *healthWatch) Transport() *call.Transport { return w.transport }

var _ call.Endpoint = (*healthWatch)(nil)
