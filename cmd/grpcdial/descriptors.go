package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// descriptors is where the descriptors of services and messages come from.
type descriptors interface {
	// file returns the file that defines a service, a message or another symbol.
	file(ctx context.Context, symbol string) (protoreflect.FileDescriptor, error)
	// services returns the full names of the services.
	services(ctx context.Context) ([]string, error)
	// where says where they come from, for errors.
	where() string
}

// findMethod returns the method that the user named as service/method or service.method.
func findMethod(ctx context.Context, d descriptors, name string) (protoreflect.MethodDescriptor, error) {
	service, method, err := splitMethod(name)
	if err != nil {
		return nil, err
	}
	file, err := d.file(ctx, service)
	if err != nil {
		return nil, fmt.Errorf("%s has no descriptor of the service %q: %w", d.where(), service, err)
	}
	s := file.Services().ByName(protoreflect.FullName(service).Name())
	if s == nil || string(s.FullName()) != service {
		return nil, fmt.Errorf("%s has no descriptor of a service %q", d.where(), service)
	}
	if m := s.Methods().ByName(protoreflect.Name(method)); m != nil {
		return m, nil
	}
	var there []string
	for i := range s.Methods().Len() {
		there = append(there, string(s.Methods().Get(i).Name()))
	}
	return nil, fmt.Errorf("the service %q has no method %q: there are %s", service, method, strings.Join(there, ", "))
}

// splitMethod splits service/method, or service.method.
func splitMethod(name string) (service, method string, err error) {
	name = strings.TrimPrefix(name, "/")
	at := strings.LastIndexByte(name, '/')
	if at < 0 {
		at = strings.LastIndexByte(name, '.')
	}
	if at <= 0 || at == len(name)-1 || !protoreflect.FullName(name[:at]).IsValid() || !protoreflect.Name(name[at+1:]).IsValid() {
		return "", "", fmt.Errorf("%q is no method: want package.Service/Method", name)
	}
	return name[:at], name[at+1:], nil
}

// listMethods returns all methods, as service/method.
func listMethods(ctx context.Context, d descriptors) (all []string, err error) {
	services, err := d.services(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(services)
	for _, name := range services {
		file, err := d.file(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%s has no descriptor of the service %q: %w", d.where(), name, err)
		}
		s := file.Services().ByName(protoreflect.FullName(name).Name())
		if s == nil || string(s.FullName()) != name {
			continue
		}
		for i := range s.Methods().Len() {
			all = append(all, name+"/"+string(s.Methods().Get(i).Name()))
		}
	}
	return all, nil
}

// protosets are descriptors in files that protoc has written.
type protosets struct {
	names []string
	files *protoregistry.Files
}

// readProtosets reads files with a google.protobuf.FileDescriptorSet each.
func readProtosets(names []string) (*protosets, error) {
	all := &descriptorpb.FileDescriptorSet{}
	seen := make(map[string]bool)
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--protoset: %w", err)
		}
		set := &descriptorpb.FileDescriptorSet{}
		if err := proto.Unmarshal(b, set); err != nil {
			return nil, fmt.Errorf("--protoset: %q is no file of protoc --descriptor_set_out: %w", name, err)
		}
		for _, f := range set.File {
			if !seen[f.GetName()] {
				seen[f.GetName()] = true
				all.File = append(all.File, f)
			}
		}
	}
	for i := 0; i < len(all.File); i++ { // Google's own may have been left out
		for _, dep := range all.File[i].Dependency {
			if known, err := protoregistry.GlobalFiles.FindFileByPath(dep); err == nil && !seen[dep] {
				seen[dep] = true
				all.File = append(all.File, protodesc.ToFileDescriptorProto(known))
			}
		}
	}
	files, err := protodesc.NewFiles(all)
	if err != nil {
		return nil, fmt.Errorf("--protoset: %w (was --include_imports given to protoc?)", err)
	}
	return &protosets{names, files}, nil
}

func (p *protosets) where() string { return strings.Join(p.names, ", ") }

func (p *protosets) file(_ context.Context, symbol string) (protoreflect.FileDescriptor, error) {
	d, err := p.files.FindDescriptorByName(protoreflect.FullName(symbol))
	if err != nil {
		return nil, errors.New("not found")
	}
	return d.ParentFile(), nil
}

func (p *protosets) services(context.Context) (all []string, err error) {
	p.files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			all = append(all, string(f.Services().Get(i).FullName()))
		}
		return true
	})
	return all, nil
}

// messageTypes finds the types of messages within google.protobuf.Any: in requests, in
// responses and in the details of a status.
type messageTypes struct {
	ctx context.Context
	descriptors
}

func (t messageTypes) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if known, err := protoregistry.GlobalTypes.FindMessageByName(name); err == nil {
		return known, nil
	}
	file, err := t.file(t.ctx, string(name))
	if err != nil {
		return nil, protoregistry.NotFound
	}
	files := &protoregistry.Files{}
	if err := files.RegisterFile(file); err != nil {
		return nil, err
	}
	d, err := files.FindDescriptorByName(name)
	if message, ok := d.(protoreflect.MessageDescriptor); err == nil && ok {
		return dynamicpb.NewMessageType(message), nil
	}
	return nil, protoregistry.NotFound
}

func (t messageTypes) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return t.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}

func (t messageTypes) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return protoregistry.GlobalTypes.FindExtensionByName(name)
}

func (t messageTypes) FindExtensionByNumber(message protoreflect.FullName, n protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return protoregistry.GlobalTypes.FindExtensionByNumber(message, n)
}
