package grpcdial

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

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
