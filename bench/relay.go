package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// relay forwards what its listener accepts to another address and back, each byte after
// half a round trip: what a network between client and server adds. It keeps the
// bytes' spacing and bounds neither the rate nor what is on the way.
type relay struct {
	lis  net.Listener
	to   string
	half time.Duration
}

// serve accepts connections until the listener is closed.
func (r relay) serve() {
	for {
		near, err := r.lis.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", r.to)
		if err != nil {
			near.Close()
			continue
		}
		go func() {
			defer near.Close()
			defer far.Close()
			var ways sync.WaitGroup
			ways.Go(func() { r.forward(far.(*net.TCPConn), near.(*net.TCPConn)) })
			ways.Go(func() { r.forward(near.(*net.TCPConn), far.(*net.TCPConn)) })
			ways.Wait()
		}()
	}
}

// piece is what one read returned.
type piece struct {
	data []byte
	due  time.Time
}

// onTheWay is how many pieces may be on the way in one direction.
const onTheWay = 1 << 14

// forward ends when both ends are known: from has said all and to has got it, or one of
// them is broken, and then both are closed.
func (r relay) forward(to, from *net.TCPConn) {
	pieces := make(chan piece, onTheWay)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				from.Close()
				to.Close()
			}
		}
	})
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			pieces <- piece{append([]byte(nil), buf[:n]...), time.Now().Add(r.half)}
		}
		if err != nil {
			close(pieces)
			writer.Wait()
			_ = to.CloseWrite()
			if err != io.EOF {
				to.Close()
			}
			return
		}
	}
}
