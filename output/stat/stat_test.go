package stat_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/outputtest"
	"tcptrace/output/stat"
)

// clock puts the events of eventstest into the year 2026.
var clock = events.Clock{Offset: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()}

func TestSinks(t *testing.T) {
	for name, open := range map[string]func(io.Writer) output.Sink{
		"text": func(w io.Writer) output.Sink {
			p := stat.NewText(w, clock, nil)
			return stat.NewSink(p, p, clock, 0, nil)
		},
		"json": func(w io.Writer) output.Sink {
			p := stat.NewJSON(w, clock, 3)
			return stat.NewSink(p, p, clock, 0, &stat.Options{By: stat.ByComm})
		},
	} {
		t.Run(name, func(t *testing.T) { outputtest.TestSink(t, open) })
	}
}

// kept are the windows that a sink has shown.
type kept struct {
	output.Discard
	windows []*stat.Window
}

func (k *kept) Window(w *stat.Window) error {
	k.windows = append(k.windows, w)
	return nil
}

// count gives all events to a sink, as tracing does.
func count(t *testing.T, list []events.Event, o *stat.Options) []*stat.Window {
	t.Helper()
	k := &kept{}
	s := stat.NewSink(k, k, clock, eventstest.Start, o)
	tracker := lifecycle.NewTracker(0)
	var tr lifecycle.Transition
	for i := range list {
		tracker.Observe(&list[i], &tr)
		if err := s.Transition(&tr); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Finish(list[len(list)-1].Time); err != nil {
		t.Fatal(err)
	}
	return k.windows
}

// everything is all scenarios, one after the other.
func everything() []events.Event {
	s := eventstest.New(eventstest.Start)
	for range 3 {
		s.Exchange("127.0.0.1:40000", "127.0.0.1:80")
		s.SelfConnected()
		s.Reset()
		s.Refused()
		s.Gap()
		s.IllegalEdge()
		s.IllegalJump()
		s.TimeWait(fsm.EndExpired, 60*time.Second)
		s.TimeWait(fsm.EndReused, 2*time.Second)
		s.OrphanEstimated()
		s.Skipped(eventstest.Skipped(16384, 16384))
		s.Handshakes()
		s.SYNCookie()
		s.HostileNames()
	}
	return s.Events()
}

// exact is what [stat.Dwell] is to be near to: times themselves, sorted.
type exact []time.Duration

// quantile is the nearest rank.
func (e exact) quantile(q float64) time.Duration {
	return e[int(max(math.Ceil(q*float64(len(e))), 1))-1]
}

// The numbers of a window are those of the same events, counted one by one.
func TestWindowAgainstTheEvents(t *testing.T) {
	list := everything()
	w := count(t, list, nil)[0]

	edges, dwells := map[stat.Edge]uint64{}, map[fsm.State]exact{}
	unknown := map[fsm.State]uint64{}
	for _, e := range list {
		edges[stat.Edge{From: e.From, To: e.To}]++
		switch {
		case e.From == e.To || e.From == fsm.Closed || e.From == fsm.Listen && e.To == fsm.SynRcvd:
		case e.Entered == 0:
			unknown[e.From]++
		default:
			dwells[e.From] = append(dwells[e.From], time.Duration(e.Time-e.Entered))
		}
	}
	if w.Transitions != uint64(len(list)) {
		t.Errorf("%d transitions, want %d", w.Transitions, len(list))
	}
	for edge, n := range edges {
		if w.Edges[edge].All != n {
			t.Errorf("%v: %d, want %d", edge, w.Edges[edge].All, n)
		}
	}
	if len(w.Edges) != len(edges) {
		t.Errorf("%d edges, want %d", len(w.Edges), len(edges))
	}
	for _, s := range fsm.States() {
		d, times := w.Dwell(s), dwells[s]
		slices.Sort(times)
		if d.Count != uint64(len(times)) || d.Unknown != unknown[s] || d.AtLeast != 0 {
			t.Errorf("%v: %d known, %d unknown, %d at least, want %d, %d, 0", s, d.Count, d.Unknown, d.AtLeast, len(times), unknown[s])
		}
		if len(times) > 0 {
			checkQuantiles(t, s.String(), &d, times)
		}
	}
}

func checkQuantiles(t *testing.T, name string, d *stat.Dwell, times exact) {
	t.Helper()
	if d.Min != times[0] || d.Max != times[len(times)-1] {
		t.Errorf("%s: from %v to %v, want %v to %v", name, d.Min, d.Max, times[0], times[len(times)-1])
	}
	for _, q := range []float64{0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
		got, want := d.Quantile(q), times.quantile(q)
		// A nanosecond for what is no whole number of them.
		if math.Abs(float64(got-want)) > stat.QuantileError*float64(want)+1 {
			t.Errorf("%s, %d times: quantile %v is %v, want %v", name, len(times), q, got, want)
		}
	}
}

// quit returns a transition that leaves ESTABLISHED after the time.
func quit(at uint64, after time.Duration) *lifecycle.Transition {
	e := &events.Event{
		Time: at, Entered: at - uint64(after), Cookie: 1, Seq: 3, From: fsm.Established, To: fsm.FinWait1,
		Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.2:80"),
	}
	tr := &lifecycle.Transition{}
	lifecycle.NewTracker(0).Observe(e, tr)
	tr.Judgement = fsm.Check(e.From, e.To, e.Evidence())
	return tr
}

func TestQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, draw := range map[string]func() time.Duration{
		"all the same": func() time.Duration { return 60 * time.Second },
		"uniform":      func() time.Duration { return time.Duration(r.Int64N(int64(time.Second))) },
		"over all magnitudes": func() time.Duration {
			return time.Duration(math.Exp(r.Float64() * math.Log(1e18)))
		},
		"mostly short": func() time.Duration {
			return time.Duration(float64(50*time.Microsecond) * math.Exp(2*r.NormFloat64()))
		},
		"two heaps": func() time.Duration {
			return time.Duration(1+r.IntN(2)*1_000_000) * time.Microsecond
		},
		"nothing at all, often": func() time.Duration { return time.Duration(r.IntN(2)) },
	} {
		for _, n := range []int{1, 2, 3, 10, 99, 100, 101, 20_000} {
			byOne, byTwo := stat.NewWindow(0, &stat.Options{}), stat.NewWindow(0, &stat.Options{})
			one, two := quit(1<<62, 1), quit(1<<62, 1)
			var times exact
			for i := range n {
				d := draw()
				times = append(times, d)
				one.Dwell, two.Dwell = d, d
				if two.To = one.To; i%3 == 0 { // the edges of a state are put together
					two.To = fsm.CloseWait
				}
				byOne.Count(one)
				byTwo.Count(two)
			}
			slices.Sort(times)
			d, together := byOne.Dwell(fsm.Established), byTwo.Dwell(fsm.Established)
			checkQuantiles(t, name, &d, times)
			checkQuantiles(t, name+", by two edges", &together, times)
		}
	}
}

