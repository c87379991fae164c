package dns

import (
	"context"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc/attributes"
)

// resolve is one resolution. It returns why the host has to be resolved again,
// nil if it has not to be. Everything that it started has ended when it returns,
// but for what a query cannot interrupt.
func (r *hostResolver) resolve() error {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.LookupTimeout)
	defer cancel()

	// 1. Ask for both.
	var answers <-chan txtAnswer // one comes; nil: none is to be waited for
	if r.wantsConfig {
		q := newQuery(r.source)
		defer q.end()
		answers = q.lookUpTXT(ctx, txtPrefix+r.host)
	}
	addrs, err := r.lookUpHost(ctx)
	if r.ctx.Err() != nil {
		return nil // closed
	}
	if err != nil {
		r.cc.ReportError(err)
		return err
	}

	// 2. Deliver the addresses at once, with the service config if it is there.
	select {
	case a := <-answers:
		r.learn(a)
		answers = nil
	default:
	}
	pending := answers != nil && !r.complete && r.cfg.ServiceConfigWait > 0
	verdict := r.deliver(addrs, pending)

	// 3. Wait for the service config while RPCs are held for it.
	if pending {
		bound := time.NewTimer(r.cfg.ServiceConfigWait)
		select {
		case a := <-answers:
			r.learn(a)
			answers = nil
		case <-bound.C:
		case <-ctx.Done():
		}
		bound.Stop()
		verdict = r.deliver(addrs, false)
	}

	// 4. Wait for it while the look-up lasts.
	if answers != nil {
		select {
		case a := <-answers:
			if r.learn(a) {
				verdict = r.deliver(addrs, false)
			}
		case <-ctx.Done():
		}
	}
	return verdict
}

// deliver gives the channel these addresses and the service config that is
// known, and returns what the channel says.
func (r *hostResolver) deliver(addrs []string, pending bool) error {
	if r.ctx.Err() != nil {
		return nil
	}
	s := stateOf(addrs)
	s.ServiceConfig = r.config
	if pending {
		s.Attributes = attributes.New(pendingKey{}, true)
	} else {
		r.complete = true
	}
	return r.cc.UpdateState(s)
}

// lookUpHost returns what to dial, one address at least.
func (r *hostResolver) lookUpHost(ctx context.Context) ([]string, error) {
	q := newQuery(r.source)
	defer q.end()
	found, err := q.resolver.LookupIPAddr(ctx, r.host)
	if err != nil {
		return nil, q.explain(err, r.host)
	}
	addrs := make([]string, 0, len(found))
	seen := make(map[netip.Addr]bool, len(found))
	for _, f := range found {
		ip, ok := netip.AddrFromSlice(f.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		if ip.Is6() {
			ip = ip.WithZone(f.Zone) // from the hosts file
		}
		if !seen[ip] {
			seen[ip] = true
			addrs = append(addrs, net.JoinHostPort(ip.String(), r.port))
		}
	}
	if len(addrs) == 0 {
		return nil, q.explain(&net.DNSError{Err: noAddress, Name: r.host, IsNotFound: true}, r.host)
	}
	return addrs, nil
}
