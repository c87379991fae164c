//go:build !linux

package h2

import "time"

// setUserTimeout does nothing, and says so: the option is Linux's (gRFC A18).
func (w *Wire) setUserTimeout(time.Duration) (set bool) { return false }