// What is not known for certain has no part in what is.
func TestLowerBoundsAreNoValues(t *testing.T) {
	w := stat.NewWindow(0, &stat.Options{By: stat.ByState, Hist: []fsm.State{fsm.Established}})
	w.Count(quit(1<<40, time.Second))
	atLeast := quit(1<<40, time.Hour/4)
	atLeast.AtLeast = true
	w.Count(atLeast)
	unknown := quit(1<<40, time.Hour/4)
	unknown.HasDwell = false
	w.Count(unknown)
	estimated := quit(1<<40, time.Second)
	estimated.Flags |= events.FlagEstimated
	w.Count(estimated)
	stays := quit(1<<40, time.Hour/4)
	stays.To = stays.From
	w.Count(stays)

	d := w.Dwell(fsm.Established)
	if d.Count != 2 || d.Estimated != 1 || d.AtLeast != 1 || d.Unknown != 1 || d.Max != time.Second || d.Quantile(1) != time.Second {
		t.Errorf("got %+v, quantile 1 is %v", d, d.Quantile(1))
	}
	var b bytes.Buffer
	if err := stat.NewText(&b, clock, nil).Window(w); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\nESTABLISHED     2 ~1.00s ~1.00s ~1.00s ~1.00s ~1.00s 1 1\n") {
		t.Errorf("got\n%s", &b)
	}
	if strings.Count(b.String(), "*") != 40 {
		t.Errorf("not all in one bucket of the histogram:\n%s", &b)
	}

	// Nothing is known: that is no 0.
	w = stat.NewWindow(0, &stat.Options{})
	w.Count(unknown)
	b.Reset()
	if err := stat.NewText(&b, clock, nil).Window(w); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\nESTABLISHED     0   -   -   -   -   - 0 1\n") {
		t.Errorf("got\n%s", &b)
	}
	b.Reset()
	if err := stat.NewJSON(&b, clock, 1).Window(w); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `"ESTABLISHED":{"count":0,"estimated":0,"at_least":0,"unknown":1}`) || strings.Contains(b.String(), "per_second") {
		t.Errorf("got\n%s", &b)
	}
}

