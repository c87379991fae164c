package e2e_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestMetadataSideBySide: what a program puts into its metadata.
func TestMetadataSideBySide(t *testing.T) {
	var scenarios []scenario
	for name, md := range map[string]metadata.MD{
		"plain":             {"a": {"1", "2"}, "b": {""}},
		"binary":            {"a-bin": {"\x00\xff", "", ","}},
		"spaces":            {"a": {" x ", "x y"}},
		"reserved":          {"te": {"x"}, "content-type": {"x"}, "user-agent": {"x"}, "grpc-timeout": {"1n"}, "grpc-encoding": {"x"}, "grpc-status": {"1"}, "grpc-message": {"x"}, "grpc-message-type": {"x"}},
		"almost reserved":   {"grpc-previous-rpc-attempts": {"7"}, "grpc-accept-encoding": {"x"}, "grpc-status-details-bin": {"x"}, "grpc-retry-pushback-ms": {"1"}, "grpc-trace-bin": {"x"}, "grpc-tags-bin": {"x"}, "grpc-internal-encoding-request": {"x"}},
		"pseudo":            {":path": {"/x"}, ":authority": {"x"}, ":method": {"GET"}, ":unheard": {"x"}},
		"of HTTP":           {"host": {"x"}, "cookie": {"a=b; c=d"}, "accept-encoding": {"x"}},
		"empty key":         {"": {"x"}},
		"space in key":      {"a b": {"x"}},
		"not ASCII":         {"a": {"ü"}},
		"key not ASCII":     {"ü": {"x"}},
		"control":           {"a": {"\n"}},
		"nothing":           {},
		"key without value": {"a": nil},
	} {
		scenarios = append(scenarios, scenario{name: name, act: func(st *stage) {
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(metadata.NewOutgoingContext(st.context(), md), "/t/Echo", "hello")
			})
		}})
	}
	scenarios = append(scenarios, scenario{name: "appended", act: func(st *stage) {
		ctx := metadata.NewOutgoingContext(st.context(), metadata.MD{"a": {"1"}})
		ctx = metadata.AppendToOutgoingContext(ctx, "A", "2", "b", "3", "TE", "x", "c-bin", "\x01")
		st.invoke(ctx, "/t/Echo", "hello")
		st.invoke(metadata.AppendToOutgoingContext(ctx, "bad key", "2"), "/t/Echo", "hello")
	}})
	for name, md := range map[string]any{
		"of an address":               &metadata.MD{"a": {"1"}, "own": {"2"}, "te": {"x"}, "b-bin": {"\x00"}},
		"of an address, bad":          &metadata.MD{"Bad": {"1"}},
		"of an address, another type": metadata.MD{"a": {"1"}},
	} {
		scenarios = append(scenarios, scenario{
			name: name,
			via: func(addr string) (string, []mirrored) {
				r := manual.NewBuilderWithScheme("hand")
				r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: addr, Metadata: md}}})
				return "hand:///", []mirrored{{grpc.WithResolvers(r), grpcdial.WithResolvers(r)}}
			},
			act: func(st *stage) {
				st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
					do(metadata.AppendToOutgoingContext(st.context(), "own", "1"), "/t/Echo", "hello")
				})
			},
		})
	}
	playWithBridge(t, scenarios)
}

// TestCapitalLettersInMetadata: a key that did not go through the functions of
// package metadata is sent as they would have made it.
func TestCapitalLettersInMetadata(t *testing.T) {
	srv := backendtest.StartEcho(t)
	ctx := metadata.NewOutgoingContext(backendtest.Bounded(t), metadata.MD{"Key": {"1"}})
	theirs, err := grpc.NewClient(srv.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer theirs.Close()
	err = theirs.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue))
	assert.Equal(t, codes.Internal, status.Code(err))
	ours := newClient(t, srv.Addr, grpcdial.WithInsecure())
	require.NoError(t, ours.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue)))
	_, md, _ := srv.Last()
	assert.Equal(t, []string{"1"}, md["key"])
}

