package grpcdial

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
)

// WithResolvers adds resolver builders for this channel only. They are preferred to the
// builders registered with resolver.Register, which are the default; of two for the
// same scheme the first one given is used. Given several times, the builders add up.
func WithResolvers(rs ...resolver.Builder) DialOption {
	return optionFunc(func(o *dialOptions) { o.resolvers = append(o.resolvers, rs...) })
}

// WithContextDialer sets the function that makes network connections. It gets
// the address as the resolver gave it, a host name included, or for a unix
// socket "unix:///absolute/path", "unix:relative/path" or "unix:@abstract"; and
// a context that ends when the attempt has taken too long or the channel is
// closed. It must return then. The channel does not wait for a dialer that does not: the
// attempt has failed, Close returns, and a connection that it makes later is closed.
// Each call runs on a goroutine of its own, several at the same time if several
// connections are being made. nil means the default: TCP, and unix sockets for the
// schemes unix and unix-abstract and for addresses that begin with "unix:".
//
// A target without a scheme goes to the dialer as it is written, in NewClient
// too. Of this option and [WithDialer] the last one given wins.
func WithContextDialer(f func(context.Context, string) (net.Conn, error)) DialOption {
	return optionFunc(func(o *dialOptions) { o.dialer = f })
}

// WithDialer is [WithContextDialer] for a function that takes the time left
// for the attempt instead of a context; 0 means no bound. The dialer gets no signal when
// the channel is closed while it runs, and Close does not wait for it.
//
// Deprecated: use WithContextDialer.
func WithDialer(f func(string, time.Duration) (net.Conn, error)) DialOption {
	if f == nil {
		return WithContextDialer(nil)
	}
	return WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		deadline, ok := ctx.Deadline()
		if !ok {
			return f(addr, 0)
		}
		left := time.Until(deadline)
		if left <= 0 {
			// 0 would mean to the dialer that it has all the time.
			return nil, context.DeadlineExceeded
		}
		return f(addr, left)
	})
}

// WithConnectParams sets the back-off between connection attempts and the
// least time that one attempt is given. p is used as given: a zero field is zero
// and not the default. Start from backoff.DefaultConfig and 20 seconds, which are the
// defaults, to change one of them. gRPC's connection-backoff document defines the
// values. It is an error of the constructor if neither MinConnectTimeout nor
// Backoff.BaseDelay is above zero: no attempt would have time.
func WithConnectParams(p ConnectParams) DialOption {
	return optionFunc(func(o *dialOptions) { o.connectParams = p })
}

// WithBackoffConfig sets the longest back-off between connection attempts and
// leaves the rest of the back-off at the defaults, in place of the back-off of
// an earlier [WithConnectParams].
//
// Deprecated: use WithConnectParams.
func WithBackoffConfig(b grpc.BackoffConfig) DialOption { // grpc-go's type, kept for its users
	return WithBackoffMaxDelay(b.MaxDelay)
}

// WithBackoffMaxDelay is [WithBackoffConfig] with the one value it has.
//
// Deprecated: use WithConnectParams.
func WithBackoffMaxDelay(md time.Duration) DialOption {
	return optionFunc(func(o *dialOptions) {
		o.connectParams.Backoff = backoff.DefaultConfig
		o.connectParams.Backoff.MaxDelay = md
	})
}

// WithUserAgent puts s, a space and this library's name and version into the
// user-agent header of every RPC. Without it the header holds the latter only.
func WithUserAgent(s string) DialOption {
	s = strings.TrimSpace(s + " " + baseUserAgent) // a value has no space at its ends, RFC 9113 §8.2.1
	return optionFunc(func(o *dialOptions) { o.userAgent = s })
}

