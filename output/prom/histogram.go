package prom

import (
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// classicBounds are the upper ends of the classic buckets, in seconds: close where a round
// trip, a timer of 40 or 200 ms, or the 60 to 64 s of TIME_WAIT make a difference.
var classicBounds = [...]float64{
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
	1, 2.5, 5, 10, 30, 60, 65, 120, 300, 600, 3600, 86400,
}

// Of the native buckets: each is 2^(1/8) times as wide as the one before, and the
// indices go from 1 ns to a year.
const (
	schema      = 3
	perOctave   = 1 << schema
	nativeLeast = -30 * perOctave
	nativeMost  = 25 * perOctave
)

// histogram is one of both kinds. client_golang's own allocates for each observation
// below a second, to look up the native bucket.
type histogram struct {
	classic [len(classicBounds)]uint64
	native  [nativeMost - nativeLeast + 1]uint64
	zero    uint64 // observations of 0
	count   uint64
	sum     float64 // seconds
}

// observe adds a time. It does not allocate.
func (h *histogram) observe(d time.Duration) {
	h.add(d, 1)
	h.sum += d.Seconds()
}

// add counts a time that was met n times, but does not add to the sum.
func (h *histogram) add(d time.Duration, n uint64) {
	if n == 0 {
		return
	}
	seconds := d.Seconds()
	h.count += n
	for i, bound := range classicBounds {
		if seconds <= bound {
			h.classic[i] += n
			break
		}
	}
	if d <= 0 {
		h.zero += n
		return
	}
	h.native[min(max(nativeIndex(seconds), nativeLeast), nativeMost)-nativeLeast] += n
}

// longestCounted is above the times that are counted by bins: 13 days.
const longestCounted = 1 << 50

// Bounds returns the times, in nanoseconds, between which it makes no difference to a
// histogram how long a time exactly was, but for the sum.
func Bounds() []uint64 {
	bounds := []uint64{1, longestCounted}
	add := func(below float64, differ func(seconds float64) bool) {
		at := uint64(below * 1e9)
		for !differ(time.Duration(at).Seconds()) { // the bound is rounded
			at++
		}
		for at > 1 && differ(time.Duration(at-1).Seconds()) {
			at--
		}
		if at < longestCounted {
			bounds = append(bounds, at)
		}
	}
	for _, bound := range classicBounds {
		add(bound, func(seconds float64) bool { return seconds > bound })
	}
	for i := nativeIndex(1e-9); i < nativeMost; i++ {
		add(math.Exp2(float64(i)/perOctave), func(seconds float64) bool { return nativeIndex(seconds) > i })
	}
	slices.Sort(bounds)
	return slices.Compact(bounds)
}

// nativeIndex returns that of the bucket whose upper end, 2^(index/8), is the least
// that is not below the value.
func nativeIndex(v float64) int {
	fraction, exponent := math.Frexp(v) // from 1/2 to below 1
	i := 0
	for i < perOctave && octave[i] < fraction {
		i++
	}
	return (exponent-1)*perOctave + i
}

// octave are the bounds from 1/2 to below 1.
var octave = func() (b [perOctave]float64) {
	for i := range b {
		b[i] = math.Exp2(float64(i)/perOctave - 1)
	}
	return b
}()

// metric returns what it holds.
func (h *histogram) metric(desc *prometheus.Desc, since time.Time, labels ...string) prometheus.Metric {
	classic := make(map[float64]uint64, len(classicBounds))
	sum := uint64(0)
	for i, bound := range classicBounds {
		sum += h.classic[i]
		classic[bound] = sum
	}
	native := make(map[int]int64)
	for i, n := range h.native {
		if n > 0 {
			native[i+nativeLeast] = int64(n)
		}
	}
	return both{
		Metric: prometheus.MustNewConstHistogram(desc, h.count, h.sum, classic, labels...),
		native: prometheus.MustNewConstNativeHistogram(desc, h.count, h.sum, native, nil, h.zero, schema, 0, since, labels...),
	}
}

// both is a histogram with classic and native buckets, which client_golang has no
// constant of.
type both struct {
	prometheus.Metric
	native prometheus.Metric
}

// Write implements [prometheus.Metric].
func (b both) Write(out *dto.Metric) error {
	if err := b.native.Write(out); err != nil {
		return err
	}
	var classic dto.Metric
	if err := b.Metric.Write(&classic); err != nil {
		return err
	}
	out.Histogram.Bucket = classic.Histogram.Bucket
	return nil
}
