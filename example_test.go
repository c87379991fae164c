package grpcdial_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
)

// How long TLS handshakes take, and how long their certificates last.
func ExampleWithDialTrace() {
	trace := &grpcdial.DialTrace{
		TLSDone: func(e grpcdial.DialEvent) {
			if e.Err != nil {
				return
			}
			certificate := e.TLS.PeerCertificates[0]
			log.Printf("%s: %v, the certificate ends in %v", e.Addr, e.Elapsed, time.Until(certificate.NotAfter))
		},
		Lost: func(e grpcdial.DialEvent) { log.Print(e) },
	}
	cc, err := grpcdial.NewClient("dns:///api.example.com:443",
		grpcdial.WithTransportCredentials(credentials.NewTLS(nil)), grpcdial.WithDialTrace(trace))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
}

func ExampleWithLogger() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cc, err := grpcdial.NewClient("dns:///api.example.com:443", grpcdial.WithInsecure(), grpcdial.WithLogger(logger))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
}

// What a failed wait says: where it stopped at each address, why, and what to do.
func ExampleDialError() {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	_ = lis.Close() // nobody serves that address

	_, err = grpcdial.Dial(lis.Addr().String(), grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true))
	if failed := (*grpcdial.DialError)(nil); errors.As(err, &failed) {
		for _, a := range failed.Attempts {
			fmt.Println("phase:", a.Phase)
			fmt.Println("why:", errors.Is(a.Err, syscall.ECONNREFUSED))
			fmt.Println("hint:", a.Hint)
		}
	}
	// Output:
	// phase: dial
	// why: true
	// hint: nothing listens there, or a firewall rejects it: is the server running, is the port right?
}

// A dial that waits through restarts of the server, and does not wait for a
// certificate that will not become right by itself.
func ExampleWithGiveUp() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cc, err := grpcdial.DialContext(ctx, "api.example.com:443", grpcdial.WithInsecure(), grpcdial.WithBlock(),
		grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool { return a.Permanent || a.Phase == grpcdial.PhaseTLS }))
	if failed := (*grpcdial.DialError)(nil); errors.As(err, &failed) {
		for _, a := range failed.Attempts {
			log.Print(a.Addr, ": ", a.Err, ": ", a.Hint)
		}
		return
	}
	defer cc.Close()
}

func ExampleClientConn_Snapshot() {
	cc, err := grpcdial.NewClient("dns:///api.example.com:443", grpcdial.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	s := cc.Snapshot()
	fmt.Println(s.Target, s.State)
	for _, e := range s.Endpoints {
		if e.State == connectivity.TransientFailure {
			fmt.Println(e.Addr, e.Cause, "next attempt", time.Until(e.NextAttempt))
		}
	}
	// Output: dns:///api.example.com:443 IDLE
}

func ExampleClientConn_Watch() {
	cc, err := grpcdial.NewClient("dns:///api.example.com:443", grpcdial.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for c := range cc.Watch(context.Background()) {
			log.Println(c.From, "to", c.To, c.Cause)
		}
	}()
	// It ends when the channel is closed.
	_ = cc.Close()
}
