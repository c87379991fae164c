package grpcdial

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// ServiceConfig is a service config as a Go value: all that its JSON has (gRPC's service
// config document, gRFCs A2, A6, A17, A24, A105). A field that is zero says nothing.
// It is for [WithServiceConfig] and [WithDefaultConfig], and its JSON for anything that
// takes text, grpc-go included.
type ServiceConfig struct {
	// LB names the load-balancing policy; nil leaves the choice as it would
	// be without a service config, which is pick_first. LoadBalancing counts in its place.
	LB *string

	// Methods holds one entry for each method ("/service/method") or service
	// ("/service/"). The entry of the method is preferred to that of its
	// service. MethodSettings has what grpc-go's type lacks, retry and hedging for example.
	Methods map[string]MethodConfig

	// LoadBalancing lists load-balancing policies with their configs. The first one that
	// is registered in the program is used.
	LoadBalancing []LoadBalancingPolicy

	// MethodSettings are for the methods and services that each names, besides those of
	// Methods. No name may stand twice.
	MethodSettings []MethodSettings

	// RetryThrottling stops retries and hedging while a server fails most RPCs.
	RetryThrottling *RetryThrottling

	// HealthCheckService is the service whose health is checked at each backend, "" for
	// the server as a whole (gRFC A17). nil: health is not checked.
	HealthCheckService *string

	// MaxConnectionsPerSubchannel is how many connections a subchannel may make when the
	// streams that its server allows are used up (gRFC A105); 10 at most, or what
	// WithMaxConnectionsPerSubchannel allows. 0: one, or what that option says.
	MaxConnectionsPerSubchannel int
}

// LoadBalancingPolicy names a load-balancing policy with its config.
type LoadBalancingPolicy struct {
	Name   string
	Config json.RawMessage // a JSON object; empty: {}
}

// MethodSettings is what a service config says about some methods.
type MethodSettings struct {
	// Names are the methods and services that the settings are for. An empty MethodName
	// stands for all.
	Names []MethodName
	// WaitForReady is the default for RPCs without the call option grpc.WaitForReady.
	WaitForReady *bool
	// Timeout bounds an RPC, together with the deadline of its context: the earlier
	// one counts.
	Timeout *time.Duration
	// MaxRequestBytes and MaxResponseBytes bound messages.
	MaxRequestBytes, MaxResponseBytes *int
	// Retry and Hedging exclude each other.
	Retry   *RetryPolicy
	Hedging *HedgingPolicy
}

// MethodName names a method, or a service if Method is empty.
type MethodName struct{ Service, Method string }

// RetryPolicy says when and how often an RPC is tried again (gRFC A6).
type RetryPolicy struct {
	MaxAttempts                int           // the first one included; at least 2
	InitialBackoff, MaxBackoff time.Duration // above 0
	BackoffMultiplier          float64       // above 0
	RetryableStatusCodes       []codes.Code  // not empty, but with a PerAttemptRecvTimeout
	// PerAttemptRecvTimeout bounds one attempt: one that has no response by then is
	// cancelled, and counts as failed. 0: none.
	PerAttemptRecvTimeout time.Duration
}

// HedgingPolicy says that an RPC is sent again before it has failed (gRFC A6). It is for
// RPCs with one request: unary ones, whose first reply with status OK counts, and server
// streams, which go on with the attempt whose headers come first; SendMsg hands the request
// over and does not wait for room at the server. RPCs that send more are not hedged, nor is
// a request that is larger than grpc.MaxRetryRPCBufferSize.
type HedgingPolicy struct {
	MaxAttempts         int           // the first one included; at least 2; 100 at most are made
	HedgingDelay        time.Duration // before each further one; 0: all are sent at once
	NonFatalStatusCodes []codes.Code  // after which the others go on; any other code ends the RPC
}

// RetryThrottling is gRFC A6's throttling of retries and hedging.
type RetryThrottling struct {
	MaxTokens  float64 // above 0, at most 1000
	TokenRatio float64 // 0.001 or more
}

// JSON returns the service config as JSON text. The error names the field that is not
// allowed, by its JSON path.
func (c ServiceConfig) JSON() (string, error) {
	d, err := c.document()
	if err != nil {
		return "", err
	}
	text, err := d.JSON()
	if err != nil {
		return "", err
	}
	if _, err := serviceconfig.Parse(text); err != nil {
		return "", err
	}
	return text, nil
}

// uncapped reads service configs without lowering the attempts of a policy to the most that
// a channel makes, which is the channel's to say.
var uncapped = serviceconfig.Parser{MaxCallAttempts: math.MaxInt}

// ParseServiceConfig returns the service config that JSON text stands for. Its Methods are
// empty: MethodSettings has them. Fields of the text that no service config has are left
// out. The error names the field that is not allowed, by its JSON path.
func ParseServiceConfig(text string) (ServiceConfig, error) {
	d, err := uncapped.Document(text)
	if err != nil {
		return ServiceConfig{}, err
	}
	c := ServiceConfig{LB: d.Policy, MaxConnectionsPerSubchannel: d.MaxConnectionsPerSubchannel}
	for _, p := range d.Policies {
		c.LoadBalancing = append(c.LoadBalancing, LoadBalancingPolicy(p))
	}
	for _, e := range d.Methods {
		c.MethodSettings = append(c.MethodSettings, methodSettings(e))
	}
	if t := d.RetryThrottling; t != nil {
		c.RetryThrottling = &RetryThrottling{t.MaxTokens, t.TokenRatio}
	}
	if h := d.HealthCheck; h != nil {
		c.HealthCheckService = &h.ServiceName
	}
	return c, nil
}

