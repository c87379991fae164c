package h2_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Whatever the server makes of its HPACK table, each request arrives as what it
// is: a stale index would call another method. The peer decodes each block and knows from the
// message what it should say.
func TestHeaderTableSize(t *testing.T) {
	sizes := [][]uint32{{0}, {100}, {4096}, {0, 4096}, {8192}, {64, 0, 300}, {4095}, {1 << 20}, {4096, 4096}}
	for _, p := range peers {
		for start, from := range map[string][]http2.Setting{"": nil, " from 0": {h2test.HeaderTableSize(0)}, " from 300": {h2test.HeaderTableSize(300)}, " from 65536": {h2test.HeaderTableSize(65536)}} {
			t.Run(p.name+start, func(t *testing.T) {
				c, server := p.connect(t, h2.Config{}, from...)
				server.Go(func(server *h2test.Conn) {
					server.Loop(func(s *h2test.Stream) {
						if !s.Ended {
							return
						}
						want := strings.Split(string(s.Take()[0].Payload), "|")
						h := s.Headers
						got := []string{h.Field(":path"), h.Field(":authority"), h.Field("content-type"), h.Field("grpc-encoding"),
							strings.Join(h.Values("once"), ","), strings.Join(h.Values("often"), ",")}
						if timeout := h.Field("grpc-timeout"); timeout != "" {
							got = append(got, minutes(timeout))
						}
						if fmt.Sprint(got) != fmt.Sprint(want) {
							s.SendTrailers(codes.DataLoss, fmt.Sprintf("got %q, sent %q", got, want))
							return
						}
						s.SendTrailers(codes.OK, "")
					})
				})
				var wg sync.WaitGroup
				var mu sync.Mutex
				calls := 0
				for g := range 4 {
					wg.Go(func() {
						rnd := rand.New(rand.NewPCG(1, uint64(g)))
						for i := range 150 {
							r := req(fmt.Sprintf("/pkg.Service/Method%d", rnd.IntN(1<<rnd.IntN(9))))
							r.Authority = fmt.Sprintf("host%d", rnd.IntN(1<<rnd.IntN(3)))
							r.ContentSubtype = []string{"proto", "json"}[rnd.IntN(2)]
							if rnd.IntN(3) == 0 {
								r.Encoding = "gzip"
							}
							once := fmt.Sprintf("%d-%d-%s", g, i, strings.Repeat("x", rnd.IntN(600)))
							often := strings.Repeat("y", 1<<rnd.IntN(11))
							r.Metadata = metadata.Pairs("once", once, "often", often)
							want := strings.Join([]string{r.Method, r.Authority, "application/grpc+" + r.ContentSubtype, r.Encoding, once, often}, "|")
							left := 1 << rnd.IntN(10) * 100 // a time-out of which some repeat and some have no place in the table
							want += fmt.Sprint("|", left, "min")
							ctx, cancel := context.WithTimeout(context.Background(), time.Duration(left)*time.Minute)
							res := c.unary(ctx, r, want)
							cancel()
							if res.failure() != nil {
								t.Error(res.failure())
								return
							}
							mu.Lock()
							if calls++; calls%40 == 0 {
								var settings []http2.Setting
								for _, n := range sizes[calls/40%len(sizes)] {
									settings = append(settings, h2test.HeaderTableSize(n))
								}
								server.Settings(settings...)
							}
							mu.Unlock()
						}
					})
				}
				wg.Wait()
				r := c.unary(context.Background(), req("/last"), "/last|localhost|application/grpc|||")
				require.Nil(t, r.failure())
			})
		}
	}
}

// More methods and metadata than the table holds: each request is still what it
// is, and what came before the table was full stays short.
func TestHeaderTableFull(t *testing.T) {
	c, server := peered(t, h2.Config{})
	size := map[string]int{}
	var mu sync.Mutex
	server.Go(func(server *h2test.Conn) {
		server.Loop(func(s *h2test.Stream) {
			if s.Ended {
				path := s.Headers.Field(":path")
				mu.Lock()
				size[path] = len(s.Headers.Block)
				mu.Unlock()
				s.Reply([]byte(path + s.Headers.Field("k")))
			}
		})
	})
	for round := range 3 {
		for i := range 700 {
			r := req(fmt.Sprintf("/pkg.Service/AMethodOfSomeLength%d", i))
			r.Metadata = metadata.Pairs("k", fmt.Sprintf("value %d", i/2))
			res := c.unary(context.Background(), r, "")
			require.Nil(t, res.failure())
			require.Equal(t, fmt.Sprintf("%svalue %d", r.Method, i/2), res.reply, "round %d", round)
		}
	}
	require.Less(t, size["/pkg.Service/AMethodOfSomeLength0"], 12)
	require.Greater(t, size["/pkg.Service/AMethodOfSomeLength699"], 30)
}

// The update of the table's size is made once, before the next block, and is no
// part of those that follow.
func TestHeaderTableSizeUpdateIsMadeOnce(t *testing.T) {
	c, server := peered(t, h2.Config{})
	isUpdate := func(f *h2test.Frame) bool { return f.Block[0]&0xe0 == 0x20 }
	block := func() *h2test.Frame {
		res := c.call(context.Background(), "/test/Method", "x")
		h, _ := server.ExpectUnary()
		server.TrailersOnly(h.StreamID, codes.OK, "")
		require.Nil(t, await(t, res, "the call").failure())
		return h
	}
	for range 3 {
		require.False(t, isUpdate(block()))
	}
	for _, n := range []uint32{100, 0, 50} {
		server.Settings(h2test.HeaderTableSize(n))
		server.ExpectSettingsAck()
		require.Equal(t, n != 50, isUpdate(block()), n) // the client need not grow
		for range 3 {
			require.False(t, isUpdate(block()))
		}
	}
}

