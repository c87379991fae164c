package channelzdata_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

// openChannel makes a channel's data, closed at the end of the test.
func openChannel(t testing.TB, target string) *channelzdata.Channel {
	t.Helper()
	c := channelzdata.Open(target, nil, nil)
	t.Cleanup(c.Close)
	return c
}

func addresses(addrs ...string) []resolver.Address {
	var all []resolver.Address
	for _, a := range addrs {
		all = append(all, resolver.Address{Addr: a})
	}
	return all
}

func tcp(port int) *net.TCPAddr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port} }

// socketCounts is a connection's counters made by hand.
type socketCounts channelzdata.SocketCounts

func (n *socketCounts) SocketCounts() channelzdata.SocketCounts { return channelzdata.SocketCounts(*n) }

// callCounts is a channel's counters made by hand.
type callCounts channelzdata.Calls

func (n *callCounts) Calls() channelzdata.Calls { return channelzdata.Calls(*n) }

func channelRecord(t testing.TB, id int64) channelzdata.ChannelRecord {
	t.Helper()
	r, ok := channelzdata.FindChannel(id)
	require.True(t, ok, "channel %d", id)
	return r
}

func subchannelRecord(t testing.TB, id int64) channelzdata.SubchannelRecord {
	t.Helper()
	r, ok := channelzdata.FindSubchannel(id)
	require.True(t, ok, "subchannel %d", id)
	return r
}

func texts(events []channelzdata.Event) []string {
	var all []string
	for _, e := range events {
		all = append(all, e.Text)
	}
	return all
}

func ids(refs []channelzdata.Ref) []int64 {
	var all []int64
	for _, r := range refs {
		all = append(all, r.ID)
	}
	return all
}

func TestChannelRecordsItsLife(t *testing.T) {
	before := time.Now()
	started := before.Add(time.Second)
	c := channelzdata.Open("dns:///example", nil, &callCounts{Started: 3, Succeeded: 1, Failed: 1, LastStarted: started})
	t.Cleanup(c.Close)
	c.State(connectivity.Connecting, nil)
	c.Resolved(resolver.State{Endpoints: []resolver.Endpoint{{Addresses: addresses("10.0.0.1:1")}, {Addresses: addresses("10.0.0.2:2")}}})
	c.Policy("pick_first")
	c.State(connectivity.TransientFailure, errors.New("refused"))
	c.Unresolved(errors.New("no such host"))
	c.Note(channelzdata.Error, "something else")

	r := channelRecord(t, c.ID())
	assert.Equal(t, channelzdata.Ref{ID: c.ID(), Name: "dns:///example"}, r.Ref)
	assert.Equal(t, connectivity.TransientFailure, r.State)
	assert.Equal(t, channelzdata.Calls{Started: 3, Succeeded: 1, Failed: 1, LastStarted: started}, r.Calls)
	assert.WithinRange(t, r.Created, before.Truncate(time.Microsecond), time.Now())
	assert.EqualValues(t, 7, r.Logged)
	assert.Equal(t, []string{
		"Channel Created",
		"State changed to CONNECTING",
		"Resolved to 2 addresses: 10.0.0.1:1, 10.0.0.2:2",
		"Load balancing policy changed to pick_first",
		"State changed to TRANSIENT_FAILURE: refused",
		"Resolver failed: no such host",
		"something else",
	}, texts(r.Events))
	last := r.Created
	for i, severity := range []channelzdata.Severity{channelzdata.Info, channelzdata.Info, channelzdata.Info, channelzdata.Info, channelzdata.Warning, channelzdata.Warning, channelzdata.Error} {
		assert.Equal(t, severity, r.Events[i].Severity, r.Events[i].Text)
		assert.False(t, r.Events[i].Time.Before(last), "events are in order")
		last = r.Events[i].Time
	}
}

func TestClosedChannelIsNotListed(t *testing.T) {
	c := channelzdata.Open("a", nil, nil)
	s := c.NewSubchannel(addresses("b"))
	k := s.NewSocket(&peer.Peer{Addr: tcp(1)}, "", nil)
	c.Close()
	c.Close()

	_, ok := channelzdata.FindChannel(c.ID())
	assert.False(t, ok)
	_, ok = channelzdata.FindSubchannel(s.ID())
	assert.False(t, ok)
	_, ok = channelzdata.FindSocket(k.ID())
	assert.False(t, ok)

	// What comes late is dropped.
	c.State(connectivity.Idle, nil)
	c.Resolved(resolver.State{})
	s.State(connectivity.Idle, nil)
	s.Addresses(nil)
	s.Note(channelzdata.Info, "late")
	late := c.NewSubchannel(nil)
	lateSocket := late.NewSocket(nil, "", nil)
	assert.NotZero(t, late.ID())
	k.Close(nil)
	lateSocket.Close(nil)
	late.Close()
	s.Close()
	_, ok = channelzdata.FindSubchannel(late.ID())
	assert.False(t, ok)
	_, ok = channelzdata.FindSocket(lateSocket.ID())
	assert.False(t, ok)
}

func TestNilDataTakesEverything(t *testing.T) {
	var c *channelzdata.Channel
	c.State(connectivity.Ready, nil)
	c.Resolved(resolver.State{})
	c.Unresolved(errors.New("x"))
	c.Policy("x")
	c.Note(channelzdata.Info, "x")
	assert.Equal(t, "Channel", c.Identifier().String(), "policies of grpc-go's log it")
	assert.Zero(t, c.ID())
	s := c.NewSubchannel(addresses("x"))
	s.State(connectivity.Ready, nil)
	s.Addresses(nil)
	s.Note(channelzdata.Info, "x")
	assert.Zero(t, s.ID())
	k := s.NewSocket(nil, "", nil)
	assert.Zero(t, k.ID())
	k.Close(nil)
	s.Close()
	c.Close()
}

