package eventstest_test

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
)

type key struct {
	cookie     uint64
	generation uint32
}

// books are what the kernel side promises of the records of its sockets.
type books struct {
	seqs      map[key]uint32
	entered   map[uint64]uint64
	born      map[uint64]uint64    // when a child was
	minisocks map[key]events.Event // the last record, with Entered when To was
}

// check returns what is wrong with the next record, "" for nothing.
func (b *books) check(e *events.Event) string {
	k := key{e.Cookie, e.Generation}
	if e.Source == events.SourceRequest {
		if e.Cookie != 0 || e.Seq != 0 || e.From != fsm.SynRcvd || e.To != fsm.Closed || e.Entered == 0 || e.Owner.Known() {
			return "a request has no socket, and its beginning was seen"
		}
		return ends(e)
	}
	if e.Seq <= b.seqs[k] {
		return fmt.Sprintf("seq %d after %d", e.Seq, b.seqs[k])
	}
	skipped := e.Seq - b.seqs[k] - 1
	b.seqs[k] = e.Seq
	if e.Source == events.SourceTimeWait {
		return b.ofMinisock(e)
	}

	switch want := b.entered[e.Cookie]; {
	case e.From == fsm.SynRcvd && b.born[e.Cookie] != 0:
		if e.Entered > want {
			return "the SYN came after the child was born"
		}
	case skipped == 0 && e.Entered != want:
		return fmt.Sprintf("from was entered at %d, want %d", e.Entered, want)
	}
	if e.From == fsm.Listen && e.To == fsm.SynRcvd {
		b.born[e.Cookie] = e.Time
	}
	over := e.Flags&events.FlagMinisock != 0
	if e.From != e.To || over {
		b.entered[e.Cookie] = e.Time
	}
	if over {
		last := *e
		if e.From != e.To {
			last.Entered = e.Time
		}
		b.minisocks[k] = last
		if e.From != fsm.FinWait2 && e.From != fsm.Closing || e.To != fsm.TimeWait && e.To != e.From {
			return "a minisock takes no such state over"
		}
	}
	if e.End != fsm.EndNone || e.Flags&(events.FlagEstimated|events.FlagProvisional|events.FlagSupersedes) != 0 {
		return "of a minisock"
	}
	if (e.Flags&events.FlagCounted != 0) != (e.MinisockLimit != 0) {
		return "counted without a limit, or the other way round"
	}
	return ""
}

// ofMinisock checks that all but its own step is as it took it over.
func (b *books) ofMinisock(e *events.Event) string {
	k := key{e.Cookie, e.Generation}
	last, known := b.minisocks[k]
	if !known {
		return "no minisock has taken over"
	}
	want := last
	want.Time, want.Seq, want.From, want.To, want.Source = e.Time, last.Seq+1, last.To, e.To, events.SourceTimeWait
	want.Errno, want.Reset, want.End, want.Flags = 0, 0, e.End, e.Flags
	if e.Flags&events.FlagEstimated != 0 {
		want.From, want.Entered = fsm.TimeWait, e.Entered
		if last.To != fsm.FinWait2 || e.Entered < last.Entered || e.Entered > e.Time {
			return "no such estimate"
		}
	}
	if *e != want {
		return fmt.Sprintf("it is\n%+v, want\n%+v", *e, want)
	}
	last = *e
	last.Entered = e.Time
	b.minisocks[k] = last
	return ends(e)
}

// ends checks what a timer tells of an end.
func ends(e *events.Event) string {
	want := events.FlagProvisional
	switch {
	case e.To != fsm.Closed:
		want = events.FlagSupersedes
	case e.End == fsm.EndExpired && e.Source == events.SourceTimeWait:
		want = events.FlagSupersedes
	case e.End == fsm.EndExpired:
		want |= events.FlagSupersedes
	}
	if (e.To == fsm.Closed) != (e.End != fsm.EndNone) || e.Flags&^events.FlagEstimated != want {
		return fmt.Sprintf("end %v with flags %#x, want %#x", e.End, e.Flags, want)
	}
	return ""
}

// What the kernel side promises of its records, a scenario must keep.
func TestScenariosKeepTheBooks(t *testing.T) {
	names := map[string]bool{}
	for _, s := range eventstest.Scenarios() {
		if names[s.Name] {
			t.Errorf("there are two of %q", s.Name)
		}
		names[s.Name] = true
		t.Run(s.Name, func(t *testing.T) {
			if len(s.Events) == 0 {
				t.Fatal("nothing happens")
			}
			b := books{map[key]uint32{}, map[uint64]uint64{}, map[uint64]uint64{}, map[key]events.Event{}}
			last := uint64(0)
			for i, e := range s.Events {
				if e.Time < last {
					t.Errorf("event %d is older than the one before", i)
				}
				last = e.Time
				if wrong := b.check(&e); wrong != "" {
					t.Errorf("event %d, %v -> %v: %s", i, e.From, e.To, wrong)
				}
				if e.EndsPending() != (e.Local.Port() == 0 || e.From == fsm.Listen && e.To == fsm.SynRcvd) {
					t.Errorf("event %d: ends pending: %v, with %v and %v", i, e.EndsPending(), e.Local, e.Remote)
				}
				var decoded events.Event
				if err := decoded.Decode(e.AppendRecord(nil)); err != nil || decoded != e {
					t.Errorf("event %d decodes to\n%+v, %v, want\n%+v", i, decoded, err, e)
				}
			}
		})
	}
}

func TestRecords(t *testing.T) {
	list := eventstest.Scenarios()[0].Events
	b := eventstest.Records(list)
	if len(b) != len(list)*events.RecordSize {
		t.Fatalf("%d bytes for %d events", len(b), len(list))
	}
	var last events.Event
	if err := last.Decode(b[len(b)-events.RecordSize:]); err != nil || last != list[len(list)-1] {
		t.Errorf("the last record is %+v, %v", last, err)
	}
}

func TestRecordingKeepsTheOrder(t *testing.T) {
	list := eventstest.Scenarios()[0].Events[:2]
	early := events.Loss{Time: list[0].Time, Reason: events.LossRingFull, Count: 1}
	late := events.Loss{Time: list[1].Time + 1, Reason: events.LossMissed, Count: 2}
	r, err := capture.NewReader(bytes.NewReader(eventstest.Recording(list, early, late)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if reflect.DeepEqual(*r.Header(), capture.Header{}) {
		t.Error("no header")
	}
	var got []events.Record
	var rec events.Record
	for err = r.Read(&rec); err == nil; err = r.Read(&rec) {
		got = append(got, rec)
	}
	if len(got) != 4 || got[0].Event != list[0] || got[1].Loss != early || got[2].Event != list[1] || got[3].Loss != late {
		t.Errorf("read %+v", got)
	}
	if r.End() != late.Time {
		t.Errorf("it ends at %d, want %d", r.End(), late.Time)
	}
}
