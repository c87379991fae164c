package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

type doFunc = func(ctx context.Context, method, question string, opts ...grpc.CallOption)

// perRPC are credentials made of a function.
type perRPC struct {
	get    func(ctx context.Context, uri ...string) (map[string]string, error)
	secure bool
}

func (c perRPC) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	return c.get(ctx, uri...)
}

func (c perRPC) RequireTransportSecurity() bool { return c.secure }

// codesOf is every status code but OK, and some that there are not.
func codesOf() []codes.Code {
	var all []codes.Code
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		all = append(all, c)
	}
	return append(all, 17, 1000)
}

// TestCredentialsSideBySide: per-RPC credentials of the channel and of the RPC.
func TestCredentialsSideBySide(t *testing.T) {
	gives := func(md map[string]string, err error) perRPC {
		return perRPC{get: func(context.Context, ...string) (map[string]string, error) { return md, err }}
	}
	tests := map[string]perRPC{
		"plain":           gives(map[string]string{"authorization": "x"}, nil),
		"capital":         gives(map[string]string{"Authorization": "x", "X-Bin": "\x00"}, nil),
		"nothing":         gives(nil, nil),
		"bad key":         gives(map[string]string{"a b": "x"}, nil),
		"empty key":       gives(map[string]string{"": "x"}, nil),
		"bad value":       gives(map[string]string{"a": "\n"}, nil),
		"no status":       gives(nil, errors.New("no token")),
		"wrapped status":  gives(nil, fmt.Errorf("no token: %w", status.Error(codes.PermissionDenied, "script: no"))),
		"wrapped bad one": gives(nil, fmt.Errorf("no token: %w", status.Error(codes.NotFound, "script: no"))),
		"needs TLS":       {get: gives(nil, nil).get, secure: true},
		"what it is asked": {get: func(ctx context.Context, uri ...string) (map[string]string, error) {
			info, ok := credentials.RequestInfoFromContext(ctx)
			return map[string]string{"asked": fmt.Sprint(uri, ok, info.Method, info.AuthInfo.AuthType())}, nil
		}},
	}
	for _, c := range codesOf() {
		tests[c.String()] = gives(nil, status.Error(c, "script: no"))
	}
	var scenarios []scenario
	for name, creds := range tests {
		everyKind := func(opts ...grpc.CallOption) func(st *stage) {
			return func(st *stage) {
				st.everyKind(func(_ string, do doFunc) { do(st.context(), "/test.Service/Echo", "hello", opts...) })
			}
		}
		scenarios = append(scenarios, scenario{name: "of the RPC, " + name, act: everyKind(grpc.PerRPCCredentials(creds))})
		if creds.secure {
			continue // refused when the channel is made, by both
		}
		scenarios = append(scenarios, scenario{name: "of the channel, " + name, act: everyKind(),
			dial: []mirrored{{grpc.WithPerRPCCredentials(creds), grpcdial.WithPerRPCCredentials(creds)}}})
	}
	scenarios = append(scenarios, scenario{
		name: "of both",
		dial: []mirrored{{grpc.WithPerRPCCredentials(tests["plain"]), grpcdial.WithPerRPCCredentials(tests["plain"])}},
		act: func(st *stage) {
			ctx := metadata.AppendToOutgoingContext(st.context(), "authorization", "mine")
			st.invoke(ctx, "/test.Service/Echo", "hello", grpc.PerRPCCredentials(gives(map[string]string{"authorization": "x"}, nil)))
		},
	}, scenario{name: "another authority without TLS", act: func(st *stage) {
		st.everyKind(func(_ string, do doFunc) { do(st.context(), "/t/Echo", "hello", grpc.CallAuthority("other.example")) })
	}})
	playWithBridge(t, scenarios)
}

// picks is a policy that connects, and then gives its pickers' place to a
// function that the test set.
const picksName = "sidebyside_picks"

func init() {
	balancer.Register(base.NewBalancerBuilder(picksName, picksBuilder{}, base.Config{}))
}

type picksBuilder struct{}

