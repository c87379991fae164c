package xds

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/resolver"
)

// notingConn notes what a resolver says to it.
type notingConn struct {
	resolver.ClientConn
	said []string
}

func (c *notingConn) UpdateState(s resolver.State) error {
	if len(s.Addresses) == 0 {
		c.said = append(c.said, "nothing")
	} else {
		c.said = append(c.said, s.Addresses[0].Addr)
	}
	return nil
}

func (c *notingConn) ReportError(err error) { c.said = append(c.said, "error: "+err.Error()) }

// bothConn takes an update and an error in one, as grpcdial's channels do.
type bothConn struct{ *notingConn }

func (c bothConn) UpdateStateWithError(_ resolver.State, err error) error {
	c.said = append(c.said, "nothing, error: "+err.Error())
	return nil
}

// TestEmptyUpdates: one waits for its reason, a second at most, and is forgotten when
// another one comes. Other channels than grpcdial's get what the resolver says as it comes.
func TestEmptyUpdates(t *testing.T) {
	var empty resolver.State
	full, why := resolver.State{Addresses: []resolver.Address{{Addr: "a"}}}, errors.New("why")
	for name, tt := range map[string]struct {
		do           func(resolver.ClientConn)
		ours, theirs []string
	}{
		"reason": {func(cc resolver.ClientConn) {
			cc.UpdateState(empty)
			cc.ReportError(why)
			cc.ReportError(why)
		}, []string{"nothing, error: why", "error: why"}, []string{"nothing", "error: why", "error: why"}},
		"no reason": {func(cc resolver.ClientConn) { cc.UpdateState(empty) }, []string{"nothing"}, []string{"nothing"}},
		"another": {func(cc resolver.ClientConn) {
			cc.UpdateState(empty)
			cc.UpdateState(full)
			cc.ReportError(why)
		}, []string{"a", "error: why"}, []string{"nothing", "a", "error: why"}},
		"twice": {func(cc resolver.ClientConn) {
			cc.UpdateState(empty)
			time.Sleep(reasonWait / 2)
			cc.UpdateState(empty)
			time.Sleep(reasonWait * 2 / 3) // the first one's wait would be over
			cc.ReportError(why)
		}, []string{"nothing, error: why"}, []string{"nothing", "nothing", "error: why"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := new(notingConn), new(notingConn)
				tt.do(newTranslatingConn(bothConn{ours}))
				tt.do(newTranslatingConn(theirs))
				time.Sleep(2 * reasonWait)
				synctest.Wait()
				assert.Equal(t, tt.ours, ours.said)
				assert.Equal(t, tt.theirs, theirs.said)
			})
		})
	}
	assert.ErrorIs(t, newTranslatingConn(bothConn{new(notingConn)}).UpdateState(empty), balancer.ErrBadResolverState)
}
