package h2_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// The error of a stream says whether the connection was closed in the middle of a frame: what
// is in between cut it then, or the server ended in the midst of a write.
func TestCutWithinAFrame(t *testing.T) {
	const whole = "lost: the server closed it"
	const within = whole + " in the middle of a frame"
	data := "\x00\x00\x07\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x02ab" // DATA of stream 1
	for _, tt := range []struct {
		name, sent, want string
	}{
		{"nothing", "", whole},
		{"within a frame's header", data[:5], within},
		{"after a frame's header", data[:9], within},
		{"within DATA", data[:11], within},
		{"after DATA", data, whole},
		{"within HEADERS", "\x00\x00\x10\x01\x05\x00\x00\x00\x01\x88", within},
		{"within PING", "\x00\x00\x08\x06\x00\x00\x00\x00\x00\x01", within},
	} {
		for name, peered := range map[string]func(testing.TB, h2.Config, ...http2.Setting) (*client, *h2test.Conn){"tcp": peeredTCP, "tls": peeredTLS, "pipe": peered} {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				c, server := peered(t, h2.Config{})
				s, err := c.Open(context.Background(), req("/test/Stream"))
				require.NoError(t, err)
				server.ExpectHeaders()
				server.ReplyHeaders(1)
				if tt.sent != "" {
					server.RawBytes([]byte(tt.sent))
				}
				server.Close()
				await(t, s.Finished(), "the end")
				require.Equal(t, codes.Unavailable, s.Err().GRPCStatus().Code())
				require.Regexp(t, tt.want+"$", s.Err().Error())
			})
		}
	}
}
