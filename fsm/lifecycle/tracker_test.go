package lifecycle_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// observe shows all events to the tracker and returns what it made of them,
// without the Life, which is not valid any more.
func observe(tr *lifecycle.Tracker, list []events.Event) (out []lifecycle.Transition) {
	for i := range list {
		var t lifecycle.Transition
		tr.Observe(&list[i], &t)
		t.Life = nil
		out = append(out, t)
	}
	return out
}

func verdicts(list []lifecycle.Transition) (v []fsm.Verdict) {
	for _, t := range list {
		v = append(v, t.Verdict)
	}
	return v
}

func TestScenarios(t *testing.T) {
	// What is not told is legal throughout.
	want := map[string]map[int]fsm.Verdict{ // by index of the event
		"loopback IPv4":       {9: fsm.Linux},
		"loopback IPv6":       {9: fsm.Linux},
		"loopback v4-mapped":  {9: fsm.Linux},
		"refused":             {1: fsm.Abort},
		"reset":               {5: fsm.Abort, 6: fsm.Abort},
		"connected to itself": {5: fsm.Linux, 6: fsm.Linux},
		"reconnected":         {2: fsm.Abort},
		"gap":                 {2: fsm.Gap},
		"illegal edge":        {2: fsm.Illegal},
		"illegal jump":        {2: fsm.Illegal},

		"time wait reused":       {11: fsm.Linux},
		"time wait reset":        {11: fsm.Abort},
		"time wait destroyed":    {11: fsm.Abort},
		"orphan":                 {8: fsm.Linux, 9: fsm.Abort},
		"orphan answers data":    {8: fsm.Linux, 9: fsm.Abort, 10: fsm.Abort},
		"orphan, FIN estimated":  {8: fsm.Linux},
		"orphan, FIN seen":       {8: fsm.Linux},
		"begun anew":             {14: fsm.Abort},
		"time wait skipped":      {10: fsm.Illegal},
		"time wait not observed": {10: fsm.Linux},
		"handshakes":             {1: fsm.Abort, 2: fsm.Abort, 3: fsm.Abort, 5: fsm.Abort},
		"resets with reasons":    {5: fsm.Abort, 9: fsm.Abort, 14: fsm.Abort, 19: fsm.Abort},
	}
	for i := range eventstest.HostileComms {
		if want["hostile names"] == nil {
			want["hostile names"] = map[int]fsm.Verdict{}
		}
		want["hostile names"][2*i+1] = fsm.Abort
	}
	for _, s := range eventstest.Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			for i, tn := range observe(lifecycle.NewTracker(0), s.Events) {
				w := fsm.Legal
				if v, ok := want[s.Name][i]; ok {
					w = v
				}
				if tn.Verdict != w {
					t.Errorf("%d: %v -> %v is %v, %q, want %v", i, tn.From, tn.To, tn.Verdict, tn.Reason, w)
				}
				if tn.Event != &s.Events[i] {
					t.Errorf("%d: the event is not the one that was given", i)
				}
			}
		})
	}
}

// renumber makes of events those of a kernel without memory for histories.
func renumber(list []events.Event, seq ...uint32) []events.Event {
	for i, n := range seq {
		list[i].Seq = n
	}
	return list
}

