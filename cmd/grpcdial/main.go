// Command grpcdial dials a gRPC server as the library does and shows what
// happens.
//
//	grpcdial check TARGET                  dials once and draws what took how long, up to READY
//	grpcdial watch TARGET                  prints the channel's state changes until it is stopped
//	grpcdial call TARGET SERVICE/METHOD    makes one RPC and prints its responses
//	grpcdial load TARGET SERVICE/METHOD    makes many and prints a histogram of their latencies
//	grpcdial list TARGET [SERVICE]         prints the services of a server, or the methods of one
//	grpcdial describe TARGET [SYMBOL]      prints a symbol as source of protoc
//	grpcdial channelz TARGET               prints what the server's channelz service knows
//
// Targets are those of gRPC: host:port, dns:///host:port, unix:///path. The
// connection is secured by TLS unless --plaintext is given. Flags may stand
// before and after the target; grpcdial --help lists them and the exit codes, as do
// grpcdial man and docs/command.md.
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command with its arguments, without its name. The end of ctx stops it.
// It returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, helpText())
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "grpcdial: %s\n%s", message(err), usageOf(c.command))
		return exitUsage
	case c.version:
		fmt.Fprintln(stdout, version())
		return exitOK
	}
	return findCommand(c.command).run(ctx, c, stdio{stdin, stdout, stderr})
}

// version is the command's, as the go command has recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "grpcdial (unknown version)"
	}
	return fmt.Sprintf("grpcdial %s (%s)", info.Main.Version, info.GoVersion)
}
