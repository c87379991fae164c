package h2

import (
	"sync/atomic"
	"time"
)

// keepalive probes a silent connection with PING and ends it if nothing comes
// back (gRFC A8). It has a timer and no goroutine, and neither if it is off.
type keepalive struct {
	lastHeard atomic.Int64 // when something was last read, ns since epoch, which changes of the system's clock leave alone

	// Guarded by Conn.mu.
	timer   *time.Timer // nil if keepalive is off or the connection has ended
	sentAt  int64       // when a PING was sent, ns since epoch
	probing bool        // it is out
	late    bool        // it was given more time: see lateProbe
	dormant bool        // no stream is open, and none means no probes
	bounded bool        // set by start: the system ends the connection when sent bytes stay unacknowledged for KeepaliveTimeout
}

// lateProbe is how late the timer runs where the process was not running: it was stopped, or its
// container paused, and the answer to the PING may lie in the socket. The PING is given
// the time again that was missed then, once and no more than KeepaliveTimeout, so that the
// reader gets to it.
const lateProbe = 10 * time.Millisecond

func (k *keepalive) start(c *Conn) {
	if c.cfg.KeepaliveTime <= 0 {
		return
	}
	k.bounded = c.wire.setUserTimeout(c.cfg.KeepaliveTimeout)
	k.lastHeard.Store(int64(time.Since(epoch)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateClosed {
		k.timer = time.AfterFunc(c.cfg.KeepaliveTime, c.probe)
	}
}

// stop ends the probes. mu is held. A probe that is under way finds the
// connection closed.
func (k *keepalive) stop() {
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
}

// heard notes that something was read.
func (r *reader) heard() {
	if r.c.cfg.KeepaliveTime > 0 {
		r.c.ka.lastHeard.Store(int64(time.Since(epoch)))
	}
}

// streamOpened wakes the probes when there is something to probe for. mu is held.
func (k *keepalive) streamOpened() {
	if k.dormant && k.timer != nil {
		k.dormant = false
		k.timer.Reset(0)
	}
}

// probe runs on the timer: KeepaliveTime after something was last read, and while a PING
// is out at least that often, since its answer may have come at once and the next
// PING is due that long after.
func (c *Conn) probe() {
	k := &c.ka
	c.mu.Lock()
	if c.state == stateClosed || k.timer == nil {
		c.mu.Unlock()
		return
	}
	now, heard := int64(time.Since(epoch)), k.lastHeard.Load()
	if k.probing && heard >= k.sentAt {
		k.probing = false
	}
	switch silent := time.Duration(now - heard); {
	case k.probing:
		left := c.cfg.KeepaliveTimeout - time.Duration(now-k.sentAt)
		if -left > lateProbe && !k.late {
			k.late = true
			left = min(-left, c.cfg.KeepaliveTimeout)
		}
		if left <= 0 {
			c.mu.Unlock()
			c.shut(ErrKeepalive, nil, ifQuiet) // a write that is under way is stuck
			return
		}
		k.timer.Reset(min(left, c.cfg.KeepaliveTime))
		c.mu.Unlock()
	case silent < c.cfg.KeepaliveTime:
		k.timer.Reset(c.cfg.KeepaliveTime - silent)
		c.mu.Unlock()
	case len(c.streams) == 0 && !c.cfg.PermitWithoutStream:
		k.dormant = true
		c.mu.Unlock()
	default:
		k.probing, k.late, k.sentAt = true, false, now
		c.tally.probes++
		k.timer.Reset(min(c.cfg.KeepaliveTimeout, c.cfg.KeepaliveTime))
		b := c.pending()
		b.b = appendPing(b.b, false, [8]byte{})
		c.flushAndUnlock()
	}
}
