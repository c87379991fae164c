package main

import (
	"fmt"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// streamLimits are how many streams the servers of the cells "scale" allow on a connection.
var streamLimits = []int{1, 10, 100}

// scalingCells call a server that allows a few streams on a connection and takes 20 ms for
// each call, with twice as many callers as eight connections hold. A service config lets
// grpcdial's channel make 1 to 8 connections to the one address; grpc-go does not know it
// and has one.
func scalingCells() []cell {
	var cells []cell
	for _, limit := range streamLimits {
		for _, connections := range []int{1, 2, 4, 8} {
			cells = append(cells, cell{
				name: fmt.Sprintf("scale-limit%d/conns=%d", limit, connections), noun: "call", workers: 2 * 8 * limit,
				work: scaled, axis: "connections", at: float64(connections), share: 0.5,
				streams: limit, config: fmt.Sprintf(`{"connectionScaling":{"maxConnectionsPerSubchannel":%d}}`, connections),
			})
		}
	}
	return cells
}

func scaled(t target) (worker, error) {
	return unaryOn(t.conn, &pb.Request{Name: workName}, 0), nil
}
