package events_test

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
)

// layoutField is a field of a record, and what shows it decoded.
type layoutField struct {
	field        string
	offset, size int
	get          func(*events.Event) uint64
}

// layout is struct event of bpf/event.h, counted by hand.
var layout = []layoutField{
	{"time", 0, 8, func(e *events.Event) uint64 { return e.Time }},
	{"cookie", 8, 8, func(e *events.Event) uint64 { return e.Cookie }},
	{"entered", 16, 8, func(e *events.Event) uint64 { return e.Entered }},
	{"cgroup", 24, 8, func(e *events.Event) uint64 { return e.Cgroup }},
	{"bytes_acked", 32, 8, func(e *events.Event) uint64 { return e.BytesAcked }},
	{"bytes_received", 40, 8, func(e *events.Event) uint64 { return e.BytesReceived }},
	{"bytes_sent", 48, 8, func(e *events.Event) uint64 { return e.BytesSent }},
	{"generation", 56, 4, func(e *events.Event) uint64 { return uint64(e.Generation) }},
	{"seq", 60, 4, func(e *events.Event) uint64 { return uint64(e.Seq) }},
	{"netns", 64, 4, func(e *events.Event) uint64 { return uint64(e.NetNS) }},
	{"pid", offPID, 4, func(e *events.Event) uint64 { return uint64(e.Owner.PID) }},
	{"uid", offUID, 4, func(e *events.Event) uint64 { return uint64(e.Owner.UID) }},
	{"srtt_us", 76, 4, func(e *events.Event) uint64 { return uint64(e.SRTT) }},
	{"retransmits", 80, 4, func(e *events.Event) uint64 { return uint64(e.Retransmits) }},
	{"error", 84, 4, func(e *events.Event) uint64 { return uint64(uint32(e.Errno)) }},
	{"tw_count", 88, 4, func(e *events.Event) uint64 { return uint64(e.Minisocks) }},
	{"tw_limit", 92, 4, func(e *events.Event) uint64 { return uint64(e.MinisockLimit) }},
	{"laddr", 96, 16, func(e *events.Event) uint64 { return sum16(e.Local.Addr()) }},
	{"raddr", 112, 16, func(e *events.Event) uint64 { return sum16(e.Remote.Addr()) }},
	{"lport", 128, 2, func(e *events.Event) uint64 { return uint64(e.Local.Port()) }},
	{"rport", 130, 2, func(e *events.Event) uint64 { return uint64(e.Remote.Port()) }},
	{"family", 132, 2, func(e *events.Event) uint64 { return uint64(e.Family) }},
	{"flags", 134, 2, func(e *events.Event) uint64 { return uint64(e.Flags) }},
	{"from", 136, 1, func(e *events.Event) uint64 { return uint64(e.From) }},
	{"to", 137, 1, func(e *events.Event) uint64 { return uint64(e.To) }},
	{"shutdown", 138, 1, func(e *events.Event) uint64 { return uint64(e.Shutdown) }},
	{"owner_source", offOwnerSource, 1, func(e *events.Event) uint64 { return uint64(e.Owner.Source) }},
	{"comm", offComm, 16, func(e *events.Event) uint64 { return binary.NativeEndian.Uint64(e.Owner.Comm[:]) }},
	{"source", offSource, 1, func(e *events.Event) uint64 { return uint64(e.Source) }},
	{"end", 157, 1, func(e *events.Event) uint64 { return uint64(e.End) }},
	{"reset", 158, 1, func(e *events.Event) uint64 { return uint64(e.Reset) }},
	{"role", 159, 1, func(e *events.Event) uint64 { return uint64(e.Role) }},
}

// snapshotLayout is what struct snapshot has behind its event.
var snapshotLayout = []layoutField{
	{"silent", 160, 8, func(e *events.Event) uint64 { return e.Snapshot.Silent }},
	{"left", 168, 8, func(e *events.Event) uint64 { return e.Snapshot.Left }},
	{"recv_queue", 176, 4, func(e *events.Event) uint64 { return uint64(e.Snapshot.RecvQueue) }},
	{"send_queue", 180, 4, func(e *events.Event) uint64 { return uint64(e.Snapshot.SendQueue) }},
	{"holders", 184, 4, func(e *events.Event) uint64 { return uint64(e.Snapshot.Holders) }},
	{"fd", 188, 4, func(e *events.Event) uint64 { return uint64(uint32(e.Snapshot.FD)) }},
	{"unanswered", 192, 4, func(e *events.Event) uint64 { return uint64(e.Snapshot.Unanswered) }},
}

