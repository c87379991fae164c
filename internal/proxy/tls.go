package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
)

// secure does TLS with an https proxy. The proxy must have a certificate for the
// host of its URL. The caller closes nc if it fails.
func (a attempt) secure(ctx context.Context, nc net.Conn) (net.Conn, error) {
	cfg := &tls.Config{}
	if a.opts.TLS != nil {
		cfg = a.opts.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = strings.Cut(a.proxy.host, "%") // a zone is no part of the name (RFC 6874 §4)
	}
	cfg.NextProtos = []string{"http/1.1"}
	secured := tls.Client(nc, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return &tlsTunnel{secured, nc}, nil
}

// tlsTunnel is a connection over TLS with a proxy.
type tlsTunnel struct {
	net.Conn // a *tls.Conn, none of whose other methods matter
	raw      net.Conn
}

// Close closes the connection without TLS's farewell, for which crypto/tls would
// wait up to five seconds if the proxy does not read. The protocol inside knows
// how it ended.
func (t *tlsTunnel) Close() error { return t.raw.Close() }
