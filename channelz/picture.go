package channelz

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/live"
)

// The JSON form of the page, which the HTML is made of too. Names that end in _ms are
// milliseconds. docs/page.md describes the fields.

type picture struct {
	Time     time.Time     `json:"time"`
	Channels []channelView `json:"channels"`
	More     int           `json:"more,omitempty"`
	Next     int64         `json:"next,omitempty"`
}

type channelView struct {
	ID            int64            `json:"id"`
	Target        string           `json:"target"`
	State         string           `json:"state"`
	Since         time.Time        `json:"since"`
	Created       time.Time        `json:"created"`
	Cause         string           `json:"cause,omitempty"`
	Failures      []failureView    `json:"failures,omitempty"`
	ResolverError string           `json:"resolver_error,omitempty"`
	Policy        string           `json:"policy,omitempty"`
	ServiceConfig json.RawMessage  `json:"service_config,omitempty"`
	ConfigFrom    string           `json:"service_config_from,omitempty"`
	Calls         callsView        `json:"calls"`
	Streams       int              `json:"streams"`
	Endpoints     []endpointView   `json:"endpoints"`
	MoreEndpoints int              `json:"more_endpoints,omitempty"`
	Transitions   []transitionView `json:"transitions"`
	Earlier       int64            `json:"earlier_transitions,omitempty"`
	Nested        []int64          `json:"nested,omitempty"`
}

type callsView struct {
	Started     int64      `json:"started"`
	Succeeded   int64      `json:"succeeded"`
	Failed      int64      `json:"failed"`
	Running     int64      `json:"running"`
	LastStarted *time.Time `json:"last_started,omitempty"`
	PerSecond   float64    `json:"per_second"`
	FailedRate  float64    `json:"failed_per_second"`
	OverMS      float64    `json:"rate_over_ms"`
}

type endpointView struct {
	Addr        string        `json:"addr"`
	ServerName  string        `json:"server_name,omitempty"`
	State       string        `json:"state"`
	Since       *time.Time    `json:"since,omitempty"`
	Cause       string        `json:"cause,omitempty"`
	NextAttempt *time.Time    `json:"next_attempt,omitempty"`
	Draining    bool          `json:"draining,omitempty"`
	Streams     int           `json:"streams"`
	Calls       *callsView    `json:"calls,omitempty"`
	Failures    []failureView `json:"failures,omitempty"`
	Dial        *dialView     `json:"dial,omitempty"`

	id string // in the HTML
}

type failureView struct {
	Addr       string    `json:"addr"`
	ServerName string    `json:"server_name,omitempty"`
	Proxy      string    `json:"proxy,omitempty"`
	Phase      string    `json:"phase"`
	Time       time.Time `json:"time"`
	ElapsedMS  float64   `json:"elapsed_ms"`
	Error      string    `json:"error,omitempty"`
	Hint       string    `json:"hint,omitempty"`
	Permanent  bool      `json:"permanent,omitempty"`
}

type dialView struct {
	Attempt   uint64     `json:"attempt"`
	Start     time.Time  `json:"start"`
	ElapsedMS float64    `json:"elapsed_ms"`
	Outcome   string     `json:"outcome"`
	Steps     []stepView `json:"steps"`
	MoreSteps int        `json:"more_steps,omitempty"`
}

type stepView struct {
	Phase     string  `json:"phase"`
	Addr      string  `json:"addr,omitempty"`
	Proxy     string  `json:"proxy,omitempty"`
	StartMS   float64 `json:"start_ms"`
	ElapsedMS float64 `json:"elapsed_ms"`
	Finished  bool    `json:"finished"`
	Error     string  `json:"error,omitempty"`
	Detail    string  `json:"detail,omitempty"`
}

type transitionView struct {
	Seq   uint64    `json:"seq"`
	Time  time.Time `json:"time"`
	From  string    `json:"from"`
	To    string    `json:"to"`
	Cause string    `json:"cause,omitempty"`
}

// The outcomes of a dial.
const (
	dialReady   = "ready"
	dialFailed  = "failed"
	dialRunning = "in progress"
	dialGivenUp = "given up" // another address was faster, or it was not wanted any more
)

// look puts the page together, from the channel with this id on.
func (p *page) look(from int64) picture {
	open, more := channelzdata.OpenChannels(from, pageChannels+1)
	all := picture{Time: time.Now().UTC(), Channels: []channelView{}}
	if len(open) > pageChannels {
		all.Next, all.More = open[pageChannels].ID, more+1
		open = open[:pageChannels]
	}
	for _, c := range open {
		all.Channels = append(all.Channels, p.channel(c, all.Time))
	}
	p.rates.forget(all.Time)
	return all
}

