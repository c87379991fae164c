package channelzdata

import (
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
)

// ChannelRecord is what is known of a channel at one moment.
type ChannelRecord struct {
	Ref
	State       connectivity.State
	Created     time.Time
	Calls       Calls
	Logged      int64   // events so far
	Events      []Event // the latest, oldest first
	Nested      []Ref   // open channels nested in this one, in the order of their ids
	Subchannels []Ref   // in the order of their ids
}

// SubchannelRecord is what is known of a subchannel at one moment.
type SubchannelRecord struct {
	Ref
	State   connectivity.State
	Created time.Time
	Calls   Calls // the sums of its connections', those that have ended included
	Logged  int64
	Events  []Event
	Sockets []Ref // in the order of their ids
}

// SocketRecord is what is known of a connection at one moment.
type SocketRecord struct {
	Ref
	Peer       *peer.Peer // shared, not to be changed; may be nil
	RemoteName string
	Counts     SocketCounts
}

// FindChannel returns the record of an open channel.
func FindChannel(id int64) (ChannelRecord, bool) {
	c := open.channel(id)
	if c == nil {
		return ChannelRecord{}, false
	}
	return c.record()
}

// TopChannels returns at most n records of top channels whose ids are start or above,
// in the order of their ids, and whether there are no others. A top channel is one whose
// parent is not open. For a parent that is grpc-go's, theirs says whether it is open;
// with theirs nil no such parent is.
func TopChannels(start int64, n int, theirs func(id int64) bool) (page []ChannelRecord, last bool) {
	for _, id := range open.from(start) {
		c := open.channel(id)
		if c == nil || c.parent.isOpen() || c.foreign != 0 && theirs != nil && theirs(c.foreign) {
			continue
		}
		if len(page) == n {
			return page, false
		}
		if r, ok := c.record(); ok {
			page = append(page, r)
		}
	}
	return page, true
}

// Adopted returns the open channels whose parents are grpc-go's, by the ids of
// these.
func Adopted() map[int64][]Ref {
	var all map[int64][]Ref
	for _, id := range open.from(0) {
		c := open.channel(id)
		if c == nil || c.foreign == 0 {
			continue
		}
		if all == nil {
			all = make(map[int64][]Ref)
		}
		all[c.foreign] = append(all[c.foreign], *c.ref())
	}
	return all
}

// FindSubchannel returns the record of a subchannel of an open channel, even
// of one that was deleted, as long as it has connections or the channel's events
// refer to it.
func FindSubchannel(id int64) (SubchannelRecord, bool) {
	c := open.owner(id)
	if c == nil {
		return SubchannelRecord{}, false
	}
	return c.subchannelRecord(id)
}

// FindSocket returns the record of a connection that has not ended.
func FindSocket(id int64) (SocketRecord, bool) {
	c := open.owner(id)
	if c == nil {
		return SocketRecord{}, false
	}
	k := c.socket(id)
	if k == nil {
		return SocketRecord{}, false
	}
	r := SocketRecord{Ref: k.ref(), Peer: k.peer, RemoteName: k.remoteName}
	if k.counters != nil {
		r.Counts = k.counters.SocketCounts()
	}
	return r, true
}

func (c *Channel) isOpen() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed
}

// record reports false if the channel has closed meanwhile.
func (c *Channel) record() (ChannelRecord, bool) {
	r := ChannelRecord{Ref: *c.ref(), Created: time.Unix(0, c.created)}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ChannelRecord{}, false
	}
	r.State, r.Logged, r.Events = c.state, c.trace.logged, c.trace.list()
	for _, s := range c.subs {
		if s.listedLocked() {
			r.Subchannels = append(r.Subchannels, s.ref)
		}
	}
	calls := c.calls
	nested := append([]int64(nil), c.nested...)
	c.mu.Unlock()

	if calls != nil {
		r.Calls = calls.Calls()
	}
	for _, id := range nested {
		if child := open.channel(id); child != nil {
			r.Nested = append(r.Nested, *child.ref())
		}
	}
	return r, true
}

func (c *Channel) subchannelRecord(id int64) (SubchannelRecord, bool) {
	c.mu.Lock()
	s := c.subLocked(id)
	if s == nil {
		c.mu.Unlock()
		return SubchannelRecord{}, false
	}
	r := SubchannelRecord{Ref: s.ref, State: s.state, Created: time.Unix(0, s.created), Calls: s.past,
		Logged: s.trace.logged, Events: s.trace.list()}
	// A socket's figures are either in past or its own, whichever comes first:
	// it is taken off the list and added to past in one go.
	sockets := append([]*Socket(nil), s.sockets...)
	c.mu.Unlock()

	for _, k := range sockets {
		r.Sockets = append(r.Sockets, k.ref())
		if k.counters != nil {
			n := k.counters.SocketCounts()
			r.Calls.add(n.calls())
		}
	}
	return r, true
}

func (c *Channel) socket(id int64) *Socket {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.subs {
		for _, k := range s.sockets {
			if k.id == id {
				return k
			}
		}
	}
	return nil
}

func (k *Socket) ref() Ref { return Ref{ID: k.id, Name: k.name} }