func TestContinuity(t *testing.T) {
	const (
		local, remote = "10.0.0.1:40000", "10.0.0.2:80"
		ms            = time.Millisecond
	)
	type script func(s *eventstest.Script, c *eventstest.Socket)
	for _, c := range []struct {
		name   string
		write  script
		seq    []uint32 // instead of the true ones
		want   fsm.Verdict
		reason string // of the last event
	}{
		{"legal run", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).To(fsm.FinWait1, ms)
		}, nil, fsm.Legal, ""},
		{"one record lost", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).Lose(fsm.Established, ms).To(fsm.FinWait1, ms)
		}, nil, fsm.Gap, "1 record of this socket was lost before this one"},
		{"two records lost", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).Lose(fsm.Established, ms).Lose(fsm.FinWait1, ms).To(fsm.FinWait2, ms)
		}, nil, fsm.Gap, "2 records of this socket were lost before this one"},
		{"lost, though the states fit", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).To(fsm.FinWait1, ms).Lose(fsm.FinWait1, ms).To(fsm.FinWait2, ms)
		}, nil, fsm.Gap, "1 record of this socket was lost before this one"},
		{"one gap is told once", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).Lose(fsm.Established, ms).To(fsm.FinWait1, ms).To(fsm.FinWait2, ms)
		}, nil, fsm.Legal, ""},
		{"sequence goes back", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).To(fsm.FinWait1, ms)
		}, []uint32{5, 6, 4}, fsm.Gap, "record 4 of this socket after its record 6"},
		{"sequence stays", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).To(fsm.FinWait1, ms)
		}, []uint32{1, 2, 2}, fsm.Gap, "record 2 of this socket after its record 2"},

		{"nothing lost, but it was elsewhere", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).Jump(fsm.CloseWait).To(fsm.LastAck, ms)
		}, nil, fsm.Illegal, "the socket was in ESTABLISHED, but this leaves CLOSE_WAIT, and no record was lost between (before: SYN_SENT -> ESTABLISHED)"},
		{"no such edge", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).To(fsm.Listen, ms)
		}, nil, fsm.Illegal, "no edge leads from ESTABLISHED to LISTEN (before: SYN_SENT -> ESTABLISHED)"},
		{"no such edge at first sight", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.Established, ms)
		}, nil, fsm.Illegal, "no edge leads from CLOSED to ESTABLISHED"},
		{"it goes on after what is illegal", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.LastAck, ms).To(fsm.LastAck, ms)
		}, nil, fsm.Linux, "closed again after a shutdown: the state stays"},

		{"first sight at its beginning", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms)
		}, nil, fsm.Legal, ""},
		{"first sight in the middle of an unseen life", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.Jump(fsm.Established).To(fsm.CloseWait, ms)
		}, nil, fsm.Legal, ""},
		{"first sight after its second record", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.Lose(fsm.SynSent, ms).Lose(fsm.Established, ms).To(fsm.FinWait1, ms)
		}, nil, fsm.Gap, "2 records of this socket were lost before this one"},
		{"first sight without number", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.Jump(fsm.Established).To(fsm.CloseWait, ms)
		}, []uint32{0}, fsm.Legal, ""},

		{"next generation", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Closed, ms, eventstest.Errno(111)).To(fsm.SynSent, ms)
		}, nil, fsm.Legal, ""},
		{"next generation goes on", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Closed, ms, eventstest.Errno(111)).To(fsm.SynSent, ms).To(fsm.Established, ms)
		}, nil, fsm.Legal, ""},
		{"next generation, the end of the last one lost", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).Lose(fsm.Closed, ms).To(fsm.SynSent, ms)
		}, nil, fsm.Legal, ""},
		{"next generation, its beginning lost", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Closed, ms).Lose(fsm.SynSent, ms).To(fsm.Established, ms)
		}, nil, fsm.Gap, "1 record of this socket was lost before this one"},
		{"next generation, the end of the last one and its beginning lost", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).Lose(fsm.Closed, ms).Lose(fsm.SynSent, ms).To(fsm.Established, ms)
		}, nil, fsm.Gap, "1 record of this socket was lost before this one"},

		{"child", func(s *eventstest.Script, _ *eventstest.Socket) {
			s.Socket("0.0.0.0:80", "").To(fsm.Listen, ms).Accept(remote, local).To(fsm.SynRcvd, ms)
		}, nil, fsm.Legal, ""},
		{"child goes on", func(s *eventstest.Script, _ *eventstest.Socket) {
			s.Socket("0.0.0.0:80", "").To(fsm.Listen, ms).Accept(remote, local).To(fsm.SynRcvd, ms).To(fsm.Established, ms)
		}, nil, fsm.Legal, ""},
		{"child whose birth is lost", func(s *eventstest.Script, _ *eventstest.Socket) {
			s.Socket("0.0.0.0:80", "").To(fsm.Listen, ms).Accept(remote, local).Lose(fsm.SynRcvd, ms).To(fsm.Established, ms)
		}, nil, fsm.Gap, "1 record of this socket was lost before this one"},
		{"listener goes on after a child", func(s *eventstest.Script, _ *eventstest.Socket) {
			l := s.Socket("0.0.0.0:80", "").To(fsm.Listen, ms)
			l.Accept(remote, local).To(fsm.SynRcvd, ms)
			l.To(fsm.Closed, ms)
		}, nil, fsm.Legal, ""},

		{"sockets do not mix", func(s *eventstest.Script, c *eventstest.Socket) {
			other := s.Socket("10.0.0.1:40001", remote)
			c.To(fsm.SynSent, ms)
			other.To(fsm.SynSent, ms).To(fsm.Established, ms)
			c.To(fsm.Established, ms)
		}, nil, fsm.Legal, ""},

		{"no numbers, states fit", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).To(fsm.FinWait1, ms)
		}, []uint32{0, 0, 0}, fsm.Legal, ""},
		{"no numbers, states do not fit", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).Jump(fsm.CloseWait).To(fsm.LastAck, ms)
		}, []uint32{0, 0, 0}, fsm.Gap, "its records are not numbered, and one is missing"},
		{"numbers begin later", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).To(fsm.FinWait1, ms)
		}, []uint32{0, 0, 1}, fsm.Legal, ""},
		{"numbers end", func(_ *eventstest.Script, c *eventstest.Socket) {
			c.To(fsm.SynSent, ms).To(fsm.Established, ms).To(fsm.FinWait1, ms)
		}, []uint32{1, 2, 0}, fsm.Legal, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := eventstest.New(eventstest.Start)
			c.write(s, s.Socket(local, remote))
			out := observe(lifecycle.NewTracker(0), renumber(s.Events(), c.seq...))
			last := out[len(out)-1]
			if last.Verdict != c.want || last.Reason != c.reason {
				t.Errorf("%v, %q, want %v, %q", last.Verdict, last.Reason, c.want, c.reason)
			}
		})
	}
}

