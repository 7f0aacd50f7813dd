package lifecycle_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// moment returns a time of the tests below.
func moment(at time.Duration) uint64 { return eventstest.Start + uint64(at) }

type change = func(*events.Event)

// step is a transition of socket 1, at a time, from a state that it entered at
// another; -1: that was not seen.
func step(at, entered time.Duration, seq uint32, from, to fsm.State, changes ...change) events.Event {
	e := events.Event{
		Time: moment(at), Cookie: 1, Seq: seq, From: from, To: to,
		Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:40000"), Family: 2,
	}
	if entered >= 0 {
		e.Entered = moment(entered)
	}
	for _, c := range changes {
		c(&e)
	}
	return e
}

// found is socket 1 found by a walk.
func found(at, entered time.Duration, seq uint32, in fsm.State, changes ...change) events.Event {
	return step(at, entered, seq, in, in, append([]change{func(e *events.Event) { e.Source = events.SourceSnapshot }}, changes...)...)
}

func flags(f events.Flags) change { return func(e *events.Event) { e.Flags |= f } }

func owned(name string, by events.OwnerSource) change {
	return func(e *events.Event) { e.Owner = eventstest.Owned(1, name, by) }
}

var (
	atLeast  = flags(events.FlagAtLeast)
	minisock = flags(events.FlagMinisock)
	request  = flags(events.FlagRequest)
)

const second = time.Second

