package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// sourceOf is a descriptor as source of protoc, with full names, methods in the order of
// their names and fields in that of their numbers. It has no comments: servers do not give
// any.
func sourceOf(d protoreflect.Descriptor) string {
	w := &sourceWriter{}
	switch d := d.(type) {
	case protoreflect.ServiceDescriptor:
		w.service(d)
	case protoreflect.MethodDescriptor:
		w.method(d)
	case protoreflect.MessageDescriptor:
		w.message(d)
	case protoreflect.FieldDescriptor:
		if d.IsExtension() {
			w.extend([]protoreflect.FieldDescriptor{d})
		} else {
			w.field(d)
		}
	case protoreflect.OneofDescriptor:
		w.oneof(d)
	case protoreflect.EnumDescriptor:
		w.enum(d)
	case protoreflect.EnumValueDescriptor:
		w.enumValue(d)
	}
	return w.String()
}

// sourceWriter writes lines, each indented by how many blocks it is in.
type sourceWriter struct {
	strings.Builder
	indent string
}

func (w *sourceWriter) line(format string, args ...any) {
	w.WriteString(w.indent + fmt.Sprintf(format, args...) + "\n")
}

// block writes head, what body writes, and the end of the block.
func (w *sourceWriter) block(head string, body func()) {
	w.line("%s {", head)
	outer := w.indent
	w.indent += "  "
	body()
	w.indent = outer
	w.line("}")
}

// deprecated writes the option of an element that has it.
func (w *sourceWriter) deprecated(options interface{ GetDeprecated() bool }) {
	if options.GetDeprecated() {
		w.line("option deprecated = true;")
	}
}

func (w *sourceWriter) service(s protoreflect.ServiceDescriptor) {
	w.block("service "+string(s.Name()), func() {
		w.deprecated(s.Options().(*descriptorpb.ServiceOptions))
		var all []protoreflect.MethodDescriptor
		for i := range s.Methods().Len() {
			all = append(all, s.Methods().Get(i))
		}
		slices.SortFunc(all, func(a, b protoreflect.MethodDescriptor) int { return cmp.Compare(a.Name(), b.Name()) })
		for _, m := range all {
			w.method(m)
		}
	})
}

func (w *sourceWriter) method(m protoreflect.MethodDescriptor) {
	of := func(d protoreflect.MessageDescriptor, streams bool) string {
		if streams {
			return "stream ." + string(d.FullName())
		}
		return "." + string(d.FullName())
	}
	head := fmt.Sprintf("rpc %s ( %s ) returns ( %s )", m.Name(), of(m.Input(), m.IsStreamingClient()), of(m.Output(), m.IsStreamingServer()))
	options := m.Options().(*descriptorpb.MethodOptions)
	if !options.GetDeprecated() {
		w.line("%s;", head)
		return
	}
	w.block(head, func() { w.deprecated(options) })
}

func (w *sourceWriter) message(m protoreflect.MessageDescriptor) {
	w.block("message "+string(m.Name()), func() { w.messageBody(m) })
}

func (w *sourceWriter) messageBody(m protoreflect.MessageDescriptor) {
	w.deprecated(m.Options().(*descriptorpb.MessageOptions))
	for _, f := range byNumber(m.Fields()) {
		if o := f.ContainingOneof(); o == nil || o.IsSynthetic() {
			w.field(f)
		} else if o.Fields().Get(0) == f {
			w.oneof(o)
		}
	}
	for i := range m.Messages().Len() {
		if nested := m.Messages().Get(i); !nested.IsMapEntry() && !isGroup(m, nested) {
			w.message(nested)
		}
	}
	for i := range m.Enums().Len() {
		w.enum(m.Enums().Get(i))
	}
	w.extensions(m.Extensions())
	for i := range m.ExtensionRanges().Len() {
		w.line("extensions %s;", numbers(m.ExtensionRanges().Get(i)))
	}
	for i := range m.ReservedRanges().Len() {
		w.line("reserved %s;", numbers(m.ReservedRanges().Get(i)))
	}
	w.reservedNames(m.ReservedNames())
}

func byNumber(of protoreflect.FieldDescriptors) (all []protoreflect.FieldDescriptor) {
	for i := range of.Len() {
		all = append(all, of.Get(i))
	}
	slices.SortFunc(all, func(a, b protoreflect.FieldDescriptor) int { return cmp.Compare(a.Number(), b.Number()) })
	return all
}

// isGroup reports whether nested is the type of a group of m's, which is written where the
// field is.
func isGroup(m, nested protoreflect.MessageDescriptor) bool {
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); f.Kind() == protoreflect.GroupKind && f.Message() == nested && m.Syntax() == protoreflect.Proto2 {
			return true
		}
	}
	return false
}

// numbers is a range of field numbers; end is not in it.
func numbers(r [2]protoreflect.FieldNumber) string {
	const most = 1<<29 - 1
	first, last := r[0], r[1]-1
	switch {
	case first == last:
		return strconv.Itoa(int(first))
	case last >= most:
		return fmt.Sprintf("%d to max", first)
	}
	return fmt.Sprintf("%d to %d", first, last)
}

