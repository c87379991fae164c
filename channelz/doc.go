// Package channelz serves gRPC's channelz for the channels that grpcdial has
// made in this process: grpc.channelz.v1, which grpcdebug and grpcurl read, and a live
// page for browsers:
//
//	s := grpc.NewServer()
//	channelz.Register(s)
//	http.Handle("/debug/grpcdial", channelz.Handler())
//
// Channels are listed from their dial to their Close; a channel made before the service
// was registered is there with its history. The import of this package is what has the
// data kept: a program without it pays nothing for them, and channels that are dialed before
// the package is initialized, by a variable of another one, are not listed. The service has:
//
//   - channels, nested ones under the parent that WithChannelzParentID
//     named: target, state, RPCs started, succeeded and failed, the time of the latest
//     start (exact to a millisecond);
//   - subchannels: addresses, state, and the RPCs on their connections, those that have
//     ended included. A deleted subchannel can be queried by its id as
//     long as the events of its channel refer to it;
//   - sockets, which are connections: both addresses, the server's name, streams,
//     messages, keepalives, windows, GOAWAY, how it is secured. The TLS version is
//     among the socket's options, under the name "TLS version", because the
//     protocol has no field for it;
//   - the latest 32 events of each channel and subchannel (gRFC A3).
//
// An event that has never happened has the time 0, the beginning of 1970, as in
// grpc-go's channelz. So have the latest messages of a socket: the clock is not read for
// each message, which would slow RPCs down. grpcdebug stops at a socket that is not TCP.
//
// It lists no servers: grpcdial has none. Ids are above 1,000,000,000,000, where grpc-go's
// own are not, so that the two do not collide.
//
// # Beside grpc-go's channelz
//
// A server has one channelz service. To have grpc-go's channels, servers and
// sockets in it as well, register its service on what [Merge] makes of the server,
// and do not call [Register]:
//
//	service.RegisterChannelzServiceToServer(channelz.Merge(s))
//
// with google.golang.org/grpc/channelz/service. This package does not import that
// one, because the import alone makes grpc-go collect its figures.
//
// A grpcdial channel whose WithChannelzParentID is a channel of grpc-go's is nested in
// that one in the merged lists, and a top channel where grpc-go's are not served. A channel
// that grpc-go makes with a grpcdial channel as its parent, as some of its policies do, is
// a top channel: grpc-go accepts only parents of its own.
//
// # The page
//
// [Handler] shows the same channels in a browser, and more of each: why it is not READY,
// what to do about it, and where the latest dials spent their time.
//
// # Access
//
// The callers of the service and of the page can read targets, addresses, errors and
// names of certificates. Serve them to operators only.
package channelz
