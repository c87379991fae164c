package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// sentBytes is what is written to a channel's connections, of which there is one.
type sentBytes struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

type sentConn struct {
	net.Conn
	sent *sentBytes
}

func (c *sentConn) Write(b []byte) (int, error) {
	c.sent.mu.Lock()
	c.sent.bytes.Write(b)
	c.sent.mu.Unlock()
	return c.Conn.Write(b)
}

func (s *sentBytes) dial(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	return &sentConn{nc, s}, err
}

// frames returns the frames of streams that were sent.
func (s *sentBytes) frames(t *testing.T) (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, b, ok := bytes.Cut(s.bytes.Bytes(), []byte(http2.ClientPreface))
	require.True(t, ok)
	for r := http2.NewFramer(nil, bytes.NewReader(b)); ; {
		f, err := r.ReadFrame()
		if err != nil {
			return all
		}
		if h := f.Header(); h.StreamID != 0 {
			all = append(all, fmt.Sprintf("%v end=%v", h.Type, h.Flags.Has(http2.FlagDataEndStream) && h.Type != http2.FrameWindowUpdate))
		}
	}
}

// passOn is a selector's interceptor that changes nothing.
func passOn(ctx context.Context, _ grpcdial.CallInfo, newStream grpcdial.NewStreamFunc, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return newStream(ctx, opts...)
}

// TestInterceptedUnaryOnTheWire: a unary RPC that a selector's interceptor has seen is one
// on the wire: HEADERS, and one DATA frame with the end. It allocates at most a third more,
// the backend's allocations included, and at most 8.
func TestInterceptedUnaryOnTheWire(t *testing.T) {
	srv := backendtest.StartEcho(t)
	counts := map[bool]float64{}
	for _, intercepts := range []bool{false, true} {
		sent := new(sentBytes)
		cc, _ := selected(t, srv.Addr, selectorFunc(func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
			c := new(grpcdial.CallConfig)
			if intercepts {
				c.Interceptor = passOn
			}
			return c, nil
		}), grpcdial.WithContextDialer(sent.dial))
		ctx, request, reply := backendtest.Bounded(t), wrapperspb.String("x"), new(wrapperspb.StringValue)
		run := func() { assert.NoError(t, cc.Invoke(ctx, "/test.Echo/Echo", request, reply)) }
		for range 3 {
			run()
		}
		var want []string
		for range 3 {
			want = append(want, "HEADERS end=false", "DATA end=true")
		}
		assert.Equal(t, want, sent.frames(t), "%v", intercepts)
		counts[intercepts] = testing.AllocsPerRun(500, run)
	}
	t.Logf("allocations: %v", counts)
	if !backendtest.UnderRace {
		assert.LessOrEqual(t, counts[true], counts[false]*4/3)
		assert.LessOrEqual(t, counts[true]-counts[false], 8.0)
	}
}
