package h2

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// verdict is what the reader has to do about a stream after a frame.
type verdict struct {
	over bool // the stream ends, with err
	err  *Error
	rst  http2.ErrCode // sent if the server may still be sending
}

func over(err *Error, rst http2.ErrCode) verdict { return verdict{over: true, err: err, rst: rst} }

// onHeaders takes a decoded block. The stream's mu is held.
//
// A response whose HTTP status is not 200 ends by that status unless it carries a status
// of gRPC's that is well-formed: what is malformed beside it, or missing, changes nothing.
func (s *Stream) onHeaders(b *block, endStream bool) verdict {
	s.gotData = true
	flaw, rst := b.flaw(s.c.cfg.headerListLimit())
	switch {
	case s.notGRPC != nil && (flaw != "" || endStream && (s.httpErr == nil || b.rarities().badBinary != "" || b.grpcStatus == "" || b.grpcStatus == "0")):
		return over(s.notGRPCError(), http2.ErrCodeProtocol)
	case s.notGRPC != nil && !endStream:
		if s.informs(b) {
			return verdict{}
		}
		return over(s.notGRPCError(), http2.ErrCodeEnhanceYourCalm)
	case s.notGRPC != nil:
		return s.onTrailers(b)
	case s.gotHeaders && flaw != "":
		return s.violated(flaw, rst)
	case s.gotHeaders && !endStream:
		return s.violated("the server sent HEADERS in the middle of the stream", http2.ErrCodeProtocol)
	case s.gotHeaders:
		return s.onTrailers(b)
	}

	httpStatus, err := strconv.Atoi(b.httpStatus)
	switch {
	case b.badPseudo:
		return over(internal(flaw), rst)
	case err != nil || len(b.httpStatus) != 3:
		if flaw == "" {
			flaw, rst = fmt.Sprintf("malformed response headers: :status %q", b.httpStatus), http2.ErrCodeProtocol
		}
		return over(internal(flaw), rst)
	case httpStatus >= 100 && httpStatus < 200:
		if flaw == "" && endStream {
			flaw, rst = fmt.Sprintf("the server ended the stream with HTTP status %d", httpStatus), http2.ErrCodeProtocol
		}
		if flaw == "" && !s.informs(b) {
			flaw, rst = "the server sent too many informational responses", http2.ErrCodeEnhanceYourCalm
		}
		if flaw != "" {
			return over(internal(flaw), rst)
		}
		return verdict{}
	case flaw != "" && httpStatus == http.StatusOK:
		return over(internal(flaw), rst)
	}
	if flaw != "" {
		return over(&Error{Status: httpError(httpStatus, b.contentType, flaw)}, rst)
	}
	isGRPC := isGRPCType(b.contentType) || b.grpcStatus != "" && b.contentType == ""
	switch {
	case !isGRPC:
		s.notGRPC = httpError(httpStatus, b.contentType, "")
	case b.rarities().badBinary != "" && httpStatus != http.StatusOK:
		s.notGRPC = httpError(httpStatus, b.contentType, b.rarities().badBinary)
	case b.rarities().badBinary != "":
		return over(internal(b.rarities().badBinary), http2.ErrCodeProtocol)
	}
	if s.notGRPC != nil {
		if endStream {
			return over(&Error{Status: s.notGRPC}, http2.ErrCodeProtocol)
		}
		return verdict{}
	}
	s.encoding = b.rarities().encoding
	if httpStatus != http.StatusOK {
		s.httpErr = httpError(httpStatus, b.contentType, "")
	}
	if endStream { // trailers only
		early := s.onEarly()
		v := s.onTrailers(b)
		if early.over && v.err == nil {
			return early
		}
		return v
	}
	s.inHeader = int32(b.wire)
	s.header = append(s.header, b.fields...)
	s.gotHeaders = true
	if s.headers != nil {
		close(s.headers)
	}
	return s.onEarly()
}

// onEarly takes the DATA that came before HEADERS.
func (s *Stream) onEarly() verdict {
	if len(s.body) == 0 {
		return verdict{}
	}
	early := s.body
	s.body = nil
	return s.onPayload(early)
}

// informs counts a header block that is no part of the response. It reports false if
// there are too many, or if together they are larger than one may be: a list of headers can
// be thousands of times as large as its encoding, and takes as long to look at.
func (s *Stream) informs(b *block) bool {
	s.informed++
	s.informedSize += b.size
	return s.informed <= maxInformational && s.informedSize <= uint64(s.c.cfg.headerListLimit())
}

// violated is the end of a stream by what is wrong with the rest of its response.
func (s *Stream) violated(what string, rst http2.ErrCode) verdict {
	if s.httpErr == nil {
		return over(internal(what), rst)
	}
	s.notGRPC = s.httpErr
	return over(s.notGRPCError(), rst)
}

