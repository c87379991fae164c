package channelzdata

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"google.golang.org/grpc/channelz"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/live"
	"github.com/grpcdial/grpcdial/internal/text"
)

// Channel is the data of one channel, open until Close.
type Channel struct {
	// Set by Open and only read after that.
	id      int64
	target  string
	created int64                 // Unix nanoseconds
	parent  *Channel              // nil: none of ours
	foreign int64                 // grpc-go's id of the parent, if that is grpc-go's; else 0
	self    weak.Pointer[Channel] // to this

	mu         sync.Mutex // see "Locks" in the package comment
	closed     bool       // guarded by mu; what follows is empty then
	calls      CallCounters
	source     live.Source // nil: none
	state      connectivity.State
	resolution string        // the text of the latest resolver event
	trace      trace         // of the channel
	subs       []*Subchannel // in the order of their ids
	nested     []int64       // ids of channels nested in this one
}

// Open makes the data of a channel in state IDLE and puts it on the list of open
// ones. parent is what the program gave as the channelz parent; nil: none.
// A parent of another channelz than ours and grpc-go's is as none. calls may be
// nil. Open returns nil unless Keep was called before.
func Open(target string, parent channelz.Identifier, calls CallCounters) *Channel {
	if !kept.Load() {
		return nil
	}
	c := &Channel{id: newID(), target: text.Target(target), created: time.Now().UnixNano(), calls: calls}
	c.parent, c.foreign = parentOf(parent)
	c.self = weak.Make(c)
	c.trace.add(event{at: c.created, text: "Channel Created", severity: Info})
	open.addChannel(c)
	c.parent.adopt(c)
	return c
}

// Close takes the channel off the list of open ones, with its subchannels and
// sockets. Nothing is noted any more after that.
func (c *Channel) Close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	var children []int64
	for _, s := range c.subs {
		children = append(children, s.id)
		for _, k := range s.sockets {
			children = append(children, k.id)
		}
	}
	// What others hold of this must not hold what the counters belong to.
	c.calls, c.source, c.resolution, c.trace, c.subs, c.nested = nil, nil, "", trace{}, nil, nil
	c.mu.Unlock()

	open.removeChannel(c.id, children)
	c.parent.disown(c)
}

// State notes a change of the connectivity state, and its cause if that is not nil.
func (c *Channel) State(to connectivity.State, cause error) {
	if c == nil {
		return
	}
	e := newEvent(stateSeverity(to), stateText(to, cause))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = to
	c.addLocked(e)
}

// Resolved notes what the resolver gave, unless it said the same before.
func (c *Channel) Resolved(s resolver.State) {
	if c != nil {
		c.resolver(Info, resolvedText(s))
	}
}

// Unresolved notes that the resolver failed, unless it said the same before.
func (c *Channel) Unresolved(err error) {
	if c != nil && err != nil {
		c.resolver(Warning, clip("Resolver failed: "+text.Of(err)))
	}
}

func (c *Channel) resolver(severity Severity, said string) {
	e := newEvent(severity, said)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resolution != said {
		c.resolution = said
		c.addLocked(e)
	}
}

// Policy notes that the load-balancing policy with this name was built.
func (c *Channel) Policy(name string) {
	note := "Load balancing policy changed to pick_first" // that of most channels takes no memory
	if name != "pick_first" {
		note = "Load balancing policy changed to " + name
	}
	c.Note(Info, note)
}

// Note notes something else. The text is cut at 512 bytes.
func (c *Channel) Note(severity Severity, note string) {
	if c == nil {
		return
	}
	e := newEvent(severity, clip(note))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addLocked(e)
}

func newEvent(severity Severity, text string) event {
	return event{at: time.Now().UnixNano(), severity: severity, text: text}
}

// addLocked adds e to the channel's trace.
func (c *Channel) addLocked(e event) {
	if c.closed {
		return
	}
	forgotten := c.trace.add(e)
	if forgotten.child == nil || forgotten.nested {
		return
	}
	if s := c.subLocked(forgotten.child.ID); s != nil {
		s.mentions--
		s.removeIfDoneLocked()
	}
}

// tellOfLocked adds an event about s to the channel's trace.
func (c *Channel) tellOfLocked(s *Subchannel, text string) {
	if c.closed {
		return
	}
	e := newEvent(Info, text)
	e.child = &s.ref
	s.mentions++
	c.addLocked(e)
}

// adopt notes that child is nested in c.
func (c *Channel) adopt(child *Channel) {
	if c == nil {
		return
	}
	e := newEvent(Info, "Nested Channel Created")
	e.child, e.nested = child.ref(), true
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.nested = append(c.nested, child.id)
		c.addLocked(e)
	}
}

// disown notes that child has closed.
func (c *Channel) disown(child *Channel) {
	if c == nil {
		return
	}
	e := newEvent(Info, "Nested Channel Deleted")
	e.child, e.nested = child.ref(), true
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.nested, child.id); i >= 0 {
		c.nested = slices.Delete(c.nested, i, i+1)
	}
	c.addLocked(e)
}

// ref returns the channel's name. What holds it does not hold the channel.
func (c *Channel) ref() *Ref { return &Ref{ID: c.id, Name: c.target} }

// subLocked returns the subchannel with this id; nil if there is none.
func (c *Channel) subLocked(id int64) *Subchannel {
	i, ok := slices.BinarySearchFunc(c.subs, id, bySubchannelID)
	if !ok {
		return nil
	}
	return c.subs[i]
}

func bySubchannelID(s *Subchannel, id int64) int { return cmp.Compare(s.id, id) }

// namedAddresses is how many addresses a text names.
const namedAddresses = 8

func resolvedText(s resolver.State) string {
	var addrs []string
	n := 0
	for _, e := range s.Endpoints {
		for _, a := range e.Addresses {
			if n++; n <= namedAddresses {
				addrs = append(addrs, text.Target(a.Addr))
			}
		}
	}
	if s.Endpoints == nil {
		for _, a := range s.Addresses {
			if n++; n <= namedAddresses {
				addrs = append(addrs, text.Target(a.Addr))
			}
		}
	}
	resolved := "Resolved to " + addressText(addrs, n)
	switch sc := s.ServiceConfig; {
	case sc == nil:
	case sc.Err != nil:
		resolved += ", with a service config in error: " + text.Of(sc.Err)
	case sc.Config != nil:
		resolved += ", with a service config"
	}
	return clip(resolved)
}

// addressText names addresses, of which there are n in all.
func addressText(first []string, n int) string {
	switch list := strings.Join(first, ", "); {
	case n == 0:
		return "no address"
	case n == 1:
		return list
	case n > len(first):
		return fmt.Sprintf("%d addresses: %s and %d more", n, list, n-len(first))
	default:
		return fmt.Sprintf("%d addresses: %s", n, list)
	}
}
