package main

import (
	"flag"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTexts: --help, the man page and the completions, which are made of the same tables.
func TestTexts(t *testing.T) {
	for name, args := range map[string][]string{
		"help": {"--help"}, "man": {"man"},
		"completion-bash": {"completion", "bash"}, "completion-zsh": {"completion", "zsh"}, "completion-fish": {"completion", "fish"},
	} {
		o := command(t, args...)
		assert.Equal(t, exitOK, o.code, name)
		assert.Empty(t, o.stderr, name)
		assertGoldenAsIs(t, name, o.stdout)
	}
	assert.Equal(t, exitUsage, command(t, "completion", "tcsh").code)
	assert.Equal(t, exitUsage, command(t, "completion").code)
	for line := range strings.SplitSeq(helpText(), "\n") {
		assert.LessOrEqual(t, len([]rune(line)), 110, line)
	}
}

// TestCompletionsWork: the shells that are here take the scripts, and bash completes by
// its.
func TestCompletionsWork(t *testing.T) {
	for shell, check := range map[string][]string{"bash": {"-n"}, "zsh": {"-n"}, "fish": {"-n"}} {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed: not checked", shell)
			continue
		}
		script := file(t, "completion", []byte(command(t, "completion", shell).stdout))
		out, err := exec.Command(path, append(check, script)...).CombinedOutput()
		require.NoError(t, err, "%s: %s", shell, out)
		if shell != "bash" {
			continue
		}
		for words, want := range map[string]string{
			"grpcdial ca":              "call",
			"grpcdial call --emit":     "--emit-defaults",
			"grpcdial -v call a:1 -":   "--plaintext",
			"grpcdial check a:1 --dat": "",
			"grpcdial completion z":    "zsh",
		} {
			out, err := exec.Command(path, "-c", "source "+script+`; COMP_WORDS=(`+words+`); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _grpcdial; echo "${COMPREPLY[@]}"`).CombinedOutput()
			require.NoError(t, err, "%s: %s", words, out)
			if want == "" {
				assert.Equal(t, "\n", string(out), words)
			} else {
				assert.Contains(t, strings.Fields(string(out)), want, words)
			}
		}
	}
}

// docs/command.md has every flag and every field of the JSON forms.
func TestDocumentation(t *testing.T) {
	file, err := os.ReadFile("../../docs/command.md")
	require.NoError(t, err)
	text := string(file)

	newFlags(&commandLine{}).VisitAll(func(f *flag.Flag) {
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		assert.True(t, strings.Contains(text, "`"+dashes+f.Name), "docs/command.md has no flag %s", f.Name)
		assert.Contains(t, helpText(), dashes+f.Name, "the flag")
	})
	for _, name := range regexp.MustCompile(`--[a-z]+`).FindAllString(text, -1) {
		assert.Contains(t, helpText(), name, "a flag that is not there")
	}

	_, fields, found := strings.Cut(text, "## JSON")
	require.True(t, found)
	seen := map[reflect.Type]bool{}
	var documented func(reflect.Type)
	documented = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice:
			documented(of.Elem())
		case reflect.Struct:
			if seen[of] || of.PkgPath() != reflect.TypeFor[jsonReport]().PkgPath() {
				return
			}
			seen[of] = true
			for i := range of.NumField() {
				name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
				assert.True(t, name == "" || strings.Contains(fields, "`"+name+"`"), "docs/command.md has no field %s of %v", name, of)
				documented(of.Field(i).Type)
			}
		}
	}
	documented(reflect.TypeFor[jsonReport]())
	documented(reflect.TypeFor[jsonChange]())
	documented(reflect.TypeFor[jsonCall]())
	documented(reflect.TypeFor[jsonLoad]())
	documented(reflect.TypeFor[jsonChannelz]())
	documented(reflect.TypeFor[jsonServices]())
	documented(reflect.TypeFor[jsonMethods]())
	documented(reflect.TypeFor[jsonSymbols]())
}
