package repotest_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/grpcdial/grpcdial"

// mayImport says which of our packages each of our packages may import, as
// ARCHITECTURE.md draws it. Paths are relative to the module; "" is the root.
// Packages that are not named may import none: add them here when they come.
var mayImport = map[string][]string{
	"":                         {"internal/addresslist", "internal/attempts", "internal/attributevalues", "internal/backoff", "internal/call", "internal/connect", "internal/dns", "internal/failure", "internal/foreignselector", "internal/h2", "internal/intercept", "internal/channelzdata", "internal/latch", "internal/live", "internal/mask", "internal/metrics", "internal/proxy", "internal/serial", "internal/serviceconfig", "internal/subchannel", "internal/text"},
	"bridge":                   {"", "internal/intercept"},
	"channelz":                 {"internal/channelzdata", "internal/live", "internal/text"},
	"cmd/grpcdial":             {"", "internal/errno", "internal/text"},
	"e2e":                      nil,
	"internal/addresslist":     nil,
	"internal/attributevalues": nil,
	"internal/backendtest":     {"internal/h2test", "internal/serial"}, // for tests
	"internal/attempts":        {"internal/connect", "internal/errno", "internal/failure", "internal/mask"},
	"internal/backoff":         nil,
	"internal/bytepool":        nil,
	"internal/call":            {"internal/bytepool", "internal/h2", "internal/intercept", "internal/channelzdata", "internal/latch", "internal/mask", "internal/serviceconfig", "internal/text"},
	"internal/connect":         {"internal/attributevalues", "internal/failure", "internal/h2", "internal/lookup", "internal/proxy", "internal/text"},
	"internal/dns":             {"internal/backoff", "internal/lookup", "internal/text"},
	"internal/dnstest":         nil, // for tests
	"internal/errno":           nil,
	"internal/failure":         {"internal/errno", "internal/text"},
	"internal/foreignselector": nil,
	"internal/h2":              {"internal/bytepool", "internal/errno", "internal/latch", "internal/text"},
	"internal/h2test":          nil, // for tests: nothing that is no test imports it
	"internal/intercept":       nil,
	"internal/channelzdata":    {"internal/live", "internal/text"},
	"internal/latch":           nil,
	"internal/live":            nil,
	"internal/lookup":          nil,
	"internal/mask":            nil,
	"internal/metrics":         {"internal/attributevalues", "internal/errno", "internal/h2"},
	"internal/proxy":           {"internal/errno", "internal/text"},
	"internal/proxytest":       nil, // for tests
	"internal/repotest":        nil,
	"internal/serial":          nil,
	"internal/serviceconfig":   {"internal/text"},
	"internal/subchannel":      {"internal/attempts", "internal/backoff", "internal/call", "internal/channelzdata", "internal/connect", "internal/failure", "internal/h2", "internal/latch", "internal/mask", "internal/metrics", "internal/text"},
	"internal/text":            nil,
}

// libraries are the modules that the library may need, besides Go's own.
var libraries = []string{"google.golang.org/grpc", "google.golang.org/protobuf", "golang.org/x/net"}

// mayNotImport names packages of those libraries that some of our packages
// know nothing of.
var mayNotImport = map[string][]string{
	"internal/h2":   {"google.golang.org/grpc", "google.golang.org/grpc/resolver", "google.golang.org/grpc/balancer"},
	"internal/call": {"google.golang.org/grpc/resolver"},
}

type listedPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// list returns what `go list` says of packages.
func list(t *testing.T, arguments ...string) []listedPackage {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Standard,Imports"}, arguments...)...).Output()
	require.NoError(t, err)
	var all []listedPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, p)
	}
}

// relative returns path within the module, and whether it is ours.
func relative(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func isExample(path string) bool {
	return path == "examples" || strings.HasPrefix(path, "examples/")
}

// TestRootIsFreeOfThePageAndTheCommand: a program that imports the library gets nothing of
// the live page, the command, or what they are made of.
func TestRootIsFreeOfThePageAndTheCommand(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", module).Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, module+"/internal/h2", "it is the library's list")
	for _, path := range []string{module + "/channelz", module + "/cmd/grpcdial",
		"google.golang.org/protobuf/types/dynamicpb", "google.golang.org/grpc/reflection/grpc_reflection_v1"} {
		assert.NotContains(t, deps, path)
	}
}

// TestArchitectureNamesTheImports: the table of packages in ARCHITECTURE.md has each package
// of internal that is not for tests alone, with the packages that it may import besides
// internal/text.
func TestArchitectureNamesTheImports(t *testing.T) {
	doc, err := os.ReadFile("../../ARCHITECTURE.md")
	require.NoError(t, err)
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(internal/\\w+)` \\| .* \\| (.*) \\|$").FindAllStringSubmatch(string(doc), -1) {
		rows[row[1]] = row[2]
	}
	for name, imports := range mayImport {
		if !strings.HasPrefix(name, "internal/") || strings.HasSuffix(name, "test") {
			continue
		}
		var want []string
		for _, path := range imports {
			if path != "internal/text" {
				want = append(want, strings.TrimPrefix(path, "internal/"))
			}
		}
		slices.Sort(want)
		if want == nil {
			want = []string{"nothing of ours"}
		}
		got := strings.Split(rows[name], ", ")
		slices.Sort(got)
		assert.Equal(t, want, got, "%q", name)
	}
}

// TestImports holds the directions of ARCHITECTURE.md: of our packages, each
// imports those that it may, and no library but those named. Tests of packages
// may import what they like. Examples come above the root.
func TestImports(t *testing.T) {
	standard := map[string]bool{}
	for _, p := range list(t, "std") {
		standard[p.ImportPath] = true
	}
	seen := map[string]bool{}
	for _, p := range list(t, module+"/...") {
		from, ours := relative(p.ImportPath)
		require.True(t, ours, p.ImportPath)
		if isExample(from) {
			continue
		}
		seen[from] = true
		for _, path := range p.Imports {
			to, ours := relative(path)
			switch {
			case ours:
				assert.Contains(t, mayImport[from], to, "%q imports %q", from, to)
			case standard[path]:
			case from == "internal/backendtest" && strings.HasPrefix(path, "github.com/stretchr/testify/"): // only tests import it
			default:
				assert.True(t, slices.ContainsFunc(libraries, func(l string) bool { return path == l || strings.HasPrefix(path, l+"/") }),
					"%q imports %q, which is none of %q", from, path, libraries)
			}
			assert.NotContains(t, mayNotImport[from], path, "%q imports %q", from, path)
		}
	}
	for name := range mayImport {
		assert.True(t, seen[name], "package %q of the list is not there", name)
	}
}
