package lifecycle_test

import (
	"strings"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

func TestLimits(t *testing.T) {
	const defaults = "SYN_SENT=10s,SYN_RCVD=10s,ESTABLISHED=off,FIN_WAIT_1=30s,FIN_WAIT_2=2m,CLOSE_WAIT=1m,CLOSING=30s,LAST_ACK=30s,TIME_WAIT=2m"
	for _, c := range []struct{ text, want, err string }{
		{"CLOSE_WAIT=30s", strings.Replace(defaults, "CLOSE_WAIT=1m", "CLOSE_WAIT=30s", 1), ""},
		{"close-wait=1h30m,ESTAB=1h,FIN_WAIT2=off", "SYN_SENT=10s,SYN_RCVD=10s,ESTABLISHED=1h,FIN_WAIT_1=30s,FIN_WAIT_2=off,CLOSE_WAIT=1h30m,CLOSING=30s,LAST_ACK=30s,TIME_WAIT=2m", ""},
		{" TCP_SYN_SENT = 1m500ms , TIME-WAIT = OFF", "SYN_SENT=1m0.5s,SYN_RCVD=10s,ESTABLISHED=off,FIN_WAIT_1=30s,FIN_WAIT_2=2m,CLOSE_WAIT=1m,CLOSING=30s,LAST_ACK=30s,TIME_WAIT=off", ""},
		{defaults, defaults, ""},
		{"", "", `limit "": want STATE=TIME, such as CLOSE_WAIT=30s, or STATE=off`},
		{"30s", "", `limit "30s": want STATE=TIME, such as CLOSE_WAIT=30s, or STATE=off`},
		{"CLOSE_WAIT=30s,", "", `limit "": want STATE=TIME`},
		{"WAITING=30s", "", `limit "WAITING=30s": no such state: want one of SYN_SENT, SYN_RCVD, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, CLOSING, LAST_ACK, TIME_WAIT`},
		{"STATE_13=30s", "", `limit "STATE_13=30s": no such state`},
		{"LISTEN=30s", "", `limit "LISTEN=30s": a socket may be in LISTEN for any time: want one of SYN_SENT, `},
		{"close=off", "", `limit "close=off": a socket may be in CLOSED for any time: want one of `},
		{"TIME_WAIT=1m,time-wait=2m", "", `limit "time-wait=2m": TIME_WAIT has one before: give one for each state`},
		{"SYN_SENT=1s,CLOSE_WAIT=0s", "", `limit "CLOSE_WAIT=0s": want a time above 0, such as 30s, 5m or 1h, or off`},
		{"CLOSE_WAIT=-1s", "", `limit "CLOSE_WAIT=-1s": want a time above 0`},
		{"CLOSE_WAIT=30", "", `limit "CLOSE_WAIT=30": want a time above 0`},
		{"CLOSE_WAIT=", "", `limit "CLOSE_WAIT=": want a time above 0`},
	} {
		l := lifecycle.DefaultLimits()
		err := l.Set(c.text)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.HasPrefix(err.Error(), c.err)) {
			t.Errorf("%q: error %v, want %q", c.text, err, c.err)
		}
		want := c.want
		if c.err != "" {
			want = defaults // nothing is changed
		}
		if l.String() != want {
			t.Errorf("%q gives\n%s\nwant\n%s", c.text, l.String(), want)
		}
	}
}

func TestCheck(t *testing.T) {
	const ago = -1
	limits := lifecycle.DefaultLimits()
	exact := []events.Event{
		step(1*second, ago, 1, fsm.Closed, fsm.SynSent),
		step(2*second, 1*second, 2, fsm.SynSent, fsm.Established),
		step(3*second, 2*second, 3, fsm.Established, fsm.CloseWait),
	}
	after := func(list []events.Event, e events.Event) []events.Event { return append(list[:len(list):len(list)], e) }
	for _, c := range []struct {
		name   string
		events []events.Event
		age    time.Duration // 0: not stuck
		exact  bool
	}{
		{"over", []events.Event{found(100*second, 10*second, 0, fsm.CloseWait)}, 90 * second, true},
		{"at its limit", []events.Event{found(100*second, 40*second, 0, fsm.CloseWait)}, 0, false},
		{"lower bound", []events.Event{found(100*second, 10*second, 0, fsm.CloseWait, atLeast)}, 90 * second, false},
		{"nothing known", []events.Event{found(100*second, ago, 0, fsm.CloseWait)}, 0, false},
		{"known since an earlier walk", []events.Event{found(100*second, ago, 0, fsm.CloseWait), found(170*second, ago, 0, fsm.CloseWait)}, 70 * second, false},
		{"a lower bound is kept", []events.Event{found(100*second, 90*second, 0, fsm.CloseWait, atLeast), found(170*second, 95*second, 0, fsm.CloseWait, atLeast)}, 80 * second, false},
		{"a lower bound is bettered", []events.Event{found(100*second, ago, 0, fsm.CloseWait), found(170*second, 95*second, 0, fsm.CloseWait, atLeast)}, 75 * second, false},
		{"seen", after(exact, found(70*second, ago, 3, fsm.CloseWait)), 67 * second, true},
		{"seen better", after(exact, found(70*second, 69*second, 3, fsm.CloseWait, atLeast)), 67 * second, true},
		{"seen, not yet", after(exact, found(5*second, ago, 3, fsm.CloseWait)), 0, false},
		{"moved on", after(exact, found(70*second, 1*second, 2, fsm.Established)), 0, false},
		{"established", []events.Event{found(100*second, 0, 0, fsm.Established)}, 0, false},
		{"listener", []events.Event{found(100*second, 0, 0, fsm.Listen)}, 0, false},
		{"no state", []events.Event{found(100*second, 0, 0, 200)}, 0, false},
		{"handshake", []events.Event{found(100*second, 89*second, 0, fsm.SynRcvd, request)}, 11 * second, true},
		{"minisock", []events.Event{found(200*second, 10*second, 0, fsm.TimeWait, minisock, atLeast)}, 190 * second, false},
		{"TIME_WAIT of a minisock that a FIN reached unseen", []events.Event{
			step(1*second, 0, 1, fsm.FinWait2, fsm.FinWait2, minisock),
			found(500*second, 100*second, 1, fsm.TimeWait, minisock),
		}, 400 * second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := lifecycle.NewTracker(0)
			var out lifecycle.Transition
			for i := range c.events {
				tr.Observe(&c.events[i], &out)
			}
			got := lifecycle.Stuck{Limit: 77}
			over := limits.Check(&out, &got)
			if over != (c.age != 0) {
				t.Fatalf("stuck: %v, for %v", over, got.Age)
			}
			if !over {
				if got.Limit != 77 {
					t.Errorf("not stuck, and filled: %+v", got)
				}
				return
			}
			if got.Age != c.age || got.AgeExact != c.exact || got.Limit != limits[out.To] || got.State != out.To || got.Time != out.Time || !got.HasSnapshot {
				t.Errorf("%v, exact %v, want %v, %v: %+v", got.Age, got.AgeExact, c.age, c.exact, got)
			}
		})
	}
}

