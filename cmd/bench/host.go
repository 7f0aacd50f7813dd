package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// replay measures how fast recordings are read, on one core.
func (b *bench) replay(ctx context.Context) error {
	file := filepath.Join(b.folder, "churn.tct")
	l, err := startLoad(ctx, "connections", strconv.Itoa(replayedEach))
	if err != nil {
		return err
	}
	r, err := b.trace(ctx, b.ours("tcptrace -w", "trace", "-o", "json", "-w", file))
	if err != nil {
		return errors.Join(err, l.end())
	}
	_, err = l.begin()
	if err := errors.Join(err, r.stop(), l.end()); err != nil {
		return err
	}
	s, err := readSummary(r.output.Name())
	if err != nil {
		return err
	}

	views := []struct {
		name string
		args []string
	}{
		{"judged, nothing shown", []string{"trace", "--verdict", "illegal", "-o", "json"}},
		{"stat", []string{"stat"}},
		{"life -o json", []string{"life", "-o", "json"}},
		{"trace -o json", []string{"trace", "-o", "json"}},
		{"trace", []string{"trace"}},
	}
	for i, v := range views {
		var rates []float64
		for range b.rounds {
			cmd := exec.CommandContext(ctx, b.tcptrace, append(v.args, "-r", file)...)
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
			start := time.Now()
			if out, err := cmd.CombinedOutput(); i == 0 && err != nil {
				return fmt.Errorf("replay: %w: %s", err, out)
			} else if err != nil {
				return fmt.Errorf("replay: %w", err)
			}
			rates = append(rates, float64(s.Transitions)/time.Since(start).Seconds())
		}
		row := b.table.add("replay", v.name, "records/s", rates...)
		if i == 0 {
			row.atLeast(replayed).note("%d transitions, one core", s.Transitions)
		}
	}
	return nil
}

// benchmarks are of the way of a record through the packages.
var benchmarks = []struct{ pkg, pattern string }{
	{"tcptrace/events", "^BenchmarkDecode$"},
	{"tcptrace/events", "^BenchmarkOrder$/^waiting-1000$"},
	{"tcptrace/fsm", "^BenchmarkCheck$/^legal$"},
	{"tcptrace/fsm/lifecycle", "^BenchmarkObserve$/^sockets-1000$"},
	{"tcptrace/output", "^BenchmarkSinks$/^json$"},
}

// packages measures each step of a record in user space, and what it allocates.
func (b *bench) packages(ctx context.Context) error {
	var sum, allocations float64
	for _, p := range benchmarks {
		out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", p.pattern, "-benchmem", p.pkg).CombinedOutput()
		if err != nil {
			return fmt.Errorf("go test -bench %s %s: %w: %s", p.pattern, p.pkg, err, out)
		}
		results, err := parseBenchmarks(out)
		if err != nil {
			return fmt.Errorf("read what the benchmark %s says: %w", p.pattern, err)
		}
		for _, r := range results {
			b.table.add("user space", r.name, "ns/record", r.time).note("%.0f allocations", r.allocations)
			sum += r.time
			allocations += r.allocations
		}
	}
	b.table.add("user space", "in sum", "ns/record", sum).atMost(perRecord)
	b.table.add("user space", "allocations in sum", "/record", allocations).atMost(0)
	return nil
}

// benchmark is one result of go test -bench.
type benchmark struct {
	name              string
	time, allocations float64
}

var benchmarkLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op.*\s(\d+) allocs/op$`)

func parseBenchmarks(out []byte) (list []benchmark, err error) {
	for _, m := range benchmarkLine.FindAllSubmatch(out, -1) {
		r := benchmark{name: string(m[1])}
		var errTime, errAllocs error
		r.time, errTime = strconv.ParseFloat(string(m[2]), 64)
		r.allocations, errAllocs = strconv.ParseFloat(string(m[3]), 64)
		if err := errors.Join(errTime, errAllocs); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	if list == nil {
		return nil, fmt.Errorf("no result in %q", out)
	}
	return list, nil
}

// captures measures how fast captures of packets are read, of 1 GB each.
func (b *bench) captures(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkCapture$", "-benchtime", "1x", "tcptrace/cmd/tcptrace").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test -bench BenchmarkCapture: %w: %s", err, out)
	}
	speeds := captureLine.FindAllSubmatch(out, -1)
	if speeds == nil {
		return fmt.Errorf("read what the benchmark of captures says: no result in %q", out)
	}
	for _, m := range speeds {
		speed, errSpeed := strconv.ParseFloat(string(m[2]), 64)
		heap, errHeap := strconv.ParseFloat(string(m[3]), 64)
		if err := errors.Join(errSpeed, errHeap); err != nil {
			return err
		}
		b.table.add("captures", string(m[1])+" connections, life -o json", "MB/s", speed).atLeast(capturesRead).note("%.0f MiB of heap at most, 1 GB", heap)
	}
	return nil
}

var captureLine = regexp.MustCompile(`(?m)^BenchmarkCapture/(\w+)\S*\s.*\s([\d.]+) MB/s\s+([\d.]+) MiB-heap`)

// memory measures what is taken for each connection that is followed.
func (b *bench) memory(ctx context.Context) error {
	l, err := startLoad(ctx, "open", strconv.Itoa(openSockets/2))
	if err != nil {
		return err
	}
	r, err := b.trace(ctx, b.ours("tcptrace life", "life", "-o", "json"))
	if err != nil {
		return errors.Join(err, l.end())
	}
	idle, err := r.memory()
	if err != nil {
		return errors.Join(err, r.stop(), l.end())
	}
	if _, err := l.begin(); err != nil {
		return errors.Join(err, r.stop(), l.end())
	}
	// What is still in the rings is followed when it is idle again.
	if err := r.untilIdle(ctx); err != nil {
		return errors.Join(err, r.stop(), l.end())
	}
	full, err := r.memory()
	if err := errors.Join(err, l.end(), r.stop()); err != nil {
		return err
	}
	b.table.add("memory", "for each socket followed", "bytes", (full-idle)/openSockets).atMost(perSocket).note("at %d sockets", openSockets)
	b.table.add("memory", "idle", "MiB", idle/(1<<20)).atMost(idleMemory).note("anonymous; the rings are the kernel's")
	return nil
}

// untilIdle waits until it has taken hardly any CPU for a while.
func (r *tracer) untilIdle(ctx context.Context) error {
	const while, hardly = 300 * time.Millisecond, 5 * time.Millisecond
	before, err := r.onCPU()
	for err == nil {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(while):
		}
		var now time.Duration
		if now, err = r.onCPU(); now-before < hardly {
			return err
		}
		before = now
	}
	return err
}

// start measures how long it takes to know the sockets that are there, and who holds them.
func (b *bench) start(ctx context.Context) error {
	l, err := startLoad(ctx, "open", strconv.Itoa(openSockets/2))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	if _, err := l.begin(); err != nil {
		return err
	}
	ss := []string{"nsenter", "-n", "-t", strconv.Itoa(l.cmd.Process.Pid), "ss", "-tanp"}
	ours := []string{b.tcptrace, "stuck", "-o", "json"}
	timed := func(args []string) (float64, error) {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Stdout = io.Discard
		start := time.Now()
		err := cmd.Run()
		return time.Since(start).Seconds(), err
	}
	var of, to []float64
	for range b.rounds {
		t, err := timed(ours)
		if err != nil {
			return fmt.Errorf("tcptrace stuck: %w", err)
		}
		s, err := timed(ss)
		if err != nil {
			return fmt.Errorf("ss -tanp: %w", err)
		}
		of, to = append(of, t), append(to, s)
	}
	b.table.add("start", "tcptrace stuck to ss -tanp", "", ratios(of, to)...).atMost(1).note("%d sockets", openSockets)
	b.table.add("start", "tcptrace stuck", "s", of...)
	b.table.add("start", "ss -tanp", "s", to...)
	return nil
}

// idle measures what is taken where nothing happens.
func (b *bench) idle(ctx context.Context) error {
	const watched = 20 * time.Second
	for _, t := range []*tool{b.ours("tcptrace", "trace", "-o", "json"), b.ours("tcptrace agent", "agent", "--listen", "127.0.0.1:0")} {
		r, err := b.trace(ctx, t)
		if err != nil {
			return err
		}
		err = r.untilIdle(ctx)
		before, errBefore := r.total()
		select {
		case <-ctx.Done():
			err = errors.Join(err, context.Cause(ctx))
		case <-time.After(watched):
		}
		after, errAfter := r.total()
		if err := errors.Join(err, errBefore, errAfter, r.stop()); err != nil {
			return err
		}
		b.table.add("idle", t.name, "% of a core", 100*float64(after-before)/float64(watched)).atMost(idleShare)
	}
	return nil
}

// delay measures how long a transition takes to the reader of the output.
func (b *bench) delay(ctx context.Context) error {
	const samples, longest = 50, 3 * time.Second
	cmd := exec.CommandContext(ctx, b.tcptrace, "trace", "-o", "json", "-s", "SYN_SENT")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	r := &tracer{tool: &tool{name: "tcptrace"}, cmd: cmd}
	cmd.Stderr = &r.messages
	if err := cmd.Start(); err != nil {
		return err
	}
	end := func(err error) error {
		_ = cmd.Process.Kill() // a wait that goes wrong may not block
		_ = cmd.Wait()
		return err
	}
	if err := r.ready(ctx); err != nil {
		return end(err)
	}
	ports := make(chan int)
	go readPorts(out, ports)
	var delays []float64
	unseen := 0
	for i := range samples {
		select { // at any time between two looks of the tracer
		case <-ctx.Done():
			return end(context.Cause(ctx))
		case <-time.After(time.Duration(37*i%200) * time.Millisecond):
		}
		port, err := connectOnce()
		made := time.Now()
		if err != nil {
			return end(err)
		}
		for timeout, seen := time.After(longest), false; !seen; {
			select {
			case p, ok := <-ports:
				if !ok {
					return end(errors.New("its output ended"))
				}
				if seen = p == port; seen {
					delays = append(delays, float64(time.Since(made).Microseconds())/1000)
				}
			case <-timeout: // the kernel may run no program on top of some process
				unseen++
				seen = true
			}
		}
	}
	r.closePrograms()
	row := b.table.add("delay", "from connect to the line", "ms", delays...)
	row.Value = row.Most
	row.atMost(delayAtMost).note("the longest of %d, into a pipe; %d not seen", samples, unseen)
	return end(nil)
}

// readPorts sends the local port of each transition, until the output ends.
func readPorts(out io.Reader, ports chan<- int) {
	defer close(ports)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var transition struct {
			Local struct{ Port int }
		}
		if err := json.Unmarshal(lines.Bytes(), &transition); err != nil {
			return
		}
		ports <- transition.Local.Port
	}
}
