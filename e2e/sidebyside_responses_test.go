package e2e_test

import (
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// response is what a server answers, frame by frame: pairs of HEADERS, bytes of DATA.
type response []any

func (r response) send(s *h2test.Stream) {
	for i, part := range r {
		last := i == len(r)-1
		switch part := part.(type) {
		case []string:
			s.Conn().Headers(s.ID, last, part...)
		case []byte:
			s.Conn().Data(s.ID, last, part)
		case http2.ErrCode:
			s.Conn().RST(s.ID, part)
		}
	}
}

// TestResponsesSideBySide: responses that are odd, or no gRPC at all.
func TestResponsesSideBySide(t *testing.T) {
	type h = []string
	st, err := status.New(codes.NotFound, "script: detailed").WithDetails(wrapperspb.String("detail"))
	if err != nil {
		t.Fatal(err)
	}
	detailed, err := proto.Marshal(st.Proto())
	if err != nil {
		t.Fatal(err)
	}
	details := base64.RawStdEncoding.EncodeToString(detailed)
	ok := h{":status", "200", "content-type", "application/grpc"}
	with := func(more ...string) h { return append(append(h(nil), ok...), more...) }
	message := h2test.PutMessage(false, []byte("\n\x03you"))
	well := h{"grpc-status", "0"}
	tests := map[string]response{
		"status of letters":              {with("grpc-status", "abc")},
		"status that is empty":           {with("grpc-status", "")},
		"status that is negative":        {with("grpc-status", "-1")},
		"status with a plus":             {with("grpc-status", "+5")},
		"status with zeros":              {with("grpc-status", "005")},
		"status that is unknown":         {with("grpc-status", "77", "grpc-message", "script: x")},
		"status beyond int32":            {with("grpc-status", "99999999999")},
		"status twice":                   {with("grpc-status", "5", "grpc-status", "0")},
		"status in trailers of letters":  {ok, message, h{"grpc-status", "abc"}},
		"no status, trailers only":       {ok},
		"no status in trailers":          {ok, message, h{"t", "1"}},
		"no trailers":                    {ok, message},
		"no trailers, empty":             {ok, []byte{}},
		"status in headers":              {with("grpc-status", "5"), message, well},
		"message percent-encoded":        {with("grpc-status", "5", "grpc-message", "script: %C3%BC%0A%25")},
		"message percent-encoded badly":  {with("grpc-status", "5", "grpc-message", "script: %%zz%C3%2")},
		"message that is no UTF-8":       {with("grpc-status", "5", "grpc-message", "script: %FF\xfe")},
		"message without a status":       {with("grpc-message", "script: x")},
		"details":                        {with("grpc-status", "5", "grpc-message", "script: y", "grpc-status-details-bin", details)},
		"details of another code":        {with("grpc-status", "6", "grpc-message", "script: y", "grpc-status-details-bin", details)},
		"details that are garbage":       {with("grpc-status", "5", "grpc-message", "script: y", "grpc-status-details-bin", "%%%")},
		"details of garbage":             {with("grpc-status", "5", "grpc-message", "script: y", "grpc-status-details-bin", "/////w")},
		"details with status OK":         {ok, message, h{"grpc-status", "0", "grpc-status-details-bin", details}},
		"binary garbage in headers":      {with("x-bin", "%%%"), message, well},
		"binary garbage in trailers":     {ok, message, h{"grpc-status", "0", "x-bin", "%%%"}},
		"binary padded, several":         {with("x-bin", "AP8=,AQ"), message, well},
		"binary garbage, 503":            {h{":status", "503", "content-type", "text/html", "x-bin", "%%%"}, []byte("x")},
		"binary garbage, 404 at once":    {h{":status", "404", "x-bin", "%%%"}},
		"binary garbage, 429, trailers":  {h{":status", "429", "content-type", "text/html"}, []byte("x"), h{"x-bin", "%%%"}},
		"binary garbage, html with 200":  {h{":status", "200", "content-type", "text/html", "x-bin", "%%%"}, []byte("<html>")},
		"binary garbage, informational":  {h{":status", "103", "x-bin", "%%%"}, ok, message, well},
		"503 with a name in capitals":    {h{":status", "503", "content-type", "text/html", "X-Up", "x"}, []byte("x")},
		"503 as gRPC, binary garbage":    {h{":status", "503", "content-type", "application/grpc", "x-bin", "%%%"}, well},
		"503, status of letters":         {h{":status", "503", "content-type", "text/html", "grpc-status", "abc"}},
		"404":                            {h{":status", "404", "content-type", "text/html"}, []byte("script: none")},
		"404 at once":                    {h{":status", "404"}},
		"404 as gRPC":                    {h{":status", "404", "content-type", "application/grpc", "grpc-status", "9", "grpc-message", "script: x"}},
		"503":                            {h{":status", "503", "content-type", "text/plain"}, []byte("x")},
		"429":                            {h{":status", "429"}},
		"401":                            {h{":status", "401"}},
		"403":                            {h{":status", "403"}},
		"400":                            {h{":status", "400"}},
		"431":                            {h{":status", "431"}},
		"500":                            {h{":status", "500"}},
		"204":                            {h{":status", "204"}},
		"no :status":                     {h{"content-type", "application/grpc"}, message, well},
		":status of letters":             {h{":status", "abc", "content-type", "application/grpc"}, message, well},
		"html with 200":                  {h{":status", "200", "content-type", "text/html"}, []byte("<html>")},
		"no content-type":                {h{":status", "200"}, message, well},
		"no content-type, trailers only": {h{":status", "200", "grpc-status", "5"}},
		"content-type with a subtype":    {h{":status", "200", "content-type", "application/grpc+other"}, message, well},
		"content-type with a parameter":  {h{":status", "200", "content-type", "application/grpc; charset=x"}, message, well},
		"content-type in capitals":       {h{":status", "200", "content-type", "Application/GRPC"}, message, well},
		"content-type of grpc-web":       {h{":status", "200", "content-type", "application/grpc-web"}, message, well},
		"informational first":            {h{":status", "103", "link", "x"}, ok, message, well},
		"message in pieces":              {ok, message[:1], message[1:4], []byte{}, message[4:6], message[6:], well},
		"message that is cut off":        {ok, message[:6], well},
		"prefix that is cut off":         {ok, message[:3], well},
		"cut off, and failed":            {ok, message[:6], h{"grpc-status", "5", "grpc-message", "script: x"}},
		"prefix beyond the limit":        {ok, []byte("\x00\xff\xff\xff\xff"), well},
		"prefix with an unknown flag":    {ok, append([]byte{2}, message[1:]...), well},
		"compressed, without encoding":   {ok, append([]byte{1}, message[1:]...), well},
		"compressed, identity":           {with("grpc-encoding", "identity"), append([]byte{1}, message[1:]...), well},
		"not compressed, gzip":           {with("grpc-encoding", "gzip"), message, well},
		"compressed, garbage":            {with("grpc-encoding", "gzip"), append([]byte{1}, message[1:]...), well},
		"DATA first, then HEADERS":       {message, ok, well},
		"DATA first, then trailers":      {message, with("grpc-status", "0")},
		"DATA first, then a status":      {message, with("grpc-status", "5", "grpc-message", "script: x")},
		"DATA first, then a page":        {[]byte("page"), h{":status", "503", "content-type", "text/html"}, []byte("x")},
		"DATA first, then its end":       {message, []byte{}},
		"DATA first, then CANCEL":        {message, http2.ErrCodeCancel},
		"DATA first, then a calm":        {[]byte("garbage"), http2.ErrCodeEnhanceYourCalm},
		"reset after the message":        {ok, message, http2.ErrCodeInternal},
		"reset with NO_ERROR":            {ok, message, http2.ErrCodeNo},
		"reset with CANCEL":              {ok, http2.ErrCodeCancel},
		"reset with INADEQUATE_SECURITY": {http2.ErrCodeInadequateSecurity},
		"reset with an unknown code":     {http2.ErrCode(99)},
		"reserved names in headers":      {with("grpc-accept-encoding", "gzip", "user-agent", "x", "te", "x", "grpc-timeout", "1S", "grpc-message-type", "x"), message, well},
		"many values":                    {with("a", "1", "a", "2", "a", "1,2"), message, h{"grpc-status", "0", "b", "", "b", "x"}},
	}
	// What we take, or refuse, or make of it otherwise than grpc-go does.
	differs := map[string]codes.Code{
		"content-type in capitals":       codes.OK,       // media types are the same in capitals; there Unknown
		"no content-type, trailers only": codes.NotFound, // as grpc-status says; there Unknown
		"binary padded, several":         codes.OK,       // a list in one field; there Internal
		"no :status":                     codes.Internal, // malformed (RFC 9113 section 8.3.2); there OK
		":status of letters":             codes.Internal,
		"status that is negative":        codes.Unknown,  // there a code beyond all that there are
		"cut off, and failed":            codes.NotFound, // as grpc-status says; there Internal
		// By the HTTP status, whatever else is malformed; there Internal, or Unknown.
		"503 with a name in capitals": codes.Unavailable,
		"503 as gRPC, binary garbage": codes.Unavailable,
		"503, status of letters":      codes.Unavailable,
		// The same codes, but trailers are kept, and the message is valid UTF-8.
		"status of letters":             codes.Unknown,
		"status that is empty":          codes.Unknown,
		"status beyond int32":           codes.Unknown,
		"message that is no UTF-8":      codes.NotFound,
		"message percent-encoded badly": codes.NotFound,
		"message without a status":      codes.Unknown,
		"details with status OK":        codes.Internal,
		"details of another code":       codes.Internal,
		// The same codes, but no reply is filled in.
		"no trailers":                codes.Internal,
		"DATA first, then its end":   codes.Internal,
		"DATA first, then CANCEL":    codes.Canceled,
		"binary garbage in trailers": codes.Internal,
	}
	var scenarios []scenario
	for name, r := range tests {
		serve := func(s *h2test.Stream) {
			if s.Ended && !s.Reset {
				r.send(s)
			}
		}
		if code, ok := differs[name]; ok {
			t.Run(name, func(t *testing.T) {
				srv := h2test.Listen(t)
				srv.Serve(serve)
				cc := newClient(t, srv.Target(), grpcdial.WithInsecure())
				err := cc.Invoke(backendtest.Bounded(t), "/t/M", wrapperspb.String("hello"), new(wrapperspb.StringValue))
				assert.Equal(t, code, status.Code(err), "%v", err)
			})
			continue
		}
		for _, kind := range []string{"Invoke", "client", "bidi"} {
			scenarios = append(scenarios, scenario{
				name:       name + ", " + kind,
				uncompared: true, cut: true, // trailers that come after the client has ended the RPC are chance
				serve: serve,
				act: func(st *stage) {
					if kind == "Invoke" {
						st.invoke(st.context(), "/t/M", "hello")
					} else {
						st.talk(st.context(), kinds[kind], "/t/M", []string{"hello"})
					}
				},
			})
		}
	}
	play(t, scenarios)
}
