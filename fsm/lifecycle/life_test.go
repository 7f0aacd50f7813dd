package lifecycle_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// lives returns the lifecycles that a view would show: of what ended, when it
// did, and at last of what is open.
func lives(t *testing.T, list []events.Event) (told []lifecycle.Lifecycle) {
	t.Helper()
	tr := lifecycle.NewTracker(0)
	tell := func(l *lifecycle.Life, now uint64) {
		if !l.IsConnection() {
			return
		}
		var c lifecycle.Lifecycle
		l.Lifecycle(now, &c)
		c.Path, c.Violations = slices.Clone(c.Path), slices.Clone(c.Violations)
		told = append(told, c)
	}
	now := uint64(0)
	for i := range list {
		var out lifecycle.Transition
		tr.Observe(&list[i], &out)
		now = max(now, out.Time)
		if out.Unended != nil {
			tell(out.Unended, out.Time)
		}
		if out.Ended {
			tell(out.Life, out.Time)
		}
	}
	if err := tr.Each(func(l *lifecycle.Life) error { tell(l, now); return nil }); err != nil {
		t.Fatal(err)
	}
	return told
}

// story is all of a lifecycle but who it is.
func story(c *lifecycle.Lifecycle) string {
	b := new(strings.Builder)
	word := func(condition bool, format string, a ...any) {
		if condition {
			fmt.Fprintf(b, " "+format, a...)
		}
	}
	fmt.Fprintf(b, "%d.%d %s:", c.Cookie, c.Generation, c.Role)
	for i, s := range c.Path {
		d, known := c.Dwell(s)
		word(true, "%v", s)
		bound := ""
		if i == 0 && c.AtLeast {
			bound = "≥"
		}
		word(known, "%s%v", bound, d)
	}
	word(c.Open, "…")
	word(c.Start != 0, "| %v", time.Duration(c.End-c.Start))
	word(c.Since != 0, "| ≥%v", time.Duration(c.End-c.Since))
	word(c.HasHandshake, "handshake %v", c.Handshake)
	word(true, "| %v", c.Cause)
	word(c.First != lifecycle.FirstUnknown, "first %v", c.First)
	word(c.Errno != 0, "errno %d", c.Errno)
	word(c.Reset != 0, "reset %d", c.Reset)
	word(c.HasTimeWait, "| TIME_WAIT %v %v", c.TimeWait, c.TimeWaitEnd)
	word(c.Estimated, "estimated")
	word(c.Skipped, "skipped")
	word(c.HasCounters, "| %d/%d rtt %d retr %d", c.BytesSent, c.BytesReceived, c.SRTT, c.Retransmits)
	word(true, "| %v", c.Verdict)
	word(c.Complete, "complete")
	for _, v := range c.Violations {
		word(true, "%v -> %v", v.From, v.To)
	}
	return b.String()
}

