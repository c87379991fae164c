package h2

// quota is something scarce, handed out first come, first served: stream
// slots, the connection's send window, room in the pending buffer. All of it is
// guarded by Conn.mu. avail may be negative, after the peer lowered a limit
// below what is in use or after a whole grant overdrew it.
//
// Where large messages wait for a window, one that is small would wait for as many turns as
// there are large ones before it. While any waits that wants little, turns are short.
type quota struct {
	avail  int64
	head   *waiter // the oldest; those in line are a ring
	little int     // waiters that want little
}

const (
	little    = 4 << 10  // what a waiter that wants little wants at most
	shortTurn = 16 << 10 // one DATA frame
)

// waiter is a place in one quota's queue.
type waiter struct {
	next, prev *waiter
	q          *quota        // the queue it stands in; nil if in none
	want       int64         // how much it wants
	got        int64         // how much it was given
	whole      bool          // all of want or nothing; overdraws a quota that has anything left
	ready      chan struct{} // capacity 1; gets a token with the grant
}

// try takes up to want at once (all of it if whole), or nothing if others
// wait or nothing is left.
func (q *quota) try(want int64, whole bool) int64 {
	if q.head != nil || q.avail <= 0 {
		return 0
	}
	return q.take(want, whole)
}

func (q *quota) take(want int64, whole bool) int64 {
	if !whole {
		if q.little > 0 {
			want = min(want, shortTurn)
		}
		want = min(want, q.avail)
	}
	q.avail -= want
	return want
}

// enqueue puts w at the end of the queue.
func (q *quota) enqueue(w *waiter, want int64, whole bool) {
	if w.ready == nil {
		w.ready = make(chan struct{}, 1)
	}
	w.q, w.want, w.whole, w.got = q, want, whole, 0
	if want <= little {
		q.little++
	}
	if q.head == nil {
		q.head, w.prev, w.next = w, w, w
		return
	}
	w.prev, w.next = q.head.prev, q.head
	w.prev.next, w.next.prev = w, w
}

func (q *quota) remove(w *waiter) {
	switch {
	case w.next == w:
		q.head = nil
	case q.head == w:
		q.head = w.next
	}
	w.prev.next, w.next.prev = w.next, w.prev
	w.next, w.prev, w.q = nil, nil, nil
	if w.want <= little {
		q.little--
	}
}

// add gives n back and serves the waiters.
func (q *quota) add(n int64) {
	q.avail += n
	for q.head != nil && q.avail > 0 {
		w := q.head
		q.remove(w)
		w.got = q.take(w.want, w.whole)
		w.ready <- struct{}{}
	}
}

// leave ends w's wait: it returns what was granted, or gives up the place and
// returns 0.
func (q *quota) leave(w *waiter) int64 {
	if w.q != nil {
		q.remove(w)
		return 0
	}
	select {
	case <-w.ready:
	default:
	}
	return w.got
}
