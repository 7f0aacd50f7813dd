package stat

import (
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/DataDog/sketches-go/ddsketch"

	"tcptrace/output"
)

// QuantileError is how far a quantile of [Dwell] may be from the exact value, as a
// part of it.
const QuantileError = 0.01

// Dwell is what is known of the times spent in a state, in those that came to their
// end.
type Dwell struct {
	// Count of the times that are known; of these alone are the quantiles.
	Count uint64
	// Estimated of them are exact to a tick of the kernel's timers only.
	Estimated uint64
	// AtLeast counts times of which only a lower bound is known, Unknown those of
	// which nothing is.
	AtLeast, Unknown uint64
	// Min and Max are exact; 0 without Count.
	Min, Max time.Duration

	sketch *ddsketch.DDSketch // nil without Count
}

// add adds a time that is known.
func (d *Dwell) add(t time.Duration) {
	if d.Count == 0 {
		d.Min, d.sketch = t, newSketch()
	}
	d.Count++
	d.Min, d.Max = min(d.Min, t), max(d.Max, t)
	_ = d.sketch.Add(float64(t)) // fails below 0 and beyond all times
}

// addCounted adds times that were counted by [Bounds].
func (d *Dwell) addCounted(c *output.Counted) {
	more := Dwell{Count: c.Steps, Min: c.Min, Max: c.Max, sketch: newSketch()}
	for bin, n := range c.Bins {
		if n > 0 { // fails below 0 and beyond all times
			_ = more.sketch.AddWithCount(float64(c.Least(bin)), float64(n))
		}
	}
	d.merge(&more)
}

// longestCounted is above the times that are counted by bins: 13 days.
const longestCounted = 1 << 50

// Bounds returns the times, in nanoseconds, between which it makes no difference to a
// Dwell or Histogram how long a time exactly was, but for Min and Max.
func Bounds() []uint64 {
	var bounds []uint64
	sketch := newSketch()
	for i := sketch.Index(1); ; i++ {
		at := uint64(math.Ceil(sketch.LowerBound(i)))
		for sketch.Index(float64(at)) < i { // the bound is rounded
			at++
		}
		for at > 1 && sketch.Index(float64(at-1)) >= i {
			at--
		}
		if at >= longestCounted {
			break
		}
		bounds = append(bounds, at)
	}
	for _, unit := range units {
		for at := uint64(unit); at < longestCounted; at *= 2 {
			bounds = append(bounds, at)
		}
	}
	bounds = append(bounds, longestCounted)
	slices.Sort(bounds)
	return slices.Compact(bounds)
}

func newSketch() *ddsketch.DDSketch {
	s, err := ddsketch.NewDefaultDDSketch(QuantileError)
	if err != nil { // the error is a constant, and in its range
		panic(err)
	}
	return s
}

// merge adds what is known in the other.
func (d *Dwell) merge(o *Dwell) {
	d.Estimated += o.Estimated
	d.AtLeast += o.AtLeast
	d.Unknown += o.Unknown
	if o.Count == 0 {
		return
	}
	if d.Count == 0 {
		d.Min, d.sketch = o.Min, newSketch()
	}
	d.Count += o.Count
	d.Min, d.Max = min(d.Min, o.Min), max(d.Max, o.Max)
	_ = d.sketch.MergeWith(o.sketch) // fails for another error
}

// Quantile returns the shortest time that at least the part q of the known ones, from
// 0 to 1, do not exceed: within QuantileError of the exact value. It is 0 without
// Count.
func (d *Dwell) Quantile(q float64) time.Duration {
	if d.Count == 0 {
		return 0
	}
	n := float64(d.Count)
	rank := max(math.Ceil(q*n), 1) - 1
	// The sketch takes the time at the integral part of its argument times n-1.
	v, err := d.sketch.GetValueAtQuantile(min((rank+0.5)/max(n-1, 1), 1))
	if err != nil { // q is no such part
		return 0
	}
	return min(max(time.Duration(v), d.Min), d.Max)
}

// units of a [Histogram]: which suits the times is known at the end.
var units = [...]time.Duration{time.Microsecond, time.Millisecond, time.Second}

// Histogram counts times in buckets that double: from 0 to 1 unit, from 1 to 2, from
// 2 to 4, and so on.
type Histogram struct {
	count  uint64
	min    time.Duration
	counts [len(units)][maxBuckets]uint64
}

// maxBuckets is enough for the longest time in the smallest unit.
const maxBuckets = 64

// add adds a time that was met n times.
func (h *Histogram) add(t time.Duration, n uint64) {
	if n == 0 {
		return
	}
	if h.count == 0 || t < h.min {
		h.min = t
	}
	h.count += n
	for i, unit := range units {
		h.counts[i][bits.Len64(uint64(t/unit))] += n
	}
}

// Bucket counts the times from From to below To.
type Bucket struct {
	From, To time.Duration
	Count    uint64
}

// Buckets returns the unit that suits the times, which is µs, ms or s, and the
// buckets from the first that is not empty to the last.
func (h *Histogram) Buckets() (unit time.Duration, list []Bucket) {
	chosen := 0
	for i, u := range units {
		if h.min >= u {
			chosen = i
		}
	}
	unit = units[chosen]
	last := 0
	for i, n := range h.counts[chosen] {
		if n == 0 && len(list) == 0 {
			continue
		}
		list = append(list, Bucket{From: power(unit, i-1), To: power(unit, i), Count: n})
		if n > 0 {
			last = len(list)
		}
	}
	return unit, list[:last]
}

// power returns the unit times 2 to the power of n, 0 for -1, and at most what fits.
func power(unit time.Duration, n int) time.Duration {
	switch {
	case n < 0:
		return 0
	case bits.Len64(uint64(unit))+n >= 64:
		return math.MaxInt64
	}
	return unit << n
}
