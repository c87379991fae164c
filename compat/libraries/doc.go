// Package libraries runs libraries that speak gRPC on grpcdial channels: by the channel
// itself, by its *grpc.ClientConn, or by options for those that dial by themselves. It
// holds tests only. Servers have just the methods that a test needs, and note the user
// agents of their clients.
package libraries
