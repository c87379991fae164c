package main

import (
	"context"
	"crypto/x509"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial"
)

// conn is what the measured code sees of either client.
type conn interface {
	grpc.ClientConnInterface
	Close() error
}

// client is one of the two libraries that are compared. Both run with their
// default options.
type client struct {
	name string
	dial func(ctx context.Context, target string, creds credentials.TransportCredentials) (conn, error) // returns when READY
}

var (
	ours = client{"grpcdial", func(ctx context.Context, target string, creds credentials.TransportCredentials) (conn, error) {
		return grpcdial.DialContext(ctx, target, grpcdial.WithTransportCredentials(creds), grpcdial.WithBlock())
	}}
	grpcGo = client{"grpc-go", func(ctx context.Context, target string, creds credentials.TransportCredentials) (conn, error) {
		//lint:ignore SA1019 the blocking dial is what is compared
		return grpc.DialContext(ctx, target, grpc.WithTransportCredentials(creds), grpc.WithBlock())
	}}
)

// endpoint says where the server process listens. It crosses the boundary of
// the processes as JSON.
type endpoint struct {
	Target string
	Counts string // where the server reports the traffic so far: see trafficNow
	CA     []byte // PEM of the server's certificate; empty for plaintext
}

func (e endpoint) credentials() (credentials.TransportCredentials, error) {
	if len(e.CA) == 0 {
		return insecure.NewCredentials(), nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(e.CA) {
		return nil, errors.New("the server's certificate is not PEM")
	}
	return credentials.NewClientTLSFromCert(pool, ""), nil
}
