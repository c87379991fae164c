package h2_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// What is no HTTP/2 server is known by the first bytes it sends, at once; what
// says nothing, when the context ends.
func TestPrefaceErrors(t *testing.T) {
	settings := "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"
	for _, tt := range []prefaceCase{
		{name: "HTTP/1.1", answer: "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", text: "HTTP/1.1 400 Bad Request"},
		{name: "a TLS alert", answer: "\x15\x03\x01\x00\x02\x02\x46", text: `\x15\x03\x01`},
		{name: "SSH", answer: "SSH-2.0-OpenSSH_9.9\r\n", text: "SSH-2.0"},
		{name: "one byte", answer: "X", text: `"X"`},
		{name: "long-winded", answer: "220 mail" + strings.Repeat("!", 5000), text: "220 mail"},
		{name: "PING first", answer: "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"},
		{name: "SETTINGS on a stream", answer: "\x00\x00\x00\x04\x00\x00\x00\x00\x01"},
		{name: "GOAWAY", answer: "\x00\x00\x0b\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0bbye", text: "bye",
			err: http2.GoAwayError{ErrCode: http2.ErrCodeEnhanceYourCalm, DebugData: "bye"}},
		{name: "closed at once", end: "close", err: io.EOF, text: "without a word"},
		{name: "closed within SETTINGS", answer: settings[:12], end: "close", err: io.EOF, text: "\\x03\\x00\" and the end of the connection"},
		{name: "closed within GOAWAY", answer: "\x00\x00\x0b\x07\x00\x00\x00\x00\x00\x00\x00", end: "close"},
		{name: "closed within the header", answer: settings[:5], end: "close", err: io.EOF},
		{name: "silent", waits: true, err: context.DeadlineExceeded, text: "deadline"},
		{name: "closed after a byte", answer: "\x00", end: "close", err: io.EOF, text: "\\x00\" and the end of the connection"},
		{name: "silent after a byte", answer: "\x00", waits: true, err: context.DeadlineExceeded, text: "\\x00\", then: context deadline exceeded"},
		{name: "silent within SETTINGS", answer: settings[:12], waits: true, err: context.DeadlineExceeded, text: "\\x03\\x00\", then: context deadline exceeded"},
	} {
		for _, wire := range []string{"pipe", "tcp", "TLS"} {
			t.Run(tt.name+"/"+wire, func(t *testing.T) {
				h2test.CheckLeaks(t)
				c, err := tt.shakeHands(t, wire, 50*time.Millisecond)
				var pe *h2.PrefaceError
				require.ErrorAs(t, err, &pe)
				for pause := 200 * time.Millisecond; tt.waits && len(pe.First) < len(tt.answer) && pause < time.Minute; pause *= 4 {
					c, err = tt.shakeHands(t, wire, pause) // the machine is busy
					require.ErrorAs(t, err, &pe)
				}
				require.Equal(t, tt.answer[:min(len(tt.answer), len(pe.First))], string(pe.First))
				require.Equal(t, tt.answer == "", len(pe.First) == 0)
				require.LessOrEqual(t, len(pe.First), 1024)
				require.Equal(t, pe.First, pe.FirstBytes())
				if tt.err != nil {
					require.ErrorIs(t, err, tt.err)
				}
				require.Equal(t, tt.waits, errors.Is(err, context.DeadlineExceeded), "%v", err)
				require.Contains(t, err.Error(), tt.text)
				_, err = c.Unary(context.Background(), req("/test/Never"), nil)
				require.True(t, err.(*h2.Error).Unsent)
			})
		}
	}
}

// prefaceCase is how a server begins that does not speak HTTP/2, or not in time.
type prefaceCase struct {
	name   string
	answer string
	end    string // what the server does then: "", "close"
	err    error  // what PrefaceError unwraps to
	waits  bool   // for the context's end
	text   string // in the error
}

