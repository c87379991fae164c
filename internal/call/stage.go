package call

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/text"
)

// Stage is where an RPC was when it ended.
type Stage uint8

// The stages, in the order in which an RPC goes through them.
const (
	StageNone        Stage = iota
	StageBegin             // not begun: its context had ended before
	StageResolve           // waiting for the resolver's first result
	StageConnect           // waiting for a connection
	StagePick              // waiting for the policy to choose one, though the channel is READY
	StageEncode            // encoding or compressing the request; of a unary RPC nothing was sent
	StageCredentials       // waiting for per-RPC credentials
	StageOpen              // about to be sent; nothing was
	StageQueue             // waiting for one of the streams that the server allows
	StageSend              // waiting for the server to take the whole request
	StageReply             // sent
	StageDecode            // decompressing or decoding what came
	StageUnread            // the stream has ended, but was not received to its end
	StageBackoff           // waiting before the next attempt
)

// where says where an RPC is that has spent its time so; peer is the address of its
// connection, empty if it has none.
func (s Stage) where(peer string, spent *Times) string {
	if peer == "" {
		peer = "the server"
	}
	switch s {
	case StageBegin:
		return "the context had ended before the RPC began"
	case StageResolve:
		return "waiting for the name resolver's first result"
	case StageConnect:
		return "waiting for a connection"
	case StagePick:
		return "waiting for the load-balancing policy to pick a connection"
	case StageEncode:
		return "encoding the request"
	case StageCredentials:
		return "waiting for per-RPC credentials"
	case StageOpen:
		return "about to send to " + peer
	case StageQueue:
		return spent.queue() + " (MAX_CONCURRENT_STREAMS of " + peer + ")"
	case StageSend:
		return "sending, waiting for " + peer + " to take more"
	case StageReply:
		return "sent, waiting for " + peer + " to answer"
	case StageDecode:
		return "decoding what " + peer + " sent"
	case StageUnread:
		return "the stream to " + peer + " has ended, but was not received to its end"
	case StageBackoff:
		return "waiting to try again"
	}
	return "at no particular stage"
}

// stageOf is how far an RPC had come whose stream ended with he, or was not opened
// because of it.
func (r *rpc) stageOf(he *h2.Error) Stage {
	switch he.Stage {
	case h2.StageUnopened:
		if r.preparing != StageNone {
			return r.preparing
		}
		return StageOpen
	case h2.StageSlot:
		return StageQueue
	case h2.StageSend:
		return StageSend
	}
	switch {
	case he.Unsent:
		return StageSend
	case r.isEncoding != nil && r.isEncoding.Load():
		return StageEncode
	}
	return StageReply
}

// Times is how long an RPC waited for one thing and another, in all attempts.
type Times struct {
	Resolving  time.Duration // the resolver's first result
	Connecting time.Duration // a connection
	Picking    time.Duration // the policy, on a channel that is READY
	Preparing  time.Duration // credentials, a compressor, a codec of the program's own
	Queued     time.Duration // one of the streams that the server allows
	BackingOff time.Duration // the delay before another attempt

	allowed uint32 // how many streams the server allowed, the last time that the RPC was queued
}

// add counts what an attempt whose stream ended with he (nil: well), or was not opened
// because of it, spent in the queue. s may be nil.
func (t *Times) add(s *h2.Stream, he *h2.Error) {
	if s != nil {
		if waited, allowed := s.Queued(); waited > 0 {
			t.Queued, t.allowed = t.Queued+waited, allowed
		}
	}
	if he != nil && he.Queued > 0 {
		t.Queued, t.allowed = t.Queued+he.Queued, he.Allowed
	}
}

// left is what is left of the RPC's time.
func (t *Times) left(elapsed time.Duration) time.Duration {
	return max(elapsed-t.Resolving-t.Connecting-t.Picking-t.Preparing-t.Queued-t.BackingOff, 0)
}

// queue says how long the RPC waited for a stream, and why.
func (t *Times) queue() string {
	return fmt.Sprintf("waited %v for a stream: the server allows %d at a time", text.Round(t.Queued), t.allowed)
}

// spent lists what an RPC that was on the wire for that long, and is at a stage, spent
// its time on. It is empty if that is one thing, the stage that it is at.
func (t *Times) spent(onWire time.Duration, at Stage) string {
	if at != StageSend && at != StageReply {
		onWire = 0 // it is not what the RPC waits for
	}
	type part struct {
		what string
		took time.Duration
		at   bool
	}
	parts := [...]part{
		{"resolving", t.Resolving, at == StageResolve},
		{"connecting", t.Connecting, at == StageConnect},
		{"picking", t.Picking, at == StagePick},
		{"preparing the request", t.Preparing, at == StageEncode || at == StageCredentials},
		{"", t.Queued, at == StageQueue},
		{"backing off", t.BackingOff, at == StageBackoff},
		{"on the wire", onWire, true},
	}
	if !slices.ContainsFunc(parts[:], func(p part) bool { return p.took > 0 && !p.at }) {
		return ""
	}
	var all []string
	for _, p := range parts {
		switch {
		case p.took <= 0:
		case p.what != "":
			all = append(all, fmt.Sprintf("%s %v", p.what, text.Round(p.took)))
		case !p.at: // else it is said already
			all = append(all, t.queue())
		}
	}
	return " (" + strings.Join(all, ", ") + ")"
}
