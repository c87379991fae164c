package grpcdial

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/text"
)

// ErrIdle is the cause of a transition to IDLE that the channel made because no
// RPC had run on it for a while. It is not a failure: the next RPC connects.
var ErrIdle = errors.New("grpcdial: no RPC ran for a while, so the channel closed its connections")

// ErrClosed ends the RPCs of a closed channel; the second and any further Close returns
// it. It is a status error, Canceled, and the same value as grpc.ErrClientConnClosing,
// which grpc-go has deprecated: errors.Is finds either.
var ErrClosed = grpc.ErrClientConnClosing

// GoAwayError is a GOAWAY frame from the server (RFC 9113 §6.8), as the cause of a lost
// connection or a failed RPC: errors.As finds it in the causes of state changes and of RPCs.
type GoAwayError struct {
	Code         uint32 // HTTP/2 error code: 0 for an end without an error
	Debug        string // the server's debug text, safe to print
	LastStreamID uint32 // streams above it were not processed
}

// Error is one line: the code by its name, and the debug text.
func (e *GoAwayError) Error() string {
	s := fmt.Sprintf("the server sent GOAWAY %v", http2.ErrCode(e.Code))
	if e.Debug != "" {
		s += " " + strconv.Quote(e.Debug)
	}
	return s
}

// newGoAwayError is for package h2.
func newGoAwayError(code uint32, debug string, last uint32) error {
	return &GoAwayError{Code: code, Debug: text.Line(debug), LastStreamID: last}
}

// ErrUnfinished is the cause of a connection attempt that was still in progress when the
// wait ended. The attempt's Phase says where it was.
var ErrUnfinished = errors.New("grpcdial: the attempt to connect was not finished when the wait ended")

// Phase is a step on the way to a connection.
type Phase string

// The phases, in the order in which a connection goes through them.
const (
	PhaseResolve Phase = "resolve" // the target, or a host name, to addresses
	PhaseDial    Phase = "dial"    // the network connection
	PhaseProxy   Phase = "proxy"   // the proxy's handshake
	PhaseTLS     Phase = "tls"     // the transport credentials' handshake, whatever they are
	PhaseHTTP2   Phase = "http2"   // the HTTP/2 preface and the server's SETTINGS
	PhaseCheck   Phase = "check"   // the check of WithConnectCheck
	PhaseHealth  Phase = "health"  // the health service's verdict on a connection that was made
)

// Attempt is one attempt to connect to one address that failed, or that was
// still running when the wait ended.
//
// It may get more fields, and cannot be compared with ==.
type Attempt struct {
	_ [0]func()

	// AttemptID is the AttemptID of this attempt's DialEvents. It is 0 for a failure of
	// the resolver or of a health service.
	AttemptID uint64

	Addr       string // the address dialed; the target's endpoint when resolving it failed
	ServerName string // the authority that the credentials were asked to verify
	Proxy      string // the proxy's URL without credentials, if one was used

	// Phase is the phase in which the attempt failed, or in which it was when the wait
	// ended. It is empty if the attempt had not begun.
	Phase Phase

	Start   time.Time
	Elapsed time.Duration // from Start to the failure
	Err     error         // the cause
	Hint    string        // how to mend the failure; empty if that is not known

	// Permanent reports that a retry will fail too: a certificate that does not verify,
	// a server that does not speak HTTP/2, a missing ALPN protocol, a check that reports
	// it (WithConnectCheck), a resolver that could not be built. An unknown host, a refused
	// connection and a time-out are not permanent.
	Permanent bool
}

// String returns the attempt as one line: the address, where it ended, the
// cause, the hint.
func (a Attempt) String() string {
	f := a.internal()
	if a.Err == ErrUnfinished {
		return f.Unfinished()
	}
	return f.Error()
}

