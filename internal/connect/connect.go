// Package connect makes one connection: host name, network connection,
// credentials' handshake, HTTP/2 preface, in a straight line. Each step is a
// named phase, and what fails says in which one it was.
package connect

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// Config is what all connections of a channel have in common. It is read only
// and may be shared by any number of concurrent calls of Connect.
type Config struct {
	// Dialer makes the network connection in place of TCP and unix sockets. It
	// gets the address as it is, host names included. nil: TCP and unix.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)

	// Creds makes the connection secure. Never nil: plaintext is
	// insecure.NewCredentials(). ClientHandshake is called concurrently.
	Creds credentials.TransportCredentials

	Secure bool // the scheme of requests is https

	// RequireSecurity refuses a connection whose credentials state a security
	// level below PrivacyAndIntegrity, because credentials of the channel's
	// RPCs must not be sent on it.
	RequireSecurity bool

	// H2 goes to the HTTP/2 connection. Scheme and AuthInfo are filled in here.
	H2 h2.Config

	// Resolver looks host names up. nil: net.DefaultResolver.
	Resolver *net.Resolver
}

// Connect makes a connection to addr and returns it when the SETTINGS exchange
// is done. The error is a *failure.Attempt, or a failure.List if a host name
// led to several addresses. ctx bounds the whole attempt; it has no hold on
// the connection once Connect has returned it.
//
// authority is the name the credentials are asked to check.
func Connect(ctx context.Context, cfg *Config, addr resolver.Address, authority string) (*h2.Conn, error) {
	return nil, errors.New("not yet")
}
