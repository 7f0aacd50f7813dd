package events_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"tcptrace/events"
	"tcptrace/fsm"
)

// model is Order as plainly as it can be written.
type model []events.Event

func (m *model) push(e events.Event) {
	// From the youngest on, the first that it is about.
	for i := len(*m) - 1; i >= 0; i-- {
		w := &(*m)[i]
		if e.Source == events.SourceReset && w.Cookie == e.Cookie && w.To == fsm.Closed {
			w.Reset = e.Reset
			break
		}
		same := w.Source == e.Source && w.Cookie == e.Cookie && w.NetNS == e.NetNS && w.Local == e.Local && w.Remote == e.Remote
		if e.Source != events.SourceReset && e.Flags&events.FlagSupersedes != 0 && same && w.Flags&events.FlagProvisional != 0 {
			*m = slices.Delete(*m, i, i+1)
			break
		}
	}
	if e.Source == events.SourceReset || e.Flags&events.FlagSupersedes != 0 && e.From == e.To {
		return
	}
	*m = append(*m, e)
	slices.SortStableFunc(*m, func(a, b events.Event) int {
		return int(int64(a.Time) - int64(b.Time))
	})
}

func (m *model) pop(until uint64) (events.Event, bool) {
	if len(*m) == 0 {
		return events.Event{}, false
	}
	e := (*m)[0]
	age := int64(0)
	if e.Flags&events.FlagProvisional != 0 {
		age = 100e6
	}
	if int64(e.Time)+age > int64(until) {
		return events.Event{}, false
	}
	*m = (*m)[1:]
	return e, true
}

func TestOrderAgainstModel(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		var o events.Order
		var m model
		base, cookie := uint64(1000), uint64(0)
		for range 500 {
			if r.IntN(5) > 1 { // nearly in order, with many equal times
				cookie++
				e := events.Event{Time: base + uint64(r.IntN(8)), Cookie: cookie}
				o.Push(&e)
				m.push(e)
				base += uint64(r.IntN(3))
				continue
			}
			until := base - 4 + uint64(r.IntN(8))
			for {
				var got events.Event
				ok := o.Pop(until, &got)
				want, wantOK := m.pop(until)
				if ok != wantOK || got != want {
					t.Fatalf("seed %d: Pop(%d) = %d of %d, %v, want %d of %d, %v",
						seed, until, got.Cookie, got.Time, ok, want.Cookie, want.Time, wantOK)
				}
				if !ok {
					break
				}
			}
		}
	}
}

// The same with records that take others back, or add to them.
func TestOrderOfTimersAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var o events.Order
		var m model
		const ms = 1_000_000
		base, taken := uint64(1000*ms), 0
		for i := range 300 {
			if r.IntN(5) > 0 {
				e := events.Event{
					Time: base + uint64(r.IntN(80))*ms, Seq: uint32(i), // tells them apart
					Cookie: uint64(r.IntN(3)), NetNS: uint32(r.IntN(2)),
					From: fsm.TimeWait, To: []fsm.State{fsm.Closed, fsm.Closed, fsm.TimeWait}[r.IntN(3)],
					Source: events.Source(r.IntN(4)), Reset: events.Reset(r.IntN(3)),
					Flags: []events.Flags{0, events.FlagProvisional, events.FlagSupersedes, events.FlagProvisional | events.FlagSupersedes}[r.IntN(4)],
				}
				before := len(m)
				o.Push(&e)
				m.push(e)
				if len(m) <= before {
					taken++
				}
				base += uint64(r.IntN(30)) * ms
				continue
			}
			for until := base - uint64(r.IntN(80))*ms; ; {
				var got events.Event
				ok := o.Pop(until, &got)
				want, wantOK := m.pop(until)
				if ok != wantOK || got != want {
					t.Fatalf("seed %d: Pop(%d) = %d, %v\n%+v, want %d, %v\n%+v", seed, until, got.Seq, ok, got, want.Seq, wantOK, want)
				}
				if !ok {
					break
				}
			}
		}
		if taken == 0 {
			t.Errorf("seed %d: nothing is taken back", seed)
		}
	}
}

// drain returns all that waits.
func drain(o *events.Order) (list []events.Event) {
	var e events.Event
	for o.Pop(^uint64(0), &e) {
		list = append(list, e)
	}
	return list
}

