package h2test_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func grpcClient(t *testing.T, srv *h2test.Server) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	cc, err := grpc.NewClient(srv.Target(), grpc.WithTransportCredentials(creds))
	noError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

func TestServeEchoesWithFlowControl(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t)
	srv.Serve(h2test.Echo, h2test.InitialWindowSize(1000))
	cc := grpcClient(t, srv)
	ctx := context.Background()

	for _, size := range []int{0, 5, 1000, 70_000, 3 << 20} {
		want := bytes.Repeat([]byte{'x'}, size)
		reply := new(wrapperspb.BytesValue)
		noError(t, cc.Invoke(ctx, "/s/m", wrapperspb.Bytes(want), reply))
		equal(t, true, bytes.Equal(want, reply.Value))
	}

	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/s/stream")
	noError(t, err)
	for i := range 100 {
		noError(t, stream.SendMsg(wrapperspb.Int64(int64(i))))
		got := new(wrapperspb.Int64Value)
		noError(t, stream.RecvMsg(got))
		equal(t, int64(i), got.Value)
	}
	noError(t, stream.CloseSend())
	equal(t, io.EOF, stream.RecvMsg(new(wrapperspb.Int64Value)))
}

func TestServeAnswersByMethod(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Serve(func(s *h2test.Stream) {
		switch s.Method() {
		case "/s/early": // before the request has come
			s.SendTrailers(codes.AlreadyExists, "no need to send")
		case "/s/refuse":
			s.RST(http2.ErrCodeInadequateSecurity)
		default:
			h2test.Echo(s)
		}
	})
	cc := grpcClient(t, srv)
	for method, want := range map[string]codes.Code{
		"/s/early": codes.AlreadyExists, "/s/refuse": codes.PermissionDenied, "/s/echo": codes.OK,
	} {
		err := cc.Invoke(context.Background(), method, wrapperspb.String("a"), new(wrapperspb.StringValue))
		equal(t, want, status.Code(err))
	}
}

// A script that serves some calls and then goes on by steps.
func TestEndLoop(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		calls := 0
		c.Loop(func(s *h2test.Stream) {
			h2test.Echo(s)
			if s.Ended {
				if calls++; calls == 3 {
					c.EndLoop()
				}
			}
		})
		c.Skip(h2test.WindowUpdates, h2test.Pings, h2test.PingAcks)
		headers, _ := c.ExpectUnary()
		c.TrailersOnly(headers.StreamID, codes.DataLoss, "the fourth")
		c.Loop(h2test.Echo)
	})
	cc := grpcClient(t, srv)
	for i := range 5 {
		err := cc.Invoke(context.Background(), "/s/m", wrapperspb.String("a"), new(wrapperspb.StringValue))
		want := codes.OK
		if i == 3 {
			want = codes.DataLoss
		}
		equal(t, want, status.Code(err))
	}
}

// Loop in a goroutine of a bubble, while the test itself writes.
func TestGoInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := opened(t)
		var reset bool
		conn.Go(func(c *h2test.Conn) {
			c.Loop(func(s *h2test.Stream) {
				if s.Reset {
					reset = true
					return
				}
				h2test.Echo(s)
			})
		})
		client.request(1, true)
		equal(t, "200", client.read().(*http2.MetaHeadersFrame).PseudoValue("status"))
		time.Sleep(time.Hour)
		conn.GoAway(1, http2.ErrCodeNo, "")
		equal(t, uint32(1), client.read().(*http2.GoAwayFrame).LastStreamID)
		client.request(3, false)
		client.must(client.WriteRSTStream(3, http2.ErrCodeCancel))
		client.must(client.nc.Close())
		conn.Wait()
		equal(t, true, reset)
	})
}

func TestLoopFailsOnABrokenClient(t *testing.T) {
	failsWith(t, func(tb testing.TB) {
		client, conn := opened(tb)
		conn.Go(func(c *h2test.Conn) { c.Loop(h2test.Echo) })
		client.request(2, true)
		conn.Wait()
	}, "in Loop: the client broke the protocol: HEADERS stream=2")
}

func TestLoopWaitsForCredit(t *testing.T) {
	client, conn := opened(t)
	client.must(client.WriteSettings(h2test.InitialWindowSize(3)))
	client.request(1, false)
	client.must(client.WriteData(1, true, h2test.PutMessage(false, []byte("message"))))
	conn.Go(func(c *h2test.Conn) { c.Loop(h2test.Echo) })
	client.read() // SETTINGS ACK
	client.read() // WINDOW_UPDATE
	client.read() // HEADERS
	data := client.read().(*http2.DataFrame)
	equal(t, 3, len(data.Data()))
	client.must(client.WriteWindowUpdate(1, 4))
	data = client.read().(*http2.DataFrame)
	equal(t, 4, len(data.Data()))
	client.must(client.WriteSettings(h2test.InitialWindowSize(100)))
	client.read() // SETTINGS ACK
	data = client.read().(*http2.DataFrame)
	equal(t, "sage", string(data.Data())[len(data.Data())-4:])
	equal(t, true, client.read().(*http2.MetaHeadersFrame).StreamEnded())
}
