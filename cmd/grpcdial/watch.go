package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/text"
)

// clock is how the time of an event is written.
const clock = "15:04:05.000"

// watch prints the channel's state changes until ctx ends, or --timeout has passed.
// A channel that went IDLE because its connection was lost is made to connect again.
func watch(ctx context.Context, c *commandLine, s stdio) int {
	opts, err := c.dialOptions()
	if err != nil {
		return s.usage(err)
	}
	opts = append(opts, grpcdial.WithDialTrace(c.narrated(&grpcdial.DialTrace{}, s.err)))
	if c.hasService {
		opts = append(opts, grpcdial.WithDisableServiceConfig(), grpcdial.WithDefaultServiceConfig(healthChecked(c.service)))
	}
	cc, err := grpcdial.NewClient(c.target, opts...)
	if err != nil {
		fmt.Fprintln(s.err, message(err))
		return exitUsage
	}
	defer func() { _ = cc.Close() }()
	if c.timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, c.timeout)
		defer stop()
	}

	p := painter(s.out)
	if !c.json {
		fmt.Fprintln(s.out, p.bold(text.Target(cc.CanonicalTarget())))
	}
	since := time.Now()
	for change := range cc.Watch(ctx) {
		if change.Time.IsZero() {
			change.Time = since // the first element of a channel that was IDLE from the beginning
		}
		if c.json {
			err = writeLine(s.out, changeJSON(change))
		} else {
			_, err = io.WriteString(s.out, changeText(p, change, change.Time.Sub(since)))
		}
		if err != nil {
			return exitFailed
		}
		since = change.Time
		if change.To == connectivity.Idle {
			cc.Connect()
		}
	}
	return exitOK
}

// changeText is one change as a line, and its cause: on the same line, or on lines of
// its own if there are several attempts. held is how long the state before it lasted.
func changeText(p paint, c grpcdial.StateChange, held time.Duration) string {
	line := c.Time.Format(clock) + "  "
	if c.From == c.To {
		line += p.state(c.To)
	} else {
		line += fmt.Sprintf("%s -> %s after %s", p.state(c.From), p.state(c.To), text.Round(held))
	}
	tried := attempts(c.Cause)
	switch {
	case len(tried) == 1:
		line += ": " + tried[0].String()
	case len(tried) > 1:
		_, lines, _ := strings.Cut(c.Cause.Error(), "\n") // one for each, and how many more there are
		for l := range strings.SplitSeq(lines, "\n") {
			line += "\n" + strings.Repeat(" ", len(clock)+2) + text.Line(l)
		}
	case c.Cause != nil:
		line += ": " + text.Of(c.Cause)
	}
	return line + "\n"
}
