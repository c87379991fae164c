package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
)

// The phases of an RPC, which follow those of the dial.
const (
	phaseReflect grpcdial.Phase = "reflect" // the method's descriptor is asked for
	phaseSend    grpcdial.Phase = "send"    // from the RPC's beginning until its first message was handed over
	phaseWait    grpcdial.Phase = "wait"    // from then to the response's headers
	phaseReceive grpcdial.Phase = "receive" // from then to the RPC's end
)

// afterReady are the phases that come after READY.
var afterReady = map[grpcdial.Phase]bool{grpcdial.PhaseHealth: true, phaseReflect: true, phaseSend: true, phaseWait: true, phaseReceive: true}

// rpcSteps is a stats handler that puts the phases of one method's RPC on a timeline.
type rpcSteps struct {
	tl     *timeline
	method string // /service/method

	mu              sync.Mutex
	phase           grpcdial.Phase // guarded by mu: the one that runs; empty: none
	attempt         uint64         // guarded by mu
	messages, bytes int            // guarded by mu: received
}

type rpcKey struct{}

func (r *rpcSteps) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if info.FullMethodName != r.method {
		return ctx
	}
	return context.WithValue(ctx, rpcKey{}, r)
}

func (r *rpcSteps) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if ctx.Value(rpcKey{}) != r {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch s := s.(type) {
	case *stats.Begin:
		r.attempt++
		r.toLocked(phaseSend, nil)
	case *stats.OutPayload:
		if r.phase == phaseSend {
			r.toLocked(phaseWait, nil)
		}
	case *stats.InHeader:
		r.answeredLocked()
		r.toLocked(phaseReceive, nil)
	case *stats.InPayload:
		r.messages++
		r.bytes += s.Length
	case *stats.InTrailer:
		r.answeredLocked()
	case *stats.End:
		r.toLocked("", s.Error)
	}
}

// answeredLocked begins the wait, if it has not begun: a server may reply before it is noted
// that the request was handed over.
func (r *rpcSteps) answeredLocked() {
	if r.phase == phaseSend {
		r.toLocked(phaseWait, nil)
	}
}

// toLocked ends the phase that runs, with err, and begins the next.
func (r *rpcSteps) toLocked(next grpcdial.Phase, err error) {
	now, addr := time.Now(), r.tl.server()
	if r.phase != "" {
		s := step{phase: r.phase, attempt: r.attempt, addr: addr, end: now}
		if err != nil {
			s.err = errors.New(status.Convert(err).Message()) // the code has a line of its own
		}
		if r.phase == phaseReceive && err == nil {
			s.detail = fmt.Sprintf("%d messages, %d bytes", r.messages, r.bytes)
			if r.messages == 1 {
				s.detail = fmt.Sprintf("1 message, %d bytes", r.bytes)
			}
		}
		r.tl.finish(s)
	}
	if r.phase = next; next != "" {
		r.tl.begin(step{phase: next, attempt: r.attempt, addr: addr, start: now})
	}
}

func (r *rpcSteps) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (r *rpcSteps) HandleConn(context.Context, stats.ConnStats)                       {}
