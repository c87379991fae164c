// Package errno names what the error numbers of sockets mean. Windows reports numbers of its own, of which package syscall
// does not say that they are the names': errors.Is(err, syscall.ECONNRESET) is false there for a connection that was reset.
// On other systems these numbers mean nothing.
package errno

import (
	"errors"
	"syscall"
)

// The numbers of Windows.
const (
	wsaNoAddressFamily  = syscall.Errno(10047)
	wsaAddrNotAvailable = syscall.Errno(10049)
	wsaNetDown          = syscall.Errno(10050)
	wsaNetUnreachable   = syscall.Errno(10051)
	wsaAborted          = syscall.Errno(10053)
	wsaReset            = syscall.Errno(10054)
	wsaShutDown         = syscall.Errno(10058)
	wsaTimedOut         = syscall.Errno(10060)
	wsaRefused          = syscall.Errno(10061)
	wsaHostUnreachable  = syscall.Errno(10065)
)

// IsReset reports whether the peer reset the connection.
func IsReset(err error) bool { return is(err, syscall.ECONNRESET, wsaReset) }

// IsAborted reports whether this side's system gave the connection up.
func IsAborted(err error) bool { return is(err, syscall.ECONNABORTED, wsaAborted) }

// IsEnded reports whether the connection was over when it was read from or written to:
// reset, given up, or closed by the peer before a write.
func IsEnded(err error) bool {
	return IsReset(err) || IsAborted(err) || is(err, syscall.EPIPE, wsaShutDown)
}

// IsTimedOut reports whether the peer's system did not answer in the time that this side's gives it.
func IsTimedOut(err error) bool { return is(err, syscall.ETIMEDOUT, wsaTimedOut) }

// IsRefused reports whether no process listens at the address.
func IsRefused(err error) bool { return is(err, syscall.ECONNREFUSED, wsaRefused) }

// IsUnreachable reports whether there is no way to the address.
func IsUnreachable(err error) bool {
	return is(err, syscall.ENETUNREACH, wsaNetUnreachable) || is(err, syscall.EHOSTUNREACH, wsaHostUnreachable) || is(err, syscall.ENETDOWN, wsaNetDown)
}

// IsNoLocalAddress reports whether this machine has no address, or no free port, to connect from.
func IsNoLocalAddress(err error) bool { return is(err, syscall.EADDRNOTAVAIL, wsaAddrNotAvailable) }

// IsNoFamily reports whether this machine does not have the family of the address.
func IsNoFamily(err error) bool { return is(err, syscall.EAFNOSUPPORT, wsaNoAddressFamily) }

func is(err error, name, windows syscall.Errno) bool {
	return errors.Is(err, name) || errors.Is(err, windows)
}
