// Package metrics hands what is recorded for a channel to the program's metrics
// recorders (gRFC A79), and records the channel's own grpc.subchannel.* (gRFC A94).
package metrics

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"syscall"

	"golang.org/x/net/http2"
	_ "google.golang.org/grpc" // registers the metrics of gRFC A94
	"google.golang.org/grpc/credentials"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/attributevalues"
	"github.com/grpcdial/grpcdial/internal/errno"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// Recorder hands what is recorded for a channel, by itself, its policies and its
// resolvers, to those of the stats handlers that are recorders too (gRFC A79).
// Those run where the recording happens, with no lock of the channel held.
//
// It does not change once made. Any number of goroutines may record.
type Recorder struct {
	estats.UnimplementedMetricsRecorder
	recorders []estats.MetricsRecorder
	target    string  // canonical
	shutdown  []error // what a connection ends with when its subchannel is shut down
}

var _ estats.MetricsRecorder = (*Recorder)(nil)

// none is the recorder of all channels whose program records nothing.
var none Recorder

// New returns the recorder of a channel to the target that is asked for if there are any
// recorders among the handlers, with which it records. A connection that ends because of an
// error in shutdown counts as ended by its subchannel.
func New(handlers []stats.Handler, target func() string, shutdown []error) *Recorder {
	var recorders []estats.MetricsRecorder
	for _, h := range handlers {
		if r, ok := h.(estats.MetricsRecorder); ok {
			recorders = append(recorders, r)
		}
	}
	if len(recorders) == 0 {
		return &none
	}
	return &Recorder{recorders: recorders, target: target(), shutdown: shutdown}
}

// Records reports whether the program has recorders.
func (m *Recorder) Records() bool { return len(m.recorders) > 0 }

// The channel's own metrics (gRFC A94). grpc-go has registered them: it is imported, and so
// initialized before.
var (
	attemptsSucceeded = (*estats.Int64CountHandle)(estats.DescriptorForMetric("grpc.subchannel.connection_attempts_succeeded"))
	attemptsFailed    = (*estats.Int64CountHandle)(estats.DescriptorForMetric("grpc.subchannel.connection_attempts_failed"))
	disconnections    = (*estats.Int64CountHandle)(estats.DescriptorForMetric("grpc.subchannel.disconnections"))
	openConnections   = (*estats.Int64UpDownCountHandle)(estats.DescriptorForMetric("grpc.subchannel.open_connections"))
)

// Connected counts a successful attempt at addr, and its connection, with the credentials'
// auth, among those open.
func (m *Recorder) Connected(addr resolver.Address, auth credentials.AuthInfo) {
	if !m.Records() {
		return
	}
	service, locality := xdsLabels(addr)
	attemptsSucceeded.Record(m, 1, m.target, service, locality)
	openConnections.Record(m, 1, m.target, service, securityLevel(auth), locality)
}

// Failed counts a failed attempt at addr, the first of several.
func (m *Recorder) Failed(addr resolver.Address) {
	if m.Records() {
		service, locality := xdsLabels(addr)
		attemptsFailed.Record(m, 1, m.target, service, locality)
	}
}

// Disconnected counts the end of a connection that Connected counted: the subchannel has
// let it go, or lost it, because of why.
func (m *Recorder) Disconnected(addr resolver.Address, auth credentials.AuthInfo, why error) {
	if !m.Records() {
		return
	}
	service, locality := xdsLabels(addr)
	disconnections.Record(m, 1, m.target, service, locality, m.disconnectLabel(why))
	openConnections.Record(m, -1, m.target, service, securityLevel(auth), locality)
}

// xdsLabels are the labels that only xDS has, grpc.lb.backend_service and grpc.lb.locality
// (gRFC A94, in the form of A76): grpc-go's policies attach the name of the cluster and the
// locality to the address. Both are empty for an address of another resolver.
func xdsLabels(addr resolver.Address) (service, locality string) {
	const pkg = "google.golang.org/grpc/internal/xds"
	for key, v := range attributevalues.All(addr.Attributes) {
		if key.PkgPath() == pkg && key.Name() == "handshakeClusterNameKey" && v.Kind() == reflect.String {
			service = v.String()
			break
		}
	}
	for key, v := range attributevalues.All(addr.BalancerAttributes) {
		if key.PkgPath() != pkg || key.Name() != "localityKeyType" || v.Kind() != reflect.Struct {
			continue
		}
		region, zone, subZone := v.FieldByName("Region"), v.FieldByName("Zone"), v.FieldByName("SubZone")
		if region.Kind() == reflect.String && zone.Kind() == reflect.String && subZone.Kind() == reflect.String {
			locality = fmt.Sprintf("{region=%q, zone=%q, sub_zone=%q}", region, zone, subZone)
		}
		break
	}
	return service, locality
}