// The kernel closes a socket that is closed already, which the machine calls
// linux: the second record continues the first.
// Steps that the kernel side counted are not missing; a record that was lost still is.
func TestCountedBefore(t *testing.T) {
	const ms = time.Millisecond
	for lost, want := range map[bool]fsm.Verdict{false: fsm.Legal, true: fsm.Gap} {
		s := eventstest.New(eventstest.Start)
		c := s.Socket("10.0.0.1:40000", "10.0.0.2:80").To(fsm.SynSent, ms).To(fsm.Established, ms)
		if lost {
			c.Lose(fsm.CloseWait, ms)
		} else {
			c.Jump(fsm.CloseWait)
		}
		c.To(fsm.LastAck, ms)
		list := s.Events()
		last := &list[len(list)-1]
		last.Flags |= events.FlagCountedBefore
		if out := observe(lifecycle.NewTracker(0), list); out[len(out)-1].Verdict != want {
			t.Errorf("lost %v: %v, want %v", lost, out[len(out)-1].Judgement, want)
		}
	}

	// Where it was found elsewhere, nothing is missing either, and the side is known.
	s := eventstest.New(eventstest.Start)
	s.Socket("10.0.0.1:40000", "10.0.0.2:80").To(fsm.SynSent, ms)
	list := s.Events()
	found := list[len(list)-1]
	found.Time, found.Source = found.Time+uint64(ms), events.SourceSnapshot
	found.From, found.To, found.Flags, found.Role = fsm.Established, fsm.Established, events.FlagCountedBefore, events.RoleActive
	tr := lifecycle.NewTracker(0)
	observe(tr, append(list, found))
	if n := tr.Count(fsm.Established); n != 1 {
		t.Errorf("%d in ESTABLISHED, want 1", n)
	}
	check := func(l *lifecycle.Life) error {
		var c lifecycle.Lifecycle
		l.Lifecycle(found.Time, &c)
		if c.Verdict != fsm.Legal || c.Role != lifecycle.RoleActive {
			t.Errorf("%v, %v, want legal, active", c.Verdict, c.Role)
		}
		return nil
	}
	_ = tr.Each(check)
}

func TestClosedTwice(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	c := s.Socket("10.0.0.1:40000", "10.0.0.2:80")
	c.To(fsm.SynSent, 0).To(fsm.Closed, time.Millisecond, eventstest.Errno(111)).To(fsm.Closed, time.Millisecond)
	list := s.Events()
	tr := lifecycle.NewTracker(0)
	for i := range list {
		var out lifecycle.Transition
		tr.Observe(&list[i], &out)
		second := i == len(list)-1
		if second && out.Verdict != fsm.Linux {
			t.Errorf("the second is %v, %q, want linux", out.Verdict, out.Reason)
		}
		if out.Life.IsConnection() == second { // else it would be counted again
			t.Errorf("%v -> %v is of a connection: %t", out.From, out.To, !second)
		}
	}
}

