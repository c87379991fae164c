package connect

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Credentials may make a connection of their own of the one they get. It is closed too,
// whenever they are done.
func TestConnectionsOfCredentialsAreClosed(t *testing.T) {
	for name, takes := range map[string]time.Duration{
		"in time, and is not secure":        0,
		"when the attempt has ended":        time.Second + patience/2,
		"when nothing waits for it":         time.Minute,
		"in time, and the server is silent": time.Second / 2,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, _ := h2test.Pipe(t)
				under := newClosing(client)
				own := newClosing(under)
				cfg := dials(under)
				cfg.RequireSecurity = takes == 0
				cfg.Creds = secured{handshaker(func(context.Context, string, net.Conn) (net.Conn, error) {
					time.Sleep(takes)
					return own, nil
				})}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := Connect(ctx, cfg, resolver.Address{Addr: "a"}, "a")
				if a := attempt(t, err); takes == 0 {
					assert.ErrorIs(t, a, failure.ErrInsecure)
				} else {
					assert.ErrorIs(t, a, context.DeadlineExceeded)
				}
				assert.True(t, under.isClosed())
				time.Sleep(time.Hour)
				assert.True(t, own.isClosed())
				assert.Empty(t, left())
			})
		})
	}
}

// secured is credentials that say how secure they are: not at all.
type secured struct{ handshaker }

func (s secured) ClientHandshake(ctx context.Context, authority string, nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	nc, _, err := s.handshaker.ClientHandshake(ctx, authority, nc)
	return nc, noSecurity{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, err
}

type noSecurity struct{ credentials.CommonAuthInfo }

func (noSecurity) AuthType() string { return "none" }
