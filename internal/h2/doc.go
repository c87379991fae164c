// Package h2 is one HTTP/2 client connection that speaks gRPC (RFC 9113 and
// gRPC's PROTOCOL-HTTP2 document). It knows streams, frames, flow control,
// keepalive and GOAWAY, the gRPC headers and statuses, and nothing of
// resolvers, balancers or pickers.
//
// # Goroutines
//
// The owner of a connection runs [Conn.Serve], which reads until the
// connection is lost. Nothing else runs at rest. Writes are made by the
// goroutine that has something to send, without blocking; what the socket does
// not take is written by a goroutine that ends when the backlog is gone.
//
// # Locks
//
// Conn.mu guards the send side: the HPACK encoder, the pending buffer, stream
// ids, send windows and the table of streams. Stream.mu guards what a stream
// received. Conn.mu may be held while Stream.mu is taken, never the other way
// round. Neither is held during I/O or while anything outside this package
// is called.
//
// # The end of a stream
//
// The goroutine that takes the stream out of the table (under Conn.mu) ends it: the
// reader at END_STREAM or RST_STREAM, a cancellation, GOAWAY, or the loss of the
// connection. Only one can take it, so a stream ends exactly once.
package h2
