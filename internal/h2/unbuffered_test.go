package h2_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A connection that holds nothing makes each side wait for the other to read, and
// both begin by writing.
func TestUnbufferedConnection(t *testing.T) {
	ca := h2test.NewCA(t)
	cert := ca.Server("localhost")
	for _, tt := range []struct {
		name   string
		server []grpc.ServerOption
		client *tls.Config
	}{
		{"plaintext", nil, nil},
		{"TLS", []grpc.ServerOption{grpc.Creds(credentials.NewServerTLSFromCert(&cert))}, ca.ClientConfig("localhost")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			l := h2test.ListenUnbuffered()
			serveReal(t, l, tt.server...)
			nc, err := l.DialContext(context.Background(), "")
			require.NoError(t, err)
			c := start(t, nc, tt.client, h2.Config{})
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					payload := bytes.Repeat([]byte{byte(i)}, 1<<(3*i)%(1<<20))
					s, err := c.Unary(context.Background(), req("/test/Echo"), frame(payload))
					if err != nil {
						t.Error(err)
						return
					}
					if m, ok := s.Message(); s.Err() != nil || !ok || !bytes.Equal(payload, unframe(t, m)) {
						t.Errorf("a message of %d bytes: %v", len(payload), s.Err())
					}
					s.Release()
				})
			}
			wg.Wait()
		})
	}
}

// A server may write more than its SETTINGS, and each frame by itself, before it
// reads a byte.
func TestServerWritesBeforeItReads(t *testing.T) {
	h2test.CheckLeaks(t)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	seen := make(chan error, 1)
	go func() {
		fr := http2.NewFramer(theirs, theirs)
		err := errors.Join(fr.WriteSettings(), fr.WriteWindowUpdate(0, 1000), fr.WritePing(false, [8]byte{1}), fr.WriteSettings())
		preface := make([]byte, len(http2.ClientPreface))
		if _, err2 := io.ReadFull(theirs, preface); err2 != nil || string(preface) != http2.ClientPreface {
			err = errors.Join(err, err2, errors.New("no preface"))
		}
		acks := 0
		for acks < 3 && err == nil {
			var f http2.Frame
			if f, err = fr.ReadFrame(); err == nil && f.Header().Flags.Has(http2.FlagPingAck) {
				acks++ // of SETTINGS twice, and of PING
			}
		}
		seen <- err
	}()
	c := start(t, ours, nil, h2.Config{})
	require.NoError(t, await(t, seen, "the server"))
	c.Close(nil, nil)
}

// A peer that is no HTTP/2 server answers, or stays silent, without having read what this
// side sends. The error says so, and nothing is left behind.
func TestUnbufferedHandshakeFails(t *testing.T) {
	// A violation is answered by a GOAWAY, which waits for the preface if that is being
	// written still. The server reads neither: both are given up.
	const atMost = 100 * time.Millisecond
	for _, tt := range []struct {
		name   string
		server func(net.Conn)
		text   string
		took   time.Duration
	}{
		{"HTTP/1.1", func(nc net.Conn) { io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\n\r\n") }, "HTTP/1.1 400 Bad Request", 0},
		{"closes", func(nc net.Conn) { nc.Close() }, "without a word", 0},
		{"reads and closes", func(nc net.Conn) {
			io.ReadFull(nc, make([]byte, len(http2.ClientPreface)))
			nc.Close()
		}, "without a word", 0},
		{"says nothing", func(nc net.Conn) {}, "deadline", time.Minute},
		{"SETTINGS that break a rule", func(nc net.Conn) {
			io.WriteString(nc, "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x01")
		}, "SETTINGS_ENABLE_PUSH", atMost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, server := net.Pipe()
				w := h2.NewWire(ours)
				c := h2.New(w, w, h2.Config{})
				go tt.server(server)
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				began := time.Now()
				err := c.Handshake(ctx)
				require.ErrorContains(t, err, tt.text)
				if took := time.Since(began); tt.took == atMost {
					require.LessOrEqual(t, took, atMost)
				} else {
					require.Equal(t, tt.took, took)
				}
				synctest.Wait() // the end of the bubble fails the test if a goroutine is left that waits
			})
		})
	}
}
