package h2test_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestConnAgainstFramer shows the helper: a client that is a bare Framer, a
// script that walks through a connection, and the log of it.
func TestConnAgainstFramer(t *testing.T) {
	nc, conn := h2test.Pipe(t)
	client := newFramerClient(t, nc)
	client.open(h2test.InitialWindowSize(1 << 20))
	settings := conn.Handshake(h2test.MaxConcurrentStreams(3))
	v, ok := settings.Setting(http2.SettingInitialWindowSize)
	equal(t, true, ok)
	equal(t, 1<<20, v)

	client.request(1, false)
	client.must(client.WriteData(1, true, h2test.PutMessage(false, []byte("hi"))))
	headers, payload := conn.ExpectUnary()
	equal(t, "/s/m", headers.Field(":path"))
	equal(t, "hi", string(payload))
	conn.ReplyUnary(1, []byte("ho"), "k", "v w")

	client.must(client.WritePing(false, [8]byte{1, 2, 3}))
	conn.PingAck(conn.ExpectPing().Data)
	conn.Ping([8]byte{'p'})
	client.must(client.WritePing(true, [8]byte{'p'}))
	conn.ExpectPingAck([8]byte{'p'})

	client.request(3, false)
	client.must(client.WriteWindowUpdate(3, 77))
	equal(t, uint32(3), conn.ExpectHeaders().StreamID)
	equal(t, uint32(77), conn.ExpectWindowUpdate(3))
	conn.GoAway(3, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
	client.must(client.WriteRSTStream(3, http2.ErrCodeCancel))
	conn.ExpectRST(3, http2.ErrCodeCancel)
	client.must(client.WriteGoAway(0, http2.ErrCodeNo, nil))
	conn.ExpectGoAway(http2.ErrCodeNo)
	client.must(nc.Close())
	equal(t, 0, len(conn.ExpectClosed()))

	want := `C PREFACE
C SETTINGS INITIAL_WINDOW_SIZE=1048576
S SETTINGS MAX_CONCURRENT_STREAMS=3
S SETTINGS ACK
C SETTINGS ACK
C HEADERS stream=1 :method=POST :scheme=http :path=/s/m :authority=a
C DATA stream=1 END_STREAM len=7 "\x00\x00\x00\x00\x02hi"
S HEADERS stream=1 :status=200 content-type=application/grpc
S DATA stream=1 len=7 "\x00\x00\x00\x00\x02ho"
S HEADERS stream=1 END_STREAM grpc-status=0 k="v w"
C PING "\x01\x02\x03\x00\x00\x00\x00\x00"
S PING ACK "\x01\x02\x03\x00\x00\x00\x00\x00"
S PING "p\x00\x00\x00\x00\x00\x00\x00"
C PING ACK "p\x00\x00\x00\x00\x00\x00\x00"
C HEADERS stream=3 :method=POST :scheme=http :path=/s/m :authority=a
C WINDOW_UPDATE stream=3 +77
S GOAWAY last=3 code=ENHANCE_YOUR_CALM "too_many_pings"
C RST_STREAM stream=3 code=CANCEL
C GOAWAY last=0 code=NO_ERROR
- client closed: EOF
`
	if got := conn.Trace(); got != want {
		t.Errorf("trace:\n%s\nwant:\n%s", got, want)
	}
}

// TestConnAgainstGRPC shows the helper with grpc-go's own client.
func TestConnAgainstGRPC(t *testing.T) {
	tests := map[string]struct {
		opts  []h2test.Option
		creds func(*h2test.Server) credentials.TransportCredentials
	}{
		"tcp":  {nil, func(*h2test.Server) credentials.TransportCredentials { return insecure.NewCredentials() }},
		"unix": {[]h2test.Option{h2test.Unix()}, func(*h2test.Server) credentials.TransportCredentials { return insecure.NewCredentials() }},
		"tls": {[]h2test.Option{h2test.WithTLS()}, func(s *h2test.Server) credentials.TransportCredentials {
			return credentials.NewTLS(s.ClientTLS())
		}},
		"tls unix": {[]h2test.Option{h2test.WithTLS(), h2test.Unix()}, func(s *h2test.Server) credentials.TransportCredentials {
			return credentials.NewTLS(s.ClientTLS())
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			srv := h2test.Listen(t, test.opts...)
			cc, err := grpc.NewClient(srv.Target(), grpc.WithTransportCredentials(test.creds(srv)))
			noError(t, err)
			defer cc.Close()
			reply := new(wrapperspb.StringValue)
			result := make(chan error, 1)
			invoke := func(method string) {
				result <- cc.Invoke(context.Background(), method, wrapperspb.String("hello"), reply)
			}

			go invoke("/test.Service/Echo")
			conn := srv.Accept()
			conn.Handshake()
			conn.Skip(h2test.WindowUpdates, h2test.Pings)
			headers, payload := conn.ExpectUnary()
			equal(t, "/test.Service/Echo", headers.Field(":path"))
			conn.ReplyUnary(headers.StreamID, payload)
			noError(t, <-result)
			equal(t, "hello", reply.Value)

			go invoke("/test.Service/Fail")
			headers, _ = conn.ExpectUnary()
			conn.TrailersOnly(headers.StreamID, codes.NotFound, "nothing here: 100%, é")
			err = <-result
			equal(t, codes.NotFound, status.Code(err))
			equal(t, "nothing here: 100%, é", status.Convert(err).Message())
		})
	}
}

func TestFailuresNameWhatWasExpectedAndWhatCame(t *testing.T) {
	tests := map[string]struct {
		client func(*framerClient)
		script func(*h2test.Conn)
		parts  []string
	}{
		"another frame": {
			func(c *framerClient) { c.request(1, true) },
			func(c *h2test.Conn) { c.ExpectRST(1, http2.ErrCodeCancel) },
			[]string{"waiting for RST_STREAM stream=1 code=CANCEL: got HEADERS stream=1 END_STREAM :method=POST"},
		},
		"another stream": {
			func(c *framerClient) { c.request(1, false); c.must(c.WriteData(1, false, []byte("x"))) },
			func(c *h2test.Conn) { c.ExpectHeaders(); c.ExpectData(3) },
			[]string{"waiting for DATA stream=3: got DATA stream=1 len=1 \"x\""},
		},
		"nothing": {
			func(*framerClient) {},
			func(c *h2test.Conn) { c.ExpectPing() },
			[]string{"waiting for PING: nothing happened for 1m0s"},
		},
		"a shorter bound": {
			func(*framerClient) {},
			func(c *h2test.Conn) { c.SetBound(time.Second); c.ReadFrame() },
			[]string{"waiting for a frame: nothing happened for 1s"},
		},
		"closed": {
			func(c *framerClient) { c.must(c.nc.Close()) },
			func(c *h2test.Conn) { c.ExpectSettings() },
			[]string{"waiting for SETTINGS: the client closed the connection (EOF)"},
		},
		"not closed": {
			func(c *framerClient) { c.request(1, false) },
			func(c *h2test.Conn) { c.ExpectClosed() },
			[]string{"waiting for the client to close the connection, after 1 more frames, the last HEADERS stream=1", ": nothing happened for 1m0s"},
		},
		"not silent": {
			func(c *framerClient) { c.request(1, false) },
			func(c *h2test.Conn) { c.ExpectSilence(time.Minute) },
			[]string{"expecting silence for 1m0s: got HEADERS stream=1"},
		},
		"a strict skip set": {
			func(c *framerClient) { c.must(c.WriteWindowUpdate(0, 5)) },
			func(c *h2test.Conn) { c.Skip(); c.ExpectPing() },
			[]string{"waiting for PING: got WINDOW_UPDATE stream=0 +5"},
		},
		"a message cut short": {
			func(c *framerClient) {
				c.request(1, false)
				c.must(c.WriteData(1, true, []byte{0, 0, 0, 0, 9, 'x'}))
			},
			func(c *h2test.Conn) { c.ExpectUnary() },
			[]string{"waiting for a message on stream 1: END_STREAM after 6 bytes"},
		},
		"not a frame": {
			func(c *framerClient) { c.must(c.WriteRawFrame(http2.FramePing, 0, 0, []byte("short"))) },
			func(c *h2test.Conn) { c.ExpectPing() },
			[]string{"waiting for PING: the client broke the protocol", "FRAME_SIZE_ERROR"},
		},
		"a full pipe": {
			func(*framerClient) {},
			func(c *h2test.Conn) { c.SetPipeBuffer(0, 10); c.Data(1, false, []byte("twelve bytes")) },
			[]string{"sending DATA stream=1 len=12 \"twelve bytes\": the client did not take the bytes within 1m0s"},
		},
		"odd fields": {
			func(*framerClient) {},
			//lint:ignore SA5012 the odd number of strings is what is tested
			func(c *h2test.Conn) { c.Headers(1, false, "a") },
			[]string{"header fields come in pairs, got 1 strings"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failsWith(t, func(tb testing.TB) {
					client, conn := opened(tb)
					test.client(client)
					test.script(conn)
				}, test.parts...)
			})
		})
	}
}

