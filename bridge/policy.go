package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/serviceconfig"
)

// policyName is how the service config of a connection asks for policies.
const policyName = "grpcdial_bridge"

func init() { balancer.Register(policies{}) }

// policyConfig is what a service config says to the policy.
type policyConfig struct {
	Connection uint64 `json:"connection,omitempty"` // number of the connection
	Refused    string `json:"refused,omitempty"`    // why there is to be none
}

// serviceConfig returns the service config that makes grpc-go choose the policy.
func serviceConfig(c policyConfig) string {
	text, err := json.Marshal(map[string]any{"loadBalancingConfig": []map[string]policyConfig{{policyName: c}}})
	if err != nil {
		panic(err) // a number and a string
	}
	return string(text)
}

// policies builds policies.
type policies struct{}

func (policies) Name() string { return policyName }

// ParseConfig finds the connection, and fails grpc.NewClient, which calls it, if its
// options cannot be honoured.
func (policies) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	var config policyConfig
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, err
	}
	if config.Refused != "" {
		return nil, errors.New(config.Refused)
	}
	c := connections.find(config.Connection)
	if c == nil {
		return nil, fmt.Errorf("grpcdial/bridge: the service config names a connection, %d, that does not exist", config.Connection)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return connectionConfig{connection: c}, nil
}

// connectionConfig is a policyConfig whose connection was found.
type connectionConfig struct {
	serviceconfig.LoadBalancingConfig
	connection *connection
}

func (policies) Build(to balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &policy{to: to}
}

// policy is the load-balancing policy of a connection. It has no subchannels: it
// reports the states of the connection's channel as its own. grpc-go calls it from one
// goroutine at a time.
type policy struct {
	to      balancer.ClientConn
	channel *channel // nil before the first update, or if there is none
	stop    context.CancelFunc
	watcher sync.WaitGroup
}

// UpdateClientConnState makes the channel, and makes it connect: what leaves the
// connection's idle mode wants that.
func (p *policy) UpdateClientConnState(s balancer.ClientConnState) error {
	if p.channel != nil {
		return nil
	}
	config, ok := s.BalancerConfig.(connectionConfig)
	if !ok {
		return balancer.ErrBadResolverState
	}
	ch := config.connection.open()
	if ch.err != nil {
		p.to.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: noPick{}})
		return ch.err
	}
	p.channel = ch
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.watcher.Go(func() { p.watch(ctx) })
	ch.cc.Connect()
	return nil
}

// watch reports the channel's states until ctx ends.
func (p *policy) watch(ctx context.Context) {
	for c := range p.channel.cc.Watch(ctx) {
		if c.To != connectivity.Shutdown {
			p.to.UpdateState(balancer.State{ConnectivityState: c.To, Picker: noPick{}})
		}
	}
}

// ExitIdle makes the channel connect. It is called for Connect.
func (p *policy) ExitIdle() {
	if p.channel != nil {
		p.channel.cc.Connect()
	}
}

// Close closes the channel, as the connection is being closed.
func (p *policy) Close() {
	if p.channel == nil {
		return
	}
	p.stop()
	_ = p.channel.cc.Close()
	p.watcher.Wait()
}

func (p *policy) ResolverError(error)                                        {}
func (p *policy) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// noPick is the picker: RPCs do not come that far.
type noPick struct{}

func (noPick) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
}
