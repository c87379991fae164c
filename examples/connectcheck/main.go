// Connectcheck asks each server about its health before calls go to it, on the new
// connection itself, and looks at its certificate. A server that has not warmed up is
// passed over until it has; one that is not ours is refused for good.
//
//	go run ./examples/connectcheck
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
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
	"github.com/grpcdial/grpcdial/examples/internal/ca"
)

const serverName = "greeter.example"

// notOurs is the verdict on a server whose certificate is not meant for us.
type notOurs struct{ organizations []string }

func (e *notOurs) Error() string {
	return fmt.Sprintf("the server's certificate is of %q", e.organizations)
}

// Temporary says that another attempt would end in the same way: a dial that fails fast
// ends at once.
func (*notOurs) Temporary() bool { return false }

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "connectcheck:", err)
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
	state := health.NewServer()
	state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(server, state)
	defer server.Stop()
	go server.Serve(lis) // returns when Stop is called
	creds := grpcdial.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: authority.Pool(), ServerName: serverName}))

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	retry := grpcdial.ConnectParams{MinConnectTimeout: 20 * time.Second}
	retry.Backoff.BaseDelay, retry.Backoff.MaxDelay, retry.Backoff.Multiplier = 20*time.Millisecond, time.Second, 1.6
	refused := make(chan string, 100)
	cc, err := grpcdial.DialContext(ctx, lis.Addr().String(), creds,
		grpcdial.WithConnectCheck(serves),
		grpcdial.WithConnectParams(retry),
		grpcdial.WithDialTrace(&grpcdial.DialTrace{Failed: func(e grpcdial.DialEvent) {
			select {
			case refused <- e.String():
			default:
			}
		}}))
	if err != nil {
		return err
	}
	defer cc.Close()
	fmt.Println("a server that is not ready:", <-refused)
	state.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	fmt.Println("once it is:", reply.GetMessage())

	_, err = grpcdial.DialContext(ctx, lis.Addr().String(), creds,
		grpcdial.WithConnectCheck(ofOrganization("Example Inc.")),
		grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true))
	var failed *grpcdial.DialError
	if !errors.As(err, &failed) {
		return fmt.Errorf("the certificate has no organization, and the dial ended with %w", err)
	}
	fmt.Println("a server of others:", failed)
	fmt.Println("  phase", failed.Attempts[0].Phase, "- permanent:", failed.Attempts[0].Permanent)
	return nil
}

// serves asks the health service. ctx ends with the connection attempt.
func serves(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
	reply, err := healthpb.NewHealthClient(info.Conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("its health is %v", reply.GetStatus())
	}
	return nil
}

// ofOrganization demands a certificate that names the organization.
func ofOrganization(name string) func(context.Context, grpcdial.ConnectCheckInfo) error {
	return func(_ context.Context, info grpcdial.ConnectCheckInfo) error {
		names := info.TLS.PeerCertificates[0].Subject.Organization
		for _, n := range names {
			if n == name {
				return nil
			}
		}
		return &notOurs{names}
	}
}
