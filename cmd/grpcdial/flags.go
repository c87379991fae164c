package main

import (
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
)

// defaultTimeout bounds a command that has no --timeout, but watch.
const defaultTimeout = 10 * time.Second

// commandLine is what the user asked for.
type commandLine struct {
	command string // a name of commandTexts
	target  string // or the shell of completion
	method  string // SERVICE/METHOD; empty: none was given
	symbol  string // of list and describe; empty: none was given

	version      bool // nothing else is wanted
	json         bool
	verbose      bool
	plaintext    bool
	insecure     bool
	cacert       string
	cert, key    string
	authority    string
	serverName   string
	timeout      time.Duration // 0: none was given
	service      string
	hasService   bool // --service was given, which may be ""
	data         string
	hasData      bool
	headers      metadata.MD
	protosets    []string
	largest      int // bytes of a response; 0: none was given
	emitDefaults bool
	allowUnknown bool
	trace        bool
	callers      int           // 0: none was given
	rpcs         int           // 0: none was given
	duration     time.Duration // 0: none was given

	given []*flagText // the flags that were given; nil once they are checked
}

// parse reads the arguments. The error is flag.ErrHelp if help was asked for. The line has
// a command even then, if one was named.
func parse(args []string) (*commandLine, error) {
	c := &commandLine{}
	words, err := parseAnywhere(newFlags(c), args)
	if err != nil {
		return c, err
	}
	if c.version {
		return c, nil
	}
	if err := c.take(words); err != nil {
		return c, err
	}
	for _, f := range c.given {
		if !f.isOf(c.command) {
			return c, fmt.Errorf("%s has no flag --%s", c.command, f.name)
		}
	}
	c.given = nil
	return c, c.contradiction()
}

// newFlags are the flags, which set what they say in c.
func newFlags(c *commandLine) *flag.FlagSet {
	flags := flag.NewFlagSet("grpcdial", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	for i := range flagTexts {
		f := &flagTexts[i]
		if f.set == nil {
			continue // package flag has help
		}
		set := func(value string) error {
			if f.of == nil || len(f.of) > 0 {
				c.given = append(c.given, f)
			}
			return f.set(c, value)
		}
		for _, name := range []string{f.name, f.short} {
			switch {
			case name == "":
			case f.value == "":
				flags.BoolFunc(name, f.text, set)
			default:
				flags.Func(name, f.text, set)
			}
		}
	}
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

// take takes the command, the target and the method from words.
func (c *commandLine) take(words []string) error {
	if len(words) == 0 {
		return errors.New("no command")
	}
	if words[0] == "help" {
		return flag.ErrHelp
	}
	command := findCommand(words[0])
	if command == nil {
		return fmt.Errorf("no command is called %q", words[0])
	}
	c.command, words = words[0], words[1:]
	if c.command == commandList || c.command == commandDescribe {
		return c.takeSymbol(words)
	}
	least, most := command.takes[0], command.takes[1]
	switch {
	case len(words) < least && len(words) > 0:
		return errors.New("no method: SERVICE/METHOD")
	case len(words) < least && c.command == commandCompletion:
		return errors.New("of which shell: bash, zsh or fish?")
	case len(words) < least:
		return errors.New("no target")
	case len(words) > most && most == 1:
		return fmt.Errorf("one target, please: what is %q?", words[1])
	case len(words) > most:
		return fmt.Errorf("what is %q?", words[most])
	}
	for i, to := range []*string{&c.target, &c.method} {
		if i < len(words) {
			*to = words[i]
		}
	}
	return nil
}

// takeSymbol takes the target and the symbol of list and describe. Descriptors from a file
// have no target.
func (c *commandLine) takeSymbol(words []string) error {
	to := []*string{&c.target, &c.symbol}
	if len(c.protosets) > 0 {
		to = to[1:]
	} else if len(words) == 0 {
		return errors.New("no target")
	}
	if len(words) > len(to) {
		if len(c.protosets) > 0 {
			return fmt.Errorf("what is %q? With --protoset %s has no target", words[0], c.command)
		}
		return fmt.Errorf("what is %q?", words[len(to)])
	}
	for i := range words {
		*to[i] = words[i]
	}
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
	case c.hasData && c.method == "":
		return errors.New("--data is for a method: which?")
	}
	return nil
}

// addHeader takes "name: value".
func (c *commandLine) addHeader(s string) error {
	name, value, ok := strings.Cut(s, ":")
	name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
	switch {
	case !ok || name == "":
		return errors.New("want 'name: value'")
	case strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_.", r)
	}):
		return fmt.Errorf("%q is no name of metadata", name)
	case strings.HasPrefix(name, "grpc-"):
		return fmt.Errorf("%q is gRPC's own", name)
	}
	if strings.HasSuffix(name, "-bin") {
		bytes, err := decodeBase64(value)
		if err != nil {
			return fmt.Errorf("the value of %q is not Base64", name)
		}
		value = string(bytes)
	} else if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("the value of %q has characters that are not printable ASCII: only names in -bin take them", name)
	}
	if c.headers == nil {
		c.headers = metadata.MD{}
	}
	c.headers.Append(name, value)
	return nil
}

// decodeBase64 takes any of the usual forms.
func decodeBase64(s string) (b []byte, err error) {
	s = strings.TrimRight(s, "=")
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err = e.DecodeString(s); err == nil {
			return b, nil
		}
	}
	return nil, err
}
