package e2e_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestMetadataMapsSideBySide: wherever grpc-go hands out a map that a program may write
// to, though nothing is in it, so do we. The scenarios of the other tests compare it too.
func TestMetadataMapsSideBySide(t *testing.T) {
	answers := map[string]func(*h2test.Stream){
		"success":                    func(s *h2test.Stream) { s.Reply([]byte("\n\x03you")) },
		"success, no message":        func(s *h2test.Stream) { s.SendHeaders(); s.SendTrailers(codes.OK, "") },
		"failure":                    func(s *h2test.Stream) { s.SendHeaders(); s.SendTrailers(codes.NotFound, "script: no") },
		"trailers only":              func(s *h2test.Stream) { s.SendTrailers(codes.NotFound, "script: no") },
		"trailers only, OK":          func(s *h2test.Stream) { s.SendTrailers(codes.OK, "") },
		"connection lost":            func(s *h2test.Stream) { s.Conn().Close() },
		"cancelled, after headers":   func(s *h2test.Stream) { s.SendHeaders() },
		"cancelled, without headers": func(*h2test.Stream) {},
	}
	var scenarios []scenario
	for name, answer := range answers {
		scenarios = append(scenarios, scenario{
			name: name, cut: true, uncompared: true,
			serve: func(s *h2test.Stream) {
				if s.Ended && !s.Reset {
					answer(s)
				}
			},
			act: func(st *stage) {
				for i, desc := range []*grpc.StreamDesc{{}, {ServerStreams: true}, {ClientStreams: true}} {
					ctx, cancel := context.WithCancel(st.context())
					n := newNoted()
					cs, err := st.cc.NewStream(ctx, desc, "/t/Stream", n.options(grpc.WaitForReady(true))...)
					if err != nil {
						st.note("NewStream: %s", shown(err))
						cancel()
						continue
					}
					st.note("before the end: %s", shownMD(cs.Trailer()))
					_ = cs.SendMsg(wrapperspb.String("hello"))
					_ = cs.CloseSend()
					st.awaitEnded(i + 1)
					switch name {
					case "cancelled, after headers":
						md, err := cs.Header()
						st.note("Header: %s %s", shownMD(md), shown(err))
						cancel()
					case "cancelled, without headers":
						cancel()
					}
					for err = nil; err == nil; {
						if err = cs.RecvMsg(new(wrapperspb.StringValue)); err == nil && !desc.ServerStreams {
							break
						}
					}
					st.note("RecvMsg: %s", shown(err))
					md, err := cs.Header()
					st.note("after the end: %s %s %s", shownMD(md), shown(err), shownMD(cs.Trailer()))
					n.show(st)
					cancel()
				}
			},
		})
	}
	play(t, scenarios)
}

// A program that adds to the metadata it got does not panic, though none came.
func TestMetadataMapsAreTheProgramsOwn(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Serve(func(s *h2test.Stream) {
		if s.Ended {
			s.Reply([]byte("\n\x03you"))
		}
	})
	cc := newClient(t, srv.Addr(), grpcdial.WithInsecure())
	for i := range 3 {
		var trailer metadata.MD
		assert.NoError(t, cc.Invoke(backendtest.Bounded(t), "/t/Unary", wrapperspb.String("x"), new(wrapperspb.StringValue), grpc.Trailer(&trailer)))
		assert.Equal(t, metadata.MD{}, trailer)
		trailer.Set("own", fmt.Sprint(i))

		cs, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{}, "/t/Stream")
		assert.NoError(t, err)
		cs.Trailer().Set("own", "early")
		assert.NoError(t, cs.SendMsg(wrapperspb.String("x")))
		assert.NoError(t, cs.RecvMsg(new(wrapperspb.StringValue)))
		assert.Equal(t, metadata.MD{}, cs.Trailer())
		cs.Trailer().Set("own", "late")
		assert.Equal(t, metadata.MD{}, cs.Trailer(), "each is the caller's own")
	}
}
