package dns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/lookup"
)

// Config is what resolvers are built with. The zero value is grpc-go's
// behaviour where that has a setting.
type Config struct {
	// Resolver asks for targets without an authority; PreferGo, StrictErrors and
	// Dial are taken from it. nil: net.DefaultResolver. A target with an authority,
	// dns://server:port/name, asks that server and does not use it.
	Resolver *net.Resolver

	// MinInterval is the least time from the end of a resolution that succeeded
	// to the start of the next. A ResolveNow that comes earlier is obeyed then.
	// Zero: 30 s. Negative: none.
	MinInterval time.Duration

	// Refresh is the time after which a name is resolved again unasked, counted
	// from the end of a resolution that succeeded. It is raised to MinInterval.
	// Zero or less: never.
	Refresh time.Duration

	// LookupTimeout bounds a resolution: the addresses and the service config
	// together. Zero or less: 30 s.
	LookupTimeout time.Duration

	// ServiceConfigWait is how long the first service config may keep RPCs waiting,
	// counted from when the addresses are known. Zero: 1 s. Negative: not at all.
	ServiceConfigWait time.Duration

	// Backoff says how long to wait after a resolution that failed: after the
	// n-th in a row BaseDelay times Multiplier to the n, but not more than MaxDelay,
	// moved by up to Jitter of itself. Zero: backoff.DefaultConfig, so 1.6 s first
	// and 120 s at most. ResolveNow does not shorten it.
	Backoff backoff.Config
}

func (c Config) withDefaults() Config {
	if c.MinInterval == 0 {
		c.MinInterval = 30 * time.Second
	}
	c.MinInterval = max(c.MinInterval, 0)
	if c.Refresh > 0 {
		c.Refresh = max(c.Refresh, c.MinInterval)
	}
	if c.LookupTimeout <= 0 {
		c.LookupTimeout = 30 * time.Second
	}
	if c.ServiceConfigWait == 0 {
		c.ServiceConfigWait = time.Second
	}
	if c.Backoff == (backoff.Config{}) {
		c.Backoff = backoff.DefaultConfig
	}
	return c
}

// disableTXT is the environment variable that, set to "false", keeps grpc-go's
// resolver from looking up service configs. It does the same here.
const disableTXT = "GRPC_ENABLE_TXT_SERVICE_CONFIG"

const (
	defaultPort       = "443" // of the target, as grpc-go's
	defaultServerPort = "53"  // of the authority
)

// NewBuilder returns a builder for the scheme dns. It may be used by many
// channels at once.
//
// The endpoint of a target is "host" or "host:port": port 443 if it has none,
// the host localhost if it is empty, IPv6 addresses in brackets unless they
// come without a port. Anything else makes Build fail. The authority is empty
// or the name server to ask, "server" or "server:port", port 53 if it has none.
//
// A host that is an IP address is delivered from inside Build and never looked
// up. For a name, Build starts the first resolution and returns; all calls of
// the resolver.ClientConn then come from a goroutine of the resolver's, one at a
// time. They may block, but not for the resolver's Close, which waits for them.
//
// Service configs are looked up as gRFC A2 says, unless BuildOptions or the
// environment (GRPC_ENABLE_TXT_SERVICE_CONFIG=false) disable them. None is looked
// up for localhost and names under it: those are not for name servers (RFC 6761
// §6.3). grpclb's SRV records are not looked up.
//
// Updates have both Addresses and Endpoints, one address to an endpoint, in
// the order of RFC 6724, each address once.
func NewBuilder(cfg Config) resolver.Builder {
	return &builder{cfg: cfg.withDefaults()}
}

type builder struct {
	cfg Config
}

// Scheme returns "dns".
func (*builder) Scheme() string { return "dns" }

// Build makes a resolver as NewBuilder says.
func (b *builder) Build(target resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	host, port, err := splitEndpoint(target.Endpoint(), defaultPort)
	if err != nil {
		return nil, err
	}
	source, err := b.source(target.URL.Host)
	if err != nil {
		return nil, err
	}
	if isAddress(host) {
		// Looking again would find the same: the verdict has no use here.
		_ = cc.UpdateState(stateOf([]string{net.JoinHostPort(host, port)}))
		return literal{}, nil
	}
	r := &hostResolver{
		cfg:         b.cfg,
		host:        host,
		port:        port,
		source:      source,
		cc:          cc,
		wantsConfig: !opts.DisableServiceConfig && !strings.EqualFold(os.Getenv(disableTXT), "false") && !isLocalhost(host),
		seed:        [2]uint64{rand.Uint64(), rand.Uint64()},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.start()
	return r, nil
}

// source returns the name servers for a target with this authority.
func (b *builder) source(authority string) (lookup.Source, error) {
	if authority == "" {
		return lookup.Source{Resolver: b.cfg.Resolver}, nil
	}
	host, port, err := splitEndpoint(authority, defaultServerPort)
	if err != nil {
		return lookup.Source{}, fmt.Errorf("the name server in the target's authority: %w", err)
	}
	return lookup.Server(net.JoinHostPort(host, port)), nil
}

// stateOf is the update for these addresses.
func stateOf(addrs []string) resolver.State {
	s := resolver.State{
		Addresses: make([]resolver.Address, len(addrs)),
		Endpoints: make([]resolver.Endpoint, len(addrs)),
	}
	for i, addr := range addrs {
		s.Addresses[i] = resolver.Address{Addr: addr}
		s.Endpoints[i] = resolver.Endpoint{Addresses: []resolver.Address{{Addr: addr}}}
	}
	return s
}

// literal is the resolver of an IP address. It has nothing to do.
type literal struct{}

func (literal) ResolveNow(resolver.ResolveNowOptions) {}
func (literal) Close()                                {}
