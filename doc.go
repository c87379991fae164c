// Package grpcdial connects gRPC clients to their backends and says why when it
// cannot. It is a client channel of its own, from the target string to the
// HTTP/2 connection, for generated stubs, resolvers, load-balancing policies,
// credentials, codecs and interceptors that were written for grpc-go.
//
// # Make a channel
//
// [NewClient] does no I/O. The first RPC connects, or [ClientConn.Connect], or
// [ClientConn.AwaitReady], which also waits and says why there is no connection:
//
//	cc, err := grpcdial.NewClient("dns:///api.example.com:443",
//		grpcdial.WithTransportCredentials(credentials.NewTLS(nil)))
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer cc.Close()
//	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
//	defer cancel()
//	if err := cc.AwaitReady(ctx); err != nil {
//		log.Fatal(err)
//	}
//	client := pb.NewGreeterClient(cc)
//
// [Dial] and [DialContext] connect in the background at once, and with [WithBlock] wait
// for the connection. A target without a scheme is a name for DNS in NewClient and an
// address in the other two, as in grpc-go.
//
// Plaintext has to be asked for, with [WithInsecure].
//
// # Read a failure
//
// A wait that ended without a connection returns a [*DialError]. Printed, it
// shows for each address how far the attempt got, its error, and how to mend it
// when that is known:
//
//	grpcdial: no connection for "dns:///api.example.com:443" after 5s, in TRANSIENT_FAILURE for 4.99s (context deadline exceeded)
//		192.0.2.1:443: dial failed after 1.2ms: connect: connection refused; nothing listens there, or a firewall rejects it: is the server running, is the port right?
//		192.0.2.2:443 as "api.example.com": tls failed after 8.3ms: tls: failed to verify certificate: x509: certificate signed by unknown authority; add the authority "CN=Example CA" to RootCAs in the TLS configuration, or let the server send the intermediate certificates too
//
// A program reads the same from Attempts, or asks errors.As for the cause:
// *net.OpError, *net.DNSError, the types of package x509. errors.Is with
// context.DeadlineExceeded or context.Canceled reports whether the caller's own
// context ended the wait. An RPC that finds no connection fails with Unavailable
// and has the *DialError in its error's chain.
//
// A blocking dial and AwaitReady go on until their context ends.
// [FailOnNonTempDialError] ends them when no address is left that may still
// succeed, and [WithGiveUp] lets the program say which failures are final.
//
// # Follow a channel
//
// [ClientConn.Watch] yields every transition of the connectivity state with its
// cause, and [ClientConn.Snapshot] returns the state of the channel and of its
// endpoints at one instant; [ClientConn.GetState] and
// [ClientConn.WaitForStateChange] are grpc-go's.
//
// [WithDialTrace] calls functions for each step on the way to a connection, as
// package httptrace does for requests, and [WithLogger] writes the same events to a
// log. A channel without them logs nothing, and spends nothing on events unless the
// program serves the page of package channelz.
//
// # Use it with a library
//
// Generated stubs and whatever takes a grpc.ClientConnInterface take the channel.
// A library that takes a *grpc.ClientConn takes [ClientConn.GRPC]. One that dials by
// itself, with options of grpc-go's, takes those of ToGRPC in package bridge; FromGRPC
// there makes an option for a channel of such options. docs/libraries.md in the repository
// has the code for each library that is tested.
package grpcdial