// picking is what the pickers do. It is set before the channels are made that use
// the policy, one test at a time.
var picking func(sc balancer.SubConn, info balancer.PickInfo) (balancer.PickResult, error)

func (picksBuilder) Build(info base.PickerBuildInfo) balancer.Picker {
	for sc := range info.ReadySCs {
		return picks{sc}
	}
	return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
}

type picks struct{ sc balancer.SubConn }

func (p picks) Pick(info balancer.PickInfo) (balancer.PickResult, error) { return picking(p.sc, info) }

// TestPickersSideBySide: what a picker may return (gRFC A54), and what it receives.
func TestPickersSideBySide(t *testing.T) {
	tests := map[string]func(st *stage, sc balancer.SubConn, info balancer.PickInfo) (balancer.PickResult, error){
		"no status": func(*stage, balancer.SubConn, balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{}, errors.New("no")
		},
		"wrapped": func(*stage, balancer.SubConn, balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{}, fmt.Errorf("no: %w", status.Error(codes.PermissionDenied, "script: no"))
		},
		"done": func(st *stage, sc balancer.SubConn, info balancer.PickInfo) (balancer.PickResult, error) {
			st.note("Pick %s", info.FullMethodName)
			return balancer.PickResult{SubConn: sc, Done: func(i balancer.DoneInfo) {
				st.note("Done: %s %s sent=%t received=%t %v", shown(i.Err), shownMD(i.Trailer), i.BytesSent, i.BytesReceived, i.ServerLoad)
			}}, nil
		},
		"metadata": func(_ *stage, sc balancer.SubConn, _ balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{SubConn: sc, Metadata: metadata.MD{"own": {"picked"}, "p-bin": {"\x00"}, "te": {"x"}, ":path": {"/x"}}}, nil
		},
		"bad metadata": func(_ *stage, sc balancer.SubConn, _ balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{SubConn: sc, Metadata: metadata.MD{"Bad": {"x"}}}, nil
		},
		"authority": func(_ *stage, sc balancer.SubConn, _ balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{SubConn: sc, Metadata: metadata.MD{":authority": {"other.example"}}}, nil
		},
	}
	for _, c := range codesOf() {
		tests[c.String()] = func(*stage, balancer.SubConn, balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{}, status.Error(c, "script: no")
		}
	}
	var scenarios []scenario
	for name, pick := range tests {
		scenarios = append(scenarios, scenario{
			name: name,
			dial: []mirrored{serviceConfig(`{"loadBalancingConfig": [{"` + picksName + `": {}}]}`)},
			act: func(st *stage) {
				picking = func(sc balancer.SubConn, info balancer.PickInfo) (balancer.PickResult, error) {
					return pick(st, sc, info)
				}
				st.everyKind(func(_ string, do doFunc) {
					ctx := metadata.AppendToOutgoingContext(st.context(), "own", "1")
					do(ctx, "/t/Echo", "hello")
					do(ctx, "/t/Fail", "hello")
					if name != "no status" { // that is waited out
						do(ctx, "/t/Echo", "hello", grpc.WaitForReady(true))
					}
				})
			},
		})
	}
	play(t, scenarios)
}

