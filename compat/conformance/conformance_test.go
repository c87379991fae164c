package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// A copy of the test binary that has these in its environment is the client under test.
const (
	clientVariable = "CONFORMANCE_CLIENT" // one of dialers
	suiteVariable  = "CONFORMANCE_SUITE"  // the directory of the suite's source
)

func TestMain(m *testing.M) {
	name, isClient := os.LookupEnv(clientVariable)
	if !isClient {
		os.Exit(m.Run())
	}
	if err := runClient(name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runClient(name string) error {
	protocol, err := compileProtocol(context.Background(), os.Getenv(suiteVariable))
	if err != nil {
		return err
	}
	registerEncodings(protocol.types)
	c := client{protocol, &channels{dial: dialers[name], open: map[string]channel{}}}
	return errors.Join(c.run(os.Stdin, os.Stdout), c.channels.close())
}

// total is the suite's report of how many cases there were.
var total = regexp.MustCompile(`Total cases: .*\n.*passed, 0 failed\n.*`)

// TestConformance runs all cases of the suite for clients of the gRPC protocol, but for those in
// testdata.
func TestConformance(t *testing.T) {
	directory, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "connectrpc.com/conformance").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range dialers {
		t.Run(name, func(t *testing.T) {
			run := exec.Command("go", "tool", "connectconformance", "--mode", "client", "--conf", "testdata/config.yaml",
				"--known-failing", "@testdata/failing.txt", "--known-flaky", "@testdata/flaky.txt", "--", os.Args[0])
			run.Env = append(os.Environ(), clientVariable+"="+name, suiteVariable+"="+strings.TrimSpace(string(directory)))
			output, err := run.CombinedOutput()
			if err != nil {
				t.Fatalf("a case failed that is not known to fail, or one passed that is: %v\n%s", err, output)
			}
			t.Logf("%s", total.Find(output))
		})
	}
}
