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
)

// Phase is where an RPC was when its context ended.
type Phase uint8

// The phases, in the order in which an RPC goes through them.
const (
	PhaseNone        Phase = iota // the error does not come from the context's end
	PhaseResolve                  // waiting for the resolver's first result
	PhaseConnect                  // waiting for a connection
	PhaseCredentials              // waiting for per-RPC credentials
	PhaseSlot                     // waiting for a free stream on the connection
	PhaseFlight                   // sent
	PhaseBackoff                  // waiting before the next attempt
)

func (p Phase) String() string {
	switch p {
	case PhaseResolve:
		return "waiting for the name resolver's first result"
	case PhaseConnect:
		return "waiting for a connection"
	case PhaseCredentials:
		return "waiting for per-RPC credentials"
	case PhaseSlot:
		return "waiting for a free stream"
	case PhaseFlight:
		return "in flight"
	case PhaseBackoff:
		return "waiting to try again"
	}
	return "at no particular phase"
}

// Error is how an RPC ended, if more is known than a status: it is a status
// error (GRPCStatus, and errors.Is with what status.Error returns) and unwraps to
// its causes. An RPC that the server ended has a plain status error instead.
type Error struct {
	// Phase is where the RPC was when its context ended; PhaseNone if it ended otherwise.
	Phase Phase
	// Elapsed is the time since the RPC began; of it, Resolving was spent waiting for
	// the resolver and Connecting waiting for a connection, in all attempts.
	// They are set with Phase.
	Elapsed, Resolving, Connecting time.Duration
	// Peer is the address of the connection in use, if there was one.
	Peer string

	status *status.Status
	causes []error
}

func (e *Error) Error() string { return e.status.Err().Error() }

// GRPCStatus makes status.FromError and status.Code work.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Unwrap returns the causes: the context's error, the failure of the
// connection, what a codec or credentials returned.
func (e *Error) Unwrap() []error { return e.causes }

// Is reports whether target is a status error with the same code, message and details.
func (e *Error) Is(target error) bool {
	_, ok := target.(interface{ GRPCStatus() *status.Status })
	return ok && errors.Is(e.status.Err(), target)
}

// withCause is a status error that unwraps to causes; nil ones are left out.
func withCause(st *status.Status, causes ...error) error {
	e := &Error{status: st}
	for _, c := range causes {
		if c != nil {
			e.causes = append(e.causes, c)
		}
	}
	return e
}

// contextEnded is the error of an RPC whose context ended while it was at
// phase. cerr is context.DeadlineExceeded or context.Canceled; last is the latest
// failure of what was waited for, if any.
func (r *rpc) contextEnded(ctx context.Context, cerr error, at Phase, peer string, last error) *Error {
	e := &Error{
		Phase:      at,
		Elapsed:    r.ch.now() - r.began,
		Resolving:  r.resolving,
		Connecting: r.connecting,
		Peer:       peer,
		causes:     []error{cerr},
	}
	// context.Cause says more only if whoever cancelled gave a cause.
	cause := context.Cause(ctx)
	if cause != nil && cause != cerr {
		e.causes = append(e.causes, cause)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v after %v: %v", cerr, shown(e.Elapsed), at)
	if peer != "" {
		if at == PhaseFlight {
			b.WriteString(" to " + peer)
		} else {
			b.WriteString(" on the connection to " + peer)
		}
	}
	var waits []string
	if e.Resolving > 0 && at != PhaseResolve {
		waits = append(waits, fmt.Sprintf("%v for the name resolver", shown(e.Resolving)))
	}
	if e.Connecting > 0 && at != PhaseConnect {
		waits = append(waits, fmt.Sprintf("%v for a connection", shown(e.Connecting)))
	}
	if len(waits) > 0 {
		b.WriteString(" (waited " + strings.Join(waits, ", ") + ")")
	}
	if last != nil {
		e.causes = append(e.causes, last)
		b.WriteString(": latest failure: " + statusText(last))
	}
	if at == PhaseConnect {
		if why := r.explain(); why != nil {
			e.causes = append(e.causes, why)
			if last == nil {
				b.WriteString(": latest failure: " + why.Error())
			}
		}
	}
	e.status = status.New(codeOfContext(cerr), b.String())
	return e
}

// statusText is err's text without the words status errors begin with.
func statusText(err error) string {
	if st, ok := status.FromError(err); ok {
		return st.Message()
	}
	return err.Error()
}

func codeOfContext(err error) codes.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Unknown
}

// shown rounds d for a message.
func shown(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(100 * time.Nanosecond)
}

// explain is the channel's latest connection failure.
func (r *rpc) explain() error {
	if r.ch.cfg.Explain == nil {
		return nil
	}
	return r.ch.cfg.Explain()
}

// streamError is what the RPC ends with if its stream ended with he.
func (r *rpc) streamError(a *attempt, he *h2.Error, at Phase) error {
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
		return r.contextEnded(a.ctx, context.DeadlineExceeded, at, a.peerAddr(), nil)
	case he.Local && code == codes.Canceled:
		return r.contextEnded(a.ctx, context.Canceled, at, a.peerAddr(), nil)
	case code == codes.DeadlineExceeded && expired(a.ctx):
		// The server was faster to notice: its answer, but the same event.
		e := r.contextEnded(a.ctx, context.DeadlineExceeded, at, a.peerAddr(), nil)
		e.status = he.Status
		return e
	}
	return he.Status.Err()
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
	return err
}
