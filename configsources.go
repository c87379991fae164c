package grpcdial

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	grpcsc "google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
	"github.com/grpcdial/grpcdial/internal/text"
)

// emptyConfig is in force where there is no service config.
var emptyConfig = &serviceconfig.Config{}

// parseDefaultServiceConfig returns WithDefaultServiceConfig's config, nil if the
// option was not given.
func parseDefaultServiceConfig(o *dialOptions) (*serviceconfig.Config, error) {
	if o.defaultServiceConfig == nil {
		return nil, nil
	}
	c, err := serviceconfig.Parser{MaxCallAttempts: o.maxCallAttempts}.Parse(*o.defaultServiceConfig)
	if err != nil {
		return nil, fmt.Errorf("grpcdial: WithDefaultServiceConfig: the default service config is invalid: %w", err)
	}
	return c, nil
}

// configSources is what there is to choose a service config from.
type configSources struct {
	resolver *grpcsc.ParseResult   // what the resolver gives now; nil: nothing
	ignored  bool                  // what the resolver gives does not count: WithDisableServiceConfig, WithServiceConfig
	chosen   *serviceconfig.Config // what was chosen before; nil: nothing yet
	defaults *serviceconfig.Config // WithDefaultServiceConfig; nil: not given
}

// choose returns the config to use. bad says why the resolver's is not used, if
// it is invalid; then the one chosen before stays, or else the default is taken,
// and if there is neither, config is nil and RPCs are to fail with bad (gRFC A21).
func (s configSources) choose() (config *serviceconfig.Config, bad error) {
	if s.resolver != nil && !s.ignored {
		switch c, ours := s.resolver.Config.(*serviceconfig.Config); {
		case s.resolver.Err != nil:
			bad = text.Error(fmt.Errorf("error parsing service config: %w", s.resolver.Err))
		case !ours || c == nil:
			bad = fmt.Errorf("illegal service config type: %T", s.resolver.Config)
		default:
			return c, nil
		}
	}
	switch {
	case s.chosen != nil:
		return s.chosen, bad
	case s.defaults != nil:
		return s.defaults, bad
	case bad != nil:
		return nil, bad
	}
	return emptyConfig, nil
}

// grpcGoConfig is the latest service config of a resolver that had it parsed by a channel
// of grpc-go's, and what was made of it: a resolver may give it again with each update.
type grpcGoConfig struct {
	from *grpc.ServiceConfig
	to   *grpcsc.ParseResult
}

// translate returns r with a config of this package in the place of one of grpc-go's. That
// keeps its JSON in a field that is not exported; where there is none, r stays as it is.
// Policy queue only.
func (cc *ClientConn) translate(r *grpcsc.ParseResult) *grpcsc.ParseResult {
	if r == nil || r.Err != nil {
		return r
	}
	from, ok := r.Config.(*grpc.ServiceConfig)
	if !ok || from == nil {
		return r
	}
	if g := cc.grpcGoConfig; g == nil || g.from != from {
		js := reflect.ValueOf(from).Elem().FieldByName("rawJSONString")
		if !js.IsValid() || js.Kind() != reflect.String || js.Len() == 0 {
			return r
		}
		c, err := serviceconfig.Parser{MaxCallAttempts: cc.opts.maxCallAttempts}.Parse(js.String())
		if err != nil {
			return &grpcsc.ParseResult{Err: err}
		}
		cc.grpcGoConfig = &grpcGoConfig{from, &grpcsc.ParseResult{Config: c}}
	}
	return cc.grpcGoConfig.to
}

// ignoresResolversConfig says whether what the resolver gives as a service config
// does not count.
func (cc *ClientConn) ignoresResolversConfig() bool {
	return cc.opts.disableServiceConfig || cc.opts.serviceConfig != nil && !cc.noConfigs.Load()
}

func (cc *ClientConn) chooseConfig(fromResolver *grpcsc.ParseResult) (config *serviceconfig.Config, bad error) {
	return configSources{
		resolver: cc.translate(fromResolver),
		ignored:  cc.ignoresResolversConfig(),
		chosen:   cc.chosen,
		defaults: cc.defaults,
	}.choose()
}

// useConfig puts c in force. Policy queue only.
func (cc *ClientConn) useConfig(c *serviceconfig.Config) {
	cc.policyQueue.AssertOn()
	if cc.chosen == c {
		return
	}
	cc.chosen = c
	most := cc.maxConnections()
	cc.config.Store(c)
	cc.calls.SetConfig(c)
	if cc.maxConnections() != most {
		cc.subchannels.Rescale()
	}
}

