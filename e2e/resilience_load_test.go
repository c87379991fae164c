package e2e_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// diary is what all sides of a test know of its RPCs, whose names are in their metadata.
type diary struct {
	mu   sync.Mutex
	rpcs map[string]*rpcRecord
}

type rpcRecord struct {
	stream      bool
	begun       int      // times that the headers of its request were read
	handled     int      // times that a handler began
	arrived     []string // connections on which the request was read to its end; a stream's, its headers
	unprocessed int      // times that a server refused it, or left it out by GOAWAY
	returned    int      // times that it ended for its caller
	finished    int      // calls of OnFinish
	err         error    // how it ended
	last        string   // the connection of its last attempt
}

func newDiary() *diary { return &diary{rpcs: make(map[string]*rpcRecord)} }

// note changes what is known of an RPC.
func (d *diary) note(name string, f func(*rpcRecord)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.rpcs[name]
	if r == nil {
		r = new(rpcRecord)
		d.rpcs[name] = r
	}
	f(r)
}

// check holds the RPCs, which have all ended, to what must be true of each. One
// that failed must have been on the wire: excused says for which of them that
// cannot be known. It returns how many failed.
func (d *diary) check(t *testing.T, excused func(*rpcRecord) bool) (failed int) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	again := 0
	for name, r := range d.rpcs {
		assert.Equal(t, 1, r.returned, "%s ended once", name)
		assert.Equal(t, 1, r.finished, "%s called OnFinish once", name)
		assert.LessOrEqual(t, r.handled, 1, "%s was sent again though a server had it", name)
		if r.begun > 1 {
			again++
		}
		if r.err == nil {
			assert.Equal(t, 1, r.handled, "%s ended well, so it was handled", name)
			continue
		}
		failed++
		assert.Equal(t, codes.Unavailable, status.Code(r.err), "%s: %v", name, r.err)
		if !slices.Contains(r.arrived, r.last) && r.unprocessed < 2 && !excused(r) {
			t.Errorf("%s was lost though no server can have had it: %v", name, r.err)
		}
	}
	t.Logf("%d RPCs, %d failed, %d begun more than once", len(d.rpcs), failed, again)
	return failed
}

// load is callers that make one RPC after the other, unary and streams.
type load struct {
	t       *testing.T
	cc      *grpcdial.ClientConn
	diary   *diary
	stop    func() // the callers make no more RPCs
	stopped chan struct{}
	callers sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond // of what follows
	ended   [32]int   // guarded by mu: RPCs, by caller
	sum     int       // guarded by mu: all of them
}

func startLoad(t *testing.T, cc *grpcdial.ClientConn, d *diary) *load {
	l := &load{t: t, cc: cc, diary: d, stopped: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(l.stopped) })
	t.Cleanup(l.stop)
	l.changed.L = &l.mu
	for i := range l.ended {
		l.callers.Go(func() { l.run(i) })
	}
	return l
}

func (l *load) run(caller int) {
	for n := 0; ; n++ {
		select {
		case <-l.stopped:
			return
		default:
		}
		name := fmt.Sprintf("rpc-%d-%d", caller, n)
		stream := caller%4 == 3
		l.diary.note(name, func(r *rpcRecord) { r.stream = stream })
		ctx, cancel := context.WithTimeout(context.Background(), backendtest.Patience)
		ctx = metadata.AppendToOutgoingContext(ctx, "rpc-name", name)
		var p peer.Peer
		opts := []grpc.CallOption{grpc.WaitForReady(true), grpc.Peer(&p), grpc.OnFinish(func(error) {
			l.diary.note(name, func(r *rpcRecord) { r.finished++ })
		})}
		var err error
		if stream {
			err = talk(ctx, l.cc, opts...)
		} else {
			err = l.cc.Invoke(ctx, "/test.Diary/Unary", anySize(), new(wrapperspb.BytesValue), opts...)
		}
		cancel()
		l.diary.note(name, func(r *rpcRecord) {
			r.err, r.last = err, nameOf(p.LocalAddr)
			r.returned++
		})
		l.mu.Lock()
		l.ended[caller]++
		l.sum++
		l.changed.Broadcast()
		l.mu.Unlock()
	}
}

