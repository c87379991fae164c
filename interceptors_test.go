package grpcdial

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// callRecord is a call path that writes down what reaches it.
type callRecord struct {
	log     *[]string
	opts    []grpc.CallOption
	args    any
	desc    *grpc.StreamDesc
	streams grpc.ClientStream // what NewStream returns
	err     error
}

func (c *callRecord) Invoke(_ context.Context, method string, args, _ any, opts ...grpc.CallOption) error {
	*c.log = append(*c.log, "core "+method)
	c.args, c.opts = args, opts
	return c.err
}

func (c *callRecord) NewStream(_ context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	*c.log = append(*c.log, "core "+method)
	c.desc, c.opts = desc, opts
	return c.streams, c.err
}

func newChain(t *testing.T, core grpc.ClientConnInterface, opts ...DialOption) (*callChain, *bridge) {
	t.Helper()
	o, err := newDialOptions(byDial, opts)
	require.NoError(t, err)
	b := &bridge{target: "backend:1", scheme: schemePassthrough}
	c := new(callChain)
	c.init(o, core, b.get)
	b.calls = c
	return c, b
}

func TestInterceptorsRunInOrder(t *testing.T) {
	var log []string
	unary := func(name string) grpc.UnaryClientInterceptor {
		return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			log = append(log, name+" "+method)
			err := invoker(ctx, method, req, reply, cc, opts...)
			log = append(log, name+" done")
			return err
		}
	}
	stream := func(name string) grpc.StreamClientInterceptor {
		return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			log = append(log, name+" "+method)
			s, err := streamer(ctx, desc, cc, method, opts...)
			log = append(log, name+" done")
			return s, err
		}
	}
	tests := []struct {
		name string
		opts []DialOption
		want []string
	}{
		{"none", nil, []string{"core /s/m"}},
		{"single", []DialOption{WithUnaryInterceptor(unary("a")), WithStreamInterceptor(stream("a"))},
			[]string{"a /s/m", "core /s/m", "a done"}},
		{"chained only", []DialOption{WithChainUnaryInterceptor(unary("a"), unary("b")), WithChainStreamInterceptor(stream("a"), stream("b"))},
			[]string{"a /s/m", "b /s/m", "core /s/m", "b done", "a done"}},
		{"the single one first, wherever it is given", []DialOption{
			WithChainUnaryInterceptor(unary("b")), WithUnaryInterceptor(unary("a")), WithChainUnaryInterceptor(unary("c")),
			WithChainStreamInterceptor(stream("b")), WithStreamInterceptor(stream("a")), WithChainStreamInterceptor(stream("c"))},
			[]string{"a /s/m", "b /s/m", "c /s/m", "core /s/m", "c done", "b done", "a done"}},
		{"the last single one", []DialOption{
			WithUnaryInterceptor(unary("a")), WithUnaryInterceptor(unary("b")), WithStreamInterceptor(stream("a")), WithStreamInterceptor(stream("b"))},
			[]string{"b /s/m", "core /s/m", "b done"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			end := errors.New("end")
			core := &callRecord{log: &log, err: end}
			c, _ := newChain(t, core, tt.opts...)

			log = nil
			require.ErrorIs(t, c.Invoke(t.Context(), "/s/m", "args", nil), end)
			assert.Equal(t, tt.want, log)
			assert.Equal(t, "args", core.args)

			log = nil
			desc := &grpc.StreamDesc{ServerStreams: true}
			_, err := c.NewStream(t.Context(), desc, "/s/m")
			require.ErrorIs(t, err, end)
			assert.Equal(t, tt.want, log)
			assert.Same(t, desc, core.desc)
		})
	}
}

// TestInterceptorsMayDoAsTheyLike: answer in place of the RPC, make it twice,
// change what it is.
func TestInterceptorsMayDoAsTheyLike(t *testing.T) {
	var log []string
	core := &callRecord{log: &log}
	c, _ := newChain(t, core,
		WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return errors.Join(invoker(ctx, method+"1", req, reply, cc, opts...), invoker(ctx, method+"2", req, reply, nil, opts...))
			},
			passUnary,
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if method == "/s/m2" {
					return errors.New("not this one")
				}
				return invoker(ctx, method, "other", reply, cc, append(opts, grpc.WaitForReady(true))...)
			}))
	require.EqualError(t, c.Invoke(t.Context(), "/s/m", "args", nil), "not this one")
	assert.Equal(t, []string{"core /s/m1"}, log)
	assert.Equal(t, "other", core.args)
	assert.Equal(t, []grpc.CallOption{grpc.WaitForReady(true)}, core.opts)
}