// WithKeepaliveParams makes connections send a PING after they received
// nothing for kp.Time, and be given up when no answer comes within kp.Timeout
// (20 seconds if zero or less). A Time of less than 10 seconds, zero included, is
// raised to 10 seconds, gRFC A8's floor. Pings are sent only
// while RPCs run, unless kp.PermitWithoutStream is set. A server that finds
// them too frequent makes the channel double Time. Without this option there
// is no keepalive.
func WithKeepaliveParams(kp keepalive.ClientParameters) DialOption {
	kp.Time = max(kp.Time, minKeepaliveTime)
	if kp.Timeout <= 0 {
		kp.Timeout = defaultKeepaliveTimeout
	}
	return optionFunc(func(o *dialOptions) { o.keepalive = kp })
}

// WithInitialWindowSize sets how many bytes of one stream a server may send
// ahead of what the program has read. Less than 65,535 is ignored. The default
// is 512 KiB at first; it grows, up to 16 MiB, where a server far away could send
// faster, and for a stream whose program has to wait because the server has used it
// up. This option and [WithInitialConnWindowSize] end that: windows keep the size they
// have.
func WithInitialWindowSize(s int32) DialOption {
	return optionFunc(func(o *dialOptions) {
		o.streamWindow = atLeastMinWindow(s)
	})
}

// WithInitialConnWindowSize sets how many bytes a server may send on one
// connection, all streams together, ahead of what the connection has taken in.
// Less than 65,535 is ignored. The default is 8 MiB at first; it grows as
// [WithInitialWindowSize] says.
//
// The default lets bulk flow at once from a server far away. On a slow link a small
// reply waits behind all that the server was allowed to send before it: where small
// RPCs and bulk downloads share a connection of 1 MB/s, 128 KiB here made the small
// ones six times as fast.
func WithInitialConnWindowSize(s int32) DialOption {
	return optionFunc(func(o *dialOptions) {
		o.connWindow = atLeastMinWindow(s)
	})
}

// atLeastMinWindow returns s, or 0 for the default.
func atLeastMinWindow(s int32) int32 {
	if s < minWindow {
		return 0
	}
	return s
}

// WithStaticStreamWindowSize is [WithInitialWindowSize]: windows keep their
// size here in either case.
//
// Deprecated: use WithInitialWindowSize.
func WithStaticStreamWindowSize(s int32) DialOption { return WithInitialWindowSize(s) }

// WithStaticConnWindowSize is [WithInitialConnWindowSize]: windows keep their
// size here in either case.
//
// Deprecated: use WithInitialConnWindowSize.
func WithStaticConnWindowSize(s int32) DialOption { return WithInitialConnWindowSize(s) }

// WithMaxHeaderListSize sets the largest list of response headers or trailers
// that is accepted, in bytes, counted uncompressed as RFC 9113 §6.5.2 defines, and
// announces it to servers. An RPC whose headers exceed it fails. Zero means the
// default, which is 16 MiB.
func WithMaxHeaderListSize(s uint32) DialOption {
	return optionFunc(func(o *dialOptions) { o.maxHeaderList = &s })
}

// WithReadBufferSize sets how many bytes one read of a connection asks for.
// The default is 32 KiB, the most 16 MiB; zero or less asks for 1 KiB, as a connection is never
// read without a buffer. A connection that is quiet holds no read buffer.
func WithReadBufferSize(s int) DialOption {
	if s <= 0 {
		s = leastReadBuffer
	}
	return optionFunc(func(o *dialOptions) { o.readBuffer = s })
}

// WithWriteBufferSize sets how many bytes may wait to be written to a
// connection; goroutines that send more wait. All waiting bytes leave in one write. The
// default is 64 KiB; with zero or less, a sender waits until nothing is left to be
// written.
func WithWriteBufferSize(s int) DialOption {
	s = max(s, 1)
	return optionFunc(func(o *dialOptions) { o.writeBuffer = s })
}

// WithSharedWriteBuffer exists for programs written for grpc-go. Connections
// share their write buffers here whatever val is: one holds a buffer only
// while bytes wait in it.
//
// Deprecated: there is nothing to choose.
func WithSharedWriteBuffer(val bool) DialOption { return EmptyDialOption{} }

