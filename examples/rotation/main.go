// Rotation uses a client certificate from files that an agent replaces now and then, as
// certificates that live for a day are. A GetClientCertificate reads them in each
// handshake, and when they have changed the channel renews its connections: no call fails
// because of that. The server greets the name in the certificate. Example pemfile does the
// same with grpc-go's certprovider/pemfile.
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

	before, err := os.Stat(files.cert)
	if err != nil {
		return err
	}
	renewed := make(chan error, 1)
	go func() { renewed <- files.renew(ctx, cc, before) }()
	if err := files.write(authority, "tuesday.example"); err != nil {
		return err
	}
	for name != "hello tuesday.example" {
		if name, err = greet(ctx, client); err != nil {
			return fmt.Errorf("with the files replaced: %w", err)
		}
	}
	fmt.Println("with the files replaced:", name)
	return <-renewed
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
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
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

// pair is the files of a certificate and its key, of which the certificate's is written
// last.
type pair struct{ cert, key string }

// renew waits until the certificate is another file than before, and has the channel make new
// connections. A program does so again and again, or is notified by its agent.
func (p pair) renew(ctx context.Context, cc *grpcdial.ClientConn, before os.FileInfo) error {
	for {
		now, err := os.Stat(p.cert)
		if err != nil {
			return err
		}
		if !os.SameFile(before, now) {
			return cc.Renew(ctx)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond): // a minute, say
		}
	}
}

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