func TestLifecycles(t *testing.T) {
	for _, c := range []struct {
		scenario string
		want     []string
	}{
		{"loopback IPv4", []string{
			"2.0 active: CLOSED SYN_SENT 30µs ESTABLISHED 176.023ms FIN_WAIT_1 20µs FIN_WAIT_2 50µs CLOSED | 176.123ms handshake 30µs | finished first local | 0/1023 rtt 40 retr 0 | linux",
			"3.0 passive: LISTEN SYN_RCVD 3µs ESTABLISHED 176.01ms CLOSE_WAIT 50µs LAST_ACK 15µs CLOSED | 176.078ms handshake 3µs | finished first remote | 0/77 rtt 50 retr 0 | legal complete",
		}},
		{"refused", []string{
			"2.0 active: CLOSED SYN_SENT 300µs CLOSED | 300µs | refused first remote errno 111 | abort complete",
		}},
		{"reset", []string{
			"3.0 passive: LISTEN SYN_RCVD 3µs ESTABLISHED 1ms CLOSED | 1.003ms handshake 3µs | reset_sent first local | 0/0 rtt 0 retr 0 | abort complete",
			"2.0 active: CLOSED SYN_SENT 30µs ESTABLISHED 1.033ms CLOSED | 1.063ms handshake 30µs | reset_received first remote errno 104 | 0/0 rtt 0 retr 0 | abort complete",
		}},
		{"connected to itself", []string{
			"1.0 active: CLOSED SYN_SENT 20µs SYN_RCVD 5µs ESTABLISHED 1s FIN_WAIT_1 10µs CLOSING 1.000005s CLOSED | 2.00004s handshake 25µs | finished first both | 0/0 rtt 0 retr 0 | linux",
		}},
		{"reconnected", []string{
			"2.0 active: CLOSED SYN_SENT 1ms ESTABLISHED 1s CLOSED | 1.001s handshake 1ms | disconnected first local | 0/0 rtt 0 retr 0 | abort complete",
			"2.1 active: CLOSED SYN_SENT 1ms ESTABLISHED 1s CLOSE_WAIT 1ms LAST_ACK 1ms CLOSED | 1.003s handshake 1ms | finished first remote | 0/0 rtt 0 retr 0 | legal complete",
		}},
		{"listener reopened", nil},
		{"gap", []string{
			"2.0 active: CLOSED SYN_SENT 1ms ESTABLISHED FIN_WAIT_2 1ms CLOSED | 1.003s handshake 1ms | finished first local | 0/0 rtt 0 retr 0 | gap",
		}},
		{"illegal edge", []string{
			"2.0 active: CLOSED SYN_SENT 1ms ESTABLISHED 1s LAST_ACK 1ms CLOSED | 1.002s handshake 1ms | finished first remote | 0/0 rtt 0 retr 0 | illegal complete ESTABLISHED -> LAST_ACK",
		}},
		{"illegal jump", []string{
			"2.0 active: CLOSED SYN_SENT 1ms ESTABLISHED LAST_ACK 1s CLOSED | 1.001s handshake 1ms | finished first remote | 0/0 rtt 0 retr 0 | illegal complete LAST_ACK -> CLOSED",
		}},
		{"time wait", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.01s LAST_ACK 20ms CLOSED | 1.160003s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020001s TIME_WAIT 1m0s CLOSED | 1m1.160004s handshake 10ms | finished first local | TIME_WAIT 1m0s expired | 78/1024 rtt 10000 retr 0 | legal complete",
		}},
		{"time wait reused", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.01s LAST_ACK 20ms CLOSED | 1.160003s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020001s TIME_WAIT 2s CLOSED | 3.160004s handshake 10ms | finished first local | TIME_WAIT 2s reused | 78/1024 rtt 10000 retr 0 | linux complete",
		}},
		{"time wait reset", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.01s LAST_ACK 20ms CLOSED | 1.160003s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020001s TIME_WAIT 1ms CLOSED | 1.161004s handshake 10ms | finished first local | TIME_WAIT 1ms reset | 78/1024 rtt 10000 retr 0 | abort complete",
		}},
		{"time wait destroyed", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.01s LAST_ACK 20ms CLOSED | 1.160003s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020001s TIME_WAIT 1s CLOSED | 2.160004s handshake 10ms | finished first local | TIME_WAIT 1s killed | 78/1024 rtt 10000 retr 0 | abort complete",
		}},
		{"simultaneous close", []string{
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 1.010003s FIN_WAIT_1 10.001ms CLOSING 10.001ms TIME_WAIT 1m0.000001s CLOSED | 1m1.040006s handshake 10ms | finished first both | TIME_WAIT 1m0.000001s expired | 78/1024 rtt 10000 retr 0 | legal complete",
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 1.000001s FIN_WAIT_1 10.001ms CLOSING 10.001ms TIME_WAIT 1m0.001s CLOSED | 1m1.041006s handshake 20.003ms | finished first both | TIME_WAIT 1m0.001s expired | 1024/78 rtt 10000 retr 1 | legal complete",
		}},
		{"orphan", []string{
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1m0.000001s CLOSED | 1m0.140004s handshake 10ms | timeout first local | 78/1024 rtt 10000 retr 0 | abort complete",
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1m0.010001s … | 1m0.140004s handshake 20.003ms | none first remote | 1024/78 rtt 10000 retr 1 | legal",
		}},
		{"orphan answers data", []string{
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.000001s CLOSED | 1.140004s handshake 10ms | reset_sent first local | 78/1024 rtt 10000 retr 0 | abort complete",
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.020001s CLOSED | 1.150004s handshake 20.003ms | reset_received first remote errno 32 | 1024/78 rtt 10000 retr 1 | abort complete",
		}},
		{"orphan, FIN estimated", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.010001s LAST_ACK 20ms CLOSED | 1.160004s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020001s TIME_WAIT 1m0s CLOSED | 1m1.160004s handshake 10ms | finished first local | TIME_WAIT 1m0s expired estimated | 78/1024 rtt 10000 retr 0 | linux complete",
		}},
		{"orphan, FIN seen", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.010001s LAST_ACK 20ms CLOSED | 1.160004s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020002s TIME_WAIT 1m0s CLOSED | 1m1.160005s handshake 10ms | finished first local | TIME_WAIT 1m0s expired | 78/1024 rtt 10000 retr 0 | linux complete",
		}},
		{"begun anew", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.01s LAST_ACK 20ms CLOSED | 1.160003s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020001s TIME_WAIT 1m0.001s CLOSED | 1m1.161004s handshake 10ms | finished first local | TIME_WAIT 1m0.001s expired | 78/1024 rtt 10000 retr 0 | legal complete",
			"2.1 active: CLOSED SYN_SENT 1ms ESTABLISHED 1m0s CLOSED | 1m0.001s handshake 1ms | reset_received first remote errno 104 | 0/0 rtt 0 retr 0 | abort complete",
		}},
		{"time wait skipped", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.01s LAST_ACK 20ms CLOSED | 1.160003s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020001s CLOSED | 1.160004s handshake 10ms | finished first local skipped | 78/1024 rtt 10000 retr 0 | illegal complete FIN_WAIT_2 -> CLOSED",
		}},
		{"time wait not observed", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 110ms CLOSE_WAIT 1.01s LAST_ACK 20ms CLOSED | 1.160003s handshake 20.003ms | finished first remote | 1024/78 rtt 10000 retr 1 | legal complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 110.003ms FIN_WAIT_1 20ms FIN_WAIT_2 1.020001s CLOSED | 1.160004s handshake 10ms | finished first local | 78/1024 rtt 10000 retr 0 | linux",
		}},
		{"handshakes", []string{
			"0.0 passive: SYN_RCVD 10ms CLOSED | 10ms | reset_received first remote | abort complete",
			"0.0 passive: SYN_RCVD 10ms CLOSED | 10ms | reset_sent first local | abort complete",
			"0.0 passive: SYN_RCVD 1m3s CLOSED | 1m3s | timeout first none | abort complete",
			"0.0 passive: SYN_RCVD 1s CLOSED | 1s | listener_closed first local | abort complete",
		}},
		{"SYN cookie", []string{
			"3.0 passive: LISTEN SYN_RCVD ESTABLISHED 1s CLOSE_WAIT 1ms LAST_ACK 1ms CLOSED | 1.002003s | finished first remote | 0/0 rtt 0 retr 0 | legal complete",
		}},
		{"resets with reasons", []string{
			"3.0 passive: LISTEN SYN_RCVD 20.003ms ESTABLISHED 1s CLOSED | 1.020003s handshake 20.003ms | reset_sent first local reset 11 | 1024/78 rtt 10000 retr 1 | abort complete",
			"5.0 active: CLOSED SYN_SENT 1ms ESTABLISHED 1s FIN_WAIT_1 1ms CLOSED | 1.002s handshake 1ms | reset_sent first local reset 13 | 0/0 rtt 0 retr 0 | abort complete",
			"7.0 active: CLOSED SYN_SENT 1ms ESTABLISHED 1s FIN_WAIT_1 1ms FIN_WAIT_2 1ms CLOSED | 1.003s handshake 1ms | reset_sent first local reset 8 | 0/0 rtt 0 retr 0 | abort complete",
			"9.0 active: CLOSED SYN_SENT 1ms ESTABLISHED 1s CLOSE_WAIT 1ms LAST_ACK 1ms CLOSED | 1.003s handshake 1ms | reset_sent first remote errno 32 reset 1 | 0/0 rtt 0 retr 0 | abort complete",
			"2.0 active: CLOSED SYN_SENT 10ms ESTABLISHED 4.018003s … | 4.028003s handshake 10ms | none | 0/0 rtt 10000 retr 0 | legal",
		}},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			var got []string
			for _, l := range lives(t, scenario(t, c.scenario)) {
				got = append(got, story(&l))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func scenario(t *testing.T, name string) []events.Event {
	t.Helper()
	for _, s := range eventstest.Scenarios() {
		if s.Name == name {
			return s.Events
		}
	}
	t.Fatalf("no scenario %q", name)
	return nil
}

func TestLifecycleTellsWho(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	c, _ := s.Pair("10.0.0.1:40000", "10.0.0.2:80")
	c.Cgroup = 7
	c.To(fsm.SynSent, 0).To(fsm.Established, 0)
	c.Owner = events.Owner{} // not known any more
	c.To(fsm.CloseWait, 0)
	got := lives(t, s.Events())[0]
	if got.Local != c.Local || got.Remote != c.Remote || got.Family != c.Family {
		t.Errorf("ends %v, %v, family %d, want %v, %v, %d", got.Local, got.Remote, got.Family, c.Local, c.Remote, c.Family)
	}
	if want := eventstest.Owned(4242, "curl", events.OwnerConnect); got.Owner != want || got.NetNS != eventstest.NetNS || got.Cgroup != 7 {
		t.Errorf("owner %+v, netns %d, cgroup %d, want %+v, %d, 7", got.Owner, got.NetNS, got.Cgroup, want, eventstest.NetNS)
	}
}

// What is open has spent in its state at least the time until now.
func TestOpenLifecycle(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		write    func(*eventstest.Socket)
		now      time.Duration // after the last event
		dwell    time.Duration // in the last state; -1: not known
		begun    bool
		minisock bool
	}{
		{"begun", func(c *eventstest.Socket) { c.To(fsm.SynSent, 0) }, 5 * ms, 5 * ms, true, false},
		{"just now", func(c *eventstest.Socket) { c.To(fsm.SynSent, 0) }, 0, 0, true, false},
		{"before its last step", func(c *eventstest.Socket) { c.To(fsm.SynSent, 0) }, -ms, -1, true, false},
		{"established", func(c *eventstest.Socket) { c.To(fsm.SynSent, 0).To(fsm.Established, ms) }, 5 * ms, 5 * ms, true, false},
		{"closed again", func(c *eventstest.Socket) {
			c.To(fsm.SynSent, 0).To(fsm.Established, ms).To(fsm.FinWait1, ms).To(fsm.FinWait1, 2*ms)
		}, 5 * ms, 7 * ms, true, false},
		{"in a minisock", func(c *eventstest.Socket) {
			c.To(fsm.SynSent, 0).To(fsm.Established, ms).To(fsm.FinWait1, ms).To(fsm.FinWait2, ms).To(fsm.TimeWait, ms, eventstest.Minisock)
		}, 5 * ms, 5 * ms, true, true},
		{"in a minisock, orphan", func(c *eventstest.Socket) {
			c.To(fsm.SynSent, 0).To(fsm.Established, ms).To(fsm.FinWait1, ms).To(fsm.FinWait2, ms).To(fsm.FinWait2, ms, eventstest.Minisock)
		}, 5 * ms, 6 * ms, true, true},
		{"was there before", func(c *eventstest.Socket) { c.Jump(fsm.Established).To(fsm.CloseWait, ms) }, 5 * ms, 5 * ms, false, false},
		{"was there before, stays", func(c *eventstest.Socket) { c.Jump(fsm.FinWait1).To(fsm.FinWait1, ms) }, 5 * ms, -1, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := eventstest.New(eventstest.Start)
			c.write(s.Socket("10.0.0.1:40000", "10.0.0.2:80"))
			tr := lifecycle.NewTracker(0)
			list := s.Events()
			var out lifecycle.Transition
			for i := range list {
				tr.Observe(&list[i], &out)
			}
			now := out.Time + uint64(c.now)
			var l lifecycle.Lifecycle
			out.Life.Lifecycle(now, &l)
			if !l.Open || l.Complete || l.End != now || (l.Start != 0) != c.begun || out.Life.InMinisock() != c.minisock {
				t.Errorf("%+v, minisock %v", l, out.Life.InMinisock())
			}
			d, known := l.Dwell(out.To)
			if known != (c.dwell >= 0) || known && d != c.dwell {
				t.Errorf("in the last state %v, %v, want %v", d, known, c.dwell)
			}
			if l.TimeWaitEnd != fsm.EndNone {
				t.Errorf("TIME_WAIT has ended: %v", l.TimeWaitEnd)
			}
		})
	}
}

