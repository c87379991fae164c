package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// serverReflection are the descriptors that a server gives by gRPC's reflection (the document
// server-reflection.md of grpc/grpc). It is for one goroutine, as a method at a time.
type serverReflection struct {
	cc      grpc.ClientConnInterface
	headers metadata.MD // sent with the RPC: a server may ask for credentials

	mu     sync.Mutex
	stream grpc.ClientStream                            // guarded by mu: nil before the first question
	files  *protoregistry.Files                         // guarded by mu: those that have been put together
	protos map[string]*descriptorpb.FileDescriptorProto // guarded by mu: those that came, by their paths
}

func newReflection(cc grpc.ClientConnInterface, headers metadata.MD) *serverReflection {
	return &serverReflection{cc: cc, headers: headers, files: &protoregistry.Files{}, protos: make(map[string]*descriptorpb.FileDescriptorProto)}
}

func (r *serverReflection) where() string { return "the server's reflection" }

// The method, and what it was called before the protocol was stable. The messages are
// the same.
const (
	reflectionV1      = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	reflectionV1alpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
)

// askLocked sends a question and returns the answer.
func (r *serverReflection) askLocked(ctx context.Context, q *reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
	if r.stream != nil {
		answer, err := exchange(r.stream, q)
		if err != io.EOF {
			return answer, err
		}
		r.stream = nil // the server ends the stream after some answers: it gets another one
	}
	ctx = metadata.NewOutgoingContext(ctx, r.headers)
	var answer *reflectionpb.ServerReflectionResponse
	var err error
	for _, method := range []string{reflectionV1, reflectionV1alpha} {
		var stream grpc.ClientStream
		stream, err = r.cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			return nil, err
		}
		if answer, err = exchange(stream, q); err == nil {
			r.stream = stream
			break
		}
		if err == io.EOF {
			return nil, errNoAnswer
		}
		if status.Code(err) != codes.Unimplemented {
			return nil, err
		}
	}
	if err != nil {
		return nil, errNoReflection
	}
	return answer, nil
}

var errNoAnswer = errors.New("it ended the stream without an answer")

var errNoReflection = errors.New("the server has no reflection service: give the descriptors by --protoset FILE")

func exchange(stream grpc.ClientStream, q *reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
	if err := stream.SendMsg(q); err != nil {
		// The reason comes from RecvMsg.
		if err := stream.RecvMsg(&reflectionpb.ServerReflectionResponse{}); err != nil {
			return nil, err
		}
		return nil, err
	}
	answer := &reflectionpb.ServerReflectionResponse{}
	if err := stream.RecvMsg(answer); err != nil {
		return nil, err
	}
	if e := answer.GetErrorResponse(); e != nil {
		return nil, &refusedQuestion{codes.Code(e.GetErrorCode()), e.GetErrorMessage()}
	}
	return answer, nil
}

// refusedQuestion is what the reflection service says that cannot answer.
type refusedQuestion struct {
	code codes.Code
	text string
}

func (e *refusedQuestion) Error() string {
	if e.text == "" {
		return e.code.String()
	}
	return e.text
}

func (r *serverReflection) services(ctx context.Context) (all []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer, err := r.askLocked(ctx, &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return nil, err
	}
	for _, s := range answer.GetListServicesResponse().GetService() {
		all = append(all, s.GetName())
	}
	return all, nil
}

func (r *serverReflection) file(ctx context.Context, symbol string) (protoreflect.FileDescriptor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, err := r.files.FindDescriptorByName(protoreflect.FullName(symbol)); err == nil {
		return d.ParentFile(), nil
	}
	answer, err := r.askLocked(ctx, &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}})
	if err != nil {
		return nil, err
	}
	first, err := r.takeLocked(answer)
	if err != nil {
		return nil, err
	}
	return r.buildLocked(ctx, first, nil)
}

// mostFiles bounds the files that a server may give: one may have each import another.
const mostFiles = 5_000

var errTooManyFiles = fmt.Errorf("there are more than %d files", mostFiles)

// takeLocked keeps the files of an answer and returns the path of the first.
func (r *serverReflection) takeLocked(answer *reflectionpb.ServerReflectionResponse) (first string, err error) {
	for i, b := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		f := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(b, f); err != nil {
			return "", fmt.Errorf("a file descriptor is not valid: %w", err)
		}
		if i == 0 {
			first = f.GetName()
		}
		if _, ok := r.protos[f.GetName()]; ok {
			continue
		}
		if len(r.protos) == mostFiles {
			return "", errTooManyFiles
		}
		r.protos[f.GetName()] = f
	}
	if first == "" {
		return "", errors.New("the answer has no file")
	}
	return first, nil
}

// buildLocked makes a file and those that it imports, which it asks for if need be. within
// are the files that import it: a ring of them is an error.
func (r *serverReflection) buildLocked(ctx context.Context, path string, within []string) (protoreflect.FileDescriptor, error) {
	if f, err := r.files.FindFileByPath(path); err == nil {
		return f, nil
	}
	for _, w := range within {
		if w == path {
			return nil, fmt.Errorf("the file %q imports itself", path)
		}
	}
	p, ok := r.protos[path]
	if !ok {
		answer, err := r.askLocked(ctx, &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: path}})
		if err == nil {
			_, err = r.takeLocked(answer)
		}
		if p, ok = r.protos[path]; !ok {
			known, unknown := protoregistry.GlobalFiles.FindFileByPath(path)
			if unknown != nil {
				return nil, fmt.Errorf("the file %q is not there: %w", path, errors.Join(err, unknown))
			}
			p = protodesc.ToFileDescriptorProto(known)
		}
	}
	for _, dep := range p.GetDependency() {
		if _, err := r.buildLocked(ctx, dep, append(within, path)); err != nil {
			return nil, err
		}
	}
	f, err := protodesc.NewFile(p, r.files)
	if err != nil {
		return nil, err
	}
	return f, r.files.RegisterFile(f)
}
