package conformance

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// rpc is one RPC, made as generated code would: by Invoke if it is unary, else by NewStream.
type rpc struct {
	channel  grpc.ClientConnInterface
	method   protoreflect.MethodDescriptor
	request  message // describes the RPC
	messages []message
	options  []grpc.CallOption
	cancel   context.CancelFunc
	result   message
	received int
}

func (r *rpc) path() string {
	return fmt.Sprintf("/%s/%s", r.method.Parent().FullName(), r.method.Name())
}

func (r *rpc) unary(ctx context.Context) {
	defer r.cancelAfterSending()()
	var header, trailer metadata.MD
	reply := newMessage(r.method.Output())
	err := r.channel.Invoke(ctx, r.path(), r.messages[0].Interface(), reply.Interface(), append(r.options, grpc.Header(&header), grpc.Trailer(&trailer))...)
	if err == nil {
		r.receivedReply(reply)
	}
	r.ended(header, trailer, err)
}

func (r *rpc) stream(ctx context.Context) {
	stream, err := r.channel.NewStream(ctx, &grpc.StreamDesc{
		ClientStreams: r.method.IsStreamingClient(),
		ServerStreams: r.method.IsStreamingServer(),
	}, r.path(), r.options...)
	if err != nil {
		r.unsent(len(r.messages))
		r.ended(nil, nil, err)
		return
	}
	err = r.exchange(stream)
	header, headerErr := stream.Header() // does not wait: the stream has ended
	if err == nil {
		err = headerErr
	}
	r.ended(header, stream.Trailer(), err)
}

// exchange sends and receives until the stream has ended. It returns the status as an error; nil
// for OK.
func (r *rpc) exchange(stream grpc.ClientStream) error {
	fullDuplex := r.request.enum("stream_type") == "STREAM_TYPE_FULL_DUPLEX_BIDI_STREAM"
	for i, m := range r.messages {
		if r.method.IsStreamingClient() {
			time.Sleep(milliseconds(r.request.number("request_delay_ms")))
		}
		if err := stream.SendMsg(m.Interface()); err != nil {
			r.unsent(len(r.messages) - i)
			if !errors.Is(err, io.EOF) {
				return err
			}
			break // receive returns the status
		}
		if fullDuplex {
			if ended, err := r.receive(stream); ended {
				r.unsent(len(r.messages) - i - 1)
				return err
			}
		}
	}
	if r.request.child("cancel").has("before_close_send") {
		r.cancel()
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	defer r.cancelAfterSending()()
	for {
		ended, err := r.receive(stream)
		if ended || !r.method.IsStreamingServer() {
			return err
		}
	}
}

// receive receives one message, or the status if the stream has ended.
func (r *rpc) receive(stream grpc.ClientStream) (ended bool, err error) {
	reply := newMessage(r.method.Output())
	switch err := stream.RecvMsg(reply.Interface()); {
	case errors.Is(err, io.EOF):
		return true, nil
	case err != nil:
		return true, err
	}
	r.receivedReply(reply)
	return false, nil
}

// cancelAfterSending cancels the RPC in a while if the request says so, unless the function that
// it returns is called before.
func (r *rpc) cancelAfterSending() (stop func()) {
	cancel := r.request.child("cancel")
	if !r.request.has("cancel") || cancel.has("before_close_send") || cancel.has("after_num_responses") {
		return func() {}
	}
	timer := time.AfterFunc(milliseconds(cancel.number("after_close_send_ms")), r.cancel)
	return func() { timer.Stop() }
}

// receivedReply reports what is in a reply, and cancels the RPC if that was to come after it.
func (r *rpc) receivedReply(reply message) {
	if reply.field("payload") != nil { // one that is not set is reported too
		proto.Merge(r.result.addNew("payloads").Interface(), reply.child("payload").Interface())
	}
	r.received++
	if r.received == r.request.child("cancel").number("after_num_responses") {
		r.cancel()
	}
}

// unsent reports the number of messages that could not be sent.
func (r *rpc) unsent(n int) { r.result.set("num_unsent_requests", int32(n)) }

// ended reports the metadata and the status that the RPC has ended with.
func (r *rpc) ended(header, trailer metadata.MD, err error) {
	r.addHeaders("response_headers", header)
	r.addHeaders("response_trailers", trailer)
	if err == nil {
		return
	}
	s := status.Convert(err).Proto()
	report := r.result.make("error")
	report.set("code", protoreflect.EnumNumber(s.GetCode()))
	report.set("message", s.GetMessage())
	for _, d := range s.GetDetails() {
		detail := report.addNew("details")
		detail.set("type_url", d.GetTypeUrl())
		detail.set("value", d.GetValue())
	}
}

func (r *rpc) addHeaders(field protoreflect.Name, md metadata.MD) {
	for name, values := range md {
		h := r.result.addNew(field)
		h.set("name", name)
		for _, value := range values {
			h.add("value", encoded(name, value))
		}
	}
}

// encoded is a metadata value as the suite has it: binary ones in base64. decoded is the reverse.
func encoded(name, value string) string {
	if isBinary(name) {
		return base64.RawStdEncoding.EncodeToString([]byte(value))
	}
	return value
}

func decoded(name, value string) string {
	if isBinary(name) {
		if b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "=")); err == nil {
			return string(b)
		}
	}
	return value
}

func isBinary(name string) bool { return strings.HasSuffix(strings.ToLower(name), "-bin") }
