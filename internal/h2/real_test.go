package h2_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestMain(m *testing.M) { h2test.VerifyNoLeaks(m) }

// realServer is a grpc-go server that answers any method: each BytesValue
// received is sent back; /test/Fail fails with details.
func realServer(t testing.TB, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serveReal(t, l, opts...)
	return l.Addr().String()
}

func serveReal(t testing.TB, l net.Listener, opts ...grpc.ServerOption) {
	opts = append(opts, grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
		method, _ := grpc.Method(ss.Context())
		md, _ := metadata.FromIncomingContext(ss.Context())
		if v := md.Get("echo-bin"); len(v) > 0 {
			_ = ss.SetHeader(metadata.Pairs("echo-bin", v[0], "hdr", "a", "hdr", "b"))
			ss.SetTrailer(metadata.Pairs("trl-bin", v[0]))
		}
		if strings.HasSuffix(method, "/Fail") {
			st, _ := status.New(codes.DataLoss, "lost: 100% gone \u00e9").WithDetails(wrapperspb.String("why"))
			return st.Err()
		}
		if strings.HasSuffix(method, "/Hang") {
			<-ss.Context().Done()
			return status.FromContextError(ss.Context().Err()).Err()
		}
		for {
			m := new(wrapperspb.BytesValue)
			if err := ss.RecvMsg(m); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := ss.SendMsg(m); err != nil {
				return err
			}
		}
	}))
	backendtest.RunOn(t, grpc.NewServer(opts...), l)
}

// dial connects and serves; tlsCfg may be nil.
func dial(t testing.TB, addr string, tlsCfg *tls.Config, cfg h2.Config) *h2.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	return start(t, nc, tlsCfg, cfg)
}

func start(t testing.TB, nc net.Conn, tlsCfg *tls.Config, cfg h2.Config) *h2.Conn {
	t.Helper()
	w := h2.NewWire(nc)
	var conn net.Conn = w
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if tlsCfg != nil {
		cfg.Scheme = "https"
		tc, info, err := credentials.NewTLS(tlsCfg).ClientHandshake(ctx, "localhost", w)
		require.NoError(t, err)
		conn, cfg.AuthInfo = tc, info
	}
	cfg.UserAgent = "h2_test/1"
	c := h2.New(w, conn, cfg)
	require.NoError(t, c.Handshake(ctx))
	served := make(chan struct{})
	go func() {
		defer close(served)
		c.Serve(func(error) {})
	}()
	t.Cleanup(func() {
		c.Close(nil, nil)
		<-served
	})
	return c
}

func frame(payload []byte) []byte {
	m, _ := proto.Marshal(wrapperspb.Bytes(payload))
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

func unframe(t testing.TB, m h2.Message) []byte {
	t.Helper()
	v := new(wrapperspb.BytesValue)
	require.NoError(t, proto.Unmarshal(m.Data, v))
	return v.Value
}

func req(method string) *h2.Request {
	return &h2.Request{Method: method, Authority: "localhost", MaxRecv: 64 << 20}
}

func eachTransport(t *testing.T, f func(t *testing.T, dial func(cfg h2.Config) *h2.Conn)) {
	t.Run("plaintext", func(t *testing.T) {
		addr := realServer(t)
		f(t, func(cfg h2.Config) *h2.Conn { return dial(t, addr, nil, cfg) })
	})
	t.Run("TLS", func(t *testing.T) {
		ca := h2test.NewCA(t)
		cert := ca.Server("localhost")
		addr := realServer(t, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
		f(t, func(cfg h2.Config) *h2.Conn {
			return dial(t, addr, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}, cfg)
		})
	})
	t.Run("any net.Conn", func(t *testing.T) {
		addr := realServer(t)
		f(t, func(cfg h2.Config) *h2.Conn {
			nc, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			return start(t, struct{ net.Conn }{nc}, nil, cfg)
		})
	})
}

func TestUnary(t *testing.T) {
	eachTransport(t, func(t *testing.T, dial func(h2.Config) *h2.Conn) {
		c := dial(h2.Config{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, size := range []int{0, 1, 100, 16379, 16384, 65535, 65536, 70000, 1 << 20, 3 << 20} {
			payload := make([]byte, size)
			for i := range payload {
				payload[i] = byte(i * 7)
			}
			s, err := c.Unary(ctx, req("/test/Echo"), frame(payload))
			require.NoError(t, err)
			require.Nil(t, s.Err(), "size %d", size)
			m, ok := s.Message()
			require.True(t, ok)
			require.Equal(t, size, len(unframe(t, m)))
			if size > 0 {
				require.Equal(t, payload, unframe(t, m))
			}
			require.Equal(t, 1, s.Messages())
			s.Release()
		}
		require.True(t, c.Answered())
		require.Zero(t, c.Streams())
	})
}

func TestUnaryConcurrently(t *testing.T) {
	eachTransport(t, func(t *testing.T, dial func(h2.Config) *h2.Conn) {
		c := dial(h2.Config{})
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				for i := range 100 {
					payload := []byte(strings.Repeat(string(rune('a'+g%26)), i*37))
					s, err := c.Unary(context.Background(), req("/test/Echo"), frame(payload))
					if err != nil || s.Err() != nil {
						t.Errorf("call %d/%d: %v %v", g, i, err, s.Err())
						return
					}
					m, _ := s.Message()
					if string(unframe(t, m)) != string(payload) {
						t.Errorf("call %d/%d: another call's reply", g, i)
					}
					s.Release()
				}
			})
		}
		wg.Wait()
	})
}

