package subchannel

import (
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
)

// RegisterHealthListener makes the subchannel report to f whether the backend is
// healthy, on the policy queue, as long as it stays READY and no other listener takes
// the place of f. nil only removes the listener before.
//
// Without health checking the backend is healthy: f hears READY once.
func (sc *Subchannel) RegisterHealthListener(f func(balancer.SubConnState)) {
	mine := sc.listener.Add(1)
	sc.host.Post(func() {
		if sc.listener.Load() != mine {
			return
		}
		sc.endWatch()
		if f != nil && sc.reported == connectivity.Ready && !sc.host.Closed() {
			sc.listen(mine, f)
		}
	})
}

// listen begins to report to f, which is registered under number mine. Policy queue only.
func (sc *Subchannel) listen(mine uint32, f func(balancer.SubConnState)) {
	sc.host.AssertOnQueue()
	service, checked := sc.host.HealthService()
	if !checked {
		f(balancer.SubConnState{ConnectivityState: connectivity.Ready})
		return
	}
	if !sc.isReady() {
		return // the connection is lost, which is about to be reported to the policy
	}
	w := &healthWatch{sc: sc, service: service}
	w.report = func(to connectivity.State, why error) {
		sc.host.Post(func() {
			if sc.listener.Load() == mine && !sc.host.Closed() {
				sc.noteHealth(why)
				f(State(to, why))
			}
		})
	}
	sc.unwatch = w.start()
}

func (sc *Subchannel) isReady() bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.state == connectivity.Ready
}

// noteHealth keeps what speaks against a backend that is connected; nil: nothing.
func (sc *Subchannel) noteHealth(why error) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.state == connectivity.Ready {
		sc.why = why
	}
}

// endWatch ends the watch of the listener in force. Policy queue only.
func (sc *Subchannel) endWatch() {
	sc.host.AssertOnQueue()
	if sc.unwatch != nil {
		sc.unwatch()
		sc.unwatch = nil
	}
}

// checkLocked begins to check the backend's health, for a policy that has asked, by
// HealthCheckEnabled, that the subchannel is READY only while the backend is healthy. It
// reports false if nothing is to be checked.
func (sc *Subchannel) checkLocked() bool {
	service, asked := sc.host.HealthService()
	if !asked || !sc.opts.HealthCheckEnabled {
		return false
	}
	w := &healthWatch{sc: sc, service: service}
	w.report = func(to connectivity.State, why error) { sc.checked(w, to, why) }
	w.stop = w.start()
	sc.check = w
	return true
}

// checked makes the transition to the state that the backend's health asks for. It
// does nothing once w is not in force any more.
func (sc *Subchannel) checked(w *healthWatch, to connectivity.State, why error) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.check != w || !sc.conns[0].belongsLocked() {
		return
	}
	w.serving = to == connectivity.Ready
	sc.publishLocked()
	sc.setLocked(to, why)
}

// unwatchLocked makes the health watches leave the connection of l, which was taken out of
// use. Without another one they end.
func (sc *Subchannel) unwatchLocked(l *loop) {
	for w := range sc.watches {
		if w.on == l {
			w.leave()
		}
	}
	if len(sc.conns) > 0 {
		return
	}
	sc.watches = nil
	if sc.check != nil {
		sc.check.stop()
		sc.check = nil
	}
}
