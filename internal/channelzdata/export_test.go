package channelzdata

import "testing"

// KeepNothing undoes Keep for the time of the test.
func KeepNothing(t *testing.T) {
	kept.Store(false)
	t.Cleanup(Keep)
}

// Entries returns how many entries the registry has.
func Entries() (channels, children int) {
	open.mu.Lock()
	defer open.mu.Unlock()
	return len(open.channels), len(open.owners)
}

// ID returns the channel's id; 0 for nil.
func (c *Channel) ID() int64 {
	if c == nil {
		return 0
	}
	return c.id
}

// ID returns the subchannel's id; 0 for nil.
func (s *Subchannel) ID() int64 {
	if s == nil {
		return 0
	}
	return s.id
}

// ID returns the socket's id; 0 for nil.
func (k *Socket) ID() int64 {
	if k == nil {
		return 0
	}
	return k.id
}

// Note notes something else. The text is cut at 512 bytes.
func (s *Subchannel) Note(severity Severity, note string) {
	if s == nil {
		return
	}
	e := newEvent(severity, clip(note))
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.addLocked(e)
}
