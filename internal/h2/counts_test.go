package h2_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
)

const initialWindow = 65535 // RFC 9113 section 6.9.2

// TestCounts: streams that ended well, with another status, by a reset, by this
// side and by the loss of the connection.
func TestCounts(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{ConnWindow: initialWindow}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 7})
			assert.Equal(t, h2.Counts{SendWindow: initialWindow, ReceiveWindow: initialWindow, MaxStreams: 7}, c.Counts())

			began := time.Unix(1000, 0)
			res := make(chan result, 1)
			go func() {
				r := req("/test/Method")
				r.Began = began
				res <- c.unary(context.Background(), r, "hello")
			}()
			id := server.ExpectHeaders().StreamID
			server.ExpectMessage(id)
			server.ReplyUnary(id, []byte("four"))
			require.Nil(t, (<-res).failure())
			want := h2.Counts{Started: 1, Succeeded: 1, OK: 1, MessagesSent: 1, MessagesReceived: 1, Latest: began,
				SendWindow: initialWindow - 10, ReceiveWindow: initialWindow - 9, MaxStreams: 7}
			assert.Equal(t, want, c.Counts())

			res2 := c.call(context.Background(), "/test/Method", "x")
			id = server.ExpectHeaders().StreamID
			server.ExpectMessage(id)
			server.TrailersOnly(id, codes.NotFound, "")
			require.NotNil(t, (<-res2).failure())

			res2 = c.call(context.Background(), "/test/Method", "x")
			id = server.ExpectHeaders().StreamID
			server.ExpectMessage(id)
			server.RST(id, http2.ErrCodeInternal)
			require.NotNil(t, (<-res2).failure())

			cancelled, err := c.Open(context.Background(), req("/test/Method"))
			require.NoError(t, err)
			id = server.ExpectHeaders().StreamID
			require.NoError(t, cancelled.Send(frame([]byte("a")), false))
			require.NoError(t, cancelled.Send(frame([]byte("b")), false))
			require.NoError(t, cancelled.CloseSend())
			server.ExpectMessage(id)
			server.ExpectMessage(id)
			server.ExpectEndStream(id)
			cancelled.Cancel(status.New(codes.Canceled, ""))

			lost, err := c.Open(context.Background(), req("/test/Method"))
			require.NoError(t, err)
			got := c.Counts()
			assert.EqualValues(t, 5, got.Started)
			assert.EqualValues(t, 2, got.Succeeded)
			assert.EqualValues(t, 2, got.Failed)
			assert.EqualValues(t, 1, got.OK)
			assert.EqualValues(t, 5, got.MessagesSent)
			assert.EqualValues(t, 1, got.MessagesReceived)
			assert.True(t, got.Latest.IsZero())
			assert.Nil(t, got.GoAway)

			c.Close(nil, nil)
			<-lost.Finished()
			got = c.Counts()
			assert.EqualValues(t, 5, got.Started)
			assert.EqualValues(t, 2, got.Succeeded)
			assert.EqualValues(t, 3, got.Failed)
		})
	}
}

// TestCountsOfALargeMessage: a message that windows divide is one message, sent
// when its end is.
func TestCountsOfALargeMessage(t *testing.T) {
	c, server := peered(t, h2.Config{})
	res := c.call(context.Background(), "/test/Method", string(make([]byte, initialWindow)))
	id := server.ExpectHeaders().StreamID
	for n := 0; n < initialWindow; {
		n += len(server.ExpectData(id).Data)
	}
	assert.Zero(t, c.Counts().MessagesSent)
	assert.Zero(t, c.Counts().SendWindow)
	server.WindowUpdate(0, 100)
	server.WindowUpdate(id, 100)
	server.ExpectData(id)
	assert.EqualValues(t, 1, c.Counts().MessagesSent)
	assert.EqualValues(t, 95, c.Counts().SendWindow)
	server.ReplyUnary(id, nil)
	require.Nil(t, (<-res).failure())
}

func TestCountsOfGoAway(t *testing.T) {
	c, server := peered(t, h2.Config{})
	s, err := c.Open(context.Background(), req("/test/Method"))
	require.NoError(t, err)
	server.ExpectHeaders()
	server.GoAway(1, http2.ErrCodeEnhanceYourCalm, "why")
	<-c.drained
	got := c.Counts()
	require.NotNil(t, got.GoAway)
	assert.Equal(t, http2.ErrCodeEnhanceYourCalm, got.GoAway.ErrCode)
	assert.Zero(t, got.MaxStreams)
	s.Cancel(status.New(codes.Canceled, ""))
}

func TestCountsOfKeepalives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, PermitWithoutStream: true})
		server.SetBound(time.Minute)
		for i := range 3 {
			f := server.ExpectPing()
			assert.EqualValues(t, i+1, c.Counts().Keepalives)
			server.PingAck(f.Data)
		}
	})
}
