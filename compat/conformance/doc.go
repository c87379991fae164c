// Package conformance runs the conformance suite of the Connect project (module
// connectrpc.com/conformance) on a grpcdial channel, and on grpc-go's as a control: every
// case for clients of the gRPC protocol, with the codecs and compressions that the suite
// knows, plaintext, TLS and TLS with client certificates.
//
// The suite's runner describes one RPC after the other to the client under test, which is
// the test binary started again, and compares what it reports of each, headers, messages,
// status with details and trailers, with what that has to be.
//
// It is a module of its own because the suite depends on much that the library does not,
// and it has tests only. `.ci/run conformance` runs them.
package conformance
