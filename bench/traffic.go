package main

import (
	"encoding/json"
	"net"
	"sync/atomic"
	"time"
)

// traffic is what crossed the wire between the clients and the server, TLS and
// all, counted at the server's sockets.
type traffic struct {
	Up   int64 // bytes from the clients
	Down int64 // bytes to them
}

func (t traffic) minus(before traffic) traffic {
	return traffic{t.Up - before.Up, t.Down - before.Down}
}

// counts is the traffic of several listeners.
type counts struct {
	up, down atomic.Int64
}

// counter counts the traffic of a listener.
type counter struct {
	net.Listener
	by *counts
}

// Accept implements net.Listener.
func (c counter) Accept() (net.Conn, error) {
	nc, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return counted{nc, c.by}, nil
}

type counted struct {
	net.Conn
	by *counts
}

// Read implements net.Conn.
func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.by.up.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.by.down.Add(int64(n))
	return n, err
}

// report answers each connection to lis with the traffic so far, until lis is closed.
func (c *counts) report(lis net.Listener) {
	for {
		nc, err := lis.Accept()
		if err != nil {
			return
		}
		_ = json.NewEncoder(nc).Encode(traffic{c.up.Load(), c.down.Load()})
		nc.Close()
	}
}

// trafficNow asks the server for the traffic so far.
func trafficNow(addr string) (traffic, error) {
	nc, err := net.DialTimeout("tcp", addr, opTimeout)
	if err != nil {
		return traffic{}, err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(opTimeout))
	var t traffic
	err = json.NewDecoder(nc).Decode(&t)
	return t, err
}
