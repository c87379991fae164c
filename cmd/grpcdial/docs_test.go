package main

import (
	"flag"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
		assert.Contains(t, text, "`"+dashes+f.Name, "the flag")
		assert.Contains(t, help, dashes+f.Name, "the flag")
	})
	for _, name := range regexp.MustCompile(`--[a-z]+`).FindAllString(text, -1) {
		assert.Contains(t, help, name, "a flag that is not there")
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
				assert.Contains(t, fields, "`"+name+"`", "%v's field", of)
				documented(of.Field(i).Type)
			}
		}
	}
	documented(reflect.TypeFor[jsonReport]())
	documented(reflect.TypeFor[jsonChange]())
}