const (
	offPID         = 68
	offUID         = 72
	offOwnerSource = 139
	offComm        = 140
	offSource      = 156
	offPad         = 160 // none
	padSize        = 0

	offSnapshotPad  = 196
	snapshotPadSize = 4
)

// sum16 tells two addresses of this test apart.
func sum16(a netip.Addr) uint64 {
	b := a.As16()
	return binary.NativeEndian.Uint64(b[:])
}

func TestLayout(t *testing.T) {
	for _, c := range []struct {
		name              string
		source            events.Source
		layout            []layoutField
		first, next, size int // of the fields, behind them, of the record
	}{
		{"event", events.SourceTracepoint, layout, 0, offPad, events.RecordSize},
		{"snapshot", events.SourceSnapshot, snapshotLayout, events.RecordSize, offSnapshotPad, events.SnapshotSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The owner is known, or its fields would not be decoded.
			base := make([]byte, c.size)
			base[offOwnerSource], base[offSource] = byte(events.OwnerConnect), byte(c.source)
			next := c.first
			for _, f := range c.layout {
				if f.offset != next {
					t.Fatalf("%s begins at %d, the field before ends at %d", f.field, f.offset, next)
				}
				next = f.offset + f.size
				testField(t, base, f, slices.Concat(layout, snapshotLayout))
			}
			if next != c.next {
				t.Errorf("the fields end at %d, want %d", next, c.next)
			}
		})
	}
	if offPad+padSize != events.RecordSize || offSnapshotPad+snapshotPadSize != events.SnapshotSize {
		t.Errorf("the records end at %d and %d", events.RecordSize, events.SnapshotSize)
	}
}

// testField changes the bytes of one field, and wants that to change.
func testField(t *testing.T, base []byte, f layoutField, all []layoutField) {
	t.Helper()
	var before, e events.Event
	if err := before.Decode(base); err != nil {
		t.Fatal(err)
	}
	record := bytes.Clone(base)
	for i := range min(f.size, 8) {
		record[f.offset+i] = byte(2 + i&1) // 2, 3, 2, 3 …: a source of both kinds too
	}
	var want uint64
	switch f.size {
	case 1:
		want = uint64(record[f.offset])
	case 2:
		want = uint64(binary.NativeEndian.Uint16(record[f.offset:]))
	case 4:
		want = uint64(binary.NativeEndian.Uint32(record[f.offset:]))
	default:
		want = binary.NativeEndian.Uint64(record[f.offset:])
	}
	if err := e.Decode(record); err != nil {
		t.Fatal(f.field, err)
	}
	for _, other := range all {
		switch got := other.get(&e); {
		case other.field == f.field && got != want:
			t.Errorf("%s is %#x, want %#x", f.field, got, want)
		case other.field != f.field && got != other.get(&before):
			t.Errorf("the bytes of %s change %s", f.field, other.field)
		}
	}
	if encoded := e.AppendRecord(nil); !bytes.Equal(encoded, record) {
		t.Errorf("%s: written as\n%x, want\n%x", f.field, encoded, record)
	}
}

