// Package compat tests grpcdial with what others have made for grpc-go's client.
// It holds tests only, and is a module of its own because these things depend on
// much that the library does not.
package compat
