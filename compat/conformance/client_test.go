package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// concurrency is the number of RPCs that the client under test has running at most.
const concurrency = 16

// client is the client under test.
type client struct {
	descriptors
	channels *channels
}

// run makes the RPCs that in describes, until it ends, and writes a report of each to out, in the
// order in which they end.
func (c *client) run(in io.Reader, out io.Writer) error {
	var (
		running sync.WaitGroup
		slots   = make(chan struct{}, concurrency)
		mu      sync.Mutex
		failed  error // guarded by mu, as is out
	)
	for {
		request := newMessage(c.request)
		if err := readMessage(in, request); err != nil {
			running.Wait()
			if errors.Is(err, io.EOF) {
				return failed
			}
			return err
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			response := newMessage(c.response)
			response.set("test_name", request.text("test_name"))
			if err := c.call(request, response.make("response")); err != nil {
				response.make("error").set("message", err.Error())
			}
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, writeMessage(out, response))
		})
	}
}

// call makes the RPC of a request and reports it in result. An error says that it could not be
// made: what an RPC fails with is in the report.
func (c *client) call(request, result message) error {
	channel, err := c.channels.get(net.JoinHostPort(request.text("host"), strconv.Itoa(request.number("port"))), request)
	if err != nil {
		return err
	}
	method := c.service.Methods().ByName(protoreflect.Name(request.text("method")))
	if method == nil {
		return fmt.Errorf("service %s has no method %q", c.service.FullName(), request.text("method"))
	}
	r := &rpc{channel: channel, method: method, request: request, result: result}
	for _, packed := range request.children("request_messages") {
		m := newMessage(method.Input())
		if err := proto.Unmarshal(packed.bytes("value"), m.Interface()); err != nil {
			return err
		}
		r.messages = append(r.messages, m)
	}
	if request.enum("codec") == "CODEC_JSON" {
		r.options = append(r.options, grpc.CallContentSubtype(jsonName))
	}
	if name := compressorNames[request.enum("compression")]; name != "" {
		r.options = append(r.options, grpc.UseCompressor(name))
	}
	if limit := request.number("message_receive_limit"); limit > 0 {
		r.options = append(r.options, grpc.MaxCallRecvMsgSize(limit))
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if request.has("timeout_ms") {
		ctx, cancel = context.WithTimeout(ctx, milliseconds(request.number("timeout_ms")))
		defer cancel()
	}
	r.cancel = cancel
	for _, header := range request.children("request_headers") {
		for _, value := range header.texts("value") {
			ctx = metadata.AppendToOutgoingContext(ctx, header.text("name"), decoded(header.text("name"), value))
		}
	}
	if method.IsStreamingClient() || method.IsStreamingServer() {
		r.stream(ctx)
	} else {
		r.unary(ctx)
	}
	return nil
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }
