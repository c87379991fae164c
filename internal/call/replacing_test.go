package call

import (
	"context"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// What happens to a stream while one attempt takes the place of another.

// An RPC that is committed while what it sent is being sent again has all of it sent,
// and its end.
func TestCommittedWhileItIsSentAgain(t *testing.T) {
	for what, commit := range map[string]func(grpc.ClientStream){
		"Context": func(cs grpc.ClientStream) { cs.Context() },
		"Trailer": func(cs grpc.ClientStream) { cs.Trailer() },
	} {
		t.Run(what, func(t *testing.T) {
			srv := h2test.Listen(t)
			accepted := make(chan *h2test.Conn, 1)
			go func() {
				c := srv.Accept()
				c.Handshake()
				accepted <- c
			}()
			ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
			ch.SetConfig(retryConfig(t, quickPolicy, ""))
			conn := <-accepted
			conn.Skip(h2test.WindowUpdates, h2test.SettingsAcks)

			cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod)
			require.NoError(t, err)
			first := conn.ExpectHeaders()
			var want []string
			for _, body := range []string{"one", strings.Repeat("two", 1000), "three"} {
				require.NoError(t, cs.SendMsg(request(body)))
				want = append(want, string(conn.ExpectMessage(first.StreamID).Payload))
			}
			require.NoError(t, cs.CloseSend())
			conn.ExpectEndStream(first.StreamID)

			const window = 20 // the second message does not fit
			conn.Settings(h2test.InitialWindowSize(window))
			conn.TrailersOnly(first.StreamID, codes.Unavailable, "not now")
			result := make(chan error, 1)
			go func() { result <- cs.RecvMsg(new(testpb.StreamingOutputCallResponse)) }()
			second := conn.ExpectHeaders()
			var got []byte
			for len(got) < window {
				got = append(got, conn.ExpectData(second.StreamID).Data...)
			}
			commit(cs)
			// What has been freed now would be taken for this.
			for _, size := range []int{100, 4000} {
				buf := getBytes(size)
				for range size {
					*buf = append(*buf, 'x')
				}
			}
			conn.WindowUpdate(second.StreamID, 1<<20)
			for ended := false; !ended; {
				f := conn.ExpectData(second.StreamID)
				got, ended = append(got, f.Data...), f.EndStream()
			}
			var sent []byte
			for _, m := range want {
				sent = append(sent, h2test.PutMessage(false, []byte(m))...)
			}
			assert.Equal(t, string(sent), string(got))
			conn.ReplyHeaders(second.StreamID)
			conn.ReplyTrailers(second.StreamID, codes.OK, "")
			assert.Equal(t, io.EOF, <-result)
			requireNoneActive(t, ch)
		})
	}
}

// A program that only asks for the headers of an RPC whose last attempt found no
// connection has the RPC ended all the same.
func TestHeaderEndsAnRPCWithoutAStream(t *testing.T) {
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) { s.SendTrailers(codes.Unavailable, "not now") })
	ch.SetConfig(retryConfig(t, quickPolicy, ""))
	sc, picks := ch.picker.Load().picker.(fixed).sc, 0
	ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
		if picks++; picks == 1 {
			return balancer.PickResult{SubConn: sc}, nil
		}
		return balancer.PickResult{}, status.Error(codes.PermissionDenied, "no more")
	}))
	var f finished
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, f.option())
	require.NoError(t, err)
	require.NoError(t, cs.CloseSend())
	md, err := cs.Header()
	assert.NoError(t, err)
	assert.Nil(t, md)
	f.require(t, codes.PermissionDenied)
	requireNoneActive(t, ch)
	assert.Equal(t, codes.PermissionDenied, status.Code(cs.RecvMsg(new(testpb.SimpleResponse))))
	require.NotNil(t, cs.Context(), "though there is no connection whose peer it could have")
	assert.Error(t, cs.Context().Err(), "it ends with the RPC")
}

