package h2_test

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// What the client announces.
func TestClientSettings(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  h2.Config
		want []http2.Setting
		conn uint32 // WINDOW_UPDATE of the connection; 0: none
	}{
		{"defaults", h2.Config{},
			[]http2.Setting{{ID: http2.SettingEnablePush}, h2test.InitialWindowSize(512 << 10)}, 8<<20 - 65535},
		{"least windows", h2.Config{StreamWindow: 65535, ConnWindow: 65535},
			[]http2.Setting{{ID: http2.SettingEnablePush}}, 0},
		{"all", h2.Config{StreamWindow: 1 << 20, ConnWindow: 2 << 20, MaxHeaderListSize: 9000},
			[]http2.Setting{{ID: http2.SettingEnablePush}, h2test.InitialWindowSize(1 << 20), h2test.MaxHeaderListSize(9000)}, 2<<20 - 65535},
		{"stream window above the connection's default", h2.Config{StreamWindow: 64 << 20},
			[]http2.Setting{{ID: http2.SettingEnablePush}, h2test.InitialWindowSize(64 << 20)}, 64<<20 - 65535},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nc, server := h2test.Pipe(t)
			ready := shake(t, nc, nil, tt.cfg)
			require.Equal(t, tt.want, server.Handshake().Settings)
			if tt.conn > 0 {
				require.Equal(t, tt.conn, server.ExpectWindowUpdate(0))
			}
			require.Equal(t, int(tt.conn)+65535, server.SendWindow(0))
			alive(t, ready(), server)
		})
	}
}

func setting(id http2.SettingID, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, uint16(id)), v)
}

