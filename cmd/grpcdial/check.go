package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/text"
)

// check dials once and shows what happened.
func check(ctx context.Context, c *commandLine, s stdio) int {
	opts, err := c.dialOptions()
	if err != nil {
		return s.usage(err)
	}
	tl := &timeline{}
	opts = append(opts,
		grpcdial.WithGiveUp(func(grpcdial.Attempt) bool { return true }), // once round, then say why
		grpcdial.WithDialTrace(c.narrated(tl.trace(), s.err)))
	cc, err := grpcdial.NewClient(c.target, opts...)
	if err != nil {
		fmt.Fprintln(s.err, message(err))
		return exitUsage
	}
	limit := cmp.Or(c.timeout, defaultTimeout)
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("--timeout is %v", limit))
	defer stop()

	waiting := c.progress(s.err, tl.now)
	r := dial(ctx, cc, c, tl)
	_ = cc.Close()
	waiting.end()
	if c.json {
		err = writeJSON(s.out, reportJSON(c, r))
	} else {
		err = drawReport(s.out, painter(s.out), r)
		if r.err != nil {
			explain(s.err, painter(s.err), c, r.err)
		}
	}
	if err := cmp.Or(err, r.err); err != nil {
		return exitFailed
	}
	return exitOK
}

// dial waits for READY and asks for the server's health.
func dial(ctx context.Context, cc *grpcdial.ClientConn, c *commandLine, tl *timeline) *report {
	r := &report{target: text.Target(cc.CanonicalTarget()), begin: time.Now()}
	r.err = cc.AwaitReady(ctx)
	r.end = time.Now()
	if r.err == nil {
		r.ready = r.end
		h := checkHealth(ctx, cc, c.service)
		h.addr = tl.server()
		if h.offered || c.hasService {
			tl.begin(h.step)
			r.end = h.end
		}
		if c.hasService {
			r.err = h.failure(c.service)
		}
	}
	r.state, r.steps = cc.GetState(), tl.all()
	return r
}

// explain writes why a check failed, and which flags may help.
func explain(w io.Writer, p paint, c *commandLine, err error) {
	fmt.Fprintf(w, "\n%s\n", p.red(message(err)))
	for _, a := range advice(c, err) {
		fmt.Fprintf(w, "%s %s\n", p.bold("try"), a)
	}
}

// attempts returns the attempts that err has.
func attempts(err error) []grpcdial.Attempt {
	var e *grpcdial.DialError
	if errors.As(err, &e) {
		return e.Attempts
	}
	return nil
}
