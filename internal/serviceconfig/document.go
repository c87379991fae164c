package serviceconfig

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Document is a service config as Go values, field by field, in the order of its text.
type Document struct {
	Policy                      *string // loadBalancingPolicy; nil: absent
	Policies                    []Policy
	Methods                     []MethodEntry
	RetryThrottling             *RetryThrottling
	HealthCheck                 *HealthCheck
	MaxConnectionsPerSubchannel int // 0: absent
}

// Policy is an element of loadBalancingConfig.
type Policy struct {
	Name   string
	Config json.RawMessage // empty: {}
}

// MethodEntry is an element of methodConfig.
type MethodEntry struct {
	Names  []Name
	Config MethodConfig
}

// Document parses a service config that Parse accepts.
func (p Parser) Document(js string) (*Document, error) {
	c, err := p.Parse(js)
	if err != nil {
		return nil, err
	}
	d := &Document{RetryThrottling: c.RetryThrottling, HealthCheck: c.HealthCheck, MaxConnectionsPerSubchannel: c.MaxConnectionsPerSubchannel}
	// As Parse reads them: of a field that stands twice the last value counts, and that alone.
	var o struct {
		LoadBalancingPolicy json.RawMessage `json:"loadBalancingPolicy"`
		LoadBalancingConfig json.RawMessage `json:"loadBalancingConfig"`
		MethodConfig        json.RawMessage `json:"methodConfig"`
	}
	if err := json.Unmarshal([]byte(js), &o); err != nil {
		return nil, notJSON(js, err)
	}
	if !absent(o.LoadBalancingPolicy) {
		name, err := readString("loadBalancingPolicy", o.LoadBalancingPolicy)
		if err != nil {
			return nil, err
		}
		d.Policy = &name
	}
	policies, raws, err := readPolicies(o.LoadBalancingConfig)
	if err != nil {
		return nil, err
	}
	for i, entry := range policies {
		if len(entry) != 1 { // behind the one that is chosen
			return nil, wrong(fmt.Sprintf("loadBalancingConfig[%d]", i), raws[i], wantPolicy)
		}
		for name, config := range entry {
			d.Policies = append(d.Policies, Policy{name, config})
		}
	}
	entries, err := p.parseEntries(o.MethodConfig)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		d.Methods = append(d.Methods, MethodEntry{e.names, *e.config})
	}
	return d, nil
}

// The JSON form of a Document.
type (
	documentJSON struct {
		LoadBalancingPolicy *string                      `json:"loadBalancingPolicy,omitempty"`
		LoadBalancingConfig []map[string]json.RawMessage `json:"loadBalancingConfig,omitempty"`
		MethodConfig        []methodConfigJSON           `json:"methodConfig,omitempty"`
		RetryThrottling     *throttlingJSON              `json:"retryThrottling,omitempty"`
		HealthCheckConfig   *healthCheckJSON             `json:"healthCheckConfig,omitempty"`
		ConnectionScaling   *scalingJSON                 `json:"connectionScaling,omitempty"`
	}
	methodConfigJSON struct {
		Name                    []nameJSON   `json:"name"`
		WaitForReady            *bool        `json:"waitForReady,omitempty"`
		Timeout                 string       `json:"timeout,omitempty"`
		MaxRequestMessageBytes  *int         `json:"maxRequestMessageBytes,omitempty"`
		MaxResponseMessageBytes *int         `json:"maxResponseMessageBytes,omitempty"`
		RetryPolicy             *retryJSON   `json:"retryPolicy,omitempty"`
		HedgingPolicy           *hedgingJSON `json:"hedgingPolicy,omitempty"`
	}
	nameJSON struct {
		Service string `json:"service,omitempty"`
		Method  string `json:"method,omitempty"`
	}
	retryJSON struct {
		MaxAttempts           int      `json:"maxAttempts"`
		InitialBackoff        string   `json:"initialBackoff"`
		MaxBackoff            string   `json:"maxBackoff"`
		BackoffMultiplier     float64  `json:"backoffMultiplier"`
		RetryableStatusCodes  []string `json:"retryableStatusCodes"`
		PerAttemptRecvTimeout string   `json:"perAttemptRecvTimeout,omitempty"`
	}
	hedgingJSON struct {
		MaxAttempts         int      `json:"maxAttempts"`
		HedgingDelay        string   `json:"hedgingDelay,omitempty"`
		NonFatalStatusCodes []string `json:"nonFatalStatusCodes,omitempty"`
	}
	throttlingJSON struct {
		MaxTokens  float64 `json:"maxTokens"`
		TokenRatio float64 `json:"tokenRatio"`
	}
	healthCheckJSON struct {
		ServiceName string `json:"serviceName"`
	}
	scalingJSON struct {
		MaxConnections int `json:"maxConnectionsPerSubchannel"`
	}
)