// TestSizesSideBySide: messages that are too large for one side or the other.
func TestSizesSideBySide(t *testing.T) {
	body := strings.Repeat("x", 1000) // 1,003 bytes as a message
	var scenarios []scenario
	for _, tt := range []struct {
		name  string
		opts  []grpc.CallOption
		fails string // "sending", "receiving"; "": not
	}{
		{"sent, just fits", []grpc.CallOption{grpc.MaxCallSendMsgSize(1003)}, ""},
		{"sent, too large", []grpc.CallOption{grpc.MaxCallSendMsgSize(1002)}, "sending"},
		{"sent, nothing allowed", []grpc.CallOption{grpc.MaxCallSendMsgSize(0)}, "sending"},
		{"sent, negative", []grpc.CallOption{grpc.MaxCallSendMsgSize(-1)}, "sending"},
		{"received, just fits", []grpc.CallOption{grpc.MaxCallRecvMsgSize(1003)}, ""},
		{"received, too large", []grpc.CallOption{grpc.MaxCallRecvMsgSize(1002)}, "receiving"},
		{"received, nothing", []grpc.CallOption{grpc.MaxCallRecvMsgSize(0)}, "receiving"},
		{"received, negative", []grpc.CallOption{grpc.MaxCallRecvMsgSize(-1)}, "receiving"},
		{"sent compressed, fits", []grpc.CallOption{grpc.UseCompressor("gzip"), grpc.MaxCallSendMsgSize(500)}, ""},
		{"sent compressed, too large", []grpc.CallOption{grpc.UseCompressor("gzip"), grpc.MaxCallSendMsgSize(10)}, "sending"},
		{"received compressed, fits", []grpc.CallOption{grpc.UseCompressor("gzip"), grpc.MaxCallRecvMsgSize(1003)}, ""},
		{"received compressed, too large", []grpc.CallOption{grpc.UseCompressor("gzip"), grpc.MaxCallRecvMsgSize(1002)}, "receiving"},
		{"identity", []grpc.CallOption{grpc.UseCompressor("identity")}, ""},
		{"the last one counts", []grpc.CallOption{grpc.MaxCallRecvMsgSize(1), grpc.MaxCallRecvMsgSize(2000)}, ""},
	} {
		scenarios = append(scenarios, scenario{name: tt.name, uncompared: tt.fails != "", serve: gzipEcho,
			ours: map[string]string{"grpc-accept-encoding: gzip,identity": "grpc-accept-encoding: gzip"}, // identity goes without saying
			act: func(st *stage) {
				method := "/t/Echo"
				if tt.fails == "receiving" {
					method = "/t/Endless" // trailers, if they come in time, are seen by users of grpc-go
				}
				n := 0
				st.everyKind(func(kind string, do func(context.Context, string, string, ...grpc.CallOption)) {
					if kind == "Invoke" && tt.fails != "" {
						// Here a unary RPC is not begun with a message that cannot be sent, and
						// decompresses its reply only when the server has ended it.
						return
					}
					do(st.context(), method, body, tt.opts...)
					if n++; tt.fails != "" {
						st.awaitReset(n)
					}
				})
				if tt.fails == "" {
					st.invoke(st.context(), "/t/Echo", "", tt.opts...)
				}
			}})
	}
	for _, name := range []string{"unheard-of", "Gzip", " "} {
		scenarios = append(scenarios, scenario{name: "compressor " + name, act: func(st *stage) {
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(st.context(), "/t/Echo", body, grpc.UseCompressor(name))
			})
		}})
	}
	playWithBridge(t, scenarios)
}

// gzipEcho is standard, but answers in the encoding that it was asked in.
func gzipEcho(s *h2test.Stream) {
	if s.Reset {
		return
	}
	if !s.Ended {
		return
	}
	var extra []string
	if enc := s.Headers.Field("grpc-encoding"); enc != "" {
		extra = []string{"grpc-encoding", enc}
	}
	s.SendHeaders(extra...)
	for _, m := range s.Take() {
		s.Conn().Data(s.ID, false, h2test.PutMessage(m.Compressed, m.Payload))
	}
	if s.Method() != "/t/Endless" {
		s.SendTrailers(codes.OK, "", "t", "1")
	}
}

