package main

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// reflects is a reflection service that answers as a test says.
type reflects struct {
	reflectionpb.UnimplementedServerReflectionServer
	answer func(*reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse
}

func (r reflects) ServerReflectionInfo(s reflectionpb.ServerReflection_ServerReflectionInfoServer) error {
	for {
		q, err := s.Recv()
		if err != nil {
			return nil
		}
		if err := s.Send(r.answer(q)); err != nil {
			return err
		}
	}
}

// reflecting starts a server whose reflection answers so; all its other methods are handle.
func reflecting(t *testing.T, answer func(*reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse, handle grpc.StreamHandler) *server {
	t.Helper()
	srv := &server{Server: grpc.NewServer(grpc.UnknownServiceHandler(handle))}
	reflectionpb.RegisterServerReflectionServer(srv, reflects{answer: answer})
	srv.start(t, "")
	return srv
}

// filesAnswer is a reflection service's answer with files.
func filesAnswer(t *testing.T, files ...*descriptorpb.FileDescriptorProto) *reflectionpb.ServerReflectionResponse {
	t.Helper()
	var all [][]byte
	for _, f := range files {
		b, err := proto.Marshal(f)
		assert.NoError(t, err)
		all = append(all, b)
	}
	return &reflectionpb.ServerReflectionResponse{MessageResponse: &reflectionpb.ServerReflectionResponse_FileDescriptorResponse{
		FileDescriptorResponse: &reflectionpb.FileDescriptorResponse{FileDescriptorProto: all},
	}}
}

// servicesAnswer is the answer to the question which services there are.
func servicesAnswer(names ...string) *reflectionpb.ServerReflectionResponse {
	list := &reflectionpb.ListServiceResponse{}
	for _, n := range names {
		list.Service = append(list.Service, &reflectionpb.ServiceResponse{Name: n})
	}
	return &reflectionpb.ServerReflectionResponse{MessageResponse: &reflectionpb.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: list}}
}

// TestHostileReflection: whatever a server answers to questions about itself, the command
// ends, says why, and sends nothing to the terminal that it obeys.
func TestHostileReflection(t *testing.T) {
	file := func(name string, imports ...string) *descriptorpb.FileDescriptorProto {
		return &descriptorpb.FileDescriptorProto{
			Name: proto.String(name), Package: proto.String("evil"), Syntax: proto.String("proto3"), Dependency: imports,
			MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M")}},
			Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S"), Method: []*descriptorpb.MethodDescriptorProto{
				{Name: proto.String("Do"), InputType: proto.String(".evil.M"), OutputType: proto.String(".evil.M")},
			}}},
		}
	}
	const evilName = "\x1b[31mevil\u202e.S"
	for name, tt := range map[string]struct {
		answer func(*reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse
		args   []string
		want   string // in standard error
	}{
		"a ring of imports": {
			func(q *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
				return filesAnswer(t, file("a.proto", "b.proto"), file("b.proto", "a.proto"))
			}, []string{"evil.S/Do"}, `"a.proto" imports itself`,
		},
		"an import that is missing": {
			func(q *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
				if q.GetFileByFilename() != "" {
					return &reflectionpb.ServerReflectionResponse{MessageResponse: &reflectionpb.ServerReflectionResponse_ErrorResponse{
						ErrorResponse: &reflectionpb.ErrorResponse{ErrorCode: int32(codes.NotFound), ErrorMessage: "\x1b[2J no"}}}
				}
				return filesAnswer(t, file("a.proto", "b.proto"))
			}, []string{"evil.S/Do"}, `"b.proto" is not there`,
		},
		"imports without end": {
			func(q *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
				n, _ := strconv.Atoi(q.GetFileByFilename())
				var all []*descriptorpb.FileDescriptorProto
				for i := n; i < n+500; i++ { // few answers, for a busy machine
					all = append(all, file(strconv.Itoa(i), strconv.Itoa(i+1)))
				}
				return filesAnswer(t, all...)
			}, []string{"evil.S/Do"}, "more than",
		},
		"another service": {
			func(*reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
				return filesAnswer(t, file("a.proto"))
			}, []string{"good.S/Do"}, `no descriptor of a service "good.S"`,
		},
		"an answer to something else": {
			func(*reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
				return servicesAnswer("x")
			}, []string{"evil.S/Do"}, "has no file",
		},
		"no descriptor": {
			func(*reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
				return &reflectionpb.ServerReflectionResponse{MessageResponse: &reflectionpb.ServerReflectionResponse_FileDescriptorResponse{
					FileDescriptorResponse: &reflectionpb.FileDescriptorResponse{FileDescriptorProto: [][]byte{[]byte("\xff\x1b[31m")}}}}
			}, []string{"evil.S/Do"}, "not valid",
		},
		"a name for the terminal": {
			func(q *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
				if q.GetFileContainingSymbol() != "" {
					return filesAnswer(t, file("a.proto"))
				}
				return servicesAnswer(evilName)
			}, nil, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := reflecting(t, tt.answer, func(any, grpc.ServerStream) error { return status.Error(codes.Unimplemented, "") })
			o := command(t, append([]string{"call", "--plaintext", "--timeout", "60", s.addr}, tt.args...)...)
			if tt.want != "" {
				assert.Equal(t, exitFailed, o.code)
			}
			assert.Contains(t, o.stderr, tt.want)
			assert.NotRegexp(t, obeyed, o.stdout+o.stderr)
		})
	}
}

