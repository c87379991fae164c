package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// The commands.
const (
	commandCheck = "check"
	commandWatch = "watch"
)

// defaultTimeout bounds a check that has no --timeout.
const defaultTimeout = 10 * time.Second

const usage = `usage: grpcdial check [flags] TARGET
       grpcdial watch [flags] TARGET
       grpcdial --help | --version
`

const help = `grpcdial dials a gRPC server and shows what happens.

` + usage + `
check dials once and draws what took how long; exits with 0 if the channel became READY, else with 1.
watch prints the channel's state changes until it is stopped, and connects again whenever the connection is lost.

TARGET is host:port, or any target that gRPC knows: dns:///host:port, unix:///path.
Flags may stand before and after it.

  --plaintext         no TLS
  --insecure          TLS without verification of the server's certificate
  --cacert FILE       trust the authorities in FILE (PEM) in place of the system's
  --cert FILE         client certificate (PEM), with --key
  --key FILE          its private key (PEM)
  --authority NAME    the :authority of requests, and the name that the server's certificate must have
  --servername NAME   the same; not together with another --authority
  --timeout T         10s, 500ms, or a number of seconds: how long to try (check: 10s), how long to watch (watch: for ever)
  --service NAME      check: the health of NAME, which must be SERVING; watch: READY while NAME is SERVING
  -v, --verbose       every event as it happens, to standard error
  --version           which grpcdial this is
  --json              one JSON object (check), or one for each line (watch)

A proxy is taken from HTTPS_PROXY, HTTP_PROXY and NO_PROXY. Colours are used on a terminal, unless NO_COLOR is set.
`

// commandLine is what the user asked for.
type commandLine struct {
	command string // commandCheck or commandWatch
	target  string

	version    bool // nothing else is wanted
	json       bool
	verbose    bool
	plaintext  bool
	insecure   bool
	cacert     string
	cert, key  string
	authority  string
	serverName string
	timeout    time.Duration // 0: none was given
	service    string
	hasService bool // --service was given, which may be ""
}

// parse reads the arguments. The error is flag.ErrHelp if help was asked for.
func parse(args []string) (*commandLine, error) {
	c := &commandLine{}
	words, err := parseAnywhere(newFlags(c), args)
	if err != nil {
		return nil, err
	}
	if c.version {
		return c, nil
	}
	if err := c.take(words); err != nil {
		return nil, err
	}
	return c, c.contradiction()
}

// newFlags are the flags, which set what they say in c.
func newFlags(c *commandLine) *flag.FlagSet {
	flags := flag.NewFlagSet("grpcdial", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	flags.BoolVar(&c.json, "json", false, "")
	flags.BoolVar(&c.verbose, "verbose", false, "")
	flags.BoolVar(&c.verbose, "v", false, "")
	flags.BoolVar(&c.version, "version", false, "")
	flags.BoolVar(&c.plaintext, "plaintext", false, "")
	flags.BoolVar(&c.insecure, "insecure", false, "")
	flags.StringVar(&c.cacert, "cacert", "", "")
	flags.StringVar(&c.cert, "cert", "", "")
	flags.StringVar(&c.key, "key", "", "")
	flags.StringVar(&c.authority, "authority", "", "")
	flags.StringVar(&c.serverName, "servername", "", "")
	flags.Func("timeout", "", func(s string) (err error) { c.timeout, err = parseTimeout(s); return err })
	flags.Func("service", "", func(s string) error { c.service, c.hasService = s, true; return nil })
	return flags
}

// parseAnywhere parses args, in which flags may stand after other words, up to
// "--". It returns the other words.
func parseAnywhere(flags *flag.FlagSet, args []string) (words []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		rest := flags.Args()
		if read := len(args) - len(rest); read > 0 && args[read-1] == "--" {
			return append(words, rest...), nil
		}
		if len(rest) == 0 {
			return words, nil
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

// take takes the command and the target from words.
func (c *commandLine) take(words []string) error {
	if len(words) == 0 {
		return errors.New("no command")
	}
	c.command = words[0]
	switch {
	case c.command == "help":
		return flag.ErrHelp
	case c.command != commandCheck && c.command != commandWatch:
		return fmt.Errorf("no command is called %q", c.command)
	case len(words) == 1:
		return errors.New("no target")
	case len(words) > 2:
		return fmt.Errorf("one target, please: what is %q?", words[2])
	}
	c.target = words[1]
	return nil
}

// contradiction says which flags cannot be honoured together.
func (c *commandLine) contradiction() error {
	tls := []struct {
		name  string
		given bool
	}{{"insecure", c.insecure}, {"cacert", c.cacert != ""}, {"cert", c.cert != ""}, {"key", c.key != ""}, {"servername", c.serverName != ""}}
	for _, f := range tls {
		if c.plaintext && f.given {
			return fmt.Errorf("--plaintext and --%s contradict each other: --%s is about TLS", f.name, f.name)
		}
	}
	switch {
	case c.insecure && c.cacert != "":
		return errors.New("--insecure and --cacert contradict each other: --insecure verifies nothing")
	case (c.cert == "") != (c.key == ""):
		return errors.New("--cert and --key go together")
	case c.authority != "" && c.serverName != "" && c.authority != c.serverName:
		return fmt.Errorf("--authority %q and --servername %q contradict each other: give one of them", c.authority, c.serverName)
	}
	return nil
}

// parseTimeout reads a positive duration, or a number of seconds.
func parseTimeout(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if seconds, ferr := strconv.ParseFloat(s, 64); ferr == nil && seconds < math.MaxInt64/1e9 {
		d, err = time.Duration(seconds*1e9), nil
	}
	if err != nil || d <= 0 {
		return 0, errors.New("want a positive duration, as 10s or 0.5, which is seconds")
	}
	return d, nil
}