// TestInterceptorsSeeDefaultOptions: they come first, and once.
func TestInterceptorsSeeDefaultOptions(t *testing.T) {
	var log []string
	var seen []grpc.CallOption
	core := &callRecord{log: &log}
	c, _ := newChain(t, core,
		WithDefaultCallOptions(grpc.WaitForReady(true)), WithMaxMsgSize(7),
		WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			seen = slices.Clone(opts)
			return invoker(ctx, method, req, reply, cc, opts...)
		}))
	defaults := []grpc.CallOption{grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(7)}

	require.NoError(t, c.Invoke(t.Context(), "/s/m", nil, nil))
	assert.Equal(t, defaults, seen)
	assert.Equal(t, defaults, core.opts)

	require.NoError(t, c.Invoke(t.Context(), "/s/m", nil, nil, grpc.StaticMethod()))
	assert.Equal(t, append(slices.Clip(defaults), grpc.StaticMethod()), seen)
	assert.Equal(t, seen, core.opts)

	_, err := c.NewStream(t.Context(), &grpc.StreamDesc{}, "/s/m", grpc.StaticMethod())
	require.NoError(t, err)
	assert.Equal(t, seen, core.opts, "streams, which have no interceptor here, get them too")
}

// TestAppendedOptionsAreNotShared: an interceptor that appends to the options
// does not write into what another RPC gets.
func TestAppendedOptionsAreNotShared(t *testing.T) {
	var log []string
	core := &callRecord{log: &log}
	var all [][]grpc.CallOption
	appending := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		all = append(all, append(opts, grpc.MaxCallRecvMsgSize(len(all))))
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	c, _ := newChain(t, core, WithMaxMsgSize(1), WithMaxMsgSize(2), WithMaxMsgSize(3), WithUnaryInterceptor(appending))
	require.NoError(t, c.Invoke(t.Context(), "/s/m", nil, nil))
	require.NoError(t, c.Invoke(t.Context(), "/s/m", nil, nil))
	assert.Equal(t, grpc.MaxCallRecvMsgSize(0), all[0][3])
	assert.Equal(t, grpc.MaxCallRecvMsgSize(1), all[1][3])
}

// TestInterceptorsGetTheBridge and, if they pass another connection on, the
// RPC goes there.
func TestInterceptorsGetTheBridge(t *testing.T) {
	var log, otherLog []string
	other := &bridge{target: "other:1", scheme: schemePassthrough, calls: &callRecord{log: &otherLog}}
	var got []*grpc.ClientConn
	redirect := false
	core := &callRecord{log: &log}
	c, b := newChain(t, core,
		WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				got = append(got, cc)
				if redirect {
					cc = other.get()
				}
				return invoker(ctx, method, req, reply, cc, opts...)
			}, passUnary),
		WithChainStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				got = append(got, cc)
				if redirect {
					cc = other.get()
				}
				return streamer(ctx, desc, cc, method, opts...)
			}, passStream))

	require.NoError(t, c.Invoke(t.Context(), "/s/u", nil, nil))
	_, err := c.NewStream(t.Context(), &grpc.StreamDesc{}, "/s/s")
	require.NoError(t, err)
	assert.Equal(t, []string{"core /s/u", "core /s/s"}, log)
	for _, cc := range got {
		assert.Same(t, b.get(), cc)
	}

	redirect = true
	require.NoError(t, c.Invoke(t.Context(), "/s/u", nil, nil))
	_, err = c.NewStream(t.Context(), &grpc.StreamDesc{}, "/s/s")
	require.NoError(t, err)
	assert.Len(t, log, 2, "nothing more here")
	assert.Equal(t, []string{"core /s/u", "core /s/s"}, otherLog)
}

// TestNoInterceptorsNoBridge: a channel without interceptors does not pay for
// what they would get.
func TestNoInterceptorsNoBridge(t *testing.T) {
	var log []string
	c, b := newChain(t, &callRecord{log: &log})
	require.NoError(t, c.Invoke(t.Context(), "/s/m", nil, nil))
	_, err := c.NewStream(t.Context(), &grpc.StreamDesc{}, "/s/m")
	require.NoError(t, err)
	assert.Nil(t, b.conn)
}

// nowhere is a call path that does nothing.
type nowhere struct{}

func (nowhere) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return nil }
func (nowhere) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, nil
}

func TestInterceptorsAllocateNothing(t *testing.T) {
	opts := []grpc.CallOption{grpc.StaticMethod()}
	desc := &grpc.StreamDesc{}
	ctx := t.Context()
	for _, tt := range []struct {
		name string
		opts []DialOption
		want float64
	}{
		{"none", nil, 0},
		{"four", []DialOption{WithUnaryInterceptor(passUnary), WithChainUnaryInterceptor(passUnary, passUnary, passUnary),
			WithStreamInterceptor(passStream), WithChainStreamInterceptor(passStream, passStream, passStream)}, 0},
		{"default options", []DialOption{WithMaxMsgSize(1)}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := newChain(t, nowhere{}, tt.opts...)
			assert.Equal(t, tt.want, testing.AllocsPerRun(100, func() { _ = c.Invoke(ctx, "/s/m", nil, nil, opts...) }))
			assert.Equal(t, tt.want, testing.AllocsPerRun(100, func() { _, _ = c.NewStream(ctx, desc, "/s/m", opts...) }))
		})
	}
}

