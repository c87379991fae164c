package h2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
)

// Handshake sends the client's preface and waits for the server's SETTINGS (RFC 9113 section
// 3.4), bounded by ctx. On an error the connection is closed; a
// *[PrefaceError] holds the bytes that came instead, a *[ConnError] names the rule that the
// SETTINGS break, an *[UnreadError] reports that the connection did not take the preface.
func (c *Conn) Handshake(ctx context.Context) error {
	err := c.shakeHands(ctx)
	if err == nil {
		return nil
	}
	how := silently
	if errors.As(err, new(*ConnError)) {
		how = saidGoodbye
	}
	c.shut(err, nil, how)
	c.closing.farewell.Wait()
	c.nc.Close()
	c.flushers.Wait()
	if ahead := c.rd.ahead; ahead != nil {
		<-ahead.done
	}
	return err
}

func (c *Conn) shakeHands(ctx context.Context) (err error) {
	if dl, ok := ctx.Deadline(); ok {
		// The context's end does the rest; this is for connections that are
		// slow to notice a Close.
		_ = c.nc.SetDeadline(dl.Add(50 * time.Millisecond))
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.wire.cut()
		close(cut)
	})
	defer func() {
		if !stop() {
			<-cut // no goroutine of the handshake is left behind
			if err == nil {
				err = ctx.Err()
			}
		}
		if end := ctxEnd(ctx); err != nil && end != nil {
			err = c.endedBy(end, err)
		}
	}()
	if err := c.exchangePrefaces(); err != nil {
		return err
	}
	c.layer()
	c.ka.start(c)
	c.kick() // the acknowledgement of the server's SETTINGS
	return nil
}

// layer makes the Wire collect TLS records from here on. crypto/tls writes of its own accord
// while it is read from, as when the server asks for a new key, and the reader must never
// wait for the server to read.
func (c *Conn) layer() {
	if c.layered {
		c.wire.layer(c.buffers, c.kickApart)
	}
}

// exchangePrefaces sends this side's preface and reads the server's. A socket takes ours at
// once. Other connections may hold nothing (net.Pipe): a write waits for the server to read,
// which may itself be writing. There a goroutine writes while this one reads, as it does
// ever after.
func (c *Conn) exchangePrefaces() error {
	if c.cfg.grow {
		c.rd.bw.greeted()
	}
	if !c.apart {
		if _, err := c.nc.Write(c.appendPreface(c.rd.small[:0])); err != nil { // nothing has been read into it yet
			return c.rd.lastWords(err)
		}
	} else {
		c.layer()
		c.mu.Lock()
		b := c.pending()
		b.b = c.appendPreface(b.b)
		c.flushAndUnlock()
	}
	said := c.rd.preface()
	if said == nil {
		_ = c.nc.SetDeadline(time.Time{}) // tunnels often have no deadlines
		said = c.rd.awaitTaken()
	}
	// A write that fails from here on wakes Serve: the deadline that it sets comes
	// after the one above.
	c.mu.Lock()
	err := c.writeErr()
	c.shaken = said == nil && err == nil
	c.mu.Unlock()
	if err != nil {
		if said == nil {
			said = c.rd.announced()
		}
		return insteadOf(err, said)
	}
	return said
}

// maxAhead is how much is read while the preface is being written.
const maxAhead = 64 << 10

// awaitTaken waits until the connection has taken the preface, or its write has failed.
// The server may have more to write before it reads, so this reads on meanwhile. A read
// that has not returned when the preface is taken is the first one of Serve.
func (r *reader) awaitTaken() error {
	taken := r.c.takes()
	if taken == nil {
		return nil
	}
	for idle := 0; ; {
		r.ahead = r.c.readAhead()
		select {
		case <-taken:
			return nil
		case <-r.ahead.done:
		}
		read := r.ahead
		r.ahead = nil
		if idle++; len(read.b) > 0 {
			idle = 0
		}
		switch err := read.err; {
		case r.end-r.start+len(read.b) > maxAhead:
			return &UnreadError{Err: errEndless}
		case err == nil && idle == maxIdleReads:
			return &UnreadError{Err: io.ErrNoProgress}
		case err != nil && !(isTimeout(err) && r.c.poked.Swap(false)): // that is a write that failed
			return &UnreadError{Err: err}
		}
		r.append(read.b)
	}
}

