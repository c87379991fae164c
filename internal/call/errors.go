package call

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/text"
)

// Phase is where an RPC was when its context ended.
type Phase uint8

// The phases, in the order in which an RPC goes through them.
const (
	PhaseNone        Phase = iota // the error does not come from the context's end
	PhaseResolve                  // waiting for the resolver's first result
	PhaseConnect                  // waiting for a connection
	PhasePick                     // waiting for the policy to choose one, though the channel is READY
	PhaseCredentials              // waiting for per-RPC credentials
	PhaseSlot                     // waiting for a free stream on the connection
	PhaseSend                     // waiting for the server to take the whole request
	PhaseFlight                   // sent
	PhaseUnread                   // the stream has ended, but was not received to its end
	PhaseBackoff                  // waiting before the next attempt
)

// where says where an RPC is; peer is the address of its connection, empty if it
// has none.
func (p Phase) where(peer string) string {
	if peer == "" {
		peer = "the server"
	}
	switch p {
	case PhaseResolve:
		return "waiting for the name resolver's first result"
	case PhaseConnect:
		return "waiting for a connection"
	case PhasePick:
		return "waiting for the load-balancing policy to pick a connection"
	case PhaseCredentials:
		return "waiting for per-RPC credentials"
	case PhaseSlot:
		return "waiting for " + peer + " to allow another stream (MAX_CONCURRENT_STREAMS)"
	case PhaseSend:
		return "sending, waiting for " + peer + " to take more"
	case PhaseFlight:
		return "sent, waiting for " + peer + " to answer"
	case PhaseUnread:
		return "the stream to " + peer + " has ended, but was not received to its end"
	case PhaseBackoff:
		return "waiting to try again"
	}
	return "at no particular phase"
}

// Error is how an RPC ended, if more is known than a status: it is a status
// error (GRPCStatus, and errors.Is with what status.Error returns) and unwraps to
// its causes. An RPC that the server ended has a plain status error instead.
//
// It matches no standard sentinel (package mask says which and why), except
// context.DeadlineExceeded or context.Canceled if the RPC's own context ended it.
type Error struct {
	// Phase is where the RPC was when its context ended; PhaseNone if it ended otherwise.
	Phase Phase
	// Elapsed is the time since the RPC began, in all attempts, and Times what it was
	// spent on. They are set with Phase.
	Elapsed time.Duration
	Times
	// Peer is the address of the connection in use, if there was one.
	Peer string

	status *status.Status
	ended  error   // context.DeadlineExceeded or context.Canceled if the RPC's own context ended it, else nil
	causes []error // as they came: Unwrap masks them
}

// Times is how long an RPC waited for one thing and another. What is left of its
// time was spent between it and the server.
type Times struct {
	Resolving  time.Duration // the resolver's first result
	Connecting time.Duration // a connection
	Picking    time.Duration // the policy, on a channel that is READY
	Queued     time.Duration // a free stream
	BackingOff time.Duration // the delay before another attempt
}

// spent lists what an RPC that took elapsed and is at a phase spent its time on. It
// is empty if that is one thing, the phase that it is at.
func (t *Times) spent(elapsed time.Duration, at Phase) string {
	parts := []struct {
		what string
		took time.Duration
		at   Phase
	}{
		{"resolving", t.Resolving, PhaseResolve},
		{"connecting", t.Connecting, PhaseConnect},
		{"picking", t.Picking, PhasePick},
		{"waiting for a stream", t.Queued, PhaseSlot},
		{"backing off", t.BackingOff, PhaseBackoff},
	}
	rest := elapsed
	for _, p := range parts {
		rest -= p.took
	}
	atPeer := at == PhaseSend || at == PhaseFlight
	var all []string
	only := true
	for _, p := range parts {
		if p.took > 0 {
			all = append(all, fmt.Sprintf("%s %v", p.what, text.Round(p.took)))
			only = only && p.at == at
		}
	}
	if atPeer && rest > 0 {
		all = append(all, fmt.Sprintf("on the wire %v", text.Round(rest)))
	}
	if only || atPeer && len(all) == 1 {
		return ""
	}
	return " (" + strings.Join(all, ", ") + ")"
}

func (e *Error) Error() string { return e.status.Err().Error() }

// GRPCStatus makes status.FromError and status.Code work.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Unwrap returns the causes: the context's error, the failure of the
// connection, what a codec or credentials returned.
func (e *Error) Unwrap() []error {
	errs := make([]error, 0, 1+len(e.causes))
	if e.ended != nil {
		errs = append(errs, e.ended)
	}
	for _, c := range e.causes {
		errs = append(errs, mask.RPC(c))
	}
	return errs
}

