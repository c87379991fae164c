package grpcdial

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/call"
)

// RPCError says in which stage an RPC failed, and how its time was spent.
// errors.As finds it in the error of every RPC of which the channel knows more than a
// status: that ended with its context, found no connection, lost the one it had, or
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
