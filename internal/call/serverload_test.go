package call

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// TestServerLoad: the report is read once its message is known to the program.
// That it reaches policies is tested in the module compat, which has the message.
func TestServerLoad(t *testing.T) {
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name:    proto.String("xds/data/orca/v3/orca_load_report.proto"),
		Package: proto.String("xds.data.orca.v3"),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("OrcaLoadReport"),
			Field: []*descriptorpb.FieldDescriptorProto{{
				Name: proto.String("cpu_utilization"), Number: proto.Int32(1),
				Type:  descriptorpb.FieldDescriptorProto_TYPE_DOUBLE.Enum(),
				Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
			}},
		}},
	}, protoregistry.GlobalFiles)
	require.NoError(t, err)
	message := dynamicpb.NewMessageType(file.Messages().Get(0))
	cpu := message.Descriptor().Fields().Get(0)
	sent := message.New()
	sent.Set(cpu, protoreflect.ValueOfFloat64(0.5))
	wire, err := proto.Marshal(sent.Interface())
	require.NoError(t, err)
	trailer := metadata.Pairs(loadReportKey, string(wire))

	if _, err := protoregistry.GlobalTypes.FindMessageByName(loadReportName); err != nil { // else the test runs again
		assert.Nil(t, ServerLoad(trailer), "the program does not know the message")
		require.NoError(t, protoregistry.GlobalTypes.RegisterMessage(message))
	}
	report, ok := ServerLoad(trailer).(*dynamicpb.Message)
	require.True(t, ok)
	assert.Equal(t, 0.5, report.Get(report.Descriptor().Fields().Get(0)).Float())

	assert.Nil(t, ServerLoad(nil))
	assert.Nil(t, ServerLoad(metadata.Pairs("other", "x")))
	assert.Nil(t, ServerLoad(metadata.Pairs(loadReportKey, "\xff")), "not a message")
	assert.Nil(t, ServerLoad(metadata.Join(trailer, trailer)), "two reports")
}