// Without package channelz nothing can ask for the data, and no channel has any.
func TestNothingIsKeptUnasked(t *testing.T) {
	channelzdata.KeepNothing(t)
	c := channelzdata.Open("a", nil, nil)
	assert.Nil(t, c)
	assert.Nil(t, c.NewSubchannel(addresses("b")))
	channelzdata.Keep()
	nested := channelzdata.Open("nested", c.Identifier(), nil)
	t.Cleanup(nested.Close)
	top, _ := channelzdata.TopChannels(nested.ID(), 1, nil)
	require.Len(t, top, 1, "its parent is unknown")
	assert.Equal(t, nested.ID(), top[0].ID)
}

func TestIdsAreNeverUsedTwice(t *testing.T) {
	c := openChannel(t, "a")
	s := c.NewSubchannel(nil)
	k := s.NewSocket(nil, "", nil)
	d := openChannel(t, "b")
	all := []int64{channelzdata.FirstID, c.ID(), s.ID(), k.ID(), d.ID()}
	for i := 1; i < len(all); i++ {
		assert.Greater(t, all[i], all[i-1])
	}
	// One kind's id is not another's.
	_, ok := channelzdata.FindChannel(s.ID())
	assert.False(t, ok)
	_, ok = channelzdata.FindSubchannel(k.ID())
	assert.False(t, ok)
	_, ok = channelzdata.FindSocket(s.ID())
	assert.False(t, ok)
	_, ok = channelzdata.FindSubchannel(c.ID())
	assert.False(t, ok)
}

func TestTraceKeepsTheLatest32(t *testing.T) {
	c := openChannel(t, "a")
	s := c.NewSubchannel(addresses("b"))
	const more = 100
	for i := range more {
		text := strings.Repeat("x", i)
		c.Note(channelzdata.Info, text)
		s.Note(channelzdata.Info, text)
	}
	check := func(logged int64, events []channelzdata.Event, others int64) {
		t.Helper()
		assert.EqualValues(t, more+others, logged)
		require.Len(t, events, 32)
		for i, e := range events {
			assert.Len(t, e.Text, more-32+i, "oldest first")
		}
	}
	r := channelRecord(t, c.ID())
	check(r.Logged, r.Events, 2)
	sr := subchannelRecord(t, s.ID())
	check(sr.Logged, sr.Events, 1)
}

func TestTextsAreShortAndValid(t *testing.T) {
	c := openChannel(t, "a")
	c.Note(channelzdata.Info, strings.Repeat("ü", 1000))
	c.Note(channelzdata.Info, "x"+strings.Repeat("ü", 1000))
	c.State(connectivity.TransientFailure, errors.New(strings.Repeat("long ", 1000)))
	c.Note(channelzdata.Info, "not \xff UTF-8")
	c.State(connectivity.Ready, errors.New("\xff"))
	r := channelRecord(t, c.ID())
	for _, e := range r.Events {
		assert.True(t, utf8.ValidString(e.Text), "%q", e.Text)
		assert.LessOrEqual(t, len(e.Text), 512)
	}
	assert.True(t, strings.HasSuffix(r.Events[1].Text, "ü..."), "%q", r.Events[1].Text)
	assert.True(t, strings.HasSuffix(r.Events[2].Text, "ü..."), "%q", r.Events[2].Text)
	assert.Equal(t, "not � UTF-8", r.Events[4].Text)
}

func TestResolverEventsAreNotRepeated(t *testing.T) {
	two := resolver.State{Addresses: addresses("a:1", "b:2")}
	many := resolver.State{Endpoints: []resolver.Endpoint{{Addresses: addresses("1", "2", "3", "4", "5", "6")}, {Addresses: addresses("7", "8", "9", "10")}}}
	c := openChannel(t, "a")
	c.Resolved(two)
	c.Resolved(two)
	c.Unresolved(errors.New("away"))
	c.Unresolved(errors.New("away"))
	c.Resolved(two)
	c.Resolved(resolver.State{})
	c.Resolved(many)
	c.Resolved(resolver.State{Addresses: addresses("a:1"), ServiceConfig: &serviceconfig.ParseResult{Config: struct{ serviceconfig.Config }{}}})
	c.Resolved(resolver.State{Addresses: addresses("a:1"), ServiceConfig: &serviceconfig.ParseResult{Err: errors.New("bad JSON")}})
	assert.Equal(t, []string{
		"Channel Created",
		"Resolved to 2 addresses: a:1, b:2",
		"Resolver failed: away",
		"Resolved to 2 addresses: a:1, b:2",
		"Resolved to no address",
		"Resolved to 10 addresses: 1, 2, 3, 4, 5, 6, 7, 8 and 2 more",
		"Resolved to a:1, with a service config",
		"Resolved to a:1, with a service config in error: bad JSON",
	}, texts(channelRecord(t, c.ID()).Events))
}

func TestStateTexts(t *testing.T) {
	c := openChannel(t, "a")
	for _, s := range []connectivity.State{connectivity.Idle, connectivity.Connecting, connectivity.Ready, connectivity.TransientFailure, connectivity.Shutdown} {
		c.State(s, nil)
	}
	assert.Equal(t, []string{"Channel Created", "State changed to IDLE", "State changed to CONNECTING", "State changed to READY",
		"State changed to TRANSIENT_FAILURE", "State changed to SHUTDOWN"}, texts(channelRecord(t, c.ID()).Events))
}
