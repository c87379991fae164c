package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial/internal/text"
)

// Bounds of a load.
const (
	defaultCallers  = 10
	defaultRequests = 200
	mostCallers     = 10_000
	mostRequests    = 10_000_000
)

// loadResult is what a load has measured.
type loadResult struct {
	target, method string
	callers        int
	elapsed        time.Duration
	latencies      latencies                 // of the RPCs that ended with OK
	codes          [statusCodes]atomic.Int64 // RPCs by their status

	mu    sync.Mutex
	texts [statusCodes]string // guarded by mu: the first message of each status
}

// statusCodes is how many status codes there are; greater ones are counted as Unknown.
const statusCodes = int(codes.Unauthenticated) + 1

// load makes many RPCs on one channel.
func load(ctx context.Context, c *commandLine, s stdio) int {
	limit := cmp.Or(c.timeout, defaultTimeout)
	dialing, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("--timeout is %v", limit))
	defer stop()
	if _, _, err := splitMethod(c.method); err != nil {
		return s.usage(err)
	}
	o, code := c.open(dialing, s)
	if o == nil {
		return code
	}
	method, err := o.findMethod(dialing)
	if err != nil {
		return o.fail(err)
	}
	requests, err := c.requests(method, messageTypes{dialing, o.descriptors}, s.in)
	if err != nil {
		return o.fail(err)
	}
	messages, err := requests.encoded()
	if err != nil {
		return o.fail(err)
	}
	r := &loadResult{target: o.report.target, method: fmt.Sprintf("%s/%s", method.Parent().FullName(), method.Name()), callers: cmp.Or(c.callers, defaultCallers)}
	o.progress.end()
	o.progress = c.progress(s.err, r.soFar)
	desc := &grpc.StreamDesc{ClientStreams: method.IsStreamingClient(), ServerStreams: method.IsStreamingServer()}
	r.run(ctx, c, func(ctx context.Context) error {
		ctx, stop := context.WithTimeout(metadata.NewOutgoingContext(ctx, c.headers), limit)
		defer stop()
		return exchangeAll(ctx, o.cc, desc, "/"+r.method, messages)
	})
	o.close()
	if c.json {
		err = writeJSON(s.out, loadJSON(r))
	} else {
		_, err = io.WriteString(s.out, r.text(painter(s.out)))
	}
	if err != nil || r.codes[codes.OK].Load() < r.done() || r.done() == 0 {
		return exitFailed
	}
	return exitOK
}

