package call

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// awaitResolved waits for the resolver's first result.
func (r *rpc) awaitResolved(ctx context.Context) error {
	for {
		if r.ch.isClosed() {
			return grpc.ErrClientConnClosing
		}
		if r.ch.resolved.Load() {
			return nil
		}
		opened := r.ch.untilResolved()
		if opened == nil {
			return nil
		}
		if err := ctx.Err(); err != nil && !r.resolverDelayed {
			return r.contextEnded(ctx, err, StageBegin, nil, nil)
		}
		r.resolverDelayed = true
		since := r.ch.now()
		select {
		case <-opened:
		case <-r.ch.cfg.Closing.Done():
		case <-ctx.Done():
		}
		r.times.Resolving += r.ch.now() - since
		if err := ctx.Err(); err != nil && !r.ch.isClosed() {
			return r.contextEnded(ctx, err, StageResolve, nil, nil)
		}
	}
}

// maxOthers is how often a picker is asked for another backend than the one that has
// just refused the request. Several RPCs may be asking in turn.
const maxOthers = 16

// pick fills the attempt with a connection and what came with it. It asks
// each picker once, but for another backend than the one that gave the request back; it
// waits for the next picker if this one
//   - is nil or says balancer.ErrNoSubConnAvailable,
//   - returns another error that is no status and the RPC waits for ready,
//   - returns an endpoint that has no connection, or one that takes no new stream.
//
// A status from a picker ends the RPC at once (drop), under gRFC A54's restrictions.
func (r *rpc) pick(ctx context.Context, a *attempt) (drop bool, err error) {
	if r.via != nil {
		return true, r.pickDirect(a)
	}
	info := balancer.PickInfo{FullMethodName: r.method, Ctx: ctx}
	var last error
	asked := 0 // how often for another backend
	for {
		if r.ch.isClosed() {
			return true, grpc.ErrClientConnClosing
		}
		gen, queued := r.ch.picker.Load(), false
		if gen.picker != nil {
			res, err := gen.picker.Pick(info)
			switch {
			case err == nil:
				transport := usable(res.SubConn)
				ready := transport != nil && transport.Conn != r.refused
				if ready && r.accepts(transport.backend(), asked) {
					a.done, a.pickMD = res.Done, res.Metadata
					a.take(transport)
					return false, nil
				}
				if res.Done != nil {
					res.Done(balancer.DoneInfo{})
				}
				if ready {
					asked++
					continue
				}
				// Not ready, though the picker thought so: a new picker is on its way.
			case err == balancer.ErrNoSubConnAvailable:
				queued = true
			default:
				if st := controlPlaneError("the picker", err); st != nil {
					return true, r.explained(st, gen)
				}
				if !r.set.waitForReady {
					return false, r.unavailable(err, r.whyNot(gen))
				}
				last = err
			}
		}
		if err := r.awaitPicker(ctx, gen, queued, last); err != nil {
			return true, err
		}
		a.pickDelayed = true
	}
}

// accepts reports whether the RPC takes a backend, after it has asked for another one so
// often. It prefers one that has not given its request back and that no other of its hedged
// attempts has gone to, if there is one; another connection to the same backend is none.
func (r *rpc) accepts(backend any, asked int) bool {
	if r.gaveBack == nil && r.hedge == nil {
		return true
	}
	anyWillDo := asked >= maxOthers || r.ch.cfg.Owner == nil || r.ch.cfg.Owner.Backends() < 2
	if !anyWillDo && r.gaveBack != nil && r.gaveBack.backend() == backend {
		return false
	}
	return r.hedge == nil || r.hedge.use(backend, anyWillDo)
}

// whyNot is why a picker fails RPCs: the channel's latest connection failures. A
// backend that is back meanwhile has made the channel forget them; those of when the
// picker came are known. nil: nothing is known.
func (r *rpc) whyNot(gen *pickerGen) Reason {
	if why := r.explain(); why != nil {
		return why
	}
	return gen.why
}

// explained adds whyNot to the causes of an Unavailable status that a picker made.
func (r *rpc) explained(err error, gen *pickerGen) error {
	if codeOf(err) != codes.Unavailable {
		return err
	}
	why := r.whyNot(gen)
	if why == nil {
		return err
	}
	e := r.unavailable(err, why)
	e.status, e.said = status.Convert(err), true
	return e
}

// awaitPicker waits until gen is no longer the picker in force. queued says that
// it has its reasons, on a channel that may be READY.
func (r *rpc) awaitPicker(ctx context.Context, gen *pickerGen, queued bool, last error) error {
	since := r.ch.now()
	owner := r.ch.cfg.Owner
	picking := queued && owner != nil && owner.Ready()
	r.ch.waiting.Add(1)
	if owner != nil {
		owner.Wanted()
	}
	if replaced := r.ch.replaced(gen); replaced != nil {
		select {
		case <-replaced:
		case <-r.ch.cfg.Closing.Done():
		case <-ctx.Done():
		}
	}
	r.ch.waiting.Add(-1)
	// A wait that took no measurable time was a wait nevertheless.
	took := max(r.ch.now()-since, time.Nanosecond)
	at := StageConnect
	if picking {
		at = StagePick
		r.times.Picking += took
	} else {
		r.times.Connecting += took
	}
	if r.ch.isClosed() {
		return grpc.ErrClientConnClosing
	}
	if err := ctx.Err(); err != nil {
		return r.contextEnded(ctx, err, at, nil, last)
	}
	return nil
}

// usable returns a subchannel's transport if its connection takes new streams, else
// nil. A connection that drains or is lost is known here before the picker learns it.
func usable(sc balancer.SubConn) *Transport {
	ep, ok := sc.(Endpoint)
	if !ok {
		return nil
	}
	transport := ep.Transport()
	if transport == nil || transport.Conn.IsDone() {
		return nil
	}
	return transport
}

func (r *rpc) pickDirect(a *attempt) error {
	transport := r.via.Transport()
	if transport == nil {
		e := r.unavailable(nil, r.explain())
		e.status, e.said = status.New(codes.Unavailable, "the subchannel has no connection"), true
		return e
	}
	a.take(transport)
	return nil
}

// take makes transport the one that the attempt goes to.
func (a *attempt) take(transport *Transport) {
	a.transport, a.conn, a.authority = transport, transport.Conn, transport.Authority
}
