package channelz

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"strconv"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/text"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

// securityPolicy allows the page's own style and script, by their hashes, the request by
// which it renews itself, and nothing else (CSP Level 3).
var securityPolicy = fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	hash(pageCSS), hash(pageJS))

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"css":   func() template.CSS { return template.CSS(pageCSS) },
	"js":    func() template.JS { return template.JS(pageJS) },
	"ms":    func(ms float64) string { return text.Round(time.Duration(ms * float64(time.Millisecond))).String() },
	"rate":  rateText,
	"count": countText,
	"clock": func(t time.Time) string { return t.Format("15:04:05.000") },
	"date":  func(t time.Time) string { return t.Format(time.RFC3339) },
	"label": func(phase string) string { return phaseLabel(phase) },
	"pretty": func(config json.RawMessage) string {
		var b bytes.Buffer
		if json.Indent(&b, config, "", "  ") != nil {
			return string(config)
		}
		return b.String()
	},
}).Parse(pageHTML))

// view is the picture with what the template asks of it.
type view struct{ picture }

// Ago is how long before the page t was.
func (v view) Ago(t time.Time) string { return span(v.Time.Sub(t)) }

// In is how long after the page t will be.
func (v view) In(t time.Time) string { return span(t.Sub(v.Time)) }

// span is d as it is read at a glance: two units at most.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return "0 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// stateCount is how many channels are in a state.
type stateCount struct {
	State string
	N     int
}

// States counts the channels of the page by their states.
func (v view) States() (all []stateCount) {
	for _, s := range []connectivity.State{connectivity.Ready, connectivity.Connecting, connectivity.TransientFailure, connectivity.Idle, connectivity.Shutdown} {
		n := 0
		for i := range v.Channels {
			if v.Channels[i].State == s.String() {
				n++
			}
		}
		if n > 0 {
			all = append(all, stateCount{s.String(), n})
		}
	}
	return all
}

// elementID names the element of endpoint n of a channel.
func elementID(channel int64, n int) string { return fmt.Sprintf("c%d-e%d", channel, n) }

// ID names the endpoint's element.
func (e endpointView) ElementID() string { return e.id }

// Recovered reports whether the endpoint's failures are over.
func (e endpointView) Recovered() bool { return e.State == connectivity.Ready.String() }

// bar is a part of a line to scale, in percent.
type bar struct{ X, Width string }

// barOf is the part of a whole from start on.
func barOf(start, length, whole float64) bar {
	if whole <= 0 {
		return bar{"0%", "100%"}
	}
	const least = 0.6 // percent: a bar that can be seen
	x := min(max(start/whole*100, 0), 100-least)
	w := min(max(length/whole*100, least), 100-x)
	return bar{percent(x), percent(w)}
}

func percent(f float64) string { return strconv.FormatFloat(f, 'f', 2, 64) + "%" }

// Bar is where s stands in the dial.
func (d *dialView) Bar(s stepView) bar { return barOf(s.StartMS, s.ElapsedMS, d.ElapsedMS) }

// period is a stay in one state, on the line of the latest transitions.
type period struct {
	bar
	State, Title string
}

// shownPast bounds the time that the line of transitions shows.
const shownPast = 10 * time.Minute

// Line is the line of a channel's latest transitions to scale, from its oldest one or ten
// minutes ago until now.
func (v view) Line(c channelView) (all []period) {
	begin := v.LineBegin(c)
	whole := v.Time.Sub(begin)
	add := func(state string, from, to time.Time) {
		if from.Before(begin) {
			from = begin
		}
		if to.Before(from) || whole <= 0 {
			return
		}
		b := barOf(float64(from.Sub(begin)), float64(to.Sub(from)), float64(whole))
		all = append(all, period{b, state, fmt.Sprintf("%s for %v", state, text.Round(to.Sub(from)))})
	}
	if len(c.Transitions) == 0 {
		add(c.State, begin, v.Time)
		return all
	}
	first := c.Transitions[0]
	if first.Time.After(begin) {
		add(first.From, begin, first.Time)
	}
	for i, t := range c.Transitions {
		end := v.Time
		if i+1 < len(c.Transitions) {
			end = c.Transitions[i+1].Time
		}
		add(t.To, t.Time, end)
	}
	return all
}

// LineBegin is where the line begins.
func (v view) LineBegin(c channelView) time.Time {
	begin := v.Time.Add(-shownPast)
	known := c.Created
	if c.Earlier > 0 && len(c.Transitions) > 0 {
		known = c.Transitions[0].Time
	}
	return later(begin, known)
}

// Latest are the transitions, the latest first.
func (v view) Latest(c channelView) []transitionView {
	all := make([]transitionView, 0, len(c.Transitions))
	for i := len(c.Transitions) - 1; i >= 0; i-- {
		all = append(all, c.Transitions[i])
	}
	return all
}

// phaseLabel is a phase's name as `grpcdial check` draws it.
func phaseLabel(phase string) string {
	switch phase {
	case "dial":
		return "connect"
	case "tls":
		return "TLS"
	case "http2":
		return "SETTINGS"
	}
	return phase
}

func rateText(f float64) string {
	switch {
	case f == 0:
		return "0"
	case f < 10:
		return strconv.FormatFloat(f, 'f', 1, 64)
	default:
		return countText(int64(f + 0.5))
	}
}

// countText is n with its thousands set apart.
func countText(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}
