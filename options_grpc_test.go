package grpcdial

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"iter"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// notYet gives, for each of grpc-go's dial options that has no counterpart
// here, the reason. An option is left out rather than accepted without effect.
var notYet = map[string]string{}

// TestEveryDialOptionOfGRPC compares the functions of grpc-go that make dial
// options with ours: each is here under its name with the same parameters, or
// has a reason above.
func TestEveryDialOptionOfGRPC(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/grpc").Output()
	require.NoError(t, err)
	theirs := optionConstructors(t, strings.TrimSpace(string(dir)))
	ours := optionConstructors(t, ".")
	require.Contains(t, theirs, "WithBlock")
	require.Contains(t, ours, "WithBlock")

	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		reason, left := notYet[name]
		parameters, here := ours[name]
		switch {
		case here && left:
			t.Errorf("%s is here and has a reason not to be: %q", name, reason)
		case left:
			assert.NotEmpty(t, reason, name)
		case !here:
			t.Errorf("%s(%s) has neither a counterpart nor a reason", name, theirs[name])
		default:
			assert.Equal(t, theirs[name], parameters, name)
		}
	}
	for name := range notYet {
		assert.Contains(t, theirs, name, "a reason for what grpc-go does not have")
	}
}

// optionConstructors returns the exported functions of the package in dir that
// return a DialOption, with the types of their parameters as grpc-go would
// write them.
func optionConstructors(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for f := range optionFuncs(t, dir) {
		var types []string
		for _, parameter := range f.Type.Params.List {
			var b bytes.Buffer
			require.NoError(t, printer.Fprint(&b, token.NewFileSet(), parameter.Type))
			types = append(types, strings.ReplaceAll(b.String(), "grpc.", ""))
		}
		found[f.Name.Name] = strings.Join(types, ", ")
	}
	return found
}

func optionFuncs(t *testing.T, dir string) iter.Seq[*ast.FuncDecl] {
	t.Helper()
	return func(yield func(*ast.FuncDecl) bool) {
		for _, file := range parseSources(t, dir) {
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Recv != nil || !f.Name.IsExported() || f.Type.Results == nil || len(f.Type.Results.List) != 1 {
					continue
				}
				if result, ok := f.Type.Results.List[0].Type.(*ast.Ident); !ok || result.Name != "DialOption" {
					continue
				}
				if !yield(f) {
					return
				}
			}
		}
	}
}

// TestOptionsAreDocumented: every exported function that makes an option says
// what it does.
func TestOptionsAreDocumented(t *testing.T) {
	for f := range optionFuncs(t, ".") {
		assert.True(t, strings.HasPrefix(f.Doc.Text(), f.Name.Name+" "), "%s needs a comment that begins with its name", f.Name.Name)
	}
}

// parseSources parses the Go files in dir that are no tests.
func parseSources(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, file)
	}
	return files
}