// TestLossSideBySide: servers that go away.
func TestLossSideBySide(t *testing.T) {
	var scenarios []scenario
	for name, serve := range map[string]func(s *h2test.Stream){
		"cut before headers": func(s *h2test.Stream) {
			if s.Ended {
				s.Conn().Close()
			}
		},
		"GOAWAY with an error that takes none": func(s *h2test.Stream) {
			if s.Ended {
				s.Conn().GoAway(0, http2.ErrCodeInternal, "")
			}
		},
		"refused": func(s *h2test.Stream) {
			if s.Ended {
				s.RST(http2.ErrCodeRefusedStream)
			}
		},
		"enhance your calm": func(s *h2test.Stream) {
			if s.Ended {
				s.RST(http2.ErrCodeEnhanceYourCalm)
			}
		},
	} {
		// A channel for each: here one that is lost again and again backs off.
		for kind, desc := range kinds {
			scenarios = append(scenarios, scenario{name: name + ", " + kind, serve: serve, uncompared: true, act: func(st *stage) {
				st.talk(st.context(), desc, "/t/Echo", []string{"hello"})
			}})
		}
		scenarios = append(scenarios, scenario{name: name + ", Invoke", serve: serve, uncompared: true, act: func(st *stage) {
			st.invoke(st.context(), "/t/Echo", "hello")
		}})
	}
	for kind, desc := range kinds {
		scenarios = append(scenarios, scenario{name: "cut after headers, " + kind, uncompared: true, act: func(st *stage) {
			n := newNoted()
			cs := st.open(st.context(), desc, "/t/Wait", n.options()...)
			sends.do(st, cs)
			closesSend.do(st, cs)
			header.do(st, cs)
			st.awaitEnded(1)
			st.begun[0].Conn().CloseHard()
			st.drain(cs)
			n.show(st)
		}})
	}
	play(t, scenarios)
}

// TestCodecsSideBySide: content-subtypes and codecs.
func TestCodecsSideBySide(t *testing.T) {
	var scenarios []scenario
	for name, opts := range map[string][]grpc.CallOption{
		"none":                nil,
		"proto":               {grpc.CallContentSubtype("proto")},
		"capital":             {grpc.CallContentSubtype("PROTO")},
		"unheard of":          {grpc.CallContentSubtype("unheard-of")},
		"empty":               {grpc.CallContentSubtype("")},
		"forced":              {grpc.ForceCodec(ownCodec{})},
		"forced with subtype": {grpc.ForceCodec(ownCodec{}), grpc.CallContentSubtype("Other")},
		"forced V2":           {grpc.ForceCodecV2(encoding.GetCodecV2("proto"))},
		"static method":       {grpc.StaticMethod()},
		"fail fast, then not": {grpc.WaitForReady(false), grpc.WaitForReady(true)},
	} {
		scenarios = append(scenarios, scenario{name: name, act: func(st *stage) {
			st.everyKind(func(_ string, do doFunc) { do(st.context(), "/t/Echo", "hello", opts...) })
		}})
	}
	for name, names := range map[string][]string{
		"gzip": {"gzip"}, "twice": {"gzip", " gzip "}, "none": {}, "empty": {""}, "identity": {"identity"}, "unheard-of": {"unheard-of"}, "gzip and unheard-of": {"gzip", "unheard-of"},
	} {
		accept := experimental.AcceptCompressors(names...)
		scenarios = append(scenarios, scenario{name: "accepts " + name, serve: gzipEcho, act: func(st *stage) {
			st.everyKind(func(_ string, do doFunc) { do(st.context(), "/t/Echo", "hello", accept, grpc.UseCompressor("gzip")) })
		}}, scenario{name: "accepts by default " + name, serve: gzipEcho,
			dial: []mirrored{{grpc.WithDefaultCallOptions(accept), grpcdial.WithDefaultCallOptions(accept)}},
			act: func(st *stage) {
				st.everyKind(func(_ string, do doFunc) { do(st.context(), "/t/Echo", "hello") })
			}})
	}
	for _, method := range []string{"noslash", "", "/", "//", "/a", "/a/b/c", "/ü/x", "/a b/c"} {
		scenarios = append(scenarios, scenario{name: fmt.Sprintf("method %q", method), act: func(st *stage) {
			st.everyKind(func(_ string, do doFunc) { do(st.context(), method, "hello") })
		}})
	}
	playWithBridge(t, scenarios)
}

// ownCodec is the protobuf codec under another name.
type ownCodec struct{}

func (ownCodec) Name() string { return "OWN" }
func (ownCodec) Marshal(v any) ([]byte, error) {
	b, err := encoding.GetCodecV2("proto").Marshal(v)
	return b.Materialize(), err
}
func (ownCodec) Unmarshal(p []byte, v any) error { return proto.Unmarshal(p, v.(proto.Message)) }