// Is reports whether target is a status error with the same code, message and details.
func (e *Error) Is(target error) bool {
	_, ok := target.(interface{ GRPCStatus() *status.Status })
	return ok && errors.Is(e.status.Err(), target)
}

// withCause is a status error that unwraps to causes; nil ones are left out.
func withCause(st *status.Status, causes ...error) error {
	e := &Error{status: fit(st)}
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

// contextEnded is the error of an RPC whose context ended while it was at
// phase. cerr is context.DeadlineExceeded or context.Canceled; last is the latest
// failure of what was waited for, if any.
func (r *rpc) contextEnded(ctx context.Context, cerr error, at Phase, peer string, last error) *Error {
	return r.contextEndedAfter(ctx, cerr, at, peer, last, r.times)
}

// contextEndedAfter is contextEnded for an RPC that has spent its time so.
func (r *rpc) contextEndedAfter(ctx context.Context, cerr error, at Phase, peer string, last error, spent Times) *Error {
	e := &Error{Phase: at, Elapsed: r.ch.now() - r.began, Times: spent, Peer: peer}
	e.ended = standardContextError(cerr)
	if cerr != e.ended { // of a context of the program's own making
		e.causes = append(e.causes, cerr)
	}
	// context.Cause says more only if the cancellation had a cause.
	if cause := context.Cause(ctx); cause != nil && cause != cerr {
		e.causes = append(e.causes, cause)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v after %v", cerr, text.Round(e.Elapsed))
	if r.tries.policy > 0 {
		fmt.Fprintf(&b, ", in attempt %d", r.tries.policy+1)
	}
	b.WriteString(": " + at.where(peer) + e.spent(e.Elapsed, at))
	var why error
	if at == PhaseResolve || at == PhaseConnect {
		why = r.explain()
	}
	for _, c := range []error{last, why} {
		if c != nil {
			e.causes = append(e.causes, c)
		}
	}
	if last != nil && why == nil {
		b.WriteString(": latest failure")
	}
	if latest := joined(last, why); latest != "" {
		b.WriteString(": " + latest)
	}
	e.status = status.New(codeOfContext(cerr), text.Line(b.String()))
	return e
}

// joined is the text of a failure and of why it came to that, on one line. Either
// may be nil, and the one may be part of the other.
func joined(failed, why error) string {
	var first, second string
	if failed != nil {
		first = statusText(failed)
	}
	if why != nil {
		second = why.Error()
	}
	switch {
	case strings.Contains(second, first):
		first, second = second, ""
	case second != "":
		first += ": "
	}
	return strings.ReplaceAll(first+second, "\n\t", " | ")
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

// explain is the channel's latest connection failure.
func (r *rpc) explain() error {
	if r.ch.cfg.Explain == nil {
		return nil
	}
	return r.ch.cfg.Explain()
}

// streamError is what the RPC ends with if its stream ended with he.
func (r *rpc) streamError(a *attempt, he *h2.Error) error {
	code := he.Status.Code()
	switch {
	case he.Cause != nil && code == codes.Canceled:
		// The connection was cut on purpose.
		return withCause(he.Status, grpc.ErrClientConnClosing, he.Cause)
	case he.Cause != nil:
		return withCause(he.Status, he.Cause)
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
		p.Message = e.status.Message() + "; the server said: " + text.Line(p.Message)
		e.status = status.FromProto(p)
		return e
	}
	return he.Status.Err()
}

// streamEnded is contextEnded for an RPC whose stream ended with he, or was not
// opened because of it.
func (r *rpc) streamEnded(a *attempt, cerr error, he *h2.Error) *Error {
	at, spent := PhaseFlight, r.times
	switch he.Stage {
	case h2.StageSlot:
		at = PhaseSlot
	case h2.StageSend:
		at = PhaseSend
	}
	spent.Queued += he.Queued
	if a.s != nil {
		spent.Queued += a.s.Queued()
	}
	return r.contextEndedAfter(a.ctx, cerr, at, a.peerAddr(), nil, spent)
}

// unread is contextEnded for an RPC whose stream had ended by itself before, with
// verdict (nil: well).
func (r *rpc) unread(a *attempt, cerr, verdict error) *Error {
	spent := r.times
	spent.Queued += a.s.Queued()
	return r.contextEndedAfter(a.ctx, cerr, PhaseUnread, a.peerAddr(), verdict, spent)
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
func controlPlaneError(who string, err error) error {
	st, ok := status.FromError(err)
	switch {
	case !ok:
		return nil
	case restricted(st.Code()):
		return withCause(status.Newf(codes.Internal, "%s returned a status it must not return: %v", who, err), err)
	}
	return withCause(st, err)
}
