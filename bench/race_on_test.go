//go:build race

package main

// underRace: the race detector is on. sync.Pool drops part of what it is given then, so that
// counts of allocations say nothing, and everything is many times slower.
const underRace = true
