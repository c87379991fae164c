package grpcdial

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/subchannel"
)

// A channel without a trace, a logger or the page makes no events: the steps of its
// connections allocate nothing.
func TestNoTraceCostsNothing(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr)
	awaitReady(t, cc)
	require.Nil(t, cc.observer.listeners)
	o, h := &cc.observer, host{&policy{cc: cc}}
	a := subchannel.Attempt{ID: 1, Addr: resolver.Address{Addr: b.Addr}}
	attempts := failure.List{{Addr: "a:1", Phase: failure.Dial, Err: backendtest.ErrRefused}}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if o.steps(1, "a:1") != nil {
			panic("the connection is asked to tell of its steps")
		}
		o.failed(1, attempts)
		o.report(DialEvent{Kind: EventKeepalive, Keepalive: time.Minute})
		h.BackingOff(b.Addr, time.Second)
		h.ConnReady(a, time.Second)
		h.ConnLost(a, time.Second, backendtest.ErrRefused)
		cc.reportResolving()
		cc.reportResolved(time.Time{}, resolver.State{}, nil)
	}))
}

// BenchmarkDial is a blocking dial and a Close, with and without a trace.
func BenchmarkDial(b *testing.B) {
	srv := h2test.Listen(b)
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		c.ExpectClosed()
	})
	for name, opts := range map[string][]DialOption{"plain": nil, "traced": {WithDialTrace(&DialTrace{Every: func(DialEvent) {}})}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				cc, err := Dial(srv.Addr(), append(opts, WithInsecure(), WithBlock())...)
				if err != nil {
					b.Fatal(err)
				}
				_ = cc.Close()
			}
		})
	}
}
