package main

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
)

// traced are credentials whose handshakes are on a timeline.
type traced struct {
	credentials.TransportCredentials
	tl *timeline
}

func (c traced) Clone() credentials.TransportCredentials {
	return traced{c.TransportCredentials.Clone(), c.tl}
}

func (c traced) ClientHandshake(ctx context.Context, authority string, nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	s := step{phase: grpcdial.PhaseTLS, addr: nc.RemoteAddr().String(), serverName: authority, start: time.Now()}
	secured, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, nc)
	if c.Info().SecurityProtocol != "insecure" {
		s.end, s.err = time.Now(), err
		s.tls = connectionState(info)
		c.tl.begin(s)
	}
	return secured, info, err
}

// connectionState returns what crypto/tls says of a connection; nil if it did not
// make it.
func connectionState(info credentials.AuthInfo) *tls.ConnectionState {
	if t, ok := info.(credentials.TLSInfo); ok {
		return &t.State
	}
	return nil
}

// addFailures puts the attempts that failed on the timeline, if they are not there.
func (t *timeline) addFailures(err error) {
	for _, a := range attempts(err) {
		t.finish(step{phase: a.Phase, addr: a.Addr, proxy: a.Proxy, start: a.Start, end: a.Start.Add(a.Elapsed), err: a.Err})
	}
}
