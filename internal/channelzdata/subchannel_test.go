package channelzdata_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

func TestSubchannelRecordsItsLife(t *testing.T) {
	c := openChannel(t, "a")
	s := c.NewSubchannel(addresses("10.0.0.1:1", "10.0.0.2:2"))
	assert.Equal(t, "10.0.0.1:1 and 1 more", subchannelRecord(t, s.ID()).Name)
	s.State(connectivity.Connecting, nil)
	k := s.NewSocket(&peer.Peer{Addr: tcp(443), LocalAddr: tcp(5555)}, "name", nil)
	s.State(connectivity.Ready, nil)
	s.Addresses(addresses("10.0.0.3:3"))
	k.Close(errors.New("reset"))
	s.State(connectivity.Idle, errors.New("reset"))

	r := subchannelRecord(t, s.ID())
	assert.Equal(t, channelzdata.Ref{ID: s.ID(), Name: "10.0.0.3:3"}, r.Ref)
	assert.Equal(t, connectivity.Idle, r.State)
	assert.Equal(t, []string{
		"Subchannel Created",
		"State changed to CONNECTING",
		"Connected: 127.0.0.1:5555 -> 127.0.0.1:443",
		"State changed to READY",
		"Addresses changed to 10.0.0.3:3",
		"Disconnected: 127.0.0.1:5555 -> 127.0.0.1:443: reset",
		"State changed to IDLE: reset",
	}, texts(r.Events))

	s.Close()
	s.Close()
	s.State(connectivity.Idle, nil) // too late
	r = subchannelRecord(t, s.ID())
	assert.Equal(t, connectivity.Shutdown, r.State)
	assert.Equal(t, "Subchannel Deleted", r.Events[len(r.Events)-1].Text)

	cr := channelRecord(t, c.ID())
	require.Equal(t, []string{"Channel Created", "Subchannel Created", "Subchannel Deleted"}, texts(cr.Events))
	assert.Equal(t, r.Ref, cr.Events[1].Subchannel)
	assert.Equal(t, r.Ref, cr.Events[2].Subchannel)
	assert.Zero(t, cr.Events[1].Channel)
	assert.Empty(t, cr.Subchannels, "a deleted subchannel is no child any more")
}

func TestDeletedSubchannelStaysWhileTheChannelHasItsEvents(t *testing.T) {
	c := openChannel(t, "a")
	s := c.NewSubchannel(addresses("b"))
	s.State(connectivity.TransientFailure, errors.New("refused"))
	s.Close()
	for range 31 {
		c.Note(channelzdata.Info, "x")
	}
	assert.Contains(t, texts(subchannelRecord(t, s.ID()).Events), "State changed to TRANSIENT_FAILURE: refused")
	c.Note(channelzdata.Info, "the one too many")
	_, ok := channelzdata.FindSubchannel(s.ID())
	assert.False(t, ok)
}

func TestSubchannelOutlivesItsEvents(t *testing.T) {
	c := openChannel(t, "a")
	s := c.NewSubchannel(addresses("b"))
	for range 100 {
		c.Note(channelzdata.Info, "x")
	}
	assert.Equal(t, []int64{s.ID()}, ids(channelRecord(t, c.ID()).Subchannels))
	s.Close()
	subchannelRecord(t, s.ID()) // the trace has its deletion
}

func TestDeletedSubchannelIsListedWhileItDrains(t *testing.T) {
	c := openChannel(t, "a")
	s := c.NewSubchannel(addresses("b"))
	k := s.NewSocket(nil, "", nil)
	s.Close()
	for range 100 {
		c.Note(channelzdata.Info, "x")
	}
	assert.Equal(t, []int64{s.ID()}, ids(channelRecord(t, c.ID()).Subchannels))
	assert.Equal(t, []int64{k.ID()}, ids(subchannelRecord(t, s.ID()).Sockets))
	k.Close(nil)
	assert.Empty(t, channelRecord(t, c.ID()).Subchannels)
	_, ok := channelzdata.FindSubchannel(s.ID())
	assert.False(t, ok)
}

func TestManySubchannelsComeAndGo(t *testing.T) {
	c := openChannel(t, "a")
	var all []*channelzdata.Subchannel
	for range 100 {
		all = append(all, c.NewSubchannel(addresses("b")))
	}
	var kept []int64
	for i, s := range all {
		if i%3 == 0 {
			kept = append(kept, s.ID())
		} else {
			s.Close()
		}
	}
	assert.Equal(t, kept, ids(channelRecord(t, c.ID()).Subchannels))
	found := 0
	for _, s := range all {
		if _, ok := channelzdata.FindSubchannel(s.ID()); ok {
			found++
		}
	}
	assert.Equal(t, len(kept)+32, found, "besides those that are there, one for each event of the trace")
}

func TestSubchannelSumsItsSockets(t *testing.T) {
	early, late := time.Unix(1000, 0), time.Unix(2000, 0)
	c := openChannel(t, "a")
	s := c.NewSubchannel(addresses("b"))
	assert.Zero(t, subchannelRecord(t, s.ID()).Calls)

	one := &socketCounts{StreamsStarted: 10, StreamsSucceeded: 6, StreamsFailed: 2, CallsSucceeded: 5, LastStream: late}
	first := s.NewSocket(nil, "", one)
	want := channelzdata.Calls{Started: 10, Succeeded: 5, Failed: 3, LastStarted: late}
	assert.Equal(t, want, subchannelRecord(t, s.ID()).Calls)

	one.StreamsFailed += 2 // the loss of the connection ended them
	first.Close(nil)
	first.Close(nil)
	want.Failed += 2
	assert.Equal(t, want, subchannelRecord(t, s.ID()).Calls)

	second := s.NewSocket(nil, "", &socketCounts{StreamsStarted: 1, LastStream: early})
	want.Started++
	assert.Equal(t, want, subchannelRecord(t, s.ID()).Calls)
	assert.Equal(t, []int64{second.ID()}, ids(subchannelRecord(t, s.ID()).Sockets))
}

func TestSocketRecord(t *testing.T) {
	c := openChannel(t, "a")
	s := c.NewSubchannel(addresses("b"))
	p := &peer.Peer{Addr: tcp(443), LocalAddr: tcp(5555)}
	k := s.NewSocket(p, "server.example", &socketCounts{MessagesSent: 7})
	other := s.NewSocket(&peer.Peer{Addr: tcp(1)}, "", nil)

	r, ok := channelzdata.FindSocket(k.ID())
	require.True(t, ok)
	assert.Equal(t, channelzdata.SocketRecord{
		Ref:        channelzdata.Ref{ID: k.ID(), Name: "127.0.0.1:5555 -> 127.0.0.1:443"},
		Peer:       p,
		RemoteName: "server.example",
		Counts:     channelzdata.SocketCounts{MessagesSent: 7},
	}, r)
	r, ok = channelzdata.FindSocket(other.ID())
	require.True(t, ok)
	assert.Equal(t, "? -> 127.0.0.1:1", r.Name)

	k.Close(nil)
	_, ok = channelzdata.FindSocket(k.ID())
	assert.False(t, ok)
}
