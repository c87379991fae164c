package e2e_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// serveNginx runs nginx in front of the gRPC server at backend and returns its address.
// Each of its connections serves so many requests and ends with GOAWAY.
func serveNginx(t *testing.T, backend string, requests int) string {
	t.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("nginx is not installed: not checked")
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := lis.Addr().String()
	require.NoError(t, lis.Close())
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
		daemon off;
		master_process off;
		pid %[1]s/pid;
		events { worker_connections 2048; }
		http {
			access_log off;
			client_body_temp_path %[1]s/body;
			proxy_temp_path %[1]s/proxy;
			fastcgi_temp_path %[1]s/fastcgi;
			uwsgi_temp_path %[1]s/uwsgi;
			scgi_temp_path %[1]s/scgi;
			upstream backend {
				server %[2]s;
				keepalive 128;
			}
			server {
				listen %[3]s http2;
				keepalive_requests %[4]d;
				location / { grpc_pass grpc://backend; }
			}
		}`, dir, backend, addr, requests), 0o600))
	log := filepath.Join(dir, "error.log")
	cmd := exec.Command(binary, "-p", dir, "-e", log, "-c", config)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if said, err := os.ReadFile(log); t.Failed() && err == nil {
			t.Logf("nginx:\n%s", said[:min(len(said), 4096)])
		}
	})
	require.Eventually(t, func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	}, time.Minute, 5*time.Millisecond, "nginx listens")
	return addr
}

// nginx ends a connection by GOAWAY after so many requests, those beyond are not processed,
// and callers outnumber them. Each call is answered. grpc-go sends a request a
// second time only, and loses thousands here.
func TestNginxThatEndsConnectionsSoon(t *testing.T) {
	backend := backendtest.StartEcho(t)
	for _, tt := range []struct{ requests, callers int }{{10, 20}, {100, 200}, {10, 200}} {
		t.Run(fmt.Sprintf("keepalive_requests %d, %d callers", tt.requests, tt.callers), func(t *testing.T) {
			h2test.CheckLeaks(t)
			addr := serveNginx(t, backend.Addr, tt.requests)
			cc := newClient(t, addr, grpcdial.WithInsecure())
			ours, why := answered(cc, tt.callers)
			assert.Equal(t, int64(20*tt.callers), ours, "%v", why)
			require.NoError(t, cc.Close())

			theirs, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
			require.NoError(t, err)
			n, _ := answered(theirs, tt.callers)
			t.Logf("grpc-go: %d of %d", n, 20*tt.callers)
			require.NoError(t, theirs.Close())
		})
	}
}

// answered counts the replies to callers that make 20 calls each. why is one of the
// errors.
func answered(cc grpc.ClientConnInterface, callers int) (n int64, why error) {
	var all sync.WaitGroup
	var replies atomic.Int64
	var failed atomic.Pointer[error]
	for range callers {
		all.Go(func() {
			for range 20 {
				ctx, cancel := context.WithTimeout(context.Background(), backendtest.Patience)
				err := cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue))
				cancel()
				if err != nil {
					failed.Store(&err)
					continue
				}
				replies.Add(1)
			}
		})
	}
	all.Wait()
	if e := failed.Load(); e != nil {
		why = *e
	}
	return replies.Load(), why
}