// TestReflectionByTheAnswer: a server that ends the stream after each answer gets another
// one for the next question, as with grpcurl; one that ends it without an answer does not.
func TestReflectionByTheAnswer(t *testing.T) {
	s := newShop(t)
	for answers, want := range map[int]output{
		1: {exitOK, "shop.Shop/Get\nshop.Shop/List\nshop.Shop/Put\nshop.Shop/Chat\n", ""},
		0: {exitFailed, "", "grpcdial: it ended the stream without an answer\n"},
	} {
		srv := &server{Server: grpc.NewServer()}
		service := reflection.NewServerV1(reflection.ServerOptions{Services: withoutAbsent{s}, DescriptorResolver: s.files})
		reflectionpb.RegisterServerReflectionServer(srv, oneAnswer{service, answers})
		srv.start(t, "")
		assert.Equal(t, want, command(t, "call", "--plaintext", srv.addr))
	}
}

// oneAnswer ends each stream after some answers.
type oneAnswer struct {
	reflectionpb.ServerReflectionServer
	answers int
}

func (o oneAnswer) ServerReflectionInfo(s reflectionpb.ServerReflection_ServerReflectionInfoServer) error {
	return o.ServerReflectionServer.ServerReflectionInfo(&fewQuestions{s, o.answers})
}

type fewQuestions struct {
	reflectionpb.ServerReflection_ServerReflectionInfoServer
	left int
}

func (f *fewQuestions) Recv() (*reflectionpb.ServerReflectionRequest, error) {
	if f.left--; f.left < 0 {
		return nil, io.EOF
	}
	return f.ServerReflection_ServerReflectionInfoServer.Recv()
}

// obeyed is what a terminal or a reader of text obeys.
const obeyed = `[^\n\t\P{Cc}]|[\x{61c}\x{200e}\x{200f}\x{2028}-\x{202e}\x{2066}-\x{2069}]`

// TestExitCodeOfAnyStatus: an operating system keeps eight bits of an exit code, and a
// server may answer any status.
func TestExitCodeOfAnyStatus(t *testing.T) {
	shop := newShop(t)
	for code, want := range map[codes.Code]int{0: 0, 5: 69, 16: 80, 17: 81, 190: 254, 191: 255, 192: 255, 448: 255, 1 << 20: 255} {
		srv := &server{Server: grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			if code == codes.OK {
				return stream.SendMsg(shop.new("", 0))
			}
			return status.Error(code, "")
		}))}
		srv.start(t, "")
		o := command(t, "call", "--plaintext", "--protoset", shop.protoset(t), srv.addr, "shop.Shop/Get")
		assert.Equal(t, want, o.code, "%d", code)
	}
}

// TestLargeResponse: one larger than 4 MiB is refused, unless more is allowed.
func TestLargeResponse(t *testing.T) {
	shop := newShop(t)
	srv := &server{Server: grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		return stream.SendMsg(shop.new(strings.Repeat("x", 5<<20), 0))
	}))}
	srv.start(t, "")
	args := []string{"call", "--plaintext", "--protoset", shop.protoset(t), srv.addr, "shop.Shop/Get"}
	o := command(t, args...)
	assert.Equal(t, exitStatus+int(codes.ResourceExhausted), o.code)
	assert.Contains(t, o.stderr, "larger than max")
	o = command(t, append(args, "-max-time", "55", "-max-msg-sz", "6000000")...)
	assert.Equal(t, exitOK, o.code)
	assert.Greater(t, len(o.stdout), 5<<20)
	assert.Equal(t, exitUsage, command(t, append(args, "-max-msg-sz", "0")...).code)
}

