package channelzdata

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/text"
)

// Subchannel is the data of one subchannel. They last until Close, and beyond it
// as long as there are sockets or the channel's trace refers to the subchannel.
type Subchannel struct {
	// Set by NewSubchannel and only read after that.
	c       *Channel
	id      int64
	created int64 // Unix nanoseconds

	// Guarded by c.mu.
	ref      Ref // the name may change
	state    connectivity.State
	closed   bool
	trace    trace
	sockets  []*Socket // in the order of their ids
	past     Calls     // on sockets that have closed
	mentions int       // events of the channel's trace that are about this subchannel
}

// NewSubchannel makes the data of a subchannel in state IDLE. It is nil if the
// channel is nil, and in no list if that is closed.
func (c *Channel) NewSubchannel(addrs []resolver.Address) *Subchannel {
	if c == nil {
		return nil
	}
	s := &Subchannel{c: c, created: time.Now().UnixNano(), ref: Ref{Name: subchannelName(addrs)}}
	s.trace.events = make([]event, 0, usualSubchannelEvents)
	s.trace.add(event{at: s.created, text: "Subchannel Created", severity: Info})
	c.mu.Lock()
	defer c.mu.Unlock()
	s.id = newID() // with the lock held, so that subs is in order
	s.ref.ID = s.id
	if c.closed {
		s.closed = true
		return s
	}
	c.subs = append(c.subs, s)
	open.addChild(s.id, c)
	c.tellOfLocked(s, "Subchannel Created")
	return s
}

// Close notes that the subchannel was deleted. Its sockets may go on.
func (s *Subchannel) Close() {
	if s == nil {
		return
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed || c.closed {
		return
	}
	s.closed = true
	s.state = connectivity.Shutdown
	s.addLocked(newEvent(Info, "Subchannel Deleted"))
	c.tellOfLocked(s, "Subchannel Deleted")
	s.removeIfDoneLocked() // the event may have been pushed out already
}

// State notes a change of the connectivity state, and its cause if that is not nil.
func (s *Subchannel) State(to connectivity.State, cause error) {
	if s == nil {
		return
	}
	e := newEvent(stateSeverity(to), stateText(to, cause))
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.closed { // else the deletion has been noted, and the state stays SHUTDOWN
		s.state = to
		s.addLocked(e)
	}
}

// Addresses notes that the subchannel has other addresses now.
func (s *Subchannel) Addresses(addrs []resolver.Address) {
	if s == nil {
		return
	}
	var first []string
	for _, a := range addrs[:min(len(addrs), namedAddresses)] {
		first = append(first, text.Target(a.Addr))
	}
	e := newEvent(Info, clip("Addresses changed to "+addressText(first, len(addrs))))
	name := subchannelName(addrs)
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.ref.Name = name
	s.addLocked(e)
}

func (s *Subchannel) addLocked(e event) {
	if !s.c.closed {
		s.trace.add(e)
	}
}

// listedLocked reports whether the subchannel is one of the channel's: not
// deleted, or with connections that still run.
func (s *Subchannel) listedLocked() bool { return !s.closed || len(s.sockets) > 0 }

// removeIfDoneLocked takes a subchannel out of the data that nothing leads to.
func (s *Subchannel) removeIfDoneLocked() {
	if s.c.closed || s.listedLocked() || s.mentions > 0 {
		return
	}
	if i, ok := slices.BinarySearchFunc(s.c.subs, s.id, bySubchannelID); ok {
		s.c.subs = slices.Delete(s.c.subs, i, i+1)
		open.removeChild(s.id)
	}
}

func subchannelName(addrs []resolver.Address) string {
	switch len(addrs) {
	case 0:
		return ""
	case 1:
		return text.Target(addrs[0].Addr)
	}
	return fmt.Sprintf("%s and %d more", text.Target(addrs[0].Addr), len(addrs)-1)
}
