package grpcdial

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/attributevalues"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// CallConfigSelector chooses, for each RPC of a channel, how it is made: a resolver may
// so route, bound, retry and intercept RPCs one by one (gRFC A31). A resolver gives one
// with an update, by [SetCallConfigSelector].
//
// SelectCallConfig is called on the RPC's goroutine, for several RPCs at the same time,
// and must not wait. A status error that it returns ends the RPC, with Internal in place
// of the codes that gRFC A54 reserves for applications; any other error ends it with
// Unknown. A nil CallConfig changes nothing about the RPC.
//
// # Experimental
//
// This type may change or be removed in a later release, and with it CallInfo, CallConfig
// and SetCallConfigSelector.
type CallConfigSelector interface {
	SelectCallConfig(CallInfo) (*CallConfig, error)
}

// CallInfo describes an RPC to a [CallConfigSelector].
type CallInfo struct {
	// Context is the RPC's, with the program's outgoing metadata and deadline.
	Context context.Context
	// Method is the full name, "/service/method".
	Method string
	// Authority is the channel's, which the RPC's own may differ from.
	Authority string
}

// CallConfig says how one RPC is made. It replaces the service config's settings for the
// RPC's method; retry throttling stays that of the service config.
type CallConfig struct {
	// Context takes the place of the RPC's own, from which it has to be derived: for
	// the policy's picker, or with other metadata. nil leaves it as it is.
	Context context.Context
	// MethodConfig is for this RPC.
	MethodConfig MethodConfig
	// OnCommitted is called once, when no other attempt of the RPC can follow, or at
	// its end. nil: nothing is called.
	OnCommitted func()
	// Interceptor makes the RPC's stream, that of a unary RPC too: by calling newStream,
	// or with an error in place of it. It runs after the interceptors of the dial options,
	// on the RPC's goroutine. nil: nothing is intercepted.
	Interceptor func(ctx context.Context, info CallInfo, newStream NewStreamFunc, opts ...grpc.CallOption) (grpc.ClientStream, error)
}

// NewStreamFunc opens the stream that an interceptor of a [CallConfig] is in front of.
// opts are all call options of the RPC.
type NewStreamFunc func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error)

// selectorKey is the attribute of a resolver's update that SetCallConfigSelector sets.
type selectorKey struct{}

// SetCallConfigSelector returns s with a selector for the RPCs of channels that get it
// from their resolver. The selector is in force once the load-balancing policy has s and
// its picker is in force. When the resolver's UpdateState returns, the selector of the
// update before is not called any more; an update without one ends the selection. A nil
// sel is none.
//
// # Experimental
//
// See [CallConfigSelector].
func SetCallConfigSelector(s resolver.State, sel CallConfigSelector) resolver.State {
	s.Attributes = s.Attributes.WithValue(selectorKey{}, sel)
	return s
}

// selectorOf returns the selector of a resolver's update, nil if it has none.
func selectorOf(s resolver.State) CallConfigSelector {
	sel, _ := s.Attributes.Value(selectorKey{}).(CallConfigSelector)
	return sel
}

// useSelector puts the selector of a resolver's update in force, or none. Earlier reports
// of the policy are in force by then. Policy queue only.
func (cc *ClientConn) useSelector(s resolver.State) {
	cc.policyQueue.AssertOn()
	sel := selectorOf(s)
	if sel == nil {
		cc.calls.SetSelector(nil)
		return
	}
	cc.calls.SetSelector(&callSelector{sel, cc.authority, serviceconfig.Parser{MaxCallAttempts: cc.opts.maxCallAttempts}})
}

// callSelector is a CallConfigSelector for package call.
type callSelector struct {
	selector  CallConfigSelector
	authority string
	parser    serviceconfig.Parser
}

func (s *callSelector) Select(ctx context.Context, method string) (call.Selection, error) {
	info := CallInfo{Context: ctx, Method: method, Authority: s.authority}
	c, err := s.selector.SelectCallConfig(info)
	if err != nil || c == nil {
		return call.Selection{Unchanged: true}, err
	}
	mc, err := s.parser.FromGRPC("MethodConfig", c.MethodConfig)
	if err != nil {
		if c.OnCommitted != nil {
			c.OnCommitted()
		}
		return call.Selection{}, status.Errorf(codes.Internal, "the call config selector returned an illegal method config: %v", err)
	}
	sel := call.Selection{Context: c.Context, Method: *mc, Committed: c.OnCommitted}
	if intercept := c.Interceptor; intercept != nil {
		info.Context = nil // the interceptor has its own
		sel.Intercept = func(ctx context.Context, newStream call.NewStream, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return intercept(ctx, info, NewStreamFunc(newStream), opts...)
		}
	}
	return sel, nil
}

// errForeignSelector is why an update is refused that carries a selector of grpc-go's,
// which only its own channel can ask, and none of ours. RPCs would go where the policy does not know them.
var errForeignSelector = errors.New(`grpcdial: the resolver chooses RPCs' configs by a config selector of grpc-go's, as that for xDS does: import _ "github.com/grpcdial/grpcdial/xds"`)

// hasForeignSelector reports whether an update's attributes hold a selector of grpc-go's.
// Its key and type are internal to grpc-go: it is known by its method SelectConfig.
func hasForeignSelector(a *attributes.Attributes) bool {
	for _, value := range attributevalues.All(a) {
		if m, has := value.Type().MethodByName("SelectConfig"); has && m.Type.NumIn() == 2 && m.Type.In(1).Name() == "RPCInfo" {
			return true
		}
	}
	return false
}
