package h2test_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"golang.org/x/net/nettest"
)

// TestPipeIsAConn runs the tests that every net.Conn must pass.
func TestPipeIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		client, conn := h2test.Pipe(t, h2test.PipeBuffer(512))
		return client, conn.NetConn(), func() { client.Close(); conn.Close() }, nil
	})
}

func TestPipeWriteBlocksWhenThePeerDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := h2test.Pipe(t, h2test.PipeBuffer(10))
		var n int
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			n, err = client.Write(make([]byte, 25))
		}()
		synctest.Wait()
		equal(t, 10, conn.PipeBuffered())
		select {
		case <-done:
			t.Fatal("the write did not wait")
		default:
		}
		conn.SetPipeBuffer(20, 20)
		synctest.Wait()
		equal(t, 20, conn.PipeBuffered())
		_, rerr := io.ReadFull(conn.NetConn(), make([]byte, 5))
		noError(t, rerr)
		<-done
		noError(t, err)
		equal(t, 25, n)
		equal(t, 20, conn.PipeBuffered())
	})
}

func TestPipeDeadlinesAreOfTheBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := h2test.Pipe(t, h2test.PipeBuffer(10))
		start := time.Now()
		noError(t, client.SetDeadline(start.Add(time.Hour)))

		n, err := client.Write(make([]byte, 25))
		equal(t, 10, n)
		equal(t, true, errors.Is(err, os.ErrDeadlineExceeded))
		equal(t, time.Hour, time.Since(start))
		var timeout net.Error
		equal(t, true, errors.As(err, &timeout) && timeout.Timeout())

		_, err = client.Read(make([]byte, 1))
		equal(t, true, errors.Is(err, os.ErrDeadlineExceeded))

		// A deadline moved while a read waits holds for that read; a removed one does not end it.
		result := make(chan error)
		read := func() {
			_, err := client.Read(make([]byte, 1))
			result <- err
		}
		noError(t, client.SetReadDeadline(time.Now().Add(time.Hour)))
		go read()
		synctest.Wait()
		start = time.Now()
		noError(t, client.SetReadDeadline(start.Add(time.Minute)))
		equal(t, true, errors.Is(<-result, os.ErrDeadlineExceeded))
		equal(t, time.Minute, time.Since(start))

		noError(t, client.SetReadDeadline(time.Now().Add(time.Hour)))
		go read()
		synctest.Wait()
		noError(t, client.SetReadDeadline(time.Time{}))
		time.Sleep(2 * time.Hour)
		_, err = conn.NetConn().Write([]byte("x"))
		noError(t, err)
		noError(t, <-result)
	})
}

func TestPipeClose(t *testing.T) {
	client, conn := h2test.Pipe(t)
	_, err := conn.NetConn().Write([]byte("last words"))
	noError(t, err)
	conn.Close()
	got, err := io.ReadAll(client)
	noError(t, err)
	equal(t, "last words", string(got))
	_, err = client.Write([]byte("x"))
	equal(t, true, errors.Is(err, syscall.EPIPE))
	noError(t, client.Close())
	_, err = client.Read(make([]byte, 1))
	equal(t, true, errors.Is(err, net.ErrClosed))
	_, err = client.Write([]byte("x"))
	equal(t, true, errors.Is(err, net.ErrClosed))
}

func TestPipeCloseWrite(t *testing.T) {
	client, conn := h2test.Pipe(t)
	conn.CloseWrite()
	_, err := client.Read(make([]byte, 1))
	equal(t, io.EOF, err)
	_, err = client.Write([]byte("x"))
	noError(t, err)
	equal(t, 1, conn.PipeBuffered())
}

func TestPipeReset(t *testing.T) {
	client, conn := h2test.Pipe(t)
	conn.RawBytes([]byte("lost"))
	conn.CloseHard()
	_, err := client.Read(make([]byte, 1))
	equal(t, true, errors.Is(err, syscall.ECONNRESET))
	_, err = client.Write([]byte("x"))
	equal(t, true, errors.Is(err, syscall.ECONNRESET))
}
