package call

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// Invoke makes a unary RPC, below the interceptors. Errors work with the
// status package. Everything runs on the caller's goroutine.
func (ch *Channel) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	r := rpc{ch: ch, method: method, opts: opts, began: ch.now()}
	ch.enter(r.began)
	ok := false
	defer func() { ch.leave(ok) }() // also when a codec panics
	err := r.unary(ctx, args, reply)
	ok = err == nil
	return err
}

// unary runs the RPC and its OnFinish options.
func (r *rpc) unary(ctx context.Context, args, reply any) error {
	r.options()
	ctx, err := r.start(ctx)
	if err == nil && r.selection.intercepts() {
		return r.intercept().invoke(ctx, args, reply)
	}
	switch {
	case err != nil:
	case r.hedging != nil:
		err = r.invokeHedged(ctx, args, reply)
	default:
		err = r.invoke(ctx, args, reply)
	}
	r.selection.committed()
	r.reportFinished(err)
	return err
}

// invoke makes the attempts of an RPC that start has prepared. ctx is what start
// returned.
func (r *rpc) invoke(ctx context.Context, args, reply any) error {
	if r.cancel != nil {
		defer r.cancel()
	}
	var f frame // encoded once, for all attempts
	defer f.free()
	transparent := false
	var before attempt // the latest of those that others followed, if it had a stream
	for {
		var a attempt
		limited, limit := r.limitAttempt(ctx)
		o := r.try(limited, &a, transparent, &f, args, reply)
		limit.judge(ctx, &o)
		if o.err == nil {
			r.succeeded()
			r.end(&a, nil)
			r.conclude(&a, &before)
			return nil
		}
		failed := o.err
		v := r.decide(&a, &o, false)
		r.end(&a, failed)
		if !v.again {
			r.conclude(&a, &before)
			return o.err
		}
		if a.s != nil {
			r.times.add(a.s, nil)
			before.release()
			before = a
		}
		if err := r.pause(ctx, v.delay, o.err); err != nil {
			r.conclude(&attempt{}, &before)
			return err
		}
		transparent = v.transparent
	}
}

// conclude serves the options that ask about the latest attempt that had a stream,
// which is a or else before, and gives the streams back.
func (r *rpc) conclude(a, before *attempt) {
	if a.s != nil {
		r.collect(a)
	} else {
		r.collect(before)
	}
	a.release()
	before.release()
}

// release gives a unary RPC's stream back.
func (a *attempt) release() {
	if a.s != nil {
		a.s.Release()
	}
}

// try makes one attempt and decodes the reply.
func (r *rpc) try(ctx context.Context, a *attempt, transparent bool, f *frame, args, reply any) outcome {
	returned := false
	defer a.unwound(&returned)
	o := r.tryOnce(ctx, a, transparent, f, args, reply)
	returned = true
	return o
}

func (r *rpc) tryOnce(ctx context.Context, a *attempt, transparent bool, f *frame, args, reply any) outcome {
	if drop, err := r.connect(ctx, a, transparent); err != nil {
		return outcome{err: err, drop: drop}
	}
	if f.buf == nil {
		var err error
		if *f, err = r.encodeRequest(args); err != nil {
			return outcome{err: r.noted(err, StageEncode, a), drop: true}
		}
		if len(f.bytes()) > r.set.maxBuffer {
			r.retry = nil
		}
	}
	o := r.exchange(a, f, args)
	switch {
	case o.err == nil:
		if err := r.decodeReply(a, reply); err != nil {
			return outcome{err: err, drop: true}
		}
	case a.s != nil && a.s.Err() != nil && a.s.Messages() > 0:
		_ = r.decodeReply(a, reply) // what came before the error
	}
	return o
}

// exchange sends the request on the connection that the attempt has, and waits for the
// reply, which it leaves with the stream.
func (r *rpc) exchange(a *attempt, f *frame, args any) outcome {
	var req h2.Request
	if err := r.request(a, &req); err != nil {
		return outcome{err: err, drop: isContextEnd(err)}
	}
	if r.tagged() {
		r.reportOpened(a, &req, outPayload(args, f.uncompressed, f.payload()))
	}
	s, err := a.conn.Unary(a.ctx, &req, f.bytes())
	if err != nil {
		return r.refusal(a, asH2Error(err))
	}
	a.s, a.conn, r.wired = s, s.Conn(), true
	if r.tagged() && s.HasHeader() {
		r.reportInHeader(a, s.HeaderMD())
	}
	if he := s.Err(); he != nil {
		return r.failure(a, he)
	}
	if n := s.Messages(); n != 1 {
		return outcome{err: cardinality(n), drop: true}
	}
	return outcome{}
}

// encodeRequest is encode for a unary RPC, which waits for it. The clock is not read for
// what takes no time that is worth it.
func (r *rpc) encodeRequest(m any) (frame, error) {
	r.preparing = StageEncode
	if r.set.codec.native && !r.compresses() {
		return r.encode(m)
	}
	since := r.ch.now()
	f, err := r.encode(m)
	r.times.Preparing += r.ch.now() - since
	return f, err
}

// decodeReply decodes the first message that came.
func (r *rpc) decodeReply(a *attempt, reply any) error {
	m, ok := a.s.Message()
	if !ok {
		return nil
	}
	n, err := r.readMessage(m.Data, m.Compressed, a.s.RecvEncoding(), reply)
	if err == nil && r.tagged() {
		r.reportInPayload(a, reply, len(m.Data), n)
	}
	return r.noted(err, StageDecode, a)
}

// decide asks retryDecision and the throttle, and counts the attempt. o's error
// becomes what the RPC ends with if there is no other attempt.
func (r *rpc) decide(a *attempt, o *outcome, committed bool) retryVerdict {
	in := retryInput{
		outcome:     *o,
		code:        codeOf(o.err),
		committed:   committed || r.via != nil,
		policy:      r.retry,
		maxAttempts: r.ch.cfg.MaxAttempts,
		tries:       r.tries,
	}
	if r.retry != nil || o.refused {
		in.random = rand.Float64()
	}
	v := retryDecision(in)
	if v.counts && !r.policy.throttle.failure() {
		v.again = false
	} else if v.exhausted {
		o.err = r.exhausted(a, o.err)
	}
	if v.again {
		r.tries = v.tries
	}
	return v
}

// exhausted says that the policy's attempts, of which a is the last, are used up.
func (r *rpc) exhausted(a *attempt, err error) error {
	st := status.Convert(err).Proto()
	st.Message = fmt.Sprintf("failed after %d attempts: %s", r.tries.policy+1, st.Message)
	at := StageReply
	if last, ok := err.(*Error); ok {
		at = last.Stage
	}
	return r.noted(withCause(status.FromProto(st), err), at, a)
}

// cardinality is the error of an RPC that should have had one reply.
func cardinality(n int) error {
	if n == 0 {
		return status.Error(codes.Internal, "cardinality violation: the server sent no response message, want one")
	}
	return status.Error(codes.Internal, "cardinality violation: the server sent more than one response message, want one")
}

// asH2Error is the *h2.Error that h2 promises.
func asH2Error(err error) *h2.Error {
	if he, ok := errors.AsType[*h2.Error](err); ok {
		return he
	}
	return &h2.Error{Status: status.New(codes.Unknown, err.Error()), Local: true}
}

// isContextEnd reports whether the RPC's context ended it.
func isContextEnd(err error) bool {
	e, ok := err.(*Error)
	return ok && e.context != nil
}
