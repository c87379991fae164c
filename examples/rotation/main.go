// Rotation uses a client certificate from files that an agent replaces now and then, as
// certificates that live for a day are. A GetClientCertificate reads them in each
// handshake, so connections that are made after that use the new one. The server greets the
// name in the certificate. Example pemfile does the same with grpc-go's certprovider/pemfile.
//
//	go run ./examples/rotation
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
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
		fmt.Fprintln(os.Stderr, "rotation:", err)
		os.Exit(1)
	}
}

func run() error {
	authority, err := ca.New("Example Authority")
	if err != nil {
		return err
	}
	address, stop, err := serve(authority)
	if err != nil {
		return err
	}
	defer stop()
	dir, err := os.MkdirTemp("", "rotation-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	files := pair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	if err := files.write(authority, "monday.example"); err != nil {
		return err
	}

	cc, err := grpcdial.NewClient(address, grpcdial.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs:              authority.Pool(),
		ServerName:           serverName,
		GetClientCertificate: files.load,
	})))
	if err != nil {
		return err
	}
	defer cc.Close()
	client := pb.NewGreeterClient(cc)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	name, err := greet(ctx, client)
	if err != nil {
		return err
	}
	fmt.Println(name)

	if err := files.write(authority, "tuesday.example"); err != nil {
		return err
	}
	// The server ends each connection when it is 300 ms old, in good order: no call fails.
	for name != "hello tuesday.example" {
		if name, err = greet(ctx, client); err != nil {
			return fmt.Errorf("with the files replaced: %w", err)
		}
	}
	fmt.Println("with the files replaced:", name)
	return nil
}

// serve starts a server that asks for certificates.
func serve(authority *ca.Authority) (address string, stop func(), err error) {
	theirs, err := authority.Issue(serverName)
	if err != nil {
		return "", nil, err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := grpc.NewServer(
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 300 * time.Millisecond}),
		grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{theirs},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    authority.Pool(),
		})))
	pb.RegisterGreeterServer(server, greeter{})
	go server.Serve(lis) // returns when Stop is called
	return lis.Addr().String(), server.Stop, nil
}

func greet(ctx context.Context, client pb.GreeterClient) (string, error) {
	reply, err := client.SayHello(ctx, &pb.HelloRequest{Name: "dddd"}, grpc.WaitForReady(true))
	return reply.GetMessage(), err
}

// pair is the files of a certificate and its key.
type pair struct{ cert, key string }

// load reads the files in each handshake.
func (p pair) load(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(p.cert, p.key)
	return &c, err
}

// write has the authority issue a certificate for name, and puts it in the place of the one
// before.
func (p pair) write(authority *ca.Authority, name string) error {
	c, err := authority.Issue(name)
	if err != nil {
		return err
	}
	return ca.WriteFiles(c, p.cert, p.key)
}
