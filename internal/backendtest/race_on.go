//go:build race

package backendtest

// UnderRace: the race detector is on, which makes everything many times slower.
const UnderRace = true