// Without numbers nobody can know whether a record is missing, or which: what
// does not fit is a gap, never a finding.
func TestRecordsWithoutNumber(t *testing.T) {
	const gap = "its records are not numbered, and one is missing"
	for _, c := range []struct {
		name   string
		seq    []uint32
		want   fsm.Verdict
		reason string
	}{
		{"no numbers", []uint32{0, 0, 0}, fsm.Gap, gap},
		{"number before", []uint32{1, 2, 0}, fsm.Gap, gap},
		{"number after", []uint32{0, 0, 1}, fsm.Gap, gap},
		{"numbers that leave no hole", []uint32{1, 2, 3}, fsm.Illegal, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := eventstest.New(eventstest.Start)
			s.Socket("10.0.0.1:40000", "10.0.0.2:80").
				To(fsm.SynSent, 0).To(fsm.Established, 0).Jump(fsm.CloseWait).To(fsm.LastAck, 0)
			list := observe(lifecycle.NewTracker(0), renumber(s.Events(), c.seq...))
			out := list[len(list)-1]
			if out.Verdict != c.want || c.reason != "" && out.Reason != c.reason {
				t.Errorf("%v, %q, want %v, %q", out.Verdict, out.Reason, c.want, c.reason)
			}
		})
	}
}

func TestDwell(t *testing.T) {
	for _, c := range []struct {
		name          string
		entered, time uint64
		dwell         time.Duration
		has           bool
	}{
		{"known", 1000, 4000, 3000, true},
		{"none at all", 4000, 4000, 0, true},
		{"entry not seen", 0, 4000, 0, false},
		{"entered after it left", 4001, 4000, 0, false},
	} {
		e := events.Event{Cookie: 1, Seq: 1, From: fsm.Established, To: fsm.CloseWait, Entered: c.entered, Time: c.time}
		out := lifecycle.Transition{Dwell: 99, HasDwell: true} // left from the event before
		lifecycle.NewTracker(0).Observe(&e, &out)
		if out.Dwell != c.dwell || out.HasDwell != c.has {
			t.Errorf("%s: %v, %v, want %v, %v", c.name, out.Dwell, out.HasDwell, c.dwell, c.has)
		}
	}
}

// A second close does not restart the dwell.
func TestDwellGoesOnInASelfLoop(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.Socket("10.0.0.1:40000", "10.0.0.2:80").
		To(fsm.SynSent, 0).To(fsm.Established, time.Second).
		To(fsm.FinWait1, time.Second, eventstest.ByShutdown).
		To(fsm.FinWait1, 2*time.Second, eventstest.ByClose).
		To(fsm.FinWait2, 3*time.Second)
	out := observe(lifecycle.NewTracker(0), s.Events())
	for i, want := range []time.Duration{-1, time.Second, time.Second, 2 * time.Second, 5 * time.Second} {
		if out[i].HasDwell != (want >= 0) || out[i].HasDwell && out[i].Dwell != want {
			t.Errorf("%v -> %v: %v, %v, want %v", out[i].From, out[i].To, out[i].Dwell, out[i].HasDwell, want)
		}
	}
}

func TestCookie0IsNotFollowed(t *testing.T) {
	tr := lifecycle.NewTracker(1)
	for _, e := range []events.Event{
		{Seq: 1, From: fsm.Closed, To: fsm.SynSent},
		{Seq: 7, From: fsm.CloseWait, To: fsm.LastAck}, // of another socket, it may be
		{Seq: 1, From: fsm.Established, To: fsm.FinWait1, Entered: 1, Time: 3},
	} {
		var out lifecycle.Transition
		if tr.Observe(&e, &out); out.Verdict != fsm.Legal || out.Life.Marked || out.Ended {
			t.Errorf("%v -> %v: %v, known %v, ended %v", e.From, e.To, out.Verdict, out.Life.Marked, out.Ended)
		}
		out.Life.Marked = true // the next is of another
		if out.HasDwell != (e.Entered != 0) {
			t.Errorf("%v -> %v has dwell %v", e.From, e.To, out.HasDwell)
		}
	}
	if tr.Followed() != 0 || tr.Evicted() != 0 {
		t.Errorf("%d followed, %d evicted", tr.Followed(), tr.Evicted())
	}
	e := events.Event{From: fsm.Established, To: fsm.Listen}
	var out lifecycle.Transition
	if tr.Observe(&e, &out); out.Verdict != fsm.Illegal {
		t.Errorf("an illegal edge without cookie is %v", out.Verdict)
	}
}

