package main

import (
	"io"
	"os"
	"runtime"
	"strings"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/text"
)

// paint colours texts if it is true.
type paint bool

// painter returns the paint for w: colours on a terminal that has them, unless
// NO_COLOR is set.
func painter(w io.Writer) paint {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || runtime.GOOS == "windows" {
		return false
	}
	return paint(isTerminal(f))
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (p paint) with(code, s string) string {
	if !p || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) bold(s string) string   { return p.with("1", s) }
func (p paint) dim(s string) string    { return p.with("2", s) }
func (p paint) red(s string) string    { return p.with("31", s) }
func (p paint) green(s string) string  { return p.with("32", s) }
func (p paint) yellow(s string) string { return p.with("33", s) }
func (p paint) blue(s string) string   { return p.with("34", s) }

// message is err's text, of which each line is fit for a terminal: names in certificates
// and texts of errors are what the peer likes them to be.
func message(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, l := range lines {
		lines[i] = text.Line(l)
		if i > 0 {
			lines[i] = "\t" + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}

// state colours the name of a state.
func (p paint) state(s connectivity.State) string {
	switch s {
	case connectivity.Ready:
		return p.green(s.String())
	case connectivity.Connecting:
		return p.yellow(s.String())
	case connectivity.TransientFailure:
		return p.red(s.String())
	default:
		return p.dim(s.String())
	}
}
