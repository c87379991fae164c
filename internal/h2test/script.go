package h2test

import (
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Script runs f for every connection from now on, each in a goroutine of its
// own, instead of Accept. The TLS handshake comes first; if it fails f is not
// called, which a test sees by its client. The connection is closed when f
// returns.
//
// In f a failed expectation fails the test and ends f. At the end of the test a
// Loop is cut; any other wait keeps its bound, and fails the test if what it
// waits for does not come.
func (s *Server) Script(f func(*Conn)) { s.script(f, false) }

// Serve answers every connection from now on with Handshake(settings...) and
// Loop(handler). A client may close at any time.
func (s *Server) Serve(handler func(*Stream), settings ...http2.Setting) {
	s.script(func(c *Conn) {
		if !c.enterLoop() {
			return
		}
		c.Handshake(settings...)
		c.Loop(handler)
	}, true)
}

func (s *Server) script(f func(*Conn), serve bool) {
	run := func(raw net.Conn) {
		defer s.scripts.Done()
		c, err := s.start(raw, true)
		if err != nil {
			return
		}
		defer c.Close()
		c.serve = serve
		f(c)
	}
	s.scripts.Add(1)
	go func() {
		defer s.scripts.Done()
		for {
			raw, err := s.nextConn(nil)
			if err != nil {
				return
			}
			s.scripts.Add(1)
			go run(raw)
		}
	}()
}

// Go runs f in a goroutine of its own, on a handle of the connection whose
// failures fail the test without stopping its goroutine: as in Server.Script.
// Meanwhile the test may write on the connection, and must not read.
func (c *Conn) Go(f func(*Conn)) {
	handle := &Conn{script: true, wire: c.wire}
	c.scripts.Add(1)
	go func() {
		defer c.scripts.Done()
		f(handle)
	}()
}

// Wait waits until the functions given to Go have returned. It fails the test
// when they have not within the bound.
func (c *Conn) Wait() {
	c.t.Helper()
	if !waitBounded(&c.scripts, time.Duration(c.bound.Load())) {
		c.fatalf("waiting for the functions given to Go: they still run after %v", time.Duration(c.bound.Load()))
	}
}

// waitForScripts waits at the end of a test. Each wait of a script is bounded by
// bound; one that does something else for much longer fails the test.
func waitForScripts(t testing.TB, scripts *sync.WaitGroup, bound time.Duration) {
	t.Helper()
	limit := bound + DefaultBound // a short bound may end late: the machine may be busy
	if !waitBounded(scripts, limit) {
		t.Errorf("h2test: a script still runs %v after the end of the test", limit)
	}
}

func waitBounded(wg *sync.WaitGroup, bound time.Duration) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