func TestLife(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	c, l := s.Pair("10.0.0.1:40000", "10.0.0.2:80")
	l.To(fsm.Listen, 0)
	child := l.Accept("10.0.0.2:80", "10.0.0.1:40000").To(fsm.SynRcvd, 0).To(fsm.Established, 0)
	child.To(fsm.Closed, 0)
	l.To(fsm.Closed, 0)
	c.To(fsm.SynSent, 0).To(fsm.Closed, 0).To(fsm.Listen, 0).To(fsm.Closed, 0).To(fsm.SynSent, 0)
	c.Lose(fsm.Closed, 0).To(fsm.Listen, 0).Lose(fsm.Closed, 0).To(fsm.SynSent, 0)
	listens := s.Socket("0.0.0.0:81", "")
	listens.Jump(fsm.Listen).To(fsm.Closed, 0) // was there before the tracer

	tr := lifecycle.NewTracker(0)
	type key struct {
		cookie     uint64
		generation uint32
	}
	marked := map[key]bool{}
	for _, e := range s.Events() {
		var out lifecycle.Transition
		tr.Observe(&e, &out)
		k := key{e.Cookie, e.Generation}
		listener := e.To == fsm.Listen || e.From == fsm.Listen && e.To == fsm.Closed
		if out.Life.IsConnection() == listener {
			t.Errorf("%+v: %v -> %v is a connection: %v", k, e.From, e.To, !listener)
		}
		if out.Life.Marked != marked[k] {
			t.Errorf("%+v: %v -> %v is marked: %v", k, e.From, e.To, out.Life.Marked)
		}
		out.Life.Marked, marked[k] = true, true
	}
	if len(marked) != 3+5 {
		t.Errorf("%d lives: %v", len(marked), marked)
	}
}

// open returns the first event of so many sockets.
func open(n int) []events.Event {
	list := make([]events.Event, n)
	for i := range list {
		list[i] = events.Event{Cookie: uint64(i + 1), Seq: 1, From: fsm.Closed, To: fsm.SynSent}
	}
	return list
}

func TestEviction(t *testing.T) {
	tr := lifecycle.NewTracker(100)
	for i, tn := range observe(tr, open(350)) {
		if tn.Verdict != fsm.Legal {
			t.Errorf("socket %d: %v", i, tn.Verdict)
		}
	}
	if tr.Followed() != 100 || tr.Places() != 100 || tr.Evicted() != 250 {
		t.Errorf("%d followed in %d places, %d evicted", tr.Followed(), tr.Places(), tr.Evicted())
	}

	// The forgotten go on: what is not known is no gap.
	list := open(350)
	for i := range list {
		list[i].Seq, list[i].From, list[i].To = 2, fsm.SynSent, fsm.Established
	}
	for i, tn := range observe(tr, list) {
		if tn.Verdict != fsm.Legal {
			t.Errorf("socket %d goes on: %v, %q", i, tn.Verdict, tn.Reason)
		}
	}
	if tr.Followed() != 100 || tr.Places() != 100 {
		t.Errorf("%d followed in %d places", tr.Followed(), tr.Places())
	}
}

func TestTheStillestIsEvicted(t *testing.T) {
	tr := lifecycle.NewTracker(2)
	list := open(3)
	again := list[0]
	again.Seq, again.From, again.To = 2, fsm.SynSent, fsm.Established
	observe(tr, []events.Event{list[0], list[1], again, list[2]}) // forgets the second
	jump := func(cookie uint64) events.Event {
		return events.Event{Cookie: cookie, Seq: 9, From: fsm.Established, To: fsm.CloseWait}
	}
	want := []fsm.Verdict{fsm.Gap, fsm.Gap, fsm.Legal}
	if got := verdicts(observe(tr, []events.Event{jump(1), jump(3), jump(2)})); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if tr.Evicted() != 2 {
		t.Errorf("%d evicted", tr.Evicted())
	}
}

func TestOneSocketAtATime(t *testing.T) {
	tr := lifecycle.NewTracker(1)
	for _, s := range eventstest.Scenarios() {
		for _, tn := range observe(tr, s.Events) {
			if tn.Verdict == fsm.Gap && s.Name != "gap" {
				t.Errorf("%s: %v -> %v: %v", s.Name, tn.From, tn.To, tn.Verdict)
			}
		}
	}
	if tr.Followed() > 1 || tr.Places() != 1 {
		t.Errorf("%d followed in %d places", tr.Followed(), tr.Places())
	}
}

