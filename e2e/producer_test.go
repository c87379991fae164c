package e2e_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// countingProducer counts what is built and closed.
type countingProducer struct {
	built, closed atomic.Int32
	conn          atomic.Pointer[grpc.ClientConnInterface]
}

func (p *countingProducer) Build(conn any) (balancer.Producer, func()) {
	p.built.Add(1)
	c := conn.(grpc.ClientConnInterface)
	p.conn.Store(&c)
	return p, func() { p.closed.Add(1) }
}

func TestProducers(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 100)
	_, sc := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}})
	var p, other countingProducer
	one, closeOne := sc.GetOrBuildProducer(&p)
	two, closeTwo := sc.GetOrBuildProducer(&p)
	_, closeOther := sc.GetOrBuildProducer(&other)
	assert.Same(t, one, two)
	assert.EqualValues(t, 1, p.built.Load())

	var from peer.Peer
	got, err := backendtest.AskName(backendtest.Bounded(t), *p.conn.Load(), grpc.Peer(&from))
	require.NoError(t, err)
	assert.Equal(t, "one", got)
	assert.Equal(t, b.Addr, from.Addr.String())

	closeOne()
	closeOne()
	assert.Zero(t, p.closed.Load(), "it is held")
	closeTwo()
	assert.EqualValues(t, 1, p.closed.Load())
	assert.Zero(t, other.closed.Load())

	_, closeThree := sc.GetOrBuildProducer(&p)
	assert.EqualValues(t, 2, p.built.Load())
	b.Cut()
	backendtest.ExpectStates(t, states, connectivity.Idle)
	assert.EqualValues(t, 2, p.closed.Load(), "a change of state closes them")
	assert.EqualValues(t, 1, other.closed.Load())
	closeThree()
	closeOther()
	assert.EqualValues(t, 2, p.closed.Load())
	_, err = backendtest.AskName(backendtest.Bounded(t), *p.conn.Load())
	assert.Equal(t, codes.Unavailable, status.Code(err))
}

func TestProducersFromManyGoroutines(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 1000)
	_, sc := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}})
	var p countingProducer
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				_, done := sc.GetOrBuildProducer(&p)
				done()
			}
		})
	}
	b.Cut()
	wg.Wait()
	backendtest.ExpectStates(t, states, connectivity.Idle)
	assert.Equal(t, p.built.Load(), p.closed.Load())
}

// badProducer panics when it is built for the first time.
type badProducer struct{ countingProducer }

func (p *badProducer) Build(conn any) (balancer.Producer, func()) {
	if p.built.Load() == 0 {
		p.built.Add(1)
		panic("on purpose")
	}
	return p.countingProducer.Build(conn)
}

// A builder that panics leaves nothing behind that the next caller, or Close, would wait for.
func TestProducerWhoseBuilderPanics(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc, sc := oneSubchannel(t, make(chan balancer.SubConnState, 100), []resolver.Address{{Addr: b.Addr}})
	var p badProducer
	assert.Panics(t, func() { sc.GetOrBuildProducer(&p) })
	_, release := sc.GetOrBuildProducer(&p)
	assert.EqualValues(t, 2, p.built.Load())
	release()
	assert.EqualValues(t, 1, p.closed.Load())
	require.NoError(t, cc.Close())
}
