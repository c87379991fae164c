package h2_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A silent server is asked after KeepaliveTime, and given up KeepaliveTimeout
// later (gRFC A8).
func TestKeepaliveUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 3 * time.Second})
		server.SetBound(time.Minute)
		began := time.Now()
		res := c.call(context.Background(), "/test/Hang", "x")
		server.ExpectUnary()
		server.ExpectPing()
		require.Equal(t, 10*time.Second, time.Since(began))
		r := <-res
		require.Equal(t, 13*time.Second, time.Since(began))
		require.Equal(t, codes.Unavailable, r.err.Status.Code())
		require.ErrorIs(t, r.err, h2.ErrKeepalive)
		require.False(t, r.err.Unsent || r.err.Unprocessed)
		require.Equal(t, h2.ErrKeepalive, <-c.served)
		server.ExpectGoAway(http2.ErrCodeNo)
		require.Empty(t, server.ExpectClosed())
	})
}

// Any frame of the server shows that it lives: an answer, or something else.
func TestKeepaliveAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 3 * time.Second})
		server.SetBound(time.Minute)
		res := c.call(context.Background(), "/test/Hang", "x")
		server.ExpectUnary()
		heard := time.Now()
		for i := range 5 {
			f := server.ExpectPing()
			require.Equal(t, 10*time.Second, time.Since(heard), i)
			time.Sleep(2900 * time.Millisecond)
			heard = time.Now()
			if i%2 == 0 {
				server.PingAck(f.Data)
			} else {
				server.WindowUpdate(1, 1)
			}
		}
		// Steady traffic needs no PING.
		for range 20 {
			server.ExpectSilence(9 * time.Second)
			server.WindowUpdate(0, 1)
		}
		server.ReplyUnary(1, nil)
		require.Nil(t, (<-res).failure())
	})
}

// A process that was stopped while a PING was out (SIGSTOP, a paused container) reads the answer
// before it gives the connection up. One that does not come is still missed.
func TestKeepaliveOfAStoppedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 3 * time.Second})
		server.SetBound(time.Minute)
		res := c.call(context.Background(), "/test/Hang", "x")
		server.ExpectUnary()
		f := server.ExpectPing()
		c.StandStill(time.Minute)
		server.PingAck(f.Data)
		server.ExpectPing()
		sent := time.Now()
		c.StandStill(time.Minute)
		c.StandStill(time.Minute) // no more than once for a PING
		require.Equal(t, h2.ErrKeepalive, <-c.served)
		require.Zero(t, time.Since(sent))
		require.Equal(t, codes.Unavailable, (<-res).err.Status.Code())
	})
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 3 * time.Second})
		server.SetBound(time.Minute)
		res := c.call(context.Background(), "/test/Hang", "x")
		server.ExpectUnary()
		server.ExpectPing()
		sent := time.Now()
		c.StandStill(time.Minute)
		require.Equal(t, h2.ErrKeepalive, <-c.served)
		require.Equal(t, 3*time.Second, time.Since(sent))
		require.Equal(t, codes.Unavailable, (<-res).err.Status.Code())
	})
}

// PINGs come KeepaliveTime after each other, however long an answer may take.
func TestKeepaliveTimeoutAboveTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 25 * time.Second})
		server.SetBound(time.Minute)
		c.call(context.Background(), "/test/Hang", "x")
		server.ExpectUnary()
		began := time.Now()
		for i := range 3 {
			f := server.ExpectPing()
			require.Equal(t, time.Duration(i+1)*10*time.Second, time.Since(began))
			server.PingAck(f.Data)
		}
		// An answer that takes longer than that: one PING is out at a time.
		f := server.ExpectPing()
		require.Equal(t, 40*time.Second, time.Since(began))
		server.ExpectSilence(24 * time.Second)
		server.PingAck(f.Data)
		server.ExpectPing()
		require.Equal(t, 74*time.Second, time.Since(began))
		// None at all.
		require.Equal(t, h2.ErrKeepalive, <-c.served)
		require.Equal(t, 99*time.Second, time.Since(began))
	})
}

// Without streams there are no PINGs, and the first stream after a long
// silence is the occasion for one.
func TestKeepaliveDormancy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 3 * time.Second})
		server.SetBound(time.Minute)
		server.ExpectSilence(time.Hour)
		for i := range 3 {
			began := time.Now()
			res := c.call(context.Background(), "/test/Hang", "x")
			server.Skip(h2test.WindowUpdates, h2test.HeadersFrames, h2test.DataFrames)
			server.PingAck(server.ExpectPing().Data)
			require.Zero(t, time.Since(began))
			server.PingAck(server.ExpectPing().Data)
			require.Equal(t, 10*time.Second, time.Since(began))
			server.ReplyUnary(uint32(2*i+1), nil)
			require.Nil(t, (<-res).failure())
			server.ExpectSilence(time.Hour)
		}
		// A stream that is opened before that is none.
		server.Ping([8]byte{})
		server.Skip(h2test.WindowUpdates)
		server.ExpectPingAck([8]byte{})
		alive(t, c, server)
		server.ExpectSilence(time.Hour)
	})
}

// PermitWithoutStream asks also while the connection has nothing to do.
func TestKeepaliveWithoutStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 3 * time.Second, PermitWithoutStream: true})
		server.SetBound(time.Minute)
		for range 3 {
			server.PingAck(server.ExpectPing().Data)
		}
		server.ExpectPing()
		require.Equal(t, h2.ErrKeepalive, <-c.served)
	})
}

// A server that does not read is noticed as well.
func TestKeepaliveBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 3 * time.Second},
			h2test.InitialWindowSize(1<<20))
		server.WindowUpdate(0, 1<<20)
		alive(t, c, server)
		server.SetPipeBuffer(100, 100)
		began := time.Now()
		res := c.call(context.Background(), "/test/Big", string(make([]byte, 200000)))
		r := <-res
		require.Equal(t, 13*time.Second, time.Since(began))
		require.ErrorIs(t, r.err, h2.ErrKeepalive)
		require.True(t, r.err.Unsent)
		require.Equal(t, h2.ErrKeepalive, <-c.served)
	})
}

// Keepalive that is off leaves a silent connection alone.
func TestKeepaliveOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, d := range []time.Duration{0, 1<<63 - 1} {
			c, server := peered(t, h2.Config{KeepaliveTime: d, PermitWithoutStream: true})
			res := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			server.ExpectSilence(1000 * time.Hour)
			server.ReplyUnary(1, nil)
			require.Nil(t, (<-res).failure())
			c.Close(nil, nil)
			<-c.served
		}
	})
}

// A draining connection with a silent server is not waited for for ever.
func TestKeepaliveWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{KeepaliveTime: 10 * time.Second, KeepaliveTimeout: 3 * time.Second})
		server.SetBound(time.Minute)
		res := c.call(context.Background(), "/test/Hang", "x")
		server.ExpectUnary()
		c.Drain(nil)
		server.ExpectPing()
		require.ErrorIs(t, (<-res).err, h2.ErrKeepalive)
		require.Equal(t, h2.ErrKeepalive, <-c.served)
	})
}
