package h2

import (
	"math"
	"slices"
	"strconv"
	"time"
)

// timeoutUnits are those of grpc-timeout (gRPC's PROTOCOL-HTTP2).
var timeoutUnits = [...]struct {
	unit time.Duration
	name byte
}{
	{time.Nanosecond, 'n'}, {time.Microsecond, 'u'}, {time.Millisecond, 'm'},
	{time.Second, 'S'}, {time.Minute, 'M'}, {time.Hour, 'H'},
}

// firstTooLong is the first number with more than the eight digits that a time-out may have.
const firstTooLong = 100000000

// timeoutError is the part of a time-out by which it may be rounded up.
const timeoutError = 500

// timeoutValue returns d as a number of one of timeoutUnits, of at most eight digits.
//
// It is rounded up, so that the server never gives up before this side does, and by
// one five-hundredth at most: the calls of a program whose deadlines are equally far away have
// the same time-out then, although each has used up some of its time before it is sent. On
// this side the RPC ends when its deadline passes, which the server learns at once.
func timeoutValue(d time.Duration) (n int64, unit int) {
	d = roundUp(d, timeoutStep(d/timeoutError))
	for unit = len(timeoutUnits) - 1; unit >= 0; unit-- {
		if u := timeoutUnits[unit].unit; d%u == 0 && int64(d/u) < firstTooLong {
			return int64(d / u), unit
		}
	}
	for unit = range timeoutUnits {
		u := timeoutUnits[unit].unit
		if n = int64(d / u); d%u > 0 {
			n++
		}
		if n < firstTooLong {
			break // of hours the longest duration has 2,562,048
		}
	}
	return n, unit
}

// timeoutStep returns the largest of 1, 2, 5, 10, 20, 50 ... nanoseconds that is not above
// most; 1 if there is none.
func timeoutStep(most time.Duration) time.Duration {
	step := time.Duration(1)
	for step <= most/10 {
		step *= 10
	}
	for _, times := range [...]time.Duration{5, 2} {
		if step <= most/times {
			return step * times
		}
	}
	return step
}

// roundUp returns the multiple of step that is not below d, or d if that is too large.
func roundUp(d, step time.Duration) time.Duration {
	rest := d % step
	if rest == 0 || d > math.MaxInt64-step {
		return d
	}
	return d - rest + step
}

// appendTimeout appends d as a grpc-timeout value: at most 8 digits and a unit.
func appendTimeout(b []byte, d time.Duration) []byte {
	n, unit := timeoutValue(d)
	return append(strconv.AppendInt(b, n, 10), timeoutUnits[unit].name)
}

// timeouts is which time-outs have a place in the dynamic table. There are few: those that
// the calls of a server have in common with the calls that it serves are all different.
type timeouts struct {
	kept [8]keptTimeout // in the first places
	seen [8]uint32      // keys of those that came latest and were not kept; the next is at next
	next uint8
}

type keptTimeout struct {
	key uint32 // 0: none
	at  uint32 // its place in the table
}

// timeoutKey is a time-out as one number, never 0.
func timeoutKey(n int64, unit int) uint32 { return uint32(n)<<3 | uint32(unit) + 1 }

// find returns a time-out that is kept, or with key 0 a free place; nil if there is none.
func (t *timeouts) find(key uint32) *keptTimeout {
	for i := range t.kept {
		if t.kept[i].key == key {
			return &t.kept[i]
		}
	}
	return nil
}

// again reports whether a time-out without a place was among the latest, and remembers it.
func (t *timeouts) again(key uint32) bool {
	if slices.Contains(t.seen[:], key) {
		return true
	}
	t.seen[t.next] = key
	t.next = (t.next + 1) % uint8(len(t.seen))
	return false
}

const (
	timeoutField = "grpc-timeout"
	timeoutSize  = len(timeoutField) + 9 + 32 // the most that one takes of the table (RFC 7541 section 4.1)
)

// timeoutName is the start of a grpc-timeout literal.
var timeoutName = appendHpackString([]byte{0}, timeoutField)

// timeout writes grpc-timeout: by its index if it is in the table. The first one is inserted, so
// that others need not repeat the name, and any other when it comes for the second time.
func (e *headerEncoder) timeout(d time.Duration) {
	n, unit := timeoutValue(d)
	key := timeoutKey(n, unit)
	if e.timeouts == nil {
		e.timeouts = new(timeouts)
	}
	kept := e.timeouts.find(key)
	if kept != nil {
		e.dst = e.table.appendIndex(e.dst, int(kept.at))
		return
	}
	var value [16]byte
	v := append(strconv.AppendInt(value[:0], n, 10), timeoutUnits[unit].name)
	first := e.timeouts.kept[0]
	if !e.frozen && (first.key == 0 || e.timeouts.again(key)) {
		if free := e.timeouts.find(0); free != nil && e.fits(timeoutSize) {
			e.room -= timeoutSize
			e.dst = e.table.appendInsertion(e.dst, timeoutField, string(v))
			*free = keptTimeout{key, uint32(e.table.last())}
			e.changed()
			return
		}
		e.missed += timeoutSize
	}
	if first.key != 0 {
		e.dst = e.table.appendName(e.dst, int(first.at))
	} else {
		e.dst = append(e.dst, timeoutName...)
	}
	e.dst = append(e.dst, byte(len(v))) // at most 9 bytes, not Huffman-coded
	e.dst = append(e.dst, v...)
}
