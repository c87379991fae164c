package connect

import (
	"context"
	"errors"
	"net"
	"reflect"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// handshake lets the credentials make the connection secure. The caller closes
// wire if it fails.
//
// It runs on a goroutine of its own if it is code of the user's, which may
// not return. When ctx ends the socket is closed, which ends also handshakes that
// do not look at ctx.
func (cfg *Config) handshake(ctx context.Context, wire *h2.Wire, authority string) (net.Conn, credentials.AuthInfo, error) {
	var s handshaken
	var err error
	if heedsContext(cfg.Creds) {
		s, err = cfg.clientHandshake(ctx, wire, authority)
	} else {
		s, err = bounded(ctx,
			func() (handshaken, error) { return cfg.clientHandshake(ctx, wire, authority) },
			func() { _ = wire.Close() },
			func(s handshaken) { _ = s.nc.Close() })
	}
	if err != nil {
		return nil, nil, err
	}
	if cfg.RequireSecurity && !isSecure(s.info) {
		_ = wire.Close() // first: a tls.Conn's Close waits to send its alert
		_ = s.nc.Close()
		return nil, nil, failure.ErrInsecure
	}
	return s.nc, s.info, nil
}

// handshaken is the outcome of the credentials' handshake.
type handshaken struct {
	nc   net.Conn
	info credentials.AuthInfo
}

func (cfg *Config) clientHandshake(ctx context.Context, wire *h2.Wire, authority string) (handshaken, error) {
	nc, info, err := cfg.Creds.ClientHandshake(ctx, authority, wire)
	if err == nil && nc == nil {
		err = errors.New("the credentials' handshake returned neither a connection nor an error")
	}
	return handshaken{nc, info}, err
}

// The types of grpc-go's own credentials. Those without security do nothing; those for TLS
// have a goroutine of their own for the handshake, with the functions of the program's
// tls.Config, and return when the context ends.
var (
	insecureType = reflect.TypeOf(insecure.NewCredentials())
	tlsType      = reflect.TypeOf(credentials.NewTLS(nil))
)

// heedsContext reports whether the handshake of creds is known to return when its context
// has ended.
func heedsContext(creds credentials.TransportCredentials) bool {
	t := reflect.TypeOf(creds)
	return t == insecureType || t == tlsType
}

// isSecure says whether the credentials promise privacy and integrity. Those
// that state no level are taken at their word, as grpc-go does.
func isSecure(info credentials.AuthInfo) bool {
	stated, ok := info.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	})
	if !ok {
		return true
	}
	level := stated.GetCommonAuthInfo().SecurityLevel
	return level == credentials.InvalidSecurityLevel || level >= credentials.PrivacyAndIntegrity
}