// Telling changes nothing: it may be told again, later.
func TestLifecycleIsToldAgain(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.Socket("10.0.0.1:40000", "10.0.0.2:80").To(fsm.SynSent, 0)
	tr := lifecycle.NewTracker(0)
	list := s.Events()
	var out lifecycle.Transition
	tr.Observe(&list[0], &out)
	var l lifecycle.Lifecycle
	for _, d := range []time.Duration{time.Second, time.Minute, time.Second} {
		out.Life.Lifecycle(eventstest.Start+uint64(d), &l)
		if got, known := l.Dwell(fsm.SynSent); got != d || !known {
			t.Errorf("after %v: %v, %v", d, got, known)
		}
	}
}

// A socket that begins a new life while its minisock lives has two.
func TestMinisockOutlivesItsSocket(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	list := scenario(t, "begun anew")
	socket := list[len(list)-1].Cookie
	for i := range list {
		var out lifecycle.Transition
		tr.Observe(&list[i], &out)
		if out.Unended != nil {
			t.Errorf("%v -> %v ends an earlier life", out.From, out.To)
		}
		if out.Cookie == socket && out.Generation == 1 && out.From == fsm.Closed && tr.Followed() != 3 { // and the listener
			t.Errorf("%d followed, want both generations and the listener", tr.Followed())
		}
	}
}

