package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
)

// The commands.
const (
	commandCheck      = "check"
	commandWatch      = "watch"
	commandCall       = "call"
	commandLoad       = "load"
	commandList       = "list"
	commandDescribe   = "describe"
	commandChannelz   = "channelz"
	commandCompletion = "completion"
	commandMan        = "man"
)

// commandText is a command as --help, the man page and the completions describe it.
type commandText struct {
	name  string
	words string // what follows the flags
	text  string
	takes [2]int // how few and how many words
	run   func(ctx context.Context, c *commandLine, s stdio) int
}

// stdio is where a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// usage reports a command line that is of no use.
func (s stdio) usage(err error) int {
	fmt.Fprintf(s.err, "grpcdial: %s\n", message(err))
	return exitUsage
}

// commandTexts are all commands, in the order of the documentation.
var commandTexts []commandText

// init breaks the cycle of the commands that print the table.
func init() {
	commandTexts = []commandText{
		{commandCheck, "TARGET", "dials once and draws what took how long, up to READY and the server's health. It tries each address once.", [2]int{1, 1}, check},
		{commandWatch, "TARGET", "prints the channel's state changes until it is stopped, and connects again whenever the connection is lost.", [2]int{1, 1}, watch},
		{commandCall, "TARGET [SERVICE/METHOD]", "makes one RPC and prints its responses as JSON. The method is looked up by the server's reflection, or in --protoset. Without a method it prints those that there are.", [2]int{1, 2}, call},
		{commandLoad, "TARGET SERVICE/METHOD", "makes many RPCs on one channel and prints their rate and a histogram of their latencies.", [2]int{2, 2}, load},
		{commandList, "TARGET [SERVICE]", "prints the services of a server, or the methods of one. With --protoset there is no TARGET.", [2]int{0, 2}, list},
		{commandDescribe, "TARGET [SYMBOL]", "prints a service, a method, a message or another symbol as source of protoc; all services if none is named. With --protoset there is no TARGET.", [2]int{0, 2}, describe},
		{commandChannelz, "TARGET", "prints what a server's channelz service knows of its channels, servers and sockets; with -v the latest events too.", [2]int{1, 1}, channelz},
		{commandCompletion, "bash|zsh|fish", "prints the completion script of a shell.", [2]int{1, 1}, completion},
		{commandMan, "", "prints the man page.", [2]int{0, 0}, man},
	}
}

func findCommand(name string) *commandText {
	for i := range commandTexts {
		if commandTexts[i].name == name {
			return &commandTexts[i]
		}
	}
	return nil
}

// flagText is a flag as --help, the man page and the completions describe it.
type flagText struct {
	name  string
	short string   // another name for it
	value string   // what it takes; empty: nothing
	text  string   // on one line
	of    []string // the commands that have it; nil: all that dial
	set   func(c *commandLine, value string) error
}

// file reports whether the flag takes the name of a file.
func (f *flagText) file() bool { return f.value == "FILE" }

// dials are the commands that connect to a target.
var dials = []string{commandCheck, commandWatch, commandCall, commandLoad, commandList, commandDescribe, commandChannelz}

// named are the commands that make an RPC which the user names.
var named = []string{commandCall, commandLoad}

// describes are the commands that take the descriptors of services.
var describes = []string{commandCall, commandLoad, commandList, commandDescribe}

// sends are the commands that send metadata.
var sends = []string{commandCall, commandLoad, commandList, commandDescribe, commandChannelz}

// isOf reports whether a command has the flag.
func (f *flagText) isOf(command string) bool {
	of := f.of
	if of == nil {
		of = dials
	}
	for _, c := range of {
		if c == command {
			return true
		}
	}
	return false
}

