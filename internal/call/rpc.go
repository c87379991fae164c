package call

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// rpc is one RPC, unary or stream. It belongs to the goroutine that makes
// attempts; what is not said to change is set by start.
type rpc struct {
	ch     *Channel
	method string
	opts   []grpc.CallOption
	via    Endpoint // not nil: an RPC on one subchannel, without picker, config, retry
	began  time.Duration

	set        settings
	optErr     error
	policy     *policy
	hedging    *serviceconfig.HedgingPolicy // nil: no policy
	hedge      *hedge                       // that this is an attempt of; nil: none
	retry      *serviceconfig.RetryPolicy   // nil: no policy, or the request is larger than what may be kept for it
	md         metadata.MD                  // of the caller's context, validated
	compressor compressor
	encoding   string             // grpc-encoding of what is sent
	cancel     context.CancelFunc // ends what start derived from the caller's context; nil: nothing

	sendsMany, receivesMany bool // the kind of RPC, for stats

	selection *Selection // the channel's selector's; nil: there is none
	counted   bool       // the RPC that an interceptor made this one for counts on the channel

	// lends says that what a stream's program sends is sent once, while the program waits, and that no
	// copy of it is kept. It is the sender's.
	lends bool

	// isEncoding is set while a stream's sender makes bytes of a message; nil for a unary RPC.
	isEncoding *atomic.Bool

	// These change while attempts are made.
	resolverDelayed bool
	effort
	preparing Stage      // StageEncode or StageCredentials if the attempt in progress is or was there
	refused   *h2.Conn   // took no stream the last time
	gaveBack  *Transport // did not process the request the last time
	answers   uint32     // of gaveBack's connection at that time
	tries     tries
}

// effort is what an RPC has taken, but for the stream of its latest attempt.
type effort struct {
	times    Times
	attempts int
	wired    bool // a stream was opened
}

// defaults are the channel's call options, which an RPC on one subchannel does not have.
func (r *rpc) defaults() []grpc.CallOption {
	if r.via != nil {
		return nil
	}
	return r.ch.cfg.DefaultOptions
}

// options applies all call options. start returns their errors.
func (r *rpc) options() {
	if r.via == nil && r.ch.base != nil {
		r.set, r.optErr = *r.ch.base, r.ch.baseErr
	}
	if err := r.set.applyAll(r.opts); r.optErr == nil {
		r.optErr = err
	}
}

