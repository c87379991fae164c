package subchannel

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
)

func TestEndingOf(t *testing.T) {
	goAway := func(code http2.ErrCode) error { return fmt.Errorf("wrapped: %w", http2.GoAwayError{ErrCode: code}) }
	reset := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	for _, tt := range []struct {
		name             string
		lasted           time.Duration
		answered, harmed bool
		why              error
		want             ending
	}{
		{"GOAWAY", time.Millisecond, false, false, goAway(http2.ErrCodeNo), endOrderly},
		{"GOAWAY and then an RPC was lost", time.Millisecond, false, true, goAway(http2.ErrCodeNo), endFailed},
		{"GOAWAY with an error", time.Millisecond, false, false, goAway(http2.ErrCodeEnhanceYourCalm), endFailed},
		{"end of file", time.Millisecond, false, false, errServerClosed, endOrderly},
		{"end of file under TLS, without its alert", time.Millisecond, false, false, io.ErrUnexpectedEOF, endOrderly},
		{"end of a pipe", time.Millisecond, false, false, io.ErrClosedPipe, endOrderly},
		{"end of file and an RPC was lost", time.Millisecond, false, true, errServerClosed, endFailed},
		{"reset", time.Millisecond, false, false, reset, endFailed},
		{"a violation", time.Millisecond, false, false, &h2.ConnError{Code: http2.ErrCodeProtocol}, endFailed},
		{"no answer to a PING", time.Millisecond, false, false, h2.ErrKeepalive, endFailed},
		{"reset after an answer", time.Millisecond, true, true, reset, endServed},
		{"reset after a second", time.Second, false, true, reset, endServed},
		{"reset before a second has passed", time.Second - 1, false, false, reset, endFailed},
		{"GOAWAY after an answer", time.Millisecond, true, false, goAway(http2.ErrCodeNo), endServed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, endingOf(tt.lasted, tt.answered, tt.harmed, tt.why))
		})
	}
}

// attemptTimes plays a server whose connections last for so long and end in good order,
// and returns when attempts are made that are never put off by anything but the record.
// next is the time that pause returns for them.
func attemptTimes(r *record, n int, lasts time.Duration, next func(until, wanted time.Time) time.Time) (at []time.Duration) {
	start := time.Now()
	now := start
	for range n {
		if due := next(r.pause()); due.After(now) {
			now = due
		}
		at = append(at, now.Sub(start)/time.Millisecond)
		began := now
		now = now.Add(lasts)
		r.ended(endOrderly, lasts, began, nil)
	}
	return at
}

func unasked(until, _ time.Time) time.Time { return until }
func wanted(_, wanted time.Time) time.Time { return wanted }
func millis(all ...int) (d []time.Duration) { // as attemptTimes returns them
	for _, n := range all {
		d = append(d, time.Duration(n))
	}
	return d
}

func TestSpacing(t *testing.T) {
	assert.Equal(t, millis(0, 0, 50, 150, 350, 750, 1550, 2550, 3550), attemptTimes(new(record), 9, 0, unasked), "nothing asks")
	assert.Equal(t, millis(0, 0, 0, 60, 120, 180, 240, 300, 360), attemptTimes(new(record), 9, 0, wanted), "RPCs wait")
	assert.Equal(t, millis(0, 100, 200, 300, 500, 900, 1700), attemptTimes(new(record), 7, 100*time.Millisecond, unasked), "idle connections end")
	assert.Equal(t, millis(0, 100, 200, 300, 400, 500, 600), attemptTimes(new(record), 7, 100*time.Millisecond, wanted), "RPCs wait: at once")

	at := attemptTimes(new(record), 100, 0, wanted)
	for i := range at[20:] {
		assert.Greater(t, at[i+20]-at[i], time.Duration(1000), "twenty a second")
	}

	var r record
	attemptTimes(&r, 30, 100*time.Millisecond, unasked)
	until, asked := r.pause()
	assert.Equal(t, maxPause, until.Sub(r.unserved.latest))
	assert.False(t, asked.After(r.unserved.latest), "an RPC that comes then does not wait")

	r.ended(endServed, time.Second, time.Now(), nil)
	assert.Equal(t, record{}, r)
	until, asked = r.pause()
	assert.True(t, until.IsZero() && asked.IsZero())
}

func TestRecordOfFailures(t *testing.T) {
	a := new(failure.Attempt)
	var r record
	began := time.Now()
	fails := func() { r.ended(endFailed, time.Second/2, began, a) }
	fails()
	assert.Equal(t, 1, r.failures)
	assert.Nil(t, r.instead, "once may be chance")
	fails()
	assert.Equal(t, 2, r.failures)
	assert.Same(t, a, r.instead)
	r.failed()
	assert.Equal(t, 3, r.failures)
	assert.Nil(t, r.instead, "an attempt is made after it")
	fails()
	r.ended(endOrderly, time.Second/2, began, a)
	assert.Equal(t, 0, r.failures, "the server is not down")
	assert.Nil(t, r.instead)
	fails()
	assert.Nil(t, r.instead)

	for n := range maxHasty + 3 {
		r.ended(endOrderly, time.Millisecond, began, a)
		assert.Equal(t, n+1 >= maxHasty, r.instead != nil, "end %d at once", n+1)
	}
	assert.Equal(t, 5, r.failures)
	r.ended(endOrderly, atOnce, began, a)
	assert.Equal(t, 0, r.failures)
	for range maxHasty - 1 {
		r.ended(endOrderly, atOnce-1, began, a)
	}
	assert.Nil(t, r.instead, "they are counted anew")
	fails()
	fails()
	r.moved()
	assert.Equal(t, record{failures: 2}, r, "of other addresses nothing is known")
	r.ended(endServed, 0, began, a)
	assert.Equal(t, record{}, r)
}