func TestSnapshots(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []events.Event
		want   string // the story
		gap    string // why the last event is one
	}{
		{"from before", []events.Event{
			found(10*second, 4*second, 0, fsm.Established, atLeast),
			step(11*second, 4*second, 1, fsm.Established, fsm.CloseWait, atLeast),
			step(13*second, 11*second, 2, fsm.CloseWait, fsm.LastAck),
			step(14*second, 13*second, 3, fsm.LastAck, fsm.Closed),
		}, "1.0 : ESTABLISHED ≥7s CLOSE_WAIT 2s LAST_ACK 1s CLOSED | ≥10s | finished first remote | 0/0 rtt 0 retr 0 | legal", ""},
		{"from before, nothing known of when", []events.Event{
			found(10*second, -1, 0, fsm.Established),
		}, "1.0 : ESTABLISHED ≥0s … | ≥0s | none | 0/0 rtt 0 retr 0 | none", ""},
		{"from before, entered at a known time", []events.Event{
			found(10*second, 4*second, 0, fsm.SynSent),
			step(11*second, 4*second, 1, fsm.SynSent, fsm.Established),
		}, "1.0 : SYN_SENT 7s ESTABLISHED 0s … | ≥7s | none | 0/0 rtt 0 retr 0 | legal", ""},
		{"from before, not found", []events.Event{
			step(11*second, 4*second, 1, fsm.FinWait2, fsm.FinWait2, atLeast),
			step(12*second, 4*second, 2, fsm.FinWait2, fsm.TimeWait, atLeast, minisock),
		}, "1.0 : FIN_WAIT_2 ≥8s TIME_WAIT 0s … | ≥8s | finished first local | TIME_WAIT 0s none | 0/0 rtt 0 retr 0 | linux", ""},
		{"a lower bound in the middle is not told", []events.Event{
			step(1*second, -1, 1, fsm.Closed, fsm.SynSent),
			step(2*second, 1*second, 2, fsm.SynSent, fsm.Established),
			step(4*second, 3*second, 4, fsm.CloseWait, fsm.LastAck, atLeast),
		}, "1.0 active: CLOSED SYN_SENT 1s ESTABLISHED CLOSE_WAIT LAST_ACK 0s … | 3s handshake 1s | none first remote | 0/0 rtt 0 retr 0 | gap", "1 record of this socket was lost before this one"},
		{"minisock from before", []events.Event{
			found(10*second, 4*second, 0, fsm.TimeWait, minisock, atLeast),
			step(60*second, 4*second, 1, fsm.TimeWait, fsm.Closed, atLeast, func(e *events.Event) { e.Source, e.End = events.SourceTimeWait, fsm.EndExpired }),
		}, "1.0 : TIME_WAIT ≥56s CLOSED | ≥56s | finished | TIME_WAIT 56s expired | legal", ""},
		{"its first record lost", []events.Event{
			found(10*second, -1, 0, fsm.Established),
			step(13*second, 11*second, 2, fsm.CloseWait, fsm.LastAck),
		}, "1.0 : ESTABLISHED CLOSE_WAIT 2s LAST_ACK 0s … | ≥3s | none first remote | 0/0 rtt 0 retr 0 | gap", "1 record of this socket was lost before this one"},
		{"its first records lost, then found", []events.Event{
			found(10*second, 9*second, 2, fsm.Established),
			step(13*second, 9*second, 3, fsm.Established, fsm.CloseWait),
		}, "1.0 : ESTABLISHED 4s CLOSE_WAIT 0s … | ≥4s | none first remote | 0/0 rtt 0 retr 0 | gap", "2 records of this socket were lost before this one"},
		{"the kernel does not number", []events.Event{
			found(10*second, -1, 0, fsm.Established),
			step(13*second, -1, 0, fsm.Established, fsm.CloseWait),
			step(14*second, -1, 1, fsm.CloseWait, fsm.LastAck),
		}, "1.0 : ESTABLISHED CLOSE_WAIT LAST_ACK 0s … | ≥4s | none first remote | 0/0 rtt 0 retr 0 | legal", ""},
		{"moved on just when it was found", []events.Event{
			found(10*second, -1, 0, fsm.Established),
			step(13*second, -1, 1, fsm.CloseWait, fsm.LastAck),
		}, "1.0 : ESTABLISHED CLOSE_WAIT LAST_ACK 0s … | ≥3s | none first remote | 0/0 rtt 0 retr 0 | gap", "the socket was found in ESTABLISHED, and how it came from there was not seen"},
		{"known", []events.Event{
			step(1*second, -1, 1, fsm.Closed, fsm.SynSent),
			step(2*second, 1*second, 2, fsm.SynSent, fsm.Established),
			found(5*second, 2*second, 2, fsm.Established),
			step(6*second, 2*second, 3, fsm.Established, fsm.CloseWait),
		}, "1.0 active: CLOSED SYN_SENT 1s ESTABLISHED 4s CLOSE_WAIT 0s … | 5s handshake 1s | none first remote | 0/0 rtt 0 retr 0 | legal", ""},
		{"known, not numbered", []events.Event{
			step(1*second, -1, 0, fsm.Closed, fsm.SynSent),
			found(5*second, -1, 0, fsm.SynSent),
			step(6*second, -1, 0, fsm.SynSent, fsm.Established),
		}, "1.0 active: CLOSED SYN_SENT ESTABLISHED 0s … | 5s | none | 0/0 rtt 0 retr 0 | legal", ""},
		{"found twice", []events.Event{
			found(5*second, 3*second, 0, fsm.Established, atLeast),
			found(9*second, 3*second, 0, fsm.Established, atLeast),
		}, "1.0 : ESTABLISHED ≥6s … | ≥6s | none | 0/0 rtt 0 retr 0 | none", ""},
		{"stale", []events.Event{
			step(1*second, -1, 1, fsm.Closed, fsm.SynSent),
			step(2*second, 1*second, 2, fsm.SynSent, fsm.Established),
			found(2*second, 1*second, 1, fsm.SynSent),
		}, "1.0 active: CLOSED SYN_SENT 1s ESTABLISHED 0s … | 1s handshake 1s | none | 0/0 rtt 0 retr 0 | legal", ""},
		{"elsewhere", []events.Event{
			step(1*second, -1, 1, fsm.Closed, fsm.SynSent),
			step(2*second, 1*second, 2, fsm.SynSent, fsm.Established),
			found(9*second, 7*second, 3, fsm.CloseWait),
			found(10*second, 7*second, 3, fsm.CloseWait),
		}, "1.0 active: CLOSED SYN_SENT 1s ESTABLISHED CLOSE_WAIT 3s … | 9s handshake 1s | none first remote | 0/0 rtt 0 retr 0 | gap", ""},
		{"elsewhere, and goes on", []events.Event{
			step(1*second, -1, 1, fsm.Closed, fsm.SynSent),
			step(2*second, 1*second, 2, fsm.SynSent, fsm.Established),
			found(9*second, 7*second, 3, fsm.CloseWait),
			step(10*second, 7*second, 4, fsm.CloseWait, fsm.LastAck),
		}, "1.0 active: CLOSED SYN_SENT 1s ESTABLISHED CLOSE_WAIT 3s LAST_ACK 0s … | 9s handshake 1s | none first remote | 0/0 rtt 0 retr 0 | gap", "1 record of this socket was lost before this one"},
		{"elsewhere, by a lower bound", []events.Event{
			step(1*second, -1, 1, fsm.Closed, fsm.SynSent),
			found(9*second, 7*second, 3, fsm.CloseWait, atLeast),
		}, "1.0 active: CLOSED SYN_SENT CLOSE_WAIT … | 8s | none first remote | 0/0 rtt 0 retr 0 | gap", ""},
		{"a minisock that was not seen to take over", []events.Event{
			step(1*second, -1, 3, fsm.FinWait1, fsm.FinWait2),
			found(9*second, 1*second, 4, fsm.FinWait2, minisock),
			step(10*second, -1, 5, fsm.Closed, fsm.Closed), // its socket is closed
		}, "1.0 : FIN_WAIT_1 FIN_WAIT_2 9s … | none first local | 0/0 rtt 0 retr 0 | gap", ""},
		{"a FIN that reached the minisock unseen", []events.Event{
			step(1*second, -1, 1, fsm.FinWait1, fsm.FinWait2),
			step(2*second, 1*second, 2, fsm.FinWait2, fsm.FinWait2, minisock),
			found(9*second, -1, 2, fsm.TimeWait, minisock),
			step(63*second, 3*second, 3, fsm.TimeWait, fsm.Closed, flags(events.FlagEstimated), func(e *events.Event) { e.Source, e.End = events.SourceTimeWait, fsm.EndExpired }),
		}, "1.0 : FIN_WAIT_1 FIN_WAIT_2 2s TIME_WAIT 1m0s CLOSED | finished first local | TIME_WAIT 1m0s expired estimated | 0/0 rtt 0 retr 0 | linux", ""},
		{"a FIN that the walk shows to have reached the minisock", []events.Event{
			step(1*second, -1, 1, fsm.FinWait1, fsm.FinWait2),
			step(2*second, 1*second, 2, fsm.FinWait2, fsm.FinWait2, minisock),
			found(9*second, 3*second, 2, fsm.TimeWait, minisock, flags(events.FlagEstimated)),
		}, "1.0 : FIN_WAIT_1 FIN_WAIT_2 2s TIME_WAIT 6s … | finished first local | TIME_WAIT 6s none estimated | 0/0 rtt 0 retr 0 | linux", ""},
		{"and its end", []events.Event{
			step(1*second, -1, 1, fsm.FinWait1, fsm.FinWait2),
			step(2*second, 1*second, 2, fsm.FinWait2, fsm.FinWait2, minisock),
			found(9*second, 3*second, 2, fsm.TimeWait, minisock, flags(events.FlagEstimated)),
			step(63*second, 3*second, 3, fsm.TimeWait, fsm.Closed, flags(events.FlagEstimated), func(e *events.Event) { e.Source, e.End = events.SourceTimeWait, fsm.EndExpired }),
		}, "1.0 : FIN_WAIT_1 FIN_WAIT_2 2s TIME_WAIT 1m0s CLOSED | finished first local | TIME_WAIT 1m0s expired estimated | 0/0 rtt 0 retr 0 | linux", ""},
		{"the minisock of the connection before", []events.Event{
			found(1*second, -1, 0, fsm.Established),
			found(2*second, -1, 0, fsm.TimeWait, minisock),
			step(3*second, -1, 1, fsm.Established, fsm.CloseWait),
		}, "1.0 : ESTABLISHED CLOSE_WAIT 0s … | ≥2s | none first remote | 0/0 rtt 0 retr 0 | legal", ""},
		{"the socket after the connection of a minisock", []events.Event{
			found(1*second, 0, 0, fsm.TimeWait, minisock),
			found(2*second, -1, 0, fsm.Established),
		}, "1.0 : TIME_WAIT 2s … | ≥2s | finished | TIME_WAIT 2s none | none", ""},
		{"a handshake from before", []events.Event{
			step(9*second, 2*second, 0, fsm.SynRcvd, fsm.Closed, atLeast, func(e *events.Event) {
				e.Source, e.End, e.Cookie = events.SourceRequest, fsm.EndExpired, 0
			}),
		}, "0.0 : SYN_RCVD ≥7s CLOSED | ≥7s | timeout first none | abort", ""},
		{"a child of a handshake from before", []events.Event{
			step(9*second, -1, 1, fsm.Listen, fsm.SynRcvd),
			step(10*second, 2*second, 2, fsm.SynRcvd, fsm.Established, atLeast),
		}, "1.0 passive: LISTEN SYN_RCVD ESTABLISHED 0s … | 1s | none | 0/0 rtt 0 retr 0 | legal", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := lifecycle.NewTracker(0)
			var out lifecycle.Transition
			for i := range c.events {
				tr.Observe(&c.events[i], &out)
				if e := &c.events[i]; e.Source == events.SourceSnapshot && (out.Judgement != fsm.Judgement{} || out.Ended || out.Life == nil) {
					t.Errorf("%d: a snapshot is judged: %+v", i, out)
				}
			}
			var l lifecycle.Lifecycle
			out.Life.Lifecycle(out.Time, &l)
			if got := story(&l); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if gap := out.Verdict == fsm.Gap; gap != (c.gap != "") || gap && out.Reason != c.gap {
				t.Errorf("the last is %v, %q, want the gap %q", out.Verdict, out.Reason, c.gap)
			}
			if l.Complete {
				t.Error("complete")
			}
		})
	}
}

