package call

import (
	"reflect"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// The limits of an RPC that no option sets, as in grpc-go.
const (
	defaultMaxRecv   = 4 << 20
	defaultMaxSend   = 1<<31 - 1
	defaultMaxBuffer = 256 << 10 // what is kept for retries
)

// settings is what the call options of one RPC say. Copies share nothing that
// is written to.
type settings struct {
	waitForReady, waitSet bool
	collects              bool // there is a Header, Trailer or Peer option
	finishers             bool // there is an OnFinish option
	recvSet, sendSet      bool
	bufferSet             bool

	maxRecv, maxSend, maxBuffer int

	creds      credentials.PerRPCCredentials
	compressor string // UseCompressor
	subtype    string // content-subtype, lower case
	authority  string // CallAuthority
	codec      codec
	accept     []string // AcceptCompressors; nil: all
}

func (s *settings) applyAll(opts []grpc.CallOption) error {
	var first error
	for _, o := range opts {
		// All of them, so that OnFinish runs though another option is wrong.
		if err := s.apply(o); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// apply lets one option have its say; the last one wins.
func (s *settings) apply(o grpc.CallOption) error {
	switch o := o.(type) {
	case nil, grpc.EmptyCallOption, grpc.StaticMethodCallOption:
	case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption:
		s.collects = true
	case grpc.OnFinishCallOption:
		s.finishers = true
	case grpc.FailFastCallOption:
		s.waitForReady, s.waitSet = !o.FailFast, true
	case grpc.MaxRecvMsgSizeCallOption:
		s.maxRecv, s.recvSet = o.MaxRecvMsgSize, true
	case grpc.MaxSendMsgSizeCallOption:
		s.maxSend, s.sendSet = o.MaxSendMsgSize, true
	case grpc.MaxRetryRPCBufferSizeCallOption:
		s.maxBuffer, s.bufferSet = o.MaxRetryRPCBufferSize, true
	case grpc.PerRPCCredsCallOption:
		s.creds = o.Creds
	case grpc.CompressorCallOption:
		s.compressor = o.CompressorType
	case grpc.ContentSubtypeCallOption:
		s.subtype = o.ContentSubtype
	case grpc.AuthorityOverrideCallOption:
		s.authority = o.Authority
	case grpc.ForceCodecCallOption:
		if o.Codec == nil {
			return status.Error(codes.Internal, "ForceCodec: the codec is nil")
		}
		s.codec = codec{v1: o.Codec, name: o.Codec.Name()}
	case grpc.ForceCodecV2CallOption:
		if s.codec = (codec{}); o.CodecV2 != nil { // nil: the default, as with grpc-go
			s.codec = codecOf(o.CodecV2)
		}
	case grpc.CustomCodecCallOption:
		s.codec = codec{v1: o.Codec}
	case acceptOption:
		return s.applyAccept(o.names)
	default:
		inner := plainOption(o)
		if inner == nil {
			return status.Errorf(codes.Internal, "call option %T is not supported", o)
		}
		return s.apply(inner)
	}
	return nil
}

// applyAccept takes the names of registered compressors, as grpc-go does: no
// names, or none but identity, means no restriction.
func (s *settings) applyAccept(names []string) error {
	var accept []string
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		name = strings.TrimSpace(name)
		if name == "" || name == encoding.Identity || seen[name] {
			continue
		}
		if encoding.GetCompressor(name) == nil {
			return status.Errorf(codes.InvalidArgument, "AcceptCompressors: no compressor %q is registered", name)
		}
		seen[name] = true
		accept = append(accept, name)
	}
	s.accept = accept
	return nil
}

// acceptOption stands for the option of experimental.AcceptCompressors, whose
// type grpc-go does not export.
type acceptOption struct {
	grpc.EmptyCallOption
	names []string
}

var callOptionType = reflect.TypeFor[grpc.CallOption]()

// plainOption returns the exported option struct that o points to or embeds, as
// method promotion finds it: the methods of CallOption are not exported, so
// that whatever implements it does so through one of grpc-go's own types. nil if
// there is none that is known. This is the slow path of options written otherwise.
func plainOption(o grpc.CallOption) grpc.CallOption {
	v := reflect.ValueOf(o)
	for level := []reflect.Value{v}; len(level) > 0; {
		var next []reflect.Value
		for _, v := range level {
			for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
				if v.IsNil() {
					return nil
				}
				v = v.Elem()
			}
			if v.Kind() != reflect.Struct {
				continue
			}
			t := v.Type()
			if t.PkgPath() == callOptionType.PkgPath() {
				if t.Name() == "acceptCompressorsCallOption" {
					return acceptOption{names: stringsOf(v)}
				}
				if exact, ok := exactOption(v); ok {
					return exact
				}
			}
			for i := range t.NumField() {
				// Promotion takes the methods of the shallowest embedded type that has them.
				if f := t.Field(i); f.Anonymous && (f.Type.Implements(callOptionType) || reflect.PointerTo(f.Type).Implements(callOptionType)) {
					next = append(next, v.Field(i))
				}
			}
		}
		level = next
	}
	return nil
}

// exactOption returns the value of one of grpc-go's exported option structs.
func exactOption(v reflect.Value) (grpc.CallOption, bool) {
	if !v.CanInterface() {
		return nil, false
	}
	switch o := v.Interface().(type) {
	case grpc.EmptyCallOption, grpc.StaticMethodCallOption, grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption,
		grpc.OnFinishCallOption, grpc.FailFastCallOption, grpc.MaxRecvMsgSizeCallOption, grpc.MaxSendMsgSizeCallOption,
		grpc.MaxRetryRPCBufferSizeCallOption, grpc.PerRPCCredsCallOption, grpc.CompressorCallOption, grpc.ContentSubtypeCallOption,
		grpc.AuthorityOverrideCallOption, grpc.ForceCodecCallOption, grpc.ForceCodecV2CallOption, grpc.CustomCodecCallOption:
		return o.(grpc.CallOption), true
	}
	return nil, false
}

// stringsOf reads the one field of a struct, a []string that is not exported.
func stringsOf(v reflect.Value) []string {
	if v.NumField() != 1 || v.Field(0).Type() != reflect.TypeFor[[]string]() {
		return nil
	}
	out := make([]string, v.Field(0).Len())
	for i := range out {
		out[i] = v.Field(0).Index(i).String()
	}
	return out
}

// limits combines the options with the method's config: of two sizes the smaller counts.
func (s *settings) limits(mc *serviceconfig.MethodConfig) {
	s.maxSend = smaller(s.maxSend, s.sendSet, mc.MaxReqSize, defaultMaxSend)
	s.maxRecv = smaller(s.maxRecv, s.recvSet, mc.MaxRespSize, defaultMaxRecv)
	if !s.bufferSet {
		s.maxBuffer = defaultMaxBuffer
	}
	if !s.waitSet && mc.WaitForReady != nil {
		s.waitForReady = *mc.WaitForReady
	}
}

func smaller(option int, optionSet bool, config *int, otherwise int) int {
	switch {
	case optionSet && config != nil:
		return min(option, *config)
	case optionSet:
		return option
	case config != nil:
		return *config
	}
	return otherwise
}