// Frames that RFC 9113 forbids end the connection with the code it demands.
func TestConnectionErrors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		typ   http2.FrameType
		flags http2.Flags
		id    uint32
		data  []byte
		code  http2.ErrCode
	}{
		{"ENABLE_PUSH=1", http2.FrameSettings, 0, 0, setting(http2.SettingEnablePush, 1), http2.ErrCodeProtocol},
		{"INITIAL_WINDOW_SIZE", http2.FrameSettings, 0, 0, setting(http2.SettingInitialWindowSize, 1<<31), http2.ErrCodeFlowControl},
		{"MAX_FRAME_SIZE small", http2.FrameSettings, 0, 0, setting(http2.SettingMaxFrameSize, 16383), http2.ErrCodeProtocol},
		{"MAX_FRAME_SIZE large", http2.FrameSettings, 0, 0, setting(http2.SettingMaxFrameSize, 1<<24), http2.ErrCodeProtocol},
		{"SETTINGS on a stream", http2.FrameSettings, 0, 1, nil, http2.ErrCodeProtocol},
		{"SETTINGS cut", http2.FrameSettings, 0, 0, make([]byte, 5), http2.ErrCodeFrameSize},
		{"SETTINGS ACK with values", http2.FrameSettings, http2.FlagSettingsAck, 0, make([]byte, 6), http2.ErrCodeFrameSize},
		{"PING short", http2.FramePing, 0, 0, make([]byte, 7), http2.ErrCodeFrameSize},
		{"PING on a stream", http2.FramePing, 0, 1, make([]byte, 8), http2.ErrCodeProtocol},
		{"PUSH_PROMISE", http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, []byte{0, 0, 0, 2, 0x88}, http2.ErrCodeProtocol},
		{"DATA on stream 0", http2.FrameData, 0, 0, nil, http2.ErrCodeProtocol},
		{"DATA on an idle stream", http2.FrameData, 0, 1, nil, http2.ErrCodeProtocol},
		{"DATA on a server's stream", http2.FrameData, 0, 2, nil, http2.ErrCodeProtocol},
		{"DATA without its pad length", http2.FrameData, http2.FlagDataPadded, 1, nil, http2.ErrCodeFrameSize},
		{"DATA with too much padding", http2.FrameData, http2.FlagDataPadded, 1, []byte{3, 0, 0}, http2.ErrCodeProtocol},
		{"HEADERS on stream 0", http2.FrameHeaders, http2.FlagHeadersEndHeaders, 0, []byte{0x88}, http2.ErrCodeProtocol},
		{"HEADERS on an idle stream", http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0x88}, http2.ErrCodeProtocol},
		{"HEADERS on a server's stream", http2.FrameHeaders, http2.FlagHeadersEndHeaders, 2, []byte{0x88}, http2.ErrCodeProtocol},
		{"RST_STREAM on stream 0", http2.FrameRSTStream, 0, 0, make([]byte, 4), http2.ErrCodeProtocol},
		{"RST_STREAM on an idle stream", http2.FrameRSTStream, 0, 1, make([]byte, 4), http2.ErrCodeProtocol},
		{"RST_STREAM long", http2.FrameRSTStream, 0, 1, make([]byte, 5), http2.ErrCodeFrameSize},
		{"PRIORITY on stream 0", http2.FramePriority, 0, 0, make([]byte, 5), http2.ErrCodeProtocol},
		{"CONTINUATION alone", http2.FrameContinuation, 0, 1, nil, http2.ErrCodeProtocol},
		{"too long a frame", http2.FramePriority, 0, 0, make([]byte, 16385), http2.ErrCodeFrameSize},
		{"too long a DATA frame", http2.FrameData, 0, 1, make([]byte, 16385), http2.ErrCodeFrameSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peeredTCP(t, h2.Patient(h2.Config{}))
			server.RawFrame(tt.typ, tt.flags, tt.id, tt.data)
			violates(t, c, tt.code)
			server.ExpectGoAway(tt.code)
		})
	}
	for _, tt := range []struct {
		name  string
		flags http2.Flags
		data  []byte
		code  http2.ErrCode
	}{
		{"HEADERS without its pad length", http2.FlagHeadersPadded, nil, http2.ErrCodeFrameSize},
		{"HEADERS without its priority", http2.FlagHeadersPriority, make([]byte, 4), http2.ErrCodeFrameSize},
		{"HEADERS with too much padding", http2.FlagHeadersPadded, []byte{2, 0}, http2.ErrCodeProtocol},
		{"no HPACK", http2.FlagHeadersEndHeaders, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, http2.ErrCodeCompression},
		{"an index beyond the table", http2.FlagHeadersEndHeaders, []byte{0xbe}, http2.ErrCodeCompression},
		{"half a field", http2.FlagHeadersEndHeaders, []byte{0x00, 0x05, 'a'}, http2.ErrCodeCompression},
		{"a table larger than announced", http2.FlagHeadersEndHeaders, []byte{0x3f, 0xe2, 0x1f, 0x88}, http2.ErrCodeCompression},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peeredTCP(t, h2.Config{})
			res := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			server.RawFrame(http2.FrameHeaders, tt.flags, 1, tt.data)
			violates(t, c, tt.code)
			r := await(t, res, "the call")
			require.Equal(t, codes.Unavailable, r.err.Status.Code())
			require.False(t, r.err.Unsent || r.err.Unprocessed)
		})
	}
	t.Run("a frame inside a header block", func(t *testing.T) {
		for _, inside := range []func(*h2test.Conn){
			func(s *h2test.Conn) { s.Ping([8]byte{}) },
			func(s *h2test.Conn) { s.Data(1, false, nil) },
			func(s *h2test.Conn) { s.RawFrame(http2.FrameContinuation, 0, 3, nil) },
			func(s *h2test.Conn) { s.RawFrame(0xbe, 0, 1, nil) },
		} {
			c, server := peeredTCP(t, h2.Config{})
			c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			server.RawFrame(http2.FrameHeaders, 0, 1, []byte{0x88})
			inside(server)
			violates(t, c, http2.ErrCodeProtocol)
		}
	})
}

// What a client has to ignore.
func TestIgnoredFrames(t *testing.T) {
	c, server := peered(t, h2.Config{})
	server.RawFrame(0xbe, 0xff, 0, []byte("unknown"))
	server.RawFrame(0xbe, 0xff, 12345, make([]byte, 16384))
	server.RawFrame(http2.FrameSettings, 0, 0, setting(0xbeef, 1))
	server.ExpectSettingsAck()
	server.RawFrame(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
	server.RawFrame(http2.FramePriority, 0, 1, make([]byte, 5))
	server.RawFrame(http2.FramePriority, 0, 1, make([]byte, 4)) // of no stream
	server.RawFrame(http2.FramePing, http2.FlagPingAck, 0, make([]byte, 8))
	server.RawFrame(http2.FrameSettings, 0, 0, setting(http2.SettingEnablePush, 0))
	server.ExpectSettingsAck()
	alive(t, c, server)
}

// A PRIORITY frame of the wrong length ends its stream (RFC 9113 section 6.3).
func TestPriorityOfAStream(t *testing.T) {
	c, server := peeredTCP(t, h2.Config{})
	res := c.call(context.Background(), "/test/Hang", "x")
	server.ExpectUnary()
	server.RawFrame(http2.FramePriority, 0, 1, make([]byte, 5))
	alive(t, c, server)
	server.RawFrame(http2.FramePriority, 0, 1, make([]byte, 6))
	require.Equal(t, codes.Internal, await(t, res, "the call").err.Status.Code())
	server.ExpectRST(1, http2.ErrCodeFrameSize)
	alive(t, c, server)
}

func TestPingIsAnswered(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{})
			for i := range 10 {
				data := [8]byte{'p', 'i', 'n', 'g', byte(i)}
				server.Ping(data)
				server.ExpectPingAck(data)
			}
			alive(t, c, server)
		})
	}
}

