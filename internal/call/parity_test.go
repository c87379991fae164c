package call

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Each behaviour of a server is shown to a grpc-go channel and to ours, and what
// the user sees must be the same: results, codes, messages that the server chose,
// headers, trailers, OnFinish.

// behaviours are what a server may do once it has the whole request, by method.
var behaviours = map[string]func(s *h2test.Stream, reply []byte){
	"/t/OK": func(s *h2test.Stream, reply []byte) {
		s.SendHeaders("h", "1")
		s.SendMessage(reply)
		s.SendTrailers(codes.OK, "", "t", "1")
	},
	"/t/NoMessage": func(s *h2test.Stream, _ []byte) {
		s.SendHeaders("h", "1")
		s.SendTrailers(codes.OK, "", "t", "1")
	},
	"/t/TrailersOnlyOK": func(s *h2test.Stream, _ []byte) { s.SendTrailers(codes.OK, "", "t", "1") },
	"/t/TwoMessages": func(s *h2test.Stream, reply []byte) {
		s.SendMessage(reply)
		s.SendMessage(reply)
		s.SendTrailers(codes.OK, "", "t", "1")
	},
	"/t/TrailersOnlyError": func(s *h2test.Stream, _ []byte) { s.SendTrailers(codes.NotFound, "not here", "t", "1") },
	"/t/HeadersThenError": func(s *h2test.Stream, _ []byte) {
		s.SendHeaders("h", "1")
		s.SendTrailers(codes.NotFound, "not here", "t", "1")
	},
	"/t/MessageThenError": func(s *h2test.Stream, reply []byte) {
		s.SendMessage(reply)
		s.SendTrailers(codes.DataLoss, "half of it", "t", "1")
	},
	"/t/MessageOfGarbage": func(s *h2test.Stream, _ []byte) {
		s.SendMessage([]byte("\xff\xff\xff"))
		s.SendTrailers(codes.OK, "")
	},
	"/t/CompressedWithoutEncoding": func(s *h2test.Stream, reply []byte) {
		s.SendHeaders()
		s.Conn().ReplyCompressed(s.ID, reply)
		s.Conn().ReplyTrailers(s.ID, codes.OK, "")
	},
	"/t/CompressedWithUnknownEncoding": func(s *h2test.Stream, reply []byte) {
		s.SendHeaders("grpc-encoding", "unheard-of")
		s.Conn().ReplyCompressed(s.ID, reply)
		s.Conn().ReplyTrailers(s.ID, codes.OK, "")
	},
	"/t/UncompressedWithUnknownEncoding": func(s *h2test.Stream, reply []byte) {
		s.SendHeaders("grpc-encoding", "unheard-of")
		s.SendMessage(reply)
		s.SendTrailers(codes.OK, "")
	},
	"/t/Refused":       func(s *h2test.Stream, _ []byte) { s.RST(http2.ErrCodeRefusedStream) },
	"/t/Reset":         func(s *h2test.Stream, _ []byte) { s.RST(http2.ErrCodeInternal) },
	"/t/ResetByCancel": func(s *h2test.Stream, _ []byte) { s.RST(http2.ErrCodeCancel) },
	"/t/HeadersThenReset": func(s *h2test.Stream, _ []byte) {
		s.SendHeaders("h", "1")
		s.RST(http2.ErrCodeEnhanceYourCalm)
	},
	"/t/MessageThenReset": func(s *h2test.Stream, reply []byte) {
		s.SendMessage(reply)
		s.RST(http2.ErrCodeInternal)
	},
	"/t/OKThenReset": func(s *h2test.Stream, reply []byte) {
		s.SendMessage(reply)
		s.SendTrailers(codes.OK, "")
		s.Conn().RST(s.ID, http2.ErrCodeNo)
	},
}

// grpc-go differs here from what it does otherwise, and we do not follow:
//   - Once a reply is followed by another, RecvMsg (Invoke) fails but the RPC is
//     not over: OnFinish and the Trailer option miss the failure, or never come.
//   - After Header has found an RPC to have ended well, OnFinish is called with nil, though
//     RecvMsg then fails for want of a reply.
//   - After an error that the client made, RecvMsg goes on to return io.EOF.
func endedAsIn(method string, desc *grpc.StreamDesc, headerFirst bool) bool {
	if desc.ServerStreams {
		return true
	}
	return method != "/t/TwoMessages" && !(headerFirst && method == "/t/TrailersOnlyOK")
}

// seen records what a user sees.
type seen struct {
	strings.Builder
	finished []error
}