// randomEvent has every field set to anything that a record can hold.
func randomEvent(r *rand.Rand) events.Event {
	e := events.Event{
		Time: r.Uint64(), Entered: r.Uint64(), Cookie: r.Uint64(), Generation: r.Uint32(), Seq: r.Uint32(),
		From: fsm.State(r.Uint32()), To: fsm.State(r.Uint32()),
		Local: randomEnd(r), Remote: randomEnd(r),
		NetNS: r.Uint32(), Cgroup: r.Uint64(), BytesAcked: r.Uint64(), BytesReceived: r.Uint64(),
		SRTT: r.Uint32(), Retransmits: r.Uint32(), Errno: int32(r.Uint32()),
		Family: uint16(r.Uint32()), Flags: events.Flags(r.Uint32()), Shutdown: events.Shutdown(r.Uint32()),
		BytesSent: r.Uint64(), Source: events.Source(r.IntN(int(events.SourceSnapshot) + 1)),
		End: fsm.End(r.Uint32()), Reset: events.Reset(r.Uint32()), Minisocks: r.Uint32(), MinisockLimit: r.Uint32(),
	}
	if e.Source == events.SourceSnapshot {
		e.Snapshot = events.Snapshot{
			Silent: r.Uint64(), Left: r.Uint64(), RecvQueue: r.Uint32(), SendQueue: r.Uint32(),
			Holders: r.Uint32(), FD: int32(r.Uint32()), Unanswered: r.Uint32(),
		}
	}
	if s := events.OwnerSource(r.IntN(int(events.OwnerSnapshot) + 1)); s != events.OwnerNone {
		e.Owner = events.Owner{PID: r.Uint32(), UID: r.Uint32(), Source: s}
		for i := range e.Owner.Comm {
			e.Owner.Comm[i] = byte(r.Uint32())
		}
	}
	return e
}

// sizeOf returns how long the record of an event is.
func sizeOf(e *events.Event) int {
	if e.Source == events.SourceSnapshot {
		return events.SnapshotSize
	}
	return events.RecordSize
}

func randomEnd(r *rand.Rand) netip.AddrPort {
	var a [16]byte
	binary.NativeEndian.PutUint64(a[:], r.Uint64())
	binary.NativeEndian.PutUint64(a[8:], r.Uint64())
	addr := netip.AddrFrom16(a).Unmap()
	if r.IntN(2) == 0 {
		addr = netip.AddrFrom4([4]byte(a[:4]))
	}
	return netip.AddrPortFrom(addr, uint16(r.Uint32()))
}

