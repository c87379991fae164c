package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// eventLog is a stats handler that records its calls.
type eventLog struct {
	name string // tags contexts

	mu     sync.Mutex
	events []string        // guarded by mu
	conn   context.Context // guarded by mu: that of the latest ConnBegin
}

type tag string

func (l *eventLog) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, tag(l.name), info.FullMethodName)
}

func (l *eventLog) HandleRPC(ctx context.Context, s stats.RPCStats) {
	l.note(fmt.Sprintf("%v %T", ctx.Value(tag(l.name)), s))
}

func (l *eventLog) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	p, ok := peer.FromContext(ctx)
	l.note(fmt.Sprintf("TagConn remote=%v local=%t peer=%t", info.RemoteAddr, info.LocalAddr != nil, ok && p.Addr == info.RemoteAddr))
	return context.WithValue(ctx, tag(l.name), "connection")
}

func (l *eventLog) HandleConn(ctx context.Context, s stats.ConnStats) {
	if _, begins := s.(*stats.ConnBegin); begins {
		l.mu.Lock()
		l.conn = ctx
		l.mu.Unlock()
	}
	l.note(fmt.Sprintf("%v %T client=%t", ctx.Value(tag(l.name)), s, s.IsClient()))
}

func (l *eventLog) note(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, event)
}

// of returns the events whose text holds part.
func (l *eventLog) of(part string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, e := range l.events {
		if strings.Contains(e, part) {
			found = append(found, e)
		}
	}
	return found
}

func (l *eventLog) latestConn() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn
}

// TestStatsHandlerOption: every handler receives the events of every RPC.
func TestStatsHandlerOption(t *testing.T) {
	srv := backendtest.StartEcho(t)
	first, second := &eventLog{name: "1"}, &eventLog{name: "2"}
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure(), grpcdial.WithStatsHandler(first), grpcdial.WithStatsHandler(nil), grpcdial.WithStatsHandler(second))
	_, err := backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
	require.NoError(t, cc.Close())
	events := first.of("/test.Echo/Echo")
	for _, want := range []string{"*stats.Begin", "*stats.OutHeader", "*stats.OutPayload", "*stats.InHeader", "*stats.InPayload", "*stats.InTrailer", "*stats.End"} {
		assert.Contains(t, events, "/test.Echo/Echo "+want)
	}
	assert.Equal(t, events, second.of("/test.Echo/Echo"))
}

// TestConnectionStats: handlers receive the events of connections as from grpc-go, each
// with the context that TagConn made for it.
func TestConnectionStats(t *testing.T) {
	srv := backendtest.StartEcho(t)
	theirs, ours := &eventLog{name: "1"}, &eventLog{name: "1"}
	other, err := grpc.NewClient(srv.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(theirs))
	require.NoError(t, err)
	require.NoError(t, other.Invoke(backendtest.Bounded(t), "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue)))
	require.NoError(t, other.Close())

	cc := newClient(t, srv.Addr, grpcdial.WithInsecure(), grpcdial.WithStatsHandler(ours))
	_, err = backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
	require.NoError(t, ours.latestConn().Err(), "the connection's context lives")
	require.NoError(t, cc.Close())
	assert.ErrorIs(t, ours.latestConn().Err(), context.Canceled, "it ends with the connection")
	assert.ErrorIs(t, theirs.latestConn().Err(), context.Canceled)

	assert.Eventually(t, func() bool { return len(theirs.of("ConnEnd")) == 1 }, time.Minute, time.Millisecond)
	assert.Equal(t, slices.Concat(theirs.of("TagConn"), theirs.of("connection")), slices.Concat(ours.of("TagConn"), ours.of("connection")))
	assert.Equal(t, []string{"connection *stats.ConnBegin client=true", "connection *stats.ConnEnd client=true"}, ours.of("connection"))
	begun, first := slices.Index(ours.events, "connection *stats.ConnBegin client=true"), slices.Index(ours.events, "/test.Echo/Echo *stats.OutHeader")
	assert.Less(t, begun, first, "a connection is reported before the RPCs on it")
}

// TestConnectionStatsOfEachConnection: the end of a connection that the server ends is
// reported, though the channel lives on.
func TestConnectionStatsOfEachConnection(t *testing.T) {
	addr, stop := backendtest.Run(t, grpc.NewServer())
	log := &eventLog{name: "1"}
	cc := newClient(t, addr, grpcdial.WithInsecure(), grpcdial.WithStatsHandler(log))
	ctx := backendtest.Bounded(t)
	require.NoError(t, cc.AwaitReady(ctx))
	assert.Empty(t, log.of("ConnEnd"))
	stop()
	require.True(t, cc.WaitForStateChange(ctx, connectivity.Ready))
	assert.Eventually(t, func() bool { return len(log.of("ConnEnd")) == 1 }, time.Minute, time.Millisecond)
	assert.Len(t, log.of("ConnBegin"), 1)
}
