package call

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// intercepted is an RPC that its selection's interceptor makes. The RPCs that the
// interceptor begins by newStream have the selection without it. They serve the call
// options that they are given, OnFinish among them; if none was begun, this one does.
type intercepted struct {
	rpc
	inner Selection
	began atomic.Bool // the interceptor has called newStream
}

func (r *rpc) intercept() *intercepted {
	i := &intercepted{rpc: *r, inner: *r.selection} // a copy: r stays on its caller's stack
	i.inner.Intercept = nil
	return i
}

// finish ends an RPC that did not begin, or whose interceptor failed, with err.
func (i *intercepted) finish(err error) error {
	i.selection.committed()
	if _, ok := status.FromError(err); !ok {
		err = i.noted(withCause(status.New(codeOfContext(err), err.Error()), err), StageNone, nil)
	}
	if !i.began.Load() {
		i.reportFinished(err)
	}
	return err
}

// next is the RPC that newStream begins.
func (i *intercepted) next(opts []grpc.CallOption) rpc {
	i.began.Store(true)
	inner := i.inner
	inner.Context = nil // the interceptor's counts
	return rpc{ch: i.ch, method: i.method, opts: opts, began: i.rpc.began, effort: i.effort, selection: &inner, counted: true}
}

// invoke makes a unary RPC.
func (i *intercepted) invoke(ctx context.Context, args, reply any) error {
	s, err := i.selection.Intercept(ctx, func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return &unaryStream{rpc: i.next(opts), ctx: ctx}, nil
	}, i.opts...)
	if err == nil && s == nil {
		err = errNoStream
	}
	if err != nil {
		return i.finish(err)
	}
	err = i.exchange(s, args, reply)
	i.selection.committed() // a stream of the interceptor's own does not call it
	if !i.began.Load() {
		i.reportFinished(err)
	}
	return err
}

// exchange sends the request of a unary RPC on s and receives the response.
func (i *intercepted) exchange(s grpc.ClientStream, args, reply any) error {
	if err := s.SendMsg(args); err != nil && err != io.EOF {
		return err
	}
	// Streams of an interceptor's own find the end of the request and of the RPC in
	// these, as on grpc-go's channels.
	if err := s.CloseSend(); err != nil && err != io.EOF {
		return err
	}
	if err := s.RecvMsg(reply); err != nil {
		return err
	}
	if err := s.RecvMsg(reply); err == nil {
		return i.noted(withCause(status.New(codes.Internal, "the interceptor's stream of a unary RPC received a second message")), StageNone, nil)
	} else if err != io.EOF {
		return err
	}
	return nil
}

var errNoStream = status.Error(codes.Internal, "the interceptor of the call config selector returned neither a stream nor an error")

// newStream makes a stream. done is called when it has ended.
func (i *intercepted) newStream(ctx context.Context, desc *grpc.StreamDesc, done func(error)) (grpc.ClientStream, error) {
	done = onceErr(done)
	returned := false
	defer func() {
		if !returned && !i.began.Load() { // the interceptor has panicked; a stream that it began calls done
			done(errUnwound)
		}
	}()
	s, err := i.selection.Intercept(ctx, func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		cs := &clientStream{rpc: i.next(append(opts[:len(opts):len(opts)], grpc.OnFinish(done)))}
		return cs.start(ctx, desc)
	}, i.opts...)
	returned = true
	if err == nil && s == nil {
		err = errNoStream
	}
	if err != nil {
		err = i.finish(err)
		done(err)
		return nil, err
	}
	if !i.began.Load() { // a stream of the interceptor's own, which no attempt follows
		i.selection.committed()
		done(nil)
	}
	return s, nil
}

func onceErr(f func(error)) func(error) {
	var once sync.Once
	return func(err error) { once.Do(func() { f(err) }) }
}

// oneForOne describes the stream of a unary RPC.
var oneForOne = &grpc.StreamDesc{}

// unaryStream is a unary RPC as an interceptor sees it: a stream that sends one message
// and receives one. As long as it is used so, it is made as every unary RPC, when the
// reply is received. Use of anything else makes it a stream in earnest.
type unaryStream struct {
	rpc
	ctx context.Context

	args     any
	sent     bool
	received error             // what RecvMsg returned; nil: it has not been called
	stream   grpc.ClientStream // nil: not in earnest
}

func (u *unaryStream) SendMsg(m any) error {
	if u.stream != nil {
		return u.stream.SendMsg(m)
	}
	if u.sent {
		return status.Error(codes.Internal, "SendMsg called after CloseSend")
	}
	u.args, u.sent = m, true
	return nil
}

func (u *unaryStream) CloseSend() error {
	if u.stream != nil {
		return u.stream.CloseSend()
	}
	return nil // of no effect after the message
}

func (u *unaryStream) RecvMsg(m any) error {
	switch {
	case u.stream != nil:
		return u.stream.RecvMsg(m)
	case u.received != nil:
		return u.received
	case !u.sent:
		return status.Error(codes.Internal, "RecvMsg of a unary RPC called before SendMsg")
	}
	err := u.rpc.unary(u.ctx, u.args, m)
	if u.received = err; err == nil {
		u.received = io.EOF
	}
	return err
}

// earnest makes the RPC a stream.
func (u *unaryStream) earnest() error {
	if u.stream != nil || u.received != nil {
		return nil
	}
	cs := &clientStream{rpc: u.rpc}
	s, err := cs.start(u.ctx, oneForOne)
	if err != nil {
		u.received = err
		return err
	}
	u.stream = s
	if u.sent {
		err = s.SendMsg(u.args)
	}
	return err
}

func (u *unaryStream) Header() (metadata.MD, error) {
	if err := u.earnest(); err != nil {
		return nil, err
	}
	if u.stream == nil {
		return metadata.MD{}, nil
	}
	return u.stream.Header()
}

func (u *unaryStream) Trailer() metadata.MD {
	if u.stream == nil {
		return metadata.MD{}
	}
	return u.stream.Trailer()
}

func (u *unaryStream) Context() context.Context {
	if u.stream == nil {
		return u.ctx
	}
	return u.stream.Context()
}

var _ grpc.ClientStream = (*unaryStream)(nil)
