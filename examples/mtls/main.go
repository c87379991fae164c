// Mtls dials a server that asks clients for a certificate, with one and without
// one. The server greets the name in the certificate; a client without one
// learns in the dial that it needs one.
//
//	go run ./examples/mtls
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/internal/ca"
)

const serverName = "greeter.example"

// greeter greets the subject of the client's certificate.
type greeter struct {
	pb.UnimplementedGreeterServer
}

func (greeter) SayHello(ctx context.Context, _ *pb.HelloRequest) (*pb.HelloReply, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Internal, "the call has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil, status.Error(codes.Unauthenticated, "the caller has no verified certificate")
	}
	return &pb.HelloReply{Message: "hello " + info.State.VerifiedChains[0][0].Subject.CommonName}, nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mtls:", err)
		os.Exit(1)
	}
}

func run() error {
	authority, err := ca.New("Example Authority")
	if err != nil {
		return err
	}
	ours, err := authority.Issue("client.example")
	if err != nil {
		return err
	}
	theirs, err := authority.Issue(serverName)
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{theirs},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    authority.Pool(),
	})))
	pb.RegisterGreeterServer(server, greeter{})
	defer server.Stop()
	go server.Serve(lis) // returns when Stop is called

	message, err := greet(lis.Addr().String(), &tls.Config{
		RootCAs:      authority.Pool(),
		ServerName:   serverName,
		Certificates: []tls.Certificate{ours},
	})
	if err != nil {
		return err
	}
	fmt.Println("with a certificate:", message)

	// In TLS 1.3 the server refuses the client only after the client has
	// finished its handshake. The dial says what it refused all the same.
	_, err = greet(lis.Addr().String(), &tls.Config{
		RootCAs:    authority.Pool(),
		ServerName: serverName,
	})
	if err == nil {
		return errors.New("the server took a client without a certificate")
	}
	fmt.Println("without one:", err)
	var alert tls.AlertError
	fmt.Println("  the cause is a TLS alert:", errors.As(err, &alert))
	return nil
}

func greet(address string, config *tls.Config) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cc, err := grpcdial.DialContext(ctx, address,
		grpcdial.WithTransportCredentials(credentials.NewTLS(config)),
		grpcdial.WithBlock(),
		grpcdial.FailOnNonTempDialError(true)) // a missing certificate is no reason to try again
	if err != nil {
		return "", err
	}
	defer cc.Close()
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err != nil {
		return "", fmt.Errorf("SayHello: %w", err)
	}
	return reply.GetMessage(), nil
}