func (a Attempt) internal() failure.Attempt {
	return failure.Attempt{ID: a.AttemptID, Addr: a.Addr, ServerName: a.ServerName, Proxy: a.Proxy, Phase: failure.Phase(a.Phase),
		Start: a.Start, Elapsed: a.Elapsed, Err: a.Err, Hint: a.Hint, Permanent: a.Permanent}
}

func publicAttempt(a *failure.Attempt) Attempt {
	return Attempt{AttemptID: a.ID, Addr: a.Addr, ServerName: a.ServerName, Proxy: a.Proxy, Phase: Phase(a.Phase),
		Start: a.Start, Elapsed: a.Elapsed, Err: a.Err, Hint: a.Hint, Permanent: a.Permanent}
}

// DialError says why a channel did not become READY. Blocking dials and
// AwaitReady return it; an RPC that fails for want of a connection has it in its
// error's chain, and so have transitions to TRANSIENT_FAILURE as their cause.
type DialError struct {
	Target string             // canonical target
	State  connectivity.State // when the wait ended

	// Elapsed is how long the wait took; for an RPC, the time since it began. It is 0 in
	// the cause of a state change.
	Elapsed time.Duration

	// InState is how long the channel had been in State when the wait ended; 0 if it had
	// just entered it.
	InState time.Duration

	Attempts []Attempt // the latest per address, oldest first; at most 16
	Omitted  int       // attempts left out of Attempts

	// Err ended the wait: the context's error, or the permanent failure. It is nil in the
	// error of an RPC and in the cause of a state change.
	Err error

	later []Attempt // that were running, at addresses where Attempts has one that failed before
	says  error     // context.Cause of the waiter's context, if that ended the wait and says more than Err
}

// Error is one line if there is one attempt, and else a line followed by an indented
// one for each attempt.
func (e *DialError) Error() string {
	head := e.headline(e.Target)
	if len(e.Attempts) == 1 && e.Omitted == 0 {
		return head + ": " + e.line(&e.Attempts[0])
	}
	var b strings.Builder
	b.WriteString(head)
	for i := range e.Attempts {
		b.WriteString("\n\t" + e.line(&e.Attempts[i]))
	}
	if e.Omitted > 0 {
		fmt.Fprintf(&b, "\n\tand %d more", e.Omitted)
	}
	return b.String()
}

func (e *DialError) headline(target string) string {
	ended := ""
	if e.waiterEnded() || e.Err == errClosing || e.Err != nil && len(e.Attempts) == 0 {
		ended = oneLine(e.Err)
		if e.says != nil {
			ended += ": " + oneLine(e.says)
		}
	}
	return headline(target, e.Elapsed, e.State, e.InState, ended)
}

func (e *DialError) line(a *Attempt) string { return a.String() + next(a, e.later) }

// next says where the attempt after a was, if later has it and that is another phase: a
// server that refused connections may take them now, and say nothing.
func next(a *Attempt, later []Attempt) string {
	for _, l := range later {
		if l.Addr == a.Addr && l.Phase != a.Phase && l.Phase != "" && l.Err == ErrUnfinished && a.Err != ErrUnfinished {
			return fmt.Sprintf("; the attempt after that: %s not finished after %v", l.Phase, text.Round(l.Elapsed))
		}
	}
	return ""
}

// Unwrap returns Err, the cause of the waiter's context if it has one (context.Cause),
// and every attempt's cause. errors.Is finds context.DeadlineExceeded or
// context.Canceled in it only if the waiter's own context ended the wait: attempts have
// time-outs of their own, and these are masked. Everything else in a cause is found as
// usual.
//
// In the error of an RPC that found no connection, and in the cause of a state change,
// standard sentinels are masked too, as they are in an RPC's error: io.EOF and
// fs.ErrNotExist are not found in it. Typed causes, errnos by identity, and a dialer's or
// credentials' own values are.
func (e *DialError) Unwrap() []error {
	hide := mask.Dial
	if e.Err == nil {
		hide = mask.RPC
	}
	errs := make([]error, 0, 2+len(e.Attempts))
	switch {
	case e.waiterEnded():
		errs = append(errs, e.Err)
		if e.says != nil {
			errs = append(errs, hide(e.says))
		}
	case e.Err != nil:
		errs = append(errs, hide(e.Err))
	}
	for _, a := range e.Attempts {
		if a.Err != nil {
			errs = append(errs, hide(a.Err))
		}
	}
	return errs
}