func BenchmarkInterceptors(b *testing.B) {
	chain := []grpc.UnaryClientInterceptor{passUnary, passUnary, passUnary, passUnary}
	opts := []grpc.CallOption{grpc.StaticMethod()}
	end := func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
		return nil
	}

	b.Run("grpcdial", func(b *testing.B) {
		o, err := newDialOptions(byDial, []DialOption{WithChainUnaryInterceptor(append(chain, end)...)})
		require.NoError(b, err)
		br := &bridge{target: "backend:1", scheme: schemePassthrough}
		c := new(callChain)
		c.init(o, nowhere{}, br.get)
		b.ReportAllocs()
		for b.Loop() {
			_ = c.Invoke(b.Context(), "/s/m", nil, nil, opts...)
		}
	})
	b.Run("grpc-go", func(b *testing.B) {
		cc, err := grpc.NewClient("backend:1", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithChainUnaryInterceptor(append(chain, end)...))
		require.NoError(b, err)
		defer cc.Close()
		b.ReportAllocs()
		for b.Loop() {
			_ = cc.Invoke(b.Context(), "/s/m", nil, nil, opts...)
		}
	})
}

func TestBridgeTargets(t *testing.T) {
	tests := []struct {
		target    string
		scheme    string // of the channel's canonical target
		want      string // Target(); "": as written
		canonical string // CanonicalTarget(); "": not promised
	}{
		{target: "backend:50051", scheme: "passthrough"},
		{target: "dns:///backend:1", scheme: "dns", canonical: "dns:///backend:1"},
		{target: "passthrough:///backend:1", scheme: "passthrough", canonical: "passthrough:///backend:1"},
		{target: "unix:///run/s.sock", scheme: "unix", canonical: "unix:///run/s.sock"},
		{target: "only-here://a/b", scheme: "only-here", canonical: "only-here://a/b"},
		{target: "", scheme: "passthrough"},
		{target: "http://h:80", scheme: "passthrough"},
		{target: "[fe80::1%lo]:1", scheme: "passthrough", want: "passthrough:///%5Bfe80::1%25lo%5D:1", canonical: "passthrough:///[fe80::1%lo]:1"},
		{target: "a\nb%", scheme: "passthrough", want: "passthrough:///a%0Ab%25", canonical: "passthrough:///a\nb%"},
	}
	for _, tt := range tests {
		t.Run(tt.target, func(t *testing.T) {
			b := &bridge{target: tt.target, scheme: tt.scheme, calls: nowhere{}}
			cc := b.get()
			if tt.want == "" {
				tt.want = tt.target
			}
			assert.Equal(t, tt.want, cc.Target())
			if tt.canonical != "" {
				assert.Equal(t, tt.canonical, cc.CanonicalTarget())
			}
			assert.Equal(t, connectivity.Shutdown, cc.GetState())
			require.NoError(t, cc.Invoke(t.Context(), "/s/m", nil, nil), "RPCs run although it is closed")
			require.Error(t, cc.Close(), "it was closed from the start")
		})
	}
}

func TestBridgeForwards(t *testing.T) {
	var log []string
	core := &callRecord{log: &log, streams: &struct{ grpc.ClientStream }{}}
	// Default options and interceptors belong to the channel: once, not again
	// for the bridge.
	intercepted := 0
	c, b := newChain(t, core, WithDefaultCallOptions(grpc.WaitForReady(true)),
		WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			intercepted++
			return invoker(ctx, method, req, reply, cc, opts...)
		}))
	require.NotNil(t, c)
	cc := b.get()

	require.NoError(t, cc.Invoke(t.Context(), "/s/u", "args", nil, grpc.StaticMethod()))
	assert.Equal(t, []grpc.CallOption{grpc.WaitForReady(true), grpc.StaticMethod()}, core.opts)
	assert.Equal(t, "args", core.args)
	assert.Equal(t, 1, intercepted)

	desc := &grpc.StreamDesc{StreamName: "s", ServerStreams: true, ClientStreams: true}
	s, err := cc.NewStream(t.Context(), desc, "/s/s", grpc.CallContentSubtype("x"))
	require.NoError(t, err)
	assert.Same(t, core.streams, s, "the stream is the channel's own")
	assert.Same(t, desc, core.desc)
	assert.Equal(t, []grpc.CallOption{grpc.WaitForReady(true), grpc.CallContentSubtype("x")}, core.opts)
	assert.Equal(t, []string{"core /s/u", "core /s/s"}, log)
}

func TestBridgeIsMadeOnce(t *testing.T) {
	b := &bridge{target: "backend:1", scheme: schemePassthrough, calls: nowhere{}}
	got := make([]*grpc.ClientConn, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			got[i] = b.get()
			assert.NoError(t, got[i].Invoke(t.Context(), "/s/m", nil, nil))
		})
	}
	wg.Wait()
	for _, cc := range got {
		assert.Same(t, got[0], cc)
	}
}
