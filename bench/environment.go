package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// newReport is a report without cells.
func newReport(s settings) report {
	r := report{
		Schema: schemaVersion, Taken: time.Now().UTC().Truncate(time.Second), Commit: commit(), Command: command(),
		Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpuName(), Procs: runtime.GOMAXPROCS(0),
		Versions: versions(), Rounds: s.rounds,
	}
	for _, side := range s.sides {
		r.Sides = append(r.Sides, side.name)
	}
	return r
}

// command is the command line, without the directories that were this run's.
func command() string {
	args := append([]string{"go run ."}, os.Args[1:]...)
	for i, arg := range args {
		if filepath.IsAbs(arg) {
			args[i] = filepath.Base(arg)
		}
	}
	return strings.Join(args, " ")
}

// commit is the work tree's, with "+" if something in it was changed; empty if there is no
// git here.
func commit() string {
	id, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return ""
	}
	changed, err := exec.Command("git", "status", "--porcelain", "--untracked-files=no").Output()
	if err != nil || len(changed) > 0 {
		return strings.TrimSpace(string(id)) + "+"
	}
	return strings.TrimSpace(string(id))
}

// cpuName is the processor's name as Linux has it.
func cpuName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// versions are those of the libraries that grpcdial is compared with.
func versions() map[string]string {
	found := map[string]string{grpcGo.name: "of unknown version", connectName: "of unknown version"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return found
	}
	for _, module := range info.Deps {
		switch module.Path {
		case "google.golang.org/grpc":
			found[grpcGo.name] = module.Version
		case "connectrpc.com/connect":
			found[connectName] = module.Version
		}
	}
	return found
}
