package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// zooProtos have one of each kind of element.
var zooProtos = []string{`name: "zoo/zoo.proto" package: "zoo" syntax: "proto3"
	message_type { name: "Animal"
		field { name: "legs" number: 7 type: TYPE_INT32 label: LABEL_OPTIONAL options { deprecated: true } }
		field { name: "first_name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "firstName" }
		field { name: "last_name" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "surname" }
		field { name: "age" number: 3 type: TYPE_UINT64 label: LABEL_OPTIONAL proto3_optional: true oneof_index: 1 }
		field { name: "fur" number: 4 type: TYPE_ENUM type_name: ".zoo.Animal.Colour" label: LABEL_OPTIONAL oneof_index: 0 }
		field { name: "scales" number: 6 type: TYPE_BYTES label: LABEL_OPTIONAL oneof_index: 0 }
		field { name: "young" number: 5 type: TYPE_MESSAGE type_name: ".zoo.Animal" label: LABEL_REPEATED }
		field { name: "weights" number: 8 type: TYPE_MESSAGE type_name: ".zoo.Animal.WeightsEntry" label: LABEL_REPEATED }
		oneof_decl { name: "coat" } oneof_decl { name: "_age" }
		nested_type { name: "WeightsEntry" options { map_entry: true }
			field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } field { name: "value" number: 2 type: TYPE_DOUBLE label: LABEL_OPTIONAL } }
		nested_type { name: "Empty" options { deprecated: true } }
		enum_type { name: "Colour" options { allow_alias: true }
			value { name: "NONE" number: 0 } value { name: "GREY" number: 1 } value { name: "GRAY" number: 1 options { deprecated: true } }
			reserved_range { start: 5 end: 5 } reserved_range { start: 7 end: 9 } reserved_name: "BLUE" }
		reserved_range { start: 10 end: 11 } reserved_range { start: 20 end: 536870912 } reserved_name: "gills" }
	service { name: "Zoo"
		method { name: "Walk" input_type: ".zoo.Animal" output_type: ".zoo.Animal" client_streaming: true server_streaming: true }
		method { name: "Feed" input_type: ".zoo.Animal" output_type: ".zoo.Animal" options { deprecated: true } } }
	service { name: "Closed" }`,
	`name: "zoo/old.proto" package: "zoo.old" syntax: "proto2"
	message_type { name: "Cage"
		field { name: "number" number: 1 type: TYPE_INT32 label: LABEL_REQUIRED }
		field { name: "keeper" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL default_value: "no\nbody" }
		field { name: "kind" number: 3 type: TYPE_ENUM type_name: ".zoo.old.Kind" label: LABEL_OPTIONAL default_value: "CAGE" }
		field { name: "door" number: 4 type: TYPE_GROUP type_name: ".zoo.old.Cage.Door" label: LABEL_REPEATED }
		nested_type { name: "Door" field { name: "open" number: 5 type: TYPE_BOOL label: LABEL_OPTIONAL default_value: "true" } }
		extension_range { start: 100 end: 200 } }
	enum_type { name: "Kind" value { name: "TANK" number: -1 } value { name: "CAGE" number: 2 } }
	service { name: "Cages" method { name: "Clean" input_type: ".zoo.old.Cage" output_type: ".zoo.old.Cage" } }
	extension { name: "bars" number: 100 type: TYPE_INT32 label: LABEL_OPTIONAL extendee: ".zoo.old.Cage" }`}

// zoo writes the files to one for --protoset.
func zoo(t *testing.T) string {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	for _, source := range zooProtos {
		f := &descriptorpb.FileDescriptorProto{}
		require.NoError(t, prototext.Unmarshal([]byte(source), f))
		set.File = append(set.File, f)
	}
	b, err := proto.Marshal(set)
	require.NoError(t, err)
	return file(t, "zoo.protoset", b)
}

