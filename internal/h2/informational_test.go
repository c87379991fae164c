package h2_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Informational responses are ignored, up to a number and a size that no server
// needs (RFC 9113 section 8.1, RFC 9110 section 15.2). More end the stream.
func TestInformationalResponses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		n       int
		value   int // bytes in each
		code    codes.Code
		message string
	}{
		{"few", 3, 100, codes.OK, ""},
		{"many", 100, 10, codes.OK, ""},
		{"too many", 101, 10, codes.Internal, "too many informational responses"},
		{"large", 2, 4000, codes.OK, ""},
		{"too large together", 3, 4000, codes.Internal, "too many informational responses"},
		{"too large", 1, 10000, codes.Internal, "header list size exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peeredTCP(t, h2.Config{MaxHeaderListSize: 10000})
			server.Skip(h2test.WindowUpdates)
			for range 3 { // each RPC has the whole of it
				res := c.call(context.Background(), "/test/Call", "x")
				h, _ := server.ExpectUnary()
				server.Batch(func() {
					for range tt.n {
						server.Headers(h.StreamID, false, ":status", "103", "link", strings.Repeat("x", tt.value))
					}
					if tt.code == codes.OK {
						server.ReplyUnary(h.StreamID, []byte("well"))
					}
				})
				r := await(t, res, "the call")
				if tt.code == codes.OK {
					require.Nil(t, r.failure())
					require.Equal(t, "well", r.reply)
					require.Empty(t, r.header["link"])
				} else {
					require.Equal(t, tt.code, r.err.Status.Code())
					require.Contains(t, r.err.Status.Message(), tt.message)
					require.Equal(t, http2.FrameRSTStream, server.ReadFrame().Type)
				}
			}
			alive(t, c, server)
		})
	}
}

// So are HEADERS in the midst of a response that is not gRPC's, which ends by its HTTP
// status.
func TestHeadersWithinAPage(t *testing.T) {
	for _, n := range []int{100, 101} {
		c, server := peeredTCP(t, h2.Config{})
		res := c.call(context.Background(), "/test/Call", "x")
		server.ExpectUnary()
		server.Headers(1, false, ":status", "503", "content-type", "text/html")
		for range n {
			server.Headers(1, false, "odd", "one")
		}
		if n == 100 {
			server.Data(1, true, []byte("page"))
		}
		r := await(t, res, "the call")
		require.Equal(t, codes.Unavailable, r.err.Status.Code())
		require.Equal(t, n == 100, strings.Contains(r.err.Status.Message(), `body: "page"`))
		if n > 100 {
			server.ExpectRST(1, http2.ErrCodeEnhanceYourCalm)
		}
		alive(t, c, server)
	}
}

// A header block of a few kilobytes can stand for a list of 16 MiB. Those of a stream that
// has ended do not hold up the others.
func TestHeaderBombs(t *testing.T) {
	c, server := peeredTCP(t, h2.Config{})
	server.Skip(h2test.WindowUpdates, h2test.RSTs)
	value := strings.Repeat("x", 4000)
	res := c.call(context.Background(), "/test/Call", "x")
	server.ExpectUnary()
	server.Headers(1, false, ":status", "103", "k", value)
	index := server.Encode("k", value)
	require.Len(t, index, 1)
	bomb := append(server.Encode(":status", "103"), bytes.Repeat(index, 4000)...)
	began := time.Now()
	server.Batch(func() {
		for range 500 {
			server.RawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, bomb)
		}
	})
	require.Equal(t, codes.Internal, await(t, res, "the call").err.Status.Code())
	alive(t, c, server)
	require.Less(t, time.Since(began), 4*time.Second)
	// The table of fields is still in step.
	res = c.call(context.Background(), "/test/Call", "x")
	server.ExpectUnary()
	server.TrailersOnly(5, codes.OK, "", "k", value)
	require.Equal(t, []string{value}, await(t, res, "the call").trailer["k"])
}
