package call

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/text"
)

// Error is how an RPC ended, if more is known than a status: it is a status
// error (GRPCStatus, and errors.Is with what status.Error returns) and unwraps to
// its causes. An RPC that the server ended has a plain status error instead.
//
// It matches no standard sentinel (package mask says which and why), except
// context.DeadlineExceeded or context.Canceled if the RPC's own context ended it.
//
// An error that the channel makes by itself holds what is needed for its text and
// causes. Both are made when they are first read, since an outage makes many errors
// of which little is read but the code. All methods may be called from any goroutine.
type Error struct {
	// Stage is where the RPC was when it ended.
	Stage Stage
	// Elapsed is the time since the RPC began, in all attempts, Times what it was spent
	// on, and OnWire what is left of it if a stream was opened.
	Elapsed time.Duration
	Times
	OnWire time.Duration
	// Attempts is how many were made, the last one included.
	Attempts int
	// Peer is the address of the connection in use, if there was one.
	Peer string

	code    codes.Code
	ended   error                           // context.DeadlineExceeded or context.Canceled if the RPC's own context ended it, else nil
	context error                           // what that context returned; nil: the RPC ended otherwise
	attempt int                             // of a retry policy, from 1; 0: the first one
	failed  error                           // the latest failure of what was waited for, or the picker's; may be nil
	reason  Reason                          // why there is no connection; may be nil
	at      time.Time                       // zero until note has set what is above
	as      func(e *Error, target any) bool // Hooks.ErrorAs
	said    bool                            // the status came from elsewhere

	statusOnce sync.Once
	status     *status.Status // not made by statusOnce if said is true
	causesOnce sync.Once
	causes     []error // as they came; causesOnce masks them, and adds ended and what reason says
}

// Reason is why a channel has no connection, as it was known at one moment. RPCs that
// fail because of it share it. Its methods may be called from any goroutine.
type Reason interface {
	// Err returns the reason as the cause of an RPC that failed at a time, after it had
	// run for that long.
	Err(at time.Time, elapsed time.Duration) error
	// Text returns the reason on one line for such an RPC, in at most that many bytes, a
	// hundred or more. failed is the error that came from the
	// picker, which is in the text unless it says nothing else; nil: none did.
	Text(failed error, at time.Time, most int) string
}

// Error returns the text of a status error. That of an RPC that found no connection
// says more than its status.
func (e *Error) Error() string {
	st := e.GRPCStatus()
	if e.reason != nil && !e.said {
		st = status.New(e.code, e.message(maxErrorText))
	}
	return st.Err().Error()
}

// GRPCStatus makes status.FromError and status.Code work.
func (e *Error) GRPCStatus() *status.Status {
	e.statusOnce.Do(func() {
		if !e.said {
			e.status = status.New(e.code, e.message(MaxStatusText))
		}
	})
	return e.status
}

// Unwrap returns the causes: the context's error, the failure of the
// connection, what a codec or credentials returned.
func (e *Error) Unwrap() []error {
	e.causesOnce.Do(func() {
		causes := e.causes
		e.causes = make([]error, 0, 2+len(causes))
		if e.ended != nil {
			e.causes = append(e.causes, e.ended)
		}
		for _, c := range causes {
			e.causes = append(e.causes, mask.RPC(c))
		}
		if e.reason != nil {
			e.causes = append(e.causes, mask.RPC(e.reason.Err(e.at, e.Elapsed)))
		}
	})
	return e.causes
}

// As serves errors.As for the error's public type.
func (e *Error) As(target any) bool { return e.as != nil && e.as(e, target) }

// Is reports whether target is a status error with the same code, message and details.
func (e *Error) Is(target error) bool {
	_, ok := target.(interface{ GRPCStatus() *status.Status })
	return ok && errors.Is(e.GRPCStatus().Err(), target)
}

// codeOf is status.Code, without making an Error's text.
func codeOf(err error) codes.Code {
	if e, ok := err.(*Error); ok {
		return e.code
	}
	return status.Code(err)
}

// withCause is a status error that unwraps to causes; nil ones are left out.
func withCause(st *status.Status, causes ...error) *Error {
	e := &Error{code: st.Code(), status: fit(st), said: true}
	for _, c := range causes {
		if c != nil {
			e.causes = append(e.causes, c)
		}
	}
	return e
}

