package main

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The relay adds a round trip, keeps every byte in its place, and passes the end on.
func TestRelay(t *testing.T) {
	const roundTrip = 20 * time.Millisecond
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer echo.Close()
	go func() {
		nc, err := echo.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_, _ = io.Copy(nc, nc)
	}()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	go relay{lis, echo.Addr().String(), roundTrip / 2}.serve()

	nc, err := net.Dial("tcp", lis.Addr().String())
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.SetDeadline(time.Now().Add(10*time.Second)))
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(i * i >> 8)
	}
	began := time.Now()
	go func() {
		_, _ = nc.Write(sent)
		_ = nc.(*net.TCPConn).CloseWrite()
	}()
	first := make([]byte, 1)
	_, err = io.ReadFull(nc, first)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), roundTrip)
	rest, err := io.ReadAll(nc)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, append(first, rest...)))
}

// What the server process counts is what the client wrote.
func TestTrafficIsCounted(t *testing.T) {
	at, stop, err := startServer(serving{})
	require.NoError(t, err)
	defer stop()
	c := uploadCell(1, oneWayBytes)
	o, err := sides[0].open(c, at.Plain)
	require.NoError(t, err)
	defer o.close()
	s, err := put(c, o, forOps(100))
	require.NoError(t, err)
	require.Equal(t, 100, s.ops)
	require.Positive(t, s.wire.Up)
	require.LessOrEqual(t, s.wire.Up, int64(100*(oneWayBytes+64)))
	require.Positive(t, s.wire.Down)
}