// GRPCStatus returns a status with the code DeadlineExceeded or Canceled if the waiter's
// context ended the wait, else Unavailable. Its message says in at most 300 bytes what
// Error says at length: the first attempt, and how many more there are.
func (e *DialError) GRPCStatus() *status.Status {
	code := codes.Unavailable
	if e.waiterEnded() {
		code = status.FromContextError(e.Err).Code()
	}
	return status.New(code, e.summary(maxMessage))
}

// summary is Error on one line, in that many bytes.
func (e *DialError) summary(most int) string {
	line := func(i int) attemptText {
		a := e.Attempts[i].internal()
		return textOf(&a).and(next(&e.Attempts[i], e.later))
	}
	head := text.Cut(e.headline(text.Cut(e.Target, maxShownTarget)), most)
	if len(e.Attempts) > 0 {
		head = text.Cut(head, most*2/3) + ": "
		head += listAttempts(line, len(e.Attempts), e.Omitted, most-len(head))
	}
	return head
}

// endedWith keeps the cause with which the waiter's context was cancelled (context.Cause).
func (e *DialError) endedWith(ctx context.Context) *DialError {
	if why := context.Cause(ctx); e.waiterEnded() && why != nil && why != e.Err {
		e.says = why
	}
	return e
}

// waiterEnded reports whether the waiter's own context ended the wait. Err is then the
// context's error itself, so a comparison by identity distinguishes it from a failure
// with a context's error somewhere in its chain.
func (e *DialError) waiterEnded() bool {
	return e.Err == context.DeadlineExceeded || e.Err == context.Canceled
}

// maxAttempts is how many attempts one DialError has at most.
const maxAttempts = attempts.Max

// asAttempts returns err, which ended an attempt at addr, as the list of
// attempts that it is. Their causes are what programs may see.
func asAttempts(id uint64, err error, addr string, start time.Time) failure.List {
	var list failure.List
	if errors.As(err, &list) {
		public := make(failure.List, len(list))
		for i, a := range list {
			public[i] = withPublicCause(a)
			public[i].ID = max(id, a.ID)
		}
		return public
	}
	var one *failure.Attempt
	if errors.As(err, &one) {
		one = withPublicCause(one)
		one.ID = max(id, one.ID)
		return failure.List{one}
	}
	return failure.List{{ID: id, Addr: text.Target(addr), Phase: failure.Dial, Start: start, Elapsed: time.Since(start), Err: publicCause(err)}}
}

func withPublicCause(a *failure.Attempt) *failure.Attempt {
	public := *a
	public.Err = publicCause(a.Err)
	return &public
}