// fit returns st, whose message this side composed, with that message fit to leave the
// library: it may hold what a peer, a policy or a resolver said. A status that a server
// sent for the RPC itself is handed on as it came.
func fit(st *status.Status) *status.Status {
	message := st.Message()
	line := text.Line(message)
	if line == message {
		return st
	}
	p := st.Proto()
	p.Message = line
	return status.FromProto(p)
}

// unavailable is the error of an RPC that found no connection because of why. failed
// is what the picker returned. Either may be nil.
func (r *rpc) unavailable(failed error, why Reason) *Error {
	e := &Error{code: codes.Unavailable, failed: failed, reason: why}
	if failed != nil {
		e.causes = []error{failed}
	}
	return r.note(e, StageConnect, nil, r.effort)
}

// note sets where the RPC was, in attempt a (nil: none), when e ended it, and what it
// had taken until then, a's stream not included.
func (r *rpc) note(e *Error, at Stage, a *attempt, spent effort) *Error {
	now := r.ch.now()
	e.Stage, e.Attempts, e.at, e.as = at, spent.attempts, r.ch.epoch.Add(now), r.ch.cfg.Hooks.ErrorAs
	if a != nil {
		e.Peer = a.peerAddr()
		spent.times.add(a.s, nil)
	}
	e.Elapsed, e.Times = now-r.began, spent.times
	if spent.wired {
		e.OnWire = e.left(e.Elapsed)
	}
	return e
}

// noted is note for an error that may be of another type, or may have been noted before.
func (r *rpc) noted(err error, at Stage, a *attempt) error {
	if e, ok := err.(*Error); ok && e.at.IsZero() {
		return r.note(e, at, a, r.effort)
	}
	return err
}

// contextEnded is the error of an RPC whose context ended while it was at a stage, in
// attempt a (nil: none). cerr is context.DeadlineExceeded or context.Canceled; last is
// the latest failure of what was waited for, if any.
func (r *rpc) contextEnded(ctx context.Context, cerr error, at Stage, a *attempt, last error) *Error {
	return r.contextEndedAfter(ctx, cerr, at, a, last, r.effort)
}

// contextEndedAfter is contextEnded for an RPC that has taken so much.
func (r *rpc) contextEndedAfter(ctx context.Context, cerr error, at Stage, a *attempt, last error, spent effort) *Error {
	e := r.note(&Error{code: codeOfContext(cerr), context: cerr, failed: last}, at, a, spent)
	e.ended = standardContextError(cerr)
	if cerr != e.ended { // of a context of the program's own making
		e.causes = append(e.causes, cerr)
	}
	// context.Cause says more only if the cancellation had a cause.
	if cause := context.Cause(ctx); cause != nil && cause != cerr {
		e.causes = append(e.causes, cause)
	}
	if last != nil {
		e.causes = append(e.causes, last)
	}
	if r.tries.policy > 0 {
		e.attempt = r.tries.policy + 1
	}
	if at == StageResolve || at == StageConnect {
		e.reason = r.explain()
	}
	return e
}

// What the text of an RPC that found no connection is bounded by, in bytes: of the status
// message, which goes over the wire if a server's handler returns the error as its own,
// and of what Error returns, which programs log.
const (
	MaxStatusText = 300
	maxErrorText  = 1000
)

// message is the status message of an error that the channel made by itself.
func (e *Error) message(most int) string {
	var room [MaxStatusText + 100]byte // most messages fit, so that they are made once
	b := e.appendEnding(room[:0])
	switch {
	case e.reason != nil:
		said := e.reason.Text(e.failed, e.at, max(most-len(b), most/3))
		if len(b) == 0 {
			return text.Cut(said, most)
		}
		return text.Cut(string(append(b, said...)), most)
	case e.failed != nil:
		b = append(b, text.Line(statusText(e.failed))...)
	}
	return string(b)
}

// appendEnding appends to b how the RPC's context ended it, if that is so, up to the failure or
// the reason that follows.
func (e *Error) appendEnding(b []byte) []byte {
	if e.context == nil {
		return b
	}
	if e.context == e.ended { // a text of package context's own
		b = append(b, e.ended.Error()...)
	} else {
		b = append(b, text.Of(e.context)...)
	}
	b = append(append(b, " after "...), text.Round(e.Elapsed).String()...)
	if e.attempt > 0 {
		b = append(append(b, ", in attempt "...), strconv.Itoa(e.attempt)...)
	}
	b = append(append(b, ": "...), e.Stage.where(e.Peer, &e.Times)...)
	b = append(b, e.spent(e.OnWire, e.Stage)...)
	if e.failed != nil && e.reason == nil {
		b = append(b, ": latest failure"...)
	}
	if e.failed != nil || e.reason != nil {
		b = append(b, ": "...)
	}
	return b
}

