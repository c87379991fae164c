package e2e_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A server that accepts connections and ends them before it serves anything is not
// stormed, however it ends them, by RPCs that are made all the time.
func TestConnectionsToServersThatServeNothing(t *testing.T) {
	after := func(comes func(http2.Frame) bool, end func(*http2.Framer)) func(*http2.Framer) {
		return func(fr *http2.Framer) {
			for {
				f, err := fr.ReadFrame()
				if err != nil {
					return
				}
				if comes(f) {
					end(fr)
					return
				}
			}
		}
	}
	settings := func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && s.IsAck() }
	request := func(f http2.Frame) bool { _, ok := f.(*http2.HeadersFrame); return ok }
	goAway := func(last uint32) func(*http2.Framer) {
		return func(fr *http2.Framer) { _ = fr.WriteGoAway(last, http2.ErrCodeNo, nil) }
	}
	nothing := func(*http2.Framer) {}
	for name, end := range map[string]func(*http2.Framer){
		"without having read":                 nil,
		"end of file":                         after(settings, nothing),
		"GOAWAY":                              after(settings, goAway(0)),
		"end of file when a request has come": after(request, nothing),
		"GOAWAY when a request has come":      after(request, goAway(0)),
		"a promise, broken":                   after(request, goAway(1<<31-1)),
		"a promise at once, and broken":       after(settings, goAway(1<<31-1)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, config := range []string{"{}", backendtest.RoundRobin} {
				lis, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				defer lis.Close()
				var accepted atomic.Int32
				begun := time.Now()
				go func() {
					for {
						c, err := lis.Accept()
						if err != nil {
							return
						}
						accepted.Add(1)
						go func() {
							defer c.Close()
							if end == nil {
								_ = http2.NewFramer(c, nil).WriteSettings()
								return
							}
							end(h2test.Greet(c))
						}()
					}
				}()
				cc := newClient(t, lis.Addr().String(), grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(config))
				var callers sync.WaitGroup
				for range 4 {
					callers.Go(func() {
						for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); {
							_ = ask(cc, 100*time.Millisecond)
						}
					})
				}
				callers.Wait()
				require.NoError(t, cc.Close())
				// Three at once, then one each 60 ms.
				assert.LessOrEqual(t, accepted.Load(), 3+int32(time.Since(begun)/(60*time.Millisecond)))
			}
		})
	}
}
