package e2e_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A scenario is played twice, on a channel of grpc-go's and on one of ours, each
// with a scripted server of its own. The program's view, the server's view and the events
// of stats handlers must be the same, line by line.
//
// The words of errors that the client makes are not compared. Those of the
// server begin with "script:".
type scenario struct {
	name string
	dial []mirrored
	// via makes another target that leads to the server, and its options.
	via   func(addr string) (target string, dial []mirrored)
	serve func(*h2test.Stream) // nil: standard
	// script makes a server's own, in place of serve, if it remembers something.
	script func() func(*h2test.Stream)
	act    func(*stage)
	// uncompared: the stats events of what comes in depend on which is faster, the
	// client's end of the RPC or the server's.
	uncompared bool
	// cut: whether the server sees RST_STREAM before the connection's end is chance.
	cut bool
	// ours are lines that are different on purpose, by what grpc-go's are.
	ours map[string]string
}

// instead is grpc-go's text with the lines that are different on purpose as ours.
func (sc *scenario) instead(text string) string {
	lines := strings.Split(text, "\n")
	for n, line := range lines {
		if ours, ok := sc.ours[line]; ok {
			lines[n] = ours
		}
	}
	return strings.Join(lines, "\n")
}

// mirrored is one dial option, for both.
type mirrored struct {
	theirs grpc.DialOption
	ours   grpcdial.DialOption
}

// stage is one side of a scenario.
type stage struct {
	t     *testing.T
	cc    grpc.ClientConnInterface
	close func() error
	srv   *h2test.Server
	stats *statsLog
	cut   bool // the scenario's

	mu     sync.Mutex
	seen   []string                            // guarded by mu: what the program sees
	wire   map[*h2test.Stream]*strings.Builder // guarded by mu: what the server sees
	resets int                                 // guarded by mu
	ended  int                                 // guarded by mu: requests
	begun  []*h2test.Stream                    // guarded by mu: in their order
}

// play plays scenarios on grpc-go's channel and ours.
func play(t *testing.T, scenarios []scenario) {
	playOn(t, scenarios, func(cc *grpcdial.ClientConn) grpc.ClientConnInterface { return cc })
}

// playWithBridge also plays them on the *grpc.ClientConn that ours has.
func playWithBridge(t *testing.T, scenarios []scenario) {
	play(t, scenarios)
	t.Run("bridge", func(t *testing.T) {
		playOn(t, scenarios, func(cc *grpcdial.ClientConn) grpc.ClientConnInterface { return cc.GRPC() })
	})
}

func playOn(t *testing.T, scenarios []scenario, calls func(*grpcdial.ClientConn) grpc.ClientConnInterface) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			want := newStage(t, &sc, func(target string, dial []mirrored, handler *statsLog) (grpc.ClientConnInterface, func() error) {
				opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("test.example"), grpc.WithStatsHandler(handler)}
				for _, m := range dial {
					opts = append(opts, m.theirs)
				}
				cc, err := grpc.NewClient(target, opts...)
				require.NoError(t, err)
				return cc, cc.Close
			})
			want.play(&sc)
			got := newStage(t, &sc, func(target string, dial []mirrored, handler *statsLog) (grpc.ClientConnInterface, func() error) {
				opts := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithAuthority("test.example"), grpcdial.WithStatsHandler(handler)}
				for _, m := range dial {
					opts = append(opts, m.ours)
				}
				cc, err := grpcdial.NewClient(target, opts...)
				require.NoError(t, err)
				return calls(cc), cc.Close
			})
			got.play(&sc)

			same(t, "what the program sees", sc.instead(strings.Join(want.seen, "\n")), strings.Join(got.seen, "\n"))
			same(t, "what the server sees", sc.instead(want.onWire()), got.onWire())
			same(t, "stats events of calls", sc.instead(attempts(want.stats.calls)), attempts(got.stats.calls))
			if !sc.uncompared {
				same(t, "stats events of what comes in", sc.instead(attempts(want.stats.received)), attempts(got.stats.received))
			}
		})
	}
}

// same shows the lines that are different, with what is around them.
func same(t *testing.T, what, theirs, ours string) {
	t.Helper()
	if theirs == ours {
		return
	}
	a, b := strings.Split(theirs, "\n"), strings.Split(ours, "\n")
	common := make([][]int, len(a)+1) // length of the longest common part of a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var lines []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, "  "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "- "+a[i])
			i++
		default:
			lines = append(lines, "+ "+b[j])
			j++
		}
	}
	t.Errorf("%s is not the same, grpc-go's (-) and ours (+):\n%s", what, strings.Join(lines, "\n"))
}