// statusText is err's text without the words status errors begin with.
func statusText(err error) string {
	if st, ok := status.FromError(err); ok {
		return st.Message()
	}
	return err.Error()
}

// standardContextError is the one of package context's two errors that err is; nil
// if it is neither.
func standardContextError(err error) error {
	for _, e := range [...]error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, e) {
			return e
		}
	}
	return nil
}

func codeOfContext(err error) codes.Code {
	switch standardContextError(err) {
	case context.DeadlineExceeded:
		return codes.DeadlineExceeded
	case context.Canceled:
		return codes.Canceled
	}
	return codes.Unknown
}

// explain is why the channel has no connection now; nil if nothing is known of that.
func (r *rpc) explain() Reason {
	if r.ch.cfg.Owner == nil {
		return nil
	}
	return r.ch.cfg.Owner.Explain()
}

// streamError is what the RPC ends with if its stream ended with he, or was not opened
// because of it.
func (r *rpc) streamError(a *attempt, he *h2.Error) error {
	code := he.Status.Code()
	switch {
	case he.Cause != nil && code == codes.Canceled:
		// The connection was cut on purpose.
		return r.streamLost(a, he, grpc.ErrClientConnClosing)
	case (he.Unsent || he.Unprocessed) && !he.Local && expired(a.ctx):
		// There is no time left for another attempt, be it that the context has not
		// noticed yet. A request that the server did not take ends for that reason.
		spent := r.effort
		spent.times.add(nil, he)
		return r.contextEndedAfter(a.ctx, context.DeadlineExceeded, StageBackoff, a, r.streamLost(a, he), spent)
	case he.Cause != nil:
		return r.streamLost(a, he)
	case he.Local && r.ch.isClosed() && a.ctx.Err() == nil && code == codes.Canceled:
		return grpc.ErrClientConnClosing
	case he.Local && code == codes.DeadlineExceeded:
		return r.streamEnded(a, context.DeadlineExceeded, he)
	case he.Local && code == codes.Canceled:
		return r.streamEnded(a, context.Canceled, he)
	case code == codes.DeadlineExceeded && expired(a.ctx):
		// The server was faster to notice: the same event, and what it says besides.
		e := r.streamEnded(a, context.DeadlineExceeded, he)
		p := he.Status.Proto()
		p.Message = e.GRPCStatus().Message() + "; the server said: " + text.Line(p.Message)
		e.status, e.said = status.FromProto(p), true
		return e
	}
	return he.Status.Err()
}

// streamLost is the error of an RPC whose attempt ended with he, which no context
// ended, and its causes.
func (r *rpc) streamLost(a *attempt, he *h2.Error, causes ...error) *Error {
	spent := r.effort
	spent.times.add(nil, he)
	return r.note(withCause(he.Status, append(causes, he.Cause)...), r.stageOf(he), a, spent)
}

// streamEnded is contextEnded for an RPC whose stream ended with he, or was not
// opened because of it.
func (r *rpc) streamEnded(a *attempt, cerr error, he *h2.Error) *Error {
	spent := r.effort
	spent.times.add(nil, he)
	return r.contextEndedAfter(a.ctx, cerr, r.stageOf(he), a, nil, spent)
}

// expired reports whether ctx's deadline has passed, be it that ctx has not
// noticed yet.
func expired(ctx context.Context) bool {
	at, ok := ctx.Deadline()
	return ok && !time.Now().Before(at)
}

// restricted reports whether gRFC A54 forbids the control plane (pickers,
// credentials) to end an RPC with this code.
func restricted(c codes.Code) bool {
	switch c {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition,
		codes.Aborted, codes.OutOfRange, codes.DataLoss:
		return true
	}
	return false
}

// controlPlaneError is the status error err as gRFC A54 allows it; nil if err is
// no status error.
func controlPlaneError(source string, err error) error {
	if mask.HidesStatus(err) || !errors.As(err, new(interface{ GRPCStatus() *status.Status })) {
		return nil // FromError would put err into words
	}
	st, ok := status.FromError(err)
	switch {
	case !ok:
		return nil
	case restricted(st.Code()):
		return withCause(status.Newf(codes.Internal, "%s returned a status it must not return: %v", source, err), err)
	}
	return withCause(st, err)
}
