// Package outputtest holds what every [output.Sink] must pass.
package outputtest

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/netip"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// Transition returns one of which everything is known.
func Transition() *lifecycle.Transition {
	e := &events.Event{
		Time:    5_000_000_000,
		Entered: 4_823_958_000,
		Cookie:  0x1f,
		Seq:     3,
		From:    fsm.Established,
		To:      fsm.FinWait1,
		Local:   netip.MustParseAddrPort("10.0.0.1:63446"),
		Remote:  netip.MustParseAddrPort("10.0.0.2:80"),
		Owner:   events.Owner{PID: 22384, UID: 1000, Comm: events.MakeComm("curl"), Source: events.OwnerConnect},
		NetNS:   4026531840, Cgroup: 1234,
		BytesAcked: 79, BytesReceived: 188, BytesSent: 78, SRTT: 42, Retransmits: 1,
	}
	return observe(e)
}

// Unknown returns one of which nothing is known that can be unknown.
func Unknown() *lifecycle.Transition {
	return observe(&events.Event{
		Time: 5_000_000_000, Cookie: 0x20,
		From: fsm.Closed, To: fsm.SynSent,
		Local:  netip.AddrPortFrom(netip.IPv6Unspecified(), 0),
		Remote: netip.AddrPortFrom(netip.IPv6Unspecified(), 0),
	})
}

// Extreme returns one of the longest values and the worst name.
func Extreme() *lifecycle.Transition {
	long := netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")
	return observe(&events.Event{
		Time: math.MaxInt64, Entered: 1, Cookie: math.MaxUint64, Generation: math.MaxUint32, Seq: math.MaxUint32,
		From: 13, To: 255,
		Local: netip.AddrPortFrom(long, 65535), Remote: netip.AddrPortFrom(long, 65535),
		Owner: events.Owner{PID: math.MaxUint32, UID: math.MaxUint32, Comm: HostileComm(), Source: events.OwnerClose},
		NetNS: math.MaxUint32, Cgroup: math.MaxUint64, Errno: -1,
		BytesAcked: math.MaxUint64, BytesReceived: math.MaxUint64, BytesSent: math.MaxUint64, SRTT: math.MaxUint32, Retransmits: math.MaxUint32,
		End: math.MaxUint8, Reset: math.MaxUint8, Minisocks: math.MaxUint32, MinisockLimit: math.MaxUint32,
		Flags: math.MaxUint16, Shutdown: math.MaxUint8,
	})
}

// Lifecycle returns one of which everything is known: a connection of
// [Transition]'s ends that closed first, and was in TIME_WAIT.
func Lifecycle() *lifecycle.Lifecycle {
	e := Transition().Event
	const second = uint64(time.Second)
	var steps []events.Event
	step := func(at uint64, from, to fsm.State) *events.Event {
		next := *e
		next.Entered = 0
		if len(steps) > 0 {
			next.Entered = steps[len(steps)-1].Time
		}
		next.Time, next.Seq, next.From, next.To = at, uint32(len(steps)+1), from, to
		steps = append(steps, next)
		return &steps[len(steps)-1]
	}
	step(second, fsm.Closed, fsm.SynSent)
	step(second+12_345_678, fsm.SynSent, fsm.Established)
	step(2*second, fsm.Established, fsm.FinWait1)
	step(2*second+40_000, fsm.FinWait1, fsm.FinWait2)
	step(3*second, fsm.FinWait2, fsm.TimeWait).Flags = events.FlagMinisock
	end := step(63*second, fsm.TimeWait, fsm.Closed)
	end.Source, end.End, end.Flags = events.SourceTimeWait, fsm.EndExpired, events.FlagSupersedes
	return live(steps, 63*second)
}

// UnknownLifecycle returns one of which nothing is known that can be unknown.
func UnknownLifecycle() *lifecycle.Lifecycle {
	return live([]events.Event{{
		Time: 5_000_000_000, From: fsm.SynSent, To: fsm.SynRcvd, Seq: 1,
		Local:  netip.AddrPortFrom(netip.IPv6Unspecified(), 0),
		Remote: netip.AddrPortFrom(netip.IPv6Unspecified(), 0),
	}}, 5_000_000_000)
}

