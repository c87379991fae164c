package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/grpcdial/grpcdial/internal/text"
)

// maxHead bounds an answer's status line and header, interim answers included,
// in bytes.
const maxHead = 64 << 10

var errTooLong = errors.New("its answer's header is longer than 64 KiB")

// statusLine is how an answer begins, a digit for each 0 (RFC 9112 §4). It may have any
// version of HTTP, and more spaces before the status, as net/http reads it and so
// grpc-go: there are proxies that answer "HTTP/0.0 200 OK".
const (
	statusLine = "HTTP/0.0 000"
	statusAt   = len("HTTP/0.0 ")
	maxSpaces  = 1000 // before the status
)

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
	at, lacking, _ := scanStatusLine(head)
	if lacking > 0 || len(head) == at+3 { // there could be a fourth digit yet
		return 0
	}
	return int(head[at]-'0')*100 + int(head[at+1]-'0')*10 + int(head[at+2]-'0')
}

// scanStatusLine reads the status line at the beginning of head, as far as it goes: ok
// is false if it is none. The status begins at the index at; lacking is how many bytes
// there are at least between the end of head and that of the status.
func scanStatusLine(head []byte) (at, lacking int, ok bool) {
	at = statusAt
	known := 0 // how much of statusLine there is
	for _, c := range head {
		switch {
		case known == len(statusLine): // what follows the status
			return at, 0, c == ' ' || c == '\r' || c == '\n'
		case known == statusAt && c == ' ' && at < maxSpaces:
			at++
			continue
		case statusLine[known] == '0' && (c < '0' || c > '9'), statusLine[known] != '0' && c != statusLine[known]:
			return at, len(statusLine) - known, false
		}
		known++
	}
	return at, len(statusLine) - known, true
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
		_, _, ok := scanStatusLine(head)
		switch {
		case !ok:
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
	_, ofStatus, _ := scanStatusLine(head)
	switch {
	case ofStatus > 0:
		return ofStatus + len("\n\n")
	case bytes.HasSuffix(head, []byte("\n\n")), bytes.HasSuffix(head, []byte("\n\r\n")):
		return 0
	case bytes.HasSuffix(head, []byte("\n")), bytes.HasSuffix(head, []byte("\n\r")):
		return 1
	default:
		return 2
	}
}

// statusText is the status and its reason: "407 Proxy Authentication Required". secrets
// are what the proxy was sent.
func statusText(head []byte, secrets *text.Secrets) string {
	line, _, _ := bytes.Cut(head, []byte("\n"))
	at, _, _ := scanStatusLine(line)
	return text.Cut(printable(secrets.Mask(string(line[at:]))), maxStatus)
}
