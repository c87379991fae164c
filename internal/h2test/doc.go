// Package h2test is a scripted HTTP/2 server for tests: it does to a gRPC client
// what real servers do not do, in an order and at a time that the test decides.
//
// A test listens, lets its client dial, and walks through the connection. Every
// wait is bounded and fails the test with the frame that was expected and the
// one that came; a failed test shows all frames of its connections.
//
//	func TestServerRefusesStream(t *testing.T) {
//		h2test.CheckLeaks(t)
//		srv := h2test.Listen(t)
//		client := dial(t, srv.Addr()) // connects in the background
//
//		conn := srv.Accept()
//		conn.Handshake(h2test.MaxConcurrentStreams(10))
//		result := call(client, "/pkg.Service/Method")
//
//		headers, _ := conn.ExpectUnary()
//		conn.RST(headers.StreamID, http2.ErrCodeRefusedStream)
//		headers, payload := conn.ExpectUnary() // tried again
//		conn.ReplyUnary(headers.StreamID, payload)
//		<-result
//	}
//
// Listen serves TCP or a unix socket, plaintext or TLS. Pipe is a connection in
// memory, for tests of time in a testing/synctest bubble.
//
// Expect methods pass over WINDOW_UPDATE frames; Skip chooses what else they
// pass over. Nothing is answered unless the script says so, but for PING and
// SETTINGS that Skip names, which are acknowledged.
//
// The client is held to RFC 9113 while the script reads: windows, stream
// identifiers and states, MAX_CONCURRENT_STREAMS, frame sizes and HPACK table
// updates; a breach fails the test. Lenient switches that off. Frames that the script
// itself sends are never checked.
//
// A peer that must act beside the test runs in a goroutine of its own, for every
// connection (Server.Script) or for one (Conn.Go):
//
//	srv := h2test.Listen(t, h2test.WithTLS(), h2test.SocketBuffers(4096, 4096))
//	srv.Script(func(c *h2test.Conn) {
//		c.Handshake()
//		c.StopReading() // until the end of the test
//	})
//
// Where the script does not matter, Server.Serve or Conn.Loop answers for it:
// they acknowledge SETTINGS and PING, return flow-control credit and call a
// function as requests come, Echo for one.
//
//	srv.Serve(func(s *h2test.Stream) {
//		if s.Method() == "/pkg.Service/Refuse" {
//			s.RST(http2.ErrCodeRefusedStream)
//			return
//		}
//		h2test.Echo(s)
//	})
//
// NewCA makes certificates, right and wrong ones, that hold in a bubble as well
// as today. CheckLeaks and VerifyNoLeaks find goroutines that outlive a test.
package h2test