// A peer may ask as often as it likes if it reads the answers.
func TestManyPings(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{})
			const n, burst = 12000, 500
			unanswered := make(chan struct{}, 4*burst)
			server.Go(func(server *h2test.Conn) {
				for i := range n {
					server.ExpectPingAck([8]byte{byte(i >> 8), byte(i)})
					<-unanswered
				}
			})
			for i := 0; i < n; i += burst {
				server.Batch(func() {
					for k := i; k < i+burst; k++ {
						server.Ping([8]byte{byte(k >> 8), byte(k)})
					}
				})
				for range burst {
					unanswered <- struct{}{}
				}
			}
			server.Wait()
			alive(t, c, server)
		})
	}
}

// Answers that the peer does not read are bounded; so is the rest of what it can make the
// client hold.
func TestFloodWithoutReading(t *testing.T) {
	for _, p := range peers {
		for _, kind := range []string{"PING", "SETTINGS"} {
			t.Run(p.name+" "+kind, func(t *testing.T) {
				h2test.CheckLeaks(t)
				c, server := p.connect(t, h2.Config{})
				if p.name == "pipe" {
					server.SetPipeBuffer(1000, 1<<20)
				}
				res := c.call(context.Background(), "/test/Hang", "x")
				server.ExpectUnary()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for n := 0; ; n++ {
						var one []byte
						if kind == "PING" {
							one = append([]byte{0, 0, 8, 6, 0, 0, 0, 0, 0}, make([]byte, 8)...)
						} else {
							one = []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}
						}
						nc := server.NetConn()
						nc.SetWriteDeadline(time.Now().Add(5 * time.Second))
						if _, err := nc.Write([]byte(strings.Repeat(string(one), 1000))); err != nil {
							return
						}
					}
				}()
				var ce *h2.ConnError
				require.ErrorAs(t, await(t, c.served, "the end of Serve"), &ce)
				require.Equal(t, http2.ErrCodeEnhanceYourCalm, ce.Code)
				require.Equal(t, codes.Unavailable, await(t, res, "the call").err.Status.Code())
				await(t, ended, "the flood to be stopped")
			})
		}
	}
}

// A frame of the client is never larger than the server accepts.
func TestMaxFrameSize(t *testing.T) {
	c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(1<<20), h2test.MaxFrameSize(20000))
	server.WindowUpdate(0, 1<<20)
	alive(t, c, server)
	res := c.call(context.Background(), "/test/Big", strings.Repeat("x", 50000))
	server.ExpectHeaders()
	require.Len(t, server.ExpectData(3).Data, 20000)
	require.Len(t, server.ExpectData(3).Data, 20000)
	require.True(t, server.ExpectData(3).EndStream())
	server.Settings(h2test.MaxFrameSize(1<<24 - 1))
	server.ExpectSettingsAck()
	server.ReplyUnary(3, nil)
	require.Nil(t, await(t, res, "the call").failure())
	res = c.call(context.Background(), "/test/Big", strings.Repeat("x", 50000))
	server.ExpectHeaders()
	f := server.ExpectData(5)
	require.Len(t, f.Data, 50005)
	require.True(t, f.EndStream())
	server.ReplyUnary(5, nil)
	require.Nil(t, await(t, res, "the call").failure())
}

// The acknowledgement precedes what the new values made possible.
func TestSettingsAreAcknowledgedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(0), h2test.MaxConcurrentStreams(1))
		one := c.call(context.Background(), "/test/One", "x")
		server.ExpectHeaders()
		three := c.call(context.Background(), "/test/Three", "x")
		server.ExpectSilence(time.Minute)
		server.Settings(h2test.InitialWindowSize(1000), h2test.MaxConcurrentStreams(2))
		server.Skip(h2test.WindowUpdates)
		server.ExpectSettingsAck()
		for range 3 {
			server.ReadFrame()
		}
		server.ReplyUnary(1, nil)
		server.ReplyUnary(3, nil)
		require.Nil(t, (<-one).failure())
		require.Nil(t, (<-three).failure())
	})
}