// document converts c, whose Methods have to be valid.
func (c ServiceConfig) document() (*serviceconfig.Document, error) {
	d := &serviceconfig.Document{Policy: c.LB, MaxConnectionsPerSubchannel: c.MaxConnectionsPerSubchannel}
	for _, p := range c.LoadBalancing {
		d.Policies = append(d.Policies, serviceconfig.Policy(p))
	}
	for _, key := range slices.Sorted(maps.Keys(c.Methods)) {
		name, m, err := uncapped.Entry(key, c.Methods[key])
		if err != nil {
			return nil, err
		}
		d.Methods = append(d.Methods, serviceconfig.MethodEntry{Names: []serviceconfig.Name{name}, Config: *m})
	}
	for _, s := range c.MethodSettings {
		e, err := s.entry(fmt.Sprintf("methodConfig[%d]", len(d.Methods)))
		if err != nil {
			return nil, err
		}
		d.Methods = append(d.Methods, e)
	}
	if t := c.RetryThrottling; t != nil {
		d.RetryThrottling = &serviceconfig.RetryThrottling{MaxTokens: t.MaxTokens, TokenRatio: t.TokenRatio}
	}
	if s := c.HealthCheckService; s != nil {
		d.HealthCheck = &serviceconfig.HealthCheck{ServiceName: *s}
	}
	return d, nil
}

// methodSettings converts an element of methodConfig.
func methodSettings(e serviceconfig.MethodEntry) MethodSettings {
	m := e.Config
	s := MethodSettings{WaitForReady: m.WaitForReady, Timeout: m.Timeout, MaxRequestBytes: m.MaxReqSize, MaxResponseBytes: m.MaxRespSize}
	for _, n := range e.Names {
		s.Names = append(s.Names, MethodName(n))
	}
	if r := m.RetryPolicy; r != nil {
		s.Retry = &RetryPolicy{
			MaxAttempts: r.MaxAttempts, InitialBackoff: r.InitialBackoff, MaxBackoff: r.MaxBackoff, BackoffMultiplier: r.BackoffMultiplier,
			RetryableStatusCodes: slices.Collect(r.RetryableStatusCodes.All()), PerAttemptRecvTimeout: r.PerAttemptRecvTimeout,
		}
	}
	if h := m.HedgingPolicy; h != nil {
		s.Hedging = &HedgingPolicy{h.MaxAttempts, h.HedgingDelay, slices.Collect(h.NonFatalStatusCodes.All())}
	}
	return s
}

// entry converts s, which is the element of the JSON that field names.
func (s MethodSettings) entry(field string) (e serviceconfig.MethodEntry, err error) {
	e = serviceconfig.MethodEntry{Config: serviceconfig.MethodConfig{
		WaitForReady: s.WaitForReady, Timeout: s.Timeout, MaxReqSize: s.MaxRequestBytes, MaxRespSize: s.MaxResponseBytes,
	}}
	for _, n := range s.Names {
		e.Names = append(e.Names, serviceconfig.Name(n))
	}
	if r := s.Retry; r != nil {
		retryable, err := serviceconfig.Codes(field+".retryPolicy.retryableStatusCodes", r.RetryableStatusCodes)
		if err != nil {
			return e, err
		}
		e.Config.RetryPolicy = &serviceconfig.RetryPolicy{
			MaxAttempts: r.MaxAttempts, InitialBackoff: r.InitialBackoff, MaxBackoff: r.MaxBackoff, BackoffMultiplier: r.BackoffMultiplier,
			RetryableStatusCodes: retryable, PerAttemptRecvTimeout: r.PerAttemptRecvTimeout,
		}
	}
	if h := s.Hedging; h != nil {
		nonFatal, err := serviceconfig.Codes(field+".hedgingPolicy.nonFatalStatusCodes", h.NonFatalStatusCodes)
		if err != nil {
			return e, err
		}
		e.Config.HedgingPolicy = &serviceconfig.HedgingPolicy{
			MaxAttempts: h.MaxAttempts, HedgingDelay: h.HedgingDelay, NonFatalStatusCodes: nonFatal,
		}
	}
	return e, nil
}

// WithDefaultConfig is [WithDefaultServiceConfig] for a Go value. Of the two the last one
// given wins. One that is not allowed is an error of the constructor that names the field.
func WithDefaultConfig(c ServiceConfig) DialOption {
	text, err := c.JSON()
	return optionFunc(func(o *dialOptions) {
		if err != nil {
			o.invalid = fmt.Errorf("grpcdial: WithDefaultConfig: %w", err)
			return
		}
		o.defaultServiceConfig = &text
	})
}
