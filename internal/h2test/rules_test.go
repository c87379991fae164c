package h2test_test

import (
	"testing"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"golang.org/x/net/http2"
)

func TestRulesTheClientBreaks(t *testing.T) {
	data := func(c *framerClient, id uint32, n int) { c.must(c.WriteData(id, false, make([]byte, n))) }
	tests := map[string]struct {
		client func(*framerClient)
		script func(*h2test.Conn)
		want   string // empty: no failure
	}{
		"an even stream": {
			func(c *framerClient) { c.request(2, true) },
			func(c *h2test.Conn) { c.ReadFrame() },
			"a client's stream has an odd identifier",
		},
		"a lower stream": {
			func(c *framerClient) { c.request(5, true); c.request(3, true) },
			func(c *h2test.Conn) { c.ReadFrame(); c.ReadFrame() },
			"HEADERS stream=3 END_STREAM :method=POST :scheme=http :path=/s/m :authority=a: the stream is closed, or lower than the last one opened, 5",
		},
		"RST_STREAM before HEADERS": {
			func(c *framerClient) { c.must(c.WriteRSTStream(1, http2.ErrCodeCancel)) },
			func(c *h2test.Conn) { c.ReadFrame() },
			"RST_STREAM stream=1 code=CANCEL: the stream is idle",
		},
		"DATA after END_STREAM": {
			func(c *framerClient) { c.request(1, true); data(c, 1, 1) },
			func(c *h2test.Conn) { c.ReadFrame(); c.ReadFrame() },
			"the client has ended the stream",
		},
		"DATA after RST_STREAM": {
			func(c *framerClient) { c.request(1, false); c.must(c.WriteRSTStream(1, 0)); data(c, 1, 1) },
			func(c *h2test.Conn) { c.ReadFrame(); c.ReadFrame(); c.ReadFrame() },
			"the client has ended the stream",
		},
		"DATA on a stream that the server reset": {
			func(c *framerClient) { c.request(1, false); data(c, 1, 1); c.must(c.WriteRSTStream(1, 0)) },
			func(c *h2test.Conn) { c.ExpectHeaders(); c.RST(1, 0); c.ExpectData(1); c.ExpectRST(1, 0) },
			"",
		},
		"too many streams": {
			func(c *framerClient) { c.request(1, true); c.request(3, true); c.request(5, true) },
			func(c *h2test.Conn) { c.ReadFrame(); c.ReadFrame(); c.ReadFrame() },
			"3 streams are open, SETTINGS_MAX_CONCURRENT_STREAMS is 2",
		},
		"streams that have ended make room": {
			func(c *framerClient) { c.request(1, true); c.request(3, true); c.request(5, true); c.request(7, false) },
			func(c *h2test.Conn) {
				c.ExpectHeaders()
				c.ReplyTrailers(1, 0, "")
				c.ExpectHeaders()
				c.RST(3, 0)
				c.ExpectHeaders()
				c.ExpectHeaders()
				if n := c.OpenStreams(); n != 2 {
					panic(n)
				}
			},
			"",
		},
		"a limit that is not acknowledged": {
			func(c *framerClient) { c.request(1, true); c.request(3, true) },
			func(c *h2test.Conn) { c.Settings(h2test.MaxConcurrentStreams(0)); c.ExpectHeaders(); c.ExpectHeaders() },
			"",
		},
		"a limit that is acknowledged": {
			func(c *framerClient) { c.request(1, true); c.must(c.WriteSettingsAck()); c.request(3, true) },
			func(c *h2test.Conn) {
				c.Settings(h2test.MaxConcurrentStreams(1))
				c.ExpectHeaders()
				c.ExpectSettingsAck()
				c.ExpectHeaders()
			},
			"2 streams are open, SETTINGS_MAX_CONCURRENT_STREAMS is 1",
		},
		"the stream's window": {
			func(c *framerClient) { c.request(1, false); data(c, 1, 60); data(c, 1, 50) },
			func(c *h2test.Conn) { c.ReadFrame(); c.ExpectData(1); c.ExpectData(1) },
			"it overruns the stream's window by 10 bytes",
		},
		"padding counts": {
			func(c *framerClient) {
				c.request(1, false)
				c.must(c.WriteDataPadded(1, false, make([]byte, 90), make([]byte, 10)))
			},
			func(c *h2test.Conn) { c.ReadFrame(); c.ExpectData(1) },
			"it overruns the stream's window by 1 bytes",
		},
		"credit for the stream": {
			func(c *framerClient) { c.request(1, false); data(c, 1, 60); data(c, 1, 50) },
			func(c *h2test.Conn) { c.ReadFrame(); c.Credit(c.ExpectData(1)); c.ExpectData(1) },
			"",
		},
		"the connection's window": {
			func(c *framerClient) {
				for id := uint32(1); id < 1400; id += 2 {
					c.request(id, false)
					data(c, id, 100)
					c.must(c.WriteRSTStream(id, 0))
				}
			},
			func(c *h2test.Conn) {
				for {
					c.ReadFrame()
				}
			},
			"it overruns the connection's window by 65 bytes",
		},
		"a window that becomes negative": {
			func(c *framerClient) {
				c.request(1, false)
				data(c, 1, 60)
				c.must(c.WriteSettingsAck())
				data(c, 1, 1)
			},
			func(c *h2test.Conn) {
				c.Settings(h2test.InitialWindowSize(20))
				c.ReadFrame()
				c.ExpectData(1)
				c.ExpectSettingsAck()
				if n := c.ReceiveWindow(1); n != -40 {
					panic(n)
				}
				c.ExpectData(1)
			},
			"it overruns the stream's window by 41 bytes",
		},
		"an empty DATA needs no window": {
			func(c *framerClient) { c.request(1, false); data(c, 1, 100); c.must(c.WriteData(1, true, nil)) },
			func(c *h2test.Conn) {
				c.Settings(h2test.InitialWindowSize(0))
				c.ReadFrame()
				c.ExpectData(1)
				c.ExpectEndStream(1)
			},
			"",
		},
		"a window beyond 2^31-1": {
			func(c *framerClient) { c.must(c.WriteWindowUpdate(0, 1<<31-1)) },
			func(c *h2test.Conn) { c.ReadFrame() },
			"it makes the window 2147549182 bytes",
		},
		"a frame that is too long": {
			func(c *framerClient) { c.request(1, false); data(c, 1, 16385) },
			func(c *h2test.Conn) { c.ReadFrame(); c.ReadFrame() },
			"DATA stream=1 of 16385 bytes, SETTINGS_MAX_FRAME_SIZE is 16384",
		},
		"an acknowledgement of nothing": {
			func(c *framerClient) { c.must(c.WriteSettingsAck()) },
			func(c *h2test.Conn) { c.ReadFrame() },
			"no SETTINGS wait for an acknowledgement",
		},
		"no table size update": {
			func(c *framerClient) { c.must(c.WriteSettingsAck()); c.request(1, true) },
			func(c *h2test.Conn) { c.Settings(h2test.HeaderTableSize(0)); c.ReadFrame(); c.ReadFrame() },
			"does not begin with a table size update",
		},
		"a table size update": {
			func(c *framerClient) {
				c.must(c.WriteSettingsAck())
				c.enc.SetMaxDynamicTableSize(0)
				c.request(1, true)
				c.request(3, true)
			},
			func(c *h2test.Conn) {
				c.Settings(h2test.HeaderTableSize(0))
				c.ReadFrame()
				c.ReadFrame()
				c.ReadFrame()
			},
			"",
		},
		"a larger table": {
			func(c *framerClient) {
				c.must(c.WriteSettingsAck())
				c.enc.SetMaxDynamicTableSizeLimit(10000)
				c.enc.SetMaxDynamicTableSize(10000)
				c.request(1, true)
			},
			func(c *h2test.Conn) { c.Settings(h2test.HeaderTableSize(10000)); c.ReadFrame(); c.ReadFrame() },
			"",
		},
		"a table larger than announced": {
			func(c *framerClient) {
				c.enc.SetMaxDynamicTableSizeLimit(10000)
				c.enc.SetMaxDynamicTableSize(10000)
				c.request(1, true)
			},
			func(c *h2test.Conn) { c.ReadFrame() },
			"HPACK: decoding error: dynamic table size update too large",
		},
		"a refused push": {
			func(c *framerClient) { c.must(c.WriteRSTStream(2, http2.ErrCodeRefusedStream)) },
			func(c *h2test.Conn) {
				c.PushPromise(1, 2, ":method", "GET")
				c.ExpectRST(2, http2.ErrCodeRefusedStream)
			},
			"",
		},
		"a lenient script": {
			func(c *framerClient) { c.request(2, true); data(c, 2, 20000) },
			func(c *h2test.Conn) { c.Lenient(); c.ReadFrame(); c.ReadFrame() },
			"",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			run := func(tb testing.TB) {
				client, conn := opened(tb, h2test.MaxConcurrentStreams(2), h2test.InitialWindowSize(100))
				test.client(client)
				test.script(conn)
			}
			if test.want == "" {
				run(t)
				return
			}
			failsWith(t, run, "the client broke the protocol", test.want)
		})
	}
}
