// Package heavy has, in the packages below it, libraries that take minutes to compile. It
// holds tests only; docs/libraries.md says how to run them.
package heavy
