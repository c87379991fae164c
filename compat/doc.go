// Package compat runs libraries that were made for grpc-go's channel on one of
// grpcdial's. It holds tests only, and is a module of its own because of what
// these libraries depend on.
//
// Where grpc-go's own channel shows what is right, the same is asked of both.
package compat
