package main

import (
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// shownTypes are the types for showing messages: one that no descriptor is known of is an
// opaqueType, so that an Any of it does not make the message around it one without a
// JSON form.
type shownTypes struct{ messageTypes }

func (t shownTypes) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if known, err := t.messageTypes.FindMessageByURL(url); err == nil {
		return known, nil
	}
	return opaqueType{}, nil
}

// opaqueType is the type of messages of which no more than their bytes is known. Their
// JSON form has these as "@value".
type opaqueType struct{}

// opaqueDescriptor is the descriptor of a message with one field.
var opaqueDescriptor = sync.OnceValue(func() protoreflect.MessageDescriptor {
	f, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("grpcdial/opaque.proto"), Package: proto.String("grpcdial"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Opaque"), Field: []*descriptorpb.FieldDescriptorProto{{
			Name: proto.String("value"), JsonName: proto.String("@value"), Number: proto.Int32(1),
			Type: descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}}}},
	}, nil)
	if err != nil {
		panic(err) // it depends on nothing
	}
	return f.Messages().Get(0)
})

func (opaqueType) New() protoreflect.Message                  { return newOpaque() }
func (opaqueType) Zero() protoreflect.Message                 { return newOpaque() }
func (opaqueType) Descriptor() protoreflect.MessageDescriptor { return opaqueDescriptor() }

// opaque is a message whose encoding is the value of its field.
type opaque struct{ *dynamicpb.Message }

func newOpaque() opaque { return opaque{dynamicpb.NewMessage(opaqueDescriptor())} }

func (o opaque) ProtoReflect() protoreflect.Message   { return o }
func (o opaque) Interface() protoreflect.ProtoMessage { return o }
func (o opaque) Type() protoreflect.MessageType       { return opaqueType{} }
func (o opaque) New() protoreflect.Message            { return newOpaque() }
func (o opaque) ProtoMethods() *protoiface.Methods {
	return &protoiface.Methods{Unmarshal: func(in protoiface.UnmarshalInput) (protoiface.UnmarshalOutput, error) {
		o.Set(opaqueDescriptor().Fields().Get(0), protoreflect.ValueOfBytes(append([]byte{}, in.Buf...)))
		return protoiface.UnmarshalOutput{Flags: protoiface.UnmarshalInitialized}, nil
	}}
}
