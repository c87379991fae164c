package h2_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// early makes a connection that is read from though its owner has not called Serve.
func early(t *testing.T) (*client, *h2test.Conn) {
	t.Helper()
	nc, server := h2test.Pipe(t)
	shaken := shakeHands(t, nc, nil, h2.Config{})
	server.Handshake()
	c := &client{Conn: shaken(), drained: make(chan error, 2), served: make(chan error, 1)}
	c.ServeEarly()
	return c, server
}

// serve is the owner's call.
func (c *client) serve() { c.served <- c.Serve(func(cause error) { c.drained <- cause }) }

// RPCs run before Serve and after it alike, and Serve returns the cause of the end.
func TestServeEarly(t *testing.T) {
	h2test.CheckLeaks(t)
	c, server := early(t)
	one := c.call(context.Background(), "/test/One", "x")
	server.ExpectUnary()
	server.ReplyUnary(1, nil)
	require.Nil(t, await(t, one, "the call before Serve").failure())
	go c.serve()
	two := c.call(context.Background(), "/test/Two", "x")
	server.ExpectUnary()
	server.ReplyUnary(3, nil)
	require.Nil(t, await(t, two, "the call after Serve").failure())
	why := errors.New("the owner's")
	c.Close(why, nil)
	require.Equal(t, why, await(t, c.served, "the end of Serve"))
	require.Empty(t, c.drained)
}

// A GOAWAY that came before Serve is reported by it, at once if RPCs run on.
func TestServeEarlyReportsWhatCameBefore(t *testing.T) {
	h2test.CheckLeaks(t)
	c, server := early(t)
	res := c.hang(server)
	server.GoAway(1, http2.ErrCodeNo, "")
	await(t, c.Done(), "the GOAWAY")
	go c.serve()
	require.ErrorAs(t, await(t, c.drained, "onDrain"), new(http2.GoAwayError))
	server.ReplyUnary(1, nil)
	require.Nil(t, await(t, res, "the call").failure())
	require.ErrorAs(t, await(t, c.served, "the end of Serve"), new(http2.GoAwayError))
	require.Empty(t, c.drained, "it is called once")
}

// The same if the connection has ended meanwhile, and if that is all there was.
func TestServeEarlyAfterTheEnd(t *testing.T) {
	h2test.CheckLeaks(t)
	for name, drained := range map[string]bool{"drained": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			c, server := early(t)
			res := c.hang(server)
			if drained {
				server.GoAway(1, http2.ErrCodeNo, "")
				await(t, c.Done(), "the GOAWAY")
				server.ReplyUnary(1, nil)
				require.Nil(t, await(t, res, "the call").failure())
			} else {
				server.Close()
				require.Equal(t, "Unavailable", status.Code(await(t, res, "the call").failure().Status.Err()).String())
			}
			server.ExpectClosed()
			c.serve()
			<-c.served
			require.Equal(t, drained, len(c.drained) == 1)
		})
	}
}