func TestHistogram(t *testing.T) {
	for _, test := range []struct {
		times []time.Duration
		want  string
	}{
		{nil, "1µs"},
		{[]time.Duration{0}, "1µs 0s-1µs:1"},
		{[]time.Duration{999, 1000, 1999, 2000, 3999, 4000}, "1µs 0s-1µs:1 1µs-2µs:2 2µs-4µs:2 4µs-8µs:1"},
		{[]time.Duration{time.Millisecond, 5 * time.Millisecond}, "1ms 1ms-2ms:1 2ms-4ms:0 4ms-8ms:1"},
		{[]time.Duration{60 * time.Second, 61 * time.Second}, "1s 32s-1m4s:2"},
		{[]time.Duration{math.MaxInt64}, "1s 2386092h56m32s-2562047h47m16.854775807s:1"},
	} {
		h := &stat.Histogram{}
		for _, d := range test.times {
			h.Count(d)
		}
		unit, list := h.Buckets()
		got := unit.String()
		for _, b := range list {
			got += fmt.Sprintf(" %v-%v:%d", b.From, b.To, b.Count)
		}
		if got != test.want {
			t.Errorf("%v: got %s, want %s", test.times, got, test.want)
		}
	}
}

func TestWindows(t *testing.T) {
	const second = uint64(time.Second)
	k := &kept{}
	s := stat.NewSink(k, k, clock, 10*second, &stat.Options{Interval: time.Second})
	lost := &output.Notice{Time: clock.Time(14 * second), Kind: output.NoticeLost, Reason: "missed", Count: 3}
	err := errors.Join(
		s.Transition(quit(10*second, 1)),
		s.Transition(quit(11*second-1, 1)),
		s.Transition(quit(11*second, 1)), // begins the next
		s.Transition(quit(11*second-2, 1)),
		s.Notice(lost), // before what else there is of its time
		s.Transition(quit(12*second-1, 1)),
		s.Advance(13*second+1), // two more are over, and nothing came
		s.Notice(lost),
		s.Notice(&output.Notice{Kind: output.NoticeUndecided, Count: 7}),
		s.Finish(14*second+second/2),
	)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range k.windows {
		got = append(got, fmt.Sprintf("%v-%v:%d,%d", time.Duration(w.Start), time.Duration(w.End), w.Transitions, w.Lost["missed"]))
	}
	want := "10s-11s:2,0 11s-12s:3,0 12s-13s:0,0 13s-14s:0,0 14s-14.5s:0,6"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %v\nwant %v", got, want)
	}

	// The end of a window is not a window.
	k = &kept{}
	s = stat.NewSink(k, k, clock, 10*second, &stat.Options{Interval: time.Second})
	if err := errors.Join(s.Transition(quit(10*second, 1)), s.Finish(11*second)); err != nil || len(k.windows) != 1 {
		t.Errorf("%d windows (%v), want 1", len(k.windows), err)
	}
	// But nothing at all is told.
	k = &kept{}
	s = stat.NewSink(k, k, clock, 10*second, nil)
	if err := s.Finish(10 * second); err != nil || len(k.windows) != 1 {
		t.Errorf("%d windows (%v), want 1", len(k.windows), err)
	}
}

func TestWindowsAddUp(t *testing.T) {
	list := everything()
	all := count(t, list, nil)[0]
	sum := &stat.Tally{}
	windows := count(t, list, &stat.Options{Interval: 7 * time.Second})
	for i, w := range windows {
		if i > 0 && w.Start != windows[i-1].End {
			t.Errorf("window %d begins at %d, the one before ends at %d", i, w.Start, windows[i-1].End)
		}
		sum.Transitions += w.Transitions
		for v, n := range w.Verdicts {
			sum.Verdicts[v] += n
		}
		for c, n := range w.Closed {
			sum.Closed[c] += n
		}
	}
	if *sum != all.Tally || len(windows) < 10 {
		t.Errorf("%d windows have %+v, want %+v", len(windows), *sum, all.Tally)
	}
}

