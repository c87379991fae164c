package serviceconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Parser holds what the user of a channel sets about service configs. The zero
// value has the defaults.
type Parser struct {
	// MaxCallAttempts bounds RetryPolicy.MaxAttempts: a larger one is lowered to
	// it. Below 2 it stands for defaultMaxCallAttempts, as WithMaxCallAttempts
	// has it.
	MaxCallAttempts int
}

// Parse parses a service config with the default Parser.
func Parse(js string) (*Config, error) { return Parser{}.Parse(js) }

// Parse parses a service config. The error is an *Error that names the first
// field found to be wrong. The ParseConfig of the policy chosen is called in
// here, on the caller's goroutine.
func (p Parser) Parse(js string) (*Config, error) {
	if js == "" {
		return nil, &Error{Err: errors.New("empty text"), Want: `a JSON object; "{}" is the empty config`}
	}
	var raw json.RawMessage
	if err := json.Unmarshal([]byte(js), &raw); err != nil {
		return nil, notJSON(js, err)
	}
	c := &Config{JSON: js}
	if absent(raw) { // the text is null
		return c, nil
	}
	var o struct {
		LoadBalancingPolicy json.RawMessage `json:"loadBalancingPolicy"`
		LoadBalancingConfig json.RawMessage `json:"loadBalancingConfig"`
		MethodConfig        json.RawMessage `json:"methodConfig"`
		RetryThrottling     json.RawMessage `json:"retryThrottling"`
		HealthCheckConfig   json.RawMessage `json:"healthCheckConfig"`
		ConnectionScaling   json.RawMessage `json:"connectionScaling"`
	}
	if err := readObject("", raw, &o); err != nil {
		return nil, err
	}
	entries, err := p.parseEntries(o.MethodConfig)
	if err != nil {
		return nil, err
	}
	if c.methods, err = byPath(entries); err != nil {
		return nil, err
	}
	if c.RetryThrottling, err = parseRetryThrottling(o.RetryThrottling); err != nil {
		return nil, err
	}
	if c.HealthCheck, err = parseHealthCheck(o.HealthCheckConfig); err != nil {
		return nil, err
	}
	if c.MaxConnectionsPerSubchannel, err = parseScaling(o.ConnectionScaling); err != nil {
		return nil, err
	}
	// Last, so that a policy's ParseConfig is called for valid configs only.
	if c.LB, c.UnknownPolicy, err = parseLB(o.LoadBalancingConfig, o.LoadBalancingPolicy); err != nil {
		return nil, err
	}
	return c, nil
}

// notJSON says where the text stops being JSON.
func notJSON(js string, err error) error {
	e := &Error{Value: quoted([]byte(js)), Err: err}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		e.Err = fmt.Errorf("not JSON at byte %d: %w", syntax.Offset, err)
	}
	return e
}

func (p Parser) maxCallAttempts() int {
	if p.MaxCallAttempts < 2 {
		return defaultMaxCallAttempts
	}
	return p.MaxCallAttempts
}

// entry is one element of methodConfig. The methods and services that it names share its
// config.
type entry struct {
	names  []Name
	raws   []json.RawMessage // of names, for errors
	config *MethodConfig
}

// parseEntries reads the list methodConfig.
func (p Parser) parseEntries(raw json.RawMessage) ([]entry, error) {
	list, err := readList("methodConfig", raw)
	if err != nil {
		return nil, err
	}
	entries := make([]entry, len(list))
	for i, element := range list {
		e, field := &entries[i], fmt.Sprintf("methodConfig[%d]", i)
		if e.config, e.raws, err = p.parseMethod(field, element); err != nil {
			return nil, err
		}
		e.names = make([]Name, len(e.raws))
		for j, name := range e.raws {
			if e.names[j], err = parseName(fmt.Sprintf("%s.name[%d]", field, j), name); err != nil {
				return nil, err
			}
		}
	}
	return entries, nil
}

// byPath returns the configs of entries by the paths of their names, and refuses a name
// that stands twice.
func byPath(entries []entry) (map[string]*MethodConfig, error) {
	methods := make(map[string]*MethodConfig)
	firstUse := make(map[string]string) // where each key of methods is named
	for i, e := range entries {
		for j, name := range e.names {
			field, path := fmt.Sprintf("methodConfig[%d].name[%d]", i, j), name.path()
			if first, used := firstUse[path]; used {
				return nil, wrong(field, e.raws[j], "each name once; "+first+" is the same")
			}
			firstUse[path] = field
			methods[path] = e.config
		}
	}
	return methods, nil
}

