package call

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// clientStream is a grpc.ClientStream. One goroutine may send while another
// receives; Context, Header and Trailer may be called by either.
type clientStream struct {
	rpc
	desc *grpc.StreamDesc

	// ctx bounds the RPC and is cancelled at its end. Set once.
	ctx    context.Context
	cancel context.CancelFunc

	mu sync.Mutex // guards what follows; no user code and no I/O under it

	// att is the attempt in force. While busy is not nil, the goroutine that made busy is
	// replacing att and has the rpc's fields for attempts to itself; busy is closed when
	// att is the new one.
	att  *streamAttempt
	busy chan struct{}

	committed bool      // no other attempt: log is not added to any more
	ended     bool      // the RPC, with err
	log       replayLog // read by the goroutine that replaces att, not freed while busy
	known     effort    // what the RPC had taken when att was put in force

	err       error         // once ended: as RecvMsg returns it, io.EOF if all went well; but see receive
	isSettled bool          // what Header and Trailer options point to is written
	settled   chan struct{} // closed then; nil while nothing waits for that
	stopWatch func() bool   // takes back the watch on ctx; nil: there is none

	userCtx context.Context // what Context returned; nil: nothing yet

	hedged bool // a goroutine has made hedged attempts

	// Guarded by ch.mu.
	next, prev *clientStream
	enlisted   bool

	// The sender's alone.
	sentLast bool // no message may follow

	encodes atomic.Bool // the sender makes bytes of a message

	// The receiver's alone.
	final error          // what RecvMsg returned at the end, and returns again; nil: nothing yet
	from  *streamAttempt // what messages were received from, so that no other attempt follows; nil: none yet
	enc   string         // its grpc-encoding
}

// NewStream opens a stream, below the interceptors. It follows the contract of
// grpc.ClientConn.NewStream; ctx bounds the whole stream. A stream that is not
// read to its end holds its place until ctx ends or the channel is closed. No
// goroutine belongs to a stream, unless ctx is of a type of the caller's own that
// package context has to watch with one.
func (ch *Channel) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cs := &clientStream{rpc: rpc{ch: ch, method: method, opts: opts, began: ch.now()}}
	ch.enter(cs.began)
	return cs.start(ctx, desc)
}