// JSON returns text that stands for d, the same for the same values. It does not check
// them, Parse does, but for what JSON cannot say: texts that are not UTF-8, and numbers that
// are not finite.
func (d *Document) JSON() (string, error) {
	if err := d.valueError(); err != nil {
		return "", err
	}
	o := documentJSON{LoadBalancingPolicy: d.Policy}
	for i, p := range d.Policies {
		config := p.Config
		if len(config) == 0 {
			config = json.RawMessage("{}")
		}
		if !json.Valid(config) {
			return "", wrong(fmt.Sprintf("loadBalancingConfig[%d].%s", i, p.Name), config, "JSON")
		}
		o.LoadBalancingConfig = append(o.LoadBalancingConfig, map[string]json.RawMessage{p.Name: config})
	}
	for _, e := range d.Methods {
		o.MethodConfig = append(o.MethodConfig, e.json())
	}
	if t := d.RetryThrottling; t != nil {
		o.RetryThrottling = &throttlingJSON{t.MaxTokens, t.TokenRatio}
	}
	if h := d.HealthCheck; h != nil {
		o.HealthCheckConfig = &healthCheckJSON{h.ServiceName}
	}
	if n := d.MaxConnectionsPerSubchannel; n != 0 {
		o.ConnectionScaling = &scalingJSON{n}
	}
	text, err := json.Marshal(&o)
	if err != nil {
		return "", &Error{Err: err}
	}
	return string(text), nil
}

// valueError returns an error for the first value that JSON has no form for.
func (d *Document) valueError() (err error) {
	check := func(s, field string, args ...any) {
		if err == nil && !utf8.ValidString(s) {
			err = wrong(fmt.Sprintf(field, args...), []byte(s), "UTF-8")
		}
	}
	finite := func(f float64, field string, args ...any) {
		if err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
			err = wrongGo(fmt.Sprintf(field, args...), f, "a number")
		}
	}
	if d.Policy != nil {
		check(*d.Policy, "loadBalancingPolicy")
	}
	for i, p := range d.Policies {
		check(p.Name, "loadBalancingConfig[%d]", i)
	}
	for i, e := range d.Methods {
		for j, n := range e.Names {
			check(n.Service, "methodConfig[%d].name[%d].service", i, j)
			check(n.Method, "methodConfig[%d].name[%d].method", i, j)
		}
		if r := e.Config.RetryPolicy; r != nil {
			finite(r.BackoffMultiplier, "methodConfig[%d].retryPolicy.backoffMultiplier", i)
		}
	}
	if t := d.RetryThrottling; t != nil {
		finite(t.MaxTokens, "retryThrottling.maxTokens")
		finite(t.TokenRatio, "retryThrottling.tokenRatio")
	}
	if d.HealthCheck != nil {
		check(d.HealthCheck.ServiceName, "healthCheckConfig.serviceName")
	}
	return err
}

func (e MethodEntry) json() methodConfigJSON {
	m := e.Config
	o := methodConfigJSON{
		Name:                    make([]nameJSON, len(e.Names)),
		WaitForReady:            m.WaitForReady,
		MaxRequestMessageBytes:  m.MaxReqSize,
		MaxResponseMessageBytes: m.MaxRespSize,
	}
	for i, n := range e.Names {
		o.Name[i] = nameJSON(n)
	}
	if m.Timeout != nil {
		o.Timeout = formatDuration(*m.Timeout)
	}
	if r := m.RetryPolicy; r != nil {
		o.RetryPolicy = &retryJSON{
			MaxAttempts:          r.MaxAttempts,
			InitialBackoff:       formatDuration(r.InitialBackoff),
			MaxBackoff:           formatDuration(r.MaxBackoff),
			BackoffMultiplier:    r.BackoffMultiplier,
			RetryableStatusCodes: r.RetryableStatusCodes.names(),
		}
		if r.PerAttemptRecvTimeout != 0 {
			o.RetryPolicy.PerAttemptRecvTimeout = formatDuration(r.PerAttemptRecvTimeout)
		}
	}
	if h := m.HedgingPolicy; h != nil {
		o.HedgingPolicy = &hedgingJSON{MaxAttempts: h.MaxAttempts, NonFatalStatusCodes: h.NonFatalStatusCodes.names()}
		if h.HedgingDelay != 0 {
			o.HedgingPolicy.HedgingDelay = formatDuration(h.HedgingDelay)
		}
	}
	return o
}

// names returns the names of the codes in the set, which is not nil.
func (s CodeSet) names() []string {
	names := []string{}
	for c := range s.All() {
		names = append(names, codeNames[c])
	}
	return names
}

// nameOf is the name whose path is key.
func nameOf(key string) Name {
	if key == "" {
		return Name{}
	}
	slash := strings.LastIndexByte(key, '/')
	return Name{Service: key[1:slash], Method: key[slash+1:]}
}

// formatDuration writes d as protobuf's JSON mapping has it.
func formatDuration(d time.Duration) string {
	sign, magnitude := "", uint64(d)
	if d < 0 {
		sign, magnitude = "-", -uint64(d) // right for the smallest d too, which has no positive counterpart
	}
	s := fmt.Sprintf("%s%d.%09d", sign, magnitude/uint64(time.Second), magnitude%uint64(time.Second))
	return strings.TrimRight(strings.TrimRight(s, "0"), ".") + "s"
}
