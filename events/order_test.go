package events_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"tcptrace/events"
)

// model is Order as plainly as it can be written.
type model []events.Event

func (m *model) push(e events.Event) {
	*m = append(*m, e)
	slices.SortStableFunc(*m, func(a, b events.Event) int {
		return int(int64(a.Time) - int64(b.Time))
	})
}

func (m *model) pop(until uint64) (events.Event, bool) {
	if len(*m) == 0 || (*m)[0].Time > until {
		return events.Event{}, false
	}
	e := (*m)[0]
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
