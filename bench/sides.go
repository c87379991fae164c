package main

import (
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
)

// side is one column of the table: what puts itself under the cells' loads.
type side struct {
	name string
	flag string // as -client has it
	has  func(c cell) bool
	open func(c cell, at endpoint) (opened, error)
}

// opened is a side that is ready for a load.
type opened struct {
	side   string
	at     endpoint
	worker func(c cell) (worker, error)
	close  func() error
}

// sides are all columns, in their order.
var sides = []side{
	ours.side("ours"),
	grpcGo.side("grpc"),
	{connectName, "connect", func(c cell) bool { return c.connect != nil }, openConnect},
	{floorName, "floor", func(c cell) bool { return c.floor != nil }, openFloor},
}

const (
	connectName = "connect-go"
	floorName   = "floor"
)

// chooseSides reads the value of -client.
func chooseSides(list string) ([]side, error) {
	switch list {
	case "all":
		return sides, nil
	case "both":
		return sides[:2], nil
	}
	wanted := map[string]bool{}
	for name := range strings.SplitSeq(list, ",") {
		wanted[name] = true
	}
	var chosen []side
	for _, s := range sides {
		if wanted[s.flag] {
			chosen = append(chosen, s)
			delete(wanted, s.flag)
		}
	}
	for name := range wanted {
		return nil, fmt.Errorf("-client %q: want all, both, or some of ours,grpc,connect,floor", name)
	}
	return chosen, nil
}

// side is the column of a client that has a channel.
func (cl client) side(flag string) side {
	return side{cl.name, flag, func(c cell) bool { return c.work != nil }, func(c cell, at endpoint) (opened, error) {
		t, err := dialTarget(cl, at, c.config)
		if err != nil {
			return opened{}, err
		}
		return opened{cl.name, at, func(c cell) (worker, error) { return c.work(t) }, t.conn.Close}, nil
	}}
}

// dialTarget makes a READY channel for a load.
func dialTarget(cl client, at endpoint, config string) (target, error) {
	creds, err := at.credentials()
	if err != nil {
		return target{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	var c conn
	// The connection's goroutines carry the client's label in a profile too.
	pprof.Do(ctx, pprof.Labels("client", cl.name), func(ctx context.Context) {
		c, err = cl.dial(ctx, at.Target, creds, config)
	})
	if err != nil {
		return target{}, err
	}
	return target{client: cl, conn: c, at: at, creds: creds}, nil
}
