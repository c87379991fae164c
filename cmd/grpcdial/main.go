// Command grpcdial dials a gRPC server as the library does and shows what
// happens.
//
//	grpcdial check TARGET   dials once and draws what took how long, up to READY
//	grpcdial watch TARGET   prints the channel's state changes until it is stopped
//
// Targets are those of gRPC: host:port, dns:///host:port, unix:///path. The
// connection is secured by TLS unless --plaintext is given. Flags may stand
// before and after the target; grpcdial --help lists them.
//
// check tries each address once. It exits with 0 if the channel became READY and,
// with --service, the server's health service says SERVING of that service, or
// there is no such service at the server. It exits with 1 otherwise. watch exits
// with 0 when it is stopped. Both exit with 2 if the command line is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // not READY, not SERVING
	exitUsage  = 2 // the command line is wrong
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command with its arguments, without its name. The end of ctx stops it.
// It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, help)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "grpcdial: %s\n%s", message(err), usage)
		return exitUsage
	case c.version:
		fmt.Fprintln(stdout, version())
		return exitOK
	}
	opts, err := c.dialOptions()
	if err != nil {
		fmt.Fprintf(stderr, "grpcdial: %s\n", message(err))
		return exitUsage
	}
	if c.command == commandWatch {
		return watch(ctx, c, opts, stdout, stderr)
	}
	return check(ctx, c, opts, stdout, stderr)
}

// version is the command's, as the go command has recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "grpcdial (unknown version)"
	}
	return fmt.Sprintf("grpcdial %s (%s)", info.Main.Version, info.GoVersion)
}
