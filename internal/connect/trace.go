package connect

import (
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial/internal/failure"
)

// Step is the beginning or the end of one phase on the way to a connection.
type Step struct {
	Phase failure.Phase
	Done  bool // the end

	Addr       string // of the host name, the endpoint or the proxy that it is about
	ServerName string // TLS only: the name that the credentials check
	Proxy      string // the proxy's URL without credentials, for what goes through it

	// Of the end.
	Elapsed  time.Duration        // since the beginning
	Err      error                // nil: it went well
	Addrs    []string             // Resolve only: what there is to dial, in order
	AuthInfo credentials.AuthInfo // TLS only
	Settings []http2.Setting      // HTTP2 only: the server's

	began     time.Time
	withinTLS bool // HTTP2 only: the connection is one of crypto/tls
}

// begin reports the beginning of s.
func (cfg *Config) begin(s *Step) {
	cfg.Progress.begun(s)
	if cfg.Trace != nil {
		s.began = time.Now()
		cfg.Trace(*s)
	}
}

// end reports the end of s, which begin was called with.
func (cfg *Config) end(s *Step, err error) {
	if cfg.Trace != nil {
		s.Done, s.Err, s.Elapsed = true, err, time.Since(s.began)
		cfg.Trace(*s)
	}
}
