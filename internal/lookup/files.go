package lookup

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// outOfFilesLocked returns e, unless no server has answered and no file can be opened just now:
// then the look-up has failed because of that, and the error says so. Package net, and a system
// that it asks, need descriptors for the hosts file, the configuration and the name server, and
// go on without what they could not open: to "no such host", for a name that exists.
func (q *query) outOfFilesLocked(e *net.DNSError) *net.DNSError {
	if q.answer || e.IsTimeout {
		return e
	}
	why := noFile()
	if why == nil {
		return e
	}
	return &net.DNSError{Err: why.Error(), Name: e.Name, Server: e.Server, IsTemporary: true, UnwrapErr: why}
}

// noFile returns EMFILE or ENFILE if opening a file fails with it, else nil.
func noFile() error {
	f, err := os.Open(os.DevNull)
	if err == nil {
		_ = f.Close()
	}
	for _, why := range [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, why) {
			return why
		}
	}
	return nil
}
