package serviceconfig

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Parser holds what the user of a channel sets about service configs. The zero
// value has the defaults.
type Parser struct {
	// MaxCallAttempts bounds RetryPolicy.MaxAttempts: a larger one is lowered to
	// it. Below 2 it stands for DefaultMaxCallAttempts, as WithMaxCallAttempts
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
	}
	if err := readObject("", raw, &o); err != nil {
		return nil, err
	}
	var err error
	if c.methods, err = p.parseMethods(o.MethodConfig); err != nil {
		return nil, err
	}
	if c.RetryThrottling, err = parseRetryThrottling(o.RetryThrottling); err != nil {
		return nil, err
	}
	if c.HealthCheck, err = parseHealthCheck(o.HealthCheckConfig); err != nil {
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
		return DefaultMaxCallAttempts
	}
	return p.MaxCallAttempts
}

// parseMethods reads the list methodConfig. The methods and services named in one
// entry share a MethodConfig.
func (p Parser) parseMethods(raw json.RawMessage) (map[string]*MethodConfig, error) {
	list, err := readList("methodConfig", raw)
	if err != nil {
		return nil, err
	}
	methods := make(map[string]*MethodConfig)
	firstUse := make(map[string]string) // where each key of methods is named
	for i, element := range list {
		field := fmt.Sprintf("methodConfig[%d]", i)
		m, names, err := p.parseMethod(field, element)
		if err != nil {
			return nil, err
		}
		for j, name := range names {
			nameField := fmt.Sprintf("%s.name[%d]", field, j)
			path, err := parseName(nameField, name)
			if err != nil {
				return nil, err
			}
			if first, used := firstUse[path]; used {
				return nil, wrong(nameField, name, "each name once; "+first+" is the same")
			}
			firstUse[path] = nameField
			methods[path] = m
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
	return m, names, nil
}

// parseName turns an element of a name list into a key for Config.methods.
func parseName(field string, raw json.RawMessage) (string, error) {
	var o struct {
		Service json.RawMessage `json:"service"`
		Method  json.RawMessage `json:"method"`
	}
	if err := readObject(field, raw, &o); err != nil {
		return "", err
	}
	service, err := readString(field+".service", o.Service)
	if err != nil {
		return "", err
	}
	method, err := readString(field+".method", o.Method)
	if err != nil {
		return "", err
	}
	switch {
	case service != "":
		return "/" + service + "/" + method, nil
	case method != "":
		return "", wrong(field, raw, "a service with the method, or neither for all methods")
	}
	return "", nil
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
