// Package call makes RPCs: it waits for the resolver, reads the method's
// config, picks a connection, encodes, sends, retries, decodes and says how
// the RPC ended. The control plane sets the picker and the config in force on a
// [Channel]; RPCs read them as atomics and share no lock.
//
// # Walk of a unary RPC
//
// Invoke → options → first resolver result → method config → attempt: pick →
// encode → credentials and headers → h2.Conn.Unary → outcome → retryDecision →
// again, or decode → Done, stats, Header/Trailer/Peer options → OnFinish.
// All of it runs on the caller's goroutine; settings and attempts are on its stack.
//
// # Walk of a stream
//
// The same up to the stream's opening. Messages that are sent are kept until the RPC is
// committed (a response arrived, or the retry buffer is full), so that a new attempt
// can send it again. The goroutine that finds that an attempt has failed (the sender's
// or the receiver's) makes the next one while the other waits; no lock is held
// meanwhile. An RPC ends exactly once, in clientStream.finish.
//
// # Files
//
//	channel.go            what the control plane sets
//	options.go            call options to settings; collect.go what options ask for at the end
//	rpc.go                start of an RPC, its attempts, their headers
//	pick.go               from picker to connection
//	credentials.go        per-RPC credentials, authority
//	unary.go, stream.go   the two kinds of calls; stream_attempt.go the stream's attempts
//	hedge.go, hedge_stream.go         several attempts at the same time
//	retry.go              the decision to try again; replay.go what is sent again
//	codec.go, compress.go, frame.go   messages to bytes and back
//	errors.go             how RPCs end; stage.go where they were, and what their time was spent on
//	stats.go              stats handlers' events
//	direct.go             RPCs on one subchannel
package call