func (s *Stream) onTrailers(b *block) verdict {
	if b.rarities().badBinary != "" {
		return s.violated(b.rarities().badBinary, http2.ErrCodeProtocol)
	}
	s.inTrailer = int32(b.wire)
	s.trailer = append(s.trailer, b.fields...)
	if b.grpcStatus == "" {
		if s.httpErr != nil {
			s.notGRPC = s.httpErr
			return over(s.notGRPCError(), http2.ErrCodeNo)
		}
		missing := "the server ended the stream without grpc-status"
		if b.rarities().message != "" {
			missing += ", with grpc-message " + quoted(decodeMessage(b.rarities().message))
		}
		return over(&Error{Status: status.New(codes.Unknown, missing)}, http2.ErrCodeNo)
	}
	code, err := strconv.ParseInt(b.grpcStatus, 10, 32)
	if err != nil || code < 0 {
		if s.httpErr != nil {
			return s.violated("", http2.ErrCodeProtocol)
		}
		return over(&Error{Status: status.New(codes.Unknown, "malformed grpc-status "+quoted(b.grpcStatus))}, http2.ErrCodeProtocol)
	}
	if code == int64(codes.OK) {
		if s.part.n > 0 {
			return s.violated("the server ended the stream in the middle of a message", http2.ErrCodeNo)
		}
		if len(b.rarities().details) == 0 {
			return over(nil, http2.ErrCodeNo)
		}
	}
	st := statusOf(codes.Code(code), decodeMessage(b.rarities().message), b.rarities().details)
	if st.Code() == codes.OK {
		return over(nil, http2.ErrCodeNo)
	}
	return over(&Error{Status: st}, http2.ErrCodeNo)
}

// statusOf builds the status of the trailers. grpc-status-details-bin counts if it
// is one well-formed message, which must say the same code (gRPC's PROTOCOL-HTTP2,
// "Status-Details").
func statusOf(code codes.Code, msg string, details []string) *status.Status {
	if len(details) != 1 {
		return status.New(code, msg)
	}
	p := status.New(code, msg).Proto()
	if err := proto.Unmarshal([]byte(details[0]), p); err != nil {
		return status.New(code, msg)
	}
	if p.GetCode() != int32(code) {
		return status.New(codes.Internal, fmt.Sprintf("grpc-status-details-bin says code %v where grpc-status says %v with message %q", codes.Code(p.GetCode()), code, msg))
	}
	return status.FromProto(p)
}

// statusOfHTTP maps an HTTP status as gRPC's http-grpc-status-mapping document says.
func statusOfHTTP(code int) codes.Code {
	switch code {
	case http.StatusBadRequest:
		return codes.Internal
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.Unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return codes.Unavailable
	}
	return codes.Unknown
}

// httpError is the status of a response by its HTTP status, for one that is not gRPC's or
// has a flaw.
func httpError(httpStatus int, contentType, flaw string) *status.Status {
	var parts []string
	if httpStatus != http.StatusOK {
		parts = append(parts, fmt.Sprintf("unexpected HTTP status code received from server: %d (%s)", httpStatus, http.StatusText(httpStatus)))
	}
	if contentType == "" {
		parts = append(parts, "the response has no content-type")
	} else if !isGRPCType(contentType) {
		parts = append(parts, fmt.Sprintf("unexpected content-type %q", contentType))
	}
	if flaw != "" {
		parts = append(parts, flaw)
	}
	return status.New(statusOfHTTP(httpStatus), strings.Join(parts, "; "))
}

func (s *Stream) notGRPCError() *Error {
	if len(s.body) == 0 || s.messages > 0 {
		return &Error{Status: s.notGRPC}
	}
	return &Error{Status: status.New(s.notGRPC.Code(), fmt.Sprintf("%s; body: %q", s.notGRPC.Message(), s.body))}
}

// isPlain reports whether DATA is messages, and nothing else has to be looked at. The
// stream's mu is held.
func (s *Stream) isPlain() bool { return s.gotHeaders && s.notGRPC == nil && s.httpErr == nil }

// onData takes a part of a DATA frame's payload. The stream's mu is held.
func (s *Stream) onData(p []byte) verdict {
	s.gotData = true
	if s.notGRPC != nil {
		n := min(len(p), maxErrorBody-len(s.body))
		s.body = append(s.body, p[:n]...)
		s.credit += int64(len(p))
		if len(s.body) == maxErrorBody {
			return over(s.notGRPCError(), http2.ErrCodeProtocol)
		}
		return verdict{}
	}
	if !s.gotHeaders {
		// A response that begins with DATA is malformed (RFC 9113 section 8.1). What
		// follows may say more: why the stream is reset, a status. A little is kept for it.
		if len(s.body)+len(p) > maxErrorBody {
			return over(internal("the server sent DATA before HEADERS"), http2.ErrCodeProtocol)
		}
		s.body = append(s.body, p...)
		return verdict{}
	}
	return s.onPayload(p)
}

// onPayload takes a part of a response that seems to be gRPC's.
func (s *Stream) onPayload(p []byte) verdict {
	if s.httpErr != nil {
		s.body = append(s.body, p[:min(len(p), maxErrorBody-len(s.body))]...)
	}
	err := s.assemble(p)
	if err != nil && s.httpErr != nil {
		// No message: what a proxy says, in gRPC's name, of the HTTP status.
		s.notGRPC = s.httpErr
		if len(s.body) == maxErrorBody {
			err = s.notGRPCError()
		} else {
			err = nil
		}
	}
	if err != nil {
		return over(err, http2.ErrCodeCancel)
	}
	return verdict{}
}

// onPlaced is onData for n bytes that were read into the room of the message. The
// stream's mu is held.
func (s *Stream) onPlaced(n int) verdict {
	if err := s.advance(n); err != nil {
		return over(err, http2.ErrCodeCancel)
	}
	s.awaited()
	return verdict{}
}
