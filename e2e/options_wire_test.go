package e2e_test

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestWindowOptions: the sizes that the client announces.
func TestWindowOptions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   []grpcdial.DialOption
		stream uint32
		conn   uint32
		list   uint32 // 0: not announced
	}{
		{"default", nil, 512 << 10, 8 << 20, 0},
		{"WithInitialWindowSize", []grpcdial.DialOption{grpcdial.WithInitialWindowSize(1 << 20)}, 1 << 20, 8 << 20, 0},
		{"WithStaticStreamWindowSize", []grpcdial.DialOption{grpcdial.WithStaticStreamWindowSize(1 << 20)}, 1 << 20, 8 << 20, 0},
		{"too small", []grpcdial.DialOption{grpcdial.WithInitialWindowSize(1000), grpcdial.WithInitialConnWindowSize(1000)}, 512 << 10, 8 << 20, 0},
		{"WithInitialConnWindowSize", []grpcdial.DialOption{grpcdial.WithInitialConnWindowSize(1 << 20)}, 512 << 10, 1 << 20, 0},
		{"WithStaticConnWindowSize", []grpcdial.DialOption{grpcdial.WithStaticConnWindowSize(1 << 20)}, 512 << 10, 1 << 20, 0},
		{"stream window above the connection's default", []grpcdial.DialOption{grpcdial.WithInitialWindowSize(32 << 20)}, 32 << 20, 32 << 20, 0},
		{"WithMaxHeaderListSize", []grpcdial.DialOption{grpcdial.WithMaxHeaderListSize(4096)}, 512 << 10, 8 << 20, 4096},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := h2test.Listen(t)
			cc := newClient(t, srv.Addr(), append(tt.opts, grpcdial.WithInsecure())...)
			cc.Connect()
			conn := srv.Accept()
			settings := conn.Handshake()
			stream, announced := settings.Setting(http2.SettingInitialWindowSize)
			require.True(t, announced)
			assert.Equal(t, tt.stream, stream)
			list, announced := settings.Setting(http2.SettingMaxHeaderListSize)
			assert.Equal(t, tt.list, list)
			assert.Equal(t, tt.list != 0, announced)
			assert.Equal(t, tt.conn, 65535+conn.ExpectWindowUpdate(0))
		})
	}
}

// TestKeepaliveOption: when a silent server is probed, and given up.
func TestKeepaliveOption(t *testing.T) {
	for _, tt := range []struct {
		name    string
		params  keepalive.ClientParameters
		ping    time.Duration // after the connection was made; 0: none
		givenUp time.Duration // after the PING
	}{
		{"above the floor", keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}, 30 * time.Second, 3 * time.Second},
		{"below the floor", keepalive.ClientParameters{Time: time.Second, PermitWithoutStream: true}, 10 * time.Second, 20 * time.Second},
		{"zero", keepalive.ClientParameters{PermitWithoutStream: true}, 10 * time.Second, 20 * time.Second},
		{"for ever", keepalive.ClientParameters{Time: math.MaxInt64, PermitWithoutStream: true}, 0, 0},
		{"no stream", keepalive.ClientParameters{Time: 10 * time.Second}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe(t)
				server.SetBound(24 * time.Hour)
				dialed := 0
				cc, err := grpcdial.NewClient("pipe", grpcdial.WithInsecure(), grpcdial.WithKeepaliveParams(tt.params), grpcdial.WithIdleTimeout(0),
					grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) {
						if dialed++; dialed > 1 {
							return nil, errors.New("one connection is all there is")
						}
						return client, nil
					}))
				require.NoError(t, err)
				defer cc.Close()
				cc.Connect()
				server.Handshake()
				begun := time.Now()
				if tt.ping == 0 {
					server.ExpectSilence(time.Hour)
					return
				}
				server.ExpectPing()
				assert.Equal(t, tt.ping, time.Since(begun))
				begun = time.Now()
				server.ExpectClosed()
				assert.Equal(t, tt.givenUp, time.Since(begun))
			})
		})
	}
}

