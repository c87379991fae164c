package compat

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// registerTestService has the shape of what protoc-gen-grpc-gateway generates,
// which takes nothing but a *grpc.ClientConn.
func registerTestService(_ context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	client := testpb.NewTestServiceClient(conn)
	unary := func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
		in, out := runtime.MarshalerForRequest(mux, r)
		ctx, err := runtime.AnnotateContext(r.Context(), mux, r, "/grpc.testing.TestService/UnaryCall")
		request := new(testpb.SimpleRequest)
		if err == nil {
			err = in.NewDecoder(r.Body).Decode(request)
		}
		if err != nil {
			runtime.HTTPError(ctx, mux, out, w, r, err)
			return
		}
		var md runtime.ServerMetadata
		reply, err := client.UnaryCall(ctx, request, grpc.Header(&md.HeaderMD), grpc.Trailer(&md.TrailerMD))
		ctx = runtime.NewServerMetadataContext(ctx, md)
		if err != nil {
			runtime.HTTPError(ctx, mux, out, w, r, err)
			return
		}
		runtime.ForwardResponseMessage(ctx, mux, out, w, r, reply, mux.GetForwardResponseOptions()...)
	}
	stream := func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
		_, out := runtime.MarshalerForRequest(mux, r)
		ctx, err := runtime.AnnotateContext(r.Context(), mux, r, "/grpc.testing.TestService/StreamingOutputCall")
		if err != nil {
			runtime.HTTPError(ctx, mux, out, w, r, err)
			return
		}
		replies, err := client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{
			ResponseParameters: make([]*testpb.ResponseParameters, 2), Payload: payload("y")})
		if err != nil {
			runtime.HTTPError(ctx, mux, out, w, r, err)
			return
		}
		header, err := replies.Header()
		if err != nil {
			runtime.HTTPError(ctx, mux, out, w, r, err)
			return
		}
		ctx = runtime.NewServerMetadataContext(ctx, runtime.ServerMetadata{HeaderMD: header})
		runtime.ForwardResponseStream(ctx, mux, out, w, r, func() (m proto.Message, err error) { return replies.Recv() }, mux.GetForwardResponseOptions()...)
	}
	if err := mux.HandlePath("POST", "/unary", unary); err != nil {
		return err
	}
	return mux.HandlePath("GET", "/stream", stream)
}

// TestGatewayOverTheBridge: grpc-gateway, which insists on *grpc.ClientConn, runs
// on our channel through GRPC.
func TestGatewayOverTheBridge(t *testing.T) {
	srv := serve(t)
	mux := runtime.NewServeMux()
	require.NoError(t, registerTestService(t.Context(), mux, dial(t, srv.addr, settings{}).GRPC()))
	web := httptest.NewServer(mux)
	defer web.Close()
	ask := func(method, path, body string) (int, string) {
		r, err := http.NewRequestWithContext(backendtest.Bounded(t), method, web.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Grpc-Metadata-Own", "1")
		answer, err := web.Client().Do(r)
		require.NoError(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(text)
	}

	code, text := ask("POST", "/unary", `{"payload": {"body": "eA=="}}`)
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, text, `"body":"eA=="`)
	seen := srv.seen()
	require.Len(t, seen, 1)
	assert.Equal(t, []string{"1"}, seen[0].Get("own"))

	code, text = ask("POST", "/unary", `{"responseStatus": {"code": 5, "message": "nothing"}}`)
	assert.Equal(t, http.StatusNotFound, code)
	assert.Contains(t, text, "nothing")

	code, text = ask("GET", "/stream", "")
	assert.Equal(t, http.StatusOK, code)
	assert.Equal(t, 2, strings.Count(text, `"body":"eQ=="`))
}