// start does what comes before the first attempt. The context it returns
// bounds the RPC: the caller's or its selection's, or one with the earlier deadline of
// the method's config. If the selection intercepts, nothing else has been done.
func (r *rpc) start(ctx context.Context) (context.Context, error) {
	if r.ch.isClosed() || r.via == nil && r.ch.refusing.Load() {
		return ctx, grpc.ErrClientConnClosing
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	if err := validMetadata(md); err != nil {
		return ctx, err
	}
	r.md = md
	var mc serviceconfig.MethodConfig
	if r.via == nil {
		if err := r.awaitResolved(ctx); err != nil {
			return ctx, err
		}
		if err := r.choose(ctx); err != nil {
			return ctx, err
		}
		if r.selection.intercepts() {
			if r.selection.Context != nil {
				ctx = r.selection.Context
			}
			return ctx, nil
		}
		r.policy = r.ch.policy.Load()
		if r.selection == nil {
			mc = r.policy.config.Method(r.method)
		} else {
			mc = r.selection.Method
			if r.selection.Context != nil {
				ctx = r.selection.Context
				r.md, _ = metadata.FromOutgoingContext(ctx)
				if err := validMetadata(r.md); err != nil {
					return ctx, err
				}
			}
		}
		if !r.ch.cfg.DisableRetry {
			r.retry, r.hedging = mc.RetryPolicy, mc.HedgingPolicy
		}
	}
	if r.optErr != nil {
		return ctx, r.optErr
	}
	r.set.limits(&mc)
	if err := r.set.chooseCodec(); err != nil {
		return ctx, err
	}
	if err := r.chooseCompressor(); err != nil {
		return ctx, err
	}
	if d := mc.Timeout; d != nil && *d >= 0 {
		if at, ok := ctx.Deadline(); !ok || time.Until(at) > *d {
			ctx, r.cancel = context.WithTimeout(ctx, *d)
		}
	}
	return ctx, nil
}

// attempt is one try at one connection. Each try has a new one.
type attempt struct {
	ctx       context.Context // with the stats handlers' tags
	conn      *h2.Conn
	s         *h2.Stream // nil: none was opened
	authority string
	transport *Transport  // that conn is of
	md        metadata.MD // the RPC's own as it is sent, the picker's included; set by request

	done   func(balancer.DoneInfo) // the picker's; nil: none
	pickMD metadata.MD             // the picker's

	began       time.Time // for stats
	pickDelayed bool
}

func (a *attempt) peerAddr() string { return connAddr(a.conn) }

// connect begins an attempt: its context, its stats, a connection.
func (r *rpc) connect(ctx context.Context, a *attempt, transparent bool) (drop bool, err error) {
	a.ctx = ctx
	if err := ctx.Err(); err != nil {
		at := StageConnect
		if r.attempts == 0 && r.times == (Times{}) {
			at = StageBegin
		}
		return true, r.contextEnded(ctx, err, at, nil, nil)
	}
	r.attempts++
	r.preparing = StageNone
	if r.tagged() {
		r.reportBegin(a, transparent)
	}
	if drop, err = r.pick(a.ctx, a); err != nil {
		return drop, r.noted(err, StagePick, a)
	}
	if r.tagged() {
		r.reportPicked(a)
	}
	return false, nil
}

// request fills in what the attempt's HEADERS say. What credentials send comes
// before the RPC's own metadata, and that before what the picker adds, so that a
// server that looks at a key's first value sees the same as from grpc-go.
func (r *rpc) request(a *attempt, req *h2.Request) error {
	return r.noted(r.fill(a, req), StageCredentials, a)
}

func (r *rpc) fill(a *attempt, req *h2.Request) error {
	md := r.md
	if r.tagged() {
		// A handler's tag may have added metadata.
		var err error
		if md, err = r.taggedMetadata(a); err != nil {
			return err
		}
	}
	if a.pickMD != nil {
		if err := validMetadata(a.pickMD); err != nil {
			return err
		}
		md = metadata.Join(md, a.pickMD)
	}
	a.md = md
	if more := a.transport.Metadata; more != nil {
		if err := validMetadata(more); err != nil {
			return err
		}
		md = metadata.Join(md, more)
	}
	if err := r.overrideAuthority(a); err != nil {
		return err
	}
	extra, err := r.fromCredentials(a)
	if err != nil {
		return err
	}
	*req = h2.Request{
		Method:           r.method,
		Authority:        a.authority,
		ContentSubtype:   r.set.subtype,
		Encoding:         r.encoding,
		AcceptEncoding:   r.acceptEncoding(),
		PreviousAttempts: r.tries.policy,
		Began:            r.attemptBegan(),
		Metadata:         md,
		Extra:            extra,
		MaxRecv:          r.set.maxRecv,
		Aside:            r.via != nil,
	}
	return nil
}

// attemptBegan is about when the attempt began. The clock is read only if the RPC
// has waited before, or has failed.
func (r *rpc) attemptBegan() time.Time {
	began := r.began
	if r.times.Connecting > 0 || r.times.Picking > 0 || r.resolverDelayed || r.tries != (tries{}) {
		began = r.ch.now()
	}
	return r.ch.epoch.Add(began)
}

// outcome is how an attempt ended, for retryDecision and for the caller.
type outcome struct {
	err error // nil: well

	drop        bool // no attempt may follow
	unsent      bool
	unprocessed bool
	timedOut    bool     // the attempt's own time was over
	progress    bool     // with unprocessed: the server has served other RPCs
	busy        bool     // with unprocessed: the server is serving other RPCs
	refused     bool     // with unprocessed: by REFUSED_STREAM, so the connection goes on
	orderly     bool     // with unprocessed: by GOAWAY without an error
	headers     bool     // response headers came
	pushback    []string // grpc-retry-pushback-ms
}

// refusal is the outcome if no stream was opened because of he.
func (r *rpc) refusal(a *attempt, he *h2.Error) outcome {
	if he.Conn != nil {
		a.conn = he.Conn
	}
	if he.Unsent && !he.Local {
		r.refused = a.conn
	}
	err := r.streamError(a, he)
	r.times.add(nil, he)
	return outcome{err: err, drop: he.Local || isContextEnd(err), unsent: he.Unsent, unprocessed: he.Unprocessed}
}

// failure is the outcome if the attempt's stream has ended with he.
func (r *rpc) failure(a *attempt, he *h2.Error) outcome {
	err := r.streamError(a, he)
	o := outcome{
		err:         err,
		drop:        he.Local || isContextEnd(err),
		unsent:      he.Unsent,
		unprocessed: he.Unprocessed,
		headers:     a.s.HasHeader(),
	}
	if he.Unsent && !he.Local {
		r.refused = a.conn
	}
	if he.Unprocessed {
		r.givenBack(a, he, &o)
	}
	if !r.ch.cfg.DisableRetry {
		o.pushback = a.s.TrailerValues("grpc-retry-pushback-ms")
	}
	return o
}

// givenBack completes the outcome of an attempt that the server did not process.
func (r *rpc) givenBack(a *attempt, he *h2.Error, o *outcome) {
	answers := a.conn.Answers()
	if o.refused = he.Cause == nil; o.refused {
		o.busy = he.Serving
		o.progress = r.gaveBack == a.transport && r.answers != answers
	} else {
		o.orderly, o.progress = h2.IsOrderly(he.Cause), he.Serving
	}
	r.gaveBack, r.answers = a.transport, answers
}

// end reports to the picker and the stats handlers how the attempt ended. The
// attempt's stream, if any, has ended.
func (r *rpc) end(a *attempt, err error) {
	if a.done == nil && !r.tagged() {
		return
	}
	var trailer metadata.MD
	received := false
	if a.s != nil {
		trailer = a.s.Trailer()
		received = a.s.BytesReceived()
	}
	if a.done != nil {
		info := balancer.DoneInfo{Err: err, Trailer: trailer, BytesSent: a.s != nil, BytesReceived: received}
		if r.ch.cfg.Hooks.ServerLoad != nil && trailer != nil {
			info.ServerLoad = r.ch.cfg.Hooks.ServerLoad(trailer)
		}
		a.done(info)
	}
	if r.tagged() {
		r.reportEnd(a, trailer, err)
	}
}

// leave counts the RPC out of the channel's, if it counts among them.
func (r *rpc) leave(ok bool) {
	if r.via == nil && !r.counted {
		r.ch.leave(ok)
	}
}

// errUnwound is what an RPC ends with in which code of the program's does not return.
var errUnwound = status.Error(codes.Internal, "a panic, or runtime.Goexit, in code of the program's ended the RPC")

// unwound is deferred by what makes an attempt. Unless that has returned, it reports the end
// to the picker, which may count the RPCs of each backend: the program may recover.
func (a *attempt) unwound(returned *bool) {
	if !*returned && a.done != nil {
		a.done(balancer.DoneInfo{Err: errUnwound, BytesSent: a.s != nil})
	}
}

// succeeded gives the retry throttle its due.
func (r *rpc) succeeded() {
	if r.policy != nil && !r.ch.cfg.DisableRetry {
		r.policy.throttle.success()
	}
}
