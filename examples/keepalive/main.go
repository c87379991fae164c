// Keepalive shows what client and server have to agree on about keepalive, and
// what it is good for. It takes 11 seconds, as pings closer than 10 seconds are
// not allowed (gRFC A8).
//
// A server falls silent, as it does when its host is cut off: neither FIN nor RST
// arrives. Without keepalive the call would wait for its deadline. Another
// server gets more pings than it allows and ends the connection.
//
//	go run ./examples/keepalive
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "keepalive:", err)
		os.Exit(1)
	}
}

func run() error {
	var text strings.Builder
	strict := make(chan error, 1)
	go func() { strict <- strictServer(&text) }() // meanwhile
	if err := silentServer(os.Stdout); err != nil {
		return err
	}
	if err := <-strict; err != nil {
		return err
	}
	fmt.Print("\n", text.String())
	return nil
}

// silentServer calls a server that can be reached no more.
func silentServer(out io.Writer) error {
	// What the server allows has to suit the clients' parameters: grpc-go's
	// default is one ping in five minutes, and none without an RPC.
	address, stop, err := serve(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime:             5 * time.Second,
		PermitWithoutStream: true,
	}))
	if err != nil {
		return err
	}
	defer stop()

	var lost atomic.Bool
	pinged := make(chan time.Time, 1)
	cc, err := dial(address, func(conn net.Conn) net.Conn {
		return &brokenConn{Conn: conn, lost: &lost, pinged: pinged}
	})
	if err != nil {
		return err
	}
	defer cc.Close()

	fmt.Fprintln(out, "a PING after a silence of", cc.Snapshot().Keepalive.Time)
	begun := time.Now()
	lost.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err == nil {
		return errors.New("a server answered that cannot be reached")
	}
	fmt.Fprintf(out, "the server falls silent: %v: %s\n", status.Code(err), status.Convert(err).Message())
	select {
	case at := <-pinged:
		fmt.Fprintln(out, "  the PING was sent after", at.Sub(begun).Round(time.Second))
	default:
		return errors.New("no PING was sent")
	}
	fmt.Fprintln(out, "  the call ended after", time.Since(begun).Round(time.Second))
	return nil
}

// strictServer pings a server too often.
func strictServer(out io.Writer) error {
	address, stop, err := serve(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime:             time.Minute,
		PermitWithoutStream: true,
	}))
	if err != nil {
		return err
	}
	defer stop()
	// A server forgives two pings. So that this need not wait for four times 10
	// seconds, the connection sends each of them four times.
	cc, err := dial(address, func(conn net.Conn) net.Conn { return hastyConn{conn} })
	if err != nil {
		return err
	}
	defer cc.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for change := range cc.Watch(ctx) {
		if change.From != connectivity.Ready || change.To == connectivity.Ready {
			continue
		}
		var goAway *grpcdial.GoAwayError
		if !errors.As(change.Cause, &goAway) {
			return fmt.Errorf("no GOAWAY: %w", change.Cause)
		}
		fmt.Fprintf(out, "a server that allows fewer pings: GOAWAY %v %s\n", http2.ErrCode(goAway.Code), goAway.Debug)
		fmt.Fprintln(out, "  on the next connection after a silence of", cc.Snapshot().Keepalive.Time)
		return nil
	}
	return errors.New("the server took all pings")
}

func serve(options ...grpc.ServerOption) (address string, stop func(), err error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := service.NewServer(options...)
	go server.Serve(lis) // returns when Stop is called
	return lis.Addr().String(), server.Stop, nil
}

// dial makes a READY channel whose connections are what wrap makes of them.
func dial(address string, wrap func(net.Conn) net.Conn) (*grpcdial.ClientConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return grpcdial.DialContext(ctx, address,
		grpcdial.WithInsecure(),
		grpcdial.WithBlock(),
		grpcdial.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                time.Second, // of silence before a PING: raised to 10 seconds
			Timeout:             time.Second, // for its answer
			PermitWithoutStream: true,        // also while no RPC runs
		}),
		grpcdial.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			return wrap(conn), nil
		}))
}

// brokenConn is a connection on which nothing arrives once lost is set. It records when
// the first PING was written to it.
type brokenConn struct {
	net.Conn
	lost   *atomic.Bool
	pinged chan<- time.Time
}

func (c *brokenConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.lost.Load() {
			return n, err
		}
	}
}

func (c *brokenConn) Write(b []byte) (int, error) {
	if isPing(b) {
		select {
		case c.pinged <- time.Now():
		default:
		}
	}
	return c.Conn.Write(b)
}

// hastyConn sends every PING four times.
type hastyConn struct{ net.Conn }

func (c hastyConn) Write(b []byte) (int, error) {
	if isPing(b) {
		for range 3 {
			if _, err := c.Conn.Write(b); err != nil {
				return 0, err
			}
		}
	}
	return c.Conn.Write(b)
}

// isPing reports whether b is a PING frame that is no answer to one (RFC 9113
// §6.7). On a connection that is quiet it is written alone.
func isPing(b []byte) bool {
	const header, payload = 9, 8
	return len(b) == header+payload && http2.FrameType(b[3]) == http2.FramePing && b[4] == 0
}