func TestPrefaceFailureQuotesWhatCame(t *testing.T) {
	failsWith(t, func(tb testing.TB) {
		nc, conn := h2test.Pipe(tb)
		nc.Write([]byte("GET / HTTP/1.1\r\nHost: example\r\n"))
		conn.Handshake()
	}, `waiting for the client preface: got "GET / HTTP/1.1\r\nHost: ex"`)
}

func TestFailedTestShowsTheLog(t *testing.T) {
	script := func(fail bool) func(testing.TB) {
		return func(tb testing.TB) {
			_, _ = opened(tb, h2test.MaxFrameSize(20000))
			if fail {
				tb.Error("something else")
			}
		}
	}
	equal(t, 0, len(record(t, script(false)).logs))
	logs := record(t, script(true)).logs
	equal(t, 1, len(logs))
	contains(t, logs[0], "S SETTINGS MAX_FRAME_SIZE=20000\n")
}

func TestHandshakeKeepsEarlyFrames(t *testing.T) {
	nc, conn := h2test.Pipe(t)
	client := newFramerClient(t, nc)
	client.must(nc.SetDeadline(time.Time{}))
	_, err := nc.Write([]byte(http2.ClientPreface))
	noError(t, err)
	client.must(client.WriteSettings())
	client.request(1, false)
	client.must(client.WriteData(1, true, h2test.PutMessage(false, []byte("early"))))
	client.must(client.WriteSettingsAck())
	conn.Handshake()
	_, payload := conn.ExpectUnary()
	equal(t, "early", string(payload))
}

