package libraries

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestGateway: code that grpc-gateway has generated, etcd's, on a channel and on a connection
// that it dials.
func TestGateway(t *testing.T) {
	for name, register := range map[string]func(mux *runtime.ServeMux, addr string) error{
		"RegisterHandler": func(mux *runtime.ServeMux, addr string) error {
			return gw.RegisterKVHandler(t.Context(), mux, dial(t, addr).GRPC())
		},
		"RegisterHandlerFromEndpoint": func(mux *runtime.ServeMux, addr string) error {
			return gw.RegisterKVHandlerFromEndpoint(t.Context(), mux, addr,
				append(bridge.ToGRPC(), grpc.WithTransportCredentials(insecure.NewCredentials())))
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr, agents := startEtcd(t)
			mux := runtime.NewServeMux()
			require.NoError(t, register(mux, addr))
			web := httptest.NewServer(mux)
			defer web.Close()
			ask := func(path, token, body string) (int, string) {
				r, err := http.NewRequestWithContext(backendtest.Bounded(t), http.MethodPost, web.URL+path, strings.NewReader(body))
				require.NoError(t, err)
				r.Header.Set("Grpc-Metadata-Token", token)
				answer, err := web.Client().Do(r)
				require.NoError(t, err)
				defer answer.Body.Close()
				text, err := io.ReadAll(answer.Body)
				require.NoError(t, err)
				return answer.StatusCode, string(text)
			}
			code, _ := ask("/v3/kv/put", "first", `{"key": "a2V5", "value": "dmFsdWU="}`)
			assert.Equal(t, http.StatusOK, code)
			code, text := ask("/v3/kv/range", "first", `{"key": "a2V5"}`)
			assert.Equal(t, http.StatusOK, code)
			assert.Contains(t, text, `"value":"dmFsdWU="`)
			code, text = ask("/v3/kv/range", "another", `{"key": "a2V5"}`)
			assert.Equal(t, http.StatusUnauthorized, code)
			assert.Contains(t, text, "invalid auth token")
			agents.AssertOurs(t, "KV/Put", "KV/Range")
		})
	}
}
