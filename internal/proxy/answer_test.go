package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pieces reads b in pieces of the sizes given, over and over.
type pieces struct {
	b     []byte
	sizes []byte
	next  int
}

func (p *pieces) Read(to []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	size := len(to)
	if len(p.sizes) > 0 {
		size = min(size, int(p.sizes[p.next%len(p.sizes)]))
		p.next++
	}
	n := copy(to[:size], p.b)
	p.b = p.b[n:]
	return n, nil
}

func TestReadAnswerWithoutProgress(t *testing.T) {
	_, _, err := readAnswer(&pieces{b: []byte("HTTP/1.1 200 OK\r\n\r\n"), sizes: []byte{0}})
	assert.ErrorIs(t, err, io.ErrNoProgress)
	_, status, err := readAnswer(&pieces{b: []byte("HTTP/1.1 200 OK\r\n\r\n"), sizes: []byte{0, 1, 0, 0, 2}})
	require.NoError(t, err)
	assert.Equal(t, 200, status)
}

func TestReadAnswerLimit(t *testing.T) {
	answer := func(n int) string {
		const start, end = "HTTP/1.1 200 OK\r\nX: ", "\r\n\r\n"
		return start + strings.Repeat("x", n-len(start)-len(end)) + end
	}
	const first = "first"
	fits := &pieces{b: []byte(answer(maxHead) + first)}
	head, _, err := readAnswer(fits)
	require.NoError(t, err)
	assert.Len(t, head, maxHead)
	assert.Equal(t, first, string(fits.b))

	tooLong := &pieces{b: []byte(answer(maxHead+1) + first)}
	_, _, err = readAnswer(tooLong)
	assert.ErrorIs(t, err, errTooLong)
	assert.Len(t, tooLong.b, len(first)+1)
}

// Whatever comes and however it is cut: nothing behind the header is taken, the
// answer does not depend on the cuts, and the header has one empty line, its end.
func FuzzReadAnswer(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 200 Connection established\r\n\r\n\x00\x00\x12\x04",
		"HTTP/1.0 200\n\nx",
		"HTTP/0.0   200 OK\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nVia: p\n\r\nx",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"a, \\\"b\", NTLM\r\nContent-Length: 3\r\n\r\nwho",
		"HTTP/1.1 502 \r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\r\n\n",
		"HTTP/1.1 099 OK\r\n\r\n",
		"\x15\x03\x01\x00\x02\x02\x46",
		"HTTP/1.1 2",
		"",
	} {
		f.Add([]byte(answer), []byte{1})
		f.Add([]byte(answer), []byte{3, 0, 200})
	}
	f.Fuzz(func(t *testing.T, data, sizes []byte) {
		whole := &pieces{b: data}
		head, status, err := readAnswer(whole)

		// What net/http, and so grpc-go, takes for success is one here.
		theirs, theirErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(data)), &http.Request{Method: http.MethodConnect})
		if theirErr == nil && theirs.StatusCode == http.StatusOK && len(data) < maxSpaces {
			assert.Equal(t, http.StatusOK, status, "%q: %v", data, err)
		}

		cut := &pieces{b: data, sizes: sizes}
		cutHead, cutStatus, cutErr := readAnswer(cut)
		if cutErr == io.ErrNoProgress {
			return // sizes has zeros only
		}
		assert.Equal(t, head, cutHead)
		assert.Equal(t, status, cutStatus)
		assert.Equal(t, err == nil, cutErr == nil)
		assert.LessOrEqual(t, len(data)-len(whole.b), maxHead)
		if err != nil {
			assert.Equal(t, head == nil, status == 0)
			if head != nil { // a refusal that was cut
				assert.True(t, status > 200 && status <= 999 || status == 101)
				assert.NotEmpty(t, statusText(head, nil))
			}
			return
		}
		assert.Equal(t, whole.b, cut.b)
		taken := data[:len(data)-len(whole.b)]
		require.True(t, bytes.HasSuffix(taken, head))
		assert.True(t, status >= 200 && status <= 999 || status == 101)
		unixLines := strings.ReplaceAll(string(head), "\r\n", "\n")
		assert.Equal(t, len(unixLines)-2, strings.Index(unixLines, "\n\n"))
		assert.NotEmpty(t, statusText(head, nil))
		assert.LessOrEqual(t, len(statusText(head, nil)), maxStatus)
	})
}

// A refusal is read from whatever follows the status.
func FuzzRefusal(f *testing.F) {
	for _, rest := range []string{
		"Content-Length: 3\r\n\r\nwho", "Transfer-Encoding: chunked\r\n\r\n3\r\nwho\r\n0\r\n\r\n", "\r\n<html>",
		"Proxy-Authenticate: Basic realm=\"a, \\\"b\", NTLM\r\nProxy-Authenticate: Digest a=b\r\n\r\n", "x\r\n\r\n",
	} {
		f.Add([]byte(rest))
	}
	f.Fuzz(func(t *testing.T, rest []byte) {
		nc := &readOnly{pieces: pieces{b: append([]byte("HTTP/1.1 407 No\r\n"), rest...)}}
		a := attempt{failed: &Error{Proxy: "http://p", Target: "a:1", Step: StepHandshake}}
		a.failed.Err = a.http(t.Context(), nc, destination{host: "a", port: 1})
		e := a.failed
		assert.Equal(t, 407, e.StatusCode)
		assert.LessOrEqual(t, len(e.Body), maxBody)
		assert.LessOrEqual(t, len(e.Challenges), 8)
		assert.NotEmpty(t, e.Hint())
		assert.NotContains(t, e.Hint(), "\n")
		assert.NotContains(t, e.Error(), "\n")
		assert.Less(t, len(e.Error()), 1500)
	})
}