// TestConnectParamsOption: when connections are tried, and how long one may
// take.
func TestConnectParamsOption(t *testing.T) {
	type times []time.Duration
	s := time.Second
	params := grpcdial.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: s, Multiplier: 2, MaxDelay: 5 * s},
		MinConnectTimeout: 3 * s,
	}
	for _, tt := range []struct {
		name     string
		option   grpcdial.DialOption
		attempts times // since the first one
		allowed  times // for each of them
	}{
		{"as given", grpcdial.WithConnectParams(params), times{0, 1 * s, 3 * s, 7 * s, 12 * s}, times{3 * s, 3 * s, 4 * s, 5 * s, 5 * s}},
		{"nothing", grpcdial.WithConnectParams(grpcdial.ConnectParams{Backoff: backoff.Config{BaseDelay: s, Multiplier: 1, MaxDelay: s}, MinConnectTimeout: s}),
			times{0, 1 * s, 2 * s}, times{s, s, s}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				var attempts, allowed times
				cc, err := grpcdial.NewClient("nowhere", grpcdial.WithInsecure(), tt.option,
					grpcdial.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
						deadline, _ := ctx.Deadline()
						attempts, allowed = append(attempts, time.Since(begun)), append(allowed, time.Until(deadline))
						return nil, errors.New("nothing listens here")
					}))
				require.NoError(t, err)
				defer cc.Close()
				cc.Connect()
				time.Sleep(tt.attempts[len(tt.attempts)-1])
				synctest.Wait()
				assert.Equal(t, tt.attempts, attempts)
				assert.Equal(t, tt.allowed, allowed)
			})
		})
	}
}

// TestBackoffDelayOptions: the longest time between attempts, give or take the
// jitter of a fifth.
func TestBackoffDelayOptions(t *testing.T) {
	for name, option := range map[string]grpcdial.DialOption{
		"WithBackoffMaxDelay": grpcdial.WithBackoffMaxDelay(4 * time.Second),
		"WithBackoffConfig":   grpcdial.WithBackoffConfig(grpc.BackoffConfig{MaxDelay: 4 * time.Second}), // the option's type
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts []time.Time
				cc, err := grpcdial.NewClient("nowhere", grpcdial.WithInsecure(), option,
					grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) {
						attempts = append(attempts, time.Now())
						return nil, errors.New("nothing listens here")
					}))
				require.NoError(t, err)
				defer cc.Close()
				cc.Connect()
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Greater(t, len(attempts), 10)
				for i := 4; i < len(attempts); i++ {
					assert.InDelta(t, 4*time.Second, attempts[i].Sub(attempts[i-1]), float64(850*time.Millisecond))
				}
			})
		})
	}
}

// TestDialerOptions: what a dialer is asked for.
func TestDialerOptions(t *testing.T) {
	srv := backendtest.StartEcho(t)
	for _, tt := range []struct{ target, want string }{
		{"anything at all", "anything at all"},
		{"http://host/path?query", "http://host/path?query"},
		{"", ""},
		{"passthrough:///name:1", "name:1"},
		{"unix:///run/s.sock", "unix:///run/s.sock"},
		{"unix:s.sock", "unix:s.sock"},
		{"unix-abstract:name", "unix:@name"},
	} {
		var asked []string
		cc := newClient(t, tt.target, grpcdial.WithInsecure(), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			asked = append(asked, addr)
			return new(net.Dialer).DialContext(ctx, "tcp", srv.Addr)
		}))
		_, err := backendtest.CallEcho(t, cc, "Echo")
		require.NoError(t, err, "target %q", tt.target)
		assert.Equal(t, []string{tt.want}, asked)
	}

	cc := newClient(t, "old", grpcdial.WithInsecure(), grpcdial.WithDialer(func(addr string, left time.Duration) (net.Conn, error) {
		assert.Equal(t, "old", addr)
		assert.InDelta(t, 20*time.Second, left, float64(time.Second), "the least that an attempt gets")
		return net.Dial("tcp", srv.Addr)
	}))
	_, err := backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
}

