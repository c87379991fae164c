package subchannel

import (
	"context"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// connStats reports one connection to the stats handlers. It belongs to the
// connection's goroutine, on which the handlers run. nil reports nothing.
type connStats struct {
	handlers []stats.Handler
	ctx      context.Context // with the peer and what the handlers' TagConn added
	cancel   context.CancelFunc
}

// beginStats reports that conn was made. RPCs may be sent on it only after that, so that
// handlers get the events of a connection before those of an RPC on it.
func beginStats(handlers []stats.Handler, conn *h2.Conn) *connStats {
	if len(handlers) == 0 {
		return nil
	}
	p := conn.Peer()
	c := &connStats{handlers: handlers}
	c.ctx, c.cancel = context.WithCancel(peer.NewContext(context.Background(), p))
	for _, h := range handlers {
		c.ctx = h.TagConn(c.ctx, &stats.ConnTagInfo{RemoteAddr: p.Addr, LocalAddr: p.LocalAddr})
	}
	c.report(&stats.ConnBegin{Client: true})
	return c
}

// end reports the end of the connection. Its context has ended then.
func (c *connStats) end() {
	if c == nil {
		return
	}
	c.cancel()
	c.report(&stats.ConnEnd{Client: true})
}

func (c *connStats) report(s stats.ConnStats) {
	for _, h := range c.handlers {
		h.HandleConn(c.ctx, s)
	}
}
