package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// tokenCells make unary calls that carry a constant metadata value of 1 kB, as a
// bearer token is.
var tokenCells = []cell{tokenCell(1), tokenCell(64)}

func tokenCell(callers int) cell {
	return cell{
		name: fmt.Sprintf("unary-token/c=%d", callers), noun: "call", workers: callers,
		work: token(1 << 10), connect: connectToken(1 << 10),
		axis: "callers", at: float64(callers),
	}
}

// bearer is a token of size random characters; it is always the same.
func bearer(size int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	value := make([]byte, size)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range value {
		value[i] = alphabet[random.IntN(len(alphabet))]
	}
	return "Bearer " + string(value)
}

func token(size int) func(target) (worker, error) {
	header := metadata.Pairs("authorization", bearer(size))
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
