//go:build !unix

package main

import "time"

// cpuTime is not known without getrusage: the CPU figures read 0.
func cpuTime() time.Duration { return 0 }