// ExtremeLifecycle returns one of the longest values, the worst name, and more
// that is illegal than anybody keeps.
func ExtremeLifecycle() *lifecycle.Lifecycle {
	e := *Extreme().Event
	e.Flags, e.Errno, e.Seq = events.FlagEstimated, math.MinInt32, 0
	steps := make([]events.Event, 40)
	for i := range steps {
		e.Seq++
		e.From, e.To = e.To, fsm.State(100+i)
		steps[i] = e
	}
	last := &steps[len(steps)-1]
	last.From, last.To, last.Source = fsm.TimeWait, fsm.Closed, events.SourceTimeWait
	return live(steps, math.MaxInt64)
}

// Stuck returns one of which everything is known: a socket that its process should
// have closed.
func Stuck() *lifecycle.Stuck {
	e := Transition().Event
	return &lifecycle.Stuck{
		Time: 5_000_000_000, Cookie: e.Cookie, State: fsm.CloseWait,
		Age: 94_280 * time.Millisecond, AgeExact: true, Limit: time.Minute,
		Snapshot: events.Snapshot{
			Silent: 94_280_000_000, RecvQueue: 120, SendQueue: 3000, Holders: 3, FD: 7, Unanswered: 2,
		},
		HasSnapshot: true, Retransmits: 4,
		Local: e.Local, Remote: e.Remote, Family: e.Family, Owner: e.Owner, NetNS: e.NetNS, Cgroup: e.Cgroup,
		Place: events.Place{Unit: "nginx.service"}, Exe: "/usr/bin/curl",
	}
}

// UnknownStuck returns one of which nothing is known that can be unknown: a
// handshake that no walk has found.
func UnknownStuck() *lifecycle.Stuck {
	return &lifecycle.Stuck{
		Time: 5_000_000_000, State: fsm.SynRcvd, Age: 11 * time.Second, Limit: 10 * time.Second, Request: true,
		Local:  netip.AddrPortFrom(netip.IPv6Unspecified(), 0),
		Remote: netip.AddrPortFrom(netip.IPv6Unspecified(), 0),
	}
}

// ExtremeStuck returns one of the longest values and the worst names.
func ExtremeStuck() *lifecycle.Stuck {
	e := Extreme().Event
	comm := HostileComm()
	hostile := string(comm.Bytes())
	return &lifecycle.Stuck{
		Time: math.MaxInt64 - uint64(time.Minute), Cookie: math.MaxUint64, Generation: math.MaxUint32, State: fsm.CloseWait,
		Age: math.MaxInt64 - time.Minute, Limit: math.MaxInt64,
		Snapshot: events.Snapshot{
			Silent: math.MaxUint64, Left: math.MaxUint64, RecvQueue: math.MaxUint32, SendQueue: math.MaxUint32,
			Holders: math.MaxUint32, FD: math.MinInt32, Unanswered: math.MaxUint32,
		},
		HasSnapshot: true, Retransmits: math.MaxUint32,
		Local: e.Local, Remote: e.Remote, Family: math.MaxUint16, Owner: e.Owner, NetNS: math.MaxUint32, Cgroup: math.MaxUint64,
		Place: events.Place{Path: hostile, Unit: hostile, Container: hostile}, Exe: hostile,
	}
}

// Resolved returns what was stuck, over a second later.
func Resolved(s *lifecycle.Stuck) *lifecycle.Stuck {
	s.Resolve(s.Time+uint64(time.Second), fsm.LastAck)
	return s
}

// HostileComm returns a name that would forge a row, a JSON field and the
// terminal's title, and is no valid UTF-8.
func HostileComm() events.Comm {
	return events.MakeComm("a\n\"\x1b]0;x\a\\\xff\u202e")
}

func observe(e *events.Event) *lifecycle.Transition {
	t := &lifecycle.Transition{}
	lifecycle.NewTracker(0).Observe(e, t)
	t.Judgement = fsm.Check(e.From, e.To, e.Evidence()) // as if followed from its first record
	return t
}

// live returns what a connection was by the given time.
func live(steps []events.Event, now uint64) *lifecycle.Lifecycle {
	tr := lifecycle.NewTracker(0)
	var t lifecycle.Transition
	for i := range steps {
		tr.Observe(&steps[i], &t)
	}
	c := &lifecycle.Lifecycle{}
	t.Life.Lifecycle(now, c)
	return c
}

