package failure

import (
	"crypto/tls"
	"errors"
	"net"
	"reflect"
	"strings"
)

// Alert finds the TLS alert that err is about. remote says that the server sent
// it. crypto/tls reports alerts over TCP as an unexported type; callers get the
// exported one, which has the same numbers and texts.
func Alert(err error) (alert tls.AlertError, remote, ok bool) {
	var op *net.OpError
	for errors.As(err, &op) {
		if a, ok := alertNumber(op.Err); ok {
			return a, op.Op == "remote error", true
		}
		err = op.Err
	}
	if errors.As(err, &alert) {
		return alert, true, true // connections that are not crypto/tls's own use the exported type
	}
	return 0, false, false
}

// alertNumber reads the value of crypto/tls's unexported alert type.
func alertNumber(err error) (tls.AlertError, bool) {
	if a, ok := err.(tls.AlertError); ok {
		return a, true
	}
	if err == nil {
		return 0, false
	}
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Uint8 && v.Type().PkgPath() == "crypto/tls" && v.Type().Name() == "alert" {
		return tls.AlertError(v.Uint()), true
	}
	return 0, false
}

// WithAlert returns err so that errors.As finds a tls.AlertError in it, if it
// is about a TLS alert; its text and what else errors.Is and As find stay as
// they are. found says whether it is.
func WithAlert(err error) (_ error, found bool) {
	alert, _, ok := Alert(err)
	if !ok {
		return err, false
	}
	if errors.As(err, new(tls.AlertError)) {
		return err, true
	}
	return &alertError{err, alert}, true
}

type alertError struct {
	error
	alert tls.AlertError
}

func (e *alertError) Unwrap() []error { return []error{e.error, e.alert} }

// WithoutALPNAdvice returns err without the advice of grpc-go's TLS credentials on
// upgrades of grpc-go, if it is about a server that chose no protocol by ALPN.
func WithoutALPNAdvice(err error) error {
	if text, _, found := strings.Cut(err.Error(), alpnAdvice); found && strings.Contains(text, noALPN) {
		return &shortened{text, err}
	}
	return err
}

// How grpc-go's TLS credentials say that the server chose no protocol by ALPN, for
// which they have no type, and what follows that.
const (
	noALPN     = "missing selected ALPN property"
	alpnAdvice = ". If you upgraded from a grpc-go version"
)

type shortened struct {
	text string
	err  error
}

func (e *shortened) Error() string { return e.text }
func (e *shortened) Unwrap() error { return e.err }

// The alerts that the table distinguishes (RFC 8446 §6).
const (
	alertHandshakeFailure       tls.AlertError = 40
	alertBadCertificate         tls.AlertError = 42
	alertUnsupportedCertificate tls.AlertError = 43
	alertCertificateRevoked     tls.AlertError = 44
	alertCertificateExpired     tls.AlertError = 45
	alertCertificateUnknown     tls.AlertError = 46
	alertUnknownCA              tls.AlertError = 48
	alertAccessDenied           tls.AlertError = 49
	alertProtocolVersion        tls.AlertError = 70
	alertInsufficientSecurity   tls.AlertError = 71
	alertInternalError          tls.AlertError = 80
	alertUnrecognizedName       tls.AlertError = 112
	alertCertificateRequired    tls.AlertError = 116
	alertNoApplicationProtocol  tls.AlertError = 120
)
