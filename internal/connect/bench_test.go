package connect

import (
	"errors"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// BenchmarkConnect makes connections to a server in the same process, over TCP,
// from dial to SETTINGS.
func BenchmarkConnect(b *testing.B) {
	for _, secure := range []bool{false, true} {
		name, opts := "plaintext", []h2test.Option(nil)
		if secure {
			name, opts = "tls", []h2test.Option{h2test.WithTLS()}
		}
		b.Run(name, func(b *testing.B) {
			srv := h2test.Listen(b, opts...)
			srv.Script(func(c *h2test.Conn) {
				c.Handshake()
				c.ExpectClosed()
			})
			cfg := &Config{Creds: plaintext, Secure: secure}
			if secure {
				cfg.Creds = credentials.NewTLS(srv.ClientTLS())
			}
			done := errors.New("done")
			b.ReportAllocs()
			for b.Loop() {
				c, err := Connect(b.Context(), cfg, resolver.Address{Addr: srv.Addr()}, "localhost")
				if err != nil {
					b.Fatal(err)
				}
				c.Close(done, nil)
				_ = c.Serve(func(error) {})
			}
		})
	}
}
