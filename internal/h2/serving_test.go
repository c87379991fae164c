package h2_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// aside makes a call that the connection is not there for, and waits until it has come.
func (c *client) aside(server *h2test.Conn) <-chan result {
	r := req("/test/Aside")
	r.Aside = true
	done := make(chan result, 1)
	go func() { done <- c.unary(context.Background(), r, "x") }()
	server.ExpectUnary()
	return done
}

// hang makes a call, and waits until it has come.
func (c *client) hang(server *h2test.Conn) <-chan result {
	res := c.call(context.Background(), "/test/Hang", "x")
	server.ExpectUnary()
	return res
}

// What a connection has been good for, and whether its end did harm.
func TestServingAnsweredHarmed(t *testing.T) {
	c, server := peered(t, h2.Config{})
	check := c.aside(server)
	require.False(t, c.Serving(), "a health check is not served")
	one := c.hang(server)
	require.True(t, c.Serving())
	server.ReplyUnary(1, nil)
	require.Nil(t, await(t, check, "the check").failure())
	require.True(t, c.Serving())
	require.False(t, c.Answered())
	server.ReplyUnary(3, nil)
	require.Nil(t, await(t, one, "the call").failure())
	require.True(t, c.Answered())
	require.False(t, c.Serving())
	server.Close()
	await(t, c.served, "the end of Serve")
	require.False(t, c.Harmed())

	for name, tt := range map[string]struct {
		harmed bool
		play   func(*client, *h2test.Conn) <-chan result
	}{
		"a call was sent": {true, func(c *client, server *h2test.Conn) <-chan result {
			res := c.hang(server)
			server.Close()
			return res
		}},
		"a health check was sent": {false, func(c *client, server *h2test.Conn) <-chan result {
			res := c.aside(server)
			server.Close()
			return res
		}},
		"a call was not written": {false, func(c *client, server *h2test.Conn) <-chan result {
			server.SetPipeBuffer(1, 1<<16)
			res := c.call(context.Background(), "/test/Hang", string(make([]byte, 1000)))
			for server.PipeBuffered() == 0 {
				time.Sleep(time.Millisecond)
			}
			server.Close()
			return res
		}},
		"a call was left out": {false, func(c *client, server *h2test.Conn) <-chan result {
			res := c.hang(server)
			server.GoAway(0, http2.ErrCodeNo, "")
			return res
		}},
		"a call was to be answered, and was not": {true, func(c *client, server *h2test.Conn) <-chan result {
			res := c.hang(server)
			server.GoAway(1, http2.ErrCodeNo, "")
			server.Close()
			return res
		}},
		"the program cut it": {false, func(c *client, server *h2test.Conn) <-chan result {
			res := c.hang(server)
			c.Close(nil, status.New(codes.Canceled, "closing"))
			return res
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c, server := peered(t, h2.Config{})
			server.Lenient()
			require.Error(t, await(t, tt.play(c, server), "the call").failure())
			await(t, c.served, "the end of Serve")
			require.Equal(t, tt.harmed, c.Harmed())
		})
	}
}

// With what a server did not process comes whether it serves others.
func TestServingOthers(t *testing.T) {
	for name, tt := range map[string]struct {
		serving bool
		play    func(*client, *h2test.Conn) <-chan result
	}{
		"refused": {false, func(c *client, server *h2test.Conn) <-chan result {
			res := c.hang(server)
			server.RST(1, http2.ErrCodeRefusedStream)
			return res
		}},
		"refused while one before it runs": {true, func(c *client, server *h2test.Conn) <-chan result {
			c.hang(server)
			res := c.hang(server)
			server.RST(3, http2.ErrCodeRefusedStream)
			return res
		}},
		"refused while a health check runs": {false, func(c *client, server *h2test.Conn) <-chan result {
			c.aside(server)
			res := c.hang(server)
			server.RST(3, http2.ErrCodeRefusedStream)
			return res
		}},
		"refused while one after it waits": {false, func(c *client, server *h2test.Conn) <-chan result {
			res := c.hang(server)
			c.hang(server)
			server.RST(1, http2.ErrCodeRefusedStream)
			return res
		}},
		"GOAWAY": {false, func(c *client, server *h2test.Conn) <-chan result {
			res := c.hang(server)
			server.GoAway(0, http2.ErrCodeNo, "")
			return res
		}},
		"GOAWAY that leaves one": {true, func(c *client, server *h2test.Conn) <-chan result {
			c.hang(server)
			res := c.hang(server)
			server.GoAway(1, http2.ErrCodeNo, "")
			return res
		}},
		"GOAWAY after an answer": {true, func(c *client, server *h2test.Conn) <-chan result {
			first := c.hang(server)
			server.ReplyUnary(1, nil)
			require.Nil(t, await(t, first, "the first").failure())
			res := c.hang(server)
			server.GoAway(1, http2.ErrCodeNo, "")
			return res
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c, server := peered(t, h2.Config{})
			e := await(t, tt.play(c, server), "the call").failure()
			require.True(t, e.Unprocessed)
			require.Equal(t, tt.serving, e.Serving)
		})
	}
}
