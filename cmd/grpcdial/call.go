package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/text"
)

// client is a channel to the target of a command that makes RPCs.
type client struct {
	*commandLine
	stdio
	tl          *timeline
	cc          *grpcdial.ClientConn
	report      *report
	descriptors descriptors
	progress    *progress
}

// open dials the target and makes the descriptors ready. If it fails, code is what to exit
// with, and everything has been said and closed.
func (c *commandLine) open(ctx context.Context, s stdio, more ...grpcdial.DialOption) (_ *client, code int) {
	opts, err := c.dialOptions()
	if err != nil {
		return nil, s.usage(err)
	}
	o := &client{commandLine: c, stdio: s, tl: &timeline{}}
	if len(c.protosets) > 0 {
		sets, err := readProtosets(c.protosets)
		if err != nil {
			return nil, s.usage(err)
		}
		o.descriptors = sets
	}
	opts = append(opts,
		grpcdial.WithGiveUp(func(grpcdial.Attempt) bool { return true }), // once round, then say why
		grpcdial.WithDialTrace(c.narrated(o.tl.trace(), s.err)))
	if c.largest > 0 {
		opts = append(opts, grpcdial.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(c.largest)))
	}
	if o.cc, err = grpcdial.NewClient(c.target, append(opts, more...)...); err != nil {
		fmt.Fprintln(s.err, message(err))
		return nil, exitUsage
	}
	o.report = &report{target: text.Target(o.cc.CanonicalTarget()), begin: time.Now()}
	o.progress = c.progress(s.err, o.tl.now)
	if o.report.err = o.cc.AwaitReady(ctx); o.report.err != nil {
		o.close()
		if c.trace {
			_ = drawReport(s.err, painter(s.err), o.report)
		}
		if c.json {
			_ = writeJSON(s.out, callJSON(o, &rpcResult{}))
		} else {
			explain(s.err, painter(s.err), c, o.report.err)
		}
		return nil, exitFailed
	}
	o.report.ready = time.Now()
	if o.descriptors == nil {
		o.descriptors = newReflection(o.cc, c.headers)
	}
	return o, exitOK
}

// complete completes the report.
func (o *client) complete() {
	o.progress.end()
	o.report.end, o.report.state, o.report.steps = time.Now(), o.cc.GetState(), o.tl.all()
}

// close completes the report and ends the channel.
func (o *client) close() {
	o.complete()
	_ = o.cc.Close()
}

// fail reports an error that is none of an RPC's.
func (o *client) fail(err error) int {
	o.close()
	fmt.Fprintf(o.err, "grpcdial: %s\n", message(err))
	if errors.As(err, new(*requestError)) {
		return exitUsage
	}
	return exitFailed
}

// method finds the descriptor of the method, as a step of the timeline if it is asked for.
func (o *client) findMethod(ctx context.Context) (protoreflect.MethodDescriptor, error) {
	defer o.reflecting()()
	return findMethod(ctx, o.descriptors, o.method)
}

// reflecting begins a step of the timeline, and returns what ends it.
func (o *client) reflecting() (end func()) {
	if _, ok := o.descriptors.(*serverReflection); !ok {
		return func() {}
	}
	addr := o.tl.server()
	o.tl.begin(step{phase: phaseReflect, addr: addr, start: time.Now()})
	return func() { o.tl.finish(step{phase: phaseReflect, addr: addr, end: time.Now()}) }
}

// call makes one RPC.
func call(ctx context.Context, c *commandLine, s stdio) int {
	limit := cmp.Or(c.timeout, defaultTimeout)
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("--timeout is %v", limit))
	defer stop()
	steps := &rpcSteps{}
	if service, method, err := splitMethod(c.method); err == nil {
		steps.method = "/" + service + "/" + method
	} else if c.method != "" {
		return s.usage(err)
	}
	o, code := c.open(ctx, s, grpcdial.WithStatsHandler(steps))
	if o == nil {
		return code
	}
	steps.tl = o.tl
	if c.method == "" {
		end := o.reflecting()
		all, err := listMethods(ctx, o.descriptors)
		end()
		if err != nil {
			return o.fail(err)
		}
		o.close()
		if _, err := io.WriteString(s.out, strings.Join(append(all, ""), "\n")); err != nil {
			return exitFailed
		}
		return exitOK
	}
	method, err := o.findMethod(ctx)
	if err != nil {
		return o.fail(err)
	}
	requests, err := c.requests(method, messageTypes{ctx, o.descriptors}, s.in)
	if err != nil {
		return o.fail(err)
	}
	r := o.invoke(ctx, method, requests)
	if err := r.failed; err != nil {
		return o.fail(err)
	}
	o.complete()
	r.details = o.details(r.status)
	_ = o.cc.Close()
	return o.show(r)
}

