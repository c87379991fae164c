package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// connectClient is connect-go's column: its gRPC protocol over net/http, with the default
// options of both. Its cells call it as code that connect-go generates does; there is no
// grpc.ClientConnInterface between them.
type connectClient struct {
	http *http.Client
	base string // of the URLs
}

func openConnect(_ cell, at endpoint) (opened, error) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	c := connectClient{&http.Client{Transport: transport}, "http://" + at.Target}
	if len(at.CA) == 0 {
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		pool, err := at.pool()
		if err != nil {
			return opened{}, err
		}
		c.base = "https://" + at.Target
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
		transport.Protocols.SetHTTP2(true)
	}
	// The connection is made now, once, and not by whichever workers call first.
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	if _, err := c.method(pb.Bench_Unary_FullMethodName).CallUnary(ctx, connect.NewRequest(newRequest(0))); err != nil {
		return opened{}, err
	}
	return opened{
		connectName, at,
		func(cell cell) (worker, error) { return cell.connect(c) },
		func() error { transport.CloseIdleConnections(); return nil },
	}, nil
}

// method is what a generated client holds for each method.
func (c connectClient) method(name string) *connect.Client[pb.Request, pb.Reply] {
	return connect.NewClient[pb.Request, pb.Reply](c.http, c.base+name, connect.WithGRPC())
}

func connectUnary(size int) func(connectClient) (worker, error) { return connectCalls(size, "") }

// connectToken is connectUnary with a metadata value of size characters.
func connectToken(size int) func(connectClient) (worker, error) { return connectCalls(0, bearer(size)) }

func connectCalls(size int, authorization string) func(connectClient) (worker, error) {
	return func(c connectClient) (worker, error) { return c.calls(newRequest(size), size, authorization), nil }
}

// calls makes unary calls whose replies have a body of the given size.
func (c connectClient) calls(message *pb.Request, size int, authorization string) worker {
	method := c.method(pb.Bench_Unary_FullMethodName)
	return worker{op: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		request := connect.NewRequest(message)
		if authorization != "" {
			request.Header().Set("Authorization", authorization)
		}
		reply, err := method.CallUnary(ctx, request)
		if err != nil {
			return err
		}
		return check(reply.Msg, size)
	}}
}

func connectPingPong(size int) func(connectClient) (worker, error) {
	return func(c connectClient) (worker, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		stream := c.method(pb.Bench_PingPong_FullMethodName).CallBidiStream(ctx)
		request := newRequest(size)
		return worker{
			op: func() error {
				if err := stream.Send(request); err != nil {
					return err
				}
				reply, err := stream.Receive()
				if err != nil {
					return err
				}
				return check(reply, size)
			},
			done: func() error {
				defer cancel()
				if err := stream.CloseRequest(); err != nil {
					return err
				}
				if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
					return fmt.Errorf("the stream ended with %v, want EOF", err)
				}
				return stream.CloseResponse()
			},
		}, nil
	}
}

func connectUpload(size int) func(connectClient) (worker, error) {
	return func(c connectClient) (worker, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		stream := c.method(pb.Bench_Upload_FullMethodName).CallClientStream(ctx)
		request := &pb.Request{Body: newBody(size)}
		batch, sent := uploadBatch(size), int64(0)
		return worker{
			batch: batch,
			op: func() error {
				for range batch {
					if err := stream.Send(request); err != nil {
						return err
					}
				}
				sent += int64(batch * size)
				return nil
			},
			flush: func() error {
				defer cancel()
				reply, err := stream.CloseAndReceive()
				if err != nil {
					return err
				}
				if got := reply.Msg.GetReceived(); got != sent {
					return fmt.Errorf("the server got %d bytes of %d", got, sent)
				}
				return nil
			},
		}, nil
	}
}

func connectDownload(size, batch int) func(connectClient) (worker, error) {
	return func(c connectClient) (worker, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		stream, err := c.method("/"+downService+"/"+downMethod).CallServerStream(ctx, connect.NewRequest(&pb.Request{Name: strconv.Itoa(size)}))
		if err != nil {
			cancel()
			return worker{}, err
		}
		want := len(downReply(size).GetBody())
		return worker{
			batch: batch,
			op: func() error {
				for range batch {
					if !stream.Receive() {
						return fmt.Errorf("the stream ended: %w", stream.Err())
					}
					if got := len(stream.Msg().GetBody()); got != want {
						return fmt.Errorf("a message with a body of %d bytes, want %d", got, want)
					}
				}
				return nil
			},
			done: func() error {
				cancel() // the server would go on for ever
				_ = stream.Close()
				return nil
			},
		}, nil
	}
}
