package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalphapb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
)

// A service that no generated code is linked for: what the command knows of it comes from
// the server or from a file.
const (
	moneyProto = `name: "shop/money.proto" package: "shop" syntax: "proto3"
		message_type { name: "Money" field { name: "cents" number: 1 type: TYPE_INT64 label: LABEL_OPTIONAL json_name: "cents" } }`
	shopProto = `name: "shop/shop.proto" package: "shop" syntax: "proto3" dependency: "shop/money.proto" dependency: "google/protobuf/timestamp.proto"
		message_type { name: "Order"
			field { name: "id" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "id" }
			field { name: "price" number: 2 type: TYPE_MESSAGE type_name: ".shop.Money" label: LABEL_OPTIONAL json_name: "price" }
			field { name: "placed_at" number: 3 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL json_name: "placedAt" } }
		message_type { name: "Trouble" field { name: "reason" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "reason" } }
		service { name: "Shop"
			method { name: "Get" input_type: ".shop.Order" output_type: ".shop.Order" }
			method { name: "List" input_type: ".shop.Order" output_type: ".shop.Order" server_streaming: true }
			method { name: "Put" input_type: ".shop.Order" output_type: ".shop.Order" client_streaming: true }
			method { name: "Chat" input_type: ".shop.Order" output_type: ".shop.Order" client_streaming: true server_streaming: true } }`
)

// shop is the service.
type shop struct {
	set   *descriptorpb.FileDescriptorSet
	files *protoregistry.Files
	order protoreflect.MessageDescriptor
}

func newShop(t *testing.T) *shop {
	t.Helper()
	timestamps, err := protoregistry.GlobalFiles.FindFileByPath("google/protobuf/timestamp.proto")
	require.NoError(t, err)
	s := &shop{set: &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(timestamps)}}}
	for _, source := range []string{moneyProto, shopProto} {
		f := &descriptorpb.FileDescriptorProto{}
		require.NoError(t, prototext.Unmarshal([]byte(source), f))
		s.set.File = append(s.set.File, f)
	}
	s.files, err = protodesc.NewFiles(s.set)
	require.NoError(t, err)
	d, err := s.files.FindDescriptorByName("shop.Order")
	require.NoError(t, err)
	s.order = d.(protoreflect.MessageDescriptor)
	return s
}

// GetServiceInfo makes the service one that reflection lists.
func (s *shop) GetServiceInfo() map[string]grpc.ServiceInfo {
	return map[string]grpc.ServiceInfo{"shop.Shop": {}, "shop.Absent": {}}
}

// The reflection that a shop has.
const (
	noReflection = iota
	stable
	alphaOnly
)

// open serves the shop.
func (s *shop) open(t *testing.T, kind int) *server {
	t.Helper()
	srv := &server{Server: grpc.NewServer(grpc.UnknownServiceHandler(s.handle))}
	options := reflection.ServerOptions{Services: withoutAbsent{s}, DescriptorResolver: s.files}
	switch kind {
	case stable:
		reflectionpb.RegisterServerReflectionServer(srv, reflection.NewServerV1(options))
	case alphaOnly:
		reflectionalphapb.RegisterServerReflectionServer(srv, reflection.NewServer(options)) // deprecated; old servers have it alone
	}
	srv.start(t, "")
	return srv
}

type withoutAbsent struct{ *shop }

func (s withoutAbsent) GetServiceInfo() map[string]grpc.ServiceInfo {
	return map[string]grpc.ServiceInfo{"shop.Shop": {}}
}

// protoset writes the descriptors to a file.
func (s *shop) protoset(t *testing.T) string {
	t.Helper()
	b, err := proto.Marshal(s.set)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "shop.protoset")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

func (s *shop) new(id string, cents int64) *dynamicpb.Message {
	m := dynamicpb.NewMessage(s.order)
	m.Set(s.order.Fields().ByName("id"), protoreflect.ValueOfString(id))
	price := m.Mutable(s.order.Fields().ByName("price")).Message()
	price.Set(price.Descriptor().Fields().ByName("cents"), protoreflect.ValueOfInt64(cents))
	return m
}

func (s *shop) id(m *dynamicpb.Message) string { return m.Get(s.order.Fields().ByName("id")).String() }

// handle is all methods. Get answers with the order, and with the metadata x-echo as a header
// and as the trailer x-echo-bin; the order "gone" is NOT_FOUND with a detail. List answers
// with three, Put with the number of orders, Chat with each.
func (s *shop) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	if !strings.HasPrefix(method, "/shop.Shop/") {
		return status.Error(codes.Unimplemented, "this is a shop")
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	if echo := md.Get("x-echo"); len(echo) > 0 {
		_ = stream.SetHeader(metadata.MD{"x-echo": echo})
		stream.SetTrailer(metadata.MD{"x-echo-bin": echo})
	}
	n := 0
	for {
		m := dynamicpb.NewMessage(s.order)
		if err := stream.RecvMsg(m); err == io.EOF {
			if method == "/shop.Shop/Put" {
				return stream.SendMsg(s.new(fmt.Sprint(n, " orders"), 0))
			}
			return nil
		} else if err != nil {
			return err
		}
		n++
		switch method {
		case "/shop.Shop/Get":
			return s.get(stream, m)
		case "/shop.Shop/List":
			for i := range 3 {
				if err := stream.SendMsg(s.new(fmt.Sprint(s.id(m), i), int64(i))); err != nil {
					return err
				}
			}
			return nil
		case "/shop.Shop/Chat":
			if err := stream.SendMsg(m); err != nil {
				return err
			}
		}
	}
}

func (s *shop) get(stream grpc.ServerStream, m *dynamicpb.Message) error {
	switch s.id(m) {
	case "gone":
		d, err := s.files.FindDescriptorByName("shop.Trouble")
		if err != nil {
			return err
		}
		trouble := dynamicpb.NewMessage(d.(protoreflect.MessageDescriptor))
		trouble.Set(trouble.Descriptor().Fields().ByName("reason"), protoreflect.ValueOfString("sold"))
		b, err := proto.Marshal(trouble)
		if err != nil {
			return err
		}
		st := status.New(codes.NotFound, "no order \"gone\"").Proto()
		st.Details = []*anypb.Any{{TypeUrl: "type.googleapis.com/shop.Trouble", Value: b}, {TypeUrl: "type.googleapis.com/shop.Unheard", Value: []byte{1, 2}}}
		return status.ErrorProto(st)
	case "slow":
		<-stream.Context().Done()
		return context.Cause(stream.Context())
	}
	return stream.SendMsg(m)
}
