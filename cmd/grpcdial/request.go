package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/grpcdial/grpcdial/internal/text"
)

// requestError is a fault of the user's request.
type requestError struct{ err error }

func (e *requestError) Error() string { return e.err.Error() }
func (e *requestError) Unwrap() error { return e.err }

// requestReader reads an RPC's requests.
type requestReader struct {
	method  protoreflect.MethodDescriptor
	options protojson.UnmarshalOptions
	first   []proto.Message // read before the RPC begins
	rest    *json.Decoder   // of a stream of requests; nil: there are no others
	read    int
}

// requests makes the reader of --data. The requests of a method that takes one are read at
// once, so that one that is wrong is not sent; those of a stream as they come.
func (c *commandLine) requests(m protoreflect.MethodDescriptor, types messageTypes, stdin io.Reader) (*requestReader, error) {
	r := &requestReader{method: m, options: protojson.UnmarshalOptions{Resolver: types, DiscardUnknown: c.allowUnknown}}
	var data io.Reader = strings.NewReader(c.data)
	if c.data == "@" {
		data = &stoppable{ctx: types.ctx, from: stdin, got: make(chan gotten, 1)}
	}
	r.rest = json.NewDecoder(data)
	if m.IsStreamingClient() {
		return r, nil
	}
	one, err := r.next()
	if errors.Is(err, io.EOF) {
		one, err = dynamicpb.NewMessage(m.Input()), nil // as grpcurl: an empty request
		if missing := proto.CheckInitialized(one); missing != nil {
			err = &requestError{fmt.Errorf("--data: an empty request is no %s: %w", m.Input().FullName(), missing)}
		}
	} else if err == nil {
		if _, more := r.next(); errors.As(more, new(*stoppedError)) {
			err = more
		} else if !errors.Is(more, io.EOF) {
			err = &requestError{fmt.Errorf("--data has more than one request, and %s takes one", m.FullName())}
		}
	}
	r.first, r.rest = []proto.Message{one}, nil
	return r, err
}

// next reads the next request; io.EOF: there are no others.
func (r *requestReader) next() (proto.Message, error) {
	var raw json.RawMessage
	r.read++
	switch err := r.rest.Decode(&raw); {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case errors.As(err, new(*stoppedError)):
		return nil, fmt.Errorf("--data: request %d has not been read: %w", r.read, err)
	case err != nil:
		return nil, &requestError{fmt.Errorf("--data: request %d is no JSON: %w", r.read, err)}
	}
	m := dynamicpb.NewMessage(r.method.Input())
	if err := r.options.Unmarshal(raw, m); err != nil {
		return nil, &requestError{fmt.Errorf("--data: request %d is no %s: %w", r.read, r.method.Input().FullName(), err)}
	}
	return m, nil
}

// sendAll sends the requests and closes the sending side. The error is one of the
// requests': the RPC's own comes from receiving.
func (r *requestReader) sendAll(stream grpc.ClientStream) error {
	for _, m := range r.first {
		if stream.SendMsg(m) != nil {
			return nil
		}
	}
	for r.rest != nil {
		m, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.As(err, new(*stoppedError)) {
			return nil // what ended the reading ends the RPC
		}
		if err != nil {
			return err
		}
		if stream.SendMsg(m) != nil {
			return nil
		}
	}
	_ = stream.CloseSend()
	return nil
}

func (r *requestReader) newReply() proto.Message { return dynamicpb.NewMessage(r.method.Output()) }

// marshal returns a message as indented JSON. protojson varies its white space from build
// to build, so it is written again.
func (c *commandLine) marshal(types messageTypes, m proto.Message) (json.RawMessage, error) {
	raw, err := protojson.MarshalOptions{Resolver: shownTypes{types}, EmitUnpopulated: c.emitDefaults}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var compact, indented bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, err
	}
	if err := json.Indent(&indented, compact.Bytes(), "", "  "); err != nil {
		return nil, err
	}
	return escaped(indented.Bytes()), nil
}

// escaped is JSON with what a terminal obeys written as \uXXXX, which means the same.
func escaped(raw []byte) []byte {
	var b bytes.Buffer
	for _, r := range string(raw) {
		if s := string(r); r != '\n' && text.Clean(s) != s {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.Bytes()
}
