//go:build !race

package backendtest

const UnderRace = false
