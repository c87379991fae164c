// Package foreignselector is where the module xds and the root package meet. A resolver of
// grpc-go's that chooses a config for each RPC hands its selector to the channel by types
// that grpc-go does not export. The root does not know them; module xds does, and a
// program that uses it imports it.
package foreignselector

import (
	"sync/atomic"

	"google.golang.org/grpc/resolver"
)

var translator atomic.Pointer[func(resolver.State) resolver.State]

// Register sets the function that returns an update with a selector of grpcdial's beside
// that of grpc-go's. It is called by module xds when the program starts.
func Register(translate func(resolver.State) resolver.State) { translator.Store(&translate) }

// Registered reports whether there is such a function.
func Registered() bool { return translator.Load() != nil }

// Translate returns s as that function makes it, as it is if there is none.
func Translate(s resolver.State) resolver.State {
	if translate := translator.Load(); translate != nil {
		return (*translate)(s)
	}
	return s
}
