package main

import (
	"context"
	"math/rand/v2"

	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// tokenCells make unary calls that carry a constant metadata value of 1 kB, as a
// bearer token is.
var tokenCells = []cell{
	{"unary-token/c=1", "call", 1, token(1 << 10)},
	{"unary-token/c=64", "call", 64, token(1 << 10)},
}

func token(size int) func(target) (worker, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	value := make([]byte, size)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range value {
		value[i] = alphabet[random.IntN(len(alphabet))]
	}
	header := metadata.Pairs("authorization", "Bearer "+string(value))
	return func(t target) (worker, error) {
		stub := pb.NewBenchClient(t.conn)
		request := newRequest(0)
		return worker{op: func() error {
			ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), header), opTimeout)
			defer cancel()
			reply, err := stub.Unary(ctx, request)
			if err != nil {
				return err
			}
			return check(reply, 0)
		}}, nil
	}
}
