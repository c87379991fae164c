package main

import (
	"context"
	"fmt"
	"strings"
)

// completion prints the completion script of a shell. The scripts are made of the tables in
// commands.go.
func completion(_ context.Context, c *commandLine, s stdio) int {
	script, ok := map[string]func() string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.target]
	if !ok {
		fmt.Fprintf(s.err, "grpcdial: no completion for the shell %q: there are bash, zsh and fish\n", c.target)
		return exitUsage
	}
	if _, err := fmt.Fprint(s.out, script()); err != nil {
		return exitFailed
	}
	return exitOK
}

// spellings are the ways in which the flag may be written, the usual ones.
func (f *flagText) spellings() []string {
	all := []string{"--" + f.name}
	if f.short != "" {
		all = append(all, "-"+f.short)
	}
	return all
}

func bashCompletion() string {
	var b strings.Builder
	var names []string
	for _, c := range commandTexts {
		names = append(names, c.name)
	}
	var files, values []string
	for i := range flagTexts {
		switch f := &flagTexts[i]; {
		case f.file():
			files = append(files, f.spellings()...)
		case f.value != "":
			values = append(values, f.spellings()...)
		}
	}
	fmt.Fprintf(&b, `# bash completion of grpcdial: source <(grpcdial completion bash)
_grpcdial() {
	local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command= word
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in %s) command=$word; break;; esac
	done
	case $previous in
	%s) COMPREPLY=($(compgen -f -- "$current")); return;;
	%s) return;;
	esac
	case $command in
`, strings.Join(names, "|"), strings.Join(files, "|"), strings.Join(values, "|"))
	for _, c := range commandTexts {
		words := c.completions()
		for i := range flagTexts {
			if f := &flagTexts[i]; f.isOf(c.name) {
				words = append(words, f.spellings()...)
			}
		}
		fmt.Fprintf(&b, "\t%s) COMPREPLY=($(compgen -W %q -- \"$current\"));;\n", c.name, strings.Join(words, " "))
	}
	fmt.Fprintf(&b, "\t*) COMPREPLY=($(compgen -W %q -- \"$current\"));;\n\tesac\n}\ncomplete -o default -F _grpcdial grpcdial\n",
		strings.Join(append(names, "--help", "--version"), " "))
	return b.String()
}

// completions are the words that can follow a command.
func (c *commandText) completions() []string {
	if c.name == commandCompletion {
		return strings.Split(c.words, "|")
	}
	return nil
}

func zshCompletion() string {
	var b strings.Builder
	b.WriteString("#compdef grpcdial\n# zsh completion of grpcdial: grpcdial completion zsh > a directory of $fpath/_grpcdial\n_grpcdial() {\n\tlocal -a commands\n\tcommands=(\n")
	for _, c := range commandTexts {
		fmt.Fprintf(&b, "\t\t%s\n", shellQuote(c.name+":"+brief(c.text)))
	}
	b.WriteString("\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tcase $words[2] in\n")
	for _, c := range commandTexts {
		fmt.Fprintf(&b, "\t%s)\n\t\t_arguments", c.name)
		for i := range flagTexts {
			f := &flagTexts[i]
			if !f.isOf(c.name) {
				continue
			}
			value := ""
			switch {
			case f.file():
				value = ":file:_files"
			case f.value != "":
				value = ":" + strings.ReplaceAll(strings.Trim(f.value, "'"), ":", `\:`) + ": "
			}
			for _, s := range f.spellings() {
				b.WriteString(" \\\n\t\t\t" + shellQuote("*"+s+"["+strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(f.text)+"]"+value))
			}
		}
		if words := c.completions(); words != nil {
			b.WriteString(" \\\n\t\t\t" + shellQuote("2:shell:("+strings.Join(words, " ")+")"))
		}
		b.WriteString("\n\t\t;;\n")
	}
	b.WriteString("\tesac\n}\nif [ \"$funcstack[1]\" = _grpcdial ]; then _grpcdial \"$@\"; else compdef _grpcdial grpcdial; fi\n")
	return b.String()
}

func fishCompletion() string {
	var b strings.Builder
	b.WriteString("# fish completion of grpcdial: grpcdial completion fish | source\ncomplete -c grpcdial -f\n")
	for _, c := range commandTexts {
		fmt.Fprintf(&b, "complete -c grpcdial -n __fish_use_subcommand -a %s -d %s\n", c.name, shellQuote(brief(c.text)))
		for _, w := range c.completions() {
			fmt.Fprintf(&b, "complete -c grpcdial -n '__fish_seen_subcommand_from %s' -a %s\n", c.name, w)
		}
	}
	for i := range flagTexts {
		f := &flagTexts[i]
		of := f.of
		if of == nil {
			of = dials
		}
		line := "complete -c grpcdial"
		if len(of) > 0 {
			line += " -n '__fish_seen_subcommand_from " + strings.Join(of, " ") + "'"
		}
		if f.short != "" {
			line += " -s " + f.short
		}
		line += " -l " + f.name
		switch {
		case f.file():
			line += " -r -F"
		case f.value != "":
			line += " -x"
		}
		b.WriteString(line + " -d " + shellQuote(f.text) + "\n")
	}
	return b.String()
}

// brief is the first sentence of a text.
func brief(s string) string {
	first, _, _ := strings.Cut(s, ". ")
	return strings.TrimSuffix(first, ".")
}

// shellQuote is s as one word of a shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