// parseMethod reads one element of methodConfig but leaves its names to the
// caller.
func (p Parser) parseMethod(field string, raw json.RawMessage) (*MethodConfig, []json.RawMessage, error) {
	var o struct {
		Name                    json.RawMessage `json:"name"`
		WaitForReady            json.RawMessage `json:"waitForReady"`
		Timeout                 json.RawMessage `json:"timeout"`
		MaxRequestMessageBytes  json.RawMessage `json:"maxRequestMessageBytes"`
		MaxResponseMessageBytes json.RawMessage `json:"maxResponseMessageBytes"`
		RetryPolicy             json.RawMessage `json:"retryPolicy"`
		HedgingPolicy           json.RawMessage `json:"hedgingPolicy"`
	}
	if err := readObject(field, raw, &o); err != nil {
		return nil, nil, err
	}
	names, err := readList(field+".name", o.Name)
	if err != nil {
		return nil, nil, err
	}
	m := &MethodConfig{}
	if m.WaitForReady, err = readBool(field+".waitForReady", o.WaitForReady); err != nil {
		return nil, nil, err
	}
	if !absent(o.Timeout) {
		d, err := readDuration(field+".timeout", o.Timeout)
		if err != nil {
			return nil, nil, err
		}
		m.Timeout = &d
	}
	if m.MaxReqSize, err = readSize(field+".maxRequestMessageBytes", o.MaxRequestMessageBytes); err != nil {
		return nil, nil, err
	}
	if m.MaxRespSize, err = readSize(field+".maxResponseMessageBytes", o.MaxResponseMessageBytes); err != nil {
		return nil, nil, err
	}
	if m.RetryPolicy, err = parseRetryPolicy(field+".retryPolicy", o.RetryPolicy, p.maxCallAttempts()); err != nil {
		return nil, nil, err
	}
	if m.HedgingPolicy, err = parseHedgingPolicy(field+".hedgingPolicy", o.HedgingPolicy, p.maxCallAttempts()); err != nil {
		return nil, nil, err
	}
	if m.RetryPolicy != nil && m.HedgingPolicy != nil {
		return nil, nil, wrong(field+".hedgingPolicy", o.HedgingPolicy, "retryPolicy or hedgingPolicy, not both")
	}
	return m, names, nil
}

// Name is what a method config is for: a method, a service with an empty Method, or
// everything if both are empty.
type Name struct{ Service, Method string }

// path is the name as a key for Config.methods.
func (n Name) path() string {
	if n.Service == "" {
		return ""
	}
	return "/" + n.Service + "/" + n.Method
}

// parseName reads an element of a name list.
func parseName(field string, raw json.RawMessage) (Name, error) {
	var o struct {
		Service json.RawMessage `json:"service"`
		Method  json.RawMessage `json:"method"`
	}
	if err := readObject(field, raw, &o); err != nil {
		return Name{}, err
	}
	service, err := readString(field+".service", o.Service)
	if err != nil {
		return Name{}, err
	}
	method, err := readString(field+".method", o.Method)
	if err != nil {
		return Name{}, err
	}
	if service == "" && method != "" {
		return Name{}, wrong(field, raw, "a service with the method, or neither for all methods")
	}
	return Name{service, method}, nil
}

// parseScaling reads connectionScaling (gRFC A105). raw may be absent: 0.
func parseScaling(raw json.RawMessage) (int, error) {
	const field, want = "connectionScaling", "a number of connections, 1 or more"
	if absent(raw) {
		return 0, nil
	}
	var o struct {
		MaxConnections json.RawMessage `json:"maxConnectionsPerSubchannel"`
	}
	if err := readObject(field, raw, &o); err != nil {
		return 0, err
	}
	if absent(o.MaxConnections) {
		return 0, nil
	}
	n, err := readInt(field+".maxConnectionsPerSubchannel", o.MaxConnections, want)
	if err != nil {
		return 0, err
	}
	if n < 1 {
		return 0, wrong(field+".maxConnectionsPerSubchannel", o.MaxConnections, want)
	}
	return int(min(n, math.MaxInt32)), nil
}

// parseHealthCheck reads healthCheckConfig. raw may be absent: nil. An object
// without serviceName asks about the server as a whole, as in grpc-go.
func parseHealthCheck(raw json.RawMessage) (*HealthCheck, error) {
	const field = "healthCheckConfig"
	if absent(raw) {
		return nil, nil
	}
	var o struct {
		ServiceName json.RawMessage `json:"serviceName"`
	}
	if err := readObject(field, raw, &o); err != nil {
		return nil, err
	}
	name, err := readString(field+".serviceName", o.ServiceName)
	if err != nil {
		return nil, err
	}
	return &HealthCheck{ServiceName: name}, nil
}