// TestDescribe: what there is, by reflection and by a file, in grpcurl's form.
func TestDescribe(t *testing.T) {
	s := newShop(t).open(t, stable)
	served := []string{"--plaintext", s.addr}
	filed := []string{"--protoset", zoo(t)}
	for name, args := range map[string][]string{
		"list":                    append([]string{"list"}, served...),
		"list-service":            append([]string{"list"}, append(served, "shop.Shop")...),
		"list-message":            append([]string{"list"}, append(served, "shop.Order")...),
		"list-json":               append([]string{"list", "--json"}, served...),
		"list-service-json":       append([]string{"list", "--json"}, append(served, "shop.Shop")...),
		"list-no-such-service":    append([]string{"list"}, append(served, "shop.Store")...),
		"list-file":               append([]string{"list"}, filed...),
		"list-file-closed":        append([]string{"list"}, append(filed, "zoo.Closed")...),
		"describe":                append([]string{"describe"}, served...),
		"describe-message":        append([]string{"describe"}, append(served, "shop.Order")...),
		"describe-method":         append([]string{"describe"}, append(served, "shop.Shop/Chat")...),
		"describe-field":          append([]string{"describe"}, append(served, ".shop.Order.placed_at")...),
		"describe-imported":       append([]string{"describe"}, append(served, "google.protobuf.Timestamp")...),
		"describe-no-such-symbol": append([]string{"describe"}, append(served, "shop.Order.nothing")...),
		"describe-no-symbol":      append([]string{"describe"}, append(served, "\x1b[31m")...),
		"describe-json":           append([]string{"describe", "--json"}, append(served, "shop.Money")...),
		"describe-file":           append([]string{"describe"}, filed...),
		"describe-file-message":   append([]string{"describe"}, append(filed, "zoo.Animal")...),
		"describe-file-oneof":     append([]string{"describe"}, append(filed, "zoo.Animal.coat")...),
		"describe-file-value":     append([]string{"describe"}, append(filed, "zoo.Animal.GRAY")...),
		"describe-file-proto2":    append([]string{"describe"}, append(filed, "zoo.old.Cage")...),
		"describe-file-enum":      append([]string{"describe"}, append(filed, "zoo.old.Kind")...),
		"describe-file-extension": append([]string{"describe"}, append(filed, "zoo.old.bars")...),
	} {
		t.Run(name, func(t *testing.T) {
			assertGolden(t, name, command(t, args...).golden())
		})
	}
}

// TestDescribeUsage: which words there may be.
func TestDescribeUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"no target":                     {"list"},
		`what is "c"`:                   {"describe", "a:1", "b", "c"},
		`what is "a:1"? With --protose`: {"list", "a:1", "b", "--protoset", "x"},
		"list has no flag --data":       {"list", "a:1", "-d", "{}"},
		"no such file":                  {"describe", "--protoset", "/no/such/file"},
		"required field zoo.old.Cage":   {"call", "--plaintext", "--protoset", zoo(t), serveNothing(t).addr, "zoo.old.Cages/Clean"},
	} {
		o := command(t, args...)
		assert.Equal(t, exitUsage, o.code, want)
		assert.Contains(t, o.stderr, want)
	}
	o := command(t, "list", "--plaintext", "127.0.0.1:1")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "nothing listens there")
	s := newShop(t).open(t, noReflection)
	o = command(t, "describe", "--plaintext", s.addr)
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "--protoset FILE")
}

// TestListOfAHostileServer: names do nothing to a terminal, and a service that has no
// descriptor does not hide the others.
func TestListOfAHostileServer(t *testing.T) {
	s := reflecting(t, func(*reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		return servicesAnswer("b.S", "\x1b[2Ja\u202e\n.S")
	}, func(any, grpc.ServerStream) error { return status.Error(codes.Unimplemented, "") })
	o := command(t, "list", "--plaintext", s.addr)
	assert.Equal(t, exitOK, o.code)
	assert.Equal(t, "b.S\n\ufffd[2Ja\ufffd .S\n", o.stdout)
	assert.NotRegexp(t, obeyed, o.stdout)
	var got jsonServices
	require.NoError(t, json.Unmarshal([]byte(command(t, "list", "--plaintext", "--json", s.addr).stdout), &got))
	assert.Len(t, got.Services, 2)
	o = command(t, "describe", "--plaintext", s.addr)
	assert.Equal(t, exitFailed, o.code)
	assert.NotRegexp(t, obeyed, o.stdout+o.stderr)
}