func TestSkipAnswersPingsAndSettings(t *testing.T) {
	client, conn := opened(t)
	client.must(client.WritePing(false, [8]byte{'x'}))
	client.must(client.WriteSettings(h2test.MaxFrameSize(1 << 15)))
	client.request(1, true)
	conn.Skip(h2test.Pings, h2test.SettingsFrames)
	conn.ExpectHeaders()
	ping := client.read().(*http2.PingFrame)
	equal(t, true, ping.IsAck())
	equal(t, 'x', rune(ping.Data[0]))
	equal(t, true, client.read().(*http2.SettingsFrame).IsAck())
}

func TestHeaderBlocksAreJoinedAndSplit(t *testing.T) {
	client, conn := opened(t)
	long := strings.Repeat("v", 3000)
	block := client.encode(":method", "POST", "long", long)
	client.must(client.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:10], PadLength: 4}))
	client.must(client.WriteContinuation(1, false, block[10:20]))
	client.must(client.WriteContinuation(1, true, block[20:]))
	f := conn.ExpectHeaders()
	equal(t, long, f.Field("long"))
	equal(t, 2, f.Continuations)
	equal(t, true, bytes.Equal(block, f.Block))

	raw := http2.NewFramer(nil, client.nc) // does not join
	for _, n := range []int{1, 3, 5000} {
		conn.HeadersSplit(1, false, n, ":status", "200", "long", long)
		hf, err := raw.ReadFrame()
		noError(t, err)
		fragment := hf.(*http2.HeadersFrame)
		got := bytes.Clone(fragment.HeaderBlockFragment())
		ended := fragment.HeadersEnded()
		count := 0
		for !ended {
			hf, err := raw.ReadFrame()
			noError(t, err)
			cont := hf.(*http2.ContinuationFrame)
			got = append(got, cont.HeaderBlockFragment()...)
			ended = cont.HeadersEnded()
			count++
		}
		equal(t, n, count)
		client.dec.SetEmitFunc(func(hpack.HeaderField) {})
		fields, err := client.dec.DecodeFull(got)
		noError(t, err)
		equal(t, 2, len(fields))
		equal(t, long, fields[1].Value)
	}
	// A block longer than one frame may be is split without being asked.
	conn.Headers(1, true, "huge", strings.Repeat("\x7f", 20000))
	hf, err := raw.ReadFrame()
	noError(t, err)
	equal(t, uint32(16384), hf.Header().Length)
}

