package grpcdial

import (
	"time"

	"google.golang.org/grpc/channelz"
)

// WithBlock makes [Dial] and [DialContext] wait until the channel is READY,
// which it is as soon as one backend is. Without it they return at once and
// the channel connects in the background.
//
// Failed attempts are repeated until the context ends, whatever the failure;
// [FailOnNonTempDialError] ends the wait earlier. The error of a wait that
// ended without a READY channel is a *DialError.
//
// NewClient refuses this option: it does not wait. Use AwaitReady on the
// channel that it returns.
func WithBlock() DialOption {
	return optionFunc(func(o *dialOptions) { o.block = true })
}

// WithReturnConnectionError is [WithBlock] under another name: every error of a
// blocking dial has the causes of the failed attempts. It exists for programs written
// for grpc-go, whose errors have them with this option only.
//
// NewClient refuses this option.
//
// Deprecated: use WithBlock, or AwaitReady on a channel of NewClient's.
func WithReturnConnectionError() DialOption {
	return optionFunc(func(o *dialOptions) {
		o.block = true
		o.returnConnectionError = true
	})
}

// FailOnNonTempDialError makes a blocking dial end at the first failure that
// will not heal by itself, if f is true: an error of the dialer with a method
// Temporary() bool that returns false, and every permanent failure after that,
// such as a certificate that is not trusted or a server that does not speak
// HTTP/2. The dial ends once no other address may still succeed. The default
// is false: attempts go on until the context ends.
//
// AwaitReady ends in the same way on a channel dialed with it. It has no effect
// on a dial that does not wait, nor on RPCs. NewClient refuses it.
func FailOnNonTempDialError(f bool) DialOption {
	return optionFunc(func(o *dialOptions) { o.failOnNonTempDialError = f })
}

// WithGiveUp lets the program say which failures end the wait of a blocking dial
// and of AwaitReady before its context does. f gets each failed attempt and
// returns true if it is not worth waiting for another one at that address. The
// wait ends once f has returned true for the latest attempt at every address; one
// backend that may still answer is enough to go on. If the resolver fails and there is
// no address, f gets that failure, with Phase [PhaseResolve].
//
// f is called on the goroutine that waits, once for each attempt, with no lock
// held. It may count. Together with [FailOnNonTempDialError] either of the two makes
// an attempt final. nil means that no failure ends the wait, which is the default.
func WithGiveUp(f func(Attempt) bool) DialOption {
	return optionFunc(func(o *dialOptions) { o.giveUp = f })
}

// WithTimeout bounds [Dial] or [DialContext] as a context with that timeout
// would. It does not bound the life of the channel. Zero or less means no
// bound, which is the default.
//
// NewClient refuses this option.
func WithTimeout(d time.Duration) DialOption {
	return optionFunc(func(o *dialOptions) { o.timeout = max(d, 0) })
}

// WithChannelzParentID nests the channel, in the data of channelz, in another channel
// of grpcdial or of grpc-go. Policies that make channels of their own get the
// identifier as the ChannelzParent of their balancer.BuildOptions. nil, which is the
// default, means a top channel, as does a parent that has been closed. Package channelz
// of this module serves the data.
func WithChannelzParentID(c channelz.Identifier) DialOption {
	return optionFunc(func(o *dialOptions) { o.channelzParent = c })
}
