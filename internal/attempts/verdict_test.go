package attempts

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/failure"
)

var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

// When FailOnNonTempDialError and WithGiveUp end a wait, by what is known of the
// addresses.
func TestVerdict(t *testing.T) {
	const connected = "connected"
	kinds := map[string]*failure.Attempt{
		"refused": {Phase: failure.Dial, Err: errRefused},
		"bad":     {Phase: failure.TLS, Err: errors.New("bad"), Permanent: true},
		"maybe":   {Phase: failure.Dial, Err: errors.New("maybe")},
		"reset":   {Phase: failure.Dial, Err: &net.OpError{Err: syscall.ECONNRESET}},
		"windows": {Phase: failure.Dial, Err: &net.OpError{Err: syscall.Errno(10054)}}, // the same there
		"tls":     {Phase: failure.TLS, Err: errRefused},
		"no name": {Phase: failure.Resolve, Err: &net.DNSError{IsNotFound: true}},
		"no port": {Phase: failure.Resolve, Err: &net.AddrError{}, Permanent: true},
	}
	isReset := func(a *failure.Attempt) bool { return errors.Is(a.Err, syscall.ECONNRESET) }
	isUnresolved := func(a *failure.Attempt) bool { return a.Phase == failure.Resolve }
	for _, tt := range []struct {
		name    string
		resolve string
		tried   []string
		giveUp  func(*failure.Attempt) bool // nil: FailOnNonTempDialError alone
		want    string
	}{
		{name: "nothing known"},
		{name: "refused", tried: []string{"refused"}, want: "refused"},
		{name: "two for good", tried: []string{"refused", "bad"}, want: "bad"},
		{name: "one may succeed", tried: []string{"bad", "maybe"}},
		{name: "nobody says", tried: []string{"maybe"}},
		{name: "a reset in dialing", tried: []string{"reset"}},
		{name: "a reset in dialing on Windows", tried: []string{"windows"}},
		{name: "not temporary in TLS", tried: []string{"tls"}},
		{name: "one is connected", tried: []string{connected, "bad"}},
		{name: "given up", tried: []string{"reset"}, giveUp: isReset, want: "reset"},
		{name: "given up, or for good", tried: []string{"reset", "bad"}, giveUp: isReset, want: "bad"},
		{name: "given up, but for one", tried: []string{"reset", "maybe"}, giveUp: isReset},
		{name: "no such name", resolve: "no name"},
		{name: "no such name, given up", resolve: "no name", giveUp: isUnresolved, want: "no name"},
		{name: "a target that is none", resolve: "no port", want: "no port"},
		{name: "no such name any more", resolve: "no name", tried: []string{"maybe"}, giveUp: isUnresolved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log Log
			none := func() bool { return false }
			for _, kind := range tt.tried {
				if kind == connected {
					log.Failed(kind, failure.List{kinds["maybe"]})
					log.Connected(kind)
					continue
				}
				log.Failed(kind, failure.List{kinds[kind]})
			}
			log.Unresolved(kinds[tt.resolve])
			var want error
			if tt.want != "" {
				want = kinds[tt.want].Err
			}
			v := NewVerdict(&log, Ends{FailFast: true, GiveUp: tt.giveUp}, none)
			assert.Equal(t, want, v.Ended(connectivity.TransientFailure))
			assert.Equal(t, want, v.Ended(connectivity.TransientFailure))
			assert.NoError(t, v.Ended(connectivity.Connecting), "not every address has been tried")
		})
	}
}

// Of very many addresses none is forgotten: one of the first may still succeed.
func TestVerdictWithManyAddresses(t *testing.T) {
	for name, hopeful := range map[string]int{"the first may succeed": 0, "the last may succeed": 999, "none may": -1} {
		t.Run(name, func(t *testing.T) {
			var log Log
			none := func() bool { return false }
			for i := range 1000 {
				err := error(errRefused)
				if i == hopeful {
					err = errors.New("maybe")
				}
				addr := fmt.Sprint("a", i)
				log.Failed(addr, failure.List{{Addr: addr, Phase: failure.Dial, Err: err}})
			}
			v := NewVerdict(&log, Ends{FailFast: true}, none)
			if hopeful < 0 {
				assert.Equal(t, error(errRefused), v.Ended(connectivity.TransientFailure))
			} else {
				assert.NoError(t, v.Ended(connectivity.TransientFailure))
			}
		})
	}
}
