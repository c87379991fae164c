package channelzdata_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

// TestReadersAmongWriters: records read while channels live are whole, a
// subchannel's figures never go back, and nothing is left in the end.
func TestReadersAmongWriters(t *testing.T) {
	const channels, rounds = 4, 40
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			started := map[int64]int64{}
			for {
				select {
				case <-stop:
					return
				default:
				}
				page, _ := channelzdata.TopChannels(0, 100, nil)
				for _, r := range page {
					assert.NotEmpty(t, r.Events)
					for _, ref := range append(r.Nested, r.Ref) {
						readChannel(t, ref.ID, started)
					}
				}
			}
		})
	}
	for range channels {
		writers.Go(func() {
			parent := channelzdata.Open("parent", nil, nil)
			defer parent.Close()
			for range rounds {
				live(parent)
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	n, children := channelzdata.Entries()
	assert.Zero(t, n)
	assert.Zero(t, children)
}

func readChannel(t *testing.T, id int64, started map[int64]int64) {
	r, _ := channelzdata.FindChannel(id) // it may have closed meanwhile
	for _, ref := range r.Subchannels {
		sr, ok := channelzdata.FindSubchannel(ref.ID)
		if !ok {
			continue
		}
		assert.GreaterOrEqual(t, sr.Calls.Started, started[ref.ID])
		started[ref.ID] = sr.Calls.Started
		for _, k := range sr.Sockets {
			if s, ok := channelzdata.FindSocket(k.ID); ok {
				assert.EqualValues(t, 5, s.Counts.StreamsStarted)
			}
		}
	}
}

// live is the life of a nested channel.
func live(parent *channelzdata.Channel) {
	c := channelzdata.Open("child", parent.Identifier(), nil)
	defer c.Close()
	c.Resolved(resolver.State{Addresses: addresses("a", "b")})
	var subs sync.WaitGroup
	for range 3 {
		s := c.NewSubchannel(addresses("a"))
		subs.Go(func() {
			for range 3 {
				s.State(connectivity.Connecting, nil)
				k := s.NewSocket(&peer.Peer{Addr: tcp(1), LocalAddr: tcp(2)}, "", &socketCounts{StreamsStarted: 5})
				c.State(connectivity.Ready, nil)
				s.State(connectivity.Ready, nil)
				s.State(connectivity.Idle, errors.New("lost"))
				k.Close(errors.New("lost"))
			}
			s.Close()
		})
	}
	subs.Wait()
}