func (s *seen) note(what string, err error) {
	switch {
	case err == nil:
		fmt.Fprintf(s, "%s: nil\n", what)
	case err == io.EOF:
		fmt.Fprintf(s, "%s: EOF\n", what)
	default:
		st, ok := status.FromError(err)
		text := ""
		switch st.Code() {
		case codes.NotFound, codes.DataLoss: // the server's own words
			text = st.Message()
		}
		fmt.Fprintf(s, "%s: status %t %v %s\n", what, ok, st.Code(), text)
	}
}

func (s *seen) noteMD(what string, md metadata.MD) {
	fmt.Fprintf(s, "%s: h=%v t=%v\n", what, md["h"], md["t"])
}

func (s *seen) onFinish() grpc.CallOption {
	return grpc.OnFinish(func(err error) { s.finished = append(s.finished, err) })
}

func (s *seen) noteFinished() {
	for _, err := range s.finished {
		s.note("OnFinish", err)
	}
}

func TestUnaryParity(t *testing.T) {
	both(t, func(t *testing.T, cc grpc.ClientConnInterface, method string) *seen {
		s := new(seen)
		var header, trailer metadata.MD
		reply := new(testpb.SimpleResponse)
		s.note("Invoke", cc.Invoke(soon(t), method, request("x"), reply, grpc.Header(&header), grpc.Trailer(&trailer), s.onFinish()))
		s.noteMD("header", header)
		if endedAsIn(method, unaryDesc, false) {
			s.noteMD("trailer", trailer)
			s.noteFinished()
			fmt.Fprintf(s, "reply: %s\n", reply.Username)
		}
		return s
	})
}

func TestStreamParity(t *testing.T) {
	descs := map[string]*grpc.StreamDesc{"unary": unaryDesc, "client": clientDesc, "server": serverDesc, "bidi": bidiDesc}
	for name, desc := range descs {
		for _, headerFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,headerFirst=%t", name, headerFirst), func(t *testing.T) {
				both(t, func(t *testing.T, cc grpc.ClientConnInterface, method string) *seen {
					return exercise(t, cc, desc, method, headerFirst)
				})
			})
		}
	}
}

func exercise(t *testing.T, cc grpc.ClientConnInterface, desc *grpc.StreamDesc, method string, headerFirst bool) *seen {
	s := new(seen)
	var header, trailer metadata.MD
	cs, err := cc.NewStream(soon(t), desc, method, grpc.Header(&header), grpc.Trailer(&trailer), s.onFinish())
	s.note("NewStream", err)
	if err != nil {
		return s
	}
	s.note("SendMsg", cs.SendMsg(request("x")))
	s.note("CloseSend", cs.CloseSend())
	s.note("CloseSend", cs.CloseSend())
	if headerFirst {
		md, err := cs.Header()
		s.note("Header", err)
		s.noteMD("Header", md)
	}
	for range 4 {
		err = cs.RecvMsg(new(testpb.SimpleResponse))
		s.note("RecvMsg", err)
		if err != nil {
			break
		}
	}
	if _, ok := cs.(*clientStream); ok && err != nil {
		assert.Equal(t, err, cs.RecvMsg(new(testpb.SimpleResponse)), "the end stays the same")
	}
	md, headerErr := cs.Header()
	s.note("Header", headerErr)
	s.noteMD("Header", md)
	s.noteMD("header", header)
	if endedAsIn(method, desc, headerFirst) {
		s.noteMD("Trailer", cs.Trailer())
		s.note("Context", contextCode(cs.Context()))
		s.noteMD("trailer", trailer)
		s.noteFinished()
	}
	s.note("SendMsg", cs.SendMsg(request("x")))
	return s
}

func contextCode(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return status.FromContextError(ctx.Err()).Err()
}

// both runs a scenario for every behaviour on grpc-go's channel and on ours.
func both(t *testing.T, scenario func(*testing.T, grpc.ClientConnInterface, string) *seen) {
	reply, err := proto.Marshal(&testpb.SimpleResponse{Username: "you"})
	require.NoError(t, err)
	srv := h2test.Listen(t)
	srv.Serve(func(s *h2test.Stream) {
		if s.Ended && !s.Reset {
			behaviours[s.Method()](s, reply)
		}
	})
	theirs, err := grpc.NewClient(srv.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer theirs.Close()
	ours := ready(t, Config{}, insecureBackend(t, srv.Addr()))
	for method := range behaviours {
		t.Run(strings.TrimPrefix(method, "/t/"), func(t *testing.T) {
			want := scenario(t, theirs, method)
			got := scenario(t, ours, method)
			assert.Equal(t, want.String(), got.String())
			requireNoneActive(t, ours)
		})
	}
}
