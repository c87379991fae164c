// Package dns is the resolver of targets with the scheme dns.
//
// It is a resolver.Builder like grpc-go's and differs from it in what it says
// and when:
//
//   - A name that cannot be resolved is an error that holds a *net.DNSError,
//     which names the server that was asked, and never an update without
//     addresses.
//   - Addresses do not wait for the service config. Both are asked for at the
//     same time; see ServiceConfigPending for what a channel does in between.
//   - A look-up of the service config that fails changes nothing: what the last
//     answer said stays in force.
//   - At rest it has no goroutine.
//
// # The life of one resolver
//
//	               Build
//	                 |
//	                 v
//	+---------> resolving <----------+
//	|             |   |              | the timer fires
//	| ResolveNow  |   | failed       |
//	|   succeeded |   +---------> waiting (back-off, minimum interval, refresh)
//	|             v                  ^
//	+---------- at rest -------------+
//	                ResolveNow too early, or Config.Refresh
//
// A resolution has succeeded when the host has an address and the channel
// accepted the update. Close ends every state.
package dns

import "google.golang.org/grpc/resolver"

// pendingKey is the attribute of ServiceConfigPending.
type pendingKey struct{}

// ServiceConfigPending reports whether the service config of s is still being
// looked up. Such an update carries the addresses alone: a channel connects to
// them and holds its RPCs until the next update or error, so that the first RPC
// sees its method config.
//
// The next update comes at the latest Config.ServiceConfigWait after this one.
// It is complete: it has the same addresses, and either the service config or,
// if there is none or it is still to come, a nil ServiceConfig. A service config
// that comes later than that is one more update. No update of a resolver is
// pending once one has been complete.
//
// The nil ServiceConfig of a pending update says nothing. In particular the
// update that follows may have an invalid service config, which is then the
// channel's first (gRFC A21).
func ServiceConfigPending(s resolver.State) bool {
	return s.Attributes.Value(pendingKey{}) != nil
}