func TestWritersSendWhatTheySay(t *testing.T) {
	client, conn := opened(t)
	conn.DataPadded(1, true, []byte("abc"), 7)
	data := client.read().(*http2.DataFrame)
	equal(t, "abc", string(data.Data()))
	equal(t, uint32(3+1+7), data.Length)
	equal(t, true, data.StreamEnded())

	conn.RST(5, http2.ErrCodeRefusedStream)
	equal(t, http2.ErrCodeRefusedStream, client.read().(*http2.RSTStreamFrame).ErrCode)
	conn.WindowUpdate(5, 99)
	equal(t, uint32(99), client.read().(*http2.WindowUpdateFrame).Increment)
	conn.PushPromise(1, 2, ":method", "GET")
	equal(t, uint32(2), client.read().(*http2.PushPromiseFrame).PromiseID)
	client.must(func() error { _, err := client.dec.DecodeFull(conn.Encode("k", "v")); return err }())

	conn.RawFrame(0x42, 0x81, 9, []byte("payload"))
	unknown := client.read().(*http2.UnknownFrame)
	equal(t, http2.Flags(0x81), unknown.Flags)
	equal(t, "payload", string(unknown.Payload()))

	conn.RawBytes([]byte("\x00\x00\x01\x00\x00\x00\x00\x00\x01z"))
	equal(t, "z", string(client.read().(*http2.DataFrame).Data()))
}

func TestBatchIsOneWrite(t *testing.T) {
	nc, conn := h2test.Pipe(t)
	conn.ReplyUnary(1, []byte("payload"))
	buf := make([]byte, 1<<16)
	n, err := nc.Read(buf)
	noError(t, err)
	fr := http2.NewFramer(nil, bytes.NewReader(buf[:n]))
	for _, want := range []http2.FrameType{http2.FrameHeaders, http2.FrameData, http2.FrameHeaders} {
		f, err := fr.ReadFrame()
		noError(t, err)
		equal(t, want, f.Header().Type)
	}
}

func TestEncoderTableSizeUpdate(t *testing.T) {
	client, conn := opened(t)
	client.must(client.WriteSettings(h2test.HeaderTableSize(100)))
	conn.ExpectSettings()
	conn.SettingsAck()
	client.read()
	block := conn.Encode("k", "v")
	equal(t, byte(0x20), block[0]&0xe0)
	_, err := client.dec.DecodeFull(block)
	noError(t, err)
	conn.SetEncoderTableSize(0)
	equal(t, byte(0x20), conn.Encode("k", "v")[0])
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := opened(t)
		start := time.Now()
		client.must(client.WriteWindowUpdate(0, 5))
		conn.ExpectSilence(time.Hour)
		equal(t, time.Hour, time.Since(start))
		client.request(1, true)
		conn.ExpectHeaders()
	})
}