// shakeHands makes a handshake with such a server, and returns its error. If it is to wait
// for its context, that ends when the server has all that the client sends, and pause has
// passed, in which the client reads the answer.
func (tt *prefaceCase) shakeHands(t *testing.T, wire string, pause time.Duration) (*h2.Conn, error) {
	c, server := unshaken(t, wire)
	server.RawBytes([]byte(tt.answer))
	ctx := backendtest.NewUntilNow()
	defer time.AfterFunc(time.Minute, ctx.End).Stop()
	server.Go(func(server *h2test.Conn) {
		if wire == "pipe" && !tt.waits && tt.end == "" {
			return // what came may be read before anything is written
		}
		server.ExpectPreface() // so that the end is no reset
		server.ExpectSettings()
		server.ExpectWindowUpdate(0)
		if tt.end == "close" {
			server.Close()
		}
		if tt.waits {
			time.Sleep(pause)
			ctx.End()
		}
	})
	err := c.Handshake(ctx)
	server.Wait()
	return c, err
}

// unshaken is a connection before its HTTP/2 handshake, and the server's end.
func unshaken(t *testing.T, wire string) (*h2.Conn, *h2test.Conn) {
	t.Helper()
	if wire == "pipe" {
		nc, server := h2test.Pipe(t)
		w := h2.NewWire(nc)
		return h2.New(w, w, h2.Patient(h2.Config{})), server
	}
	var opts []h2test.Option
	if wire == "TLS" {
		opts = append(opts, h2test.WithTLS())
	}
	srv := h2test.Listen(t, opts...)
	nc, err := net.Dial("tcp", srv.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	w := h2.NewWire(nc)
	if wire == "tcp" {
		return h2.New(w, w, h2.Patient(h2.Config{})), srv.Accept()
	}
	secured := make(chan net.Conn, 1)
	go func() {
		tc, _, err := credentials.NewTLS(srv.ClientTLS()).ClientHandshake(context.Background(), "localhost", w)
		if err != nil {
			t.Error(err)
		}
		secured <- tc
	}()
	server := srv.Accept()
	return h2.New(w, await(t, secured, "the TLS handshake"), h2.Patient(h2.Config{})), server
}

// SETTINGS that RFC 9113 forbids end the connection with the code that it demands, and
// differ from no SETTINGS.
func TestPrefaceSettingsForbidden(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer string
		code   http2.ErrCode
		text   string
	}{
		{"ENABLE_PUSH=1", "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x01", http2.ErrCodeProtocol, "SETTINGS_ENABLE_PUSH"},
		{"ACK with values", "\x00\x00\x06\x04\x01\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", http2.ErrCodeFrameSize, "6 bytes"},
		{"cut", "\x00\x00\x05\x04\x00\x00\x00\x00\x00", http2.ErrCodeFrameSize, "5 bytes"},
		{"too long", "\x00\xff\xff\x04\x00\x00\x00\x00\x00", http2.ErrCodeFrameSize, "65535 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, wire := range []string{"pipe", "tcp", "TLS"} {
				c, server := unshaken(t, wire)
				server.Go(func(server *h2test.Conn) {
					server.ExpectPreface()
					server.ExpectSettings()
					server.ExpectWindowUpdate(0)
					server.RawBytes([]byte(tt.answer))
					server.ExpectGoAway(tt.code)
					server.ExpectClosed()
				})
				err := c.Handshake(context.Background())
				var ce *h2.ConnError
				require.ErrorAs(t, err, &ce)
				require.Equal(t, tt.code, ce.Code)
				require.Contains(t, ce.Reason, tt.text)
				require.ErrorIs(t, err, http2.ConnectionError(tt.code))
				server.Wait()
			}
		})
	}
}

// What the server sent, were it one byte, explains more than the failed write of our
// preface.
func TestPrefaceNotWritten(t *testing.T) {
	for _, said := range []string{"", "\x00", "HTTP/1.1 503 Busy\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			nc, server := h2test.Pipe(t)
			server.RawBytes([]byte(said))
			g := &gate{Conn: nc}
			g.broken.Store(true)
			w := h2.NewWire(g)
			err := h2.New(w, w, h2.Config{}).Handshake(context.Background())
			var pe *h2.PrefaceError
			if said == "" {
				require.Equal(t, errBroken, err)
			} else {
				require.ErrorAs(t, err, &pe)
				require.Equal(t, said, string(pe.First))
			}
		})
	}
}

