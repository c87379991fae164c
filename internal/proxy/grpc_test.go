package proxy

import (
	"context"
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// grpc-go's client and server speak through each kind of proxy. The server sends
// its SETTINGS as soon as it has the connection.
func TestGRPC(t *testing.T) {
	h2test.CheckLeaks(t)
	ca := h2test.NewCA(t)
	serveGRPC := func(o ...grpc.ServerOption) string {
		srv := grpc.NewServer(o...)
		healthpb.RegisterHealthServer(srv, health.NewServer())
		addr, _ := backendtest.Run(t, srv)
		return addr
	}
	hosts := map[string]string{
		"plain.example:443": serveGRPC(),
		"a.example:443":     serveGRPC(grpc.Creds(credentials.NewTLS(ca.ServerConfig("a.example")))),
	}
	plain := proxytest.ListenHTTP(t, hosts, "", nil)
	secure := proxytest.ListenHTTP(t, hosts, "", ca.ServerConfig("p.example"))
	socks := proxytest.ListenSOCKS(t, hosts, "")

	for _, p := range []struct{ scheme, host, addr string }{
		{"http", plain.Addr, plain.Addr}, {"https", "p.example", secure.Addr}, {"socks5h", socks.Addr, socks.Addr},
	} {
		for target, creds := range map[string]credentials.TransportCredentials{
			"plain.example:443": insecure.NewCredentials(),
			"a.example:443":     credentials.NewTLS(ca.ClientConfig("")),
		} {
			t.Run(p.scheme+" "+target, func(t *testing.T) {
				cc, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(creds),
					grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
						return Connect(ctx, to(p.addr), &url.URL{Scheme: p.scheme, Host: p.host}, target, Options{TLS: ca.ClientConfig("")})
					}))
				require.NoError(t, err)
				defer cc.Close()
				for range 10 {
					reply, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
					require.NoError(t, err)
					assert.Equal(t, healthpb.HealthCheckResponse_SERVING, reply.Status)
				}
			})
		}
	}
}
