package subchannel

import (
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// openSocket makes the channelz data of the loop's connection. It happens on the policy
// queue, so that it is noted in order with the subchannel's states. To be called by the
// loop's goroutine, which alone writes l.addr, and which has to have the host run the queue
// if it is held. In a program that keeps no such data the queue is held all the same.
func (l *loop) openSocket(conn *h2.Conn) (held bool) {
	sc := l.sc
	if sc.channelz == nil {
		return sc.host.Hold(func() {})
	}
	name := sc.host.ServerName(l.addr)
	if name == sc.host.ServerName(resolver.Address{}) {
		name = "" // as the channel
	}
	open := func() { l.socket = sc.channelz.NewSocket(conn.Peer(), name, socketCounts{conn}) }
	if held = sc.host.Hold(open); !held {
		sc.host.Post(open)
	}
	return held
}

// closeSocket notes the end of the connection that openSocket was called for.
func (l *loop) closeSocket(why error) {
	if l.sc.channelz != nil {
		l.sc.host.Post(func() { l.socket.Close(why) })
	}
}

// socketCounts are a connection's figures for channelz.
type socketCounts struct{ conn *h2.Conn }

func (c socketCounts) SocketCounts() channelzdata.SocketCounts {
	n := c.conn.Counts()
	s := channelzdata.SocketCounts{
		StreamsStarted:   n.Started,
		StreamsSucceeded: n.Succeeded,
		StreamsFailed:    n.Failed,
		CallsSucceeded:   n.OK,
		MessagesSent:     n.MessagesSent,
		MessagesReceived: n.MessagesReceived,
		KeepalivesSent:   n.Keepalives,
		LastStream:       n.Latest,
		SendWindow:       n.SendWindow,
		ReceiveWindow:    n.ReceiveWindow,
		MaxStreams:       n.MaxStreams,
	}
	if n.GoAway != nil {
		s.GoAway, s.GoAwayCode = true, uint32(n.GoAway.ErrCode)
	}
	return s
}
