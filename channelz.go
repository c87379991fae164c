package grpcdial

import (
	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// openSocket opens the channelz data of the link's connection, and returns what closes
// them. It happens on the policy queue, so that it is noted in order with the
// subchannel's states. To be called by the link's goroutine, which alone writes
// l.addr.
func (l *link) openSocket(conn *h2.Conn) (closed func(why error)) {
	sc := l.sc
	name := sc.cc.serverName(l.addr)
	if name == sc.cc.authority {
		name = "" // as the channel
	}
	var k *channelzdata.Socket // policy queue only
	sc.cc.post(func() { k = sc.channelz.NewSocket(conn.Peer(), name, socketCounts{conn}) })
	return func(why error) { sc.cc.post(func() { k.Close(why) }) }
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