// WithIdleTimeout sets how long a channel keeps its connections while no RPC runs on it
// and no caller waits for READY. After that it is IDLE, with neither connections nor a
// resolver, until the next RPC or Connect. The default is 30 minutes; zero or less means
// never.
func WithIdleTimeout(d time.Duration) DialOption {
	return optionFunc(func(o *dialOptions) { o.idleTimeout = max(d, 0) })
}

// WithInsecure makes the channel use plaintext. It is the same as
// WithTransportCredentials(insecure.NewCredentials()), except that together
// with [WithTransportCredentials] or [WithCredentialsBundle] it is an error
// ([ErrInsecureWithTransportCredentials], [ErrInsecureWithBundle]) instead of
// the last one winning.
func WithInsecure() DialOption {
	return optionFunc(func(o *dialOptions) { o.insecure = true })
}

// WithTransportCredentials sets what secures each connection, TLS for
// instance. A channel needs this option, [WithCredentialsBundle] or
// [WithInsecure], and takes one of them only. nil means that the option is not
// given.
//
// ClientHandshake is called for several connections at the same time if several
// are being made.
func WithTransportCredentials(creds credentials.TransportCredentials) DialOption {
	return optionFunc(func(o *dialOptions) { o.transportCreds = creds })
}

// WithCredentialsBundle sets transport credentials and per-RPC credentials at
// once. Its per-RPC credentials are used besides those of
// [WithPerRPCCredentials]. A bundle without transport credentials is an error,
// [ErrBundleWithoutTransportCredentials]. nil means that the option is not
// given.
func WithCredentialsBundle(b credentials.Bundle) DialOption {
	return optionFunc(func(o *dialOptions) { o.bundle = b })
}

// WithPerRPCCredentials adds credentials that put their metadata into every
// RPC. Given several times, the credentials add up, in order. The default is none;
// what one RPC adds by grpc.PerRPCCredentials comes besides.
//
// Credentials that require transport security on a channel without it are an
// error, [ErrPerRPCNeedsTransportSecurity].
func WithPerRPCCredentials(creds credentials.PerRPCCredentials) DialOption {
	return optionFunc(func(o *dialOptions) { o.perRPCCreds = append(o.perRPCCreds, creds) })
}

// WithAuthority sets the :authority of the channel's RPCs and the server name
// that the transport credentials verify, in place of what the target says, which is
// the default, and of a server name that the resolver gives for one address. One call
// may still choose its own :authority with grpc.CallAuthority.
//
// Credentials that have a server name of their own must agree with it; the
// dial fails otherwise.
func WithAuthority(a string) DialOption {
	return optionFunc(func(o *dialOptions) { o.authority = a })
}

// WithDialTrace makes the channel call the functions of t for its events: each step on
// the way to its connections, their loss, and the transitions of its state. t is
// copied; nil means none, which is the default. Given several times, the traces add up,
// in order. A channel without a trace and a logger spends nothing on events unless the
// program serves channelz.Handler, and RPCs spend nothing in either case.
func WithDialTrace(t *DialTrace) DialOption {
	if t == nil {
		return EmptyDialOption{}
	}
	copied := *t
	return optionFunc(func(o *dialOptions) { o.traces = append(o.traces, &copied) })
}

// WithLogger writes the events that [WithDialTrace] reports to l, with their fields as
// attributes. nil means that nothing is logged, which is the default.
//
//	WARN   an attempt to connect or to resolve failed; a service config was refused;
//	       keepalive was slowed down
//	INFO   the state changed; a connection is ready, or was lost
//	DEBUG  everything else
//
// From INFO on repeats are left out: the same failure at the same address is
// logged once a minute, another event ten times. The attribute "omitted" of the next one
// logged is the number left out. RPCs are not logged.
func WithLogger(l *slog.Logger) DialOption {
	return optionFunc(func(o *dialOptions) { o.logger = l })
}
