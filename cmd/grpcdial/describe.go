package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/grpcdial/grpcdial/internal/text"
)

// jsonServices is what list --json writes without a service.
type jsonServices struct {
	Services []string `json:"services"`
}

// jsonMethods is what list --json writes of a service.
type jsonMethods struct {
	Methods []string `json:"methods"`
}

// jsonSymbols is what describe --json writes.
type jsonSymbols struct {
	Symbols []jsonSymbol `json:"symbols"`
}

type jsonSymbol struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Source string `json:"source"`
}

// list prints the services, or the methods of one, as grpcurl does.
func list(ctx context.Context, c *commandLine, s stdio) int {
	return c.lookUp(ctx, s, func(ctx context.Context, d descriptors) (string, any, error) {
		if c.symbol == "" {
			all, err := d.services(ctx)
			for i := range all {
				all[i] = text.Line(all[i])
			}
			slices.Sort(all)
			return lines(all, "(No services)"), jsonServices{append([]string{}, all...)}, err
		}
		found, err := findSymbol(ctx, d, c.symbol)
		if err != nil {
			return "", nil, err
		}
		service, ok := found.(protoreflect.ServiceDescriptor)
		if !ok {
			return "", nil, fmt.Errorf("%s is %s, and no service", found.FullName(), kindOf(found))
		}
		all := []string{}
		for i := range service.Methods().Len() {
			all = append(all, string(service.Methods().Get(i).FullName()))
		}
		slices.Sort(all)
		return lines(all, "(No methods)"), jsonMethods{all}, nil
	})
}

// lines is all on a line each, or none if there are none.
func lines(all []string, none string) string {
	if len(all) == 0 {
		return none + "\n"
	}
	return strings.Join(all, "\n") + "\n"
}

// describe prints a symbol, or all services, as source of protoc, as grpcurl does.
func describe(ctx context.Context, c *commandLine, s stdio) int {
	return c.lookUp(ctx, s, func(ctx context.Context, d descriptors) (string, any, error) {
		names := []string{c.symbol}
		if c.symbol == "" {
			var err error
			if names, err = d.services(ctx); err != nil {
				return "", nil, err
			}
			slices.Sort(names)
		}
		var b strings.Builder
		out := jsonSymbols{Symbols: []jsonSymbol{}}
		for _, name := range names {
			found, err := findSymbol(ctx, d, name)
			if err != nil {
				return "", nil, err
			}
			one := jsonSymbol{string(found.FullName()), kindOf(found), sourceOf(found)}
			out.Symbols = append(out.Symbols, one)
			fmt.Fprintf(&b, "%s is %s:\n%s", one.Name, one.Kind, one.Source)
		}
		return cmp.Or(b.String(), "(No services)\n"), out, nil
	})
}

// lookUp prints what find finds, as text or with --json as its other result. With
// --protoset nothing is dialed.
func (c *commandLine) lookUp(ctx context.Context, s stdio, find func(context.Context, descriptors) (string, any, error)) int {
	limit := cmp.Or(c.timeout, defaultTimeout)
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("--timeout is %v", limit))
	defer stop()
	var shown string
	var object any
	if c.symbol != "" && !symbolName(c.symbol).IsValid() {
		return s.usage(fmt.Errorf("%q is no name of a symbol", c.symbol))
	}
	if len(c.protosets) > 0 {
		sets, err := readProtosets(c.protosets)
		if err != nil {
			return s.usage(err)
		}
		if shown, object, err = find(ctx, sets); err != nil {
			fmt.Fprintf(s.err, "grpcdial: %s\n", message(err))
			return exitFailed
		}
	} else {
		o, code := c.open(ctx, s)
		if o == nil {
			return code
		}
		var err error
		if shown, object, err = find(ctx, o.descriptors); err != nil {
			return o.fail(err)
		}
		o.close()
	}
	var err error
	if c.json {
		err = writeJSON(s.out, object)
	} else {
		_, err = io.WriteString(s.out, shown)
	}
	if err != nil {
		return exitFailed
	}
	return exitOK
}

// symbolName is the full name of a symbol as a user may write it.
func symbolName(s string) protoreflect.FullName {
	return protoreflect.FullName(strings.ReplaceAll(strings.TrimLeft(s, "./"), "/", "."))
}

// findSymbol finds the descriptor of a service, a method, a message or anything else that
// has a full name. A method may be written as service/method too.
func findSymbol(ctx context.Context, d descriptors, name string) (protoreflect.Descriptor, error) {
	symbol := symbolName(name)
	if !symbol.IsValid() {
		return nil, fmt.Errorf("%s names %q, which is no name of a symbol", d.where(), name)
	}
	file, err := d.file(ctx, string(symbol))
	if err != nil && symbol.Parent() != "" {
		// Not every server knows the names of methods and fields.
		if f, ok := d.file(ctx, string(symbol.Parent())); ok == nil {
			file, err = f, nil
		}
	}
	if err == nil {
		files := &protoregistry.Files{}
		var found protoreflect.Descriptor
		if err = files.RegisterFile(file); err == nil {
			if found, err = files.FindDescriptorByName(symbol); err == nil {
				return found, nil
			}
		}
		if errors.Is(err, protoregistry.NotFound) {
			err = errors.New("not found")
		}
	}
	return nil, fmt.Errorf("%s has no descriptor of %q: %w", d.where(), symbol, err)
}

// kindOf says what a descriptor describes, in grpcurl's words.
func kindOf(d protoreflect.Descriptor) string {
	switch d := d.(type) {
	case protoreflect.ServiceDescriptor:
		return "a service"
	case protoreflect.MethodDescriptor:
		return "a method"
	case protoreflect.MessageDescriptor:
		return "a message"
	case protoreflect.FieldDescriptor:
		if d.IsExtension() {
			return "an extension"
		}
		return "a field"
	case protoreflect.OneofDescriptor:
		return "a one-of"
	case protoreflect.EnumDescriptor:
		return "an enum"
	case protoreflect.EnumValueDescriptor:
		return "an enum value"
	}
	return "a symbol"
}
