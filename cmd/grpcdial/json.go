package main

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/text"
)

// The JSON forms. Times are milliseconds from the beginning of the dial, or
// RFC 3339 where they say when something is.

type jsonReport struct {
	Target    string     `json:"target"`
	State     string     `json:"state"`
	Ready     bool       `json:"ready"`
	ReadyMS   *float64   `json:"ready_ms,omitempty"`
	ElapsedMS float64    `json:"elapsed_ms"`
	Phases    []jsonStep `json:"phases"`
	Error     *jsonError `json:"error,omitempty"`
}

type jsonStep struct {
	Phase        string            `json:"phase"`
	Addr         string            `json:"addr,omitempty"`
	Proxy        string            `json:"proxy,omitempty"`
	StartMS      float64           `json:"start_ms"`
	ElapsedMS    float64           `json:"elapsed_ms"`
	Finished     bool              `json:"finished"`
	Error        string            `json:"error,omitempty"`
	Addrs        []string          `json:"addrs,omitempty"`
	TLS          *jsonTLS          `json:"tls,omitempty"`
	Certificates []jsonCertificate `json:"certificates,omitempty"`
	Settings     map[string]uint32 `json:"settings,omitempty"`
	Health       string            `json:"health,omitempty"`
}

type jsonTLS struct {
	Version    string `json:"version"`
	Cipher     string `json:"cipher"`
	ALPN       string `json:"alpn"`
	ServerName string `json:"server_name"`
}

type jsonCertificate struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Names     []string  `json:"names,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Sent      bool      `json:"sent"` // by the server; else it is the root that is trusted here
}

type jsonError struct {
	Message  string        `json:"message"`
	Attempts []jsonAttempt `json:"attempts,omitempty"`
	Try      []string      `json:"try,omitempty"`
}

type jsonAttempt struct {
	Addr       string  `json:"addr"`
	ServerName string  `json:"server_name,omitempty"`
	Proxy      string  `json:"proxy,omitempty"`
	Phase      string  `json:"phase,omitempty"`
	ElapsedMS  float64 `json:"elapsed_ms"`
	Error      string  `json:"error,omitempty"`
	Hint       string  `json:"hint,omitempty"`
	Permanent  bool    `json:"permanent"`
}

type jsonChange struct {
	Time  time.Time  `json:"time"`
	Seq   uint64     `json:"seq"`
	From  string     `json:"from"`
	To    string     `json:"to"`
	Cause *jsonError `json:"cause,omitempty"`
}

func reportJSON(c *commandLine, r *report) jsonReport {
	out := jsonReport{
		Target:    r.target,
		State:     r.state.String(),
		Ready:     !r.ready.IsZero(),
		ElapsedMS: milliseconds(r.end.Sub(r.begin)),
		Phases:    []jsonStep{},
		Error:     errorJSON(r.err),
	}
	if out.Ready {
		at := milliseconds(r.ready.Sub(r.begin))
		out.ReadyMS = &at
	}
	if out.Error != nil {
		out.Error.Try = advice(c, r.err)
	}
	for i := range r.steps {
		out.Phases = append(out.Phases, stepJSON(r, &r.steps[i]))
	}
	return out
}

func stepJSON(r *report, s *step) jsonStep {
	out := jsonStep{
		Phase:    string(s.phase),
		Addr:     s.addr,
		Proxy:    s.proxy,
		StartMS:  milliseconds(s.start.Sub(r.begin)),
		Finished: !s.end.IsZero(),
		Addrs:    s.addrs,
		Health:   s.health,
	}
	end := s.end
	if !out.Finished {
		end = r.end
	}
	out.ElapsedMS = milliseconds(end.Sub(s.start))
	if s.err != nil {
		out.Error = reason(s.err)
	}
	if t := s.tls; t != nil {
		out.TLS = &jsonTLS{tls.VersionName(t.Version), tls.CipherSuiteName(t.CipherSuite), text.Line(t.NegotiatedProtocol), s.verifiedName()}
	}
	for _, c := range s.certificates() {
		out.Certificates = append(out.Certificates, jsonCertificate{c.subject(), c.issuer(), c.names(), c.NotBefore.UTC(), c.NotAfter.UTC(), !c.ours})
	}
	for _, v := range s.settings {
		if out.Settings == nil {
			out.Settings = make(map[string]uint32)
		}
		name, _, _ := strings.Cut(v.String(), "=")
		out.Settings[name] = v.Value
	}
	return out
}

// errorJSON returns nil for nil.
func errorJSON(err error) *jsonError {
	if err == nil {
		return nil
	}
	out := &jsonError{Message: message(err)}
	for _, a := range attempts(err) {
		one := jsonAttempt{Addr: a.Addr, ServerName: a.ServerName, Proxy: a.Proxy, Phase: string(a.Phase),
			ElapsedMS: milliseconds(a.Elapsed), Hint: a.Hint, Permanent: a.Permanent}
		if a.Err != nil {
			one.Error = text.Of(a.Err)
		}
		out.Attempts = append(out.Attempts, one)
	}
	return out
}

func changeJSON(c grpcdial.StateChange) jsonChange {
	return jsonChange{Time: c.Time.UTC(), Seq: c.Seq, From: c.From.String(), To: c.To.String(), Cause: errorJSON(c.Cause)}
}

// milliseconds is d in milliseconds, to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// writeJSON writes v so that people can read it too.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writeLine writes v on one line.
func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
