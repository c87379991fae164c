// Package policies runs grpc-go's load-balancing policies on a grpcdial channel,
// against servers that report their load.
package policies
