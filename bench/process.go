package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
)

// The program runs itself again for what needs a process of its own. The first
// argument then says which role the process has.
const (
	serveArg = "-serve" // the server: see serve
	holdArg  = "-hold"  // holds channels, or one with many addresses, and measures itself: see hold
)

// childMain runs the role that the command line asks for and exits; it returns
// at once if the process is not a child. It comes before flag parsing in main
// and in TestMain alike.
func childMain() {
	if len(os.Args) < 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case serveArg:
		err = serve()
	case holdArg:
		err = hold()
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	os.Exit(0)
}

// startServer starts the server process and returns where it listens and a
// function that ends it.
func startServer(s serving) (endpoints, func(), error) {
	order, err := json.Marshal(s)
	if err != nil {
		return endpoints{}, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return endpoints{}, nil, err
	}
	cmd := exec.Command(self, serveArg, string(order))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return endpoints{}, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return endpoints{}, nil, err
	}
	if err := cmd.Start(); err != nil {
		return endpoints{}, nil, err
	}
	stop := func() {
		stdin.Close()
		_ = cmd.Wait() // its log has said what was wrong, if anything
	}
	var at endpoints
	if err := json.NewDecoder(stdout).Decode(&at); err != nil {
		stop()
		return endpoints{}, nil, fmt.Errorf("the server process did not say where it listens: %w", err)
	}
	return at, stop, nil
}
