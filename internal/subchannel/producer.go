package subchannel

import (
	"sync"

	"google.golang.org/grpc/balancer"

	"github.com/grpcdial/grpcdial/internal/call"
)

// producer is something that many consumers share on one subchannel, such as the
// stream of a backend's load reports, and how many hold it.
type producer struct {
	refs int // guarded by the subchannel's mu; 0 once it is being closed

	built chan struct{}     // closed when the two below are set
	value balancer.Producer // read after built
	close func()            // read after built
}

// GetOrBuildProducer returns the subchannel's producer of this builder, which it
// builds if there is none. The function returned gives it up. A producer is closed
// when its last consumer has given it up, when the subchannel's state changes, and
// when the subchannel or its policy ends. One that is built after that is closed
// when it is given up.
//
// The builder runs with no lock held. A call for the same producer meanwhile
// waits for it.
func (sc *Subchannel) GetOrBuildProducer(b balancer.ProducerBuilder) (balancer.Producer, func()) {
	sc.mu.Lock()
	p, ok := sc.producers[b]
	if !ok {
		p = &producer{built: make(chan struct{})}
		if sc.producers == nil {
			sc.producers = make(map[balancer.ProducerBuilder]*producer)
		}
		sc.producers[b] = p
	}
	p.refs++
	sc.mu.Unlock()

	if ok {
		<-p.built
	} else {
		sc.build(b, p)
	}
	return p.value, sync.OnceFunc(func() { sc.releaseProducer(b, p) })
}

// build builds p. If the builder panics, or calls runtime.Goexit, p is given up: it would be
// waited for, by the end of the subchannel too.
func (sc *Subchannel) build(b balancer.ProducerBuilder, p *producer) {
	returned := false
	defer func() {
		close(p.built)
		if !returned {
			sc.releaseProducer(b, p)
		}
	}()
	p.value, p.close = b.Build(&call.Direct{Channel: sc.g.cfg.Calls, Endpoint: sc})
	returned = true
}

func (sc *Subchannel) releaseProducer(b balancer.ProducerBuilder, p *producer) {
	sc.mu.Lock()
	last := p.refs == 1
	if p.refs > 0 { // 0: closeProducers has closed it
		p.refs--
	}
	if last {
		delete(sc.producers, b)
	}
	sc.mu.Unlock()
	if last && p.close != nil {
		p.close()
	}
}

// closeProducers closes every producer, also those that are still held. Policy queue only.
func (sc *Subchannel) closeProducers() {
	sc.host.AssertOnQueue()
	sc.mu.Lock()
	all := sc.producers
	sc.producers = nil
	for _, p := range all {
		p.refs = 0
	}
	sc.mu.Unlock()
	for _, p := range all {
		if <-p.built; p.close != nil {
			p.close()
		}
	}
}