// failServiceConfig makes all RPCs fail with bad: the first service config is
// invalid and there is none to use in its place. It is a status, so that RPCs
// that wait for a connection fail too. A policy that a provisional update led to
// has no say any more. Policy queue only.
func (cc *ClientConn) failServiceConfig(bad error) {
	cc.policyQueue.AssertOn()
	cc.policies.close()
	cc.resolution.forget()
	cc.attempts.Clear()
	cc.noteUnresolved(time.Now(), bad, false)
	cc.reportConfigRefused(bad)
	cc.published.disconnected(mask.RPC(bad))
	cc.publish(balancer.State{
		ConnectivityState: connectivity.TransientFailure,
		Picker:            base.NewErrPicker(status.Error(codes.Unavailable, bad.Error())),
	})
	cc.published.letThrough()
}

// reportConfigRefused reports an invalid service config, in every case: also if the channel
// goes on with another one. Policy queue only.
func (cc *ClientConn) reportConfigRefused(bad error) {
	cc.policyQueue.AssertOn()
	cc.channelz.Note(channelzdata.Error, "Service config refused: "+bad.Error())
	cc.observer.report(DialEvent{Kind: EventConfigRefused, Err: bad})
}

// takeFirstConfig applies the config of WithServiceConfig that is waiting, if
// there is one, and has the others applied as they come.
func (cc *ClientConn) takeFirstConfig() error {
	select {
	case first, open := <-cc.opts.serviceConfig:
		return cc.applyFirstConfig(first, open)
	default:
		if cc.opts.serviceConfig != nil {
			cc.followConfigs(false)
		}
		return nil
	}
}

// awaitFirstConfig is takeFirstConfig, but waits for the first one, or for the
// channel of configs to be closed, as long as ctx allows.
func (cc *ClientConn) awaitFirstConfig(ctx context.Context) error {
	if cc.opts.serviceConfig == nil {
		return nil
	}
	select { // one that is waiting counts even if ctx has just ended
	case first, open := <-cc.opts.serviceConfig:
		return cc.applyFirstConfig(first, open)
	default:
	}
	select {
	case first, open := <-cc.opts.serviceConfig:
		return cc.applyFirstConfig(first, open)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (cc *ClientConn) applyFirstConfig(first ServiceConfig, open bool) error {
	if !open {
		cc.noConfigs.Store(true)
		return nil
	}
	c, err := cc.fromGo(first)
	if err != nil {
		return err
	}
	cc.post(func() { cc.putInForce(c) })
	cc.followConfigs(true)
	return nil
}

// followConfigs starts watchConfigs, whose came is this one. The channel has not been
// handed out, so its end is not waited for yet.
func (cc *ClientConn) followConfigs(came bool) {
	cc.following = make(chan struct{})
	go cc.watchConfigs(came)
}

// watchConfigs is the goroutine of WithServiceConfig: it lives until the
// program closes the channel of configs, or the ClientConn. came says that one has come.
func (cc *ClientConn) watchConfigs(came bool) {
	defer close(cc.following)
	for {
		select {
		case sc, open := <-cc.opts.serviceConfig:
			if !open {
				if !came {
					cc.post(cc.forgoConfigs)
				}
				return
			}
			came = true
			c, err := cc.fromGo(sc)
			cc.post(func() {
				if err != nil { // it changes nothing
					cc.reportConfigRefused(err)
					return
				}
				cc.putInForce(c)
			})
		case <-cc.closing.Done():
			return
		}
	}
}

func (cc *ClientConn) fromGo(sc ServiceConfig) (*serviceconfig.Config, error) {
	d, err := sc.document()
	if err != nil {
		return nil, fmt.Errorf("grpcdial: WithServiceConfig: %w", err)
	}
	text, err := d.JSON()
	if err == nil {
		var c *serviceconfig.Config
		if c, err = (serviceconfig.Parser{MaxCallAttempts: cc.opts.maxCallAttempts}).Parse(text); err == nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("grpcdial: WithServiceConfig: %w", err)
}

// putInForce makes RPCs follow a config, and has the policy that it names take over.
// Policy queue only.
func (cc *ClientConn) putInForce(c *serviceconfig.Config) {
	cc.policyQueue.AssertOn()
	cc.useConfig(c)
	if latest := cc.resolution.latest; latest != nil {
		_ = cc.policies.update(c, *latest)
	}
}

// forgoConfigs undoes WithServiceConfig, whose channel was closed without a config: the
// resolver's counts from now on. Policy queue only.
func (cc *ClientConn) forgoConfigs() {
	cc.policyQueue.AssertOn()
	cc.noConfigs.Store(true)
	latest := cc.resolution.latest
	if latest == nil {
		return
	}
	if config, _ := cc.chooseConfig(latest.ServiceConfig); config != nil {
		cc.putInForce(config)
	}
}
