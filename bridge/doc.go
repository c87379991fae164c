// Package bridge carries options between grpc-go and grpcdial, for code that dials
// with grpc-go's own options.
//
// [FromGRPC] makes a grpcdial option of grpc-go's dial options, such as those that the
// programs of a company share, or a plugin that exists as a grpc.DialOption only:
//
//	opt, err := bridge.FromGRPC(opentelemetry.DialOption(o))
//	cc, err := grpcdial.NewClient(target, opt)
//
// [ToGRPC] makes options for a library that calls grpc.NewClient or
// grpc.DialContext itself. The RPCs of its *grpc.ClientConn run on a grpcdial
// channel then:
//
//	c, err := client.Dial(client.Options{DialOptions: bridge.ToGRPC()})
//
// Nothing that was asked for is lost silently. An option that cannot be carried over is
// an error that names it: of FromGRPC, or of the library's dial.
//
// # Why this package uses reflection and unsafe
//
// What a grpc.DialOption says is in unexported fields of grpc-go, and there is no
// public way to read it. This package reads and sets these fields. No other package sets
// any: the channel depends on grpc-go's public API, except that it reads attributes by
// reflection, and does without those that it does not find. Each field is looked up by
// its name and its type is compared before it is touched. If a version of grpc-go has
// another shape than the versions that this package supports, its functions fail with an
// error that says which field was expected; a field that they do not expect is an error
// if an option has set it.
package bridge
