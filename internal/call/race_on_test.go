//go:build race

package call

// underRace: the race detector is on, which makes everything many times slower.
const underRace = true
