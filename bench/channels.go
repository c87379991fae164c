package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// holding is the task of a holding process.
type holding struct {
	Client    string
	Endpoint  endpoint
	Channels  int  // that it holds
	Idle      bool // they are made and not connected
	Addresses int  // or those of one channel: see holdAddresses
}

// rest is what n channels hold while nothing is called on them.
type rest struct {
	Heap       uint64 // bytes of live objects
	Stack      uint64 // bytes of goroutine stacks
	Goroutines int
}

// held is what two holding processes found: the totals of all their channels.
type held struct {
	Idle  rest // made, not connected; the first process's
	Ready rest // READY, nothing called yet
	Used  rest // after one call on each
}

// measureChannels lets new processes hold channels and measure themselves.
func measureChannels(c client, at endpoint, channels int) (held, error) {
	var idle, connected held
	if err := inProcess(&idle, holding{Client: c.name, Endpoint: at, Channels: channels, Idle: true}); err != nil {
		return held{}, err
	}
	err := inProcess(&connected, holding{Client: c.name, Endpoint: at, Channels: channels})
	connected.Idle = idle.Idle
	return connected, err
}

// inProcess lets a new process do the task; found is what it found. A
// new one each time, because what a process once allocated for goroutines stays.
func inProcess(found any, task holding) error {
	order, err := json.Marshal(task)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, holdArg, string(order))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("a process of %s's: %w", task.Client, err)
	}
	return json.Unmarshal(out, found)
}

// hold is the holding process.
func hold() error {
	var order holding
	if err := json.Unmarshal([]byte(os.Args[2]), &order); err != nil {
		return err
	}
	c := ours
	if order.Client == grpcGo.name {
		c = grpcGo
	}
	// What the first channel of a process makes for all is not a channel's.
	first, err := openChannels(c, order.Endpoint, 1)
	if err != nil {
		return err
	}
	if err := callEach(first); err != nil {
		return err
	}
	first[0].Close()
	if order.Addresses > 0 {
		found, err := holdAddresses(c, order.Endpoint, order.Addresses)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(found)
	}

	if order.Idle {
		return holdIdle(c, order)
	}

	var h held
	before := settle()
	conns, err := openChannels(c, order.Endpoint, order.Channels)
	if err != nil {
		return err
	}
	h.Ready = settle().minus(before)
	if err := callEach(conns); err != nil {
		return err
	}
	h.Used = settle().minus(before)
	runtime.KeepAlive(conns)
	return json.NewEncoder(os.Stdout).Encode(h)
}

// holdIdle makes channels that do not connect.
func holdIdle(c client, order holding) error {
	creds, err := order.Endpoint.credentials()
	if err != nil {
		return err
	}
	before := settle()
	conns := make([]stateful, order.Channels)
	for i := range conns {
		if conns[i], err = c.idle(order.Endpoint.Target, creds); err != nil {
			return err
		}
	}
	h := held{Idle: settle().minus(before)}
	runtime.KeepAlive(conns)
	return json.NewEncoder(os.Stdout).Encode(h)
}

// openChannels dials n READY channels, a few at a time.
func openChannels(c client, at endpoint, n int) ([]conn, error) {
	creds, err := at.credentials()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conns := make([]conn, n)
	errs := make(chan error, n)
	turns := make(chan struct{}, 8)
	var dialing sync.WaitGroup
	for i := range conns {
		turns <- struct{}{}
		dialing.Go(func() {
			defer func() { <-turns }()
			var err error
			if conns[i], err = c.dial(ctx, at.Target, creds, ""); err != nil {
				errs <- err
			}
		})
	}
	dialing.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return conns, nil
	}
}

func callEach(conns []conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, c := range conns {
		if _, err := pb.NewBenchClient(c).Unary(ctx, newRequest(0)); err != nil {
			return err
		}
	}
	return nil
}

// settle collects garbage until the number of goroutines and the size of the
// heap stand still, or for two seconds, and returns what the process holds.
func settle() rest {
	var last rest
	still := 0
	for range 100 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		now := rest{Heap: m.HeapAlloc, Stack: m.StackInuse, Goroutines: runtime.NumGoroutine()}
		change := max(now.Heap, last.Heap) - min(now.Heap, last.Heap)
		if now.Goroutines == last.Goroutines && now.Stack == last.Stack && change < now.Heap/1000 {
			still++
		} else {
			still = 0
		}
		if last = now; still == 5 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return last
}

func (r rest) minus(before rest) rest {
	return rest{
		Heap:       r.Heap - min(r.Heap, before.Heap),
		Stack:      r.Stack - min(r.Stack, before.Stack),
		Goroutines: r.Goroutines - before.Goroutines,
	}
}