func TestStatusAndMetadata(t *testing.T) {
	eachTransport(t, func(t *testing.T, dial func(h2.Config) *h2.Conn) {
		c := dial(h2.Config{})
		r := req("/test/Fail")
		r.Metadata = metadata.Pairs("echo-bin", "\x00\xff\x01", "plain", "v")
		for range 3 {
			s, err := c.Unary(context.Background(), r, frame(nil))
			require.NoError(t, err)
			require.NotNil(t, s.Err())
			require.Equal(t, codes.DataLoss, s.Err().Status.Code())
			require.Equal(t, "lost: 100% gone \u00e9", s.Err().Status.Message())
			require.Len(t, s.Err().Status.Details(), 1)
			require.Equal(t, []string{"\x00\xff\x01"}, s.Trailer().Get("trl-bin"))
			s.Release()
		}
		r.Method = "/test/Echo"
		s, err := c.Unary(context.Background(), r, frame([]byte("x")))
		require.NoError(t, err)
		require.Nil(t, s.Err())
		require.Equal(t, []string{"a", "b"}, s.HeaderMD().Get("hdr"))
		require.Equal(t, []string{"\x00\xff\x01"}, s.HeaderMD().Get("echo-bin"))
		s.Release()
	})
}

func TestDeadlineAndCancel(t *testing.T) {
	eachTransport(t, func(t *testing.T, dial func(h2.Config) *h2.Conn) {
		c := dial(h2.Config{})
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		s, err := c.Unary(ctx, req("/test/Hang"), frame(nil))
		for limit := 100 * time.Millisecond; err != nil && limit < time.Minute; limit *= 4 { // on a busy machine it was over at the start
			ctx, cancel = context.WithTimeout(context.Background(), limit)
			defer cancel()
			s, err = c.Unary(ctx, req("/test/Hang"), frame(nil))
		}
		require.NoError(t, err)
		require.Equal(t, codes.DeadlineExceeded, s.Err().Status.Code())
		s.Release()
		_, err = c.Unary(ctx, req("/test/Echo"), frame(nil))
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		ctx, cancel = context.WithCancel(context.Background())
		var opened sync.WaitGroup
		defer opened.Wait()
		opened.Go(func() {
			for c.Streams() == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		})
		s, err = c.Unary(ctx, req("/test/Hang"), frame(nil))
		cancel()
		require.NoError(t, err)
		require.Equal(t, codes.Canceled, s.Err().Status.Code())
		s.Release()
		require.Zero(t, c.Streams())
	})
}

func TestStreaming(t *testing.T) {
	eachTransport(t, func(t *testing.T, dial func(h2.Config) *h2.Conn) {
		c := dial(h2.Config{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s, err := c.Open(ctx, req("/test/Echo"))
		require.NoError(t, err)
		for i := range 50 {
			require.NoError(t, s.Send(frame(make([]byte, i*1000)), false))
			m, err := s.Recv()
			require.NoError(t, err)
			require.Len(t, unframe(t, m), i*1000)
			m.Free()
		}
		require.NoError(t, s.CloseSend())
		_, err = s.Recv()
		require.Equal(t, io.EOF, err)
		require.Nil(t, s.Err())
		<-s.Finished()

		// Sender and receiver at once, more than all windows hold.
		s, err = c.Open(ctx, req("/test/Echo"))
		require.NoError(t, err)
		go func() {
			for range 64 {
				if s.Send(frame(make([]byte, 100000)), false) != nil {
					return
				}
			}
			s.CloseSend()
		}()
		n := 0
		for ; ; n++ {
			m, err := s.Recv()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			require.Len(t, unframe(t, m), 100000)
			m.Free()
		}
		require.Equal(t, 64, n)
	})
}

func TestCloseCutsStreams(t *testing.T) {
	eachTransport(t, func(t *testing.T, dial func(h2.Config) *h2.Conn) {
		c := dial(h2.Config{})
		s, err := c.Open(context.Background(), req("/test/Hang"))
		require.NoError(t, err)
		c.Close(nil, status.New(codes.Canceled, "closing"))
		_, err = s.Recv()
		require.Equal(t, codes.Canceled, status.Code(err))
		_, err = c.Unary(context.Background(), req("/test/Echo"), frame(nil))
		var e *h2.Error
		require.ErrorAs(t, err, &e)
		require.True(t, e.Unsent)
		require.Equal(t, io.EOF, s.Send(frame(nil), false))
	})
}