// A new life shows that the one before it has ended, though of that there is no
// record.
func TestUnended(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	c := s.Socket("10.0.0.1:40000", "10.0.0.2:80")
	c.To(fsm.SynSent, 0).To(fsm.Established, 0).Lose(fsm.Closed, 0).To(fsm.SynSent, 0).To(fsm.Established, 0)
	unended := 0
	tr := lifecycle.NewTracker(0)
	for _, e := range s.Events() {
		var out lifecycle.Transition
		tr.Observe(&e, &out)
		if out.Unended == nil {
			continue
		}
		unended++
		var old lifecycle.Lifecycle
		out.Unended.Lifecycle(out.Time, &old)
		if e.Generation != 1 || e.From != fsm.Closed || old.Generation != 0 || old.Path[len(old.Path)-1] != fsm.Established || old.Complete {
			t.Errorf("at %v -> %v unended is\n%+v", e.From, e.To, old)
		}
	}
	if unended != 1 || tr.Followed() != 1 {
		t.Errorf("%d unended lives, want 1; %d followed, want 1", unended, tr.Followed())
	}
}

// What is set on the old life stays on it, and is not on the new one.
func TestUnendedKeepsItsMark(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	c := s.Socket("10.0.0.1:40000", "10.0.0.2:80")
	c.To(fsm.SynSent, 0).Lose(fsm.Closed, 0).To(fsm.SynSent, 0)
	list := s.Events()
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	tr.Observe(&list[0], &out)
	out.Life.Marked = true
	if tr.Observe(&list[1], &out); out.Unended == nil || !out.Unended.Marked || out.Life.Marked {
		t.Errorf("unended %+v, new life marked: %v", out.Unended, out.Life.Marked)
	}
}

// A step of an old minisock that is not its end ends nothing.
func TestStepOfAnOldMinisock(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	c := s.Socket("10.0.0.1:40000", "10.0.0.2:80")
	c.To(fsm.SynSent, 0).To(fsm.Established, 0).To(fsm.FinWait1, 0).To(fsm.FinWait2, 0).To(fsm.FinWait2, 0, eventstest.Minisock)
	c.To(fsm.SynSent, 0)
	c.MinisockTo(fsm.TimeWait, 0)
	c.End(fsm.EndExpired, 0)
	c.To(fsm.Established, 0)
	want := []bool{false, false, false, false, false, false, false, true, false}
	for i, out := range observe(lifecycle.NewTracker(0), s.Events()) {
		if out.Ended != want[i] {
			t.Errorf("%d: %v -> %v: ended %v", i, out.From, out.To, out.Ended)
		}
		if out.Verdict == fsm.Gap || out.Verdict == fsm.Illegal {
			t.Errorf("%d: %v -> %v is %v, %q", i, out.From, out.To, out.Verdict, out.Reason)
		}
	}
}

