// Tls dials a server over TLS and shows what the client has to know: the
// authority that signed the server's certificate, and the name in it when that
// is not the one dialed. Then it shows what a dial says when either is missing.
//
//	go run ./examples/tls
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
	"github.com/grpcdial/grpcdial/examples/internal/ca"
)

const serverName = "greeter.example"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "tls:", err)
		os.Exit(1)
	}
}

func run() error {
	authority, err := ca.New("Example Authority")
	if err != nil {
		return err
	}
	certificate, err := authority.Issue(serverName)
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := service.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	defer server.Stop()
	go server.Serve(lis) // returns when Stop is called
	address := lis.Addr().String()

	// The server is dialed by an address that is not in its certificate, so the
	// name is given with WithAuthority. Dialed as "greeter.example:443" it would
	// not have to be.
	trusting := credentials.NewTLS(&tls.Config{RootCAs: authority.Pool()})
	if err := greet(address, grpcdial.WithTransportCredentials(trusting), grpcdial.WithAuthority(serverName)); err != nil {
		return err
	}

	err = greet(address, grpcdial.WithTransportCredentials(trusting))
	var wrongName x509.HostnameError
	if !errors.As(err, &wrongName) {
		return fmt.Errorf("without the name: %w", err)
	}
	fmt.Printf("\nwithout the name: %v\n", err)

	others := credentials.NewTLS(&tls.Config{RootCAs: x509.NewCertPool()})
	err = greet(address, grpcdial.WithTransportCredentials(others), grpcdial.WithAuthority(serverName))
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		return fmt.Errorf("without the authority: %w", err)
	}
	fmt.Printf("\nwithout the authority: %v\n", err)

	err = greet(address, grpcdial.WithInsecure())
	if err == nil {
		return errors.New("a server with TLS took a plaintext client")
	}
	fmt.Printf("\nwithout TLS: %v\n", err)
	return nil
}

// greet dials and calls once. FailOnNonTempDialError makes the dial end at a
// failure that waiting does not mend, instead of with its context.
func greet(address string, options ...grpcdial.DialOption) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	options = append(options, grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true))
	cc, err := grpcdial.DialContext(ctx, address, options...)
	if err != nil {
		return err
	}
	defer cc.Close()
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err != nil {
		return fmt.Errorf("SayHello: %w", err)
	}
	fmt.Println("over TLS:", reply.GetMessage())
	return nil
}
