//go:build race

package grpcdial

// underRace: the race detector is on, which makes everything many times slower.
const underRace = true
