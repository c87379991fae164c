package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// oddCodec does not decode the message "odd".
type oddCodec struct{}

func (oddCodec) Name() string                  { return "odd" }
func (oddCodec) Marshal(v any) ([]byte, error) { return []byte(*v.(*string)), nil }
func (oddCodec) Unmarshal(p []byte, v any) error {
	if string(p) == "odd" {
		return errors.New("odd")
	}
	*v.(*string) = string(p)
	return nil
}

// TestTheEndIsReturnedAgain: after the end RecvMsg says the same for ever, though there
// be messages behind one that could not be decoded.
func TestTheEndIsReturnedAgain(t *testing.T) {
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
		for _, text := range []string{"one", "odd", "three"} {
			s.SendMessage([]byte(text))
		}
		s.SendTrailers(codes.OK, "")
	})
	for _, tt := range []struct {
		desc  *grpc.StreamDesc
		first string // what the first RecvMsg brings
		code  codes.Code
	}{
		{bidiDesc, "one", codes.Internal},
		{&grpc.StreamDesc{ClientStreams: true}, "", codes.Internal},
	} {
		var f finished
		cs, err := ch.NewStream(soon(t), tt.desc, bidiMethod, f.option(), grpc.ForceCodec(oddCodec{}))
		require.NoError(t, err)
		require.NoError(t, cs.CloseSend())
		var got string
		if tt.first != "" {
			require.NoError(t, cs.RecvMsg(&got))
			require.Equal(t, tt.first, got)
		}
		want := cs.RecvMsg(&got)
		require.Equal(t, tt.code, status.Code(want), "%v", want)
		for range 3 {
			assert.Equal(t, want, cs.RecvMsg(&got))
		}
		f.require(t, tt.code)
	}
}

// TestEndBySendMsg: a stream that the sender ends says so once all that
// had come is received.
func TestEndBySendMsg(t *testing.T) {
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
		s.SendMessage([]byte("one"))
		s.SendMessage([]byte("two"))
	})
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, grpc.ForceCodec(oddCodec{}))
	require.NoError(t, err)
	require.NoError(t, cs.CloseSend())
	a := cs.(*clientStream).current()
	require.Eventually(t, func() bool { return a.s.Messages() == 2 }, time.Minute, time.Millisecond)
	text := "late"
	want := cs.SendMsg(&text)
	require.Equal(t, codes.Internal, status.Code(want))
	var got string
	for _, text := range []string{"one", "two"} {
		require.NoError(t, cs.RecvMsg(&got))
		require.Equal(t, text, got)
	}
	require.Equal(t, want, cs.RecvMsg(&got))
}

// TestForgottenStreams: what came on a stream that the program forgets after the RPC's
// end is garbage, though the connection and the channel live on.
func TestForgottenStreams(t *testing.T) {
	for _, answered := range []bool{false, true} {
		for _, read := range []int{0, 1} {
			t.Run(fmt.Sprintf("answered %t, %d received", answered, read), func(t *testing.T) {
				ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
					for range 3 {
						s.SendMessage(make([]byte, 1000))
					}
					if answered {
						s.SendTrailers(codes.OK, "")
					}
				})
				forgotten := forget(t, ch, read)
				requireNoneActive(t, ch)
				require.Eventually(t, func() bool { runtime.GC(); return forgotten.Value() == nil }, time.Minute, time.Millisecond)
				runtime.KeepAlive(ch)
			})
		}
	}
}

// forget begins an RPC, has the client take three messages, receives some of them and
// cancels.
func forget(t *testing.T, ch *Channel, read int) weak.Pointer[h2.Stream] {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := ch.NewStream(ctx, bidiDesc, bidiMethod, grpc.ForceCodec(oddCodec{}))
	require.NoError(t, err)
	require.NoError(t, s.CloseSend())
	received := s.(*clientStream).current().s
	require.Eventually(t, func() bool { return received.Messages() == 3 }, time.Minute, time.Millisecond)
	for range read {
		require.NoError(t, s.RecvMsg(new(string)))
	}
	return weak.Make(received)
}

// TestMessagesOfAnAttemptThatWasReplaced: they do not count.
func TestMessagesOfAnAttemptThatWasReplaced(t *testing.T) {
	srv := h2test.Listen(t)
	refused := make(chan struct{})
	srv.Serve(func(s *h2test.Stream) {
		switch {
		case s.ID == 1 && len(s.Take()) > 0:
			s.SendMessage([]byte("old"))
			s.RST(7) // REFUSED_STREAM, which it must not say after a message
			close(refused)
		case s.ID > 1 && s.Ended && !s.Reset:
			s.SendMessage([]byte("new"))
			s.SendTrailers(codes.OK, "")
		}
	})
	ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, grpc.ForceCodec(oddCodec{}))
	require.NoError(t, err)
	text := "hello"
	require.NoError(t, cs.SendMsg(&text))
	<-refused
	<-cs.(*clientStream).current().s.Finished()
	require.NoError(t, cs.SendMsg(&text)) // finds it out
	require.NoError(t, cs.CloseSend())
	var got string
	require.NoError(t, cs.RecvMsg(&got))
	require.Equal(t, "new", got)
	require.Equal(t, io.EOF, cs.RecvMsg(&got))
}