func TestSupersedes(t *testing.T) {
	end := events.Event{
		Time: 10, Cookie: 1, Source: events.SourceTimeWait, From: fsm.TimeWait, To: fsm.Closed, End: fsm.EndKilled,
		Local: netip.MustParseAddrPort("10.0.0.1:1"), Remote: netip.MustParseAddrPort("10.0.0.2:2"), NetNS: 3,
		Flags: events.FlagProvisional,
	}
	expired := end
	expired.Time, expired.End, expired.Flags = 11, fsm.EndExpired, events.FlagSupersedes
	for _, c := range []struct {
		name    string
		change  func(waiting, e *events.Event)
		taken   bool // what waits
		nothing bool // else e comes out
	}{
		{"the end", func(_, _ *events.Event) {}, true, false},
		{"it goes on", func(_, e *events.Event) { e.To = e.From }, true, true},
		{"it goes on, and nothing was said", func(w, e *events.Event) { e.To, w.Flags = e.From, 0 }, false, true},
		{"a step", func(w, e *events.Event) { w.From, e.From, e.To = fsm.FinWait2, fsm.FinWait2, fsm.TimeWait }, true, false},
		{"not superseding", func(_, e *events.Event) { e.Flags = events.FlagProvisional }, false, false},
		{"not provisional", func(w, _ *events.Event) { w.Flags = ^events.FlagProvisional }, false, false},
		{"of another source", func(_, e *events.Event) { e.Source = events.SourceRequest }, false, false},
		{"of another socket", func(_, e *events.Event) { e.Cookie = 2 }, false, false},
		{"of another local port", func(_, e *events.Event) { e.Local = netip.MustParseAddrPort("10.0.0.1:9") }, false, false},
		{"of another peer", func(_, e *events.Event) { e.Remote = netip.MustParseAddrPort("10.0.0.9:2") }, false, false},
		{"of another namespace", func(_, e *events.Event) { e.NetNS = 9 }, false, false},
		{"of an earlier time", func(_, e *events.Event) { e.Time = 9 }, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, e := end, expired
			c.change(&w, &e)
			other := events.Event{Time: 10, Cookie: 7, From: fsm.FinWait2, To: fsm.Closed}
			later := events.Event{Time: 12, Cookie: 8, From: fsm.FinWait2, To: fsm.Closed}
			var o events.Order
			for _, in := range []events.Event{other, w, later, e} {
				o.Push(&in)
			}
			want := []events.Event{other, later}
			if !c.taken {
				want = append(want, w)
			}
			if !c.nothing {
				want = append(want, e)
			}
			slices.SortStableFunc(want, func(a, b events.Event) int { return int(a.Time) - int(b.Time) })
			if got := drain(&o); !slices.Equal(got, want) {
				t.Errorf("got\n%+v, want\n%+v", got, want)
			}
		})
	}
}

// Of two that wait, the youngest: the ones before have been an end already.
func TestSupersedesTheYoungest(t *testing.T) {
	var o events.Order
	e := events.Event{Source: events.SourceRequest, From: fsm.SynRcvd, To: fsm.Closed, Flags: events.FlagProvisional}
	for e.Time = 10; e.Time < 13; e.Time++ {
		o.Push(&e)
	}
	e.Flags, e.To = events.FlagSupersedes, e.From
	o.Push(&e)
	got := drain(&o)
	if len(got) != 2 || got[0].Time != 10 || got[1].Time != 11 {
		t.Errorf("left %+v, want those of 10 and 11", got)
	}
}

// What has been given away cannot be taken back.
func TestSupersedesNothingThatIsGone(t *testing.T) {
	var o events.Order
	e := events.Event{Time: 10, Cookie: 1, Source: events.SourceTimeWait, From: fsm.TimeWait, To: fsm.Closed, Flags: events.FlagProvisional}
	o.Push(&e)
	o.Push(&events.Event{Time: 11})
	if !o.Pop(10+100_000_000, &e) {
		t.Fatal("it stays")
	}
	e.Time, e.Flags = 12, events.FlagSupersedes
	o.Push(&e)
	if got := drain(&o); len(got) != 2 || got[0].Time != 11 || got[1] != e {
		t.Errorf("got %+v", got)
	}
}

func TestReset(t *testing.T) {
	const why = events.Reset(8)
	closed := func(time, cookie uint64) events.Event {
		return events.Event{Time: time, Cookie: cookie, From: fsm.FinWait2, To: fsm.Closed}
	}
	for _, c := range []struct {
		name    string
		waiting []events.Event
		given   int // to which; -1: none
	}{
		{"none waits", nil, -1},
		{"the one", []events.Event{closed(1, 5)}, 0},
		{"of another socket", []events.Event{closed(1, 6)}, -1},
		{"not to CLOSED", []events.Event{{Time: 1, Cookie: 5, From: fsm.Closed, To: fsm.SynSent}}, -1},
		{"the youngest", []events.Event{closed(1, 5), closed(2, 5), closed(3, 6)}, 1},
		{"before a new beginning", []events.Event{closed(1, 5), {Time: 2, Cookie: 5, From: fsm.Closed, To: fsm.SynSent}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var o events.Order
			for _, e := range c.waiting {
				o.Push(&e)
			}
			o.Push(&events.Event{Time: 4, Cookie: 5, From: fsm.Closed, To: fsm.Closed, Source: events.SourceReset, Reset: why})
			want := slices.Clone(c.waiting)
			if c.given >= 0 {
				want[c.given].Reset = why
			}
			if got := drain(&o); !slices.Equal(got, want) {
				t.Errorf("got\n%+v, want\n%+v", got, want)
			}
		})
	}
}