func TestMemoryIsReused(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	const atOnce = 10
	for i := range uint64(100_000) {
		opened := events.Event{Cookie: i + 1, Seq: 1, From: fsm.Closed, To: fsm.SynSent}
		tr.Observe(&opened, &out)
		if i < atOnce {
			continue
		}
		closed := events.Event{Cookie: i + 1 - atOnce, Seq: 2, From: fsm.SynSent, To: fsm.Closed}
		if tr.Observe(&closed, &out); out.Verdict != fsm.Abort {
			t.Fatalf("socket %d: %v, %q", i, out.Verdict, out.Reason)
		}
	}
	if tr.Followed() != atOnce || tr.Places() != atOnce+1 || tr.Evicted() != 0 {
		t.Errorf("%d followed in %d places, %d evicted", tr.Followed(), tr.Places(), tr.Evicted())
	}
}

func TestNewTrackerTakesTheDefault(t *testing.T) {
	for _, n := range []int{0, -1} {
		tr := lifecycle.NewTracker(n)
		if observe(tr, open(1000)); tr.Evicted() != 0 {
			t.Errorf("NewTracker(%d) evicts %d of 1000", n, tr.Evicted())
		}
	}
}

func TestObserveDoesNotAllocate(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.Churn(100)
	list := s.Events()[1:] // without the listener, which is not closed
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	if n := testing.AllocsPerRun(10, func() {
		for i := range list {
			if tr.Observe(&list[i], &out); out.Verdict == fsm.Gap || out.Verdict == fsm.Illegal {
				t.Fatal(out.Reason)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d events", n, len(list))
	}
}

// The reasons are for people: what a process may name itself is not in them.
func TestReasonsAreClean(t *testing.T) {
	for _, s := range eventstest.Scenarios() {
		for _, tn := range observe(lifecycle.NewTracker(0), s.Events) {
			if strings.ContainsFunc(tn.Reason, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%s: %q", s.Name, tn.Reason)
			}
		}
	}
}

// What an event costs where so many sockets are followed, and any of them may be next:
// what is known of most is in no cache any more.
func BenchmarkObserve(b *testing.B) {
	for _, sockets := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("sockets-%d", sockets), func(b *testing.B) {
			tr := lifecycle.NewTracker(0)
			var out lifecycle.Transition
			again := events.Event{Time: 1, From: fsm.FinWait1, To: fsm.FinWait1}
			r := rand.New(rand.NewPCG(1, 1))
			b.ReportAllocs()
			for b.Loop() {
				again.Time++
				again.Cookie = 1 + uint64(r.IntN(sockets))
				tr.Observe(&again, &out)
			}
		})
	}
}

// TestForget: what is forgotten is given back once, and counted no more.
func TestForget(t *testing.T) {
	tracker := lifecycle.NewTracker(0)
	e := events.Event{Time: 5, Cookie: events.WireCookie(7, true), Seq: 1, From: fsm.FinWait1, To: fsm.TimeWait, Source: events.SourcePackets, Wire: &events.Wire{AtMost: true}, Entered: 2}
	var tr lifecycle.Transition
	tracker.Observe(&e, &tr)
	if !tr.AtMost || tr.AtLeast || tr.Dwell != 3 || tr.Verdict != fsm.Legal {
		t.Errorf("observed %+v, want at most 3 ns, legal", tr)
	}
	if tracker.Forget(e.Cookie, 1) != nil {
		t.Error("another generation was there")
	}
	l := tracker.Forget(e.Cookie, 0)
	if l == nil || tracker.Count(fsm.TimeWait) != 0 {
		t.Fatalf("forgot %v, %d are still in TIME_WAIT", l, tracker.Count(fsm.TimeWait))
	}
	var c lifecycle.Lifecycle
	if l.Lifecycle(9, &c); c.Cookie != e.Cookie || !c.Open || len(c.Path) != 2 {
		t.Errorf("forgot %+v", c)
	}
	if tracker.Forget(e.Cookie, 0) != nil {
		t.Error("it was there twice")
	}
	// Its own word overrules that of the edge.
	e.Seq, e.From, e.To = 9, fsm.Established, fsm.FinWait1
	e.Wire = &events.Wire{Judgement: fsm.Judgement{Verdict: fsm.Gap, Reason: "not captured"}}
	if tracker.Observe(&e, &tr); tr.Verdict != fsm.Gap || tr.Reason != "not captured" {
		t.Errorf("judged %v: %s, want a gap: not captured", tr.Verdict, tr.Reason)
	}
}
