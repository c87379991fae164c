// Command node runs interoperability cases on a grpcdial channel against a server
// written in another language: server.js, on @grpc/grpc-js. The step node of
// .ci/run installs what that needs and calls
//
//	go run ./node path/to/server.js
//
// It exits with an error at the first case that fails.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/testdata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/grpcdial/grpcdial"
)

// serverName is one that the certificate of grpc-go's test data is for.
const serverName = "foo.test.google.fr"

var cases = []struct {
	name string
	run  func(ctx context.Context, client testpb.TestServiceClient, cc *grpcdial.ClientConn)
}{
	stubs("empty_unary", interop.DoEmptyUnaryCall),
	stubs("large_unary", interop.DoLargeUnaryCall),
	stubs("large_unary, gzip", gzipped(interop.DoLargeUnaryCall)),
	stubs("client_streaming", interop.DoClientStreaming),
	stubs("client_streaming, gzip", gzipped(interop.DoClientStreaming)),
	stubs("server_streaming", interop.DoServerStreaming),
	stubs("ping_pong", interop.DoPingPong),
	stubs("empty_stream", interop.DoEmptyStream),
	stubs("timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer),
	stubs("cancel_after_begin", interop.DoCancelAfterBegin),
	stubs("cancel_after_first_response", interop.DoCancelAfterFirstResponse),
	stubs("status_code_and_message", interop.DoStatusCodeAndMessage),
	stubs("special_status_message", interop.DoSpecialStatusMessage),
	stubs("custom_metadata", interop.DoCustomMetadata),
	{"unimplemented_method", func(ctx context.Context, _ testpb.TestServiceClient, cc *grpcdial.ClientConn) {
		interop.DoUnimplementedMethod(ctx, cc.GRPC())
	}},
	{"unimplemented_service", func(ctx context.Context, _ testpb.TestServiceClient, cc *grpcdial.ClientConn) {
		interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc))
	}},
	stubs("many at once", manyAtOnce),
}

type stubCase = func(context.Context, testpb.TestServiceClient, ...grpc.CallOption)

type interopCase = struct {
	name string
	run  func(ctx context.Context, client testpb.TestServiceClient, cc *grpcdial.ClientConn)
}

func stubs(name string, run stubCase) interopCase {
	return interopCase{name, func(ctx context.Context, client testpb.TestServiceClient, _ *grpcdial.ClientConn) { run(ctx, client) }}
}

func gzipped(run stubCase) stubCase {
	return func(ctx context.Context, client testpb.TestServiceClient, opts ...grpc.CallOption) {
		run(ctx, client, append(opts, grpc.UseCompressor("gzip"))...)
	}
}

// manyAtOnce makes RPCs of all sizes from many goroutines.
func manyAtOnce(ctx context.Context, client testpb.TestServiceClient, _ ...grpc.CallOption) {
	var callers sync.WaitGroup
	for caller := range 16 {
		callers.Go(func() {
			for n := range 50 {
				size := int32(caller * n * 100)
				reply, err := client.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: size, Payload: &testpb.Payload{Body: make([]byte, size)}})
				if err != nil {
					log.Fatal(err)
				}
				if got := len(reply.Payload.Body); got != int(size) {
					log.Fatalf("%d bytes, want %d", got, size)
				}
			}
		})
	}
	callers.Wait()
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: node path/to/server.js")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(script string) error {
	plainPort, tlsPort, stop, err := startServer(script)
	if err != nil {
		return err
	}
	defer stop()
	secure, err := credentials.NewClientTLSFromFile(testdata.Path("ca.pem"), serverName)
	if err != nil {
		return err
	}
	if err := runCases("plaintext", plainPort, insecure.NewCredentials()); err != nil {
		return err
	}
	return runCases("TLS", tlsPort, secure)
}

func runCases(security, port string, creds credentials.TransportCredentials) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cc, err := grpcdial.DialContext(ctx, "127.0.0.1:"+port,
		grpcdial.WithTransportCredentials(creds), grpcdial.WithBlock())
	if err != nil {
		return err
	}
	for _, c := range cases {
		log.SetPrefix(fmt.Sprintf("%s, %s: ", security, c.name)) // of what a case that fails ends the program with
		c.run(ctx, testpb.NewTestServiceClient(cc), cc)
		fmt.Printf("ok  %s, %s\n", security, c.name)
	}
	log.SetPrefix("")
	return cc.Close()
}

// startServer starts server.js and returns its ports. It ends with its input.
func startServer(script string) (plain, secure string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		return "", "", nil, err
	}
	defer os.RemoveAll(dir) // read by then
	descriptors := filepath.Join(dir, "descriptors")
	if err := writeDescriptors(descriptors); err != nil {
		return "", "", nil, err
	}
	node := exec.Command("node", script, descriptors, testdata.Path("server1.pem"), testdata.Path("server1.key"))
	node.Stderr = os.Stderr
	in, err := node.StdinPipe()
	if err != nil {
		return "", "", nil, err
	}
	out, err := node.StdoutPipe()
	if err != nil {
		return "", "", nil, err
	}
	if err := node.Start(); err != nil {
		return "", "", nil, err
	}
	stop = func() {
		_ = in.Close()
		_ = node.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	plain, secure, ok := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || !ok {
		stop()
		return "", "", nil, errors.Join(fmt.Errorf("the server said %q in place of its ports", line), err)
	}
	return plain, secure, stop, nil
}

// writeDescriptors writes what the test service is made of to a file.
func writeDescriptors(path string) error {
	var set descriptorpb.FileDescriptorSet
	seen := make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(testpb.File_grpc_testing_test_proto)
	b, err := proto.Marshal(&set)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
