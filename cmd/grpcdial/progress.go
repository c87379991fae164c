package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/grpcdial/grpcdial/internal/text"
)

// What takes longer than progressAfter has a line on a terminal, which is drawn anew every
// progressEvery.
const (
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

// progress is a line on a terminal that says what is being waited for, and goes when that
// has come.
type progress struct {
	stop  chan struct{}
	ended sync.WaitGroup
	once  sync.Once
}

// progress begins a progress line on w, if that is a terminal and events are not written
// there. what says how far it is, and is called on another goroutine.
func (c *commandLine) progress(w io.Writer, what func() string) *progress {
	if f, ok := w.(*os.File); !ok || !isTerminal(f) || c.verbose {
		return nil
	}
	return drawProgress(w, what)
}

func drawProgress(w io.Writer, what func() string) *progress {
	p := &progress{stop: make(chan struct{})}
	begun := time.Now()
	p.ended.Go(func() {
		timer := time.NewTimer(progressAfter)
		defer timer.Stop()
		drawn := false
		for {
			select {
			case <-timer.C:
				const most = 100
				fmt.Fprintf(w, "\r\x1b[K%s", text.Cut(fmt.Sprintf("%v  %s", time.Since(begun).Truncate(time.Second), text.Line(what())), most))
				drawn = true
				timer.Reset(progressEvery)
			case <-p.stop:
				if drawn {
					fmt.Fprint(w, "\r\x1b[K")
				}
				return
			}
		}
	})
	return p
}

// end removes the line. Nothing is written to the terminal by the line after that. p may be
// nil, and end may be called again.
func (p *progress) end() {
	if p == nil {
		return
	}
	p.once.Do(func() { close(p.stop) })
	p.ended.Wait()
}