// talk has each of a few messages answered, while it goes on sending or before it
// does.
func talk(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error {
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Diary/Stream", opts...)
	if err != nil {
		return err
	}
	messages, answers := rand.IntN(4), 0
	receive := func() (err error) {
		if err = s.RecvMsg(new(wrapperspb.BytesValue)); err == nil {
			answers++
		}
		return err
	}
	inTurn := rand.IntN(2) == 0
	var sender sync.WaitGroup
	sender.Go(func() {
		if inTurn {
			return
		}
		for range messages {
			if s.SendMsg(anySize()) != nil {
				return // RecvMsg returns the cause
			}
		}
		_ = s.CloseSend()
	})
	defer sender.Wait()
	if inTurn {
		for range messages {
			if err := s.SendMsg(anySize()); err != nil && err != io.EOF {
				return err
			}
			if err := receive(); err != nil {
				return err
			}
		}
		_ = s.CloseSend()
	}
	for err == nil {
		err = receive()
	}
	if err == io.EOF && answers == messages {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("%d answers to %d messages", answers, messages)
	}
	return err
}

var megabyte = make([]byte, 1<<20)

func sized(n int) *wrapperspb.BytesValue { return wrapperspb.Bytes(megabyte[:n]) }

// anySize is a message of a small, middle or large size.
func anySize() *wrapperspb.BytesValue {
	switch n := rand.IntN(40); {
	case n == 0:
		return sized(200_000)
	case n < 10:
		return sized(16_000)
	default:
		return sized(10)
	}
}

// goOn waits until each caller has ended two RPCs more, so at least one that it
// began after goOn.
func (l *load) goOn() {
	l.t.Helper()
	l.mu.Lock()
	before := l.ended
	l.mu.Unlock()
	l.await(func() bool {
		for i := range l.ended {
			if l.ended[i] < before[i]+2 {
				return false
			}
		}
		return true
	})
}

// more waits until n RPCs more have ended.
func (l *load) more(n int) {
	l.t.Helper()
	l.mu.Lock()
	goal := l.sum + n
	l.mu.Unlock()
	l.await(func() bool { return l.sum >= goal })
}

// await waits until cond, which is asked with mu held.
func (l *load) await(cond func() bool) {
	l.t.Helper()
	late := false
	timer := time.AfterFunc(backendtest.Patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.changed.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !cond() {
		if late {
			l.t.Fatalf("RPCs do not go on: %v ended", l.ended)
		}
		l.changed.Wait()
	}
}

// end has the callers stop and closes the channel.
func (l *load) end() {
	l.t.Helper()
	l.stop()
	l.callers.Wait()
	assert.Zero(l.t, rpcsRunning(l.t, l.cc), "RPCs that run")
	require.NoError(l.t, l.cc.Close())
	backendtest.AssertNothingRuns(l.t)
}

// diaryServer is a grpc-go server that notes what it handles.
type diaryServer struct {
	t     *testing.T
	diary *diary
	addr  string
	opts  []grpc.ServerOption
	srv   *grpc.Server
	done  chan struct{}
}

func startDiaryServer(t *testing.T, d *diary, opts ...grpc.ServerOption) *diaryServer {
	t.Helper()
	s := &diaryServer{t: t, diary: d, addr: "127.0.0.1:0", opts: append(opts, grpc.UnknownServiceHandler(d.handle))}
	s.start()
	t.Cleanup(func() { s.stop((*grpc.Server).Stop) })
	return s
}

// start listens, at the same address each time.
func (s *diaryServer) start() {
	s.t.Helper()
	var lis net.Listener
	backendtest.Eventually(s.t, func() (ok bool) { // the kernel may have given the port to another connection
		var err error
		lis, err = net.Listen("tcp", s.addr)
		return err == nil
	}, "listen again")
	srv, done := grpc.NewServer(s.opts...), make(chan struct{})
	s.addr, s.srv, s.done = lis.Addr().String(), srv, done
	go func() {
		defer close(done)
		_ = srv.Serve(lis)
	}()
}

func (s *diaryServer) stop(how func(*grpc.Server)) {
	how(s.srv)
	<-s.done
}

// handle answers each message. A unary RPC counts as handled once its request is
// there.
func (d *diary) handle(_ any, s grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	begun := func() { d.note(md.Get("rpc-name")[0], func(r *rpcRecord) { r.handled++ }) }
	method, _ := grpc.MethodFromServerStream(s)
	unary := method == "/test.Diary/Unary"
	if !unary {
		begun()
	}
	for {
		if err := s.RecvMsg(new(wrapperspb.BytesValue)); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if unary {
			begun()
		}
		if err := s.SendMsg(sized(10)); err != nil {
			return err
		}
	}
}

// channelTo makes a channel that the test closes, if it does not do so itself.
func channelTo(t *testing.T, target string, creds credentials.TransportCredentials, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	cc, err := grpcdial.NewClient(target, append(opts, grpcdial.WithTransportCredentials(creds))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}
