package grpcdial

import (
	"context"
	"net/url"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// bridge is the *grpc.ClientConn that the interceptors of one channel get, made when
// the first RPC has need of it. RPCs on it run on the channel. It was closed as soon
// as it was made, so that it has no goroutine and an interceptor costs a channel no
// more than that: its GetState is SHUTDOWN, and Close returns an error.
type bridge struct {
	calls  grpc.ClientConnInterface // where its RPCs go
	target string                   // the channel's, as the program wrote it
	scheme string                   // of the channel's canonical target

	once sync.Once
	conn *grpc.ClientConn // set by once
}

func (b *bridge) get() *grpc.ClientConn {
	b.once.Do(b.build)
	return b.conn
}

func (b *bridge) build() {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(b.forwardUnary),
		grpc.WithStreamInterceptor(b.forwardStream),
		// The scheme may be one that only the channel knows.
		grpc.WithResolvers(unbuilt(b.scheme), unbuilt(schemePassthrough)),
	}
	conn, err := grpc.NewClient(b.target, options...)
	if err != nil {
		conn, err = grpc.NewClient(schemePassthrough+":///"+url.PathEscape(b.target), options...)
	}
	if err != nil {
		// Nothing is left that grpc-go could refuse, but for dial options
		// that the program forces on all of its connections.
		panic("grpcdial: grpc.NewClient does not make a connection that is never used: " + err.Error())
	}
	conn.Close()
	b.conn = conn
}

func (b *bridge) forwardUnary(ctx context.Context, method string, args, reply any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return b.calls.Invoke(ctx, method, args, reply, opts...)
}

func (b *bridge) forwardStream(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, method string, _ grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return b.calls.NewStream(ctx, desc, method, opts...)
}

// unbuilt is a resolver builder for the scheme it is named after. A connection
// that never leaves idle has its target's scheme looked up and no resolver
// built.
type unbuilt string

func (u unbuilt) Scheme() string { return string(u) }

func (u unbuilt) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, grpc.ErrClientConnClosing
}

// GRPC returns a *grpc.ClientConn that mirrors cc, for libraries that insist on
// grpc-go's type. It is made at the first call, the same from then on, and making
// it does not connect.
//
// RPCs on it run on cc, through cc's interceptors. GetState and WaitForStateChange
// report cc's states, Connect makes cc connect, Target returns cc's target. Its first
// Close returns nil, ends the RPCs that were made on it with Canceled (they match
// grpc.ErrClientConnClosing), and leaves cc open; for a library that takes ownership
// of the connection that it is given use [ClientConn.GRPCOwned]. When cc is closed the
// mirror is closed too: its state is SHUTDOWN, and Close returns
// grpc.ErrClientConnClosing as for any connection that is closed already.
//
// ResetConnectBackoff of the mirror has no effect on cc, and its GetMethodConfig returns
// the zero value: grpc-go has no interface to forward them. Its Target is that of cc,
// unless grpc-go refuses such a target: then it is a passthrough target that quotes
// it. Its CanonicalTarget may differ from that of cc.
//
// The mirror of an open channel keeps three goroutines of grpc-go's, until it or cc
// is closed. GRPC is safe for concurrent use.
func (cc *ClientConn) GRPC() *grpc.ClientConn { return cc.mirror(&cc.mirrors.shared, false).get() }

// GRPCOwned is [ClientConn.GRPC] for a library that takes ownership of the connection
// that it is given: closing what GRPCOwned returns closes cc. It is another
// *grpc.ClientConn than that of GRPC, and the same at each call.
func (cc *ClientConn) GRPCOwned() *grpc.ClientConn { return cc.mirror(&cc.mirrors.owned, true).get() }

// mirrors is the *grpc.ClientConns through which others see one channel; nil pointers
// for those that nothing has asked for.
type mirrors struct {
	shared atomic.Pointer[mirror] // GRPC
	owned  atomic.Pointer[mirror] // GRPCOwned
}

// mirror returns the mirror in slot, which is made if there is none.
func (cc *ClientConn) mirror(slot *atomic.Pointer[mirror], closes bool) *mirror {
	if m := slot.Load(); m != nil {
		return m
	}
	cc.mu.Lock()
	defer cc.mu.Unlock()
	if slot.Load() == nil {
		slot.Store(&mirror{cc: cc, closes: closes, ended: cc.closed})
	}
	return slot.Load()
}

