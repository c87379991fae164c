package grpcdial

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
)

// The combinations of security options that Dial, DialContext and NewClient
// refuse. Their errors match these values with errors.Is.
var (
	// ErrNoTransportSecurity: no option says how connections are secured. A
	// channel without security has to be asked for.
	ErrNoTransportSecurity = errors.New("grpcdial: nothing says how to secure connections: " +
		"give WithTransportCredentials or WithCredentialsBundle, or WithInsecure for plaintext")

	// ErrTransportCredentialsWithBundle: WithTransportCredentials and
	// WithCredentialsBundle were both given.
	ErrTransportCredentialsWithBundle = errors.New("grpcdial: WithTransportCredentials and WithCredentialsBundle were both given: " +
		"a bundle brings transport credentials of its own, so give one of them")

	// ErrBundleWithoutTransportCredentials: the TransportCredentials of the
	// bundle given with WithCredentialsBundle are nil.
	ErrBundleWithoutTransportCredentials = errors.New("grpcdial: the bundle of WithCredentialsBundle has no transport credentials")

	// ErrInsecureWithTransportCredentials: WithInsecure and
	// WithTransportCredentials were both given.
	ErrInsecureWithTransportCredentials = errors.New("grpcdial: WithInsecure and WithTransportCredentials were both given: " +
		"the channel is either plaintext or secured by the credentials, so give one of them")

	// ErrInsecureWithBundle: WithInsecure and WithCredentialsBundle were both
	// given.
	ErrInsecureWithBundle = errors.New("grpcdial: WithInsecure and WithCredentialsBundle were both given: " +
		"the channel is either plaintext or secured by the bundle, so give one of them")

	// ErrPerRPCNeedsTransportSecurity: per-RPC credentials whose
	// RequireTransportSecurity is true would be sent over connections that
	// are not secured. The error says where the credentials come from.
	//
	// How secure a connection is may only be known once it is made: those of
	// package credentials/local are secure on unix sockets alone. Then it is the
	// cause of the failed Attempt, in phase PhaseTLS. RPCs whose own credentials
	// (grpc.PerRPCCredentials) require what their connection does not have end with
	// Unauthenticated and match it too.
	ErrPerRPCNeedsTransportSecurity = errors.New("grpcdial: per-RPC credentials require transport security, which this channel does not have")
)

// insecureConnError is the cause of an attempt whose connection is less secure than
// the credentials of RPCs demand.
type insecureConnError struct{}

func (insecureConnError) Error() string { return failure.ErrInsecure.Error() }
func (insecureConnError) Unwrap() error { return ErrPerRPCNeedsTransportSecurity }

// insecureProtocol is the name that transport credentials without security
// give as their protocol.
const insecureProtocol = "insecure"

// tlsProtocol is the name that transport credentials give as their protocol whose
// connections are TLS. grpc-go sends requests on those with the scheme https, and
// on all others with http.
const tlsProtocol = "tls"

// channelCredentials is the outcome of checkCredentials.
type channelCredentials struct {
	transport credentials.TransportCredentials // never nil
	perRPC    []credentials.PerRPCCredentials  // of the options in order, then the bundle's
	insecure  bool                             // connections are not secured
}

// secure has cfg's connections made with c.
func (c channelCredentials) secure(cfg *connect.Config) {
	cfg.Creds, cfg.Secure = c.transport, !c.insecure
	cfg.H2.Scheme = "http"
	if c.transport.Info().SecurityProtocol == tlsProtocol {
		cfg.H2.Scheme = "https"
	}
	cfg.RequireSecurity = slices.ContainsFunc(c.perRPC, credentials.PerRPCCredentials.RequireTransportSecurity)
}

// withBundle is c for the connections of a subchannel with a bundle of its own, as
// balancer.NewSubConnOptions has it: in place of the channel's bundle, and besides
// fromOptions, the credentials of WithPerRPCCredentials. A bundle without transport
// credentials leaves those of the channel.
func (c channelCredentials) withBundle(b credentials.Bundle, fromOptions []credentials.PerRPCCredentials) channelCredentials {
	if t := b.TransportCredentials(); t != nil {
		c.transport = t
		c.insecure = t.Info().SecurityProtocol == insecureProtocol
	}
	c.perRPC = fromOptions
	if p := b.PerRPCCredentials(); p != nil {
		c.perRPC = append(slices.Clip(fromOptions), p)
	}
	return c
}

// checkCredentials makes the channel's credentials of the security options, or
// says which combination of them is illegal: with one of the errors above in
// its chain. The bundle is asked for its parts once.
func checkCredentials(o *dialOptions) (channelCredentials, error) {
	switch {
	case o.insecure && o.transportCreds != nil:
		return channelCredentials{}, ErrInsecureWithTransportCredentials
	case o.insecure && o.bundle != nil:
		return channelCredentials{}, ErrInsecureWithBundle
	case o.transportCreds != nil && o.bundle != nil:
		return channelCredentials{}, ErrTransportCredentialsWithBundle
	}

	c := channelCredentials{perRPC: o.perRPCCreds}
	var fromBundle credentials.PerRPCCredentials
	var from string // the option that the transport credentials come from
	switch {
	case o.insecure:
		c.transport, from = insecure.NewCredentials(), "WithInsecure"
	case o.transportCreds != nil:
		c.transport, from = o.transportCreds, "the insecure credentials of WithTransportCredentials"
	case o.bundle != nil:
		from = "the insecure credentials of the bundle of WithCredentialsBundle"
		c.transport = o.bundle.TransportCredentials()
		if c.transport == nil {
			return channelCredentials{}, ErrBundleWithoutTransportCredentials
		}
		fromBundle = o.bundle.PerRPCCredentials()
	default:
		return channelCredentials{}, ErrNoTransportSecurity
	}

	c.insecure = c.transport.Info().SecurityProtocol == insecureProtocol
	if c.insecure {
		for _, p := range o.perRPCCreds {
			if p.RequireTransportSecurity() {
				return channelCredentials{}, fmt.Errorf("%w: %T of WithPerRPCCredentials contradicts %s", ErrPerRPCNeedsTransportSecurity, p, from)
			}
		}
		if fromBundle != nil && fromBundle.RequireTransportSecurity() {
			return channelCredentials{}, fmt.Errorf("%w: %T of the bundle of WithCredentialsBundle contradicts its own insecure credentials", ErrPerRPCNeedsTransportSecurity, fromBundle)
		}
	}
	if fromBundle != nil {
		c.perRPC = append(slices.Clip(c.perRPC), fromBundle)
	}
	return c, nil
}
