package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// service is the measured server's side: it does as little as it can.
type service struct {
	pb.UnimplementedBenchServer
}

func (service) Unary(ctx context.Context, in *pb.Request) (*pb.Reply, error) {
	delay(ctx, in.GetName())
	if err := answer(ctx, in.GetName()); err != nil {
		return nil, err
	}
	return &pb.Reply{Message: "ccccc", Body: in.GetBody()}, nil
}

func (service) PingPong(stream grpc.BidiStreamingServer[pb.Request, pb.Reply]) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.Reply{Message: "ccccc", Body: in.GetBody()}); err != nil {
			return err
		}
	}
}

// serving is the task of the server process.
type serving struct {
	RoundTrips []time.Duration // a relay adds each; 0 needs none
}

// serve is the server process: it listens on loopback ports, writes its
// endpoints to stdout and serves until stdin ends, which it does when the
// process that started it ends.
func serve() error {
	var order serving
	if err := json.Unmarshal([]byte(os.Args[2]), &order); err != nil {
		return err
	}
	count := &counts{}
	reporting, err := listen()
	if err != nil {
		return err
	}
	go count.report(reporting)
	counts := reporting.Addr().String()

	certificate, ca, err := selfSigned()
	if err != nil {
		return err
	}
	ended := make(chan error, 2+len(streamLimits))
	var servers []*grpc.Server
	start := func(opts ...grpc.ServerOption) (string, error) {
		lis, err := listen()
		if err != nil {
			return "", err
		}
		server := grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(maxMessage))...)
		pb.RegisterBenchServer(server, service{})
		server.RegisterService(&downDesc, nil)
		servers = append(servers, server)
		go func() { ended <- server.Serve(counter{lis, count}) }()
		return lis.Addr().String(), nil
	}
	plain, err := start()
	if err != nil {
		return err
	}
	secure, err := start(grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	if err != nil {
		return err
	}
	at := endpoints{
		Plain: endpoint{Target: plain, Counts: counts}, TLS: endpoint{Target: secure, Counts: counts, CA: ca},
		Relays: map[time.Duration]endpoint{}, Limited: map[int]endpoint{},
	}
	for _, streams := range streamLimits {
		limited, err := start(grpc.MaxConcurrentStreams(uint32(streams)))
		if err != nil {
			return err
		}
		at.Limited[streams] = endpoint{Target: limited, Counts: counts}
	}
	for _, trip := range order.RoundTrips {
		if trip == 0 {
			continue
		}
		lis, err := listen()
		if err != nil {
			return err
		}
		go relay{lis, plain, trip / 2}.serve()
		at.Relays[trip] = endpoint{Target: lis.Addr().String(), Counts: counts}
	}

	if err := json.NewEncoder(os.Stdout).Encode(at); err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		for _, server := range servers {
			server.Stop()
		}
		ended <- nil
	}()
	if err := <-ended; !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
		return err
	}
	return nil
}

func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// selfSigned makes a certificate for 127.0.0.1 and its PEM.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "grpcdial bench"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("creating the server's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
