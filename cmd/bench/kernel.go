package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Budgets of the design, §9.
const (
	ofTcpstates  = 1.0 / 20
	ofTcplife    = 1.0 / 8
	keptOfChurn  = 0.95
	keptOfBulk   = 0.99
	perRecord    = 1000.0 // ns
	replayed     = 2e6    // records/s
	capturesRead = 200    // MB/s
	perSocket    = 300.0  // bytes
	idleMemory   = 40.0   // MiB
	idleShare    = 0.3    // %
	delayAtMost  = 100.0  // ms
	openSockets  = 100_000
	kernelEach   = 5000 // connections on each CPU
	replayedEach = 25_000
)

// floor is an empty program on the same tracepoint: what the statistics themselves cost,
// and how many transitions there were.
type floor struct {
	program *ebpf.Program
	link    link.Link
}

func newFloor() (*floor, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "floor", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "inet_sock_set_state",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}, License: "Dual BSD/GPL",
	})
	if err != nil {
		return nil, fmt.Errorf("load an empty program: %w", err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach an empty program: %w", err), program.Close())
	}
	return &floor{program, l}, nil
}

func (f *floor) close() error { return errors.Join(f.link.Close(), f.program.Close()) }

// kernelTime measures what the programs of each tool take for a transition, by the BPF
// statistics of the kernel.
func (b *bench) kernelTime(ctx context.Context) (err error) {
	f, err := newFloor()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	streamed := b.ours("tcptrace", "trace", "-o", "json")
	tools := append([]*tool{
		streamed,
		b.ours("tcptrace --no-time-wait", "trace", "-o", "json", "--no-time-wait"),
		b.ours("tcptrace stat --in-kernel", "stat", "-o", "json", "--in-kernel"),
		b.ours("tcptrace agent --in-kernel", "agent", "--in-kernel", "--listen", "127.0.0.1:0"),
	}, b.others()...)
	times, net := make(map[string][]float64), make(map[string][]float64)
	parts := make(map[string]string)
	for range b.rounds {
		for _, t := range tools {
			r, err := b.kernelRound(ctx, f, t)
			if err != nil {
				return err
			}
			times[t.name] = append(times[t.name], r.own)
			net[t.name] = append(net[t.name], r.net)
			times[""] = append(times[""], r.empty)
			parts[t.name] = r.parts
		}
	}

	const measure, unit = "kernel time", "ns/transition"
	b.table.add(measure, "an empty program", unit, times[""]...).note("what the statistics themselves take, in each program")
	for _, t := range tools {
		b.table.add(measure, t.name, unit, times[t.name]...).note("%s", parts[t.name])
		b.table.add(measure, "… without the statistics", unit, net[t.name]...)
	}
	for _, other := range []struct {
		name  string
		limit float64
	}{{"tcpstates", ofTcpstates}, {"tcplife", ofTcplife}} {
		if times[other.name] == nil {
			continue
		}
		for _, ours := range tools[:2] {
			b.table.add(measure, ours.name+" to "+other.name, "", ratios(times[ours.name], times[other.name])...).atMost(other.limit)
			b.table.add(measure, "… without the statistics", "", ratios(net[ours.name], net[other.name])...)
		}
	}
	return nil
}

// ratios of what was measured in the same rounds.
func ratios(of, to []float64) []float64 {
	list := make([]float64, len(of))
	for i := range of {
		list[i] = of[i] / to[i]
	}
	return list
}

// kernelCost is nanoseconds a transition.
type kernelCost struct {
	own, empty float64
	net        float64 // own without what the statistics take, which is that of empty for each run
	parts      string  // own, by program
}

// kernelRound measures a tool, and the empty program beside it.
func (b *bench) kernelRound(ctx context.Context, f *floor, t *tool) (c kernelCost, err error) {
	l, err := startLoad(ctx, "connections", strconv.Itoa(kernelEach))
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	r, err := b.trace(ctx, t)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()

	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return c, fmt.Errorf("switch BPF statistics on: %w", err)
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	floorBefore, err := f.program.Stats()
	if err != nil {
		return c, err
	}
	eachBefore, before, err := r.runs()
	if err != nil {
		return c, err
	}
	if _, err := l.begin(); err != nil {
		return c, err
	}
	floorAfter, err := f.program.Stats()
	if err != nil {
		return c, err
	}
	each, after, err := r.runs()
	if err != nil {
		return c, err
	}

	transitions := float64(floorAfter.RunCount - floorBefore.RunCount)
	c.own = float64(after.time-before.time) / transitions
	c.empty = float64(floorAfter.Runtime-floorBefore.Runtime) / transitions
	c.net = c.own - c.empty*float64(after.count-before.count)/transitions
	var parts []string
	for i, program := range r.programs {
		if time := each[i].time - eachBefore[i].time; time > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f", name(program), float64(time)/transitions))
		}
	}
	c.parts = strings.Join(parts, ", ")
	return c, nil
}
