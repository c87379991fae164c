package connect

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// handshake lets the credentials make the connection secure. The caller closes
// wire if it fails.
//
// It runs on a goroutine of its own, because it is code of the user's, which may
// not return. When ctx ends the socket is closed, which ends also handshakes that
// do not look at ctx.
func (cfg *Config) handshake(ctx context.Context, wire *h2.Wire, authority string) (net.Conn, credentials.AuthInfo, error) {
	type secured struct {
		nc   net.Conn
		info credentials.AuthInfo
	}
	s, err := bounded(ctx,
		func() (secured, error) {
			nc, info, err := cfg.Creds.ClientHandshake(ctx, authority, wire)
			if err == nil && nc == nil {
				err = errors.New("the credentials' handshake returned neither a connection nor an error")
			}
			return secured{nc, info}, err
		},
		func() { _ = wire.Close() },
		func(s secured) { _ = s.nc.Close() })
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
