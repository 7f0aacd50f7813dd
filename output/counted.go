package output

import (
	"time"

	"tcptrace/fsm"
)

// Counted is what the kernel side has counted of one edge, since the start, instead of
// telling of each transition. All of them are legal.
type Counted struct {
	From, To fsm.State
	Steps    uint64
	// HasDwell: the times in From are known, of all steps.
	HasDwell bool
	// Sum, Min and Max of the times; Min is 0 without Steps.
	Sum, Min, Max time.Duration
	// Bins counts the times below the first of Bounds, then from each to the next. A
	// Counted without Steps has none.
	Bins []uint64
	// Bounds are in nanoseconds and ascending.
	Bounds []uint64
}

// Counter returns all that was counted, in the same order each time.
type Counter func() []Counted

// Least returns the least time that is in the bin.
func (c *Counted) Least(bin int) time.Duration {
	if bin == 0 {
		return 0
	}
	return time.Duration(c.Bounds[bin-1])
}

// Since returns what was added to an earlier result for the same edge. Min and Max are
// those of all, where the bins allow that, else the bounds of these.
func (c *Counted) Since(earlier *Counted) Counted {
	d := *c
	if earlier.Steps == 0 {
		return d
	}
	d.Steps -= earlier.Steps
	d.Sum -= earlier.Sum
	d.Bins = make([]uint64, len(c.Bins))
	first, last := -1, -1
	for bin, n := range c.Bins {
		if n -= earlier.Bins[bin]; n == 0 {
			continue
		}
		d.Bins[bin] = n
		if first < 0 {
			first = bin
		}
		last = bin
	}
	if first < 0 {
		d.Min, d.Max = 0, 0
		return d
	}
	d.Min = max(d.Min, c.Least(first))
	d.Max = min(d.Max, time.Duration(c.Bounds[last])-1)
	return d
}
