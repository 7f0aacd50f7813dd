package prom_test

import (
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/output"
	"tcptrace/output/prom"
)

func histogramOf(t *testing.T, s *prom.Sink, state string) *dto.Histogram {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	check(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "tcptrace_state_dwell_seconds" && m.GetLabel()[0].GetValue() == state {
				return m.GetHistogram()
			}
		}
	}
	t.Fatalf("no dwell of %s", state)
	return nil
}

// The histogram is what client_golang's own would be.
func TestHistogramIsTheLibrarys(t *testing.T) {
	s := open()
	empty := histogramOf(t, s, "TIME_WAIT")
	var bounds []float64
	for _, b := range empty.GetBucket() {
		bounds = append(bounds, b.GetUpperBound())
	}
	library := prometheus.NewHistogram(prometheus.HistogramOpts{
		Buckets: bounds, NativeHistogramBucketFactor: 1.1, NativeHistogramZeroThreshold: prometheus.NativeHistogramZeroThresholdZero,
	})
	r := rand.New(rand.NewPCG(1, 1))
	times := []time.Duration{0, 1, 2, 3, time.Second, 2 * time.Second, 500 * time.Millisecond, time.Minute, 64 * time.Second, 30 * 24 * time.Hour}
	for _, b := range bounds { // the ends of buckets are in them
		times = append(times, time.Duration(b*1e9), time.Duration(b*1e9)+1)
	}
	for range 2000 {
		times = append(times, time.Duration(1+r.Uint64N(1<<(1+r.UintN(53)))))
	}
	var list []events.Event
	for i, d := range times {
		const now = 1 << 60
		list = append(list, events.Event{Cookie: uint64(i + 1), Seq: 1, Time: now, Entered: now - uint64(d), From: fsm.TimeWait, To: fsm.Closed})
		library.Observe(d.Seconds())
	}
	observe(t, s, list)
	got := histogramOf(t, s, "TIME_WAIT")
	var m dto.Metric
	check(t, library.Write(&m))
	want := m.GetHistogram()
	got.CreatedTimestamp, want.CreatedTimestamp = nil, nil
	if diff := got.GetSampleSum() - want.GetSampleSum(); diff > 1e-3 || diff < -1e-3 {
		t.Errorf("sum %v, want %v", got.GetSampleSum(), want.GetSampleSum())
	}
	got.SampleSum = want.SampleSum // in another order
	if !proto.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
	if n := len(got.GetPositiveDelta()); n < 200 {
		t.Errorf("%d native buckets: the test observes too little", n)
	}
}

// A TIME_WAIT of the usual time is told from a longer one.
func TestTimeWaitResolves(t *testing.T) {
	var least, most bool
	for _, b := range histogramOf(t, open(), "TIME_WAIT").GetBucket() {
		least = least || b.GetUpperBound() == 60
		most = most || b.GetUpperBound() > 64 && b.GetUpperBound() <= 66
	}
	if !least || !most {
		t.Error("60 to 64 s, the usual TIME_WAIT, are no bucket of their own")
	}
}

// TestCounted: times that the kernel side counts by Bounds give the same histogram, and
// transitions, however often it is asked.
func TestCounted(t *testing.T) {
	bounds := prom.Bounds()
	if len(bounds) > 2047 || !slices.IsSorted(bounds) {
		t.Fatalf("%d bounds: want 2047 at most, in order", len(bounds))
	}
	counted := output.Counted{From: fsm.Established, To: fsm.CloseWait, HasDwell: true, Bounds: bounds, Bins: make([]uint64, len(bounds))}
	s := prom.New(&prom.Options{Events: func() uint64 { return 0 }, Counted: func() []output.Counted {
		now := counted
		now.Bins = slices.Clone(counted.Bins)
		return []output.Counted{now, {From: fsm.Closed, To: fsm.SynSent, Bounds: bounds}}
	}})
	r := rand.New(rand.NewPCG(2, 2))
	times := []time.Duration{0, 1, 2, time.Second, time.Second + 1, time.Minute, time.Hour}
	for _, b := range histogramOf(t, s, "ESTABLISHED").GetBucket() {
		if d := time.Duration(b.GetUpperBound() * 1e9); d < 1<<50 {
			times = append(times, d, d+1)
		}
	}
	for range 3000 {
		times = append(times, time.Duration(1+r.Uint64N(1<<(1+r.UintN(49)))))
	}
	one := open()
	var list []events.Event
	for i, d := range times {
		const now = 1 << 60
		list = append(list, events.Event{Cookie: uint64(i + 1), Seq: 1, Time: now, Entered: now - uint64(d), From: fsm.Established, To: fsm.CloseWait})
		counted.Steps++
		counted.Sum += d
		counted.Bins[sort.Search(len(bounds), func(b int) bool { return bounds[b] > uint64(d) })]++
		if i%1000 == 0 {
			histogramOf(t, s, "ESTABLISHED")
		}
	}
	observe(t, one, list)
	got, want := histogramOf(t, s, "ESTABLISHED"), histogramOf(t, one, "ESTABLISHED")
	if diff := got.GetSampleSum()/want.GetSampleSum() - 1; diff > 1e-9 || diff < -1e-9 {
		t.Errorf("sum %v, want %v", got.GetSampleSum(), want.GetSampleSum())
	}
	got.SampleSum, got.CreatedTimestamp, want.CreatedTimestamp = want.SampleSum, nil, nil
	if !proto.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}
