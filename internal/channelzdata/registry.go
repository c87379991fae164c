package channelzdata

import (
	"slices"
	"sync"
	"sync/atomic"
	"weak"
)

// FirstID is below every id that this package gives out, and above those of grpc-go's
// own channelz, which counts from 1. So one service can serve both.
const FirstID = 1_000_000_000_000

// Ref names a channel, a subchannel or a socket.
type Ref struct {
	ID   int64
	Name string // fit to leave the library: valid UTF-8, without a target's password
}

// lastID is the id given out last, less FirstID.
var lastID atomic.Int64

func newID() int64 { return FirstID + lastID.Add(1) }

// kept is set for good by Keep.
var kept atomic.Bool

// Keep has the data of all channels kept that are opened from now on. Package channelz
// calls it when it is initialized: a program without that package has no way to ask for them.
func Keep() { kept.Store(true) }

// open is the registry: the channels of the process that are not closed, and
// whose each id is.
//
// The pointers are weak, since being listed must not keep a channel alive that its
// program has forgotten. Such a channel never says that it closes; its
// entries are swept out when half of the channels are new since the last time.
var open = registry{
	channels: make(map[int64]weak.Pointer[Channel]),
	owners:   make(map[int64]weak.Pointer[Channel]),
}

type registry struct {
	mu       sync.Mutex
	channels map[int64]weak.Pointer[Channel] // guarded by mu: by their ids
	owners   map[int64]weak.Pointer[Channel] // guarded by mu: by the ids of subchannels and sockets
	added    int                             // guarded by mu: channels added since the last sweep
}

const minAdded = 64 // before a sweep

func (r *registry) addChannel(c *Channel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.channels[c.id] = c.self
	if r.added++; r.added >= max(minAdded, len(r.channels)/2) {
		r.sweepLocked()
		r.added = 0
	}
}

// sweepLocked removes what is left of channels that were collected.
func (r *registry) sweepLocked() {
	for id, c := range r.channels {
		if c.Value() == nil {
			delete(r.channels, id)
		}
	}
	for id, c := range r.owners {
		if c.Value() == nil {
			delete(r.owners, id)
		}
	}
}

// removeChannel removes a channel and the children with these ids.
func (r *registry) removeChannel(id int64, children []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.channels, id)
	for _, child := range children {
		delete(r.owners, child)
	}
}

// addChild notes that a subchannel or a socket belongs to c.
func (r *registry) addChild(id int64, c *Channel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners[id] = c.self
}

func (r *registry) removeChild(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.owners, id)
}

// channel returns the channel with this id; nil if it is not open.
func (r *registry) channel(id int64) *Channel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.channels[id].Value()
}

// owner returns the channel that the subchannel or socket with this id belongs
// to; nil if there is none.
func (r *registry) owner(id int64) *Channel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.owners[id].Value()
}

// from returns the ids of channels that are start or above, in their order. Some may
// be of channels that were collected.
func (r *registry) from(start int64) []int64 {
	r.mu.Lock()
	ids := make([]int64, 0, len(r.channels))
	for id := range r.channels {
		if id >= start {
			ids = append(ids, id)
		}
	}
	r.mu.Unlock()
	slices.Sort(ids)
	return ids
}
