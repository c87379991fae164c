package connect

import (
	"sync"
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

	began time.Time
}

// Progress is how far one attempt has come. The zero value is ready. Its methods
// may be called from any goroutine.
type Progress struct {
	mu          sync.Mutex
	phase       failure.Phase // guarded by mu
	addr, proxy string        // guarded by mu
}

// Latest returns the phase that began last, and the Addr and Proxy of its Step. The
// phase is empty before the first.
func (p *Progress) Latest() (phase failure.Phase, addr, proxy string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase, p.addr, p.proxy
}

func (p *Progress) note(s *Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase, p.addr, p.proxy = s.Phase, s.Addr, s.Proxy
}

// begin tells of the beginning of s.
func (cfg *Config) begin(s *Step) {
	if cfg.Progress != nil {
		cfg.Progress.note(s)
	}
	if cfg.Trace != nil {
		s.began = time.Now()
		cfg.Trace(*s)
	}
}

// end tells of the end of s, which begin was called with.
func (cfg *Config) end(s *Step, err error) {
	if cfg.Trace != nil {
		s.Done, s.Err, s.Elapsed = true, err, time.Since(s.began)
		cfg.Trace(*s)
	}
}
