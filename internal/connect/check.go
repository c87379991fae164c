package connect

import (
	"context"

	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/proxy"
)

// Check judges a connection on which the SETTINGS exchange is done.
type Check func(context.Context, Checked) error

// Checked is a connection that is being checked. It is read from, so that RPCs run on it.
type Checked struct {
	Conn      *h2.Conn
	Addr      resolver.Address // as Connect got it
	Shown     string           // what was dialed, as Attempt.Addr has it
	Authority string           // the name that the credentials checked
}

// check runs the check of a connection to e, which stands for addr, and closes the connection
// if that fails. The server gets a GOAWAY then.
//
// The check runs on a goroutine of its own, because it is code of the user's, which may
// not return. When ctx ends the connection is closed, which ends also RPCs that do not
// have ctx.
func (cfg *Config) check(ctx context.Context, conn *h2.Conn, addr resolver.Address, e endpoint, authority string) error {
	step := Step{Phase: failure.Check, Addr: e.shown, ServerName: authority, Proxy: proxy.Redact(e.proxy)}
	cfg.begin(&step)
	conn.ServeEarly()
	_, err := bounded(ctx,
		func() (struct{}, error) {
			return struct{}{}, cfg.Check(ctx, Checked{Conn: conn, Addr: addr, Shown: e.shown, Authority: authority})
		},
		func() { conn.Close(errUnchecked, nil) },
		func(struct{}) {})
	if err != nil {
		conn.Close(errUnchecked, nil)
		_ = conn.Serve(func(error) {})
		err = e.masked(err)
	}
	cfg.end(&step, err)
	return err
}
