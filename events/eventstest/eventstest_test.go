package eventstest_test

import (
	"bytes"
	"testing"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
)

// What the kernel side promises of its records, a scenario must keep.
func TestScenariosKeepTheBooks(t *testing.T) {
	type key struct {
		cookie     uint64
		generation uint32
	}
	for _, s := range eventstest.Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			if len(s.Events) == 0 {
				t.Fatal("nothing happens")
			}
			seqs := map[key]uint32{}
			entered := map[uint64]uint64{}
			last := uint64(0)
			for i, e := range s.Events {
				if e.Time < last {
					t.Errorf("event %d is older than the one before", i)
				}
				last = e.Time
				k := key{e.Cookie, e.Generation}
				if e.Seq <= seqs[k] {
					t.Errorf("event %d has seq %d after %d", i, e.Seq, seqs[k])
				}
				skipped := e.Seq - seqs[k] - 1
				seqs[k] = e.Seq
				if want := entered[e.Cookie]; skipped == 0 && e.Entered != want {
					t.Errorf("event %d: from was entered at %d, want %d", i, e.Entered, want)
				}
				if e.From != e.To {
					entered[e.Cookie] = e.Time
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
	if *r.Header() == (capture.Header{}) {
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
