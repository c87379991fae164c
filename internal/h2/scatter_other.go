//go:build !linux

package h2

import "syscall"

// canScatter: one read fills one place.
const canScatter = false

func readv(int, [][]byte) (int, error) { return 0, syscall.ENOSYS }
