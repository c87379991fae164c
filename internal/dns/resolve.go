package dns

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc/attributes"
)

// resolve is one resolution. It returns why the host has to be resolved again,
// nil if it has not to be. Everything that it started has ended when it returns,
// but for what a look-up cannot interrupt.
func (r *hostResolver) resolve() error {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.LookupTimeout)
	defer cancel()

	// 1. Ask for both.
	var answers <-chan txtAnswer // one comes; nil: none is to be waited for
	if r.wantsConfig {
		answers = r.lookUpTXT(ctx)
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
	ips, err := r.source.Addrs(ctx, r.host)
	if err != nil {
		return nil, withoutContext(err)
	}
	addrs := make([]string, len(ips))
	for i, ip := range ips {
		addrs[i] = net.JoinHostPort(ip.String(), r.port)
	}
	return addrs, nil
}

// withoutContext takes out of a *net.DNSError that it is a context's error too:
// the deadline was the look-up's own, not that of a caller that waits for the channel.
func withoutContext(err error) error {
	var e *net.DNSError
	if !errors.As(err, &e) || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	own := *e
	own.UnwrapErr = nil
	return &own
}

// txtAnswer is what came of a look-up of TXT records.
type txtAnswer struct {
	records []string
	err     error
}

// lookUpTXT starts the look-up of the service config, which ctx ends. The answer is sent
// to the channel, whose buffer holds it if it is not read.
func (r *hostResolver) lookUpTXT(ctx context.Context) <-chan txtAnswer {
	answer := make(chan txtAnswer, 1)
	go func() {
		records, err := r.source.TXT(ctx, txtPrefix+r.host)
		answer <- txtAnswer{records, err}
	}()
	return answer
}
