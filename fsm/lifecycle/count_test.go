package lifecycle_test

import (
	"maps"
	"math/rand/v2"
	"testing"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// counts returns the sockets that a tracker follows by state, counted by itself and
// one by one.
func counts(tr *lifecycle.Tracker) (own, counted map[fsm.State]int) {
	own, counted = map[fsm.State]int{}, map[fsm.State]int{}
	for s := range 1 << 8 {
		if n := tr.Count(fsm.State(s)); n != 0 {
			own[fsm.State(s)] = n
		}
	}
	_ = tr.Each(func(l *lifecycle.Life) error {
		var c lifecycle.Lifecycle
		l.Lifecycle(0, &c)
		counted[c.Path[len(c.Path)-1]]++
		return nil
	})
	return own, counted
}

// Whatever happens to sockets, gets lost, or is found by walks: the counts are those
// of the sockets that are followed.
func TestCount(t *testing.T) {
	for _, room := range []int{0, 5} {
		for seed := range uint64(20) {
			r := rand.New(rand.NewPCG(seed, 4))
			tr := lifecycle.NewTracker(room)
			last := map[uint64]events.Event{}
			var out lifecycle.Transition
			for i, e := range walk(r, 1000) {
				last[e.Cookie] = e
				if r.IntN(8) == 0 { // lost
					continue
				}
				tr.Observe(&e, &out)
				for _, found := range last {
					found.Source = events.SourceSnapshot
					found.From = found.To
					tr.Observe(&found, &out)
					break
				}
				if r.IntN(100) == 0 {
					_ = tr.Sweep(everywhere, func(*lifecycle.Life) error { return nil })
				}
				own, counted := counts(tr)
				if !maps.Equal(own, counted) {
					t.Fatalf("room for %d, seed %d, event %d: %v, want %v", room, seed, i, own, counted)
				}
			}
		}
	}
}

func TestCountByState(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	observe(tr, []events.Event{
		step(0, -1, 1, fsm.Closed, fsm.Listen, cookie(1)),
		step(1, -1, 1, fsm.Closed, fsm.SynSent, cookie(2)),
		found(2, 0, 0, fsm.CloseWait, cookie(3), atLeast),
		found(3, 0, 0, fsm.TimeWait, cookie(4), minisock),
		found(4, 0, 0, fsm.SynRcvd, cookie(5), request), // no socket yet
		step(5, 0, 1, fsm.Established, fsm.FinWait2, cookie(6), minisock),
		step(6, 1, 2, fsm.SynSent, fsm.Closed, cookie(2)),
	})
	own, _ := counts(tr)
	want := map[fsm.State]int{fsm.Listen: 1, fsm.CloseWait: 1, fsm.TimeWait: 1, fsm.FinWait2: 1}
	if !maps.Equal(own, want) {
		t.Errorf("%v, want %v", own, want)
	}
}

func cookie(n uint64) change { return func(e *events.Event) { e.Cookie = n } }

// A socket whose end was lost is forgotten when two walks have not found it; one that a
// walk or a record told of is not.
func TestSweep(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	sweep := func() (gone []uint64) {
		err := tr.Sweep(everywhere, func(l *lifecycle.Life) error {
			var c lifecycle.Lifecycle
			l.Lifecycle(moment(second), &c)
			if c.Complete || c.Verdict != fsm.Gap {
				t.Errorf("socket %d is complete: %v, and %v", c.Cookie, c.Complete, c.Verdict)
			}
			if _, known := c.Dwell(c.Path[len(c.Path)-1]); known {
				t.Errorf("socket %d: it is not known for how long it was where it was last", c.Cookie)
			}
			gone = append(gone, c.Cookie)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return gone
	}
	for _, n := range []uint64{1, 2, 3} {
		observe(tr, []events.Event{step(0, -1, 1, fsm.SynSent, fsm.Established, cookie(n))})
	}
	for range 2 { // the second does not find them, nor did it have to
		if gone := sweep(); gone != nil {
			t.Errorf("%v are gone, but told of since", gone)
		}
	}
	observe(tr, []events.Event{
		found(1, 0, 1, fsm.Established, cookie(1)),
		step(2, 0, 2, fsm.Established, fsm.CloseWait, cookie(3)),
	})
	if gone := sweep(); len(gone) != 1 || gone[0] != 2 {
		t.Errorf("%v are gone, want socket 2", gone)
	}
	if gone := sweep(); gone != nil {
		t.Errorf("%v are gone, which one walk has passed over", gone)
	}
	if gone := sweep(); len(gone) != 2 {
		t.Errorf("%v are gone, want the others", gone)
	}
	if own, _ := counts(tr); len(own) != 0 || tr.Followed() != 0 {
		t.Errorf("still followed: %v", own)
	}
}

func everywhere(uint32) bool { return true }

// One in a network namespace that the walk could not enter stays.
func TestSweepStaysWhereTheWalkWas(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	observe(tr, []events.Event{
		step(0, -1, 1, fsm.SynSent, fsm.Established, cookie(1), func(e *events.Event) { e.NetNS = 1 }),
		step(0, -1, 1, fsm.SynSent, fsm.Established, cookie(2), func(e *events.Event) { e.NetNS = 2 }),
	})
	for range 3 {
		_ = tr.Sweep(func(netns uint32) bool { return netns == 2 }, func(*lifecycle.Life) error { return nil })
	}
	if tr.Followed() != 1 {
		t.Errorf("%d are followed, want the one of the other namespace", tr.Followed())
	}
}
