// Package interop runs grpc-go's interoperability cases on a grpcdial channel
// against grpc-go's interoperability server. It holds tests only, and is a
// module of its own because the cases depend on much that the library does not.
//
// Every case runs on three clients: grpcdial's channel, the *grpc.ClientConn
// that bridges to it, and grpc-go's own channel as a control. A case that fails
// on grpc-go too points at the case, the server or the machine.
//
// Command node beside it runs cases against a server in another language.
//
// The cases are described in
// https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md.
package interop