func TestDecodeReadsWhatAppendRecordWrites(t *testing.T) {
	check := func(e events.Event) {
		t.Helper()
		b := e.AppendRecord([]byte("before"))
		if len(b) != len("before")+sizeOf(&e) || string(b[:6]) != "before" {
			t.Fatalf("appended %d bytes", len(b)-6)
		}
		got := events.Event{
			Seq: 1, Owner: events.Owner{PID: 1, Comm: events.MakeComm("left over")}, Snapshot: events.Snapshot{FD: 1},
		}
		if err := got.Decode(b[6:]); err != nil || got != e {
			t.Fatalf("decoded\n%+v, %v, want\n%+v", got, err, e)
		}
	}
	for _, s := range eventstest.Scenarios() {
		for _, e := range s.Events {
			check(e)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		check(randomEvent(r))
	}
}

func TestDecodeUnmapsAddresses(t *testing.T) {
	e := events.Event{
		Local:  netip.MustParseAddrPort("[::ffff:10.0.0.1]:1"),
		Remote: netip.MustParseAddrPort("[::ffff:0.0.0.0]:0"),
		Family: 10,
	}
	var got events.Event
	if err := got.Decode(e.AppendRecord(nil)); err != nil {
		t.Fatal(err)
	}
	if got.Local != netip.MustParseAddrPort("10.0.0.1:1") || got.Remote != netip.MustParseAddrPort("0.0.0.0:0") || got.Family != 10 {
		t.Errorf("decoded %v, %v, family %d", got.Local, got.Remote, got.Family)
	}
}

// Without a source the kernel side leaves an earlier owner in the record.
func TestDecodeForgetsAnOwnerWithoutSource(t *testing.T) {
	e := events.Event{Owner: eventstest.Owned(7, "curl", events.OwnerConnect)}
	b := e.AppendRecord(nil)
	b[offOwnerSource] = byte(events.OwnerNone)
	if err := e.Decode(b); err != nil || e.Owner != (events.Owner{}) {
		t.Errorf("owner %+v, %v", e.Owner, err)
	}
}

func TestDecodeErrors(t *testing.T) {
	before := randomEvent(rand.New(rand.NewPCG(3, 4)))
	refuse := func(b []byte, want string) {
		t.Helper()
		e := before
		if err := e.Decode(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if e != before {
			t.Errorf("the event has changed:\n%+v, want\n%+v", e, before)
		}
	}
	refuse(nil, "0 bytes")
	for n := range events.RecordSize {
		refuse(make([]byte, n), "want 160")
	}
	for n := range events.SnapshotSize {
		b := make([]byte, max(n, offSource+1))
		b[offSource] = byte(events.SourceSnapshot)
		want := "want 200"
		if n < events.RecordSize {
			want = "want 160"
		}
		refuse(b[:n], want)
	}
	for source := int(events.OwnerSnapshot) + 1; source < 256; source++ {
		b := make([]byte, events.RecordSize)
		b[offOwnerSource] = byte(source)
		refuse(b, "owner source")
	}
	for source := int(events.SourceSnapshot) + 1; source < 256; source++ {
		b := make([]byte, events.RecordSize)
		b[offSource] = byte(source)
		refuse(b, "unknown source")
	}
}

func TestDecodeTakesLongerRecords(t *testing.T) {
	for source := events.SourceTracepoint; source <= events.SourceSnapshot; source++ {
		want := randomEvent(rand.New(rand.NewPCG(5, 6)))
		want.Source, want.Snapshot = source, events.Snapshot{}
		for _, n := range []int{1, 8, 1000} {
			var e events.Event
			b := append(want.AppendRecord(nil), bytes.Repeat([]byte{0xff}, n)...)
			if err := e.Decode(b); err != nil || e != want {
				t.Errorf("%v, %d bytes more: %v", source, n, err)
			}
		}
	}
}

func TestDecodeKeepsNoReference(t *testing.T) {
	want := randomEvent(rand.New(rand.NewPCG(7, 8)))
	b := want.AppendRecord(nil)
	var e events.Event
	if err := e.Decode(b); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if e != want {
		t.Error("the event changes with the bytes")
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	var records [][]byte
	for range 100 {
		e := randomEvent(r)
		records = append(records, e.AppendRecord(nil))
	}
	if n := testing.AllocsPerRun(10, func() {
		var e events.Event
		for _, b := range records {
			if err := e.Decode(b); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSwapRecord(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 1000 {
		e := randomEvent(r)
		record := e.AppendRecord(nil)
		b := bytes.Clone(record)
		events.SwapRecord(b)

		want := e
		for _, p := range []*uint64{&want.Time, &want.Cookie, &want.Entered, &want.Cgroup, &want.BytesAcked, &want.BytesReceived, &want.BytesSent} {
			*p = bits.ReverseBytes64(*p)
		}
		for _, p := range []*uint32{&want.Generation, &want.Seq, &want.NetNS, &want.Owner.PID, &want.Owner.UID, &want.SRTT, &want.Retransmits, &want.Minisocks, &want.MinisockLimit} {
			*p = bits.ReverseBytes32(*p)
		}
		want.Errno = int32(bits.ReverseBytes32(uint32(want.Errno)))
		want.Snapshot = events.Snapshot{
			Silent: bits.ReverseBytes64(want.Snapshot.Silent), Left: bits.ReverseBytes64(want.Snapshot.Left),
			RecvQueue: bits.ReverseBytes32(want.Snapshot.RecvQueue), SendQueue: bits.ReverseBytes32(want.Snapshot.SendQueue),
			Holders: bits.ReverseBytes32(want.Snapshot.Holders), FD: int32(bits.ReverseBytes32(uint32(want.Snapshot.FD))),
			Unanswered: bits.ReverseBytes32(want.Snapshot.Unanswered),
		}
		want.Local = netip.AddrPortFrom(want.Local.Addr(), bits.ReverseBytes16(want.Local.Port()))
		want.Remote = netip.AddrPortFrom(want.Remote.Addr(), bits.ReverseBytes16(want.Remote.Port()))
		want.Family = bits.ReverseBytes16(want.Family)
		want.Flags = events.Flags(bits.ReverseBytes16(uint16(want.Flags)))
		var got events.Event
		if err := got.Decode(b); err != nil || got != want {
			t.Fatalf("swapped\n%+v, %v, want\n%+v", got, err, want)
		}

		if events.SwapRecord(b); !bytes.Equal(b, record) {
			t.Fatalf("swapped twice\n%x, want\n%x", b, record)
		}
	}
}

func TestSwapRecordOfAnotherLength(t *testing.T) {
	short := bytes.Repeat([]byte{1, 2}, events.RecordSize/2)[:events.RecordSize-1]
	before := bytes.Clone(short)
	if events.SwapRecord(short); !bytes.Equal(short, before) {
		t.Error("a short record has changed")
	}
	events.SwapRecord(nil)

	long := bytes.Repeat([]byte{1, 2}, events.RecordSize)
	if events.SwapRecord(long); !bytes.Equal(long[offPad:], bytes.Repeat([]byte{1, 2}, events.RecordSize)[offPad:]) {
		t.Error("what is behind the fields has changed")
	}

	// A snapshot that is cut off is swapped as far as its event goes, or is longer.
	long[offSource] = byte(events.SourceSnapshot)
	for size, end := range map[int]int{events.SnapshotSize - 1: offPad, len(long): offSnapshotPad} {
		b := bytes.Clone(long[:size])
		if events.SwapRecord(b); !bytes.Equal(b[end:], long[end:size]) || bytes.Equal(b[:end], long[:end]) {
			t.Errorf("of a snapshot of %d bytes, not those up to %d are swapped", size, end)
		}
	}
}

func TestEvidence(t *testing.T) {
	for _, c := range []struct {
		event events.Event
		want  fsm.Evidence
	}{
		{events.Event{}, fsm.Evidence{}},
		{events.Event{Errno: 104}, fsm.Evidence{Errno: 104}},
		{events.Event{Flags: 1 << 0}, fsm.Evidence{Local: true}},
		{events.Event{Flags: 1 << 1}, fsm.Evidence{Orphan: true}},
		{events.Event{Flags: 1 << 2}, fsm.Evidence{Linger0: true}},
		{events.Event{Flags: 1 << 3}, fsm.Evidence{Unread: true}},
		{events.Event{Flags: 1 << 4}, fsm.Evidence{Linger2: true}},
		{events.Event{Flags: 1 << 5}, fsm.Evidence{PeerFIN: true}},
		{events.Event{Flags: 1 << 6}, fsm.Evidence{Unaccepted: true}},
		{events.Event{Flags: 1 << 7}, fsm.Evidence{Minisock: true}},
		{events.Event{Flags: 1 << 8}, fsm.Evidence{Skipped: true}},
		{events.Event{Flags: 1 << 9}, fsm.Evidence{Counted: true}},
		{events.Event{Flags: ^events.Flags(1<<10 - 1)}, fsm.Evidence{}},
		{events.Event{Minisocks: 3, MinisockLimit: 4}, fsm.Evidence{Minisocks: 3, MinisockLimit: 4}},
		{events.Event{End: 3}, fsm.Evidence{End: fsm.EndReset}},
		{events.Event{End: 200}, fsm.Evidence{End: 200}},
		{events.Event{Reset: events.ResetUnspecified}, fsm.Evidence{ResetSent: true}},
		{events.Event{Reset: 8}, fsm.Evidence{ResetSent: true, ResetReason: "TCP_ABORT_ON_DATA"}},
		{events.Event{Reset: 255}, fsm.Evidence{ResetSent: true}},
		{events.Event{Shutdown: 1}, fsm.Evidence{}},
		{events.Event{Shutdown: 2}, fsm.Evidence{}},
		{events.Event{Shutdown: 3}, fsm.Evidence{ShutDown: true}},
		{events.Event{Shutdown: 4}, fsm.Evidence{Unacked: true}},
		{events.Event{Shutdown: 7}, fsm.Evidence{ShutDown: true, Unacked: true}},
		{events.Event{Shutdown: 8}, fsm.Evidence{}},
	} {
		if got := c.event.Evidence(); got != c.want {
			t.Errorf("flags %#x, shutdown %d: %+v, want %+v", c.event.Flags, c.event.Shutdown, got, c.want)
		}
	}
}

func TestEndsPending(t *testing.T) {
	for _, c := range []struct {
		from, to            fsm.State
		local, remote       string
		pending, withRemote bool
	}{
		{fsm.Closed, fsm.SynSent, "10.0.0.1:0", "10.0.0.2:80", true, true},
		{fsm.Closed, fsm.SynSent, "10.0.0.1:5000", "10.0.0.2:80", false, true}, // bound before
		{fsm.Closed, fsm.Listen, "0.0.0.0:80", "0.0.0.0:0", false, false},
		{fsm.Closed, fsm.Listen, "0.0.0.0:0", "0.0.0.0:0", true, false}, // never bound
		{fsm.Listen, fsm.Closed, "0.0.0.0:80", "0.0.0.0:0", false, false},
		{fsm.Listen, fsm.SynRcvd, "[::]:80", "[::]:0", true, false},
		{fsm.Listen, fsm.SynRcvd, "10.0.0.2:80", "10.0.0.1:5000", false, true},
		{fsm.SynRcvd, fsm.Established, "10.0.0.2:80", "10.0.0.1:5000", false, true},
		{fsm.Established, fsm.Closed, "10.0.0.2:0", "10.0.0.1:0", false, false},
	} {
		e := events.Event{From: c.from, To: c.to, Local: netip.MustParseAddrPort(c.local), Remote: netip.MustParseAddrPort(c.remote)}
		if e.EndsPending() != c.pending || e.HasRemote() != c.withRemote {
			t.Errorf("%v -> %v, %v, %v: pending %v, has a remote end %v", c.from, c.to, e.Local, e.Remote, e.EndsPending(), e.HasRemote())
		}
	}
}

func TestComm(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"", ""},
		{"curl", "curl"},
		{"exactly15bytes!", "exactly15bytes!"},
		{"this one is too long", "this one is too"},
		{"a\x00b", "a"},
		{"\xff\n", "\xff\n"},
	} {
		comm := events.MakeComm(c.name)
		if got := string(comm.Bytes()); got != c.want {
			t.Errorf("MakeComm(%q) holds %q, want %q", c.name, got, c.want)
		}
	}
	full := events.Comm([]byte("0123456789abcdef")) // without a 0
	if got := string(full.Bytes()); got != "0123456789abcdef" {
		t.Errorf("a full name is %q", got)
	}
}

func TestOwnerSource(t *testing.T) {
	for source, want := range map[events.OwnerSource]string{
		events.OwnerNone: "", events.OwnerConnect: "connect", events.OwnerListen: "listen", events.OwnerClose: "close",
		events.OwnerAccept: "accept", events.OwnerSnapshot: "snapshot",
	} {
		if source.String() != want {
			t.Errorf("%d is %q, want %q", source, source, want)
		}
		o := events.Owner{Source: source}
		if o.Known() != (source != events.OwnerNone) {
			t.Errorf("owner by %q is known: %v", source, o.Known())
		}
	}
}

func TestSource(t *testing.T) {
	for number, want := range []string{"tracepoint", "timewait", "request", "reset", "snapshot"} {
		if got := events.Source(number).String(); got != want {
			t.Errorf("%d is %q, want %q", number, got, want)
		}
	}
}

// The numbers are in record files: they may never change.
func TestResetNumbers(t *testing.T) {
	numbers := events.ResetNumbers()
	for name, want := range map[string]uint8{
		"TCP_INVALID_ACK_SEQUENCE": 2, "TCP_RFC7323_PAWS": 3, "TCP_TOO_OLD_ACK": 4, "TCP_ACK_UNSENT_DATA": 5,
		"TCP_FLAGS": 6, "TCP_OLD_ACK": 7, "TCP_ABORT_ON_DATA": 8, "TCP_TIMEWAIT_SOCKET": 9, "INVALID_SYN": 10,
		"TCP_ABORT_ON_CLOSE": 11, "TCP_ABORT_ON_LINGER": 12, "TCP_ABORT_ON_MEMORY": 13, "TCP_STATE": 14,
		"TCP_KEEPALIVE_TIMEOUT": 15, "TCP_DISCONNECT_WITH_DATA": 16,
		"MPTCP_RST_EUNSPEC": 17, "MPTCP_RST_EMPTCP": 18, "MPTCP_RST_ERESOURCE": 19, "MPTCP_RST_EPROHIBIT": 20,
		"MPTCP_RST_EWQ2BIG": 21, "MPTCP_RST_EBADPERF": 22, "MPTCP_RST_EMIDDLEBOX": 23, "ERROR": 24, "NO_SOCKET": 25,
	} {
		if numbers[name] != want {
			t.Errorf("%s is %d, want %d", name, numbers[name], want)
		}
	}
	for name, n := range numbers {
		if got := events.Reset(n).String(); got != name {
			t.Errorf("%d is %q, want %q", n, got, name)
		}
	}
	named := 0
	for n := range 256 {
		name := events.Reset(n).String()
		if name == "" {
			continue
		}
		named++
		if got, ok := numbers[name]; !ok || int(got) != n {
			t.Errorf("%d is %q, but that is %d, %v", n, name, got, ok)
		}
	}
	if named != len(numbers) {
		t.Errorf("%d names, %d numbers", named, len(numbers))
	}
	if events.Reset(0).String() != "" || events.ResetUnspecified.String() != "" {
		t.Error("no reset, or one without a reason, has a name")
	}
}

func TestLossReason(t *testing.T) {
	for reason, want := range map[events.LossReason]struct {
		name    string
		records bool
	}{
		events.LossRingFull:  {"ringbuf_full", true},
		events.LossHistory:   {"history_unavailable", false},
		events.LossMissed:    {"missed", true},
		events.LossMinisocks: {"minisocks_full", false},
		0:                    {"loss_0", false}, 6: {"loss_6", false}, 255: {"loss_255", false},
	} {
		if reason.String() != want.name || reason.Records() != want.records {
			t.Errorf("%d is %q, of records: %v, want %q, %v", uint8(reason), reason, reason.Records(), want.name, want.records)
		}
	}
}

func TestClock(t *testing.T) {
	for _, c := range []struct {
		offset int64
		boot   uint64
		want   string
	}{
		{0, 0, "1970-01-01T00:00:00Z"},
		{1_767_225_600_000_000_000, 3_723_000_000_001, "2026-01-01T01:02:03.000000001Z"},
		{-1_000_000_000, 1_500_000_000, "1970-01-01T00:00:00.5Z"},
	} {
		got := events.Clock{Offset: c.offset}.Time(c.boot)
		if got.Format(time.RFC3339Nano) != c.want || got.Location() != time.UTC {
			t.Errorf("%d after %d is %v, want %s", c.boot, c.offset, got, c.want)
		}
	}
}

// What decodes is written as it was, but for what no reader sees.
func FuzzDecode(f *testing.F) {
	for _, s := range eventstest.Scenarios() {
		f.Add(eventstest.Records(s.Events[:1]))
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, events.RecordSize))
	f.Add(make([]byte, events.RecordSize+1))
	snapshot := make([]byte, events.SnapshotSize)
	snapshot[offSource] = byte(events.SourceSnapshot)
	f.Add(snapshot)
	f.Add(snapshot[:events.SnapshotSize-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		before := events.Event{Cookie: 1}
		e := before
		if err := e.Decode(b); err != nil {
			if e != before {
				t.Fatal("the event has changed")
			}
			return
		}
		want := bytes.Clone(b[:sizeOf(&e)])
		clear(want[offPad:events.RecordSize])
		if e.Source == events.SourceSnapshot {
			clear(want[offSnapshotPad:])
		}
		if !e.Owner.Known() {
			clear(want[offPID : offUID+4])
			clear(want[offComm : offComm+16])
		}
		if got := e.AppendRecord(nil); !bytes.Equal(got, want) {
			t.Fatalf("decoded %+v, written as\n%x, want\n%x", e, got, want)
		}
		_ = e.From.String() + e.To.String() + e.Owner.Source.String() + e.Source.String() + e.End.String() + e.Reset.String()
		fsm.Check(e.From, e.To, e.Evidence())

		var o events.Order
		o.Push(&e)
		o.Push(&e)
	})
}

func BenchmarkDecode(b *testing.B) {
	script := eventstest.New(eventstest.Start)
	script.Churn(100)
	records := eventstest.Records(script.Events())
	b.ReportAllocs()
	b.SetBytes(events.RecordSize)
	var e events.Event
	at := 0
	for b.Loop() {
		if err := e.Decode(records[at:]); err != nil {
			b.Fatal(err)
		}
		if at += events.RecordSize; at == len(records) {
			at = 0
		}
	}
}