func (p *page) channel(shown channelzdata.Shown, now time.Time) channelView {
	v := channelView{
		ID:          shown.ID,
		Target:      shown.Name,
		State:       shown.State.String(),
		Since:       shown.Created.UTC(),
		Created:     shown.Created.UTC(),
		Calls:       p.calls(shown.ID, shown.Created, now, shown.Calls),
		Endpoints:   []endpointView{},
		Transitions: []transitionView{},
	}
	for _, n := range shown.Nested {
		v.Nested = append(v.Nested, n.ID)
	}
	if shown.Source == nil {
		return v
	}
	c := shown.Source.Live()
	v.Target, v.State = c.Target, c.State.String()
	if !c.Since.IsZero() {
		v.Since = c.Since.UTC()
	}
	v.Cause, v.Failures, v.ResolverError = c.Cause, failureViews(c.Failures), c.ResolveErr
	v.Policy, v.ConfigFrom, v.ServiceConfig = c.Policy, c.ConfigFrom, configJSON(c.Config)
	for _, t := range c.Transitions {
		v.Transitions = append(v.Transitions, transitionView{t.Seq, t.Time.UTC(), t.From.String(), t.To.String(), t.Cause})
	}
	v.Earlier = c.Omitted
	for _, e := range c.Endpoints {
		v.Streams += e.Streams
	}
	if n := len(c.Endpoints) - pageEndpoints; n > 0 {
		// The page is for those that are in trouble.
		slices.SortStableFunc(c.Endpoints, func(a, b live.Endpoint) int { return cmp.Compare(trouble(a.State), trouble(b.State)) })
		v.MoreEndpoints, c.Endpoints = n, c.Endpoints[:pageEndpoints]
	}
	calls := p.endpointCalls(shown, now)
	for i, e := range c.Endpoints {
		v.Endpoints = append(v.Endpoints, endpoint(e, calls[e.Addr], shown.ID, i, now))
	}
	return v
}

// trouble orders states, the worst first.
func trouble(s connectivity.State) int {
	return slices.Index([]connectivity.State{connectivity.TransientFailure, connectivity.Connecting, connectivity.Ready, connectivity.Idle, connectivity.Shutdown}, s)
}

func (p *page) calls(id int64, created, now time.Time, n channelzdata.Calls) callsView {
	v := callsView{Started: n.Started, Succeeded: n.Succeeded, Failed: n.Failed, Running: max(0, n.Started-n.Succeeded-n.Failed)}
	if !n.LastStarted.IsZero() {
		last := n.LastStarted.UTC()
		v.LastStarted = &last
	}
	r := p.rates.since(id, created, now, n)
	v.PerSecond, v.FailedRate, v.OverMS = rounded(r.started), rounded(r.failed), milliseconds(r.over)
	return v
}

// rounded is a rate with a meaningful number of digits.
func rounded(f float64) float64 { return math.Round(f*100) / 100 }

// endpointCalls returns the RPCs of those subchannels that have one address, by that.
func (p *page) endpointCalls(c channelzdata.Shown, now time.Time) map[string]*callsView {
	all := make(map[string]*callsView)
	for i, ref := range c.Subchannels {
		if i == 4*pageEndpoints {
			break
		}
		s, ok := channelzdata.FindSubchannel(ref.ID)
		if !ok || s.State == connectivity.Shutdown {
			continue
		}
		calls := p.calls(s.ID, s.Created, now, s.Calls)
		all[s.Name] = &calls
	}
	return all
}

func endpoint(e live.Endpoint, calls *callsView, channel int64, n int, now time.Time) endpointView {
	v := endpointView{
		Addr:       e.Addr,
		ServerName: e.ServerName,
		State:      e.State.String(),
		Since:      when(e.Since),
		Cause:      e.Cause,
		Draining:   e.Draining,
		Streams:    e.Streams,
		Calls:      calls,
		Failures:   failureViews(e.Failures),
		id:         elementID(channel, n),
	}
	if e.NextAttempt.After(now) {
		v.NextAttempt = when(e.NextAttempt)
	}
	if e.Dial != nil {
		v.Dial = dial(e.Dial, e.State, now)
	}
	return v
}

// when is t for JSON; nil: it is not known.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func dial(d *live.Dial, state connectivity.State, now time.Time) *dialView {
	v := &dialView{Attempt: d.Attempt, Start: d.Start.UTC(), Steps: []stepView{}, MoreSteps: d.Omitted}
	end := d.End
	switch {
	case d.Ready:
		v.Outcome = dialReady
	case !end.IsZero():
		v.Outcome = dialFailed
	case state == connectivity.Connecting:
		v.Outcome, end = dialRunning, now
	default:
		v.Outcome, end = dialGivenUp, d.Start
		for _, s := range d.Steps {
			end = later(end, later(s.Start, s.End))
		}
	}
	for _, s := range d.Steps {
		step := stepView{Phase: s.Phase, Addr: s.Addr, Proxy: s.Proxy, Finished: !s.End.IsZero(), Error: s.Err, Detail: s.Detail}
		ended := s.End
		if !step.Finished {
			ended = end
		}
		step.StartMS, step.ElapsedMS = milliseconds(s.Start.Sub(d.Start)), milliseconds(max(0, ended.Sub(s.Start)))
		end = later(end, ended)
		v.Steps = append(v.Steps, step)
	}
	v.ElapsedMS = milliseconds(end.Sub(d.Start))
	return v
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func failureViews(all []live.Failure) (views []failureView) {
	for _, f := range all {
		views = append(views, failureView{f.Addr, f.ServerName, f.Proxy, f.Phase, f.Time.UTC(), milliseconds(f.Elapsed), f.Err, f.Hint, f.Permanent})
	}
	return views
}

// configJSON is the service config as part of the page's JSON: its object, or the text of
// one that was cut.
func configJSON(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	if json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return nil // a string has an encoding
	}
	return quoted
}

// milliseconds is d in milliseconds, to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
