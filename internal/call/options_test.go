package call

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// Options as users write them besides calling grpc-go's constructors.
type (
	embedsHeader    struct{ grpc.HeaderCallOption }
	embedsPointer   struct{ *grpc.MaxRecvMsgSizeCallOption }
	embedsInterface struct{ grpc.CallOption }
	embedsDeeper    struct{ embedsInterface }
	hidden          struct{ grpc.CompressorCallOption }
	embedsHidden    struct{ hidden }
	ownOption       struct {
		grpc.EmptyCallOption
		retries int
	}
)

type namedCodec struct {
	encoding.Codec
	name string
}

func (c namedCodec) Name() string { return c.name }

func TestOptionsBecomeSettings(t *testing.T) {
	creds := credentials.PerRPCCredentials(token("x"))
	var md metadata.MD
	tests := []struct {
		name string
		opts []grpc.CallOption
		want settings
	}{
		{"none", nil, settings{}},
		{"those that say nothing", []grpc.CallOption{nil, grpc.EmptyCallOption{}, grpc.StaticMethod(), ownOption{retries: 3}}, settings{}},
		{"header", []grpc.CallOption{grpc.Header(&md)}, settings{collects: true}},
		{"trailer", []grpc.CallOption{grpc.Trailer(&md)}, settings{collects: true}},
		{"peer", []grpc.CallOption{grpc.Peer(new(peer.Peer))}, settings{collects: true}},
		{"wait for ready", []grpc.CallOption{grpc.WaitForReady(true)}, settings{waitForReady: true, waitSet: true}},
		{"the last one wins", []grpc.CallOption{grpc.WaitForReady(true), grpc.FailFast(true)}, settings{waitSet: true}},
		{"sizes", []grpc.CallOption{grpc.MaxCallRecvMsgSize(1), grpc.MaxCallSendMsgSize(2), grpc.MaxRetryRPCBufferSize(3)},
			settings{maxRecv: 1, recvSet: true, maxSend: 2, sendSet: true, maxBuffer: 3, bufferSet: true}},
		{"a size of 0", []grpc.CallOption{grpc.MaxCallRecvMsgSize(0)}, settings{recvSet: true}},
		{"credentials", []grpc.CallOption{grpc.PerRPCCredentials(creds)}, settings{creds: creds}},
		{"compressor", []grpc.CallOption{grpc.UseCompressor("gzip")}, settings{compressor: "gzip"}},
		{"content-subtype", []grpc.CallOption{grpc.CallContentSubtype("JSON")}, settings{subtype: "json"}},
		{"authority", []grpc.CallOption{grpc.CallAuthority("a")}, settings{authority: "a"}},
		{"accepted compressors", []grpc.CallOption{experimental.AcceptCompressors("gzip", " gzip", "identity")}, settings{accept: []string{"gzip"}}},
		{"no accepted compressors", []grpc.CallOption{experimental.AcceptCompressors()}, settings{}},

		{"pointer", []grpc.CallOption{&grpc.FailFastCallOption{FailFast: false}}, settings{waitForReady: true, waitSet: true}},
		{"embedded", []grpc.CallOption{embedsHeader{grpc.HeaderCallOption{HeaderAddr: &md}}}, settings{collects: true}},
		{"pointer to one that embeds", []grpc.CallOption{&embedsHeader{}}, settings{collects: true}},
		{"embedded pointer", []grpc.CallOption{embedsPointer{&grpc.MaxRecvMsgSizeCallOption{MaxRecvMsgSize: 7}}}, settings{maxRecv: 7, recvSet: true}},
		{"embedded interface", []grpc.CallOption{embedsInterface{grpc.CallAuthority("b")}}, settings{authority: "b"}},
		{"embedded twice", []grpc.CallOption{embedsDeeper{embedsInterface{grpc.MaxCallSendMsgSize(8)}}}, settings{maxSend: 8, sendSet: true}},
		{"embedded in what is not exported", []grpc.CallOption{embedsHidden{hidden{grpc.CompressorCallOption{CompressorType: "gzip"}}}}, settings{compressor: "gzip"}},
		{"embedded AcceptCompressors", []grpc.CallOption{embedsInterface{experimental.AcceptCompressors("gzip")}}, settings{accept: []string{"gzip"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s settings
			require.NoError(t, s.applyAll(tt.opts))
			assert.Equal(t, tt.want, s)
		})
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	var s settings
	finish := grpc.OnFinish(func(error) {})
	err := s.applyAll([]grpc.CallOption{experimental.AcceptCompressors("nobody-registered-this"), finish})
	assert.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
	assert.True(t, s.finishers, "options after a wrong one count")

	err = (&settings{}).apply((*grpc.HeaderCallOption)(nil))
	assert.Equal(t, codes.Internal, status.Code(err), "%v", err)
	err = (&settings{}).apply(embedsInterface{})
	assert.Equal(t, codes.Internal, status.Code(err), "%v", err)
}

func TestOptionsAndMethodConfig(t *testing.T) {
	p := func(n int) *int { return &n }
	yes, no := true, false
	tests := []struct {
		name       string
		opts       []grpc.CallOption
		mc         serviceconfig.MethodConfig
		send, recv int
		wait       bool
	}{
		{"neither", nil, serviceconfig.MethodConfig{}, defaultMaxSend, defaultMaxRecv, false},
		{"config only", nil, serviceconfig.MethodConfig{MaxReqSize: p(3), MaxRespSize: p(4), WaitForReady: &yes}, 3, 4, true},
		{"config above the default", nil, serviceconfig.MethodConfig{MaxRespSize: p(8 << 20)}, defaultMaxSend, 8 << 20, false},
		{"options only", []grpc.CallOption{grpc.MaxCallSendMsgSize(5), grpc.MaxCallRecvMsgSize(6)}, serviceconfig.MethodConfig{}, 5, 6, false},
		{"the smaller of both", []grpc.CallOption{grpc.MaxCallSendMsgSize(5), grpc.MaxCallRecvMsgSize(6)}, serviceconfig.MethodConfig{MaxReqSize: p(9), MaxRespSize: p(2)}, 5, 2, false},
		{"the option on waiting wins", []grpc.CallOption{grpc.WaitForReady(false)}, serviceconfig.MethodConfig{WaitForReady: &yes}, defaultMaxSend, defaultMaxRecv, false},
		{"and the other way round", []grpc.CallOption{grpc.WaitForReady(true)}, serviceconfig.MethodConfig{WaitForReady: &no}, defaultMaxSend, defaultMaxRecv, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s settings
			require.NoError(t, s.applyAll(tt.opts))
			s.limits(&tt.mc)
			assert.Equal(t, tt.send, s.maxSend)
			assert.Equal(t, tt.recv, s.maxRecv)
			assert.Equal(t, tt.wait, s.waitForReady)
			assert.Equal(t, 256<<10, s.maxBuffer)
		})
	}
}

func TestCodecChoice(t *testing.T) {
	v1 := namedCodec{name: "ONE"}
	proto := encoding.GetCodecV2("proto")
	tests := []struct {
		name    string
		opts    []grpc.CallOption
		native  bool
		subtype string
		code    codes.Code
	}{
		{"default", nil, true, "", codes.OK},
		{"by content-subtype", []grpc.CallOption{grpc.CallContentSubtype("proto")}, true, "proto", codes.OK},
		{"unknown content-subtype", []grpc.CallOption{grpc.CallContentSubtype("nothing")}, false, "", codes.Internal},
		{"forced", []grpc.CallOption{grpc.ForceCodec(v1)}, false, "one", codes.OK},
		{"forced, with a content-subtype", []grpc.CallOption{grpc.ForceCodec(v1), grpc.CallContentSubtype("nothing")}, false, "nothing", codes.OK},
		{"forced protobuf", []grpc.CallOption{grpc.ForceCodecV2(proto)}, true, "proto", codes.OK},
		{"legacy", []grpc.CallOption{grpc.CallCustomCodec(legacyCodec{})}, false, "", codes.OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s settings
			require.NoError(t, s.applyAll(tt.opts))
			err := s.chooseCodec()
			require.Equal(t, tt.code, status.Code(err), "%v", err)
			if err == nil {
				assert.Equal(t, tt.native, s.codec.native)
				assert.Equal(t, tt.subtype, s.subtype)
			}
		})
	}
}
