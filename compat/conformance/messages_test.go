package conformance

import (
	"context"
	"encoding/binary"
	"io"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// descriptors are those of the suite's protocol: of what its runner and a client under test say
// to each other, and of the service that the client calls.
type descriptors struct {
	request, response protoreflect.MessageDescriptor
	service           protoreflect.ServiceDescriptor
	types             *dynamicpb.Types // of all messages, for what is in an Any
}

// compileProtocol compiles the .proto files of the suite, whose source is in the directory. The
// suite exports no Go code for them.
func compileProtocol(ctx context.Context, directory string) (descriptors, error) {
	const at = "connectrpc/conformance/v1/"
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
		ImportPaths: []string{filepath.Join(directory, "proto")},
	})}
	files, err := compiler.Compile(ctx, at+"client_compat.proto", at+"service.proto")
	if err != nil {
		return descriptors{}, err
	}
	registry := new(protoregistry.Files)
	for _, f := range files {
		if err := registry.RegisterFile(f); err != nil {
			return descriptors{}, err
		}
	}
	messages := files[0].Messages()
	return descriptors{
		request:  messages.ByName("ClientCompatRequest"),
		response: messages.ByName("ClientCompatResponse"),
		service:  files[1].Services().ByName("ConformanceService"),
		types:    dynamicpb.NewTypes(registry),
	}, nil
}

// message gives access to the fields of a message by their names. A name that the message does
// not have panics: the suite's version is pinned.
type message struct{ protoreflect.Message }

func newMessage(d protoreflect.MessageDescriptor) message { return message{dynamicpb.NewMessage(d)} }

func (m message) field(name protoreflect.Name) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(name)
}

func (m message) has(name protoreflect.Name) bool               { return m.Has(m.field(name)) }
func (m message) get(name protoreflect.Name) protoreflect.Value { return m.Get(m.field(name)) }
func (m message) text(name protoreflect.Name) string            { return m.get(name).String() }
func (m message) number(name protoreflect.Name) int             { return int(m.get(name).Uint()) }
func (m message) bytes(name protoreflect.Name) []byte           { return m.get(name).Bytes() }

// enum is the name of an enum's value.
func (m message) enum(name protoreflect.Name) string {
	return string(m.field(name).Enum().Values().ByNumber(m.get(name).Enum()).Name())
}

func (m message) child(name protoreflect.Name) message { return message{m.get(name).Message()} }

// children returns the messages of a repeated field.
func (m message) children(name protoreflect.Name) []message {
	list := m.get(name).List()
	all := make([]message, list.Len())
	for i := range all {
		all[i] = message{list.Get(i).Message()}
	}
	return all
}

// texts returns the strings of a repeated field.
func (m message) texts(name protoreflect.Name) []string {
	list := m.get(name).List()
	all := make([]string, list.Len())
	for i := range all {
		all[i] = list.Get(i).String()
	}
	return all
}

func (m message) set(name protoreflect.Name, value any) {
	m.Set(m.field(name), protoreflect.ValueOf(value))
}

// make returns the message of a field, which is set from then on.
func (m message) make(name protoreflect.Name) message {
	return message{m.Mutable(m.field(name)).Message()}
}

// add appends a value to a repeated field.
func (m message) add(name protoreflect.Name, value any) {
	m.Mutable(m.field(name)).List().Append(protoreflect.ValueOf(value))
}

// addNew appends an empty message to a repeated field and returns it.
func (m message) addNew(name protoreflect.Name) message {
	return message{m.Mutable(m.field(name)).List().AppendMutable().Message()}
}

// readMessage reads a message as the runner writes it: its length in four bytes, then itself.
// At the end of the input it returns io.EOF.
func readMessage(in io.Reader, m message) error {
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return err
	}
	encoded := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(in, encoded); err != nil {
		return err
	}
	return proto.Unmarshal(encoded, m.Interface())
}

// writeMessage writes a message as the runner reads it.
func writeMessage(out io.Writer, m message) error {
	encoded, err := proto.Marshal(m.Interface())
	if err != nil {
		return err
	}
	_, err = out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(encoded))), encoded...))
	return err
}
