// Package clients runs client libraries and frameworks, most of which dial by
// themselves, on grpcdial channels. It holds tests only. Their servers have just the
// methods that a test needs.
package clients
