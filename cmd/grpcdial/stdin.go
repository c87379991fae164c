package main

import (
	"context"
	"fmt"
	"io"
)

// stoppable reads until ctx ends, which package os has no way to do for a terminal or a
// pipe: what is read when that happens is left to itself, as the process ends soon. It is
// for one goroutine.
type stoppable struct {
	ctx  context.Context
	from io.Reader
	got  chan gotten // with room for one; the goroutine that reads sends it

	reading bool   // that goroutine runs
	rest    gotten // what has come and was not taken
}

type gotten struct {
	bytes []byte
	err   error
}

// stoppedError is why something was not read to its end.
type stoppedError struct{ cause error }

func (e *stoppedError) Error() string {
	return fmt.Sprintf("standard input had not ended: %v", e.cause)
}
func (e *stoppedError) Unwrap() error { return e.cause }

func (s *stoppable) Read(p []byte) (int, error) {
	if len(s.rest.bytes) == 0 && s.rest.err == nil {
		if !s.reading {
			s.reading = true
			go func() {
				b := make([]byte, 32<<10)
				n, err := s.from.Read(b)
				s.got <- gotten{b[:n], err}
			}()
		}
		select {
		case s.rest = <-s.got:
			s.reading = false
		case <-s.ctx.Done():
			return 0, &stoppedError{context.Cause(s.ctx)}
		}
	}
	n := copy(p, s.rest.bytes)
	if s.rest.bytes = s.rest.bytes[n:]; len(s.rest.bytes) > 0 {
		return n, nil
	}
	return n, s.rest.err
}