// encoded are all requests in protobuf's encoding: a load encodes them once.
func (r *requestReader) encoded() (all [][]byte, err error) {
	messages := r.first
	for r.rest != nil {
		m, err := r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	for _, m := range messages {
		b, err := proto.Marshal(m)
		if err != nil {
			return nil, &requestError{err}
		}
		all = append(all, b)
	}
	return all, nil
}

// rawCodec leaves messages as they are encoded: a request is a []byte, and a response is
// not looked at.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal([]byte, any) error   { return nil }
func (rawCodec) Name() string                  { return "proto" }

// exchangeAll makes one RPC to its end.
func exchangeAll(ctx context.Context, cc grpc.ClientConnInterface, desc *grpc.StreamDesc, method string, messages [][]byte) error {
	if !desc.ClientStreams && !desc.ServerStreams {
		return cc.Invoke(ctx, method, messages[0], nil, grpc.ForceCodec(rawCodec{}))
	}
	stream, err := cc.NewStream(ctx, desc, method, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	for _, m := range messages {
		if stream.SendMsg(m) != nil {
			break // the reason comes from RecvMsg
		}
	}
	_ = stream.CloseSend()
	for {
		switch err := stream.RecvMsg(nil); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case !desc.ServerStreams:
			return nil
		}
	}
}

// run has the callers make RPCs until there were as many as asked for, the time is over,
// or ctx has ended.
func (r *loadResult) run(ctx context.Context, c *commandLine, rpc func(context.Context) error) {
	most := int64(c.rpcs)
	if most == 0 && c.duration == 0 {
		most = defaultRequests
	} else if most == 0 {
		most = mostRequests
	}
	begun := time.Now()
	var end time.Time
	if c.duration > 0 {
		end = begun.Add(c.duration)
	}
	var tickets atomic.Int64
	var callers sync.WaitGroup
	for range min(int64(r.callers), most) {
		callers.Go(func() {
			for ctx.Err() == nil && (end.IsZero() || time.Now().Before(end)) && tickets.Add(1) <= most {
				at := time.Now()
				err := rpc(ctx)
				if ctx.Err() != nil {
					return // it was interrupted
				}
				r.add(time.Since(at), err)
			}
		})
	}
	callers.Wait()
	r.elapsed = time.Since(begun)
}

func (r *loadResult) add(took time.Duration, err error) {
	s := status.Convert(err)
	code := int(s.Code())
	if code >= statusCodes {
		code = int(codes.Unknown)
	}
	if r.codes[code].Add(1) == 1 && err != nil {
		r.mu.Lock()
		r.texts[code] = text.Cut(text.Line(s.Message()), 200)
		r.mu.Unlock()
	}
	if err == nil {
		r.latencies.add(took)
	}
}

// done is how many RPCs have ended.
func (r *loadResult) done() (n int64) {
	for i := range r.codes {
		n += r.codes[i].Load()
	}
	return n
}

func (r *loadResult) soFar() string {
	done := r.done()
	return fmt.Sprintf("%d RPCs, %d failed", done, done-r.codes[codes.OK].Load())
}

// perSecond is the rate of RPCs.
func (r *loadResult) perSecond() float64 {
	if r.elapsed <= 0 {
		return 0
	}
	return float64(r.done()) / r.elapsed.Seconds()
}

// text is the result for people.
func (r *loadResult) text(p paint) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s, %d callers\n\n%d RPCs in %v, %.1f a second\n", p.bold(r.method), r.target, r.callers, r.done(), text.Round(r.elapsed), r.perSecond())
	for code := range r.codes {
		n := r.codes[code].Load()
		if n == 0 {
			continue
		}
		name := p.green(pad("OK", 18))
		if code != int(codes.OK) {
			name = p.red(pad(codes.Code(code).String(), 18))
		}
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %s  %7d  %s", name, n, r.texts[code]), " ") + "\n")
	}
	if r.latencies.count() > 0 {
		b.WriteString("\n" + r.latencies.text(p))
	}
	return b.String()
}

type jsonLoad struct {
	Target    string           `json:"target"`
	Method    string           `json:"method"`
	Callers   int              `json:"callers"`
	RPCs      int64            `json:"rpcs"`
	ElapsedMS float64          `json:"elapsed_ms"`
	PerSecond float64          `json:"per_second"`
	Statuses  []jsonLoadStatus `json:"statuses"`
	Latency   *jsonLatency     `json:"latency,omitempty"`
}

type jsonLoadStatus struct {
	Code    int    `json:"code"`
	Name    string `json:"name"`
	RPCs    int64  `json:"rpcs"`
	Message string `json:"message,omitempty"`
}

type jsonLatency struct {
	FastestMS float64      `json:"fastest_ms"`
	MeanMS    float64      `json:"mean_ms"`
	P50MS     float64      `json:"p50_ms"`
	P90MS     float64      `json:"p90_ms"`
	P99MS     float64      `json:"p99_ms"`
	SlowestMS float64      `json:"slowest_ms"`
	Histogram []jsonBucket `json:"histogram"`
}

type jsonBucket struct {
	FromMS float64 `json:"from_ms"`
	ToMS   float64 `json:"to_ms"`
	RPCs   int64   `json:"rpcs"`
}

func loadJSON(r *loadResult) jsonLoad {
	out := jsonLoad{Target: r.target, Method: r.method, Callers: r.callers, RPCs: r.done(), ElapsedMS: milliseconds(r.elapsed), PerSecond: r.perSecond(), Statuses: []jsonLoadStatus{}}
	for code := range r.codes {
		if n := r.codes[code].Load(); n > 0 {
			out.Statuses = append(out.Statuses, jsonLoadStatus{code, codes.Code(code).String(), n, r.texts[code]})
		}
	}
	if l := &r.latencies; l.count() > 0 {
		out.Latency = &jsonLatency{milliseconds(l.fastest()), milliseconds(l.mean()), milliseconds(l.quantile(0.5)), milliseconds(l.quantile(0.9)), milliseconds(l.quantile(0.99)), milliseconds(l.slowest()), nil}
		for _, row := range l.rows() {
			out.Latency.Histogram = append(out.Latency.Histogram, jsonBucket{milliseconds(row.from), milliseconds(row.to), row.n})
		}
	}
	return out
}