func TestGroups(t *testing.T) {
	owned := quit(1<<40, time.Second)
	owned.Owner = events.Owner{PID: 7, Comm: events.MakeComm("a\x1b"), Source: events.OwnerConnect}
	owned.NetNS = 4026531840
	owned.Place = events.Place{Container: "c\n1", Unit: "x.service"}
	bare := &lifecycle.Transition{Event: &events.Event{
		From: fsm.Closed, To: fsm.SynSent,
		Local:  netip.AddrPortFrom(netip.IPv4Unspecified(), 0),
		Remote: netip.AddrPortFrom(netip.IPv4Unspecified(), 0),
	}, Life: owned.Life}
	for by, want := range map[stat.By]string{
		stat.ByComm: `a\x1b`, stat.ByPID: `7 a\x1b`, stat.ByLPort: "40000", stat.ByRPort: "80",
		stat.ByLAddr: "10.0.0.1", stat.ByRAddr: "10.0.0.2", stat.ByContainer: `c\x0a1`, stat.ByUnit: "x.service",
		stat.ByNetNS: "4026531840", stat.ByState: "ESTABLISHED",
	} {
		w := stat.NewWindow(0, &stat.Options{By: by, MaxGroups: 10})
		w.Count(owned)
		w.Count(owned)
		w.Count(bare)
		list, other := w.Top(10)
		unknown := "-"
		if by == stat.ByState {
			unknown = "CLOSED"
		}
		if len(list) != 2 || list[0].Name(by) != want || list[0].Transitions != 2 || list[1].Name(by) != unknown || other.Transitions != 0 {
			t.Errorf("by %s: got %v %v, other %d", by, list[0].Name(by), list[1].Name(by), other.Transitions)
		}
		var b bytes.Buffer
		if err := stat.NewJSON(&b, clock, 10).Window(w); err != nil || !json.Valid(b.Bytes()) {
			t.Errorf("by %s: %v: %s", by, err, &b)
		}
	}
	if len(stat.Bys()) != 10 {
		t.Errorf("%d ways to group, not all of which are tested", len(stat.Bys()))
	}
	if _, err := stat.ParseBy("port"); err == nil || !strings.Contains(err.Error(), "want one of comm, pid, lport") {
		t.Errorf("got %v", err)
	}
}

// Memory is bounded, nothing is left out of the sum, and one that has much is found
// though it came last.
func TestTooManyGroups(t *testing.T) {
	const most, strangers, late = 100, 5000, 200
	w := stat.NewWindow(0, &stat.Options{By: stat.ByRAddr, MaxGroups: most})
	tr := quit(1<<40, time.Second)
	from := func(a netip.Addr) {
		tr.Remote = netip.AddrPortFrom(a, 80)
		w.Count(tr)
		if n := w.GroupCount(); n > most {
			t.Fatalf("%d groups", n)
		}
	}
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }
	early, heavy := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for range 50 {
		from(early)
	}
	for i := range strangers {
		from(address(i))
		if i >= strangers-late {
			from(heavy)
		}
	}
	list, other := w.Top(2)
	if got := list[0]; got.Name(stat.ByRAddr) != "10.0.0.2" || !got.AtLeast || got.Transitions > late || got.Transitions < late-5 {
		t.Errorf("first %s with %d, at least: %v", got.Name(stat.ByRAddr), got.Transitions, got.AtLeast)
	}
	if got := list[1]; got.Name(stat.ByRAddr) != "10.0.0.1" || got.AtLeast || got.Transitions != 50 {
		t.Errorf("second %s with %d, at least: %v", got.Name(stat.ByRAddr), got.Transitions, got.AtLeast)
	}
	if sum := list[0].Transitions + list[1].Transitions + other.Transitions; sum != w.Transitions {
		t.Errorf("groups and others have %d transitions, want %d", sum, w.Transitions)
	}
}