// start makes the first attempt. On an error everything is undone, and the end reported.
func (cs *clientStream) start(ctx context.Context, desc *grpc.StreamDesc) (grpc.ClientStream, error) {
	if desc == nil {
		cs.leave(false)
		return nil, status.Error(codes.Internal, "NewStream: the StreamDesc is nil")
	}
	cs.desc = desc
	cs.sendsMany, cs.receivesMany = desc.ClientStreams, desc.ServerStreams
	cs.isEncoding = &cs.encodes
	ctx, err := cs.prepare(ctx)
	if err == nil && cs.selection.intercepts() {
		return cs.rpc.intercept().newStream(ctx, desc, func(err error) { cs.ch.leave(err == nil) })
	}
	if err == nil && !cs.ch.enlist(cs) {
		err = grpc.ErrClientConnClosing
	}
	if err != nil {
		return nil, cs.finish(err)
	}
	// From here on Close may end the stream at any time.
	if a := cs.firstAttempt(); !cs.publish(a) || a.s == nil {
		return nil, cs.finish(a.err)
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if !cs.ended {
		// Starts no goroutine before ctx ends, and f runs on one of its own.
		cs.stopWatch = context.AfterFunc(cs.ctx, cs.contextDone)
	}
	return cs, nil
}

// prepare is what comes before the stream is enlisted. It counts the RPC out if code of the
// program's panics there, or calls runtime.Goexit: a codec, a config selector.
func (cs *clientStream) prepare(ctx context.Context) (context.Context, error) {
	returned := false
	defer func() {
		if !returned {
			cs.leave(false)
		}
	}()
	cs.options()
	ctx, err := cs.rpc.start(ctx)
	if err != nil || !cs.selection.intercepts() {
		cs.ctx, cs.cancel = context.WithCancel(ctx)
	}
	returned = true
	return ctx, err
}

// firstAttempt makes the RPC's first attempts. It ends the RPC if code of the program's panics
// there, or calls runtime.Goexit: for a program that recovers the RPC does not run any more.
func (cs *clientStream) firstAttempt() *streamAttempt {
	returned := false
	defer func() {
		if !returned {
			cs.giveUp(errUnwound)
		}
	}()
	a := cs.run(retryVerdict{}, nil)
	returned = true
	return a
}

// contextDone ends an RPC whose context ended, also if the program does not use the
// stream any more. It replaces the attempt in force by the same one, so that no other
// goroutine makes another meanwhile.
func (cs *clientStream) contextDone() {
	if !cs.ch.stepAside() {
		return // Close ends the RPC
	}
	defer cs.ch.stepBack()
	a, err := cs.hold()
	if a == nil {
		return
	}
	if err == nil {
		a.s.Cancel(status.FromContextError(cs.ctx.Err())) // as its own watch does; only one of the two counts
		<-a.s.Finished()
		if he := a.s.Err(); he != nil && he.GivenUp {
			err = cs.streamEnded(&a.attempt, cs.ctx.Err(), he)
		} else {
			err = cs.contextEnded(cs.ctx, cs.ctx.Err(), StageUnread, &a.attempt, cs.verdictOf(a))
		}
	}
	cs.giveUp(err)
	cs.publish(a)
}

// heedContext ends a's stream if the RPC's context has ended, so that nothing that the
// program sends from then on reaches the server: the watches on the context run on goroutines
// of their own, and a half-close that overtakes them is the end of a complete request.
func (cs *clientStream) heedContext(a *streamAttempt) {
	if err := cs.ctx.Err(); err != nil {
		a.s.Cancel(status.FromContextError(err))
	}
}

// hold sets busy once no other goroutine is replacing the attempt in force. It returns
// that attempt, and why it failed if that was decided already: that error may say more
// than that the context ended. nil: the RPC has ended.
func (cs *clientStream) hold() (*streamAttempt, error) {
	for {
		a := cs.current() // not long: the goroutine that replaces it finds the context ended too
		if a == nil {
			return nil, nil
		}
		cs.mu.Lock()
		if !cs.ended && cs.busy == nil && cs.att == a {
			cs.busy = make(chan struct{})
			err := a.err
			cs.mu.Unlock()
			return a, err
		}
		cs.mu.Unlock()
	}
}

// Context returns the RPC's context, with the peer. It ends with the RPC. No
// other attempt is made once it has been called.
func (cs *clientStream) Context() context.Context {
	defer cs.selection.committed()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.commitLocked()
	if cs.userCtx == nil {
		cs.userCtx = cs.ctx
		undecided := cs.hedged && cs.busy != nil // which attempt it will be
		if cs.att != nil && cs.att.conn != nil && !undecided {
			cs.userCtx = peer.NewContext(cs.att.ctx, cs.att.conn.Peer())
		}
	}
	return cs.userCtx
}

// Header waits for the response headers. Both results are nil if the RPC ends
// without them; RecvMsg returns how it ended.
func (cs *clientStream) Header() (metadata.MD, error) {
	for {
		a := cs.current()
		if a == nil {
			return cs.headerAfterEnd(), nil
		}
		if a.s == nil {
			cs.finish(a.err)
			return nil, nil
		}
		md, ok := a.s.Header(cs.ctx)
		if ok {
			cs.mu.Lock()
			mine := cs.att == a && cs.busy == nil
			if mine {
				cs.commitLocked()
			}
			cs.mu.Unlock()
			if mine {
				a.limit.stop()
				cs.selection.committed()
				cs.sawHeader(a)
				return md, nil
			}
			continue
		}
		<-a.s.Finished()
		if cs.retryAfter(a) {
			continue
		}
		cs.finish(cs.verdictOf(a))
		return nil, nil
	}
}

// headerAfterEnd returns the headers of an RPC that has ended; nil if none came.
func (cs *clientStream) headerAfterEnd() metadata.MD {
	cs.mu.Lock()
	a := cs.att.visible()
	cs.mu.Unlock()
	if a == nil {
		return nil
	}
	<-a.s.Finished()
	return a.s.HeaderMD()
}

// Trailer returns the trailers in a map that is the caller's own and never nil: empty
// before the stream's end, and if none came.
func (cs *clientStream) Trailer() metadata.MD {
	cs.mu.Lock()
	cs.commitLocked()
	a := cs.att.visible()
	cs.mu.Unlock()
	cs.selection.committed()
	if a == nil {
		return metadata.MD{}
	}
	select {
	case <-a.s.Finished():
		return a.s.Trailer()
	default:
		return metadata.MD{}
	}
}

// SendMsg sends a message, and half-closes after it if the RPC has no client
// stream. io.EOF: the RPC has ended, and RecvMsg returns how; RPCs without client
// stream get nil instead.
func (cs *clientStream) SendMsg(m any) error {
	if cs.sentLast {
		err := status.Error(codes.Internal, "SendMsg called after CloseSend")
		cs.finish(err)
		return err
	}
	last := !cs.desc.ClientStreams
	cs.sentLast = last
	cs.encodes.Store(true)
	f, err := cs.encode(m)
	cs.encodes.Store(false)
	if err != nil {
		err = cs.unencoded(err)
		cs.finish(err)
		return err
	}
	if cs.send(&f, last, m) || last {
		return nil
	}
	return io.EOF
}

// unencoded notes where the RPC was when a message could not be encoded. Meanwhile
// another goroutine may be making an attempt: what is known is of before.
func (cs *clientStream) unencoded(err error) error {
	e, ok := err.(*Error)
	if !ok {
		return err
	}
	cs.mu.Lock()
	spent := cs.known
	var a *attempt
	if cs.att != nil {
		a = &cs.att.attempt
	}
	cs.mu.Unlock()
	return cs.note(e, StageEncode, a, spent)
}

// send sends f on the attempt in force, and again on the next one as long as
// they fail and may be replaced. It takes f over. false: the RPC has ended.
func (cs *clientStream) send(f *frame, last bool, m any) bool {
	uncompressed, payload := f.uncompressed, f.payload()
	for {
		a := cs.current()
		if a == nil || a.s == nil {
			f.free()
			return false
		}
		if last && cs.hedging != nil && cs.hedgeFrom(a, f, m) {
			return true
		}
		cs.heedContext(a)
		if f.sendOn(a.s, last) != nil {
			<-a.s.Finished()
			if cs.retryAfter(a) {
				continue
			}
			f.free()
			return false
		}
		if cs.tagged() {
			cs.reportOutPayload(&a.attempt, m, uncompressed, payload)
		}
		if cs.keep(a, f, m, last) {
			if cs.selection != nil && cs.isCommitted() { // there is more than can be kept
				cs.selection.committed()
			}
			return true
		}
	}
}

// CloseSend half-closes. It always returns nil.
func (cs *clientStream) CloseSend() error {
	if cs.sentLast {
		return nil
	}
	cs.sentLast = true
	for {
		a := cs.current()
		if a == nil || a.s == nil {
			return nil
		}
		cs.heedContext(a)
		// If the stream has ended, RecvMsg finds it out and may try again.
		_ = a.s.CloseSend()
		if cs.keep(a, nil, nil, true) {
			return nil
		}
	}
}

// RecvMsg receives a message. io.EOF: the server ended the RPC with status OK.
// For RPCs without server stream it also waits for the end: nil means OK.
func (cs *clientStream) RecvMsg(m any) error {
	if err := cs.receive(m, true); err != nil || cs.desc.ServerStreams {
		return err
	}
	if err := cs.receive(nil, false); err != io.EOF {
		return err
	}
	return nil
}

// receive takes the next message and decodes it into m. If none is wanted, one is
// an error, as is the end.
//
// A message that has arrived is never lost to an end that comes after it. Messages that
// arrived whole are received first, whether the server ended the RPC, the loss of its
// connection, a message or frame that breaks a rule, the context, Close or SendMsg. Then
// receive returns
//   - if the stream had ended by itself, the stream's end, even if the RPC has ended
//     since for another reason, which OnFinish, stats handlers and the picker got,
//   - else the end of the RPC, which ended the stream too.
//
// Messages are dropped only where they cannot be received: with an attempt that another
// one follows, and once RecvMsg has returned the end, which it then returns again. Those
// of a stream that the program drops are freed with the stream: neither the connection
// nor the channel refers to it after the RPC's end.
func (cs *clientStream) receive(m any, wanted bool) error {
	if cs.final != nil {
		return cs.final
	}
	for {
		a := cs.from
		if a == nil {
			if a = cs.source(); a == nil {
				return cs.result()
			}
			if a.s == nil {
				return cs.finish(a.err)
			}
		}
		msg, err := a.s.Recv()
		if err != nil {
			cs.from = nil // what follows is for source to say
			<-a.s.Finished()
			if cs.retryAfter(a) {
				continue
			}
			verdict := cs.verdictOf(a)
			if he := a.s.Err(); he != nil && he.GivenUp {
				return cs.finish(verdict) // what ended the RPC knows more, if it was another
			}
			return cs.endWith(a, verdict)
		}
		if cs.from == nil {
			if !cs.commitTo(a) {
				msg.Free()
				a.s.Discard()
				continue
			}
			cs.sawHeader(a)
			cs.from, cs.enc = a, a.s.RecvEncoding()
		}
		if !wanted {
			msg.Free()
			return cs.endWith(a, cardinality(2))
		}
		n, err := cs.readMessage(msg.Data, msg.Compressed, cs.enc, m)
		payload := len(msg.Data)
		msg.Free()
		if err != nil {
			return cs.endWith(a, cs.noted(err, StageDecode, &a.attempt))
		}
		if cs.tagged() {
			cs.reportInPayload(&a.attempt, m, payload, n)
		}
		return nil
	}
}

// endWith ends the RPC with err (nil: without an error), unless it has ended already, and
// returns the RPC's end, which RecvMsg returns from now on. a is the attempt that was
// received from.
func (cs *clientStream) endWith(a *streamAttempt, err error) error {
	cs.finish(err)
	<-a.s.Finished()
	a.s.Discard()
	if cs.final = err; err == nil {
		cs.final = io.EOF
	}
	return cs.final
}
