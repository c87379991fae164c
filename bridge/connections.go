package bridge

import (
	"runtime"
	"sync"
	"weak"
)

// connections finds the connection of a number in a service config, which is all that
// grpc-go hands on to a policy's builder. A number is forgotten when its connection is
// not in use any more.
var connections registry

type registry struct {
	mu    sync.Mutex
	last  uint64
	known map[uint64]weak.Pointer[connection]
}

// enter gives c a number.
func (r *registry) enter(c *connection) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = make(map[uint64]weak.Pointer[connection])
	}
	r.last++
	r.known[r.last] = weak.Make(c)
	runtime.AddCleanup(c, r.forget, r.last)
	return r.last
}

// find returns the connection of a number; nil if there is none.
func (r *registry) find(number uint64) *connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[number].Value()
}

func (r *registry) forget(number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, number)
}