// No name that a process chose steers a terminal or forges a row.
func TestHostileNames(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.HostileNames()
	w := count(t, s.Events(), &stat.Options{By: stat.ByPID})[0]
	var text, object bytes.Buffer
	err := errors.Join(
		stat.NewText(&text, clock, &stat.TextOptions{Top: 100, Wide: true}).Window(w),
		stat.NewJSON(&object, clock, 100).Window(w),
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, out := range map[string]string{"text": text.String(), "JSON": object.String()} {
		for _, r := range strings.ReplaceAll(out, "\n", "") {
			if r < ' ' || r == '\u202e' || r == 0x7f {
				t.Errorf("%s has %q", name, r)
			}
		}
	}
	if strings.Count(object.String(), "\n") != 1 || !json.Valid(object.Bytes()) {
		t.Errorf("not one object on one line: %s", &object)
	}
}

func TestIllegalIsMarked(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.IllegalEdge()
	w := count(t, s.Events(), nil)[0]
	var b bytes.Buffer
	if err := stat.NewText(&b, clock, &stat.TextOptions{Color: true}).Window(w); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\x1b[1;31m1!\x1b[0m",
		"\x1b[1;31m! ESTABLISHED -> LAST_ACK: 1 of 1 illegal\x1b[0m\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &b)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortBuffer }

func TestWriterFails(t *testing.T) {
	w := stat.NewWindow(0, &stat.Options{})
	for name, p := range map[string]stat.Printer{
		"text": stat.NewText(failing{}, clock, nil), "JSON": stat.NewJSON(failing{}, clock, 1),
	} {
		if err := p.Window(w); !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("%s: got %v, want the writer's error", name, err)
		}
	}
}

// steps returns transitions of a thousand connections of a hundred processes.
func steps(tb testing.TB) []lifecycle.Transition {
	tb.Helper()
	s := eventstest.New(eventstest.Start)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 1000 {
		c, _ := s.Pair(fmt.Sprintf("10.0.0.%d:%d", i%256, 40000+i), "10.1.0.1:80")
		c.Owner.PID = uint32(100 + i%100)
		wait := func() time.Duration { return time.Duration(1+r.IntN(1000)) * time.Microsecond }
		c.To(fsm.SynSent, wait()).To(fsm.Established, wait()).To(fsm.FinWait1, wait(), eventstest.ByClose).
			To(fsm.FinWait2, wait()).To(fsm.Closed, wait(), eventstest.ByFIN)
	}
	list := s.Events()
	tracker := lifecycle.NewTracker(0)
	all := make([]lifecycle.Transition, len(list))
	for i := range list {
		tracker.Observe(&list[i], &all[i])
	}
	return all
}

func TestCountingDoesNotAllocate(t *testing.T) {
	all := steps(t)
	for _, by := range append(stat.Bys(), stat.ByNone) {
		s := stat.NewSink(output.Discard{}, &kept{}, clock, 0, &stat.Options{By: by, Hist: fsm.States()})
		run := func() {
			for i := range all {
				if err := s.Transition(&all[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 20 { // until groups and sketches have nearly their size
			run()
		}
		if n := testing.AllocsPerRun(10, run); n*100 > float64(len(all)) {
			t.Errorf("by %q: %v allocations for %d transitions", by, n, len(all))
		}
	}
}

func BenchmarkCount(b *testing.B) {
	all := steps(b)
	for _, by := range []stat.By{stat.ByNone, stat.ByComm, stat.ByPID, stat.ByRAddr} {
		b.Run("by="+string(by), func(b *testing.B) {
			s := stat.NewSink(output.Discard{}, &kept{}, clock, 0, &stat.Options{By: by})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := s.Transition(&all[i%len(all)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A time in which nothing came, however long, makes a bounded number of windows, and
// those after it begin where they would have.
func TestWindowsOfSilence(t *testing.T) {
	const second = uint64(time.Second)
	k := &kept{}
	s := stat.NewSink(k, k, clock, 0, &stat.Options{Interval: time.Second})
	late := uint64(1<<63) / second * second
	if err := errors.Join(
		s.Transition(quit(second/2, 1)),
		s.Transition(quit(late+second/2, 1)),
		s.Finish(^uint64(0)),
	); err != nil {
		t.Fatal(err)
	}
	if n := len(k.windows); n > 2100 {
		t.Fatalf("%d windows", n)
	}
	var with []time.Duration
	for _, w := range k.windows {
		if w.Transitions > 0 {
			with = append(with, time.Duration(w.Start))
		}
	}
	if !slices.Equal(with, []time.Duration{0, time.Duration(late)}) {
		t.Errorf("transitions in the windows from %v", with)
	}
}
