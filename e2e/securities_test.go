package e2e_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// security is the options of a server and a client that go together.
type security struct {
	name   string
	server []grpc.ServerOption
	client grpcdial.DialOption
}

// securities returns plaintext, and TLS with a server named localhost.
func securities(t *testing.T) []security {
	ca := h2test.NewCA(t)
	cert := ca.Server("localhost")
	return []security{
		{"plaintext", nil, grpcdial.WithInsecure()},
		{"TLS", []grpc.ServerOption{grpc.Creds(credentials.NewServerTLSFromCert(&cert))},
			grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("localhost")))},
	}
}