// TestWindowsAreFlowControl: a message larger than the windows still arrives.
func TestWindowsAreFlowControl(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure(), grpcdial.WithInitialWindowSize(65535), grpcdial.WithInitialConnWindowSize(65535))
	reply := new(wrapperspb.StringValue)
	require.NoError(t, cc.Invoke(backendtest.Bounded(t), "/test.Echo/Big", wrapperspb.String(""), reply))
	assert.Len(t, reply.Value, 100_000)
}

// TestKeepaliveWhileRPCsRun: without PermitWithoutStream a silent server is probed
// while an RPC runs, and not after it.
func TestKeepaliveWhileRPCsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe(t)
		server.SetBound(24 * time.Hour)
		cc, err := grpcdial.NewClient("pipe", grpcdial.WithInsecure(), grpcdial.WithIdleTimeout(0), overOne(client),
			grpcdial.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: time.Second}))
		require.NoError(t, err)
		defer cc.Close()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue))
		}()
		server.Handshake()
		headers, _ := server.ExpectUnary()
		begun := time.Now()
		for i := range 3 {
			ping := server.ExpectPing()
			assert.Equal(t, time.Duration(i+1)*time.Minute, time.Since(begun))
			server.PingAck(ping.Data)
		}
		cancel()
		server.ExpectRST(headers.StreamID, http2.ErrCodeCancel)
		assert.Error(t, <-ended)
		server.ExpectSilence(time.Hour)
	})
}

// overOne is a dialer that has one connection to give.
func overOne(nc net.Conn) grpcdial.DialOption {
	given := false
	return grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		if given {
			return nil, errors.New("one connection is all there is")
		}
		given = true
		return nc, nil
	})
}

// readSizes notes how much reads of a connection ask for.
type readSizes struct {
	net.Conn
	largest *atomic.Int64
}

func (c readSizes) Read(p []byte) (int, error) {
	c.largest.Store(max(c.largest.Load(), int64(len(p))))
	return c.Conn.Read(p)
}

// TestReadBufferOption: what one read asks for, of a message that is larger.
func TestReadBufferOption(t *testing.T) {
	srv := backendtest.StartEcho(t)
	for _, tt := range []struct {
		name string
		opts []grpcdial.DialOption
		want int64
	}{
		{"default", nil, 32 << 10},
		{"WithReadBufferSize", []grpcdial.DialOption{grpcdial.WithReadBufferSize(5000)}, 5000},
		{"zero", []grpcdial.DialOption{grpcdial.WithReadBufferSize(0)}, 1 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var largest atomic.Int64
			cc := newClient(t, srv.Addr, append(tt.opts, grpcdial.WithInsecure(), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
				return readSizes{nc, &largest}, err
			}))...)
			reply, err := backendtest.CallEcho(t, cc, "Big")
			require.NoError(t, err)
			assert.Len(t, reply, 100_000)
			assert.Equal(t, tt.want, largest.Load())
		})
	}
}

