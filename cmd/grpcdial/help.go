package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// The texts of --help and of the man page are made of the tables in commands.go.

// usageOf is the usage of one command; of all if name is none's.
func usageOf(name string) string {
	if c := findCommand(name); c != nil {
		return "usage: " + c.usage() + "\n       grpcdial --help\n"
	}
	var names []string
	for _, c := range commandTexts {
		names = append(names, c.name)
	}
	return "usage: grpcdial " + strings.Join(names, "|") + " [flags] ...\n       grpcdial --help | --version\n"
}

func (c *commandText) usage() string {
	parts := []string{"grpcdial", c.name}
	if slices.ContainsFunc(flagTexts, func(f flagText) bool { return f.isOf(c.name) }) {
		parts = append(parts, "[flags]")
	}
	if c.words != "" {
		parts = append(parts, c.words)
	}
	return strings.Join(parts, " ")
}

// helpText is what --help prints.
func helpText() string {
	var b strings.Builder
	b.WriteString("grpcdial dials a gRPC server and shows what happens.\n\n")
	for i, c := range commandTexts {
		head := "       "
		if i == 0 {
			head = "usage: "
		}
		b.WriteString(head + c.usage() + "\n")
	}
	b.WriteString("       grpcdial --help | --version\n\n")
	for _, c := range commandTexts {
		writeWrapped(&b, c.name+" "+c.text, "", 110)
	}
	b.WriteString("\n")
	writeWrapped(&b, targetText, "", 110)
	b.WriteString("\n")
	width := 0
	for i := range flagTexts {
		width = max(width, len(flagTexts[i].forms()))
	}
	width = min(width, 28)
	for i := range flagTexts {
		f := &flagTexts[i]
		text := f.text
		if len(f.of) > 0 && !strings.HasPrefix(text, f.of[0]+":") {
			text = strings.Join(f.of, ", ") + ": " + text
		}
		forms := "  " + pad(f.forms(), width) + "  "
		if len(f.forms()) > width {
			forms += "\n" + strings.Repeat(" ", width+4)
		}
		writeHanging(&b, forms, text, strings.Repeat(" ", width+4), 110)
	}
	b.WriteString("\nExit codes:\n\n")
	for _, e := range exitTexts {
		writeHanging(&b, "  "+pad(e.code, 8), e.text, strings.Repeat(" ", 10), 110)
	}
	b.WriteString("\n")
	writeWrapped(&b, environmentText, "", 110)
	return b.String()
}

// forms is how the flag is written.
func (f *flagText) forms() string {
	s := "--" + f.name
	if f.short != "" {
		s = "-" + f.short + ", " + s
	}
	if f.value != "" {
		s += " " + f.value
	}
	return s
}

func writeWrapped(b *strings.Builder, text, indent string, width int) {
	writeHanging(b, indent, text, indent, width)
}

// writeHanging writes text after head, in lines of at most width characters, of which all
// but the first begin with indent.
func writeHanging(b *strings.Builder, head, text, indent string, width int) {
	line := head
	room := func() int { return len([]rune(line[strings.LastIndexByte(line, '\n')+1:])) }
	fresh := true
	for _, word := range strings.Fields(text) {
		if !fresh && room()+1+len([]rune(word)) > width {
			b.WriteString(line + "\n")
			line, fresh = indent, true
		}
		if !fresh {
			line += " "
		}
		line, fresh = line+word, false
	}
	b.WriteString(line + "\n")
}

// man prints the man page.
func man(_ context.Context, _ *commandLine, s stdio) int {
	if _, err := fmt.Fprint(s.out, manPage()); err != nil {
		return exitFailed
	}
	return exitOK
}

// manPage is the man page in the macros of man(7).
func manPage() string {
	var b strings.Builder
	b.WriteString(".TH GRPCDIAL 1 \"\" \"grpcdial\" \"User Commands\"\n.SH NAME\ngrpcdial \\- dial a gRPC server and show what happens\n.SH SYNOPSIS\n")
	for _, c := range commandTexts {
		b.WriteString(".B " + roff(c.usage()) + "\n.br\n")
	}
	b.WriteString(".SH DESCRIPTION\n" + roff(targetText) + "\n.SH COMMANDS\n")
	for _, c := range commandTexts {
		b.WriteString(".TP\n.B " + roff(c.name+" "+c.words) + "\n" + roff(c.text) + "\n")
	}
	b.WriteString(".SH OPTIONS\n")
	for i := range flagTexts {
		f := &flagTexts[i]
		b.WriteString(".TP\n.B " + roff(f.forms()) + "\n")
		if len(f.of) > 0 {
			b.WriteString(roff("("+strings.Join(f.of, ", ")+") ") + "\n")
		}
		b.WriteString(roff(f.text) + "\n")
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, e := range exitTexts {
		b.WriteString(".TP\n.B " + roff(e.code) + "\n" + roff(e.text) + "\n")
	}
	b.WriteString(".SH ENVIRONMENT\n" + roff(environmentText) + "\n")
	return b.String()
}

// roff is text as it stands in a man page.
func roff(s string) string {
	s = strings.TrimSpace(strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s))
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
