package call

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoimpl"
)

// bulkFrom is the length from which on a field is not copied. For shorter ones the copy costs
// no more than what is done in its place.
const bulkFrom = 128 << 10

// bulkOf returns the field of m that takes up most of its size bytes, is of type bytes, and ends
// the encoded message: a part of a file, a picture. nil: there is none.
func bulkOf(m protoreflect.Message, size int) protoreflect.FieldDescriptor {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() != protoreflect.BytesKind || f.IsList() || !m.Has(f) {
			continue
		}
		if n := len(m.Get(f).Bytes()); n >= max(bulkFrom, size/2) && isLast(m, f) {
			return f
		}
	}
	return nil
}

// isLast reports whether nothing follows field last of m where protobuf's Go library encodes m: it
// writes extensions, fields by their numbers, those of oneofs, and what it does not know.
func isLast(m protoreflect.Message, last protoreflect.FieldDescriptor) bool {
	if len(m.GetUnknown()) > 0 {
		return false
	}
	oneof := oneofOf(last)
	is := true
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		switch of := oneofOf(f); {
		case f.IsExtension():
		case of != nil && oneof != nil:
			is = of.Index() <= oneof.Index()
		case of != nil || oneof != nil:
			is = of == nil
		default:
			is = f.Number() <= last.Number()
		}
		return is
	})
	return is
}

// oneofOf returns the oneof that f is in, but for the one that stands for proto3's "optional".
func oneofOf(f protoreflect.FieldDescriptor) protoreflect.OneofDescriptor {
	if of := f.ContainingOneof(); of != nil && !of.IsSynthetic() {
		return of
	}
	return nil
}

// encodeBulk encodes a message of size bytes but for the value of its bulk, which stays where the
// program has it: the connection writes it from there. ok is false if the message has none.
//
// The protobuf library has no way to encode a part of a message, so a second one is made that has
// all other fields of the first. As the bulk is the last field, the bytes are those that the
// library makes of the whole message: programs compare them, though protobuf promises no order.
func encodeBulk(m protoreflect.Message, size int) (f frame, ok bool, err error) {
	if _, generated := m.Type().(*protoimpl.MessageInfo); !generated {
		return frame{}, false, nil // other implementations need not share the values of fields
	}
	bulk := bulkOf(m, size)
	if bulk == nil {
		return frame{}, false, nil
	}
	if err := proto.CheckInitialized(m.Interface()); err != nil {
		return frame{}, true, marshalError(err)
	}
	others := m.New()
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Number() != bulk.Number() {
			others.Set(f, v)
		}
		return true
	})
	value := m.Get(bulk).Bytes()
	buf := getBytes(prefixLen + size - len(value))
	b, err := proto.MarshalOptions{AllowPartial: true}.MarshalAppend((*buf)[:prefixLen], others.Interface())
	if err != nil {
		putBytes(buf)
		return frame{}, true, marshalError(err)
	}
	b = protowire.AppendTag(b, bulk.Number(), protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(value)))
	*buf = b
	seal(b, len(value), false)
	return frame{buf: buf, bulk: &value}, true, nil
}