// TestContextsSideBySide: the caller's context ends, at one time or another.
func TestContextsSideBySide(t *testing.T) {
	ended := func(st *stage) context.Context {
		ctx, cancel := context.WithCancel(st.context())
		cancel()
		return ctx
	}
	expired := func(st *stage) context.Context {
		ctx, cancel := context.WithDeadline(st.context(), time.Now().Add(-time.Second))
		st.t.Cleanup(cancel)
		return ctx
	}
	play(t, []scenario{
		{name: "cancelled before", act: func(st *stage) {
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(ended(st), "/t/Echo", "hello")
			})
		}},
		{name: "cancelled before, on a channel that is READY", act: func(st *stage) {
			st.invoke(st.context(), "/t/Echo", "hello")
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(ended(st), "/t/Echo", "hello")
			})
		}},
		{name: "expired before", act: func(st *stage) {
			st.invoke(st.context(), "/t/Echo", "hello")
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(expired(st), "/t/Echo", "hello")
			})
		}},
		{name: "cancelled while the server is silent", act: func(st *stage) {
			n := 0
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				n++
				ctx, cancel := context.WithCancel(st.context())
				go func() { st.awaitEnded(n); cancel() }()
				do(ctx, "/t/Silent", "hello")
				st.awaitReset(n)
			})
		}},
		{name: "cancelled after the headers", uncompared: true, act: func(st *stage) {
			n := 0
			st.everyKind(func(kind string, _ func(context.Context, string, string, ...grpc.CallOption)) {
				if kind == "Invoke" {
					return
				}
				n++
				ctx, cancel := context.WithCancel(st.context())
				defer cancel()
				opts := newNoted()
				cs := st.open(ctx, kinds[kind], "/t/Wait", opts.options()...)
				st.note("SendMsg: %s", shown(cs.SendMsg(wrapperspb.String("hello"))))
				st.note("CloseSend: %s", shown(cs.CloseSend()))
				md, err := cs.Header()
				st.note("Header: %s %s", shownMD(md), shown(err))
				st.awaitEnded(n)
				cancel()
				st.drain(cs)
				opts.show(st)
				st.awaitReset(n)
			})
		}},
		{name: "deadline while the server is silent", act: func(st *stage) {
			n := 0
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				n++
				ctx, cancel := context.WithTimeout(st.context(), 200*time.Millisecond)
				defer cancel()
				do(ctx, "/t/Silent", "hello")
				st.awaitReset(n)
			})
		}},
		{name: "cancelled after the end", act: func(st *stage) {
			for _, kind := range slices.Sorted(maps.Keys(kinds)) {
				ctx, cancel := context.WithCancel(st.context())
				st.talk(ctx, kinds[kind], "/t/Echo", []string{"hello"})
				cancel()
			}
		}},
		{name: "method config's timeout", dial: []mirrored{serviceConfig(`{"methodConfig": [{"name": [{}], "timeout": "0.2s"}]}`)}, act: func(st *stage) {
			st.invoke(context.Background(), "/t/Silent", "hello")
			st.awaitReset(1)
			st.talk(context.Background(), kinds["bidi"], "/t/Silent", []string{"hello"})
			st.awaitReset(2)
		}},
		{name: "method config's timeout of zero", dial: []mirrored{serviceConfig(`{"methodConfig": [{"name": [{}], "timeout": "0s"}]}`)}, act: func(st *stage) {
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(context.Background(), "/t/Echo", "hello")
			})
		}},
		{name: "without a deadline", act: func(st *stage) {
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(context.Background(), "/t/Echo", "hello")
			})
		}},
	})
}

func serviceConfig(json string) mirrored {
	return mirrored{grpc.WithDefaultServiceConfig(json), grpcdial.WithDefaultServiceConfig(json)}
}

// TestClosedChannelSideBySide: RPCs after Close, and while it happens.
func TestClosedChannelSideBySide(t *testing.T) {
	play(t, []scenario{
		{name: "before the first RPC", act: func(st *stage) {
			st.note("Close: %s", shown(st.close()))
			st.note("Close: %s", shown(st.close()))
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(st.context(), "/t/Echo", "hello")
			})
		}},
		{name: "after one", act: func(st *stage) {
			st.invoke(st.context(), "/t/Echo", "hello")
			st.note("Close: %s", shown(st.close()))
			st.everyKind(func(_ string, do func(context.Context, string, string, ...grpc.CallOption)) {
				do(st.context(), "/t/Echo", "hello", grpc.WaitForReady(true))
			})
		}},
		{name: "during streams", uncompared: true, cut: true, act: func(st *stage) {
			for _, kind := range slices.Sorted(maps.Keys(kinds)) {
				opts := newNoted()
				cs := st.open(st.context(), kinds[kind], "/t/Wait", opts.options()...)
				st.note("SendMsg: %s", shown(cs.SendMsg(wrapperspb.String("hello"))))
				md, err := cs.Header()
				st.note("Header: %s %s", shownMD(md), shown(err))
				defer func() {
					st.note("kind %s", kind)
					st.drain(cs)
					opts.show(st)
					st.note("SendMsg: %s", shown(cs.SendMsg(wrapperspb.String("hello"))))
					st.note("CloseSend: %s", shown(cs.CloseSend()))
				}()
			}
			st.awaitEnded(2) // of the kinds that have one message
			st.note("Close: %s", shown(st.close()))
		}},
		{name: "during an RPC", uncompared: true, cut: true, act: func(st *stage) {
			go func() { st.awaitEnded(1); _ = st.close() }()
			st.invoke(st.context(), "/t/Silent", "hello")
		}},
	})
}