// The process closes the socket that a minisock took over from, and that is
// closed: this is no step of the connection.
func TestSocketOfAMinisockIsClosed(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	c := s.Socket("10.0.0.1:40000", "10.0.0.2:80")
	c.To(fsm.SynSent, 0).To(fsm.Established, 0).To(fsm.FinWait1, 0, eventstest.ByShutdown).To(fsm.FinWait2, 0)
	c.To(fsm.TimeWait, 0, eventstest.Minisock).To(fsm.Closed, time.Second, eventstest.ByClose)
	c.End(fsm.EndExpired, 59*time.Second)
	list := s.Events()
	tr := lifecycle.NewTracker(0)
	out := observe(tr, list[:6])
	if last := out[5]; last.Verdict != fsm.Linux || last.Ended {
		t.Errorf("closing it is %v, %q, ended %v", last.Verdict, last.Reason, last.Ended)
	}
	var end lifecycle.Transition
	tr.Observe(&list[6], &end)
	var l lifecycle.Lifecycle
	end.Life.Lifecycle(end.Time, &l)
	if end.Verdict != fsm.Legal || !end.Ended || !l.Complete || l.TimeWait != time.Minute {
		t.Errorf("the end is %v, %q, of\n%+v", end.Verdict, end.Reason, l)
	}
}

// A socket that is closed already ends no connection when it is closed again.
func TestClosedTwiceEndsOnce(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.Socket("10.0.0.1:40000", "10.0.0.2:80").
		To(fsm.SynSent, 0).To(fsm.Closed, 0, eventstest.Errno(111)).To(fsm.Closed, 0)
	tr := lifecycle.NewTracker(0)
	for i, out := range observe(tr, s.Events()) {
		if out.Ended != (i == 1) {
			t.Errorf("%v -> %v: ended %v", out.From, out.To, out.Ended)
		}
	}
	if tr.Followed() != 0 {
		t.Errorf("%d are still followed", tr.Followed())
	}
}

// A FIN reaches a minisock in FIN_WAIT_2 unseen: the kernel side says so, by an
// estimate. Without one it is a broken rule.
func TestEstimate(t *testing.T) {
	write := func(change func(*events.Event)) []events.Event {
		s := eventstest.New(eventstest.Start)
		c := s.Socket("10.0.0.1:40000", "10.0.0.2:80")
		c.To(fsm.SynSent, 0).To(fsm.Established, time.Second).To(fsm.FinWait1, time.Second)
		c.To(fsm.FinWait2, time.Second).To(fsm.FinWait2, time.Second, eventstest.Minisock)
		c.End(fsm.EndExpired, 70*time.Second, eventstest.Estimated(60*time.Second))
		list := s.Events()
		change(&list[len(list)-1])
		return list
	}
	for _, c := range []struct {
		name     string
		change   func(*events.Event)
		lost     []int
		want     fsm.Verdict
		finWait2 time.Duration // -1: not known
	}{
		{"with", func(*events.Event) {}, nil, fsm.Legal, 11 * time.Second},
		{"without", func(e *events.Event) { e.Flags &^= events.FlagEstimated }, nil, fsm.Illegal, -1},
		{"from another state", func(e *events.Event) { e.From = fsm.Closing }, nil, fsm.Illegal, -1},
		{"the minisock's beginning lost", func(*events.Event) {}, []int{4}, fsm.Gap, -1},
		{"FIN_WAIT_2 lost", func(*events.Event) {}, []int{3, 4}, fsm.Gap, -1},
		{"all but the end lost", func(*events.Event) {}, []int{0, 1, 2, 3, 4}, fsm.Gap, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := write(c.change)
			for i := len(c.lost) - 1; i >= 0; i-- {
				list = slices.Delete(list, c.lost[i], c.lost[i]+1)
			}
			tr := lifecycle.NewTracker(0)
			var out lifecycle.Transition
			for i := range list {
				tr.Observe(&list[i], &out)
			}
			var l lifecycle.Lifecycle
			out.Life.Lifecycle(out.Time, &l)
			// Of the connection the worst: it is Linux that hands it to a minisock.
			if out.Verdict != c.want || l.Verdict != fsm.Worse(c.want, l.Verdict) {
				t.Errorf("%v, %q, of the connection %v, want %v", out.Verdict, out.Reason, l.Verdict, c.want)
			}
			if estimated := out.Flags&events.FlagEstimated != 0; l.Estimated != estimated {
				t.Errorf("estimated: %v, want %v", l.Estimated, estimated)
			}
			if out.From == fsm.TimeWait && l.TimeWait != time.Minute {
				t.Errorf("TIME_WAIT was %v, want 1m", l.TimeWait)
			}
			if d, known := l.Dwell(fsm.FinWait2); known != (c.finWait2 >= 0) || known && d != c.finWait2 {
				t.Errorf("FIN_WAIT_2 was %v, %v, want %v", d, known, c.finWait2)
			}
			if d, known := l.Dwell(fsm.FinWait1); known && d != time.Second {
				t.Errorf("FIN_WAIT_1 was %v, want 1s", d)
			}
			if l.Complete != (c.want == fsm.Legal || c.want == fsm.Illegal) {
				t.Errorf("complete: %v", l.Complete)
			}
		})
	}
}

