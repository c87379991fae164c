// Package proxy says which proxy an address takes, and goes through it: CONNECT
// over http and https, and SOCKS 5.
//
// A [Func] chooses; FromEnvironment is the one of HTTPS_PROXY and NO_PROXY.
// [Connect] dials the proxy, does its handshake and returns the connection to
// the target. What fails is an *[Error].
//
// A user name and a password are in the proxy's URL and nowhere else: no error
// and no text of this package holds them. They are sent in the CONNECT request,
// for https after the proxy's certificate was verified; http and SOCKS 5 know
// no other way than clear text.
package proxy
