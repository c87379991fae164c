package h2

import (
	"syscall"
	"unsafe"
)

// canScatter: one read can fill several places.
const canScatter = true

// readv reads into the places, as far as there is something.
func readv(fd int, places [][]byte) (int, error) {
	var iov [maxPlaces]syscall.Iovec
	for i, p := range places {
		iov[i].Base = &p[0]
		iov[i].SetLen(len(p))
	}
	n, _, err := syscall.Syscall(syscall.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(places)))
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}
