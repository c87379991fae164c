// Package proxytest is proxies for tests: one for CONNECT and one for SOCKS 5.
// They know their targets by names that the test gives, and keep what they were
// asked for.
package proxytest

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// Serve calls f for each connection to a loopback address until the test ends.
// Connections that f leaves open are closed then.
func Serve(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{} // nil when the test has ended
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for nc := range open {
			_ = nc.Close()
		}
		open = nil
		mu.Unlock()
		running.Wait()
	})
	running.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if open == nil {
				_ = nc.Close()
			} else {
				open[nc] = true
			}
			mu.Unlock()
			running.Go(func() {
				defer nc.Close()
				f(nc)
			})
		}
	})
	return ln.Addr().String()
}

// relay carries bytes both ways until both ends have ended.
func relay(client io.Reader, clientConn net.Conn, target net.Conn) {
	var done sync.WaitGroup
	done.Go(func() {
		_, _ = io.Copy(target, client)
		_ = target.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(clientConn, target)
	_ = clientConn.Close()
	done.Wait()
	_ = target.Close()
}

// record is what a proxy was asked for.
type record[T any] struct {
	mu      sync.Mutex
	entries []T
}

func (r *record[T]) add(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, v)
}

func (r *record[T]) all() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.entries)
}
