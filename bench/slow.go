package main

import (
	"context"
	"math/rand/v2"
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

// A call of this name takes as long as a backend that works.
const (
	workName  = "work"
	workDelay = 20 * time.Millisecond
)

// delay is the server's side of these.
func delay(ctx context.Context, name string) {
	switch {
	case name == waitName:
		<-ctx.Done()
	case name == workName:
		time.Sleep(workDelay)
	case name == slowName && rand.IntN(slowEvery) == 0:
		time.Sleep(slowDelay)
	}
}

// hedged makes unary calls of which 2 % are answered late: what matters is p99.
func hedged(t target) (worker, error) {
	return unaryOn(t.conn, &pb.Request{Name: slowName}, 0), nil
}
