package h2

import (
	"math"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial/internal/text"
)

const (
	defaultStreamWindow = 512 << 10
	defaultConnWindow   = 8 << 20
	defaultReadBuffer   = 32 << 10
	maxReadBuffer       = 16 << 20 // no read returns that much
	maxIdleReads        = 100      // reads in a row that return nothing
	defaultHeaderList   = 16 << 20
	lastWordsWait       = 50 * time.Millisecond // for what a server said that does not take our preface
	defaultPingTimeout  = 20 * time.Second
	initialWindow       = 65535 // RFC 9113 section 6.9.2
	maxWindow           = math.MaxInt32
	frameHeaderLen      = 9
	maxFrameSize        = 16384 // what we accept: the default of SETTINGS_MAX_FRAME_SIZE
	maxStreamID         = math.MaxInt32
	defaultPendingLimit = 64 << 10
	turn                = 65 << 10 // the most one stream queues before others get their turn: a message of 64 KiB
	maxFlushRounds      = 4        // how many writes one caller makes for others before it hands over
	maxQueuedAcks       = 10000    // answers to the peer's PING and SETTINGS that may wait to be written
	freeContinuations   = 1000     // CONTINUATION frames in one header block, ...
	leastContinuation   = 1 << 10  // ... beside one for each so many bytes of it
	maxInformational    = 100      // header blocks of a stream that are no part of its response
	maxFreeStreams      = 128      // unary stream objects kept for reuse
	maxErrorBody        = 1024     // bytes of a non-gRPC body that go into the error
	maxPrefaceBytes     = 1024     // bytes of a wrong server preface that are kept
)

// Config is the configuration of one connection. The zero value of a
// size means its default.
type Config struct {
	// Scheme is the ":scheme" of every request: "http" or "https".
	Scheme string
	// Secrets were sent to the proxy on the way to the server. They are masked in
	// GOAWAY's debug data, which the proxy may have sent. nil: there are none.
	Secrets *text.Secrets
	// UserAgent is sent with every request.
	UserAgent string
	// StreamWindow is the receive window of a stream. The default is 512 KiB at
	// first and grows, up to 16 MiB, where that lets a server send faster; unless
	// ConnWindow is set.
	StreamWindow int32
	// ConnWindow is the receive window of the connection. The default is 8 MiB, or
	// that of a stream if it is larger. It is credited on receipt and bounds no
	// memory; the streams' windows do.
	ConnWindow int32
	// MaxHeaderListSize is the largest header list accepted from the server,
	// counted as RFC 9113 section 6.5.2 says; default 16 MiB. It is announced to the
	// server if it is set.
	MaxHeaderListSize uint32
	// PermitWithoutStream probes also while no stream is open; see KeepaliveTime.
	PermitWithoutStream bool

	grow bool // the windows' sizes are the defaults

	// ReadBufferSize is how much one read asks for, but for the payload of a large message
	// on a socket; default 32 KiB, at most 16 MiB. The buffer is shared with other
	// connections while this one is quiet.
	ReadBufferSize int
	// WriteBufferSize is how many bytes may wait to be written before senders
	// have to; default 64 KiB. A sender may exceed it by one turn of 65 KiB.
	WriteBufferSize int
	// KeepaliveTime is how long the connection may be silent before it is
	// probed with a PING; 0 means never (gRFC A8).
	KeepaliveTime time.Duration
	// KeepaliveTimeout is how long the answer may take; default 20 s.
	KeepaliveTimeout time.Duration
	// AuthInfo is what the credentials' handshake found; for Peer.
	AuthInfo credentials.AuthInfo
	// OnSettings is called with the server's first SETTINGS, within Handshake. nil:
	// nothing is called.
	OnSettings func([]http2.Setting)
	// GoAway makes the error by which programs find a GOAWAY of the server's in the
	// causes of what it ended. nil: they do not.
	GoAway func(code uint32, debug string, lastStreamID uint32) error

	goodbye time.Duration // goodbyeWait, but for tests whose claim is not how long that is
}

func (cfg Config) withDefaults() Config {
	if cfg.Scheme == "" {
		cfg.Scheme = "http"
	}
	cfg.grow = cfg.StreamWindow <= 0 && cfg.ConnWindow < initialWindow
	if cfg.goodbye == 0 {
		cfg.goodbye = goodbyeWait
	}
	if cfg.StreamWindow <= 0 {
		cfg.StreamWindow = defaultStreamWindow
	}
	if cfg.ConnWindow < initialWindow {
		cfg.ConnWindow = max(defaultConnWindow, cfg.StreamWindow)
	}
	if cfg.ReadBufferSize <= 0 {
		cfg.ReadBufferSize = defaultReadBuffer
	}
	if cfg.WriteBufferSize <= 0 {
		cfg.WriteBufferSize = defaultPendingLimit
	}
	if cfg.KeepaliveTime == math.MaxInt64 {
		cfg.KeepaliveTime = 0
	}
	if cfg.KeepaliveTimeout <= 0 {
		cfg.KeepaliveTimeout = defaultPingTimeout
	}
	return cfg
}

func (cfg *Config) headerListLimit() uint32 {
	if cfg.MaxHeaderListSize == 0 {
		return defaultHeaderList
	}
	return cfg.MaxHeaderListSize
}