// rpcResult is what an RPC brought.
type rpcResult struct {
	headers, trailers metadata.MD
	messages          []json.RawMessage // with --json, else they have been printed
	status            *status.Status    // nil: there was no RPC
	details           []json.RawMessage // of the status
	failed            error             // not of the RPC's: a request or a response that cannot be read or written
}

// invoke makes the RPC: it sends the requests while it prints the responses.
func (o *client) invoke(ctx context.Context, m protoreflect.MethodDescriptor, requests *requestReader) *rpcResult {
	r := &rpcResult{}
	ctx, stop := context.WithCancel(metadata.NewOutgoingContext(ctx, o.headers))
	defer stop()
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	stream, err := o.cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: m.IsStreamingClient(), ServerStreams: m.IsStreamingServer()}, name)
	if err != nil {
		r.status = status.Convert(err)
		return r
	}
	sent := make(chan error, 1)
	go func() {
		err := requests.sendAll(stream)
		sent <- err // before the RPC ends for it, which is when it is looked for
		if err != nil {
			stop()
		}
	}()
	types := messageTypes{ctx, o.descriptors}
	for {
		reply := requests.newReply()
		if err = stream.RecvMsg(reply); err != nil {
			break
		}
		if r.failed = o.take(r, types, reply); r.failed != nil {
			stop()
			break
		}
		if !m.IsStreamingServer() {
			break
		}
	}
	r.headers, _ = stream.Header()
	if !m.IsStreamingClient() || err != nil {
		// The requests are sent, or the RPC has ended and sending with it. One that is
		// read from a terminal is not waited for.
		select {
		case sendErr := <-sent:
			r.failed = cmp.Or(r.failed, sendErr)
		default:
		}
	}
	r.trailers = stream.Trailer()
	if err == io.EOF {
		err = nil
	}
	if r.status = status.Convert(err); r.status == nil {
		r.status = status.New(codes.OK, "")
	}
	return r
}

// take prints a response, or keeps it for --json.
func (o *client) take(r *rpcResult, types messageTypes, reply proto.Message) error {
	shown, err := o.marshal(types, reply)
	if err != nil {
		return fmt.Errorf("a response has no JSON form: %w", err)
	}
	if o.json {
		r.messages = append(r.messages, shown)
		return nil
	}
	o.progress.end()
	_, err = o.out.Write(append(shown, '\n'))
	return err
}

// show prints how the RPC ended, and returns the exit code.
func (o *client) show(r *rpcResult) int {
	o.report.status = r.status
	if o.json {
		if err := writeJSON(o.out, callJSON(o, r)); err != nil {
			return exitFailed
		}
	}
	if o.verbose && !o.json {
		writeMetadata(o.err, "Response headers", r.headers)
		writeMetadata(o.err, "Response trailers", r.trailers)
	}
	if o.trace {
		fmt.Fprintln(o.err)
		if drawReport(o.err, painter(o.err), o.report) != nil {
			return exitFailed
		}
		fmt.Fprintln(o.err)
	}
	if r.status.Code() == codes.OK {
		return exitOK
	}
	if !o.json {
		writeStatus(o.err, painter(o.err), r.status, r.details)
	}
	return statusExit(r.status.Code())
}

// now says what the latest step that runs is, for the line of progress.
func (t *timeline) now() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.findLocked(func(s *step) bool { return s.end.IsZero() })
	if i < 0 {
		return "waiting"
	}
	s := &t.steps[i]
	return fmt.Sprintf("%s  %s  for %v", cmp.Or(labels[s.phase], string(s.phase)), s.addr, time.Since(s.start).Truncate(100*time.Millisecond))
}