// catchUp returns when the mirrors report the channel's state, or one that came
// after it.
func (m *mirrors) catchUp() {
	for _, m := range [...]*mirror{m.shared.Load(), m.owned.Load()} {
		if m != nil {
			m.catchUp()
		}
	}
}

// include reports whether conn is one of the mirrors.
func (m *mirrors) include(conn *grpc.ClientConn) bool {
	shared, owned := m.shared.Load(), m.owned.Load()
	return shared != nil && shared.conn.Load() == conn || owned != nil && owned.conn.Load() == conn
}

// close closes the mirrors of a channel that is marked as closed. It must not be
// called on a queue of the channel.
func (m *mirrors) close() {
	for _, m := range [...]*mirror{m.shared.Load(), m.owned.Load()} {
		if m != nil {
			m.end()
		}
	}
}

// mirror is a *grpc.ClientConn whose states are those of a channel and whose RPCs run
// on it. It consists of grpc-go's public parts: a resolver that gives one address, a
// policy without subchannels that reports the channel's state as its own, and
// interceptors that do not call the next one.
//
// The transition of the channel's state comes first, then that of the mirror: made by
// the goroutine that made the former, or by one that waited for it and was faster.
// So a caller of AwaitReady, WaitForStateChange or Watch, or of an RPC on the mirror,
// finds the mirror in the state that it has learnt of.
//
// mu is held while grpc-go is called with a state. That takes locks of the mirror's
// *grpc.ClientConn, under which no code of this package runs.
type mirror struct {
	cc     *ClientConn // set once
	closes bool        // closing the mirror closes cc; set once

	once sync.Once
	conn atomic.Pointer[grpc.ClientConn] // set by once
	life context.Context                 // ends when conn is closed; set by once
	over context.CancelCauseFunc         // ends life; set by once

	attached atomic.Bool // reports may be made

	mu       sync.Mutex
	to       balancer.ClientConn // guarded by mu: what the policy got; nil before
	ended    bool                // guarded by mu: no mirror is made any more
	reported uint64              // guarded by mu: number of the transition reported last
}

func (m *mirror) get() *grpc.ClientConn {
	m.once.Do(m.build)
	return m.conn.Load()
}

