package main

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

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

// client is one of the two libraries whose channels are compared. Both run with their
// default options, but for a service config where the cell has one.
type client struct {
	name string
	dial func(ctx context.Context, target string, creds credentials.TransportCredentials, config string) (conn, error) // returns when READY
}

var (
	ours = client{"grpcdial", func(ctx context.Context, target string, creds credentials.TransportCredentials, config string) (conn, error) {
		opts := []grpcdial.DialOption{grpcdial.WithTransportCredentials(creds), grpcdial.WithBlock()}
		if config != "" {
			opts = append(opts, grpcdial.WithDefaultServiceConfig(config))
		}
		return grpcdial.DialContext(ctx, target, opts...)
	}}
	grpcGo = client{"grpc-go", func(ctx context.Context, target string, creds credentials.TransportCredentials, config string) (conn, error) {
		opts := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithBlock()} //lint:ignore SA1019 the blocking dial is what is compared
		if config != "" {
			opts = append(opts, grpc.WithDefaultServiceConfig(config))
		}
		//lint:ignore SA1019 likewise
		return grpc.DialContext(ctx, target, opts...)
	}}
)

// idle makes a channel that does not connect yet.
func (c client) idle(target string, creds credentials.TransportCredentials) (stateful, error) {
	if c.name == ours.name {
		return grpcdial.NewClient(target, grpcdial.WithTransportCredentials(creds))
	}
	return grpc.NewClient(target, grpc.WithTransportCredentials(creds))
}

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
	pool, err := e.pool()
	if err != nil {
		return nil, err
	}
	return credentials.NewClientTLSFromCert(pool, ""), nil
}

// pool holds the server's certificate.
func (e endpoint) pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(e.CA) {
		return nil, errors.New("the server's certificate is not PEM")
	}
	return pool, nil
}

// endpoints are all ways to the server.
type endpoints struct {
	Plain   endpoint
	TLS     endpoint
	Relays  map[time.Duration]endpoint // plaintext, by the round trip that the relay adds
	Limited map[int]endpoint           // plaintext, by the streams that a connection may have at a time
}

// of is the way that the cell takes.
func (e endpoints) of(c cell) endpoint {
	switch {
	case c.tls:
		return e.TLS
	case c.streams > 0:
		return e.Limited[c.streams]
	case c.roundTrip > 0:
		return e.Relays[c.roundTrip]
	default:
		return e.Plain
	}
}