func newStage(t *testing.T, sc *scenario, dial func(string, []mirrored, *statsLog) (grpc.ClientConnInterface, func() error)) *stage {
	st := &stage{t: t, srv: h2test.Listen(t), stats: new(statsLog), cut: sc.cut, wire: make(map[*h2test.Stream]*strings.Builder)}
	serve := sc.serve
	if sc.script != nil {
		serve = sc.script()
	} else if serve == nil {
		serve = standard
	}
	st.srv.Serve(func(s *h2test.Stream) {
		st.watch(s)
		serve(s)
	})
	target, opts := st.srv.Target(), sc.dial
	if sc.via != nil {
		target, opts = sc.via(st.srv.Addr())
	}
	st.cc, st.close = dial(target, opts, st.stats)
	return st
}

// play ends when all that belongs to the scenario has ended.
func (st *stage) play(sc *scenario) {
	sc.act(st)
	_ = st.close()
	st.srv.Close()
	require.Eventually(st.t, st.stats.over, time.Minute, time.Millisecond, "each attempt ends")
}

// watch notes what the server sees, before the script answers.
func (st *stage) watch(s *h2test.Stream) {
	st.mu.Lock()
	defer st.mu.Unlock()
	b := st.wire[s]
	if b == nil {
		b = new(strings.Builder)
		st.wire[s] = b
		st.begun = append(st.begun, s)
		lines := make([]string, 0, len(s.Headers.Fields))
		for _, f := range s.Headers.Fields {
			if f.Name == "grpc-timeout" {
				f.Value = "some time"
			}
			lines = append(lines, f.Name+": "+f.Value)
		}
		slices.SortStableFunc(lines, func(a, b string) int {
			return strings.Compare(a[:1+strings.Index(a[1:], ":")], b[:1+strings.Index(b[1:], ":")])
		})
		b.WriteString(strings.Join(lines, "\n"))
	}
	if s.Reset {
		if !st.cut {
			fmt.Fprintf(b, "\nRST %v", s.Frame.Code)
		}
		st.resets++
	}
	if s.Frame.EndStream() {
		b.WriteString("\nEND_STREAM")
		st.ended++
	}
}

// onWire is what the server saw, stream by stream.
func (st *stage) onWire() string {
	var all []string
	for _, s := range st.begun {
		all = append(all, st.wire[s].String())
	}
	return sameAgent(strings.Join(all, "\n\n"))
}

// attempts is the events of attempts, in their order.
func attempts(events [][]string) string {
	var all []string
	for _, a := range events {
		all = append(all, strings.Join(a, "\n"))
	}
	return sameAgent(strings.Join(all, "\n\n"))
}

// sameAgent hides what is different in every RPC: the two libraries' names.
func sameAgent(text string) string {
	return strings.NewReplacer("grpc-go/"+grpc.Version, "library", "grpc-go-grpcdial/0.1.0", "library").Replace(text)
}

// awaitReset waits until the server has seen so many streams reset.
func (st *stage) awaitReset(n int) {
	st.t.Helper()
	require.Eventually(st.t, func() bool { st.mu.Lock(); defer st.mu.Unlock(); return st.resets >= n }, time.Minute, time.Millisecond, "resets")
}

// awaitEnded waits until the server has seen so many requests to their end, and stats
// handlers have received as many messages: that happens at the same time.
func (st *stage) awaitEnded(n int) {
	st.t.Helper()
	assert.Eventually(st.t, func() bool { st.mu.Lock(); defer st.mu.Unlock(); return st.ended >= n }, time.Minute, time.Millisecond, "requests")
	assert.Eventually(st.t, func() bool { st.stats.mu.Lock(); defer st.stats.mu.Unlock(); return st.stats.sent >= n }, time.Minute, time.Millisecond, "messages")
}

func (st *stage) note(format string, args ...any) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.seen = append(st.seen, fmt.Sprintf(format, args...))
}

// shown is an error without the client's own words.
func shown(err error) string {
	switch {
	case err == nil:
		return "nil"
	case err == io.EOF:
		return "EOF"
	}
	st, ok := status.FromError(err)
	text := fmt.Sprintf("status=%t %v", ok, st.Code())
	if n := strings.Index(st.Message(), "script:"); n >= 0 && st.Code() != codes.DeadlineExceeded { // there we say more
		text += " " + st.Message()[n:]
	}
	for _, d := range st.Details() {
		text += fmt.Sprintf(" %v", d)
	}
	return text
}

// shownMD shows metadata, and whether there is a map that a program may write to.
func shownMD(md metadata.MD) string {
	if md == nil {
		return "nil"
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(md)) {
		fmt.Fprintf(&b, "%s=%q ", k, md[k])
	}
	return "{" + b.String() + "}"
}

// context bounds what must not take long. It is the same for both sides.
func (st *stage) context() context.Context { return backendtest.Bounded(st.t) }

// noted are options whose outcome show notes.
type noted struct {
	header, trailer metadata.MD
	peer            peer.Peer
	finished        chan error
}

func newNoted() *noted { return &noted{finished: make(chan error, 10)} }

