// Package channelzdata has channelz's data on the channels of a process: which there are,
// their subchannels and connections, what state they are in, how many RPCs they
// made, and what happened to them lately. The data are what package channelz
// serves as gRPC's channelz (gRFC A14) and channel tracing (gRFC A3).
//
// # What is in the data
//
// A [Channel] is opened with the channel and has subchannels; a [Subchannel] has
// sockets, one for each connection, draining ones included. Each has an id that
// no other has in the life of the process. Channels and subchannels have a state
// and a trace: the latest 32 events, and how many there have been. A
// subchannel that was deleted can still be looked up while the trace of its channel
// refers to it, because its own trace has the reason why it could not connect.
//
// A channel that closes leaves the data with all that belongs to it. A channel
// nested in it counts as a top one from then on.
//
// # What it costs
//
// Nothing in a program that does not import package channelz, which has them kept ([Keep]).
// In one that does:
//
// No RPC passes through here. Packages call and h2 own the counters, which are read for
// each query ([CallCounters], [SocketCounters]). [CallCount] is a counter for RPCs that
// takes the place
// of the count of running ones that a channel needs anyway, with as many writes.
// A subchannel has no counters: its figures are the sums of its sockets'.
//
// What does pass through here are events, a few for each connection: a tenth of a
// microsecond each (BenchmarkEvent), partly under the lock of its channel's data.
// The data of a channel take 0.3 kB of heap while it is unused, 1.1 kB with
// one subchannel and one connection, and 3.4 kB when both traces are full, besides
// the texts of failures, each 512 bytes at most (BenchmarkMemory).
//
// # The registry
//
// The service has to find the channels of the process, so there is one list of them
// in this package. It is a map under a mutex that is taken when a channel,
// a subchannel or a connection comes and goes. It holds weak pointers: a
// channel that its program drops without closing it is collected as if there were no
// data, and its entry goes with a later sweep.
//
// # Locks
//
// Each channel has one mutex, for the data of its subchannels and sockets too. The
// registry's mutex may be taken while it is held, and nothing else: not
// another channel's, and nothing that is not of this package is called, be it a
// counter, an error's text or an address.
//
// All methods may be called from any goroutine. Those that write do nothing on a nil
// pointer, so that callers need no check.
package channelzdata
