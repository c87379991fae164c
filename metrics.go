package grpcdial

import (
	"context"
	"errors"
	"os"
	"syscall"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// metrics hands what is recorded for a channel, by itself, its policies and its
// resolvers, to those of the stats handlers that are recorders too (gRFC A79).
// Those run where the recording happens, with no lock of the channel held.
//
// It does not change once made. Any number of goroutines may record.
type metrics struct {
	estats.UnimplementedMetricsRecorder
	recorders []estats.MetricsRecorder
	target    string // canonical
}

var _ estats.MetricsRecorder = (*metrics)(nil)

func newMetrics(handlers []stats.Handler, target string) *metrics {
	m := &metrics{target: target}
	for _, h := range handlers {
		if r, ok := h.(estats.MetricsRecorder); ok {
			m.recorders = append(m.recorders, r)
		}
	}
	return m
}

// The channel's own metrics (gRFC A94). grpc-go has registered them, as it was
// initialized before.
var (
	attemptsSucceeded = (*estats.Int64CountHandle)(estats.DescriptorForMetric("grpc.subchannel.connection_attempts_succeeded"))
	attemptsFailed    = (*estats.Int64CountHandle)(estats.DescriptorForMetric("grpc.subchannel.connection_attempts_failed"))
	disconnections    = (*estats.Int64CountHandle)(estats.DescriptorForMetric("grpc.subchannel.disconnections"))
	openConnections   = (*estats.Int64UpDownCountHandle)(estats.DescriptorForMetric("grpc.subchannel.open_connections"))
)

// Their labels besides the target that only xDS has: grpc.lb.backend_service and
// grpc.lb.locality.
const noBackendService, noLocality = "", ""

// connected counts an attempt that led to conn, and conn among those open.
func (m *metrics) connected(conn *h2.Conn) {
	if len(m.recorders) == 0 {
		return
	}
	attemptsSucceeded.Record(m, 1, m.target, noBackendService, noLocality)
	openConnections.Record(m, 1, m.target, noBackendService, securityLevel(conn), noLocality)
}

// failed counts an attempt that led to nothing.
func (m *metrics) failed() {
	if len(m.recorders) > 0 {
		attemptsFailed.Record(m, 1, m.target, noBackendService, noLocality)
	}
}

// disconnected takes back connected: the subchannel has let conn go, or lost it.
func (m *metrics) disconnected(conn *h2.Conn, why error) {
	if len(m.recorders) == 0 {
		return
	}
	disconnections.Record(m, 1, m.target, noBackendService, noLocality, disconnectLabel(why))
	openConnections.Record(m, -1, m.target, noBackendService, securityLevel(conn), noLocality)
}

// securityLevel is what the credentials say of the connection; "" if they do not.
func securityLevel(conn *h2.Conn) string {
	if info, ok := conn.Peer().AuthInfo.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	}); ok {
		return info.GetCommonAuthInfo().SecurityLevel.String()
	}
	return ""
}

// disconnectLabel is gRFC A94's name for the end of a connection.
func disconnectLabel(why error) string {
	var goAway http2.GoAwayError
	var errno syscall.Errno
	switch {
	case errors.As(why, &goAway):
		return "GOAWAY " + goAway.ErrCode.String()
	case errors.Is(why, errShutDown), errors.Is(why, errAddressRemoved):
		return "subchannel shutdown"
	case errors.Is(why, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(why, syscall.ETIMEDOUT), errors.Is(why, os.ErrDeadlineExceeded), errors.Is(why, context.DeadlineExceeded), errors.Is(why, h2.ErrKeepalive):
		return "connection timed out"
	case errors.Is(why, syscall.ECONNABORTED):
		return "connection aborted"
	case errors.As(why, &errno):
		return "socket error"
	}
	return "unknown"
}

// fits reports whether labels are as many as the metric has. What does not fit
// is dropped: recorders take them by their place.
func fits(d *estats.MetricDescriptor, labels []string) bool {
	return len(labels) == len(d.Labels)+len(d.OptionalLabels)
}

func (m *metrics) RecordInt64Count(h *estats.Int64CountHandle, incr int64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordInt64Count(h, incr, labels...)
	}
}

func (m *metrics) RecordFloat64Count(h *estats.Float64CountHandle, incr float64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordFloat64Count(h, incr, labels...)
	}
}

func (m *metrics) RecordInt64Histo(h *estats.Int64HistoHandle, value int64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordInt64Histo(h, value, labels...)
	}
}

func (m *metrics) RecordFloat64Histo(h *estats.Float64HistoHandle, value float64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordFloat64Histo(h, value, labels...)
	}
}

func (m *metrics) RecordInt64Gauge(h *estats.Int64GaugeHandle, value int64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordInt64Gauge(h, value, labels...)
	}
}

func (m *metrics) RecordInt64UpDownCount(h *estats.Int64UpDownCountHandle, incr int64, labels ...string) {
	for _, r := range m.taking(h.Descriptor(), labels) {
		r.RecordInt64UpDownCount(h, incr, labels...)
	}
}

// taking returns the recorders that are to be told of a measurement.
func (m *metrics) taking(d *estats.MetricDescriptor, labels []string) []estats.MetricsRecorder {
	if len(m.recorders) == 0 || !fits(d, labels) {
		return nil
	}
	return m.recorders
}

// RegisterAsyncReporter registers reporter with every recorder. It hears of
// measurements of the metrics named only.
func (m *metrics) RegisterAsyncReporter(reporter estats.AsyncMetricReporter, named ...estats.AsyncMetric) func() {
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
