package libraries

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/sercand/kuberesolver/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// cluster is a Kubernetes API server that reports the endpoints of one service to those
// that watch it.
func cluster(t *testing.T, slices <-chan kuberesolver.EndpointSlice) kuberesolver.K8sClient {
	t.Helper()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "/apis/discovery.k8s.io/v1/watch/namespaces/shop/endpointslices", r.URL.Path)
		assert.Equal(t, "kubernetes.io/service-name=cart", r.URL.Query().Get("labelSelector"))
		for {
			select {
			case slice := <-slices:
				_ = json.NewEncoder(w).Encode(kuberesolver.Event{Type: kuberesolver.Modified, Object: slice})
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(api.Close)
	return kuberesolver.NewInsecureK8sClient(api.URL)
}

// endpoints is what a cluster reports of a service whose one pod is at addr.
func endpoints(t *testing.T, addr string) kuberesolver.EndpointSlice {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	ready := true
	return kuberesolver.EndpointSlice{
		Endpoints: []kuberesolver.Endpoint{{Addresses: []string{host}, Conditions: kuberesolver.EndpointConditions{Ready: &ready}}},
		Ports:     []kuberesolver.EndpointPort{{Name: "grpc", Port: n}},
	}
}

// TestKuberesolver: a channel follows the endpoints of a service in a cluster.
func TestKuberesolver(t *testing.T) {
	slices := make(chan kuberesolver.EndpointSlice, 1)
	a, b := backendtest.Start(t, "a"), backendtest.Start(t, "b")
	slices <- endpoints(t, a.Addr)
	cc := dial(t, "kubernetes:///cart.shop:grpc",
		grpcdial.WithResolvers(kuberesolver.NewBuilder(cluster(t, slices), "kubernetes")))
	name, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	assert.Equal(t, "a", name)
	slices <- endpoints(t, b.Addr)
	backendtest.AwaitNames(t, cc, "b")
}

// TestKuberesolverOfALibrary: the same for code that dials by itself.
func TestKuberesolverOfALibrary(t *testing.T) {
	slices := make(chan kuberesolver.EndpointSlice, 1)
	agents := new(backendtest.Agents)
	slices <- endpoints(t, backendtest.Start(t, "a", agents.Option()).Addr)
	opts := append(bridge.ToGRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithResolvers(kuberesolver.NewBuilder(cluster(t, slices), "kubernetes")))
	conn, err := grpc.NewClient("kubernetes:///cart.shop:grpc", opts...)
	require.NoError(t, err)
	defer conn.Close()
	_, err = backendtest.AskName(backendtest.Bounded(t), conn)
	require.NoError(t, err)
	agents.AssertOurs(t, "/Name")
}