// The same without numbers, of a kernel that had no memory for the history.
func TestEstimateWithoutNumber(t *testing.T) {
	list := renumber(scenario(t, "orphan, FIN estimated"), make([]uint32, 12)...)
	for i, out := range observe(lifecycle.NewTracker(0), list) {
		if out.Verdict == fsm.Gap || out.Verdict == fsm.Illegal {
			t.Errorf("%d: %v -> %v is %v, %q", i, out.From, out.To, out.Verdict, out.Reason)
		}
	}
}

// One record is lost, and what it would have told is not known.
func TestHoleMarksIncomplete(t *testing.T) {
	whole := scenario(t, "time wait")
	socket := whole[len(whole)-1].Cookie
	for i, lost := range whole[:len(whole)-1] {
		if lost.Cookie != socket {
			continue
		}
		list := slices.Delete(slices.Clone(whole), i, i+1)
		all := lives(t, list)
		l := all[slices.IndexFunc(all, func(l lifecycle.Lifecycle) bool { return l.Cookie == socket })]
		if l.Complete || l.Verdict != fsm.Gap || len(l.Violations) > 0 {
			t.Errorf("without %v -> %v: complete %v, %v", lost.From, lost.To, l.Complete, l.Verdict)
		}
		if d, known := l.Dwell(lost.From); known {
			t.Errorf("without %v -> %v: %v in %v", lost.From, lost.To, d, lost.From)
		}
		if lost.From == fsm.Closed && l.Start != 0 {
			t.Errorf("without its beginning it starts at %d", l.Start)
		}
	}
}

// What stays in a state that it was not seen to enter has been there for nobody
// knows how long.
func TestStaysWhereItWasNotSeenToEnter(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.Socket("10.0.0.1:40000", "10.0.0.2:80").To(fsm.SynSent, 0).To(fsm.Established, time.Second).
		Lose(fsm.FinWait1, time.Second).To(fsm.FinWait1, time.Second, eventstest.Unseen)
	l := lives(t, s.Events())[0]
	for _, s := range []fsm.State{fsm.Established, fsm.FinWait1} {
		if d, known := l.Dwell(s); known {
			t.Errorf("%v in %v", d, s)
		}
	}
}

// A broken kernel, or a forged recording, makes a path without end.
func TestLongPath(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	c := s.Socket("10.0.0.1:40000", "10.0.0.2:80").To(fsm.SynSent, 1)
	for range 50 {
		c.To(fsm.Established, 1).To(fsm.LastAck, 1)
	}
	c.To(fsm.Closed, 1)
	l := lives(t, s.Events())[0]
	if len(l.Path) != 12 || l.Path[0] != fsm.Closed || l.Path[11] != fsm.LastAck {
		t.Errorf("path %v", l.Path)
	}
	if l.Complete || l.Open || l.Verdict != fsm.Illegal || len(l.Violations) != 8 {
		t.Errorf("complete %v, open %v, %v, %d violations", l.Complete, l.Open, l.Verdict, len(l.Violations))
	}
	if d, _ := l.Dwell(fsm.LastAck); d != 50 {
		t.Errorf("in LAST_ACK for %d, want 50", d)
	}
}

// Numbers that are no state are kept in the path, and spend no time.
func TestUnknownStates(t *testing.T) {
	for _, to := range []fsm.State{0, 12, 13, 64, 255} {
		s := eventstest.New(eventstest.Start)
		s.Socket("10.0.0.1:40000", "10.0.0.2:80").To(fsm.SynSent, 1).To(to, 1).To(fsm.Established, 1).To(to, 1)
		l := lives(t, s.Events())[0]
		if d, known := l.Dwell(to); known || !l.Open || !slices.Contains(l.Path, to) {
			t.Errorf("%v: %v, open %v, path %v", to, d, l.Open, l.Path)
		}
	}
}

// TIME_WAIT is skipped only where the kernel says so.
func TestSkippedIsNotEveryFinding(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.Socket("10.0.0.1:40000", "10.0.0.2:80").To(fsm.SynSent, 0).To(fsm.Established, 0).Jump(fsm.FinWait2).To(fsm.Closed, 0)
	if l := lives(t, s.Events())[0]; l.Skipped || l.Verdict != fsm.Illegal || l.Complete {
		t.Errorf("skipped %v, %v, complete %v", l.Skipped, l.Verdict, l.Complete)
	}
}

// A child that dies before it is established began with its SYN, too, but had no
// whole handshake.
func TestChildDiesInSynRcvd(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	l := s.Socket("0.0.0.0:80", "").To(fsm.Listen, 0)
	l.Accept("10.0.0.2:80", "10.0.0.1:40000").To(fsm.SynRcvd, time.Second).
		To(fsm.Closed, 0, eventstest.Since(time.Millisecond), eventstest.Errno(104))
	c := lives(t, s.Events())[0]
	if c.Start != c.End-uint64(time.Millisecond) || c.HasHandshake || c.HasCounters || c.Role != lifecycle.RolePassive {
		t.Errorf("%v before its end, handshake %v, counters %v, %v", c.End-c.Start, c.HasHandshake, c.HasCounters, c.Role)
	}
}

