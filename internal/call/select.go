package call

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// Selector chooses how each RPC of a channel is made, in place of the service config
// (gRFC A31). Its method runs on the RPC's goroutine and must not wait.
type Selector interface {
	Select(ctx context.Context, method string) (Selection, error)
}

// Selection is what a Selector chose for one RPC.
type Selection struct {
	Unchanged bool // the RPC is made as the service config says; the rest is not set

	Context context.Context // takes the place of the RPC's; nil: that stays
	Method  serviceconfig.MethodConfig
	// Committed is called when no other attempt can follow, or at the RPC's end if that
	// comes first, once. nil: nothing.
	Committed func()
	// Intercept makes the stream of the RPC, by newStream or in another way. nil: nothing
	// is to be intercepted.
	Intercept Intercept
}

// Intercept is an interceptor that a Selector chose.
type Intercept func(ctx context.Context, newStream NewStream, opts ...grpc.CallOption) (grpc.ClientStream, error)

// NewStream opens the stream that an Intercept is in front of.
type NewStream func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error)

// selectorInForce is a Selector and the lock that is held, for reading, while it chooses.
type selectorInForce struct {
	Selector
	asked sync.RWMutex
}

// SetSelector makes RPCs that begin from now on ask s; nil: none. When it returns, no
// RPC asks the one before any more.
func (ch *Channel) SetSelector(s Selector) {
	var next *selectorInForce
	if s != nil {
		next = &selectorInForce{Selector: s}
	}
	if before := ch.selector.Swap(next); before != nil {
		// RPCs that ask it hold the lock, and those that take the lock later see that
		// another one is in force.
		before.asked.Lock()
		//lint:ignore SA2001 it is a barrier
		before.asked.Unlock()
	}
}

// choose asks the selector in force, if there is one, for the RPC's selection.
func (r *rpc) choose(ctx context.Context) error {
	if r.selection != nil || r.ch.selector.Load() == nil {
		return nil
	}
	sel, ok, err := r.ch.ask(ctx, r.method)
	switch {
	case err != nil:
		if st := controlPlaneError("the call config selector", err); st != nil {
			return r.noted(st, StageResolve, nil)
		}
		return r.noted(withCause(status.New(codes.Unknown, err.Error()), err), StageResolve, nil)
	case !ok:
		return nil
	}
	if sel.Unchanged {
		return nil
	}
	if f := sel.Committed; f != nil {
		// Not sync.OnceFunc: that panics at each later call if f has panicked, on a goroutine
		// on which the program cannot recover.
		var once sync.Once
		sel.Committed = func() { once.Do(f) }
	}
	r.selection = &sel
	return nil
}

func (ch *Channel) ask(ctx context.Context, method string) (sel Selection, ok bool, err error) {
	for {
		s := ch.selector.Load()
		if s == nil {
			return Selection{}, false, nil
		}
		if sel, ok, err = ch.askOne(s, ctx, method); ok {
			return sel, true, err
		}
	}
}

// askOne asks s, unless another one has taken its place.
func (ch *Channel) askOne(s *selectorInForce, ctx context.Context, method string) (sel Selection, ok bool, err error) {
	s.asked.RLock()
	defer s.asked.RUnlock()
	if ch.selector.Load() != s {
		return Selection{}, false, nil
	}
	sel, err = s.Select(ctx, method)
	return sel, true, err
}

// committed calls what is to be called once no other attempt can follow. No lock is
// held. s may be nil.
func (s *Selection) committed() {
	if s != nil && s.Committed != nil {
		s.Committed()
	}
}

// intercepts reports whether the RPC is to go through an interceptor first.
func (s *Selection) intercepts() bool { return s != nil && s.Intercept != nil }
