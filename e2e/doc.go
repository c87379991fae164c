// Package e2e has no code: its tests use grpcdial as another program does, by
// its public names alone, against servers on loopback.
package e2e