// TestResponseWithUnknownAny: what the type of an Any is that no descriptor is known of is
// shown with its bytes, as in the details of a status, and the rest of the response as it is.
func TestResponseWithUnknownAny(t *testing.T) {
	f := &descriptorpb.FileDescriptorProto{
		Name: proto.String("box.proto"), Package: proto.String("box"), Syntax: proto.String("proto3"), Dependency: []string{"google/protobuf/any.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Box"), Field: []*descriptorpb.FieldDescriptorProto{
			{Name: proto.String("name"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()},
			{Name: proto.String("content"), Number: proto.Int32(2), Type: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(), TypeName: proto.String(".google.protobuf.Any"), Label: descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()},
		}}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Get"), InputType: proto.String(".box.Box"), OutputType: proto.String(".box.Box")},
		}}},
	}
	var unheard, response []byte
	unheard = protowire.AppendString(protowire.AppendTag(unheard, 1, protowire.BytesType), "type.googleapis.com/un.Heard")
	unheard = protowire.AppendBytes(protowire.AppendTag(unheard, 2, protowire.BytesType), []byte{0xff, 1, 2})
	response = protowire.AppendString(protowire.AppendTag(response, 1, protowire.BytesType), "a box")
	response = protowire.AppendBytes(protowire.AppendTag(response, 2, protowire.BytesType), unheard)
	s := reflecting(t, func(q *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		if q.GetFileContainingSymbol() == "box.S" {
			return filesAnswer(t, f)
		}
		return &reflectionpb.ServerReflectionResponse{MessageResponse: &reflectionpb.ServerReflectionResponse_ErrorResponse{
			ErrorResponse: &reflectionpb.ErrorResponse{ErrorCode: int32(codes.NotFound), ErrorMessage: "no"}}}
	}, func(_ any, stream grpc.ServerStream) error {
		m := &channelzpb.Address{} // any message will do: what is sent are bytes that it does not know
		if err := proto.Unmarshal(response, m); err != nil {
			m = &channelzpb.Address{}
			m.ProtoReflect().SetUnknown(response)
		}
		return stream.SendMsg(m)
	})
	o := command(t, "call", "--plaintext", s.addr, "box.S/Get")
	assert.Equal(t, output{0, `{
  "name": "a box",
  "content": [
    {
      "@type": "type.googleapis.com/un.Heard",
      "@value": "/wEC"
    }
  ]
}
`, ""}, o)
}

// TestInterruptedWhileReading: a command that waits for its standard input ends when it is
// stopped, as it does when it waits for the server.
func TestInterruptedWhileReading(t *testing.T) {
	s := newShop(t).open(t, stable)
	for _, args := range [][]string{{"call", "--timeout", "60"}, {"load", "--timeout", "60"}} {
		stdin, typed := io.Pipe()
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		ended := make(chan output, 1)
		go func() {
			var out, err bytes.Buffer
			code := run(ctx, append(args, "--plaintext", "-d", "@", s.addr, "shop.Shop/Get"), stdin, &out, &err)
			ended <- output{code, out.String(), err.String()}
		}()
		_, err := io.WriteString(typed, `{"id":`) // it is being read
		require.NoError(t, err)
		stop()
		o := <-ended
		assert.Equal(t, exitFailed, o.code)
		assert.Contains(t, o.stderr, "--data")
		require.NoError(t, typed.Close()) // what reads it ends too
	}
}

// TestHostileChannelz: channels that are nested in themselves, and many that are nested in
// each of several.
func TestHostileChannelz(t *testing.T) {
	c := func(id int64, nested ...int64) *channelzpb.Channel {
		ch := &channelzpb.Channel{Ref: &channelzpb.ChannelRef{ChannelId: id}, Data: &channelzpb.ChannelData{Target: "t"}}
		for _, n := range nested {
			ch.ChannelRef = append(ch.ChannelRef, &channelzpb.ChannelRef{ChannelId: n})
		}
		return ch
	}
	b := &serverData{channels: map[int64]*channelzpb.Channel{1: c(1, 2), 2: c(2, 1, 2, 3)}}
	for i := int64(3); i < 100; i++ {
		b.channels[i] = c(i, i+1, i+1)
	}
	b.top = []*channelzpb.Channel{b.channels[1]}
	w := treeWriter{serverData: b}
	assert.Equal(t, 99, bytes.Count([]byte(w.text()), []byte("channel ")))
}
