//go:build !linux

package h2

// canGather: a message is copied, whatever its size.
const canGather = false

type vector struct{}

func (w *Wire) tryWriteVector(*gathered) (int, error) { panic("unreachable") }

func (a *attempt) runVector(uintptr) {}
