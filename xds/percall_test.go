package xds_test

import (
	"context"
	"io"
	"testing"
	"time"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	httpfaultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	managerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// kinds are the ways to make an RPC.
var kinds = map[string]func(context.Context, grpc.ClientConnInterface, string) (string, error){"unary": ask, "stream": askStream}

// TestRouteTimeout: a route's time-out is for its RPCs only.
func TestRouteTimeout(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes: []*routepb.Route{
			to("/shop.Cart/Hang", "all", func(r *routepb.Route) {
				r.GetRoute().MaxStreamDuration = &routepb.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(50 * time.Millisecond)}
			}),
			to("/", "all"),
		},
		clusters: map[string][]string{"all": {serve(t, "all")}},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		for kind, call := range kinds {
			_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Hang")
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%s: %v", kind, err)
			began := time.Now()
			short, cancel := context.WithTimeout(backendtest.Bounded(t), 500*time.Millisecond)
			defer cancel()
			_, err = call(short, cc, "/shop.Other/Hang")
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%s: %v", kind, err)
			assert.Greater(t, time.Since(began), 400*time.Millisecond, "%s: the program's own deadline", kind)
		}
	})
}

// TestRouteRetries: a route's retry policy is for its RPCs only.
func TestRouteRetries(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes: []*routepb.Route{
			to("/shop.Cart/", "all", func(r *routepb.Route) {
				r.GetRoute().RetryPolicy = &routepb.RetryPolicy{
					RetryOn: "unavailable", NumRetries: wrapperspb.UInt32(2),
					RetryBackOff: &routepb.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(time.Millisecond), MaxInterval: durationpb.New(time.Millisecond)},
				}
			}),
			to("/", "all"),
		},
		clusters: map[string][]string{"all": {serve(t, "all")}},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		for kind, call := range kinds {
			by, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Flaky")
			require.NoError(t, err, kind)
			assert.Equal(t, "all", by, kind)
			_, err = call(backendtest.Bounded(t), cc, "/shop.Other/Flaky")
			assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", kind, err)
		}
	})
}

// TestFaults: RPCs are aborted and delayed as their headers ask for, by the HTTP filter
// of that name.
func TestFaults(t *testing.T) {
	m := manage(t)
	every := &typepb.FractionalPercent{Numerator: 100}
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "all")},
		clusters: map[string][]string{"all": {serve(t, "all")}},
		filters: []*managerpb.HttpFilter{filter(t, "fault", &httpfaultpb.HTTPFault{
			Delay: &faultpb.FaultDelay{Percentage: every, FaultDelaySecifier: &faultpb.FaultDelay_HeaderDelay_{HeaderDelay: &faultpb.FaultDelay_HeaderDelay{}}},
			Abort: &httpfaultpb.FaultAbort{Percentage: every, ErrorType: &httpfaultpb.FaultAbort_HeaderAbort_{HeaderAbort: &httpfaultpb.FaultAbort_HeaderAbort{}}},
		})},
	})
	const abort, delay = "x-envoy-fault-abort-grpc-request", "x-envoy-fault-delay-request"
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		for kind, call := range kinds {
			by, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			require.NoError(t, err, kind)
			assert.Equal(t, "all", by, kind)

			_, err = call(metadata.AppendToOutgoingContext(backendtest.Bounded(t), abort, "9"), cc, "/shop.Cart/Add")
			assert.Equal(t, codes.FailedPrecondition, status.Code(err), "%s: %v", kind, err)
			assert.ErrorContains(t, err, "fault injection", kind)
			_, err = call(metadata.AppendToOutgoingContext(backendtest.Bounded(t), abort, "0"), cc, "/shop.Cart/Add")
			assert.ErrorIs(t, err, io.EOF, "%s that ends at once, with OK", kind)

			began := time.Now()
			by, err = call(metadata.AppendToOutgoingContext(backendtest.Bounded(t), delay, "200"), cc, "/shop.Cart/Add")
			require.NoError(t, err, kind)
			assert.Equal(t, "all", by, kind)
			assert.GreaterOrEqual(t, time.Since(began), 200*time.Millisecond, kind)
			short, cancel := context.WithTimeout(backendtest.Bounded(t), 50*time.Millisecond)
			defer cancel()
			_, err = call(metadata.AppendToOutgoingContext(short, delay, "600000"), cc, "/shop.Cart/Add")
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%s: %v", kind, err)
		}
	})
}
