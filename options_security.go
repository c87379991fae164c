package grpcdial

import "google.golang.org/grpc/credentials"

// WithInsecure makes the channel use plaintext. It is the same as
// WithTransportCredentials(insecure.NewCredentials()), except that together
// with [WithTransportCredentials] or [WithCredentialsBundle] it is an error
// ([ErrInsecureWithTransportCredentials], [ErrInsecureWithBundle]) instead of
// the last one winning.
func WithInsecure() DialOption {
	return optionFunc(func(o *dialOptions) { o.insecure = true })
}

// WithTransportCredentials sets what secures each connection, TLS for
// instance. A channel needs this option, [WithCredentialsBundle] or
// [WithInsecure], and takes one of them only. nil means that the option is not
// given.
//
// ClientHandshake is called for several connections at the same time if several
// are being made.
func WithTransportCredentials(creds credentials.TransportCredentials) DialOption {
	return optionFunc(func(o *dialOptions) { o.transportCreds = creds })
}

// WithCredentialsBundle sets transport credentials and per-RPC credentials at
// once. Its per-RPC credentials are used besides those of
// [WithPerRPCCredentials]. A bundle without transport credentials is an error,
// [ErrBundleWithoutTransportCredentials]. nil means that the option is not
// given.
func WithCredentialsBundle(b credentials.Bundle) DialOption {
	return optionFunc(func(o *dialOptions) { o.bundle = b })
}

// WithPerRPCCredentials adds credentials that put their metadata into every
// RPC. Given several times, the credentials add up, in order. The default is none;
// what one RPC adds by grpc.PerRPCCredentials comes besides.
//
// Credentials that require transport security on a channel without it are an
// error, [ErrPerRPCNeedsTransportSecurity].
func WithPerRPCCredentials(creds credentials.PerRPCCredentials) DialOption {
	return optionFunc(func(o *dialOptions) { o.perRPCCreds = append(o.perRPCCreds, creds) })
}

// WithAuthority sets the :authority of the channel's RPCs and the server name
// that the transport credentials verify, in place of what the target says, which is
// the default. It stops a server name that the resolver gives for one address, too. One call
// may still choose its own :authority with grpc.CallAuthority.
//
// Credentials that have a server name of their own must agree with it; the
// dial fails otherwise.
func WithAuthority(a string) DialOption {
	return optionFunc(func(o *dialOptions) { o.authority = a })
}
