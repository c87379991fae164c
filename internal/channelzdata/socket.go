package channelzdata

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"google.golang.org/grpc/peer"

	"github.com/grpcdial/grpcdial/internal/text"
)

// Socket is the data of one connection, until Close.
type Socket struct {
	// Set by NewSocket and only read after that.
	s          *Subchannel
	id         int64
	name       string
	peer       *peer.Peer
	remoteName string
	counters   SocketCounters

	closed bool // guarded by the channel's mutex
}

// NewSocket makes the data of a connection that was made. p says where it leads
// to, from where, and how it is secured; it is kept, and must not change.
// remoteName is the server's name that the credentials checked, if it is not the
// channel's; else empty. counters may be nil. The socket is nil if the subchannel is nil,
// and in no list if the channel is closed or the subchannel gone.
func (s *Subchannel) NewSocket(p *peer.Peer, remoteName string, counters SocketCounters) *Socket {
	if s == nil {
		return nil
	}
	const connected = "Connected: "
	made := clip(connected + socketName(p))
	e := newEvent(Info, made)
	k := &Socket{s: s, name: made[min(len(connected), len(made)):], peer: p, remoteName: text.Target(remoteName), counters: counters}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	k.id = newID() // with the lock held, so that sockets is in order
	if c.closed || c.subLocked(s.id) == nil {
		k.closed = true
		return k
	}
	s.sockets = append(s.sockets, k)
	open.addChild(k.id, c)
	s.addLocked(e)
	return k
}

// Close notes that the connection has ended. Its counters are read for the last
// time, so they should have come to rest.
func (k *Socket) Close(why error) {
	if k == nil {
		return
	}
	ended := "Disconnected: " + k.name
	if why != nil {
		ended += ": " + text.Of(why)
	}
	e := newEvent(Info, clip(ended))
	var n SocketCounts
	if k.counters != nil {
		n = k.counters.SocketCounts()
	}
	s, c := k.s, k.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.closed || c.closed {
		return
	}
	k.closed = true
	if i, ok := slices.BinarySearchFunc(s.sockets, k.id, func(k *Socket, id int64) int { return cmp.Compare(k.id, id) }); ok {
		s.sockets = slices.Delete(s.sockets, i, i+1)
	}
	open.removeChild(k.id)
	s.past.add(n.calls())
	s.addLocked(e)
	s.removeIfDoneLocked()
}

// socketName is "local -> remote", as far as known.
func socketName(p *peer.Peer) string {
	if p == nil {
		return ""
	}
	b := make([]byte, 0, 64)
	b = appendAddress(b, p.LocalAddr)
	b = append(b, " -> "...)
	return string(appendAddress(b, p.Addr))
}

// appendAddress appends the text of an address, "?" if it is not known.
func appendAddress(b []byte, a net.Addr) []byte {
	if tcp, ok := a.(*net.TCPAddr); ok && tcp != nil && len(tcp.IP) > 0 { // a String of each would be most of what this costs
		at := tcp.AddrPort()
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).AppendTo(b)
	}
	if a == nil {
		return append(b, '?')
	}
	return append(b, text.Target(a.String())...)
}
