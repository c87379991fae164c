package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
)

// maxHead bounds an answer's status line and header, interim answers included,
// in bytes.
const maxHead = 64 << 10

var errTooLong = errors.New("its answer's header is longer than 64 KiB")

// statusLine is how an answer begins, a digit for each 0 (RFC 9112 §4).
const statusLine = "HTTP/1.0 000"

// readAnswer reads from r the status line and the header of the answer to a
// CONNECT, up to its empty line and not a byte further: in a tunnel, what
// follows is the target's. Interim answers before it are left out (RFC 9110
// §15.2).
//
// Of a refusal that ends too early, or not at all, it returns what came beside the
// error: its status and the beginning of its header.
func readAnswer(r io.Reader) (head []byte, status int, err error) {
	for room := maxHead; ; room -= len(head) {
		head, err = readHead(r, room)
		status = statusCode(head)
		switch final := status >= 200 || status == http.StatusSwitchingProtocols; {
		case err != nil && (!final || status == http.StatusOK):
			return nil, 0, err
		case err == nil && status < 100:
			return nil, 0, &unexpectedError{"HTTP answer", head}
		case final:
			return head, status, err
		}
	}
}

// statusCode is the status in head, 0 if it does not go as far.
func statusCode(head []byte) int {
	if len(head) <= len(statusLine) { // there could be a fourth digit yet
		return 0
	}
	return int(head[9]-'0')*100 + int(head[10]-'0')*10 + int(head[11]-'0')
}

// readHead reads one status line and header of at most limit bytes. Beside an error
// it returns what there is of them, if what came began as an answer does.
//
// It never asks for more bytes than must yet come, so that it needs no buffer
// that would stand between the tunnel and its user for good. That costs a read
// for every second byte, some hundred in all, once a connection.
func readHead(r io.Reader, limit int) ([]byte, error) {
	var head []byte
	idle := 0
	chunk := make([]byte, len(statusLine)+len("\n\n"))
	for {
		if len(head) == limit {
			return head, errTooLong
		}
		n, err := r.Read(chunk[:min(lacking(head), limit-len(head))])
		head = append(head, chunk[:n]...)
		switch {
		case !isStatusLine(head):
			return nil, &unexpectedError{"HTTP answer", head}
		case lacking(head) == 0:
			return head, nil
		case err == io.EOF && len(head) > 0:
			return head, io.ErrUnexpectedEOF
		case err != nil:
			return head, err
		case n > 0:
			idle = 0
		case idle == maxIdle:
			return head, io.ErrNoProgress
		default:
			idle++
		}
	}
}

// maxIdle is how often a Read in a row may bring nothing and no error.
const maxIdle = 100

// lacking is how many bytes there are at least between what was read of a header
// and its end, the empty line: 0 if it is complete. Lines end with CRLF, or with
// LF alone (RFC 9112 §2.2).
func lacking(head []byte) int {
	switch {
	case len(head) < len(statusLine):
		return len(statusLine) - len(head) + len("\n\n")
	case bytes.HasSuffix(head, []byte("\n\n")), bytes.HasSuffix(head, []byte("\n\r\n")):
		return 0
	case bytes.HasSuffix(head, []byte("\n")), bytes.HasSuffix(head, []byte("\n\r")):
		return 1
	default:
		return 2
	}
}

// isStatusLine says whether head begins as a status line, as far as it goes.
func isStatusLine(head []byte) bool {
	for i, c := range head[:min(len(head), len(statusLine))] {
		want := statusLine[i]
		if want == '0' && (c < '0' || c > '9') || want != '0' && c != want {
			return false
		}
	}
	return len(head) <= len(statusLine) || bytes.IndexByte([]byte(" \r\n"), head[len(statusLine)]) >= 0
}

// statusText is the status and its reason: "407 Proxy Authentication Required".
func statusText(head []byte) string {
	line, _, _ := bytes.Cut(head, []byte("\n"))
	text := strings.TrimSpace(string(line[len("HTTP/1.0 "):]))
	return cut(readable(text), maxStatus)
}