// TestSink runs the suite on sinks that write to w.
func TestSink(t *testing.T, open func(w io.Writer) output.Sink) {
	everything := func(s output.Sink) error {
		return errors.Join(
			s.Transition(Transition()), s.Transition(Unknown()), s.Transition(Extreme()),
			s.Lifecycle(Lifecycle()), s.Lifecycle(UnknownLifecycle()), s.Lifecycle(ExtremeLifecycle()),
			s.Stuck(Stuck()), s.Stuck(UnknownStuck()), s.Stuck(ExtremeStuck()),
			s.Stuck(Resolved(Stuck())), s.Stuck(Resolved(UnknownStuck())), s.Stuck(Resolved(ExtremeStuck())),
			s.Notice(&output.Notice{Time: time.Unix(1, 0), Kind: output.NoticeLost, Reason: "ringbuf_full", Count: 12}),
			s.Notice(&output.Notice{Kind: output.NoticeUndecided, Count: 1}),
			s.Notice(&output.Notice{Kind: output.NoticeUnmeasured, Reason: "TIME_WAIT"}),
			s.Notice(&output.Notice{Time: time.Unix(1, 0), Kind: output.NoticeGrowing, Reason: "CLOSE_WAIT", Count: 12}),
			s.Notice(&output.Notice{Kind: output.NoticeUnseen, Reason: "why", Count: 2}),
			s.Summary(&output.Summary{
				Transitions: 3, Connections: 3, Illegal: 1, Lost: 12, Duration: time.Second, Sockets: 4, Stuck: 3, HasStuck: true,
			}),
		)
	}

	t.Run("takes everything", func(t *testing.T) {
		if err := errors.Join(everything(open(io.Discard))); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("is complete after Flush", func(t *testing.T) {
		var b bytes.Buffer
		s := open(&b)
		if err := errors.Join(everything(s), s.Flush()); err != nil {
			t.Fatal(err)
		}
		flushed := b.String()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if b.String() != flushed {
			t.Errorf("Close wrote %q after Flush", b.String()[len(flushed):])
		}
	})
	t.Run("keeps nothing of the caller's", func(t *testing.T) {
		var want, got bytes.Buffer
		a, b := open(&want), open(&got)
		first, second := Transition(), Transition()
		reused := Transition()
		second.Cookie = 0x21
		life, after, reusedLife := Lifecycle(), UnknownLifecycle(), Lifecycle()
		reusedStuck := Stuck()
		err := errors.Join(
			a.Transition(first), a.Transition(second), a.Lifecycle(life), a.Lifecycle(after),
			a.Stuck(Stuck()), a.Stuck(ExtremeStuck()), a.Summary(&output.Summary{}), a.Close(),
		)
		if err != nil {
			t.Fatal(err)
		}
		err = b.Transition(reused)
		reused.Cookie = 0x21
		err = errors.Join(err, b.Transition(reused), b.Lifecycle(reusedLife))
		clear(reusedLife.Path)
		*reusedLife = *UnknownLifecycle()
		err = errors.Join(err, b.Lifecycle(reusedLife), b.Stuck(reusedStuck))
		*reusedStuck = *ExtremeStuck()
		err = errors.Join(err, b.Stuck(reusedStuck))
		*reusedStuck = *UnknownStuck()
		if err := errors.Join(err, b.Summary(&output.Summary{}), b.Close()); err != nil {
			t.Fatal(err)
		}
		if want.String() != got.String() {
			t.Errorf("with an event used again:\n%s\nwant:\n%s", got.String(), want.String())
		}
	})
	t.Run("reports a failing writer", func(t *testing.T) {
		s := open(failing{})
		err := everything(s)
		if err = errors.Join(err, s.Flush(), s.Close()); wrote(open) && !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("got %v, want the writer's error", err)
		}
	})
}

// wrote reports whether the sink writes at all.
func wrote(open func(io.Writer) output.Sink) bool {
	var b bytes.Buffer
	s := open(&b)
	_ = s.Summary(&output.Summary{})
	_ = s.Transition(Transition())
	_ = s.Stuck(Stuck())
	_ = s.Close()
	return b.Len() > 0
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortBuffer }
