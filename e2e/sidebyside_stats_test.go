package e2e_test

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc/stats"
)

// statsLog is a stats handler that records its events with all fields that can be the
// same. Events of what comes in are kept apart, because grpc-go reports them on a
// goroutine of its own.
type statsLog struct {
	mu       sync.Mutex
	open     int        // guarded by mu: attempts that have not ended
	sent     int        // guarded by mu: messages
	calls    [][]string // guarded by mu: by attempt
	received [][]string // guarded by mu: by attempt
}

type attemptKey struct{}

func (r *statsLog) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open == 0
}

func (r *statsLog) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.calls)
	// Whether names were resolved in time is chance.
	r.calls = append(r.calls, []string{fmt.Sprintf("%s failfast=%t", info.FullMethodName, info.FailFast)})
	r.received = append(r.received, nil)
	return context.WithValue(ctx, attemptKey{}, n)
}

func (r *statsLog) HandleRPC(ctx context.Context, s stats.RPCStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := ctx.Value(attemptKey{}).(int)
	call := func(format string, args ...any) {
		r.calls[n] = append(r.calls[n], fmt.Sprintf(format, args...))
	}
	received := func(format string, args ...any) {
		r.received[n] = append(r.received[n], fmt.Sprintf(format, args...))
	}
	switch s := s.(type) {
	case *stats.Begin:
		r.open++
		call("Begin client=%t failfast=%t %t %t transparent=%t", s.Client, s.FailFast, s.IsClientStream, s.IsServerStream, s.IsTransparentRetryAttempt)
	case *stats.DelayedPickComplete:
		// Chance: the channel is connecting or not.
	case *stats.OutHeader:
		call("OutHeader client=%t compression=%q %s %s %s local=%t remote=%t", s.Client, s.Compression, s.FullMethod, s.Authority, shownMD(s.Header), s.LocalAddr != nil, s.RemoteAddr != nil)
	case *stats.OutPayload:
		r.sent++
		call("OutPayload client=%t %T %d %d %d sent=%t", s.Client, s.Payload, s.Length, s.CompressedLength, s.WireLength, !s.SentTime.IsZero())
	case *stats.InPayload:
		call("InPayload client=%t %T %d %d %d received=%t", s.Client, s.Payload, s.Length, s.CompressedLength, s.WireLength, !s.RecvTime.IsZero())
	case *stats.End:
		r.open--
		call("End client=%t %s %s in order=%t", s.Client, shown(s.Error), shownMD(s.Trailer), !s.EndTime.Before(s.BeginTime))
	case *stats.InHeader:
		received("InHeader client=%t %q %s wire=%d", s.Client, s.Compression, shownMD(s.Header), s.WireLength)
	case *stats.InTrailer:
		received("InTrailer client=%t %s wire=%d", s.Client, shownMD(s.Trailer), s.WireLength)
	default:
		call("%T", s)
	}
}

func (r *statsLog) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (r *statsLog) HandleConn(context.Context, stats.ConnStats)                       {}