// takes returns a channel that is closed when the preface was written, or its write has
// failed; nil if that is so already.
func (c *Conn) takes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.apart || c.written > 0 || c.failed != nil {
		return nil // a socket has taken it before anything was read
	}
	c.greeting = make(chan struct{})
	return c.greeting
}

// tookLocked closes greeting.
func (c *Conn) tookLocked() {
	if c.greeting != nil {
		close(c.greeting)
		c.greeting = nil
	}
}

// aheadRead is a read by a goroutine of its own.
type aheadRead struct {
	done chan struct{} // closed when it has returned; b and err are set then
	b    []byte
	err  error
}

// append adds to what was read and not used yet.
func (r *reader) append(p []byte) {
	if free := len(r.bytes()) - r.end; free < len(p) {
		r.makeRoom(r.end - r.start + len(p))
	}
	r.end += copy(r.bytes()[r.end:], p)
}

func (c *Conn) readAhead() *aheadRead {
	a := &aheadRead{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		p := make([]byte, smallRead)
		n, err := c.nc.Read(p)
		a.b, a.err = p[:n], err
	}()
	return a
}

// ctxEnd is ctx.Err, and the deadline's passing too if the context's timer is
// late: the connection has a deadline of its own, whose timer may run first.
func ctxEnd(ctx context.Context) error {
	if dl, ok := ctx.Deadline(); ok && !time.Now().Before(dl) && ctx.Err() == nil {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// endedBy is the error of a handshake that failed after its context had ended with
// end. Unless the server said something, it failed because that closed the connection,
// whatever the connection calls it.
func (c *Conn) endedBy(end, err error) error {
	if c.rd.settings { // which came
		return &UnreadError{Err: end}
	}
	if pe := (*PrefaceError)(nil); errors.As(err, &pe) && len(pe.First) > 0 {
		return &PrefaceError{First: pe.First, Err: end}
	}
	if isAlert(err) {
		return err
	}
	return &PrefaceError{Err: end}
}

// isAlert reports whether err is a TLS alert of the server's.
func isAlert(err error) bool {
	op := (*net.OpError)(nil)
	return errors.As(err, &op) && op.Op == "remote error"
}

func (c *Conn) appendPreface(b []byte) []byte {
	b = append(b, http2.ClientPreface...)
	at := len(b)
	b = appendFrameHeader(b, 0, http2.FrameSettings, 0, 0)
	b = appendSetting(b, http2.SettingEnablePush, 0)
	if c.cfg.StreamWindow != initialWindow {
		b = appendSetting(b, http2.SettingInitialWindowSize, uint32(c.cfg.StreamWindow))
	}
	if c.cfg.MaxHeaderListSize > 0 {
		b = appendSetting(b, http2.SettingMaxHeaderListSize, c.cfg.MaxHeaderListSize)
	}
	putFrameLength(b, at, len(b)-at-frameHeaderLen)
	if n := c.cfg.ConnWindow - initialWindow; n > 0 {
		b = appendWindowUpdate(b, 0, uint32(n))
	}
	return b
}

// preface reads the server's first frame, which must be SETTINGS, and applies
// it. SETTINGS that break a rule are a [ConnError], anything else a [PrefaceError]. Some
// servers acknowledge our SETTINGS first: that will do, as in grpc-go, and their own are
// left to Serve unless they came along.
func (r *reader) preface() error {
	wrong := func(err error) error {
		b := r.bytes()[r.start:r.end]
		return &PrefaceError{First: bytes.Clone(b[:min(len(b), maxPrefaceBytes)]), Err: err}
	}
	f, known, err := r.prefaceHeader()
	if err == nil && known && f.isSettings() && f.flags.Has(http2.FlagSettingsAck) && f.length == 0 {
		r.bw.acknowledged()
		r.start += frameHeaderLen
		if r.settings = true; r.end-r.start < frameHeaderLen {
			return nil
		}
		if f = parseFrameHeader(r.bytes()[r.start:]); !f.isSettings() || f.flags.Has(http2.FlagSettingsAck) {
			return nil
		}
	}
	switch {
	case err != nil:
		return wrong(err)
	case !known:
		return wrong(nil)
	case f.typ == http2.FrameGoAway && f.id == 0 && f.length >= 8 && f.length <= maxFrameSize:
		if p, err := r.peek(frameHeaderLen + f.length); err == nil {
			return wrong(r.parseGoAway(p[frameHeaderLen:]))
		}
		return wrong(nil)
	case !f.isSettings():
		return wrong(nil)
	case f.flags.Has(http2.FlagSettingsAck), f.length > maxFrameSize, f.length%6 != 0:
		return connErrorf(http2.ErrCodeFrameSize, "SETTINGS of %d bytes", f.length)
	}
	p, err := r.peek(frameHeaderLen + f.length)
	if err != nil {
		return wrong(err)
	}
	if err := r.applySettings(p[frameHeaderLen:]); err != nil {
		return err
	}
	if r.c.cfg.OnSettings != nil {
		r.c.cfg.OnSettings(parseSettings(p[frameHeaderLen:]))
	}
	r.start += frameHeaderLen + f.length
	r.settings = true
	r.dirty = false // the handshake flushes the acknowledgement
	return nil
}

func (f frameHeader) isSettings() bool { return f.typ == http2.FrameSettings && f.id == 0 }

// prefaceHeader returns the next frame header; not if it is known by then that this is
// neither SETTINGS nor GOAWAY. Fewer than nine bytes can show that: a TLS alert, for
// instance, is shorter than a frame header.
func (r *reader) prefaceHeader() (f frameHeader, known bool, err error) {
	for n := 1; ; n++ {
		h, err := r.peek(n)
		switch {
		case err != nil:
			return f, false, err
		case h[0] != 0:
			r.hearOut()
			return f, false, nil
		case n > 3 && h[3] != byte(http2.FrameSettings) && h[3] != byte(http2.FrameGoAway):
			return f, false, nil
		case n == frameHeaderLen:
			return parseFrameHeader(h), true, nil
		}
	}
}

// hearOut reads on, for a moment, until a peer that does not speak HTTP/2 can be
// identified: a TLS alert to its end, anything else for a line. Servers may send it in
// pieces.
func (r *reader) hearOut() {
	const alert, alertLen = 21, 7 // RFC 8446 section 5.1
	_ = r.c.nc.SetReadDeadline(time.Now().Add(lastWordsWait))
	for {
		b := r.bytes()[r.start:r.end]
		switch {
		case b[0] == alert && len(b) >= alertLen, len(b) >= maxPrefaceBytes, bytes.IndexByte(b, '\n') >= 0:
			return
		case r.fill() != nil:
			return
		}
	}
}

// lastWords looks for what the server said before our preface could not be
// written because of err.
func (r *reader) lastWords(err error) error {
	_ = r.c.nc.SetReadDeadline(time.Now().Add(lastWordsWait))
	said := r.preface()
	if said == nil {
		said = r.announced()
	}
	return insteadOf(err, said)
}

// announced looks for a GOAWAY that came with the server's SETTINGS, as an [UnreadError].
func (r *reader) announced() error {
	for b := r.bytes()[r.start:r.end]; len(b) >= frameHeaderLen; {
		f := parseFrameHeader(b)
		if b = b[frameHeaderLen:]; len(b) < f.length {
			break
		}
		if f.typ == http2.FrameGoAway && f.length >= 8 {
			return &UnreadError{Err: r.parseGoAway(b[:f.length])}
		}
		b = b[f.length:]
	}
	return nil
}

// insteadOf returns why a handshake failed whose write failed with err; said is the
// outcome of reading the server's preface. The bytes that the server sent explain more
// than the write's error, and so does its closing of the connection.
func insteadOf(err, said error) error {
	if said == nil {
		return err
	}
	if pe, ok := said.(*PrefaceError); ok && len(pe.First) == 0 && pe.Err != io.EOF {
		return err
	}
	return said
}
