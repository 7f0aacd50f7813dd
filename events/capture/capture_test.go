package capture_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/events/eventstest"
)

func TestRoundTrip(t *testing.T) {
	for _, s := range eventstest.Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			list, end := mustRead(t, eventstest.Recording(s.Events))
			if !sameRecords(list, transitions(s.Events)) {
				t.Errorf("read\n%+v, want\n%+v", list, s.Events)
			}
			if want := s.Events[len(s.Events)-1].Time; end != want {
				t.Errorf("it ends at %d, want %d", end, want)
			}
		})
	}
}

func TestRoundTripOfLosses(t *testing.T) {
	want := []events.Loss{
		{Time: 1, Reason: events.LossRingFull, Count: 1},
		{Time: ^uint64(0) - 1, Reason: events.LossMissed, Count: ^uint64(0)},
		{Time: 0, Reason: 255, Count: 0}, // of a later version
	}
	list, _ := mustRead(t, eventstest.Recording(nil, want...))
	var got []events.Loss
	for _, r := range list {
		if r.Kind != events.KindLoss {
			t.Errorf("kind %d", r.Kind)
		}
		got = append(got, r.Loss)
	}
	if !slices.Equal(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

func TestRoundTripOfNamesAndWalks(t *testing.T) {
	const longest = events.MaxName
	want := []events.Record{
		{Kind: events.KindName, Name: events.Name{Kind: events.NameCgroup, ID: 1, Text: "/"}},
		{Kind: events.KindName, Name: events.Name{Kind: events.NameCgroup, ID: ^uint64(0), Text: "/a\x1b\xff\n"}},
		{Kind: events.KindName, Name: events.Name{Kind: events.NameExe, ID: 7, Text: strings.Repeat("x", longest)}},
		{Kind: events.KindName, Name: events.Name{Kind: 255}}, // of a later version
		{Kind: events.KindTransition, Event: snapshot(churn(1)[0])},
		{Kind: events.KindWalked, Walked: events.Walked{Start: 1, Time: ^uint64(0)}},
		{Kind: events.KindClock, Clock: events.ClockStep{Time: ^uint64(0), Offset: -1 << 63}},
		{Kind: events.KindWalked, Walked: events.Walked{Time: 2, Failed: true, Skipped: []uint32{7, 4026531840}, Unseen: strings.Repeat("y", longest)}},
	}
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, eventstest.Header())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range want {
		if len(r.Name.Text) == longest {
			r.Name.Text += "and more"
		}
		if len(r.Walked.Unseen) == longest {
			r.Walked.Unseen += "and more"
		}
		if err := w.Write(&r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(9); err != nil {
		t.Fatal(err)
	}
	if list, end := mustRead(t, b.Bytes()); !sameRecords(list, want) || end != 9 {
		t.Errorf("read\n%+v, ends at %d, want\n%+v", list, end, want)
	}
}

// A block is closed in time for names, too, which are longer than all else.
func TestRoundTripOfManyNames(t *testing.T) {
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, eventstest.Header())
	if err != nil {
		t.Fatal(err)
	}
	var want []events.Record
	for i := range 100 {
		text := strings.Repeat(string(rune('a'+i%26)), events.MaxName-i)
		want = append(want, events.Record{Kind: events.KindName, Name: events.Name{Kind: events.NameCgroup, ID: uint64(i), Text: text}})
		if err := w.Write(&want[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(9); err != nil {
		t.Fatal(err)
	}
	if n := len(blockEnds(t, b.Bytes())); n < 5 {
		t.Errorf("only %d blocks", n)
	}
	if list, _ := mustRead(t, b.Bytes()); !sameRecords(list, want) {
		t.Errorf("read %d records, want %d, or they differ", len(list), len(want))
	}
}

func TestRoundTripOfManyBlocks(t *testing.T) {
	want := churn(500)
	b := eventstest.Recording(want)
	if n := len(blockEnds(t, b)); n < 5 {
		t.Fatalf("only %d blocks", n)
	}
	list, _ := mustRead(t, b)
	if !sameRecords(list, transitions(want)) {
		t.Errorf("read %d records, want %d, or they differ", len(list), len(want))
	}
}

func TestEmptyRecording(t *testing.T) {
	list, end := mustRead(t, eventstest.Recording(nil))
	if len(list) != 0 || end != eventstest.Start {
		t.Errorf("%d records, ends at %d", len(list), end)
	}
}

func TestHeader(t *testing.T) {
	want := eventstest.Header()
	want.ByteOrder = "nonsense" // NewWriter knows better
	want.ClockOffset = -5
	want.Unmeasured = []string{"TIME_WAIT: \x1b[2J", "b"}
	var b bytes.Buffer
	if _, err := capture.NewWriter(&b, want); err != nil {
		t.Fatal(err)
	}
	r, err := capture.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want.ByteOrder = thisOrder
	if !reflect.DeepEqual(*r.Header(), want) {
		t.Errorf("read %+v, want %+v", *r.Header(), want)
	}
	if c := r.Header().Clock(); c != (events.Clock{Offset: -5}) {
		t.Errorf("clock %+v", c)
	}
}

// The end is read like any other item: before it, its time is not known.
func TestEndIsKnownAtTheEnd(t *testing.T) {
	list := churn(1)
	r, err := capture.NewReader(bytes.NewReader(eventstest.Recording(list)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var rec events.Record
	for range list {
		if err := r.Read(&rec); err != nil || r.End() != 0 {
			t.Fatalf("%v, ends at %d", err, r.End())
		}
	}
	for range 2 { // and stays the end
		if err := r.Read(&rec); err != io.EOF {
			t.Errorf("%v, want EOF", err)
		}
	}
	if r.End() == 0 {
		t.Error("the end is not known")
	}
}

func TestFlush(t *testing.T) {
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, eventstest.Header())
	if err != nil {
		t.Fatal(err)
	}
	before := b.Len()
	if err := w.Flush(); err != nil || b.Len() != before {
		t.Errorf("Flush of nothing writes %d bytes, %v", b.Len()-before, err)
	}

	want := transitions(churn(1))
	for i := range want {
		if err := w.Write(&want[i]); err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() != before {
		t.Error("Write writes a block that is not full")
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if list, _, err := read(b.Bytes()); !sameRecords(list, want) || !errors.Is(err, capture.ErrTruncated) {
		t.Errorf("after Flush %d records can be read, then %v", len(list), err)
	}
}

func TestWritePassesOtherKindsOver(t *testing.T) {
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, eventstest.Header())
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []events.Kind{0, events.KindIdle, 99} {
		if err := w.Write(&events.Record{Kind: kind}); err != nil {
			t.Error(err)
		}
	}
	if err := w.Close(7); err != nil {
		t.Fatal(err)
	}
	if list, end := mustRead(t, b.Bytes()); len(list) != 0 || end != 7 {
		t.Errorf("%d records, ends at %d", len(list), end)
	}
}

// failing takes so many bytes, then fails.
type failing struct {
	room    int
	written bytes.Buffer
}

var errFull = errors.New("no space left")

func (f *failing) Write(b []byte) (int, error) {
	n := min(len(b), f.room)
	f.room -= n
	f.written.Write(b[:n])
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

func TestWriteErrors(t *testing.T) {
	want := transitions(churn(100))
	whole := eventstest.Recording(churn(100))
	ends := blockEnds(t, whole)
	for room := 0; room < len(whole); room += 97 {
		f := &failing{room: room}
		w, err := capture.NewWriter(f, eventstest.Header())
		if (err != nil) != (room < ends[0]) {
			t.Fatalf("room for %d bytes: NewWriter: %v", room, err)
		}
		if err != nil {
			if !errors.Is(err, errFull) {
				t.Errorf("NewWriter: %v, want %v", err, errFull)
			}
			continue
		}
		for i := range want {
			err = w.Write(&want[i])
		}
		end := want[len(want)-1].Event.Time
		if closed := w.Close(end); !errors.Is(closed, errFull) || err != nil && !errors.Is(err, errFull) {
			t.Fatalf("room for %d bytes: Write: %v, Close: %v", room, err, closed)
		}
		if again := w.Flush(); !errors.Is(again, errFull) {
			t.Errorf("Flush after the error: %v", again)
		}
		// What reached the disk is the beginning of the file.
		if got := f.written.Bytes(); !bytes.HasPrefix(whole, got) {
			t.Errorf("room for %d bytes: what is written is no beginning of the file", room)
		}
	}
}

func TestWriteErrorIsSticky(t *testing.T) {
	f := &failing{room: 1 << 10}
	w, err := capture.NewWriter(f, eventstest.Header())
	if err != nil {
		t.Fatal(err)
	}
	f.room = 0
	rec := events.Record{Kind: events.KindTransition}
	if err := w.Write(&rec); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); !errors.Is(err, errFull) {
		t.Fatalf("Flush: %v", err)
	}
	written := f.written.Len()
	f.room = 1 << 20 // space again: but the file has a hole
	for range 1000 {
		if err := w.Write(&rec); !errors.Is(err, errFull) {
			t.Fatalf("Write: %v", err)
		}
	}
	if err := w.Close(1); !errors.Is(err, errFull) || !strings.Contains(err.Error(), "write the recording") {
		t.Errorf("Close: %v", err)
	}
	if f.written.Len() != written {
		t.Errorf("%d bytes are written after the error", f.written.Len()-written)
	}
}

// A recording that cannot be written any more must not fill the memory of the
// host that is traced.
func TestWriteAfterAnErrorKeepsNothing(t *testing.T) {
	f := &failing{room: 1 << 10}
	w, err := capture.NewWriter(f, eventstest.Header())
	if err != nil {
		t.Fatal(err)
	}
	f.room = 0
	rec := events.Record{Kind: events.KindTransition}
	for w.Write(&rec) == nil {
	}
	if n := allocated(func() {
		for range 20_000 {
			_ = w.Write(&rec)
		}
	}); n > 1<<20 {
		t.Errorf("%d bytes are allocated for records that nobody can write", n)
	}
}

func TestWriteDoesNotAllocate(t *testing.T) {
	w, err := capture.NewWriter(io.Discard, eventstest.Header())
	if err != nil {
		t.Fatal(err)
	}
	list := transitions(churn(100))
	write := func() {
		for i := range list {
			if err := w.Write(&list[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	write()
	if n := testing.AllocsPerRun(20, write); n > 10 {
		t.Errorf("%v allocations for %d records", n, len(list))
	}
}