func (m *mirror) build() {
	m.life, m.over = context.WithCancelCause(context.Background())
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(m.invoke),
		grpc.WithStreamInterceptor(m.newStream),
		// The scheme may be one that only the channel knows.
		grpc.WithResolvers(mirrorResolver{m.cc.parsed.scheme, m}, mirrorResolver{schemePassthrough, m}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"` + mirrorPolicyName + `":{}}]}`),
		grpc.WithIdleTimeout(0), // the channel knows when it is idle
	}
	// DialContext, unlike NewClient and Connect, builds resolver and policy before it
	// returns without making the policy connect.
	conn, err := grpc.DialContext(context.Background(), m.cc.target, options...)
	if err != nil {
		conn, err = grpc.DialContext(context.Background(), schemePassthrough+":///"+url.PathEscape(m.cc.target), options...)
	}
	if err != nil {
		// Nothing is left that grpc-go could refuse, but for dial options
		// that the program forces on all of its connections.
		panic("grpcdial: grpc-go does not make a connection that is never used: " + err.Error())
	}
	m.conn.Store(conn)
	m.mu.Lock()
	ended := m.ended
	m.mu.Unlock()
	if ended {
		_ = conn.Close()
	}
}

// end closes the mirror, or has it closed as soon as it is made.
func (m *mirror) end() {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	if conn := m.conn.Load(); conn != nil {
		_ = conn.Close()
	}
}

// attach makes the policy report the channel's state to c from now on, beginning with
// the current one.
func (m *mirror) attach(c balancer.ClientConn) {
	m.mu.Lock()
	m.to = c
	m.reportLocked(m.cc.state.latest())
	m.mu.Unlock()
	m.attached.Store(true)
	m.catchUp() // a transition that came before attached was seen
}

// catchUp reports the channel's state if it is another one than that reported last.
func (m *mirror) catchUp() {
	if !m.attached.Load() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.cc.state.latest(); now.Seq != m.reported {
		m.reportLocked(now)
	}
}

// reportLocked reports the state of a transition. SHUTDOWN is reported by closing the
// mirror, which Close does.
func (m *mirror) reportLocked(c StateChange) {
	m.reported = c.Seq
	if c.To != connectivity.Shutdown {
		m.to.UpdateState(balancer.State{ConnectivityState: c.To, Picker: noPick{}})
	}
}

// closed is called when the *grpc.ClientConn is being closed.
func (m *mirror) closed() {
	m.attached.Store(false)
	m.over(errClosing)
	if m.closes {
		_ = m.cc.Close()
	}
}

// bind returns a context that ends with ctx and with the mirror, and what releases
// it.
func (m *mirror) bind(ctx context.Context) (context.Context, func()) {
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(m.life, func() { cancel(errClosing) })
	return bound, func() {
		stop()
		cancel(nil)
	}
}

// result is err, the end of an RPC of ctx, or the error of a closed connection if the
// end of the mirror was the reason.
func (m *mirror) result(ctx context.Context, err error) error {
	if err != nil && m.life.Err() != nil && ctx.Err() == nil && status.Code(err) == codes.Canceled {
		return errClosing
	}
	return err
}

func (m *mirror) invoke(ctx context.Context, method string, args, reply any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if m.life.Err() != nil {
		return errClosing
	}
	bound, release := m.bind(ctx)
	defer release()
	defer m.catchUp()
	return m.result(ctx, m.cc.Invoke(bound, method, args, reply, opts...))
}

func (m *mirror) newStream(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, method string, _ grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if m.life.Err() != nil {
		return nil, errClosing
	}
	bound, release := m.bind(ctx)
	// An RPC calls its OnFinish options last of all, once, whatever becomes of it; one
	// that does not begin may not.
	opts = append(opts[:len(opts):len(opts)], grpc.OnFinish(func(error) { release() }))
	s, err := m.cc.NewStream(bound, desc, method, opts...)
	m.catchUp()
	if err != nil {
		release()
		return nil, m.result(ctx, err)
	}
	return &mirrorStream{s, m, ctx}, nil
}

// mirrorStream is a stream of a mirror, whose end may be that of the mirror.
type mirrorStream struct {
	grpc.ClientStream
	mirror *mirror
	ctx    context.Context // as the program gave it
}

func (s *mirrorStream) RecvMsg(m any) error {
	return s.mirror.result(s.ctx, s.ClientStream.RecvMsg(m))
}

func (s *mirrorStream) SendMsg(m any) error {
	return s.mirror.result(s.ctx, s.ClientStream.SendMsg(m))
}

// mirrorPolicyName is how a mirror's service config asks for mirrorPolicies.
const mirrorPolicyName = "grpcdial_mirror"

func init() { balancer.Register(mirrorPolicies{}) }

// mirrorKey is the attribute of a mirror's resolver state that is the mirror.
type mirrorKey struct{}

// mirrorResolver builds the resolver of a mirror, which gives its policy the mirror and
// an address that is not used.
type mirrorResolver struct {
	scheme string
	mirror *mirror
}

func (r mirrorResolver) Scheme() string { return r.scheme }

func (r mirrorResolver) Build(_ resolver.Target, c resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return r, c.UpdateState(resolver.State{
		Endpoints:  []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: r.mirror.cc.target}}}},
		Attributes: attributes.New(mirrorKey{}, r.mirror),
	})
}

func (r mirrorResolver) ResolveNow(resolver.ResolveNowOptions) {}

func (r mirrorResolver) Close() {}

// mirrorPolicies builds the policies of mirrors.
type mirrorPolicies struct{}

func (mirrorPolicies) Name() string { return mirrorPolicyName }

func (mirrorPolicies) Build(c balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &mirrorPolicy{to: c}
}

// mirrorPolicy is the policy of one mirror. grpc-go calls it from one goroutine at a
// time.
type mirrorPolicy struct {
	to     balancer.ClientConn
	mirror *mirror // nil before the first update
}

func (p *mirrorPolicy) UpdateClientConnState(s balancer.ClientConnState) error {
	m, ok := s.ResolverState.Attributes.Value(mirrorKey{}).(*mirror)
	if !ok {
		return balancer.ErrBadResolverState
	}
	p.mirror = m
	m.attach(p.to)
	return nil
}

// ExitIdle makes the channel connect. It is called for Connect.
func (p *mirrorPolicy) ExitIdle() {
	if p.mirror != nil {
		p.mirror.cc.askToConnect()
	}
}

func (p *mirrorPolicy) Close() {
	if p.mirror != nil {
		p.mirror.closed()
	}
}

func (p *mirrorPolicy) ResolverError(error) {}

func (p *mirrorPolicy) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// noPick is a mirror's picker: RPCs do not come that far.
type noPick struct{}

func (noPick) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
}
