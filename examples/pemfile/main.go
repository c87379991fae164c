// Pemfile uses a client certificate from files that an agent replaces now and then, through
// grpc-go's certprovider/pemfile, which reads them again every so often. When it has read
// others the channel renews its connections: no call fails because of that. The server
// greets the name in the certificate. It is a module of its own because that package needs
// modules that grpcdial does not.
//
//	go -C examples/pemfile run .
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/tls/certprovider"
	"google.golang.org/grpc/credentials/tls/certprovider/pemfile"
	"google.golang.org/grpc/peer"

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
	p, _ := peer.FromContext(ctx)
	return &pb.HelloReply{Message: "hello " + p.AuthInfo.(credentials.TLSInfo).State.VerifiedChains[0][0].Subject.CommonName}, nil
}

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pemfile:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	authority, err := ca.New("Example Authority")
	if err != nil {
		return err
	}
	address, stop, err := serve(authority)
	if err != nil {
		return err
	}
	defer stop()
	dir, err := os.MkdirTemp("", "pemfile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	issue := func(name string) error {
		c, err := authority.Issue(name)
		if err != nil {
			return err
		}
		return ca.WriteFiles(c, certFile, keyFile)
	}
	if err := issue("monday.example"); err != nil {
		return err
	}

	provider, err := pemfile.NewProvider(pemfile.Options{CertFile: certFile, KeyFile: keyFile, RefreshDuration: 20 * time.Millisecond}) // a minute, say
	if err != nil {
		return err
	}
	defer provider.Close()
	cc, err := grpcdial.NewClient(address, grpcdial.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs:              authority.Pool(),
		ServerName:           serverName,
		GetClientCertificate: provided(provider),
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
	fmt.Fprintln(out, name)

	before, err := provider.KeyMaterial(ctx)
	if err != nil {
		return err
	}
	renewed := make(chan error, 1)
	go func() { renewed <- renew(ctx, cc, provider, before) }()
	if err := issue("tuesday.example"); err != nil {
		return err
	}
	for name != "hello tuesday.example" {
		if name, err = greet(ctx, client); err != nil {
			return fmt.Errorf("with the files replaced: %w", err)
		}
	}
	fmt.Fprintln(out, "with the files replaced:", name)
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

// renew waits until the provider has another certificate than before, and has the channel
// make new connections. A program does so again and again.
func renew(ctx context.Context, cc *grpcdial.ClientConn, provider certprovider.Provider, before *certprovider.KeyMaterial) error {
	for {
		now, err := provider.KeyMaterial(ctx)
		if err != nil {
			return err
		}
		if !bytes.Equal(now.Certs[0].Certificate[0], before.Certs[0].Certificate[0]) {
			return cc.Renew(ctx)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond): // a minute, say
		}
	}
}

// provided returns the provider's latest certificate in each handshake.
func provided(provider certprovider.Provider) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		material, err := provider.KeyMaterial(info.Context())
		if err != nil {
			return nil, err
		}
		if len(material.Certs) == 0 {
			return nil, errors.New("the provider has no certificate")
		}
		return &material.Certs[0], nil
	}
}
