package serviceconfig

import (
	"strings"
	"time"

	"google.golang.org/grpc/balancer"
	grpcsc "google.golang.org/grpc/serviceconfig"
)

// Config is a valid service config. It does not change once made: any number of
// goroutines may read it; neither it nor the values that it points to may be changed.
//
// A nil *Config is an empty one to Method, and only a nil one is equal to it.
type Config struct {
	// Config is nil. It is embedded for its unexported method, which makes
	// *Config a value for serviceconfig.ParseResult and which is never called.
	grpcsc.Config

	// LB is the load balancing policy that the config chooses. nil if it chooses
	// none: the channel takes its default, pick_first.
	LB *LBPolicy

	// UnknownPolicy is the name in loadBalancingPolicy if no policy of that name
	// is registered and there is no loadBalancingConfig; else empty. LB is nil
	// then. It is there so that the channel can say why the default is in use.
	UnknownPolicy string

	// RetryThrottling is nil if retries are not throttled.
	RetryThrottling *RetryThrottling

	// HealthCheck is nil if backends are not to be health-checked.
	HealthCheck *HealthCheck

	// MaxConnectionsPerSubchannel is how many connections a subchannel may have (gRFC
	// A105); 0 if the config does not say.
	MaxConnectionsPerSubchannel int

	// JSON is the text that was parsed, unaltered, or for a config made by
	// FromMethods the text that stands for it.
	JSON string

	// methods is keyed by "/service/method", "/service/" and "".
	methods map[string]*MethodConfig
}

// LBPolicy is the load balancing policy chosen by a config.
type LBPolicy struct {
	// Name is the builder's name, which may differ in case from the one in the
	// config.
	Name string
	// Builder is the one registered when the config was parsed. Never nil.
	Builder balancer.Builder
	// Config is what the builder's ParseConfig made of the policy's own config;
	// nil if the builder has no ParseConfig. It goes to the balancer in
	// balancer.ClientConnState.BalancerConfig.
	Config grpcsc.LoadBalancingConfig
}

// MethodConfig is what a service config says about a method. A nil field is one
// it says nothing about. The values that the pointers lead to are shared by all RPCs of
// the method: read only.
type MethodConfig struct {
	// WaitForReady is the default for RPCs that do not say themselves whether
	// they wait for a connection.
	WaitForReady *bool
	// Timeout bounds an RPC, together with the deadline of the caller's context:
	// the earlier one counts. Zero or negative: the RPC has expired at its start.
	Timeout *time.Duration
	// MaxReqSize is the largest request message in bytes; zero or more.
	MaxReqSize *int
	// MaxRespSize is the largest response message in bytes; zero or more.
	MaxRespSize *int
	// RetryPolicy is nil if RPCs are not retried by policy.
	RetryPolicy *RetryPolicy
	// HedgingPolicy is nil if RPCs are not hedged. One of the two policies is nil.
	HedgingPolicy *HedgingPolicy
}

// RetryPolicy says when and how often an RPC is tried again (gRFC A6).
type RetryPolicy struct {
	// MaxAttempts counts the first attempt too. At least 2, and at most the
	// Parser's MaxCallAttempts.
	MaxAttempts int
	// InitialBackoff bounds the wait before the first retry; above 0.
	InitialBackoff time.Duration
	// MaxBackoff bounds the wait before any retry; above 0.
	MaxBackoff time.Duration
	// BackoffMultiplier is what the bound grows by with each retry; above 0.
	BackoffMultiplier float64
	// RetryableStatusCodes are the codes after which an RPC is retried; not empty, but
	// for a policy with a PerAttemptRecvTimeout.
	RetryableStatusCodes CodeSet
	// PerAttemptRecvTimeout bounds an attempt that has no response; 0: the RPC's deadline
	// alone does.
	PerAttemptRecvTimeout time.Duration
}

// HedgingPolicy says that an RPC is sent several times without waiting for its failure
// (gRFC A6).
type HedgingPolicy struct {
	// MaxAttempts counts the first attempt too. At least 2, and at most the
	// Parser's MaxCallAttempts.
	MaxAttempts int
	// HedgingDelay is the wait before each further attempt; 0 or more.
	HedgingDelay time.Duration
	// NonFatalStatusCodes are the codes after which other attempts go on. Any other
	// ends the RPC.
	NonFatalStatusCodes CodeSet
}

// RetryThrottling stops retries to a server that fails most RPCs (gRFC A6,
// "Throttling Retry Attempts and Hedged RPCs").
type RetryThrottling struct {
	// MaxTokens is the number of tokens at the start and the most there can be;
	// above 0, at most 1000.
	MaxTokens float64
	// TokenRatio is added for each RPC that succeeds; at least 0.001, with three
	// decimal places.
	TokenRatio float64
}

// HealthCheck asks for health-checking of each backend (gRFC A17).
type HealthCheck struct {
	// ServiceName is the service to ask about. Empty: the server as a whole.
	ServiceName string
}

// Method returns what the config says about the method with the full name
// "/service/method": the entry for that method, else the one for its service,
// else the one for all methods, else an empty MethodConfig. Entries are not
// merged. It does not allocate.
func (c *Config) Method(fullMethod string) MethodConfig {
	if c == nil || len(c.methods) == 0 {
		return MethodConfig{}
	}
	if m := c.methods[fullMethod]; m != nil {
		return *m
	}
	// The service ends at the last slash: a service's name may hold some.
	if m := c.methods[fullMethod[:strings.LastIndexByte(fullMethod, '/')+1]]; m != nil {
		return *m
	}
	if m := c.methods[""]; m != nil {
		return *m
	}
	return MethodConfig{}
}

// Equal reports whether a and b came from the same JSON text, byte for byte, so
// that a resolver that sends its config again need not disturb the policy. nil
// equals nil only.
func Equal(a, b *Config) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.JSON == b.JSON
}
