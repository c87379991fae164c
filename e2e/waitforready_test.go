package e2e_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// gate is a dialer that hangs, fails or dials, as its mode says.
type gate struct{ mode chan string }

func newGate(mode string) *gate {
	g := &gate{mode: make(chan string, 1)}
	g.mode <- mode
	return g
}

func (g *gate) set(mode string) {
	<-g.mode
	g.mode <- mode
}

func (g *gate) dial(ctx context.Context, addr string) (net.Conn, error) {
	for {
		mode := <-g.mode
		g.mode <- mode
		switch mode {
		case "open":
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		case "broken":
			return nil, errors.New("no way through")
		}
		select { // hang
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// TestWaitForReadyInEachState: what becomes of an RPC that waits for a connection
// and of one that does not, begun in each of the channel's states; later the way
// to the backend is open.
func TestWaitForReadyInEachState(t *testing.T) {
	kinds := map[string]func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error{
		"unary": func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error {
			_, err := backendtest.AskName(ctx, cc, opts...)
			return err
		},
		"stream": func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error {
			s, err := cc.NewStream(ctx, bidi, "/test.Backend/Stream", opts...)
			if err != nil {
				return err
			}
			if err := s.SendMsg(wrapperspb.String("x")); err != nil {
				return err
			}
			return s.RecvMsg(new(wrapperspb.StringValue))
		},
	}
	tests := []struct {
		state    connectivity.State
		mode     string // of the dialer until the channel is in state
		failFast codes.Code
		waiting  codes.Code
		waits    bool // an RPC that does not wait for ready waits all the same
	}{
		{state: connectivity.Idle, mode: "open"},
		{state: connectivity.Connecting, mode: "hanging", waits: true},
		{state: connectivity.Ready, mode: "open"},
		{state: connectivity.TransientFailure, mode: "broken", failFast: codes.Unavailable},
		{state: connectivity.Shutdown, mode: "open", failFast: codes.Canceled, waiting: codes.Canceled},
	}
	for _, tt := range tests {
		for kind, call := range kinds {
			for _, wait := range []bool{false, true} {
				name := tt.state.String() + "/" + kind + "/fail fast"
				want := tt.failFast
				if wait {
					name, want = tt.state.String()+"/"+kind+"/wait for ready", tt.waiting
				}
				t.Run(name, func(t *testing.T) {
					b, g := backendtest.Start(t, "b"), newGate(tt.mode)
					cc := plain(t, "passthrough:///"+b.Addr, grpcdial.WithContextDialer(g.dial), fastBackoff())
					switch tt.state {
					case connectivity.Idle:
					case connectivity.Shutdown:
						require.NoError(t, cc.Close())
					default:
						cc.Connect()
						awaitState(t, cc, tt.state)
					}
					done := make(chan error, 1)
					go func() { done <- call(backendtest.Bounded(t), cc, grpc.WaitForReady(wait)) }()
					if want == codes.OK && tt.mode != "open" {
						backendtest.Eventually(t, func() bool { return rpcsRunning(t, cc) == 1 }, "the RPC runs")
						assert.Empty(t, done, "it waits")
						g.set("open")
					}
					err := <-done
					assert.Equal(t, want, status.Code(err), "%v", err)
					if want == codes.Unavailable {
						var why *grpcdial.DialError
						require.ErrorAs(t, err, &why)
						assert.ErrorContains(t, err, "no way through")
					}
					if want == codes.Canceled {
						assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
					}
				})
			}
		}
	}
}
