package stat_test

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sort"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/stat"
)

// counted is what the kernel side makes of the times.
func counted(times []time.Duration) output.Counted {
	bounds := stat.Bounds()
	c := output.Counted{From: fsm.Established, To: fsm.FinWait1, HasDwell: true, Bounds: bounds, Bins: make([]uint64, len(bounds))}
	for _, d := range times {
		if c.Steps == 0 {
			c.Min = d
		}
		c.Steps++
		c.Sum += d
		c.Min, c.Max = min(c.Min, d), max(c.Max, d)
		c.Bins[sort.Search(len(bounds), func(i int) bool { return bounds[i] > uint64(d) })]++
	}
	return c
}

// transitions are the same times, one by one.
func transitions(t *testing.T, s *stat.Sink, times []time.Duration, at uint64) {
	t.Helper()
	for _, d := range times {
		e := events.Event{Time: at, From: fsm.Established, To: fsm.FinWait1}
		tr := lifecycle.Transition{Event: &e, Dwell: d, HasDwell: true, Life: &lifecycle.Life{}}
		tr.Verdict = fsm.Legal
		if err := s.Transition(&tr); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCounted: times that the kernel side counts give what they give one by one, of
// which only the extremes of a window may be off by a bin.
func TestCounted(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() (times []time.Duration) {
		for range 5000 {
			times = append(times, time.Duration(math.Exp2(random.Float64()*49.9)))
		}
		return append(times, 0, 1, 2, time.Microsecond, time.Microsecond-1, 1<<20*time.Microsecond, time.Hour)
	}
	first, second := draw(), draw()

	type shown struct {
		Transitions uint64
		Legal       uint64
		Dwell       []time.Duration
		Count       uint64
		Min, Max    time.Duration
		Unit        time.Duration
		Buckets     []stat.Bucket
	}
	run := func(use func(s *stat.Sink, now *[]output.Counted)) (windows []shown) {
		var now []output.Counted
		printer := stat.PrinterFunc(func(w *stat.Window) error {
			d := w.Dwell(fsm.Established)
			v := shown{Transitions: w.Transitions, Legal: w.Verdicts[fsm.Legal], Count: d.Count, Min: d.Min, Max: d.Max}
			for q := 0.0; q <= 1; q += 1.0 / 64 {
				v.Dwell = append(v.Dwell, d.Quantile(q))
			}
			if h := w.Histogram(fsm.Established); h != nil {
				v.Unit, v.Buckets = h.Buckets()
			}
			windows = append(windows, v)
			return nil
		})
		o := &stat.Options{Interval: time.Second, Hist: []fsm.State{fsm.Established}}
		o.Counted = func() []output.Counted { return slices.Clone(now) }
		s := stat.NewSink(output.Discard{}, printer, events.Clock{}, 0, o)
		use(s, &now)
		if err := s.Finish(uint64(1500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		return windows
	}
	one := run(func(s *stat.Sink, _ *[]output.Counted) {
		transitions(t, s, first, 0)
		transitions(t, s, second, uint64(time.Second))
	})
	other := run(func(s *stat.Sink, now *[]output.Counted) {
		*now = []output.Counted{counted(first)}
		if err := s.Advance(uint64(time.Second)); err != nil {
			t.Fatal(err)
		}
		*now = []output.Counted{counted(slices.Concat(first, second))}
	})
	if len(one) != 2 || len(other) != 2 {
		t.Fatalf("%d and %d windows, want 2", len(one), len(other))
	}
	for i := range one {
		a, b := one[i], other[i]
		if i > 0 { // quantiles are kept within the extremes
			for _, pair := range [][2]time.Duration{{a.Min, b.Min}, {a.Max, b.Max}} {
				if d := math.Abs(float64(pair[0] - pair[1])); d > 2*stat.QuantileError*float64(pair[0])+1 {
					t.Errorf("window %d: %v, counted %v", i, pair[0], pair[1])
				}
			}
			b.Min, b.Max = a.Min, a.Max
			a.Dwell, b.Dwell = a.Dwell[1:len(a.Dwell)-1], b.Dwell[1:len(b.Dwell)-1]
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("window %d: one by one\n%v\ncounted\n%v", i, a, b)
		}
	}
}

func TestBounds(t *testing.T) {
	bounds := stat.Bounds()
	if len(bounds) > 2047 || !slices.IsSorted(bounds) || bounds[0] != 1 {
		t.Errorf("%d bounds from %d: want 2047 at most, in order, from 1", len(bounds), bounds[0])
	}
}