// A transition tells whether its dwell is a lower bound, and a snapshot likewise.
func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		name         string
		event        events.Event
		has, atLeast bool
	}{
		{"exact", step(2*second, second, 1, fsm.Established, fsm.CloseWait), true, false},
		{"lower bound", step(2*second, second, 1, fsm.Established, fsm.CloseWait, atLeast), true, true},
		{"not known", step(2*second, -1, 1, fsm.Established, fsm.CloseWait, atLeast), false, false},
		{"snapshot", found(2*second, second, 0, fsm.Established, atLeast), true, true},
	} {
		out := lifecycle.Transition{AtLeast: true} // left from the event before
		lifecycle.NewTracker(0).Observe(&c.event, &out)
		if out.HasDwell != c.has || out.AtLeast != c.atLeast || c.has && out.Dwell != second {
			t.Errorf("%s: %v, known %v, lower bound %v", c.name, out.Dwell, out.HasDwell, out.AtLeast)
		}
	}
}

// Whoever holds the socket when it is found is its owner, but what is not known
// replaces nothing.
func TestSnapshotOwner(t *testing.T) {
	begin := step(second, -1, 1, fsm.Closed, fsm.SynSent, owned("parent", events.OwnerConnect))
	on := step(2*second, second, 2, fsm.SynSent, fsm.Established, owned("parent", events.OwnerConnect))
	holder := owned("child", events.OwnerSnapshot)
	for name, c := range map[string]struct {
		events []events.Event
		want   string
	}{
		"found":          {[]events.Event{found(3*second, -1, 0, fsm.Established, holder)}, "child"},
		"not known":      {[]events.Event{found(3*second, -1, 0, fsm.Established)}, ""},
		"taken over":     {[]events.Event{begin, on, found(3*second, second, 2, fsm.Established, holder)}, "child"},
		"kept":           {[]events.Event{begin, on, found(3*second, second, 2, fsm.Established)}, "parent"},
		"of a stale one": {[]events.Event{begin, on, found(3*second, second, 1, fsm.SynSent, holder)}, "child"},
		"of a handshake": {[]events.Event{found(3*second, -1, 0, fsm.SynRcvd, holder, request)}, "child"},
		"of a minisock":  {[]events.Event{found(3*second, -1, 0, fsm.TimeWait, holder, minisock), found(4*second, -1, 0, fsm.TimeWait, minisock)}, "child"},
	} {
		tr := lifecycle.NewTracker(0)
		var out lifecycle.Transition
		for i := range c.events {
			tr.Observe(&c.events[i], &out)
		}
		var l lifecycle.Lifecycle
		out.Life.Lifecycle(out.Time, &l)
		if got := string(l.Owner.Comm.Bytes()); got != c.want || l.Owner.Known() != (c.want != "") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// The walk finds the port that the kernel had not assigned yet.
func TestSnapshotEnds(t *testing.T) {
	begin := step(second, -1, 1, fsm.Closed, fsm.SynSent, func(e *events.Event) {
		e.Local = netip.AddrPortFrom(e.Local.Addr(), 0)
	})
	list := []events.Event{begin, found(2*second, second, 1, fsm.SynSent, func(e *events.Event) { e.NetNS, e.Cgroup = 3, 4 })}
	l := lives(t, list)[0]
	if l.Local != list[1].Local || l.Remote != list[1].Remote || l.NetNS != 3 || l.Cgroup != 4 {
		t.Errorf("%v, %v, netns %d, cgroup %d", l.Local, l.Remote, l.NetNS, l.Cgroup)
	}
}

// What has been sent and received by then is known, but of no minisock.
func TestSnapshotCounters(t *testing.T) {
	counters := func(e *events.Event) { e.BytesSent, e.BytesReceived, e.SRTT, e.Retransmits = 7, 8, 9, 10 }
	for name, c := range map[string]struct {
		event    events.Event
		has      bool
		received uint64
	}{
		"socket":     {found(second, 0, 0, fsm.Established, counters), true, 8},
		"with a FIN": {found(second, 0, 0, fsm.CloseWait, counters, flags(events.FlagPeerFIN)), true, 7},
		"SYN_SENT":   {found(second, 0, 0, fsm.SynSent, counters), false, 0},
		"minisock":   {found(second, 0, 0, fsm.TimeWait, counters, minisock), false, 0},
	} {
		l := lives(t, []events.Event{c.event})[0]
		if l.HasCounters != c.has || c.has && (l.BytesSent != 7 || l.BytesReceived != c.received || l.SRTT != 9 || l.Retransmits != 10) {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

func TestFoundListenerIsNoConnection(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	e := found(second, -1, 0, fsm.Listen)
	if tr.Observe(&e, &out); out.Life.IsConnection() {
		t.Error("a listener that was found is a connection")
	}
	end := step(2*second, -1, 1, fsm.Listen, fsm.Closed)
	if tr.Observe(&end, &out); out.Life.IsConnection() || out.Verdict != fsm.Legal || !out.Ended {
		t.Errorf("its end is %v, %q, of a connection %v", out.Verdict, out.Reason, out.Life.IsConnection())
	}
}

// A handshake has the cookie of the child that it may become, and is not kept; nor
// is what has no cookie, or is closed.
func TestNotKept(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	for _, e := range []events.Event{
		found(second, 0, 0, fsm.SynRcvd, request),
		found(second, 0, 0, fsm.Established, func(e *events.Event) { e.Cookie = 0 }),
		found(second, 0, 0, fsm.Closed),
	} {
		var out lifecycle.Transition
		if tr.Observe(&e, &out); tr.Followed() != 0 || out.Life.Marked {
			t.Errorf("%v, %d: %d followed, marked %v", e.From, e.Flags, tr.Followed(), out.Life.Marked)
		}
		out.Life.Marked = true // the next is of another
	}
	birth := step(2*second, -1, 1, fsm.Listen, fsm.SynRcvd)
	var out lifecycle.Transition
	if tr.Observe(&birth, &out); out.Verdict != fsm.Legal {
		t.Errorf("the child's birth is %v, %q", out.Verdict, out.Reason)
	}
	again := found(3*second, 0, 0, fsm.SynRcvd, request) // as it was a moment before
	tr.Observe(&again, &out)
	on := step(4*second, 0, 2, fsm.SynRcvd, fsm.Established)
	if tr.Observe(&on, &out); out.Verdict != fsm.Legal {
		t.Errorf("the child's next step is %v, %q", out.Verdict, out.Reason)
	}
}

// A socket that is found in a later life has ended the earlier one.
func TestSnapshotEndsAnEarlierLife(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	list := []events.Event{
		step(second, -1, 1, fsm.Closed, fsm.SynSent),
		found(2*second, -1, 2, fsm.Established, func(e *events.Event) { e.Generation = 1 }),
	}
	var out lifecycle.Transition
	tr.Observe(&list[0], &out)
	out.Life.Marked = true
	if tr.Observe(&list[1], &out); out.Unended == nil || !out.Unended.Marked || out.Life.Marked || tr.Followed() != 1 {
		t.Errorf("unended %+v, marked %v, %d followed", out.Unended, out.Life.Marked, tr.Followed())
	}
}

// A walk comes to all sockets: that is no use, and does not change which one has
// been still for longest. Of what was forgotten nothing is known to be lost.
func TestSnapshotsAndEviction(t *testing.T) {
	tr := lifecycle.NewTracker(2)
	of := func(cookie uint64, e events.Event) events.Event { e.Cookie = cookie; return e }
	opened := func(cookie uint64) events.Event { return of(cookie, step(second, -1, 1, fsm.Closed, fsm.SynSent)) }
	observe(tr, []events.Event{opened(1), opened(2), of(1, found(second, -1, 1, fsm.SynSent)), opened(3)})
	var left []uint64
	if err := tr.Each(func(l *lifecycle.Life) error {
		var c lifecycle.Lifecycle
		l.Lifecycle(0, &c)
		left = append(left, c.Cookie)
		return nil
	}); err != nil || !slices.Equal(left, []uint64{2, 3}) {
		t.Errorf("%v are left, want 2 and 3; %v", left, err)
	}
	var out lifecycle.Transition
	again := of(1, found(second, -1, 1, fsm.SynSent))
	tr.Observe(&again, &out)
	var c lifecycle.Lifecycle
	if out.Life.Lifecycle(out.Time, &c); c.Verdict != 0 || tr.Evicted() != 2 {
		t.Errorf("found again it is %v; %d forgotten", c.Verdict, tr.Evicted())
	}
}

func TestSnapshotsDoNotAllocate(t *testing.T) {
	list := []events.Event{
		found(second, 0, 0, fsm.Established, atLeast), found(second, 0, 1, fsm.CloseWait), found(second, 0, 0, fsm.SynRcvd, request),
		found(second, 0, 1, fsm.CloseWait), step(2*second, second, 2, fsm.CloseWait, fsm.CloseWait),
	}
	var out lifecycle.Transition
	tr := lifecycle.NewTracker(0)
	if n := testing.AllocsPerRun(100, func() {
		for i := range list[:4] {
			tr.Observe(&list[i], &out)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// truth is what a walk would find, by the events up to a moment.
type truth struct {
	state   fsm.State
	seq     uint32
	entered uint64
	flags   events.Flags
}

// mixed returns random legal lives with walks among them that find what is there:
// also sockets of which there was no event yet, what was there a moment before, and
// the TIME_WAIT of minisocks that a FIN reached unseen.
func mixed(r *rand.Rand, steps int) (with, without []events.Event) {
	type key struct {
		cookie     uint64
		generation uint32
	}
	list := walk(r, steps)
	now, before := map[key]truth{}, map[key][]truth{}
	var there []key
	next, last := map[int]*events.Event{}, map[key]int{} // events of the same socket
	for i := range list {
		e := &list[i]
		k := key{e.Cookie, e.Generation}
		if j, seen := last[k]; seen {
			next[j] = e
		} else if e.From != fsm.Closed && (e.From != fsm.Listen || e.To != fsm.SynRcvd) {
			now[k] = truth{state: e.From, entered: 1 + r.Uint64N(eventstest.Start), flags: events.FlagAtLeast}
			there = append(there, k)
		}
		last[k] = i
	}
	find := func(k key, s truth, at uint64) {
		with = append(with, events.Event{
			Time: at, Entered: s.entered, Cookie: k.cookie, Generation: k.generation, Seq: s.seq,
			From: s.state, To: s.state, Source: events.SourceSnapshot, Flags: s.flags,
		})
	}
	for i, e := range list {
		k := key{e.Cookie, e.Generation}
		for n := r.IntN(3); n > 0 && len(there) > 0; n-- {
			j := there[r.IntN(len(there))]
			s := now[j]
			switch old := before[j]; {
			case len(old) > 0 && r.IntN(4) == 0:
				s = old[r.IntN(len(old))]
			case r.IntN(8) == 0:
				s.state, s.flags = fsm.SynRcvd, events.FlagRequest
			}
			find(j, s, e.Time)
		}
		was, known := now[k]
		if was.flags&events.FlagAtLeast != 0 {
			e.Entered = was.entered
			e.Flags |= events.FlagAtLeast
		}
		with, without = append(with, e), append(without, e)

		is := truth{state: e.To, seq: e.Seq, entered: e.Time}
		if e.From == e.To {
			is.entered, is.flags = e.Entered, e.Flags&events.FlagAtLeast
		}
		if e.Flags&events.FlagMinisock != 0 || e.Source == events.SourceTimeWait {
			is.flags |= events.FlagMinisock
		}
		if n := next[i]; n != nil && n.Flags&events.FlagEstimated != 0 && r.IntN(2) == 0 {
			is.state, is.entered, is.flags = fsm.TimeWait, 0, events.FlagMinisock
		}
		if was.seq > 0 {
			before[k] = append(before[k], was)
		}
		switch {
		case e.To == fsm.Closed:
			delete(now, k)
			there = slices.DeleteFunc(there, func(j key) bool { return j == k })
			continue
		case !known:
			there = append(there, k)
		}
		now[k] = is
	}
	return with, without
}

// bounds are what a story says of times whose beginning was not seen.
var bounds = regexp.MustCompile(` (\| )?≥\S+`)

// Whatever a walk finds, the verdicts are those that they were, and the lifecycles,
// but for the times that nobody saw begin. A walk may see more counters.
func TestSnapshotsChangeNothing(t *testing.T) {
	tell := func(l *lifecycle.Lifecycle) string {
		l.HasCounters = false
		if l.AtLeast && l.Path[0] == fsm.TimeWait {
			l.HasTimeWait = false // which is the time that nobody saw begin
		}
		return bounds.ReplaceAllString(story(l), "")
	}
	compared, bounded := 0, 0
	for seed := range uint64(30) {
		with, without := mixed(rand.New(rand.NewPCG(seed, 5)), 2000)
		plain := observe(lifecycle.NewTracker(0), without)
		i := 0
		for _, tn := range observe(lifecycle.NewTracker(0), with) {
			if tn.Source == events.SourceSnapshot {
				continue
			}
			if want := &plain[i]; tn.Judgement != want.Judgement || tn.Ended != want.Ended {
				t.Fatalf("seed %d, event %d: %v -> %v of %d.%d is %+v, want %+v", seed, i, tn.From, tn.To, tn.Cookie, tn.Generation, tn.Judgement, want.Judgement)
			}
			i++
		}
		want := map[string]int{}
		for _, l := range lives(t, without) {
			want[tell(&l)]++
		}
		for _, l := range lives(t, with) {
			compared++
			if l.Since != 0 {
				bounded++
			}
			text := tell(&l)
			if want[text] == 0 {
				t.Fatalf("seed %d: with snapshots there is\n%s", seed, text)
			}
			want[text]--
		}
		for text, n := range want {
			if n != 0 {
				t.Fatalf("seed %d: with snapshots %d are missing of\n%s", seed, n, text)
			}
		}
	}
	if compared < 1000 || bounded < 100 {
		t.Errorf("only %d are compared, %d with a lower bound", compared, bounded)
	}
}

// Where records are lost as well, a walk makes nothing legal look illegal, nor a gap
// of what follows its socket's last record.
func TestSnapshotsAndLostRecords(t *testing.T) {
	gaps := 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 6))
		with, _ := mixed(r, 2000)
		tr := lifecycle.NewTracker(0)
		last := map[string]uint32{}
		for i, e := range with {
			if e.Source != events.SourceSnapshot && r.IntN(4) == 0 {
				continue
			}
			var out lifecycle.Transition
			tr.Observe(&e, &out)
			if e.Source == events.SourceSnapshot {
				continue
			}
			k := fmt.Sprint(e.Cookie, e.Generation)
			follows := e.Seq == last[k]+1
			last[k] = e.Seq
			switch {
			case out.Verdict == fsm.Illegal, out.Verdict == fsm.Gap && follows:
				t.Fatalf("seed %d, event %d: %v -> %v is %v, %q", seed, i, e.From, e.To, out.Verdict, out.Reason)
			case out.Verdict == fsm.Gap:
				gaps++
			}
		}
	}
	if gaps < 1000 {
		t.Errorf("only %d gaps", gaps)
	}
}

// What a walk over many sockets takes for each.
func BenchmarkSnapshot(b *testing.B) {
	list := make([]events.Event, 1<<10)
	for i := range list {
		list[i] = found(second, 0, 0, fsm.CloseWait, atLeast)
		list[i].Cookie = uint64(i + 1)
	}
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		tr.Observe(&list[i%len(list)], &out)
		i++
	}
}
