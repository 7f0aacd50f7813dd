package ladder_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output/ladder"
)

// laddersOf draws what happened, with room for so many ends; 0 is the default.
func laddersOf(t testing.TB, list []events.Event, maxEnds int) (drawn []*ladder.Ladder, evicted uint64) {
	t.Helper()
	pairs := ladder.NewPairs(maxEnds, nil, func(l *ladder.Ladder) error {
		drawn = append(drawn, l)
		return nil
	})
	tracker := lifecycle.NewTracker(0)
	end := list[len(list)-1].Time
	show := func(l *lifecycle.Life, at uint64) {
		l.Marked = true
		if !l.IsConnection() {
			return
		}
		var c lifecycle.Lifecycle
		l.Lifecycle(at, &c)
		check(t, pairs.Ended(&c))
	}
	for i := range list {
		var tr lifecycle.Transition
		tracker.Observe(&list[i], &tr)
		check(t, pairs.Passed(tr.Time))
		if tr.Unended != nil {
			show(tr.Unended, tr.Time)
		}
		if tr.Ended {
			show(tr.Life, tr.Time)
		}
		check(t, pairs.Saw(&tr))
	}
	check(t, tracker.Each(func(l *lifecycle.Life) error {
		var c lifecycle.Lifecycle
		if l.Lifecycle(end, &c); pairs.Waits(&c) {
			show(l, end)
		}
		return nil
	}))
	check(t, pairs.Finish())
	return drawn, pairs.Evicted()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// arrows tells the arrows as "SYN left SYN_SENT > SYN_RCVD", by the states that they
// lead from and to.
func arrows(l *ladder.Ladder) []string {
	var list []string
	for _, a := range l.Arrows {
		name := func(side ladder.Side, step int) string {
			if step == ladder.NoStep {
				return "?"
			}
			return l.Ends[side].Steps[step].State.String()
		}
		text := fmt.Sprintf("%s %s > %s", a.Label, name(a.From, a.SentBy), name(a.From.Other(), a.ReceivedBy))
		if a.From == ladder.Right {
			text = fmt.Sprintf("%s %s < %s", a.Label, name(ladder.Left, a.ReceivedBy), name(ladder.Right, a.SentBy))
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

func wantArrows(t *testing.T, l *ladder.Ladder, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := arrows(l); !slices.Equal(got, want) {
		t.Errorf("arrows:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, a := range l.Arrows {
		if !a.Inferred {
			t.Errorf("%s is said to have been seen", a.Label)
		}
	}
}

func script(f func(s *eventstest.Script)) []events.Event {
	s := eventstest.New(eventstest.Start)
	f(s)
	return s.Events()
}

func only(t *testing.T, list []events.Event) *ladder.Ladder {
	t.Helper()
	drawn, _ := laddersOf(t, list, 0)
	if len(drawn) != 1 {
		t.Fatalf("%d ladders, want 1", len(drawn))
	}
	return drawn[0]
}

// The three-way handshake and the four-way close.
func TestTextbook(t *testing.T) {
	l := only(t, script(func(s *eventstest.Script) { s.TimeWait(fsm.EndExpired, 60*time.Second) }))
	wantArrows(t, l,
		"SYN SYN_SENT > SYN_RCVD", "SYN,ACK ESTABLISHED < SYN_RCVD", "ACK ESTABLISHED > ESTABLISHED",
		"FIN FIN_WAIT_1 > CLOSE_WAIT", "ACK FIN_WAIT_2 < CLOSE_WAIT",
		"FIN TIME_WAIT < LAST_ACK", "ACK TIME_WAIT > CLOSED")
	for side, want := range []string{"client", "server"} {
		e := l.Ends[side]
		if e == nil || e.Role.String() != map[string]string{"client": "active", "server": "passive"}[want] {
			t.Errorf("on side %d is not the %s", side, want)
		}
	}
}

func TestSimultaneous(t *testing.T) {
	l := only(t, script((*eventstest.Script).SimultaneousClose))
	wantArrows(t, l,
		"SYN SYN_SENT > SYN_RCVD", "SYN,ACK ESTABLISHED < SYN_RCVD", "ACK ESTABLISHED > ESTABLISHED",
		"FIN FIN_WAIT_1 > CLOSING", "FIN CLOSING < FIN_WAIT_1", "ACK CLOSING > TIME_WAIT", "ACK TIME_WAIT < CLOSING")
}

func TestSelf(t *testing.T) {
	l := only(t, script((*eventstest.Script).SelfConnected))
	if !l.Self || l.Ends[ladder.Left] != l.Ends[ladder.Right] {
		t.Error("it is not drawn as one socket")
	}
	wantArrows(t, l,
		"SYN SYN_SENT > SYN_RCVD", "SYN SYN_RCVD < SYN_SENT", "SYN,ACK SYN_RCVD > ESTABLISHED", "SYN,ACK ESTABLISHED < SYN_RCVD",
		"FIN FIN_WAIT_1 > CLOSING", "FIN CLOSING < FIN_WAIT_1", "ACK CLOSING > CLOSED", "ACK CLOSED < CLOSING")
}

func TestReset(t *testing.T) {
	l := only(t, script((*eventstest.Script).Reset))
	if got := arrows(l); !slices.Contains(got, "RST CLOSED < CLOSED") {
		t.Errorf("no reset: %q", got)
	}
}

// An end alone has what it did and what came to it, and nothing of the peer's.
func TestAlone(t *testing.T) {
	l := only(t, script((*eventstest.Script).Refused))
	if l.Ends[ladder.Right] != nil {
		t.Error("a peer was invented")
	}
	wantArrows(t, l, "SYN SYN_SENT > ?", "RST CLOSED < ?")
}

// Of a handshake that came to nothing nobody has a socket.
func TestHandshakes(t *testing.T) {
	drawn, _ := laddersOf(t, script((*eventstest.Script).Handshakes), 0)
	if len(drawn) != 4 {
		t.Fatalf("%d ladders, want 4", len(drawn))
	}
	for _, l := range drawn {
		if l.Ends[ladder.Left] != nil || l.Ends[ladder.Right].Steps[0].Event != "rcv SYN" {
			t.Errorf("it does not begin with a SYN of somebody: %q", arrows(l))
		}
	}
}

// The times of the steps are those of the events.
func TestTimes(t *testing.T) {
	for _, scenario := range eventstest.Scenarios() {
		times := make(map[uint64][]uint64) // by cookie and generation
		for _, e := range scenario.Events {
			if e.Cookie != 0 && e.From != e.To {
				times[e.Cookie<<8|uint64(e.Generation)] = append(times[e.Cookie<<8|uint64(e.Generation)], e.Time)
			}
		}
		drawn, _ := laddersOf(t, scenario.Events, 0)
		for _, l := range drawn {
			for _, end := range l.Ends {
				if end == nil || end.Cookie == 0 {
					continue
				}
				for i, s := range end.Steps {
					known := s.Entered == 0 || slices.Contains(times[end.Cookie<<8|uint64(end.Generation)], s.Entered)
					born := s.State == fsm.SynRcvd && end.Role == lifecycle.RolePassive || s.Estimated ||
						s.Verdict == fsm.Gap // whose own event is lost, but not its time
					if !known && !born {
						t.Errorf("%s: %v entered step %d, %v, at %d: there was no such event", scenario.Name, end.Local, i, s.State, s.Entered)
					}
					if s.Entered == 0 && i == len(end.Steps)-1 {
						t.Errorf("%s: %v: the time of the last step, %v, is not known", scenario.Name, end.Local, s.State)
					}
				}
			}
		}
	}
}

// Records are missing: what is not known is not filled in.
func TestGap(t *testing.T) {
	l := only(t, script((*eventstest.Script).Gap))
	e := l.Ends[ladder.Left]
	var steps []string
	for _, s := range e.Steps {
		steps = append(steps, fmt.Sprintf("%v %t %s", s.State, s.HasDwell, s.Verdict))
	}
	want := []string{"CLOSED false none", "SYN_SENT true none", "ESTABLISHED false none", "FIN_WAIT_2 true gap", "CLOSED false none"}
	if !slices.Equal(steps, want) {
		t.Errorf("%q, want %q", steps, want)
	}
}

// A server whose handshake is not measured seems to begin when the client is
// connected: that is not believed.
func TestHandshakeNotMeasured(t *testing.T) {
	l := only(t, script(func(s *eventstest.Script) { s.Exchange("127.0.0.1:40000", "127.0.0.1:80") }))
	s := l.Ends[ladder.Right].Steps[1]
	if s.State != fsm.SynRcvd || s.Entered != 0 || !s.AtLeast {
		t.Errorf("%+v", s)
	}
}

// With a SYN cookie nobody knows when the SYN came.
func TestSYNCookie(t *testing.T) {
	l := only(t, script((*eventstest.Script).SYNCookie))
	if s := l.Ends[ladder.Right].Steps[1]; s.State != fsm.SynRcvd || s.Entered != 0 || s.HasDwell {
		t.Errorf("%+v", s)
	}
}

// ends says which cookies were drawn together.
func ends(drawn []*ladder.Ladder) []string {
	var list []string
	for _, l := range drawn {
		text := ""
		for side, e := range l.Ends {
			if side > 0 {
				text += " "
			}
			if e == nil {
				text += "-"
			} else {
				text += strconv.FormatUint(e.Cookie, 10)
			}
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

func wantEnds(t *testing.T, list []events.Event, want ...string) []*ladder.Ladder {
	t.Helper()
	drawn, _ := laddersOf(t, list, 0)
	if got := ends(drawn); !slices.Equal(got, want) {
		t.Errorf("drawn together: %q, want %q", got, want)
	}
	return drawn
}

// connect opens a connection and returns both ends, in one network namespace.
func connect(s *eventstest.Script, listener *eventstest.Socket, client string) (c, child *eventstest.Socket) {
	return connectFrom(s, listener.NetNS, listener, client)
}

// connectFrom is connect for a client in the network namespace.
func connectFrom(s *eventstest.Script, netns uint32, listener *eventstest.Socket, client string) (c, child *eventstest.Socket) {
	c = s.Socket(client, listener.Local.String())
	c.NetNS = netns
	child = listener.Accept(listener.Local.String(), client)
	c.To(fsm.SynSent, time.Second)
	c.To(fsm.Established, 30*time.Microsecond)
	child.To(fsm.SynRcvd, 20*time.Microsecond)
	child.To(fsm.Established, 3*time.Microsecond, eventstest.Since(40*time.Microsecond))
	return c, child
}

func closeBoth(first, second *eventstest.Socket) {
	first.To(fsm.FinWait1, time.Millisecond, eventstest.ByClose)
	second.To(fsm.CloseWait, 10*time.Microsecond)
	first.To(fsm.FinWait2, 10*time.Microsecond)
	second.To(fsm.LastAck, 10*time.Microsecond, eventstest.ByClose)
	first.To(fsm.TimeWait, 10*time.Microsecond, eventstest.Minisock)
	second.To(fsm.Closed, 10*time.Microsecond)
}

// The server closes first and is in TIME_WAIT when the client's port is used again.
func TestTupleUsedAgain(t *testing.T) {
	wantEnds(t, script(func(s *eventstest.Script) {
		l := s.Socket("10.0.0.2:80", "").To(fsm.Listen, 0)
		c1, s1 := connect(s, l, "10.0.0.1:40000") // 2, 3
		closeBoth(s1, c1)
		c2 := s.Socket("10.0.0.1:40000", "10.0.0.2:80") // 4
		s2 := l.Accept("10.0.0.2:80", "10.0.0.1:40000") // 5
		c2.To(fsm.SynSent, time.Second)
		s1.End(fsm.EndReused, 10*time.Microsecond)
		c2.To(fsm.Established, 20*time.Microsecond)
		s2.To(fsm.SynRcvd, 10*time.Microsecond)
		s2.To(fsm.Established, 3*time.Microsecond, eventstest.Since(40*time.Microsecond))
		closeBoth(c2, s2)
		c2.End(fsm.EndExpired, time.Minute)
	}), "2 3", "4 5")
}

// Likewise, but nothing is known of the client before, as of one on another host.
func TestTupleUsedAgainByALocal(t *testing.T) {
	wantEnds(t, script(func(s *eventstest.Script) {
		l := s.Socket("10.0.0.2:80", "").To(fsm.Listen, 0)
		s1 := l.Accept("10.0.0.2:80", "10.0.0.1:40000") // 2
		s1.To(fsm.SynRcvd, time.Second).To(fsm.Established, 10*time.Microsecond, eventstest.Since(time.Millisecond))
		s1.To(fsm.FinWait1, time.Second, eventstest.ByClose).To(fsm.FinWait2, time.Millisecond).To(fsm.TimeWait, time.Millisecond, eventstest.Minisock)
		c2 := s.Socket("10.0.0.1:40000", "10.0.0.2:80") // 3
		c2.To(fsm.SynSent, time.Second).To(fsm.Established, 10*time.Microsecond)
		s1.End(fsm.EndReused, 10*time.Microsecond)
		c2.To(fsm.Closed, time.Second, eventstest.Errno(104))
	}), "- 2", "3 -")
}

// Nothing is known of when the one that is there began, and it is none of the next.
func TestTupleOfOneFromBefore(t *testing.T) {
	there := func(s *eventstest.Script, cookie uint64, local, remote string, state fsm.State) events.Event {
		list := s.Events()
		at := list[len(list)-1].Time
		return events.Event{
			Time: at, Entered: at, Cookie: cookie, From: state, To: state, Source: events.SourceSnapshot, Flags: events.FlagAtLeast,
			Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Family: 2, NetNS: eventstest.NetNS,
		}
	}
	connected := func(first bool, state fsm.State) []events.Event {
		s := eventstest.New(eventstest.Start)
		l := s.Socket("10.0.0.2:80", "").To(fsm.Listen, 0)
		var before events.Event
		if first { // a server
			before = there(s, 99, "10.0.0.2:80", "10.0.0.1:40000", state)
			c := s.Socket("10.0.0.1:40000", "10.0.0.2:80")
			c.To(fsm.SynSent, time.Second).To(fsm.Established, time.Millisecond).To(fsm.Closed, time.Second, eventstest.Errno(104))
		} else { // a client
			before = there(s, 99, "10.0.0.1:40000", "10.0.0.2:80", state)
			child := l.Accept("10.0.0.2:80", "10.0.0.1:40000")
			child.To(fsm.SynRcvd, time.Second).To(fsm.Established, time.Microsecond, eventstest.Since(time.Millisecond)).
				To(fsm.Closed, time.Second, eventstest.Errno(104))
		}
		return append([]events.Event{before}, s.Events()...)
	}
	wantEnds(t, connected(true, fsm.TimeWait), "2 -")
	wantEnds(t, connected(false, fsm.Established), "- 2")
	wantEnds(t, connected(false, fsm.SynSent), "99 2")
}

// The ends are in two network namespaces; the same addresses on loopback in two are
// two connections.
func TestNamespaces(t *testing.T) {
	wantEnds(t, script(func(s *eventstest.Script) {
		l := s.Socket("10.0.0.2:80", "").To(fsm.Listen, 0)
		c, child := connectFrom(s, l.NetNS+1, l, "10.0.0.1:40000") // 2, 3
		closeBoth(c, child)
		c.End(fsm.EndExpired, time.Second)
	}), "2 3")
	wantEnds(t, script(func(s *eventstest.Script) {
		l1 := s.Socket("127.0.0.1:80", "").To(fsm.Listen, 0) // 1
		l2 := s.Socket("127.0.0.1:80", "")                   // 2
		l2.NetNS++
		l2.To(fsm.Listen, 0)
		c1, s1 := connect(s, l1, "127.0.0.1:40000") // 3, 4
		c2, s2 := connect(s, l2, "127.0.0.1:40000") // 5, 6
		closeBoth(c1, s1)
		closeBoth(c2, s2)
		c1.End(fsm.EndExpired, time.Second)
		c2.End(fsm.EndExpired, time.Second)
	}), "3 4", "5 6")
	wantEnds(t, script(func(s *eventstest.Script) { // a client elsewhere is none of another namespace's loopback
		l := s.Socket("127.0.0.1:80", "").To(fsm.Listen, 0)
		c, child := connectFrom(s, l.NetNS+1, l, "127.0.0.1:40000") // 2, 3
		closeBoth(c, child)
		c.End(fsm.EndExpired, time.Second)
	}), "- 3", "2 -")
}

// Where addresses are changed on the way, nothing says what belongs together.
func TestNAT(t *testing.T) {
	wantEnds(t, script(func(s *eventstest.Script) {
		l := s.Socket("172.17.0.2:80", "").To(fsm.Listen, 0)
		c := s.Socket("10.0.0.1:40000", "192.0.2.1:8080") // 2
		child := l.Accept("172.17.0.2:80", "10.0.0.1:40000")
		c.To(fsm.SynSent, time.Second).To(fsm.Established, time.Millisecond)
		child.To(fsm.SynRcvd, time.Microsecond).To(fsm.Established, time.Microsecond)
		child.To(fsm.Closed, time.Second, eventstest.Errno(104))
		c.To(fsm.Closed, time.Second, eventstest.Errno(110))
	}), "- 3", "2 -")
}

// An end whose other one does not come to its end is drawn with that as far as it
// came.
func TestOtherEndOpen(t *testing.T) {
	drawn := wantEnds(t, script(func(s *eventstest.Script) {
		l := s.Socket("10.0.0.2:80", "").To(fsm.Listen, 0)
		c, child := connect(s, l, "10.0.0.1:40000")
		c.To(fsm.FinWait1, time.Second, eventstest.ByClose)
		child.To(fsm.CloseWait, time.Millisecond)
		c.To(fsm.FinWait2, time.Millisecond)
		c.To(fsm.Closed, time.Second, eventstest.ResetSent(events.ResetUnspecified))
		s.Socket("10.0.0.9:1", "").To(fsm.Listen, time.Minute) // time passes
	}), "2 3")
	if server := drawn[0].Ends[ladder.Right]; !server.Open || server.Steps[len(server.Steps)-1].State != fsm.CloseWait {
		t.Errorf("the server is not open in CLOSE_WAIT: %+v", server.Steps)
	}
}

// The record of the other end comes after the end of the one, or does not.
func TestOtherEndLate(t *testing.T) {
	late := func(after time.Duration) []events.Event {
		return script(func(s *eventstest.Script) {
			l := s.Socket("10.0.0.2:80", "").To(fsm.Listen, 0)
			c := s.Socket("10.0.0.1:40000", "10.0.0.2:80") // 2
			c.To(fsm.SynSent, time.Second).To(fsm.Established, time.Millisecond)
			c.To(fsm.Closed, time.Millisecond, eventstest.ByClose, eventstest.ResetSent(events.ResetUnspecified))
			l.Request("10.0.0.2:80", "10.0.0.1:40000", fsm.EndReset, 2*time.Millisecond, after)
		})
	}
	wantEnds(t, late(10*time.Microsecond), "2 0")
	wantEnds(t, late(time.Second), "- 0", "2 -")
}

// Both open the connection at once: both show it. Otherwise two that connect have
// nothing to do with each other.
func TestBothActive(t *testing.T) {
	both := func(simultaneous bool) []events.Event {
		return script(func(s *eventstest.Script) {
			a := s.Socket("10.0.0.1:5000", "10.0.0.2:6000")
			b := s.Socket("10.0.0.2:6000", "10.0.0.1:5000")
			a.To(fsm.SynSent, time.Second)
			b.To(fsm.SynSent, time.Microsecond)
			for _, c := range []*eventstest.Socket{a, b} {
				if simultaneous {
					c.To(fsm.SynRcvd, time.Microsecond)
				}
			}
			a.To(fsm.Established, time.Microsecond)
			b.To(fsm.Established, time.Microsecond)
			a.To(fsm.Closed, time.Second, eventstest.Errno(104))
			b.To(fsm.Closed, time.Second, eventstest.Errno(104))
		})
	}
	drawn := wantEnds(t, both(true), "2 1")
	if got := arrows(drawn[0]); !slices.Contains(got, "SYN SYN_SENT > SYN_RCVD") || !slices.Contains(got, "SYN SYN_RCVD < SYN_SENT") {
		t.Errorf("no simultaneous open: %q", got)
	}
	wantEnds(t, both(false), "1 -", "2 -")
}

// Which of two in other namespaces is the other end cannot be told.
func TestNotToBeTold(t *testing.T) {
	drawn := wantEnds(t, script(func(s *eventstest.Script) {
		l1 := s.Socket("10.0.0.2:80", "") // 1
		l2 := s.Socket("10.0.0.2:80", "") // 2
		l1.NetNS, l2.NetNS = eventstest.NetNS+1, eventstest.NetNS+2
		c := s.Socket("10.0.0.1:40000", "10.0.0.2:80") // 3
		c.To(fsm.SynSent, time.Second)
		for _, l := range []*eventstest.Socket{l1, l2} {
			l.To(fsm.Listen, 0)
			child := l.Accept("10.0.0.2:80", "10.0.0.1:40000") // 4, 5
			child.To(fsm.SynRcvd, time.Microsecond).To(fsm.Established, time.Microsecond)
		}
		c.To(fsm.Established, time.Millisecond).To(fsm.Closed, time.Second, eventstest.Errno(104))
	}), "3 -")
	if n := drawn[0].Notes; len(n) != 1 || !strings.Contains(n[0], "any of 2 sockets") {
		t.Errorf("it does not say why it is alone: %q", n)
	}
}

// What waits is bounded, and what there was no room for is drawn and said.
func TestBounded(t *testing.T) {
	drawn, evicted := laddersOf(t, script(func(s *eventstest.Script) {
		l := s.Socket("10.0.0.2:80", "").To(fsm.Listen, 0)
		var clients []*eventstest.Socket
		for i := range 100 {
			c, child := connect(s, l, fmt.Sprintf("10.0.0.1:%d", 40000+i))
			child.To(fsm.Closed, time.Millisecond, eventstest.Errno(110)) // c stays open
			clients = append(clients, c)
		}
		for _, c := range clients {
			c.To(fsm.Closed, time.Second, eventstest.Errno(110))
		}
	}), 10)
	if evicted == 0 {
		t.Error("none was evicted: there was room for 10 ends only")
	}
	times := make(map[uint64]int) // that a socket was drawn
	for _, l := range drawn {
		for side, e := range l.Ends {
			if e == nil {
				continue
			}
			times[e.Cookie]++
			if l.Ends[ladder.Side(side).Other()] == nil && len(l.Notes) == 0 {
				t.Errorf("%v is alone without a word", e.Local)
			}
		}
	}
	for cookie, n := range times {
		if n != 1 {
			t.Errorf("socket %d was drawn %d times", cookie, n)
		}
	}
	if len(times) != 200 || len(drawn) < 190 {
		t.Errorf("%d ends in %d drawings: want 200, of which at most 10 together", len(times), len(drawn))
	}
}

// Nothing stays in memory once it is drawn.
func TestNothingLeft(t *testing.T) {
	drawn, evicted := laddersOf(t, script(func(s *eventstest.Script) { s.Churn(500) }), 16)
	if len(drawn) != 500 || evicted != 0 {
		t.Errorf("%d drawn, %d evicted: want 500 and 0", len(drawn), evicted)
	}
}
