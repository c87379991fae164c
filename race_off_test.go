//go:build !race

package grpcdial

const underRace = false
