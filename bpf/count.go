package bpf

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// MaxBounds is how many bounds [Counting] may have.
const MaxBounds = bins - 1

// Numbers of event.h.
const (
	bins      = 2048
	states    = 16
	edgeTimed = 1 << 7
)

// Counting says which transitions the kernel side counts instead of sending a record of
// each: for hosts where there are too many to look at. What it cannot count as wanted
// it sends: after a hole, of a socket whose port a filter does not know yet, where the
// time in the state is not known exactly, or reaches the last bound.
type Counting struct {
	// Edges are those that are counted, 127 at most.
	Edges []CountedEdge
	// Bounds separate the bins of the times, in nanoseconds and ascending, up to
	// MaxBounds of them: a bin has those from one bound to below the next.
	Bounds []uint64
}

// CountedEdge is a transition by the kernel's numbers of its states. Timed: with the
// time in From.
type CountedEdge struct {
	From, To uint8
	Timed    bool
}

// Tally is what was counted of an edge, since the tracer was opened.
type Tally struct {
	Steps uint64
	// Sum, Min and Max of the times, in nanoseconds; Min is 0 without Steps.
	Sum, Min, Max uint64
	// Bins counts the times below the first bound, then from each bound to the next.
	Bins []uint64
}

// configure sets what is counted, before loading.
func (c *Counting) configure(spec *ebpf.CollectionSpec, s *tcptraceVariableSpecs) error {
	if c == nil {
		return nil
	}
	if len(c.Edges) == 0 || len(c.Edges) >= edgeTimed || len(c.Bounds) == 0 || len(c.Bounds) > MaxBounds || !slices.IsSorted(c.Bounds) {
		return fmt.Errorf("count %d edges by %d bounds: want 1 to %d edges, and 1 to %d bounds in order", len(c.Edges), len(c.Bounds), edgeTimed-1, MaxBounds)
	}
	var edges [states][states]uint8
	for i, e := range c.Edges {
		if e.From >= states || e.To >= states {
			return fmt.Errorf("count the edge from state %d to state %d: want states below %d", e.From, e.To, states)
		}
		edges[e.From][e.To] = uint8(i + 1)
		if e.Timed {
			edges[e.From][e.To] |= edgeTimed
		}
	}
	spec.Maps[tcptraceMapTallies].MaxEntries = 2 * uint32(len(c.Edges))
	for _, err := range []error{
		s.Counting.Set(true), s.Edges.Set(edges),
		s.TalliesUsed.Set(uint32(len(c.Edges))), s.BoundsUsed.Set(uint32(len(c.Bounds))),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// fill sets the bounds, before attaching.
func (c *Counting) fill(m *tcptraceMaps) error {
	if c == nil {
		return nil
	}
	var all [bins]uint64
	for i := range all {
		all[i] = ^uint64(0)
	}
	copy(all[:], c.Bounds)
	return m.Bounds.Put(uint32(0), &all)
}

// Tallies returns what has been counted so far, in the order of the edges of
// [Options.Counting]. It may be called beside everything but Close.
func (t *Tracer) Tallies() ([]Tally, error) {
	if t.counting == nil {
		return nil, nil
	}
	n := len(t.counting.Edges)
	tallies := make([]Tally, n)
	var perCPU []struct { // struct tally
		Steps, Sum, Min, Max uint64
		Bins                 [bins]uint64
	}
	for i := range 2 * n {
		if err := t.objects.Tallies.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read what was counted: %w", err)
		}
		sum := &tallies[i%n]
		if sum.Bins == nil {
			sum.Bins = make([]uint64, len(t.counting.Bounds))
		}
		for _, one := range perCPU {
			if one.Steps == 0 {
				continue
			}
			if sum.Steps == 0 || one.Min < sum.Min {
				sum.Min = one.Min
			}
			sum.Max = max(sum.Max, one.Max)
			sum.Sum += one.Sum
			sum.Steps += one.Steps
			for bin := range sum.Bins {
				sum.Bins[bin] += one.Bins[bin]
			}
		}
	}
	return tallies, nil
}