// securityLevel is what the credentials say of the connection; "" if they do not.
func securityLevel(auth credentials.AuthInfo) string {
	if info, ok := auth.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	}); ok {
		return info.GetCommonAuthInfo().SecurityLevel.String()
	}
	return ""
}

// disconnectLabel is gRFC A94's name for the end of a connection.
func (m *Recorder) disconnectLabel(why error) string {
	var goAway http2.GoAwayError
	var number syscall.Errno
	switch {
	case errors.As(why, &goAway):
		return "GOAWAY " + goAway.ErrCode.String()
	case slices.ContainsFunc(m.shutdown, func(s error) bool { return errors.Is(why, s) }):
		return "subchannel shutdown"
	case errno.IsReset(why):
		return "connection reset"
	case errno.IsTimedOut(why), errors.Is(why, os.ErrDeadlineExceeded), errors.Is(why, context.DeadlineExceeded), errors.Is(why, h2.ErrKeepalive):
		return "connection timed out"
	case errno.IsAborted(why):
		return "connection aborted"
	case errors.As(why, &number):
		return "socket error"
	}
	return "unknown"
}

// fits reports whether labels are as many as the metric has. A measurement with another
// number is dropped: recorders take labels by their place.
func fits(d *estats.MetricDescriptor, labels []string) bool {
	return len(labels) == len(d.Labels)+len(d.OptionalLabels)
}

func (m *Recorder) RecordInt64Count(h *estats.Int64CountHandle, incr int64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordInt64Count(h, incr, labels...)
	}
}

func (m *Recorder) RecordFloat64Count(h *estats.Float64CountHandle, incr float64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordFloat64Count(h, incr, labels...)
	}
}

func (m *Recorder) RecordInt64Histo(h *estats.Int64HistoHandle, value int64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordInt64Histo(h, value, labels...)
	}
}

func (m *Recorder) RecordFloat64Histo(h *estats.Float64HistoHandle, value float64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordFloat64Histo(h, value, labels...)
	}
}

func (m *Recorder) RecordInt64Gauge(h *estats.Int64GaugeHandle, value int64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordInt64Gauge(h, value, labels...)
	}
}

func (m *Recorder) RecordInt64UpDownCount(h *estats.Int64UpDownCountHandle, incr int64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordInt64UpDownCount(h, incr, labels...)
	}
}

// taking returns the recorders that take a measurement.
func (m *Recorder) taking(d *estats.MetricDescriptor, labels []string) []estats.MetricsRecorder {
	if len(m.recorders) == 0 || !fits(d, labels) {
		return nil
	}
	return m.recorders
}

// RegisterAsyncReporter registers reporter with every recorder. It receives
// measurements of the metrics named only.
func (m *Recorder) RegisterAsyncReporter(reporter estats.AsyncMetricReporter, named ...estats.AsyncMetric) func() {
	known := make(map[*estats.MetricDescriptor]bool, len(named))
	for _, n := range named {
		known[n.Descriptor()] = true
	}
	var unregister []func()
	for _, r := range m.recorders {
		unregister = append(unregister, r.RegisterAsyncReporter(estats.AsyncMetricReporterFunc(func(to estats.AsyncMetricsRecorder) error {
			return reporter.Report(namedOnly{to, known})
		}), named...))
	}
	return func() {
		for _, f := range unregister {
			f()
		}
	}
}

// namedOnly hands on measurements of the metrics that were named.
type namedOnly struct {
	to    estats.AsyncMetricsRecorder
	known map[*estats.MetricDescriptor]bool
}

func (n namedOnly) RecordInt64AsyncGauge(h *estats.Int64AsyncGaugeHandle, value int64, labels ...string) {
	if d := h.Descriptor(); n.known[d] && fits(d, labels) {
		n.to.RecordInt64AsyncGauge(h, value, labels...)
	}
}