// flagTexts are all flags, in the order of the documentation.
var flagTexts = []flagText{
	{name: "plaintext", text: "no TLS", set: toggle(func(c *commandLine) *bool { return &c.plaintext })},
	{name: "insecure", text: "TLS without verification of the server's certificate", set: toggle(func(c *commandLine) *bool { return &c.insecure })},
	{name: "cacert", value: "FILE", text: "trust the authorities in FILE (PEM) in place of the system's", set: str(func(c *commandLine) *string { return &c.cacert })},
	{name: "cert", value: "FILE", text: "client certificate (PEM), with --key", set: str(func(c *commandLine) *string { return &c.cert })},
	{name: "key", value: "FILE", text: "its private key (PEM)", set: str(func(c *commandLine) *string { return &c.key })},
	{name: "authority", value: "NAME", text: "the :authority of requests, and the name that the server's certificate must have", set: str(func(c *commandLine) *string { return &c.authority })},
	{name: "servername", value: "NAME", text: "the same; not together with another --authority", set: str(func(c *commandLine) *string { return &c.serverName })},
	{name: "timeout", value: "T", text: "10s, 500ms, or a number of seconds: how long to try (10s; watch: for ever), the RPC included; load: the time of each RPC", set: setTimeout},
	{name: "max-time", value: "T", text: "the same, as grpcurl calls it", of: describes, set: setTimeout},
	{name: "service", value: "NAME", text: "check: the health of NAME, which must be SERVING; watch: READY while NAME is SERVING", of: []string{commandCheck, commandWatch},
		set: func(c *commandLine, s string) error { c.service, c.hasService = s, true; return nil }},
	{name: "data", short: "d", value: "JSON", text: "the request, or several one after the other for a method that takes a stream; @ reads them from standard input", of: named,
		set: func(c *commandLine, s string) error { c.data, c.hasData = s, true; return nil }},
	{name: "header", short: "H", value: "'NAME: VALUE'", text: "metadata of the RPC, any number of times; the value of a name in -bin is Base64", of: sends,
		set: func(c *commandLine, s string) error { return c.addHeader(s) }},
	{name: "protoset", value: "FILE", text: "take the descriptors from FILE (protoc --descriptor_set_out --include_imports), any number of times, in place of the server's reflection", of: describes,
		set: func(c *commandLine, s string) error { c.protosets = append(c.protosets, s); return nil }},
	{name: "max-msg-sz", value: "BYTES", text: "how large a response may be (4194304), those of the server's reflection too", of: sends,
		set: func(c *commandLine, s string) error { return setCount(&c.largest, s, math.MaxInt32) }},
	{name: "concurrency", short: "c", value: "N", text: "how many callers there are at the same time (10)", of: []string{commandLoad},
		set: func(c *commandLine, s string) error { return setCount(&c.callers, s, mostCallers) }},
	{name: "requests", short: "n", value: "N", text: "how many RPCs to make (200; with --duration as many as it takes)", of: []string{commandLoad},
		set: func(c *commandLine, s string) error { return setCount(&c.rpcs, s, mostRequests) }},
	{name: "duration", value: "T", text: "for how long to begin RPCs", of: []string{commandLoad},
		set: func(c *commandLine, s string) (err error) { c.duration, err = parseDuration(s); return err }},
	{name: "emit-defaults", text: "print fields that have their default values too", of: []string{commandCall}, set: toggle(func(c *commandLine) *bool { return &c.emitDefaults })},
	{name: "allow-unknown-fields", text: "ignore fields of --data that the message does not have", of: named, set: toggle(func(c *commandLine) *bool { return &c.allowUnknown })},
	{name: "trace", text: "draw the dial and the RPC in one waterfall, to standard error", of: []string{commandCall}, set: toggle(func(c *commandLine) *bool { return &c.trace })},
	{name: "verbose", short: "v", text: "every event as it happens, to standard error; call: and the RPC's headers and trailers; channelz: and the latest events", set: toggle(func(c *commandLine) *bool { return &c.verbose })},
	{name: "json", text: "one JSON object, or one for each line (watch)", set: toggle(func(c *commandLine) *bool { return &c.json })},
	{name: "version", text: "which grpcdial this is", of: []string{}, set: toggle(func(c *commandLine) *bool { return &c.version })},
	{name: "help", short: "h", text: "this text", of: []string{}},
}

// toggle is a flag without a value, or with true or false after a "=".
func toggle(of func(*commandLine) *bool) func(*commandLine, string) error {
	return func(c *commandLine, s string) (err error) {
		*of(c), err = strconv.ParseBool(s)
		return err
	}
}

func str(of func(*commandLine) *string) func(*commandLine, string) error {
	return func(c *commandLine, s string) error {
		*of(c) = s
		return nil
	}
}

func setTimeout(c *commandLine, s string) (err error) {
	c.timeout, err = parseDuration(s)
	return err
}

// setCount reads a number from 1 to most.
func setCount(to *int, s string, most int) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return fmt.Errorf("want a number from 1 to %d", most)
	}
	*to = n
	return nil
}

// parseDuration reads a positive duration, or a number of seconds.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if seconds, ferr := strconv.ParseFloat(s, 64); ferr == nil && seconds < math.MaxInt64/1e9 {
		d, err = time.Duration(seconds*1e9), nil
	}
	if err != nil || d <= 0 {
		return 0, errors.New("want a positive duration, as 10s or 0.5, which is seconds")
	}
	return d, nil
}

// exitText is what an exit code means.
type exitText struct {
	code, text string
}

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitStatus = 64 // and the code of the RPC's status, as grpcurl does
	mostExit   = 255
)

// statusExit is the exit code for a status other than OK. A server may answer any number,
// and of an exit code the operating system keeps eight bits.
func statusExit(c codes.Code) int {
	return exitStatus + int(min(c, mostExit-exitStatus))
}

var exitTexts = []exitText{
	{"0", "check: the channel became READY and, with --service, the service is SERVING or the server has no health service. watch: it was stopped. call: the RPC's status is OK. load: that of all RPCs is. list, describe, channelz: it was printed"},
	{"1", "it failed: not READY, not SERVING, no descriptor of the method or symbol, an RPC of a load; standard error says why, and which flags may help"},
	{"2", "the command line is wrong: an unknown flag, a file that is of no use, a target that cannot work, a request that the method does not take"},
	{"64 + N", "call: the RPC's status has the code N, for example 69 for NotFound; 255 for those above 191"},
}

const environmentText = "A proxy is taken from HTTPS_PROXY, but for the hosts in NO_PROXY. Colours are used on a terminal, unless NO_COLOR is set or TERM is dumb. " +
	"On a terminal, what takes longer than a second has a line that says how far it is."

const targetText = "TARGET is host:port, or any target that gRPC knows: dns:///host:port, unix:///path. Flags may stand before and after it, with one dash or two."