// The handshake is bounded by its context, whatever it waits for.
func TestHandshakeIsBounded(t *testing.T) {
	for _, wait := range []string{"write", "read"} {
		for _, end := range []string{"deadline", "cancel"} {
			t.Run(wait+" "+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					buffer := 1 << 20
					if wait == "write" {
						buffer = 10
					}
					nc, _ := h2test.Pipe(t, h2test.PipeBuffer(buffer))
					w := h2.NewWire(nc)
					c := h2.New(w, w, h2.Config{})
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					if end == "deadline" {
						ctx, cancel = context.WithTimeout(ctx, time.Minute)
						defer cancel()
					} else {
						time.AfterFunc(time.Minute, cancel)
					}
					began := time.Now()
					err := c.Handshake(ctx)
					require.ErrorIs(t, err, ctx.Err())
					require.Equal(t, time.Minute, time.Since(began))
				})
			})
		}
	}
}

// A server may send its SETTINGS, and more, before it has seen the client's.
func TestEagerServer(t *testing.T) {
	for _, wire := range []string{"pipe", "tcp", "TLS"} {
		t.Run(wire, func(t *testing.T) {
			c, server := unshaken(t, wire)
			var many []http2.Setting
			for i := range 2000 { // longer than the first buffer
				many = append(many, http2.Setting{ID: http2.SettingID(0x100 + i), Val: 1})
			}
			server.Batch(func() {
				server.Settings(many...)
				server.SettingsAck()
				server.Ping([8]byte{'e'})
				server.WindowUpdate(0, 100)
				server.Settings(h2test.MaxConcurrentStreams(1))
				server.GoAway(1<<31-1, http2.ErrCodeNo, "")
			})
			require.NoError(t, c.Handshake(context.Background()))
			drained := make(chan error, 1)
			served := make(chan error, 1)
			go func() { served <- c.Serve(func(cause error) { drained <- cause }) }()
			require.ErrorAs(t, await(t, drained, "onDrain"), new(http2.GoAwayError))
			require.ErrorAs(t, await(t, served, "the end of Serve"), new(http2.GoAwayError))
		})
	}
}

// A server may acknowledge the client's SETTINGS before it sends its own, which are then
// applied whenever they come. grpc-go needs none.
func TestAcknowledgedFirst(t *testing.T) {
	for _, wire := range []string{"pipe", "tcp", "TLS"} {
		for _, own := range []string{"together", "later", "never"} {
			t.Run(wire+" "+own, func(t *testing.T) {
				c, server := unshaken(t, wire)
				ready := make(chan struct{})
				server.Go(func(server *h2test.Conn) {
					server.ExpectPreface()
					server.ExpectSettings()
					server.Batch(func() {
						server.SettingsAck()
						if own == "together" {
							server.Settings(h2test.MaxConcurrentStreams(7))
						}
					})
					if own == "later" {
						server.ExpectWindowUpdate(0)
						<-ready
						server.Settings(h2test.MaxConcurrentStreams(7))
					}
					server.Loop(h2test.Echo)
				})
				require.NoError(t, c.Handshake(context.Background()))
				close(ready)
				if own == "together" {
					require.Equal(t, uint32(7), c.Counts().MaxStreams)
				}
				served := make(chan error, 1)
				go func() { served <- c.Serve(func(error) {}) }()
				s, err := c.Unary(context.Background(), req("/test/Echo"), h2test.PutMessage(false, []byte("x")))
				require.NoError(t, err)
				require.Nil(t, s.Err())
				if own == "later" { // read before the reply
					require.Equal(t, uint32(7), c.Counts().MaxStreams)
				}
				c.Close(nil, nil)
				require.Equal(t, h2.ErrClosed, await(t, served, "the end of Serve"))
			})
		}
	}
}

// A connection that ends the moment the handshake is done is a lost one.
func TestLostAfterHandshake(t *testing.T) {
	c, server := peeredTCP(t, h2.Config{})
	server.CloseHard()
	err := await(t, c.served, "the end of Serve")
	if err != io.EOF {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
}
