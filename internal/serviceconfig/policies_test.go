package serviceconfig_test

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	grpcsc "google.golang.org/grpc/serviceconfig"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// The policies below are registered for the tests of this package. They build
// what pick_first builds.
const (
	parserPolicy = "serviceconfig_test_parser" // has ParseConfig, which refuses {"bad":true}
	plainPolicy  = "serviceconfig_test_plain"  // has none
	pickyPolicy  = "serviceconfig_test_picky"  // has ParseConfig, which refuses {}
)

var errBadPolicyConfig = errors.New("the policy does not like it")

type plainBuilder struct {
	balancer.Builder
	name string
}

func (b plainBuilder) Name() string { return b.name }

// parsedConfig is what the test policies' ParseConfig returns.
type parsedConfig struct {
	grpcsc.LoadBalancingConfig
	text string
}

// parserBuilder records what its ParseConfig is asked.
type parserBuilder struct {
	plainBuilder
	refuses string
	asked   *askedConfigs
}

func (b parserBuilder) ParseConfig(js json.RawMessage) (grpcsc.LoadBalancingConfig, error) {
	b.asked.add(b.name + " " + string(js))
	if string(js) == b.refuses {
		return nil, errBadPolicyConfig
	}
	return parsedConfig{text: string(js)}, nil
}

type askedConfigs struct {
	mu   sync.Mutex
	list []string // guarded by mu
}

func (a *askedConfigs) add(s string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, s)
}

// take returns what was asked since the last take.
func (a *askedConfigs) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = nil
	return list
}

var asked = &askedConfigs{}

func init() {
	pickFirst := balancer.Get("pick_first")
	balancer.Register(plainBuilder{pickFirst, plainPolicy})
	balancer.Register(parserBuilder{plainBuilder{pickFirst, parserPolicy}, `{"bad":true}`, asked})
	balancer.Register(parserBuilder{plainBuilder{pickFirst, pickyPolicy}, `{}`, asked})
}

func TestLoadBalancingPolicy(t *testing.T) {
	tests := []struct {
		name    string
		js      string
		policy  string // "" for none
		config  any
		unknown string
	}{
		{name: "nothing said", js: `{}`},
		{name: "both null", js: `{"loadBalancingConfig":null,"loadBalancingPolicy":null}`},
		{name: "list with one", js: `{"loadBalancingConfig":[{"round_robin":{}}]}`, policy: "round_robin"},
		{
			name:   "first registered one",
			js:     `{"loadBalancingConfig":[{"no_such":{"a":1}},{"` + parserPolicy + `":{"b":2}},{"round_robin":{}}]}`,
			policy: parserPolicy, config: parsedConfig{text: `{"b":2}`},
		},
		{
			name:   "config of a policy without ParseConfig is dropped",
			js:     `{"loadBalancingConfig":[{"` + plainPolicy + `":{"b":2}}]}`,
			policy: plainPolicy,
		},
		{
			name:   "null config reaches the policy",
			js:     `{"loadBalancingConfig":[{"` + parserPolicy + `":null}]}`,
			policy: parserPolicy, config: parsedConfig{text: `null`},
		},
		{
			name:   "list counts, not legacy name",
			js:     `{"loadBalancingPolicy":"pick_first","loadBalancingConfig":[{"round_robin":{}}]}`,
			policy: "round_robin",
		},
		{name: "legacy name", js: `{"loadBalancingPolicy":"round_robin"}`, policy: "round_robin"},
		{
			name:   "legacy name has an empty config",
			js:     `{"loadBalancingPolicy":"` + parserPolicy + `"}`,
			policy: parserPolicy, config: parsedConfig{text: `{}`},
		},
		{name: "unknown legacy name", js: `{"loadBalancingPolicy":"no_such"}`, unknown: "no_such"},
		{name: "empty legacy name", js: `{"loadBalancingPolicy":""}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := serviceconfig.Parse(tt.js)
			require.NoError(t, err)
			assert.Equal(t, tt.unknown, c.UnknownPolicy)
			if tt.policy == "" {
				assert.Nil(t, c.LB)
				return
			}
			require.NotNil(t, c.LB)
			assert.Equal(t, tt.policy, c.LB.Name)
			assert.Equal(t, balancer.Get(tt.policy), c.LB.Builder)
			if tt.config == nil {
				assert.Nil(t, c.LB.Config)
			} else {
				assert.Equal(t, tt.config, c.LB.Config)
			}
		})
	}
}

// The name's case matters or not as it does to balancer.Get, which depends on the
// environment.
func TestLegacyPolicyNameMatchesAsTheRegistryDoes(t *testing.T) {
	c, err := serviceconfig.Parse(`{"loadBalancingPolicy":"ROUND_ROBIN"}`)
	require.NoError(t, err)
	if balancer.Get("ROUND_ROBIN") == nil {
		assert.Nil(t, c.LB)
		assert.Equal(t, "ROUND_ROBIN", c.UnknownPolicy)
		return
	}
	require.NotNil(t, c.LB)
	assert.Equal(t, "round_robin", c.LB.Name)
}

func TestPolicyErrorIsKept(t *testing.T) {
	_, err := serviceconfig.Parse(`{"loadBalancingConfig":[{"no_such":{}},{"` + parserPolicy + `":{"bad":true}}]}`)
	require.ErrorIs(t, err, errBadPolicyConfig)
	assert.EqualError(t, err, `service config: loadBalancingConfig[1].`+parserPolicy+`: {"bad":true}: the policy does not like it`)

	_, err = serviceconfig.Parse(`{"loadBalancingPolicy":"` + pickyPolicy + `"}`)
	require.ErrorIs(t, err, errBadPolicyConfig)
	assert.EqualError(t, err, `service config: loadBalancingPolicy: {}: the policy does not like it`)
}

func TestPolicyIsNotAskedForAnInvalidConfig(t *testing.T) {
	asked.take()
	_, err := serviceconfig.Parse(`{"loadBalancingPolicy":"` + parserPolicy + `","retryThrottling":{}}`)
	require.Error(t, err)
	assert.Empty(t, asked.take())
}