// All that is known goes with it.
func TestCheckTellsWho(t *testing.T) {
	e := found(100*second, second, 2, fsm.FinWait2, minisock, atLeast, owned("holder", events.OwnerSnapshot), func(e *events.Event) {
		e.Generation, e.NetNS, e.Cgroup, e.Retransmits, e.Snapshot = 5, 6, 7, 8, events.Snapshot{FD: 9, Holders: 10}
		e.Flags |= events.FlagOrphan | events.FlagUnaccepted
	})
	limits := lifecycle.DefaultLimits()
	if err := limits.Set("FIN_WAIT_2=5s"); err != nil {
		t.Fatal(err)
	}
	var out lifecycle.Transition
	tr := lifecycle.NewTracker(0)
	tr.Observe(&e, &out)
	out.Place = events.Place{Unit: "a.service"}
	var got lifecycle.Stuck
	if !limits.Check(&out, &got) {
		t.Fatal("not stuck")
	}
	want := lifecycle.Stuck{
		Time: e.Time, Cookie: 1, Generation: 5, State: fsm.FinWait2, Age: 99 * second, Limit: 5 * second,
		Minisock: true, Orphan: true, Unaccepted: true, Snapshot: e.Snapshot, HasSnapshot: true, Retransmits: 8,
		Local: e.Local, Remote: e.Remote, Family: 2, Owner: e.Owner, NetNS: 6, Cgroup: 7, Place: out.Place,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	// A later walk does not find who it was.
	e.Time, e.Owner = moment(200*second), events.Owner{}
	if tr.Observe(&e, &out); !limits.Check(&out, &got) || got.Owner != want.Owner {
		t.Errorf("the owner is %+v, want %+v", got.Owner, want.Owner)
	}

	request := found(100*second, second, 0, fsm.SynRcvd, request)
	if tr.Observe(&request, &out); !limits.Check(&out, &got) || !got.Request || got.Minisock || got.Orphan || got.Unaccepted {
		t.Errorf("a handshake is %+v", got)
	}
}

// Of a recording, without a walk: what the transitions tell.
func TestCheckLife(t *testing.T) {
	limits := lifecycle.DefaultLimits()
	for _, c := range []struct {
		name   string
		events []events.Event
		now    time.Duration
		age    time.Duration // 0: not stuck
		exact  bool
	}{
		{"over", []events.Event{step(second, -1, 1, fsm.Established, fsm.CloseWait)}, 90 * second, 89 * second, true},
		{"at its limit", []events.Event{step(second, -1, 1, fsm.Established, fsm.CloseWait)}, 61 * second, 0, false},
		{"before it", []events.Event{step(second, -1, 1, fsm.Established, fsm.CloseWait)}, 0, 0, false},
		{"stays there", []events.Event{step(9*second, second, 1, fsm.FinWait1, fsm.FinWait1)}, 90 * second, 89 * second, true},
		{"stays there, by a lower bound", []events.Event{step(9*second, second, 1, fsm.FinWait1, fsm.FinWait1, atLeast)}, 90 * second, 89 * second, false},
		{"stays there, nobody knows since when", []events.Event{step(9*second, -1, 1, fsm.FinWait1, fsm.FinWait1)}, 90 * second, 0, false},
		{"found", []events.Event{found(9*second, second, 0, fsm.FinWait1, atLeast)}, 90 * second, 89 * second, false},
		{"found, moved on", []events.Event{found(9*second, second, 0, fsm.FinWait1, atLeast), step(19*second, second, 1, fsm.FinWait1, fsm.FinWait2, atLeast)}, 200 * second, 181 * second, true},
		{"established", []events.Event{step(second, -1, 1, fsm.SynSent, fsm.Established)}, 900 * second, 0, false},
		{"listener", []events.Event{step(second, -1, 1, fsm.Closed, fsm.Listen)}, 900 * second, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := lifecycle.NewTracker(0)
			var out lifecycle.Transition
			for i := range c.events {
				c.events[i].Owner = events.Owner{PID: 3, Source: events.OwnerConnect}
				c.events[i].Generation, c.events[i].NetNS, c.events[i].Cgroup = 5, 6, 7
				tr.Observe(&c.events[i], &out)
			}
			var got, want lifecycle.Stuck
			if over := limits.CheckLife(out.Life, moment(c.now), &got); over != (c.age != 0) {
				t.Fatalf("stuck: %v, for %v", over, got.Age)
			}
			if c.age != 0 {
				want = lifecycle.Stuck{
					Time: moment(c.now), Cookie: 1, Generation: 5, State: out.To, Age: c.age, AgeExact: c.exact, Limit: limits[out.To],
					Local: out.Local, Remote: out.Remote, Family: 2, Owner: out.Owner, NetNS: 6, Cgroup: 7,
				}
			}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		name  string
		exact bool
		at    time.Duration
		to    fsm.State
		age   time.Duration
		want  bool // exact
		time  time.Duration
	}{
		{"left", true, 15 * second, fsm.LastAck, 9 * second, true, 15 * second},
		{"left, by a lower bound", false, 15 * second, fsm.LastAck, 9 * second, false, 15 * second},
		{"gone", true, 15 * second, 0, 4 * second, false, 15 * second},
		{"left before it was found", true, 9 * second, fsm.LastAck, 4 * second, false, 10 * second},
	} {
		s := lifecycle.Stuck{Time: moment(10 * second), State: fsm.CloseWait, Age: 4 * second, AgeExact: c.exact}
		s.Resolve(moment(c.at), c.to)
		if !s.Resolved || s.To != c.to || s.Age != c.age || s.AgeExact != c.want || s.Time != moment(c.time) {
			t.Errorf("%s: %+v", c.name, s)
		}
	}
}

func TestHint(t *testing.T) {
	type stuck = lifecycle.Stuck
	found := func(in fsm.State, s events.Snapshot) stuck { return stuck{State: in, Snapshot: s, HasSnapshot: true} }
	held := func(in fsm.State, s events.Snapshot) stuck {
		held := found(in, s)
		held.Owner = events.Owner{PID: 1, Source: events.OwnerSnapshot}
		return held
	}
	change := func(s stuck, change func(*stuck)) stuck { change(&s); return s }
	for _, c := range []struct {
		stuck stuck
		want  string
	}{
		{stuck{State: fsm.SynSent}, "no answer to the SYN"},
		{found(fsm.SynSent, events.Snapshot{SendQueue: 1}), "no answer to the SYN"},
		{found(fsm.SynSent, events.Snapshot{SendQueue: 1, Unanswered: 2}), "no answer to 3 SYNs"},
		{found(fsm.SynSent, events.Snapshot{}), "the SYN waits for data of the process (TCP_FASTOPEN_CONNECT)"},

		{stuck{State: fsm.SynRcvd}, "the handshake is not completed"},
		{found(fsm.SynRcvd, events.Snapshot{}), "the handshake is not completed"},
		{change(found(fsm.SynRcvd, events.Snapshot{}), func(s *stuck) { s.Request = true }), "the handshake is not completed, 1 SYN-ACK sent"},
		{change(found(fsm.SynRcvd, events.Snapshot{Unanswered: 4}), func(s *stuck) { s.Request = true }), "the handshake is not completed, 5 SYN-ACKs sent"},

		{stuck{State: fsm.FinWait1}, "the peer does not acknowledge our FIN"},
		{found(fsm.FinWait1, events.Snapshot{SendQueue: 1}), "the peer does not acknowledge our FIN"},
		{found(fsm.FinWait1, events.Snapshot{SendQueue: 1, Unanswered: 1}), "the peer does not acknowledge our FIN, 1 retry"},
		{found(fsm.FinWait1, events.Snapshot{SendQueue: 2}), "1 byte before our FIN is not acknowledged"},
		{found(fsm.FinWait1, events.Snapshot{SendQueue: 1001, Unanswered: 7}), "1000 bytes before our FIN are not acknowledged, 7 retries"},
		{found(fsm.LastAck, events.Snapshot{SendQueue: 1, Unanswered: 6}), "the peer does not acknowledge our FIN, 6 retries"},
		{found(fsm.LastAck, events.Snapshot{SendQueue: 3}), "2 bytes before our FIN are not acknowledged"},
		{found(fsm.Closing, events.Snapshot{SendQueue: 1, Unanswered: 6}), "both sides have closed; the peer does not acknowledge our FIN, 6 retries"},

		{stuck{State: fsm.FinWait2}, "our FIN is acknowledged; the peer has not sent its own"},
		{held(fsm.FinWait2, events.Snapshot{}), "this process has shut down sending, and the peer has not closed"},
		{held(fsm.FinWait2, events.Snapshot{RecvQueue: 1}), "this process has shut down sending, and the peer has not closed; 1 byte unread"},
		{found(fsm.FinWait2, events.Snapshot{}), "sending is shut down, and the peer has not closed"},
		{change(found(fsm.FinWait2, events.Snapshot{}), func(s *stuck) { s.Orphan = true }), "closed here; the peer has not sent its FIN"},
		{change(held(fsm.FinWait2, events.Snapshot{Left: 12e9}), func(s *stuck) { s.Minisock = true }), "closed here; the peer has not sent its FIN; 12s left on its timer"},
		{stuck{State: fsm.FinWait2, Minisock: true}, "closed here; the peer has not sent its FIN"},

		{stuck{State: fsm.CloseWait}, "the peer has closed, and this side has not"},
		{held(fsm.CloseWait, events.Snapshot{Holders: 1, FD: 7}), "the peer has closed, and this process has not called close on fd 7"},
		{held(fsm.CloseWait, events.Snapshot{Holders: 2, FD: 0}), "the peer has closed, and this process has not called close on fd 0 (and 1 more descriptor)"},
		{held(fsm.CloseWait, events.Snapshot{Holders: 3, FD: 7, RecvQueue: 120}), "the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread"},
		{held(fsm.CloseWait, events.Snapshot{FD: 7}), "the peer has closed, and this process has not called close"},
		{found(fsm.CloseWait, events.Snapshot{Holders: 1, FD: 7}), "the peer has closed, and close has not been called on fd 7"},
		{found(fsm.CloseWait, events.Snapshot{}), "the peer has closed, and close has not been called"},
		{change(held(fsm.CloseWait, events.Snapshot{}), func(s *stuck) { s.Orphan = true }), "the peer has closed, and no process holds the socket"},
		{change(held(fsm.CloseWait, events.Snapshot{RecvQueue: 5}), func(s *stuck) { s.Unaccepted = true }), "the peer has closed, and no process has accepted the connection; 5 bytes unread"},

		{stuck{State: fsm.TimeWait}, "both sides have closed"},
		{found(fsm.TimeWait, events.Snapshot{Left: 3.4e9}), "both sides have closed; 3.4s left on its timer"},

		{stuck{State: fsm.Established}, "established"},
		{found(fsm.Established, events.Snapshot{Silent: uint64(12 * time.Minute)}), "established, silent for 12m"},
		{found(fsm.Established, events.Snapshot{Silent: 1e9, SendQueue: 1, RecvQueue: 2, Unanswered: 3}), "established, silent for 1s; 1 byte not acknowledged, 3 retries; 2 bytes unread"},

		{stuck{State: 13}, "in STATE_13"},
	} {
		if got := c.stuck.Hint(); got != c.want {
			t.Errorf("%v, %+v:\ngot  %s\nwant %s", c.stuck.State, c.stuck.Snapshot, got, c.want)
		}
	}
}

// The send queue holds more than payload, and that of a listener none.
func TestQueues(t *testing.T) {
	for state, want := range map[fsm.State]uint64{
		fsm.Established: 5, fsm.CloseWait: 5, fsm.FinWait1: 4, fsm.LastAck: 4, fsm.Closing: 4, fsm.SynSent: 4, fsm.Listen: 0,
	} {
		s := lifecycle.Stuck{State: state, Snapshot: events.Snapshot{SendQueue: 5, RecvQueue: 6}}
		unread := uint64(6)
		if state == fsm.Listen {
			unread = 0
		}
		if s.Unacknowledged() != want || s.Unread() != unread {
			t.Errorf("%v: %d not acknowledged, %d unread", state, s.Unacknowledged(), s.Unread())
		}
	}
	if s := (lifecycle.Stuck{State: fsm.FinWait1}); s.Unacknowledged() != 0 {
		t.Errorf("of nothing %d are not acknowledged", s.Unacknowledged())
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 999 * time.Microsecond: "999µs", 1: "1ns", 340*time.Millisecond + 1: "340ms", second: "1s", 34290 * time.Millisecond: "34.2s",
		59999 * time.Millisecond: "59.9s", time.Minute: "1m", 150 * second: "2m30s", 10 * time.Minute: "10m",
		time.Hour: "1h", time.Hour + 59*second: "1h", 10*time.Hour + 10*time.Minute: "10h10m", 100 * time.Hour: "100h",
	} {
		if got := lifecycle.FormatDuration(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	e := found(100*second, second, 0, fsm.CloseWait)
	limits := lifecycle.DefaultLimits()
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	var s lifecycle.Stuck
	if n := testing.AllocsPerRun(100, func() {
		if tr.Observe(&e, &out); !limits.Check(&out, &s) || !limits.CheckLife(out.Life, e.Time, &s) {
			t.Fatal("not stuck")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
