// Package xds makes xDS work on grpcdial's channels:
//
//	import _ "github.com/grpcdial/grpcdial/xds"
//
// From then on, targets xds:///listener are resolved by grpc-go's xDS resolver and
// balanced by its policies. The bootstrap configuration is read as grpc-go reads it, from
// the file that GRPC_XDS_BOOTSTRAP names or from GRPC_XDS_BOOTSTRAP_CONFIG. Targets
// google-c2p:///service work too if the program imports
// google.golang.org/grpc/xds/googledirectpath.
//
// grpc-go's own channels in the same program go on as before: the builder that this
// package registers passes them the updates of grpc-go's resolver, with one attribute
// more, which they ignore.
//
// grpc-go's resolver chooses each RPC's route through types that grpc-go does not export.
// This package reads them by reflection, without package unsafe, and checks them when an
// update comes. With a version of grpc-go that has other types the RPCs of a grpcdial
// channel fail, and the error names the difference; none is routed wrongly.
//
// # Experimental
//
// The package may change in a later release, because what it depends on may:
// [grpcdial.CallConfigSelector] and grpc-go's xDS.
package xds

import (
	"sync"
	"time"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/resolver"
	_ "google.golang.org/grpc/xds" // registers grpc-go's resolver, policies and HTTP filters

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/foreignselector"
)

// scheme is that of xDS targets.
const scheme = "xds"

var registered = Wrap(resolver.Get(scheme))

func init() {
	resolver.Register(registered)
	foreignselector.Register(translated)
}

// Resolver returns the builder for xds targets that the import of this package has
// registered. A program needs it for [grpcdial.WithResolvers] only if it registers
// another builder for the scheme.
func Resolver() resolver.Builder { return registered }

// Wrap returns a builder whose resolvers are b's, and choose RPCs' routes on grpcdial's
// channels as on grpc-go's. b is grpc-go's xDS builder, perhaps with a bootstrap
// configuration of its own, or one that builds on it. Programs that import this package
// need not call it: grpcdial's channels translate the updates of every resolver that is
// grpc-go's xDS resolver or passes its updates on.
func Wrap(b resolver.Builder) resolver.Builder {
	switch b := b.(type) {
	case builder, overridingBuilder:
		return b
	case interface {
		resolver.Builder
		resolver.AuthorityOverrider
	}:
		return overridingBuilder{builder{b}, b}
	default:
		return builder{b}
	}
}

type builder struct{ resolver.Builder }

func (b builder) Build(t resolver.Target, cc resolver.ClientConn, o resolver.BuildOptions) (resolver.Resolver, error) {
	return b.Builder.Build(t, newTranslatingConn(cc), o)
}

// overridingBuilder is for builders that choose the channel's authority.
type overridingBuilder struct {
	builder
	resolver.AuthorityOverrider
}

// translatingConn is a channel as its resolver sees it. To an update with a config
// selector of grpc-go's it adds one for grpcdial, that asks it.
type translatingConn struct {
	resolver.ClientConn
	both updateWithError // grpcdial's channel, nil if it is another one

	mu   sync.Mutex
	held *resolver.State // guarded by mu: an empty update whose reason is about to come
}

// updateWithError takes an update without addresses and the reason in one.
type updateWithError interface {
	UpdateStateWithError(resolver.State, error) error
}

func newTranslatingConn(cc resolver.ClientConn) *translatingConn {
	both, _ := cc.(updateWithError)
	return &translatingConn{ClientConn: cc, both: both}
}

// reasonWait is how long an empty update is held at most.
const reasonWait = time.Second

// UpdateState passes an update on. grpc-go's resolver says that a listener is missing, or
// that there is no management server, by an update in which there is nothing and, at once,
// the error. For grpcdial's channel they are made one, so that it is not said for a moment
// that there are no addresses, without the reason.
func (cc *translatingConn) UpdateState(s resolver.State) error {
	if cc.both != nil && s.Attributes == nil && len(s.Addresses)+len(s.Endpoints) == 0 {
		cc.mu.Lock()
		defer cc.mu.Unlock()
		cc.held = &s
		time.AfterFunc(reasonWait, func() {
			if cc.take(&s) {
				_ = cc.ClientConn.UpdateState(s) // that the resolver is closed matters no more
			}
		})
		return balancer.ErrBadResolverState
	}
	cc.takeAny()
	return cc.ClientConn.UpdateState(translated(s))
}

// ReportError passes an error on, with the update that is held.
func (cc *translatingConn) ReportError(err error) {
	if s := cc.takeAny(); s != nil {
		_ = cc.both.UpdateStateWithError(*s, err)
		return
	}
	cc.ClientConn.ReportError(err)
}

// takeAny returns the update that is held, which it is not any more; nil: none was.
func (cc *translatingConn) takeAny() *resolver.State {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	s := cc.held
	cc.held = nil
	return s
}

// take reports whether s was held. It is not any more.
func (cc *translatingConn) take(s *resolver.State) bool {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	if cc.held != s {
		return false
	}
	cc.held = nil
	return true
}

// translated returns s with a selector for grpcdial beside grpc-go's, if it has one.
func translated(s resolver.State) resolver.State {
	if sel := selectorFor(s.Attributes); sel != nil {
		return grpcdial.SetCallConfigSelector(s, sel)
	}
	return s
}

// selectorFor returns the selector for an update: nil if grpc-go's has none, one that
// fails every RPC if it cannot be translated.
func selectorFor(a *attributes.Attributes) grpcdial.CallConfigSelector {
	theirs, err := configSelector(a)
	switch {
	case err != nil:
		return &refusal{err}
	case theirs == nil:
		return nil
	}
	return translate(theirs)
}
