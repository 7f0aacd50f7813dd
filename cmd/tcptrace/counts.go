package main

import (
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tcptrace/bpf"
	"tcptrace/fsm"
	"tcptrace/output"
)

// kernelCounts is what the kernel side counts instead of sending it, with --in-kernel.
type kernelCounts struct {
	counting bpf.Counting
	edges    []output.Counted // without numbers
	log      *slog.Logger

	mu     sync.Mutex
	tracer *bpf.Tracer // nil: not yet, or no more
	last   []output.Counted
}

// newKernelCounts returns the counts of every edge that begins and ends nothing that is
// followed, of which the verdict is legal whatever else is known, by such bins of times.
func newKernelCounts(bounds []uint64) *kernelCounts {
	k := &kernelCounts{counting: bpf.Counting{Bounds: bounds}, log: slog.New(slog.DiscardHandler)}
	for _, e := range fsm.Machine() {
		if e.Class != fsm.Legal || e.To == fsm.Closed || e.To == fsm.Listen || e.To == fsm.TimeWait {
			continue
		}
		timed := e.From != fsm.Closed && e.From != fsm.Listen // closed is nobody's, and a child is no listener that ends
		k.counting.Edges = append(k.counting.Edges, bpf.CountedEdge{From: uint8(e.From), To: uint8(e.To), Timed: timed})
		k.edges = append(k.edges, output.Counted{From: e.From, To: e.To, HasDwell: timed, Bounds: bounds})
	}
	k.last = k.edges
	return k
}

// attach begins reading from the tracer, until detach.
func (k *kernelCounts) attach(tracer *bpf.Tracer, log *slog.Logger) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tracer, k.log = tracer, log
}

// detach reads for the last time.
func (k *kernelCounts) detach() {
	k.read()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tracer = nil
}

// read implements [output.Counter]. It may be called from several goroutines.
func (k *kernelCounts) read() []output.Counted {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tracer == nil {
		return k.last
	}
	tallies, err := k.tracer.Tallies()
	if err != nil { // nothing is lost: the numbers stay where they are
		k.log.Warn("what the kernel side counted cannot be read", "error", err)
		return k.last
	}
	now := make([]output.Counted, len(tallies))
	for i, t := range tallies {
		now[i] = k.edges[i]
		now[i].Steps, now[i].Bins = t.Steps, t.Bins
		now[i].Sum, now[i].Min, now[i].Max = time.Duration(t.Sum), time.Duration(t.Min), time.Duration(t.Max)
	}
	k.last = now
	return now
}

// total returns how many transitions were counted, and how many of them began
// connections.
func (k *kernelCounts) total() (steps, begun uint64) {
	if k == nil {
		return 0, 0
	}
	for _, c := range k.read() {
		steps += c.Steps
		if !c.HasDwell { // from CLOSED or LISTEN
			begun += c.Steps
		}
	}
	return steps, begun
}

// countInKernel has the kernel side count by such bins of times. It fails where what is
// asked for needs each transition; with names the flags for that beside the filter's
// that were given.
func (f *viewFlags) countInKernel(cmd *cobra.Command, bounds []uint64, with ...string) error {
	needing := append(with, "read", "write", "count", "pid", "comm", "local", "remote", "state", "verdict", "container", "socket")
	for _, name := range needing {
		if flag := cmd.Flags().Lookup(name); flag != nil && flag.Changed {
			return usagef("--in-kernel and --%s exclude each other: what the kernel counts is not told apart any more", name)
		}
	}
	f.counts = newKernelCounts(bounds)
	return nil
}

func (f *viewFlags) registerInKernel(flags *pflag.FlagSet) {
	flags.BoolVar(&f.inKernel, "in-kernel", false, "for very many connections: let the kernel count what is legal and ends nothing, instead of looking at each")
}