func TestOrderSorts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var o events.Order
	const n = 1000
	for i := range n {
		o.Push(&events.Event{Time: uint64(r.IntN(100)), Cookie: uint64(i)})
	}
	var last, e events.Event
	for i := range n {
		if !o.Pop(^uint64(0), &e) {
			t.Fatalf("%d events come out of %d", i, n)
		}
		if i > 0 && (e.Time < last.Time || e.Time == last.Time && e.Cookie < last.Cookie) {
			t.Fatalf("%d of time %d comes after %d of %d", e.Cookie, e.Time, last.Cookie, last.Time)
		}
		last = e
	}
	if o.Pop(^uint64(0), &e) {
		t.Error("more events come out than went in")
	}
}

func TestPopUntil(t *testing.T) {
	var o events.Order
	untouched := events.Event{Cookie: 99}
	e := untouched
	if o.Pop(^uint64(0), &e) || e != untouched {
		t.Error("an empty Order gives something")
	}
	o.Push(&events.Event{Time: 10})
	if o.Pop(9, &e) || e != untouched {
		t.Error("a younger event comes out")
	}
	if !o.Pop(10, &e) || e.Time != 10 {
		t.Error("an event of that very time does not come out")
	}
}

// What may be taken back stays for 100 ms, and what is younger behind it.
func TestPopWaitsForWhatMayBeTakenBack(t *testing.T) {
	const ms = 1_000_000
	var o events.Order
	o.Push(&events.Event{Time: 10 * ms, Flags: events.FlagProvisional})
	o.Push(&events.Event{Time: 20 * ms})
	for _, c := range []struct {
		until uint64
		want  int // come out
	}{{0, 0}, {10 * ms, 0}, {99 * ms, 0}, {110*ms - 1, 0}, {110 * ms, 2}} {
		var e events.Event
		got := 0
		for o.Pop(c.until, &e) {
			got++
		}
		if got != c.want {
			t.Errorf("until %d: %d come out, want %d", c.until, got, c.want)
		}
	}
	o.Push(&events.Event{Time: 0, Flags: events.FlagProvisional})
	if got := drain(&o); len(got) != 1 {
		t.Errorf("at the end %d come out, want 1", len(got))
	}
}

func TestPushCopies(t *testing.T) {
	var o events.Order
	e := events.Event{Time: 1, Cookie: 1}
	o.Push(&e)
	e.Cookie = 2
	if o.Pop(1, &e); e.Cookie != 1 {
		t.Error("the caller's change shows")
	}
}

// An Order that is drained as fast as it is filled keeps its memory.
func TestOrderReusesItsMemory(t *testing.T) {
	var o events.Order
	e := events.Event{}
	step := func() {
		e.Time++
		o.Push(&e)
		var out events.Event
		o.Pop(e.Time-min(e.Time, 50), &out)
	}
	for range 1000 {
		step()
	}
	if n := testing.AllocsPerRun(10_000, step); n != 0 {
		t.Errorf("%v allocations for each event", n)
	}
}

// Nor does it grow if most of what comes is taken back, or is of resets.
func TestOrderReusesItsMemoryWithTimers(t *testing.T) {
	var o events.Order
	e := events.Event{From: fsm.TimeWait}
	step := func() {
		e.Time += 1_000_000
		e.Cookie = e.Time / 1_000_000 % 7
		e.Source, e.To, e.Flags = events.SourceTimeWait, fsm.Closed, events.FlagProvisional
		o.Push(&e)
		if e.Time/1_000_000%10 > 0 {
			e.To, e.Flags = e.From, events.FlagSupersedes
			o.Push(&e)
		}
		e.Source = events.SourceReset
		o.Push(&e)
		var out events.Event
		for o.Pop(e.Time, &out) {
		}
	}
	for range 1000 {
		step()
	}
	if n := testing.AllocsPerRun(10_000, step); n != 0 {
		t.Errorf("%v allocations for each event", n)
	}
}

// What a record costs while so many wait: the live source keeps those of the
// last 10 ms. 1334 fill the memory to the last place but one.
func BenchmarkOrder(b *testing.B) {
	for _, waiting := range []uint64{1, 100, 1000, 1334} {
		b.Run(fmt.Sprintf("waiting-%d", waiting), func(b *testing.B) {
			b.ReportAllocs()
			var o events.Order
			var in, out events.Event
			for b.Loop() {
				in.Time++
				o.Push(&in)
				if in.Time > waiting {
					o.Pop(in.Time-waiting, &out)
				}
			}
		})
	}
}