func (w *sourceWriter) reservedNames(names protoreflect.Names) {
	for i := range names.Len() {
		w.line("reserved %q;", names.Get(i))
	}
}

func (w *sourceWriter) oneof(o protoreflect.OneofDescriptor) {
	w.block("oneof "+string(o.Name()), func() {
		for _, f := range byNumber(o.Fields()) {
			w.field(f)
		}
	})
}

func (w *sourceWriter) extensions(of protoreflect.ExtensionDescriptors) {
	var all []protoreflect.FieldDescriptor
	for i := range of.Len() {
		all = append(all, of.Get(i))
	}
	for len(all) > 0 {
		extended := all[0].ContainingMessage().FullName()
		other := func(f protoreflect.FieldDescriptor) bool { return f.ContainingMessage().FullName() != extended }
		w.extend(slices.DeleteFunc(slices.Clone(all), other))
		all = slices.DeleteFunc(all, func(f protoreflect.FieldDescriptor) bool { return !other(f) })
	}
}

// extend writes extensions of one message.
func (w *sourceWriter) extend(all []protoreflect.FieldDescriptor) {
	w.block("extend ."+string(all[0].ContainingMessage().FullName()), func() {
		for _, f := range all {
			w.field(f)
		}
	})
}

func (w *sourceWriter) field(f protoreflect.FieldDescriptor) {
	label := ""
	switch {
	case f.IsMap():
	case f.IsList():
		label = "repeated "
	case f.Cardinality() == protoreflect.Required && f.Syntax() == protoreflect.Proto2:
		label = "required "
	case f.HasOptionalKeyword():
		label = "optional "
	}
	if f.Kind() == protoreflect.GroupKind && f.Syntax() == protoreflect.Proto2 {
		w.block(fmt.Sprintf("%sgroup %s = %d%s", label, f.Message().Name(), f.Number(), fieldOptions(f)), func() { w.messageBody(f.Message()) })
		return
	}
	w.line("%s%s %s = %d%s;", label, typeOf(f), f.Name(), f.Number(), fieldOptions(f))
}

// typeOf is the type of a field, without its label.
func typeOf(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return fmt.Sprintf("map<%s, %s>", typeOf(f.MapKey()), typeOf(f.MapValue()))
	case f.Message() != nil:
		return "." + string(f.Message().FullName())
	case f.Enum() != nil:
		return "." + string(f.Enum().FullName())
	}
	return f.Kind().String()
}

// fieldOptions are the options that matter for a request: what the field is called in
// JSON, its default, and whether it is to be used.
func fieldOptions(f protoreflect.FieldDescriptor) string {
	var all []string
	if f.HasDefault() {
		all = append(all, "default = "+defaultOf(f))
	}
	if !f.IsExtension() && f.JSONName() != jsonNameOf(string(f.Name())) {
		all = append(all, fmt.Sprintf("json_name = %q", f.JSONName()))
	}
	if f.Options().(*descriptorpb.FieldOptions).GetDeprecated() {
		all = append(all, "deprecated = true")
	}
	if len(all) == 0 {
		return ""
	}
	return " [" + strings.Join(all, ", ") + "]"
}

func defaultOf(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.EnumKind:
		return string(f.DefaultEnumValue().Name())
	case protoreflect.StringKind:
		return strconv.QuoteToASCII(f.Default().String())
	case protoreflect.BytesKind:
		return strconv.QuoteToASCII(string(f.Default().Bytes()))
	}
	return fmt.Sprint(f.Default().Interface())
}

// jsonNameOf is what protobuf's JSON mapping makes of the name of a field.
func jsonNameOf(name string) string {
	var b strings.Builder
	upper := false
	for _, c := range name {
		if c == '_' {
			upper = true
			continue
		}
		if upper && 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper = false
		b.WriteRune(c)
	}
	return b.String()
}

func (w *sourceWriter) enum(e protoreflect.EnumDescriptor) {
	w.block("enum "+string(e.Name()), func() {
		options := e.Options().(*descriptorpb.EnumOptions)
		w.deprecated(options)
		if options.GetAllowAlias() {
			w.line("option allow_alias = true;")
		}
		for i := range e.Values().Len() {
			w.enumValue(e.Values().Get(i))
		}
		for i := range e.ReservedRanges().Len() {
			first, last := e.ReservedRanges().Get(i)[0], e.ReservedRanges().Get(i)[1] // both are in it
			if first == last {
				w.line("reserved %d;", first)
			} else {
				w.line("reserved %d to %d;", first, last)
			}
		}
		w.reservedNames(e.ReservedNames())
	})
}

func (w *sourceWriter) enumValue(v protoreflect.EnumValueDescriptor) {
	options := ""
	if v.Options().(*descriptorpb.EnumValueOptions).GetDeprecated() {
		options = " [deprecated = true]"
	}
	w.line("%s = %d%s;", v.Name(), v.Number(), options)
}
