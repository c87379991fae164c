package h2_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// token is a value as bearer tokens are, the n-th of that size.
func token(n, size int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	rnd := rand.New(rand.NewPCG(uint64(n), uint64(size)))
	b := make([]byte, size)
	for i := range b {
		b[i] = alphabet[rnd.IntN(len(alphabet))]
	}
	return "Bearer " + string(b)
}

// blocks makes calls with the given metadata and returns their header blocks. The server checks that each arrives as what it is.
func blocks(t *testing.T, md func(call int) metadata.MD, calls int) [][]byte {
	t.Helper()
	c, server := peered(t, h2.Config{})
	var want metadata.MD // set before each call; the server reads it during the call
	all := make([][]byte, 0, calls)
	server.Go(func(server *h2test.Conn) {
		server.Loop(func(s *h2test.Stream) {
			if !s.Ended {
				return
			}
			for k, v := range want {
				if strings.HasSuffix(k, "-bin") {
					v = []string{base64.RawStdEncoding.EncodeToString([]byte(v[0]))}
				}
				if got := s.Headers.Values(k); fmt.Sprint(got) != fmt.Sprint(v) {
					s.SendTrailers(codes.DataLoss, fmt.Sprintf("%s is %q", k, got))
					return
				}
			}
			all = append(all, bytes.Clone(s.Headers.Block))
			s.Reply(nil)
		})
	})
	for n := range calls {
		r := req("/test/Method")
		want = md(n)
		r.Metadata = want
		require.Nil(t, c.unary(context.Background(), r, "x").failure(), "call %d", n)
	}
	return all
}

// A bearer token that comes with each call costs no more than it does where each field is
// inserted into the table at once, as grpc-go does, from the third call on.
func TestTokenIsIndexed(t *testing.T) {
	for _, size := range []int{100, 600, 1024, 2048} {
		md := metadata.Pairs("authorization", token(1, size), "x-tenant", "blue")
		sent := blocks(t, func(int) metadata.MD { return md }, 10)

		var b bytes.Buffer
		enc := hpack.NewEncoder(&b)
		for range 2 {
			b.Reset()
			for _, f := range []hpack.HeaderField{
				{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/test/Method"},
				{Name: ":authority", Value: "localhost"}, {Name: "content-type", Value: "application/grpc"},
				{Name: "user-agent", Value: "h2_test/1"}, {Name: "te", Value: "trailers"},
				{Name: "authorization", Value: md["authorization"][0]}, {Name: "x-tenant", Value: "blue"},
			} {
				require.NoError(t, enc.WriteField(f))
			}
		}
		for n, block := range sent[2:] {
			require.LessOrEqual(t, len(block), b.Len(), "call %d", n+2)
		}
	}
}

// Fields that come with each call are inserted, whichever they are: none displaces another
// before it comes again.
func TestFieldsOfEachCallAreIndexed(t *testing.T) {
	for n := range 20 {
		md := metadata.MD{}
		for i := range 8 {
			md.Set(fmt.Sprintf("x-field-%d-%d", n, i), strings.Repeat("v", 100))
		}
		for call, block := range blocks(t, func(int) metadata.MD { return md }, 4)[2:] {
			require.Less(t, len(block), 30, "call %d", call+2)
		}
	}
}

// Tokens that are replaced from time to time stay cheap for as long as the connection lives.
func TestTokensAreReplaced(t *testing.T) {
	const tokens, calls = 12, 300
	total := 0
	for _, block := range blocks(t, func(call int) metadata.MD {
		return metadata.Pairs("authorization", token(call/calls, 1024))
	}, tokens*calls) {
		total += len(block)
	}
	t.Logf("%d bytes a call", total/(tokens*calls))
	require.Less(t, total/(tokens*calls), 80)
}

// Values of one-time use, each sent with two calls as a retry does, do not displace what
// comes with all of them.
func TestOneTimeSecrets(t *testing.T) {
	for _, times := range []int{1, 2} {
		secret := func(call int) string { return token(1000+call/times, 700) }
		always := token(1, 1024)
		const calls = 1000
		total := 0
		for n, block := range blocks(t, func(call int) metadata.MD {
			return metadata.Pairs("authorization", always, "x-secret", secret(call))
		}, calls) {
			total += len(block) - int(hpack.HuffmanEncodeLength(secret(n)))
		}
		t.Logf("%d bytes a call beside the secret, sent %d times", total/calls, times)
		require.Less(t, total/calls, 60)
	}
}

// Whatever comes and goes in the table, fields arrive as they were sent; those with
// binary values too.
func TestTableIsEmptiedInTime(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	emptied := 0
	for _, block := range blocks(t, func(int) metadata.MD {
		return metadata.Pairs(
			"a", token(rnd.IntN(6), 900), "b", token(rnd.IntN(40), 30), "c-bin", strings.Repeat("\x00\xff", 1+rnd.IntN(200)))
	}, 2000) {
		if block[0] == 0x20 { // the size of the table becomes 0 (RFC 7541 section 6.3)
			emptied++
		}
	}
	require.NotZero(t, emptied)
	require.Less(t, emptied, 100)
}
