package channelzdata_test

import (
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

// runningOnly is the least that a channel needs, to go idle: how many RPCs run.
type runningOnly struct{ n atomic.Int64 }

func (r *runningOnly) Start(time.Duration) { r.n.Add(1) }
func (r *runningOnly) End(bool)            { r.n.Add(-1) }

// BenchmarkCount is what an RPC pays to be counted: in channelz's data, and for
// comparison if it only counts as running.
func BenchmarkCount(b *testing.B) {
	for name, n := range map[string]interface {
		Start(time.Duration)
		End(bool)
	}{"channelzdata": new(channelzdata.CallCount), "running": new(runningOnly)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				n.Start(time.Duration(i) * 10 * time.Microsecond)
				n.End(true)
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					n.Start(time.Duration(i) * 10 * time.Microsecond)
					n.End(true)
				}
			})
		})
	}
}

// BenchmarkEvent is one change of state.
func BenchmarkEvent(b *testing.B) {
	c := openChannel(b, "a")
	s := c.NewSubchannel(addresses("b"))
	cause := errors.New("connection refused")
	b.Run("state", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			s.State(connectivity.Ready, nil)
		}
	})
	b.Run("failure", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			s.State(connectivity.TransientFailure, cause)
		}
	})
	b.Run("state/parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				s.State(connectivity.Ready, nil)
			}
		})
	})
}

// entries is the data of a channel that connects to one address.
type entries struct {
	c *channelzdata.Channel
	s *channelzdata.Subchannel
	k *channelzdata.Socket
}

var oneAddress = addresses("127.0.0.1:443")

func connect(p *peer.Peer) entries {
	c := channelzdata.Open("dns:///example:443", nil, nil)
	c.State(connectivity.Connecting, nil)
	c.Resolved(resolver.State{Addresses: oneAddress})
	c.Policy("pick_first")
	s := c.NewSubchannel(oneAddress)
	s.State(connectivity.Connecting, nil)
	k := s.NewSocket(p, "", nil)
	s.State(connectivity.Ready, nil)
	c.State(connectivity.Ready, nil)
	return entries{c, s, k}
}

// BenchmarkChannel is all that a channel writes from its start over READY to
// its end.
func BenchmarkChannel(b *testing.B) {
	p := &peer.Peer{Addr: tcp(443), LocalAddr: tcp(5555)}
	b.ReportAllocs()
	for range b.N {
		l := connect(p)
		l.k.Close(nil)
		l.s.Close()
		l.c.Close()
	}
}

// BenchmarkMemory measures how many bytes of heap stay with a channel: one that
// was never used, one that is READY on one connection, and one whose
// traces have filled with short texts.
func BenchmarkMemory(b *testing.B) {
	p := &peer.Peer{Addr: tcp(443), LocalAddr: tcp(5555)}
	for name, make := range map[string]func() entries{
		"new":   func() entries { return entries{c: channelzdata.Open("dns:///example:443", nil, nil)} },
		"ready": func() entries { return connect(p) },
		"full": func() entries {
			l := connect(p)
			for range 32 {
				l.c.State(connectivity.Ready, nil)
				l.s.State(connectivity.Ready, nil)
			}
			return l
		},
	} {
		b.Run(name, func(b *testing.B) {
			const n = 5000
			for range b.N {
				kept := [n]entries{}
				before := heap()
				for i := range kept {
					kept[i] = make()
				}
				b.ReportMetric(float64(heap()-before)/n, "B/channel")
				for i := range kept {
					kept[i].c.Close()
				}
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkTopChannels is one page of the first fifty of many channels.
func BenchmarkTopChannels(b *testing.B) {
	for range 10000 {
		openChannel(b, "a")
	}
	b.ReportAllocs()
	for b.Loop() {
		channelzdata.TopChannels(0, 50, nil)
	}
}
