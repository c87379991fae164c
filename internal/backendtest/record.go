package backendtest

import (
	"slices"
	"sync"
)

// Record keeps the values that goroutines add, in their order.
type Record[T any] struct {
	mu  sync.Mutex
	all []T // guarded by mu
}

// Add appends v.
func (r *Record[T]) Add(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, v)
}

// All returns a copy of the values added so far.
func (r *Record[T]) All() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}
