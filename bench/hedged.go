package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// A call of this name is answered late in 2 % of the cases, each attempt by itself.
const (
	slowName  = "slow"
	slowEvery = 50
	slowDelay = 50 * time.Millisecond
)

// hedgingConfig makes a second attempt after 5 ms. grpc-go has no hedging and ignores it.
const hedgingConfig = `{"methodConfig":[{"name":[{}],"hedgingPolicy":{"maxAttempts":2,"hedgingDelay":"0.005s"}}]}`

// A call of this name is answered when its context has ended.
const waitName = "wait"

// delay is the server's side of both.
func delay(ctx context.Context, name string) {
	switch {
	case name == waitName:
		<-ctx.Done()
	case name == slowName && rand.IntN(slowEvery) == 0:
		time.Sleep(slowDelay)
	}
}

var hedgedChannel sharedChannel

// hedged makes unary calls of which 2 % are answered late, on a channel whose service
// config has a hedging policy: what matters is p99.
func hedged(t target) (worker, error) {
	c, err := hedgedChannel.open(func() (stateful, error) {
		return t.client.configured(t.at.Target, t.creds, hedgingConfig, nil, nil)
	})
	if err != nil {
		return worker{}, err
	}
	w := unaryOn(c, &pb.Request{Name: slowName}, 0)
	w.done = hedgedChannel.close
	return w, nil
}

// sharedChannel is a channel of one cell's workers: the first opens it and the last
// closes it.
type sharedChannel struct {
	mu      sync.Mutex
	c       stateful
	workers int
}

func (s *sharedChannel) open(dial func() (stateful, error)) (stateful, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.workers == 0 {
		c, err := dial()
		if err != nil {
			return nil, err
		}
		s.c = c
	}
	s.workers++
	return s.c, nil
}

func (s *sharedChannel) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.workers--; s.workers > 0 {
		return nil
	}
	return s.c.Close()
}