// Blocks of streams that have ended are decoded all the same: what they put into the
// table is used by later ones.
func TestLateHeadersAreDecoded(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{})
			for i := range 30 {
				ctx, cancel := context.WithCancel(context.Background())
				res := c.call(ctx, "/test/Hang", "x")
				h, _ := server.ExpectUnary()
				cancel()
				require.Equal(t, codes.Canceled, await(t, res, "the call").err.Status.Code())
				server.ExpectRST(h.StreamID, http2.ErrCodeCancel)
				k, v := fmt.Sprintf("key%d", i), fmt.Sprintf("value%d", i)
				if i%2 == 0 {
					server.ReplyHeaders(h.StreamID, k, v)
				} else {
					server.HeadersSplit(h.StreamID, false, 3, ":status", "200", "content-type", "application/grpc", k, v)
				}
				server.ReplyTrailers(h.StreamID, codes.OK, "", "t"+k, v)
				if i%10 == 9 {
					server.SetEncoderTableSize(uint32(200 * i))
				}

				res = c.call(context.Background(), "/test/Well", "x")
				h, _ = server.ExpectUnary()
				server.ReplyHeaders(h.StreamID, k, v)
				server.ReplyTrailers(h.StreamID, codes.OK, "", "t"+k, v)
				r := await(t, res, "the next call")
				require.Nil(t, r.failure())
				require.Equal(t, []string{v}, r.header[k])
				require.Equal(t, []string{v}, r.trailer["t"+k])
			}
		})
	}
}

// minutes is a grpc-timeout whose deadline was a hundred or more minutes away when the call
// began, a moment ago.
func minutes(timeout string) string {
	d, err := parseTimeout(timeout)
	if err != nil {
		return err.Error()
	}
	for hundreds := 1; ; hundreds *= 2 {
		if left := time.Duration(hundreds) * 100 * time.Minute; d <= left+left/500 {
			return fmt.Sprint(hundreds*100, "min")
		}
	}
}

// A time-out that comes again and again costs two bytes at most, as in the encoder that
// indexes each field at once. Those that are all different push nothing out of the table.
func TestTimeoutIsIndexed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{})
		blocks := make(chan int, 1)
		server.Go(func(server *h2test.Conn) {
			server.Loop(func(s *h2test.Stream) {
				if s.Ended {
					blocks <- len(s.Headers.Block)
					s.Reply(nil)
				}
			})
		})
		call := func(left time.Duration) (block int) {
			ctx := context.Background()
			if left > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, left)
				defer cancel()
			}
			require.Nil(t, c.unary(ctx, req("/test/Method"), "x").failure())
			return <-blocks
		}
		call(0)
		without := call(0)
		for n, used := range []time.Duration{20, 60, 5, 10, 900, 333} { // of the ten seconds, before the call is sent
			if block := call(10*time.Second - used*time.Microsecond); n >= 2 {
				require.LessOrEqual(t, block, without+2)
			}
		}
		const all = 2000
		sum := 0
		for n := range all {
			sum += call(time.Second + time.Duration(n)*7919*time.Microsecond)
			call(time.Second + time.Duration(n)*7919*time.Microsecond)
		}
		require.Less(t, sum/all, without+10, "one that is not in the table does not repeat the name")
		require.LessOrEqual(t, call(0), without)
	})
}

// The same bytes mean other fields once the table has changed, if only by the headers of a
// stream that has ended; as long as it has not, they mean the same.
func TestRepeatedHeaders(t *testing.T) {
	c, server := peered(t, h2.Config{})
	insertion := func(b []byte, name, value string) []byte { // RFC 7541 section 6.2.1
		b = append(append(b, 0x40, byte(len(name))), name...)
		return append(append(b, byte(len(value))), value...)
	}
	inserted := func(value string) []byte {
		b := insertion([]byte{0x88}, "content-type", "application/grpc") // :status 200
		return insertion(insertion(b, "grpc-status", "0"), "t", value)
	}
	indices := []byte{0x88, 62 + 2 | 0x80, 62 + 1 | 0x80, 62 | 0x80} // the same fields, after any of them
	const last = http2.FlagHeadersEndHeaders | http2.FlagHeadersEndStream
	answered := func(block []byte, want string) {
		t.Helper()
		res := c.call(context.Background(), "/test/Well", "x")
		h, _ := server.ExpectUnary()
		server.RawFrame(http2.FrameHeaders, last, h.StreamID, block)
		require.Equal(t, []string{want}, await(t, res, "the call").trailer["t"])
	}
	for round, late := range []bool{false, true, false} {
		value := fmt.Sprint("value", round)
		if late {
			ctx, cancel := context.WithCancel(context.Background())
			res := c.call(ctx, "/test/Hang", "x")
			h, _ := server.ExpectUnary()
			cancel()
			require.Equal(t, codes.Canceled, await(t, res, "the call").err.Status.Code())
			server.ExpectRST(h.StreamID, http2.ErrCodeCancel)
			server.RawFrame(http2.FrameHeaders, last, h.StreamID, inserted(value))
		} else {
			answered(inserted(value), value)
		}
		for range 3 {
			answered(indices, value)
		}
	}
}