// A use of a stream waits, without using a processor, while another attempt is made.
func TestWaitingForAnotherAttempt(t *testing.T) {
	const slow = `"maxAttempts": 4, "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]`
	receive := func(cs grpc.ClientStream) { _ = cs.RecvMsg(new(testpb.SimpleResponse)) }
	header := func(cs grpc.ClientStream) { _, _ = cs.Header() }
	send := func(cs grpc.ClientStream) { _ = cs.SendMsg(request("y")) }
	for _, tt := range []struct {
		name     string
		replaces func(grpc.ClientStream) // finds that the attempt has failed, and waits to make another
		waits    func(grpc.ClientStream)
		in       string // the function that it waits in
	}{
		{"sending", receive, send, "(*clientStream).current"},
		{"closing", receive, func(cs grpc.ClientStream) { _ = cs.CloseSend() }, "(*clientStream).current"},
		{"header", receive, header, "(*clientStream).current"},
		{"receiving", header, receive, "(*clientStream).source"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := h2test.Listen(t)
			srv.Serve(func(s *h2test.Stream) {
				if !s.Reset && s.Frame == s.Headers {
					s.SendTrailers(codes.Unavailable, "not now")
				}
			})
			ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
			ch.SetConfig(retryConfig(t, slow, ""))
			ctx, cancel := context.WithCancel(soon(t))
			cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod)
			require.NoError(t, err)
			done := make(chan struct{}, 2)
			go func() { tt.replaces(cs); done <- struct{}{} }()
			requireParked(t, "(*rpc).pause", "[select")
			go func() { tt.waits(cs); done <- struct{}{} }()
			requireParked(t, tt.in, "[chan receive")
			cancel()
			<-done
			<-done
			requireNoneActive(t, ch)
		})
	}
}

// requireParked waits until a goroutine stands in a function of this package, in that state.
func requireParked(t testing.TB, function, state string) {
	t.Helper()
	const pkg = "github.com/grpcdial/grpcdial/internal/call."
	require.Eventually(t, func() bool {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		for record := range strings.SplitSeq(string(buf), "\n\n") {
			head, stack, _ := strings.Cut(record, "\n")
			if strings.Contains(head, state) && strings.HasPrefix(stack, pkg+function) {
				return true
			}
		}
		return false
	}, time.Minute, time.Millisecond)
}

const retriesInternal = `"maxAttempts": 4, "initialBackoff": "0.001s", "maxBackoff": "0.002s", "backoffMultiplier": 2, "retryableStatusCodes": ["INTERNAL"]`

// A request that cannot be encoded is not tried again, though the code is one that the
// policy retries.
func TestUnencodableRequestIsNotTriedAgain(t *testing.T) {
	ch := scripted(t, Config{}, func(int, *h2test.Stream) { t.Error("it was sent") })
	ch.SetConfig(retryConfig(t, retriesInternal, ""))
	d := &dones{sc: ch.picker.Load().picker.(fixed).sc}
	ch.SetPicker(d)
	err := ch.Invoke(soon(t), unaryMethod, "text", new(testpb.SimpleResponse))
	assert.Equal(t, codes.Internal, status.Code(err), "%v", err)
	assert.Len(t, d.infos, 1, "attempts")
}

// An RPC that should have had one reply is not tried again for want of it, though its
// code is one that the policy retries.
func TestWrongNumberOfRepliesIsNotTriedAgain(t *testing.T) {
	kinds := map[string]func(*Channel, context.Context) error{
		"unary": func(ch *Channel, ctx context.Context) error {
			return ch.Invoke(ctx, unaryMethod, request("x"), new(testpb.SimpleResponse))
		},
		"client stream": func(ch *Channel, ctx context.Context) error {
			cs, err := ch.NewStream(ctx, clientDesc, clientMethod)
			if err != nil {
				return err
			}
			if err := cs.SendMsg(request("x")); err != nil {
				return err
			}
			_ = cs.CloseSend()
			return cs.RecvMsg(new(testpb.SimpleResponse))
		},
	}
	for name, answer := range map[string]func(*h2test.Stream){
		"none":               func(s *h2test.Stream) { s.SendHeaders(); s.SendTrailers(codes.OK, "") },
		"none, no headers":   func(s *h2test.Stream) { s.SendTrailers(codes.OK, "") },
		"two":                func(s *h2test.Stream) { s.SendMessage(replyBytes(t)); s.Reply(replyBytes(t)) },
		"one that is no use": func(s *h2test.Stream) { s.Reply([]byte{0xff}) },
	} {
		for kind, call := range kinds {
			t.Run(name+"/"+kind, func(t *testing.T) {
				attempts := 0
				ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) { attempts++; answer(s) })
				ch.SetConfig(retryConfig(t, retriesInternal, ""))
				err := call(ch, soon(t))
				assert.Equal(t, codes.Internal, status.Code(err), "%v", err)
				assert.Equal(t, 1, attempts)
			})
		}
	}
}