func TestFirst(t *testing.T) {
	type script = func(*eventstest.Socket) *eventstest.Socket
	established := func(c *eventstest.Socket) *eventstest.Socket { return c.To(fsm.SynSent, 1).To(fsm.Established, 1) }
	for _, c := range []struct {
		name  string
		write script
		want  lifecycle.First
	}{
		{"open", established, lifecycle.FirstUnknown},
		{"its FIN", func(c *eventstest.Socket) *eventstest.Socket { return established(c).To(fsm.FinWait1, 1) }, lifecycle.FirstLocal},
		{"the peer's FIN", func(c *eventstest.Socket) *eventstest.Socket { return established(c).To(fsm.CloseWait, 1) }, lifecycle.FirstRemote},
		{"both FINs", func(c *eventstest.Socket) *eventstest.Socket {
			return established(c).To(fsm.FinWait1, 1).To(fsm.Closing, 1).To(fsm.Closed, 1)
		}, lifecycle.FirstBoth},
		{"both FINs, seen late", func(c *eventstest.Socket) *eventstest.Socket { return c.Jump(fsm.Closing).To(fsm.TimeWait, 1) }, lifecycle.FirstBoth},
		{"the peer's reset", func(c *eventstest.Socket) *eventstest.Socket {
			return established(c).To(fsm.Closed, 1, eventstest.Errno(104))
		}, lifecycle.FirstRemote},
		{"a reset after its FIN", func(c *eventstest.Socket) *eventstest.Socket {
			return established(c).To(fsm.FinWait1, 1).To(fsm.Closed, 1, eventstest.Errno(104))
		}, lifecycle.FirstLocal},
		{"refused", func(c *eventstest.Socket) *eventstest.Socket {
			return c.To(fsm.SynSent, 1).To(fsm.Closed, 1, eventstest.Errno(111))
		}, lifecycle.FirstRemote},
		{"given up", func(c *eventstest.Socket) *eventstest.Socket { return c.To(fsm.SynSent, 1).To(fsm.Closed, 1) }, lifecycle.FirstLocal},
		{"its reset", func(c *eventstest.Socket) *eventstest.Socket {
			return established(c).To(fsm.Closed, 1, eventstest.ResetSent(1))
		}, lifecycle.FirstLocal},
		{"disconnected", func(c *eventstest.Socket) *eventstest.Socket {
			return established(c).To(fsm.Closed, 1, eventstest.With(events.FlagLocal))
		}, lifecycle.FirstLocal},
		{"timed out", func(c *eventstest.Socket) *eventstest.Socket {
			return established(c).To(fsm.Closed, 1, eventstest.Errno(110))
		}, lifecycle.FirstNone},
		{"destroyed", func(c *eventstest.Socket) *eventstest.Socket {
			return established(c).To(fsm.Closed, 1, eventstest.Errno(103))
		}, lifecycle.FirstNone},
		{"the step itself lost", func(c *eventstest.Socket) *eventstest.Socket {
			return established(c).Lose(fsm.CloseWait, 1).To(fsm.LastAck, 1)
		}, lifecycle.FirstRemote},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := eventstest.New(eventstest.Start)
			c.write(s.Socket("10.0.0.1:40000", "10.0.0.2:80"))
			if l := lives(t, s.Events())[0]; l.First != c.want {
				t.Errorf("%v, want %v", l.First, c.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for role, want := range map[lifecycle.Role]string{
		lifecycle.RoleUnknown: "", lifecycle.RoleActive: "active", lifecycle.RolePassive: "passive",
	} {
		if role.String() != want {
			t.Errorf("role %d is %q, want %q", role, role, want)
		}
	}
	for first, want := range map[lifecycle.First]string{
		lifecycle.FirstUnknown: "", lifecycle.FirstNone: "none", lifecycle.FirstLocal: "local", lifecycle.FirstRemote: "remote", lifecycle.FirstBoth: "both",
	} {
		if first.String() != want {
			t.Errorf("first %d is %q, want %q", first, first, want)
		}
	}
}

// The kernel counts the FIN that came as a byte, and counts only from when data
// can be exchanged.
func TestCounters(t *testing.T) {
	counters := eventstest.Counters(1, 100, 42, 3)
	for _, c := range []struct {
		name     string
		write    func(*eventstest.Socket)
		has      bool
		received uint64
	}{
		{"before it is established", func(c *eventstest.Socket) { c.To(fsm.SynSent, 1, counters) }, false, 0},
		{"refused", func(c *eventstest.Socket) { c.To(fsm.SynSent, 1).To(fsm.Closed, 1, counters) }, false, 0},
		{"established", func(c *eventstest.Socket) { c.To(fsm.SynSent, 1).To(fsm.Established, 1, counters) }, true, 100},
		{"with a FIN", func(c *eventstest.Socket) {
			c.To(fsm.SynSent, 1).To(fsm.Established, 1).To(fsm.CloseWait, 1, counters)
		}, true, 99},
		{"nothing but a FIN", func(c *eventstest.Socket) {
			c.To(fsm.SynSent, 1).To(fsm.Established, 1).To(fsm.CloseWait, 1, counters, eventstest.Counters(1, 1, 42, 3))
		}, true, 0},
		{"not even counted", func(c *eventstest.Socket) {
			c.To(fsm.SynSent, 1).To(fsm.Established, 1).To(fsm.CloseWait, 1, counters, eventstest.Counters(1, 0, 42, 3))
		}, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := eventstest.New(eventstest.Start)
			c.write(s.Socket("10.0.0.1:40000", "10.0.0.2:80"))
			l := lives(t, s.Events())[0]
			if l.HasCounters != c.has || l.BytesReceived != c.received || l.HasCounters && (l.SRTT != 42 || l.Retransmits != 3) {
				t.Errorf("%v, received %d, rtt %d, retransmits %d, want %v, %d", l.HasCounters, l.BytesReceived, l.SRTT, l.Retransmits, c.has, c.received)
			}
		})
	}
}

// A minisock has no counters: those of its socket stay.
func TestMinisockKeepsTheCounters(t *testing.T) {
	list := scenario(t, "time wait")
	end := &list[len(list)-1]
	end.BytesSent, end.BytesReceived, end.SRTT, end.Retransmits = 0, 0, 0, 0
	all := lives(t, list)
	if l := all[len(all)-1]; l.BytesSent != 78 || l.BytesReceived != 1024 || l.SRTT != 10_000 {
		t.Errorf("sent %d, received %d, rtt %d", l.BytesSent, l.BytesReceived, l.SRTT)
	}
}

func TestEach(t *testing.T) {
	tr := lifecycle.NewTracker(0)
	list := open(4)
	again := list[1]
	again.Seq, again.From, again.To = 2, fsm.SynSent, fsm.Established
	closed := list[2]
	closed.Seq, closed.From, closed.To = 2, fsm.SynSent, fsm.Closed
	observe(tr, append(list, again, closed))
	var got []uint64
	var l lifecycle.Lifecycle
	if err := tr.Each(func(life *lifecycle.Life) error {
		life.Lifecycle(0, &l)
		got = append(got, l.Cookie)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []uint64{1, 4, 2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v: the stillest first", got, want)
	}

	errStop := errors.New("stop")
	n := 0
	if err := tr.Each(func(*lifecycle.Life) error { n++; return errStop }); err != errStop || n != 1 {
		t.Errorf("%v after %d", err, n)
	}
	if err := lifecycle.NewTracker(0).Each(func(*lifecycle.Life) error { return errStop }); err != nil {
		t.Error(err)
	}
}

// Where every dwell is known they are the whole time, none counted twice.
func TestDwellsAreTheWholeTime(t *testing.T) {
	checked, open := 0, 0
	check := func(name string, l *lifecycle.Lifecycle) {
		if l.Start == 0 || l.Verdict == fsm.Gap {
			return
		}
		var sum time.Duration
		for i, s := range l.Path {
			d, known := l.Dwell(s)
			outside := i == 0 && (s == fsm.Closed || s == fsm.Listen) || s == fsm.Closed && i == len(l.Path)-1
			if !known && !outside {
				return
			}
			sum += d
		}
		checked++
		if l.Open {
			open++
		}
		if sum != time.Duration(l.End-l.Start) {
			t.Errorf("%s: the dwells are %v, the whole time %v: %s", name, sum, time.Duration(l.End-l.Start), story(l))
		}
	}
	for _, s := range eventstest.Scenarios() {
		for _, l := range lives(t, s.Events) {
			check(s.Name, &l)
		}
	}
	for seed := range uint64(50) {
		for _, l := range lives(t, walk(rand.New(rand.NewPCG(seed, 4)), 1000)) {
			check(fmt.Sprintf("seed %d", seed), &l)
		}
	}
	if checked < 1000 || open < 100 {
		t.Errorf("only %d are checked, %d of them open", checked, open)
	}
}

// There is one for every connection of the host.
func TestSlotIsSmall(t *testing.T) {
	if lifecycle.SlotSize >= 300 {
		t.Errorf("%d bytes for each connection, want less than 300", lifecycle.SlotSize)
	}
}

func TestLifecycleDoesNotAllocate(t *testing.T) {
	list := scenario(t, "time wait skipped")
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	for i := range list {
		tr.Observe(&list[i], &out)
	}
	var l lifecycle.Lifecycle
	if n := testing.AllocsPerRun(100, func() { out.Life.Lifecycle(out.Time, &l) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What it takes to follow many connections: memory for each, the index included,
// and time for each event.
func BenchmarkFollow(b *testing.B) {
	for _, n := range []int{1 << 10, 1 << 17} {
		b.Run(fmt.Sprintf("connections-%d", n), func(b *testing.B) {
			list := open(n)
			steps := slices.Clone(list)
			for i := range steps {
				steps[i].Seq, steps[i].From, steps[i].To = 2, fsm.FinWait1, fsm.FinWait1
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			tr := lifecycle.NewTracker(0)
			var out lifecycle.Transition
			for i := range list {
				tr.Observe(&list[i], &out)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			i := 0
			for b.Loop() {
				e := &steps[i%n]
				e.Seq++
				tr.Observe(e, &out)
				i++
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/conn")
		})
	}
}