func (n *noted) options(more ...grpc.CallOption) []grpc.CallOption {
	return append([]grpc.CallOption{grpc.Header(&n.header), grpc.Trailer(&n.trailer), grpc.Peer(&n.peer),
		grpc.OnFinish(func(err error) { n.finished <- err })}, more...)
}

// show notes what the options brought. The RPC has ended.
func (n *noted) show(st *stage) {
	select {
	case err := <-n.finished:
		st.note("OnFinish: %s", shown(err))
	case <-time.After(time.Minute):
		st.note("OnFinish was not called")
	}
	st.note("OnFinish again: %t", len(n.finished) > 0)
	st.note("header option: %s", shownMD(n.header))
	st.note("trailer option: %s", shownMD(n.trailer))
	auth := ""
	if n.peer.AuthInfo != nil {
		auth = n.peer.AuthInfo.AuthType()
	}
	st.note("peer option: addr=%t local=%t auth=%q", n.peer.Addr != nil, n.peer.LocalAddr != nil, auth)
}

// invoke makes a unary RPC and notes all there is to see of it.
func (st *stage) invoke(ctx context.Context, method, question string, opts ...grpc.CallOption) {
	n := newNoted()
	reply := new(wrapperspb.StringValue)
	err := st.cc.Invoke(ctx, method, wrapperspb.String(question), reply, n.options(opts...)...)
	st.note("Invoke %s: %s, reply of %d bytes", method, shown(err), len(reply.Value))
	n.show(st)
}

// kinds are the kinds of streams.
var kinds = map[string]*grpc.StreamDesc{
	"unary":  {},
	"client": {ClientStreams: true},
	"server": {ServerStreams: true},
	"bidi":   {ClientStreams: true, ServerStreams: true},
}

// talk opens a stream, sends questions, half-closes, receives to the end, and
// notes all there is to see.
func (st *stage) talk(ctx context.Context, desc *grpc.StreamDesc, method string, questions []string, opts ...grpc.CallOption) {
	n := newNoted()
	cs := st.open(ctx, desc, method, n.options(opts...)...)
	if cs != nil {
		for _, q := range questions {
			st.note("SendMsg: %s", shown(cs.SendMsg(wrapperspb.String(q))))
		}
		st.note("CloseSend: %s", shown(cs.CloseSend()))
		st.drain(cs)
	}
	n.show(st)
}

func (st *stage) open(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) grpc.ClientStream {
	cs, err := st.cc.NewStream(ctx, desc, method, opts...)
	st.note("NewStream %s: %s", method, shown(err))
	return cs
}

// drain receives to the end.
func (st *stage) drain(cs grpc.ClientStream) {
	for range 10 {
		reply := new(wrapperspb.StringValue)
		err := cs.RecvMsg(reply)
		st.note("RecvMsg: %s, %d bytes", shown(err), len(reply.Value))
		if err != nil {
			break
		}
	}
	md, err := cs.Header()
	st.note("Header: %s %s", shownMD(md), shown(err))
	st.note("Trailer: %s", shownMD(cs.Trailer()))
}

// everyKind runs f for unary RPCs and for streams of each kind.
func (st *stage) everyKind(f func(kind string, do func(ctx context.Context, method, question string, opts ...grpc.CallOption))) {
	f("Invoke", st.invoke)
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		f(kind, func(ctx context.Context, method, question string, opts ...grpc.CallOption) {
			st.note("kind %s", kind)
			st.talk(ctx, kinds[kind], method, []string{question}, opts...)
		})
	}
}

// standard is what the servers do, by method:
//
//	/t/Echo   headers at once, each message back, trailers at the end
//	/t/Fail   fails at the end, without headers
//	/t/Reject fails as soon as the RPC begins
//	/t/Wait   headers at once, and nothing more
//	/t/Silent nothing
//	/t/Gzip   as Echo, and says grpc-encoding: gzip, though no message is compressed
func standard(s *h2test.Stream) {
	if s.Reset {
		return
	}
	first := s.Frame == s.Headers
	switch s.Method() {
	case "/t/Fail":
		if s.Ended {
			s.SendTrailers(codes.NotFound, "script: not here", "t", "1")
		}
	case "/t/Reject":
		s.SendTrailers(codes.ResourceExhausted, "script: no more", "t", "1")
	case "/t/Wait":
		if first {
			s.SendHeaders("h", "1")
		}
	case "/t/Silent":
	default:
		if first {
			extra := []string{"h", "1", "h", "2", "h-bin", "AP8"}
			if s.Method() == "/t/Gzip" {
				extra = append(extra, "grpc-encoding", "gzip")
			}
			s.SendHeaders(extra...)
		}
		for _, m := range s.Take() {
			s.Conn().Data(s.ID, false, h2test.PutMessage(m.Compressed, m.Payload))
		}
		if s.Ended {
			s.SendTrailers(codes.OK, "", "t", "1")
		}
	}
}