// TestWriteBufferOption: how many messages a stream takes when the server has stopped
// reading. The first of them is written; the buffer holds those that follow.
func TestWriteBufferOption(t *testing.T) {
	const message = 1000 // bytes, and some for frame, prefix and field
	for _, tt := range []struct {
		name        string
		opts        []grpcdial.DialOption
		least, most int // messages
	}{
		{"default", nil, 60, 70},
		{"WithWriteBufferSize", []grpcdial.DialOption{grpcdial.WithWriteBufferSize(10 << 10)}, 9, 13},
		{"zero", []grpcdial.DialOption{grpcdial.WithWriteBufferSize(0)}, 0, 2},
		{"WithSharedWriteBuffer", []grpcdial.DialOption{grpcdial.WithSharedWriteBuffer(true)}, 60, 70},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe(t)
				cc, err := grpcdial.NewClient("pipe", append(tt.opts, grpcdial.WithInsecure(), grpcdial.WithIdleTimeout(0), overOne(client))...)
				require.NoError(t, err)
				defer cc.Close()
				cc.Connect()
				server.Handshake(h2test.InitialWindowSize(1 << 30))
				server.WindowUpdate(0, 1<<30)
				synctest.Wait()
				server.SetPipeBuffer(1, 1<<20)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				taken := 0
				done := make(chan struct{})
				go func() {
					defer close(done)
					s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo")
					for err == nil {
						if err = s.SendMsg(wrapperspb.String(strings.Repeat("x", message))); err == nil {
							taken++
						}
					}
				}()
				synctest.Wait()
				got := taken
				assert.GreaterOrEqual(t, got, tt.least)
				assert.LessOrEqual(t, got, tt.most)
				cancel()
				<-done
			})
		})
	}
}

// TestMessageSizeOptions: what is too large is neither taken nor sent, and the limits
// are those of the options, of the call, or the defaults.
func TestMessageSizeOptions(t *testing.T) {
	for _, tt := range []struct {
		name     string
		opts     []grpcdial.DialOption
		call     []grpc.CallOption
		request  int // bytes of the message
		reply    int
		sent     bool
		received bool
	}{
		{name: "defaults", request: 5 << 20, reply: 4 << 20, sent: true, received: true},
		{name: "a reply above the default", reply: 4<<20 + 1, sent: true},
		{name: "WithMaxMsgSize", opts: []grpcdial.DialOption{grpcdial.WithMaxMsgSize(5 << 20)}, reply: 5 << 20, sent: true, received: true},
		{name: "WithMaxMsgSize, one more", opts: []grpcdial.DialOption{grpcdial.WithMaxMsgSize(5 << 20)}, reply: 5<<20 + 1, sent: true},
		{name: "MaxCallRecvMsgSize", opts: []grpcdial.DialOption{grpcdial.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1000))}, reply: 1000, sent: true, received: true},
		{name: "MaxCallRecvMsgSize, one more", opts: []grpcdial.DialOption{grpcdial.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1000))}, reply: 1001, sent: true},
		{name: "MaxCallSendMsgSize", opts: []grpcdial.DialOption{grpcdial.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1000))}, request: 1000, reply: 10, sent: true, received: true},
		{name: "MaxCallSendMsgSize, one more", opts: []grpcdial.DialOption{grpcdial.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1000))}, request: 1001, reply: 10},
		{name: "the call's own", opts: []grpcdial.DialOption{grpcdial.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1000), grpc.MaxCallRecvMsgSize(1000))},
			call: []grpc.CallOption{grpc.MaxCallSendMsgSize(2000), grpc.MaxCallRecvMsgSize(2000)}, request: 2000, reply: 2000, sent: true, received: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := h2test.Listen(t)
			var sent atomic.Int64
			srv.Serve(func(s *h2test.Stream) {
				for _, m := range s.Take() {
					sent.Store(int64(len(m.Payload)) + 1)
				}
				if s.Ended {
					s.Reply(make([]byte, tt.reply))
				}
			})
			cc := newClient(t, srv.Addr(), append(tt.opts, grpcdial.WithInsecure())...)
			err := cc.Invoke(backendtest.Bounded(t), "/test.Echo/Echo", make([]byte, tt.request), new([]byte), append(tt.call, grpc.ForceCodec(bytesCodec{}))...)
			if tt.sent {
				assert.EqualValues(t, tt.request+1, sent.Load())
			} else {
				assert.Zero(t, sent.Load(), "it came")
			}
			if tt.received {
				require.NoError(t, err)
				return
			}
			assert.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
		})
	}
}

// bytesCodec has messages that are their encoding.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (bytesCodec) Name() string                       { return "bytes" }
