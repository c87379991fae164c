// Package repotest has no code: its tests hold what is true of the repository as a whole,
// which package may import which, and which public names there are.
package repotest
