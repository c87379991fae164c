package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// reporter is a producer that opens a stream on its subchannel again and again, as
// grpc-go's for out-of-band load reports does, until it is closed.
type reporter struct {
	running, closed atomic.Int64
}

func (r *reporter) Build(conn any) (balancer.Producer, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	r.running.Add(1)
	done.Go(func() {
		defer r.running.Add(-1)
		for ctx.Err() == nil {
			s, err := conn.(grpc.ClientConnInterface).NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Echo")
			if err == nil {
				_ = s.RecvMsg(nil)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	})
	return r, func() {
		r.closed.Add(1)
		cancel()
		done.Wait()
	}
}

// holder is a policy with one subchannel and a producer on it that it never gives
// up.
type holder struct {
	balancer.Balancer
	cc       balancer.ClientConn
	producer balancer.ProducerBuilder
	sub      balancer.SubConn
	shutDown bool // Close shuts the subchannel down
}

type holderBuilder struct {
	name     string
	producer balancer.ProducerBuilder
	shutDown bool
}

func (b holderBuilder) Name() string { return b.name }
func (b holderBuilder) Build(cc balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &holder{cc: cc, producer: b.producer, shutDown: b.shutDown}
}

func (h *holder) UpdateClientConnState(s balancer.ClientConnState) (err error) {
	if h.sub != nil {
		return nil
	}
	h.sub, err = h.cc.NewSubConn(s.ResolverState.Addresses, balancer.NewSubConnOptions{StateListener: h.changed})
	if err == nil {
		h.sub.Connect()
	}
	return err
}

func (h *holder) changed(s balancer.SubConnState) {
	if s.ConnectivityState == connectivity.Ready {
		h.sub.GetOrBuildProducer(h.producer)
	}
	h.cc.UpdateState(balancer.State{ConnectivityState: s.ConnectivityState, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)})
}

func (h *holder) ResolverError(error) {}
func (h *holder) ExitIdle()           {}
func (h *holder) Close() {
	if h.shutDown {
		h.sub.Shutdown()
	}
}

// A producer that a policy holds is closed when the policy's end takes the subchannel
// with it, however the policy ends.
func TestProducersEndWithTheirPolicy(t *testing.T) {
	srv := backendtest.StartEcho(t)
	for name, end := range map[string]func(t *testing.T, cc *grpcdial.ClientConn, r *manual.Resolver){
		"Close": func(t *testing.T, cc *grpcdial.ClientConn, _ *manual.Resolver) { require.NoError(t, cc.Close()) },
		"Shutdown": func(t *testing.T, cc *grpcdial.ClientConn, _ *manual.Resolver) {
			require.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
		},
		"idle": func(*testing.T, *grpcdial.ClientConn, *manual.Resolver) {},
		"graceful switch": func(t *testing.T, cc *grpcdial.ClientConn, r *manual.Resolver) {
			r.UpdateState(resolver.State{
				Addresses:     []resolver.Address{{Addr: srv.Addr}},
				ServiceConfig: r.CC().ParseServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
			})
		},
	} {
		for _, shutDown := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, shut down in Close: %v", name, shutDown), func(t *testing.T) {
				producer := new(reporter)
				policy := holderBuilder{"grpcdial_" + t.Name(), producer, shutDown}
				balancer.Register(policy)
				for n := range int64(5) {
					r := manual.NewBuilderWithScheme("hand")
					r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: srv.Addr}}})
					opts := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(r),
						grpcdial.WithDefaultServiceConfig(fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, policy.name))}
					if name == "idle" {
						opts = append(opts, grpcdial.WithIdleTimeout(20*time.Millisecond))
					}
					cc := newClient(t, "hand:///x", opts...)
					require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
					end(t, cc, r)
					if name == "Close" || name == "Shutdown" {
						assert.Zero(t, producer.running.Load(), "running when the channel is closed")
					}
					backendtest.Eventually(t, func() bool { return producer.running.Load() == 0 && producer.closed.Load() == n+1 }, "closed, once")
				}
			})
		}
	}
}