// RPCError says in which stage an RPC failed, and how its time was spent.
// errors.As finds it in the error of every RPC of which the channel knows more than a
// status: one that ended with its context, found no connection, lost the one it had, or
// failed in a codec, a compressor or credentials. An RPC that the server ended has a
// plain status error instead, as has one whose channel is closed.
//
// It is a status error. The causes are in its chain, as they are in that of the RPC's
// error, which [ClientConn.Invoke] describes: errors.Is and errors.As find them, and no
// standard sentinel.
//
// The times are of all attempts together. They add up to Elapsed, but for what the
// channel itself needed. Fields may be added.
type RPCError struct {
	_ [0]func() // not comparable

	Stage    Stage         // where the RPC was
	Elapsed  time.Duration // since it began
	Attempts int           // RPC attempts made, the last one included; 0 if the RPC ended before the first
	Peer     string        // address of the connection in use; empty if there was none

	Resolving  time.Duration // waiting for the name resolver's first result
	Connecting time.Duration // waiting for a connection
	Picking    time.Duration // waiting for the load-balancing policy, on a channel that was READY

	// Preparing is the time before the stream was opened that was spent in per-RPC
	// credentials, in compressors, and in codecs other than protobuf's.
	Preparing time.Duration

	Queued     time.Duration // waiting for one of the streams that the server allows (MAX_CONCURRENT_STREAMS)
	BackingOff time.Duration // waiting before another RPC attempt

	// OnWire is the time from the opening of the stream to the end of the RPC; for a
	// streaming RPC that includes the time spent in the program between its calls. It is
	// 0 if no stream was opened.
	OnWire time.Duration

	err *call.Error
}

// Stage is a step of an RPC. The phases of a connection attempt are [Phase].
type Stage string

// The stages, in the order in which an RPC goes through them.
const (
	StageBegin       Stage = "begin"       // not begun: its context had ended before
	StageResolve     Stage = "resolve"     // waiting for the name resolver's first result
	StageConnect     Stage = "connect"     // waiting for a connection
	StagePick        Stage = "pick"        // waiting for the load-balancing policy, on a channel that was READY
	StageEncode      Stage = "encode"      // encoding or compressing a message. Of a unary RPC nothing was sent
	StageCredentials Stage = "credentials" // in per-RPC credentials
	StageQueue       Stage = "queue"       // waiting for one of the streams that the server allows
	StageSend        Stage = "send"        // sending, or about to: the server did not have the whole request
	StageReply       Stage = "reply"       // sent, waiting for the server
	StageDecode      Stage = "decode"      // decompressing or decoding what the server sent
	StageUnread      Stage = "unread"      // the server had ended the stream, and the program had not received all of it
	StageBackoff     Stage = "backoff"     // waiting before another RPC attempt
)

var stages = [...]Stage{
	call.StageBegin:       StageBegin,
	call.StageResolve:     StageResolve,
	call.StageConnect:     StageConnect,
	call.StagePick:        StagePick,
	call.StageEncode:      StageEncode,
	call.StageCredentials: StageCredentials,
	call.StageOpen:        StageSend,
	call.StageQueue:       StageQueue,
	call.StageSend:        StageSend,
	call.StageReply:       StageReply,
	call.StageDecode:      StageDecode,
	call.StageUnread:      StageUnread,
	call.StageBackoff:     StageBackoff,
}

// Error returns the text of the RPC's error.
func (e *RPCError) Error() string {
	if e.err == nil {
		return "grpcdial: an RPC failed"
	}
	return e.err.Error()
}

// GRPCStatus returns the RPC's status.
func (e *RPCError) GRPCStatus() *status.Status {
	if e.err == nil {
		return status.New(codes.Unknown, e.Error())
	}
	return e.err.GRPCStatus()
}

// Unwrap returns the RPC's error as the channel returned it, which has the causes.
func (e *RPCError) Unwrap() error {
	if e.err == nil {
		return nil
	}
	return e.err
}

// rpcErrorAs serves errors.As: it makes the RPCError that target asks for, so that only
// programs that ask for one pay for it.
func rpcErrorAs(e *call.Error, target any) bool {
	to, ok := target.(**RPCError)
	if !ok {
		return false
	}
	*to = &RPCError{
		Stage:      stages[e.Stage],
		Elapsed:    e.Elapsed,
		Attempts:   e.Attempts,
		Peer:       e.Peer,
		Resolving:  e.Resolving,
		Connecting: e.Connecting,
		Picking:    e.Picking,
		Preparing:  e.Preparing,
		Queued:     e.Queued,
		BackingOff: e.BackingOff,
		OnWire:     e.OnWire,
		err:        e,
	}
	return true
}
