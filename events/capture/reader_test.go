package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/events/eventstest"
)

// blockEnds returns where the header and then each block of a file ends.
func blockEnds(t *testing.T, b []byte) []int {
	t.Helper()
	at := len(magic) + 4
	at += 4 + int(binary.LittleEndian.Uint32(b[at:])) + 4
	ends := []int{at}
	for at < len(b) {
		at += 12 + int(binary.LittleEndian.Uint32(b[at:]))
		ends = append(ends, at)
	}
	if at != len(b) {
		t.Fatalf("the last block ends at %d of %d", at, len(b))
	}
	return ends
}

// small is a file of few bytes in five blocks, and what it holds: of each kind one.
func small() (b []byte, list []events.Record, perBlock []int) {
	all := eventstest.Scenarios()[0].Events
	lost := events.Loss{Time: 5, Reason: events.LossMissed, Count: 6}
	named := events.Name{Kind: events.NameCgroup, ID: 1 << 40, Text: "/a\n\xff"}
	found, over := snapshot(all[2]), events.Walked{Start: 7, Time: 8, Unseen: "1 netns"}
	stepped := events.ClockStep{Time: 4, Offset: -1}
	list = append(transitions(all[:2]), events.Record{Kind: events.KindName, Name: named})
	list = append(list, transitions([]events.Event{all[2], found})...)
	list = append(list,
		events.Record{Kind: events.KindWalked, Walked: over},
		events.Record{Kind: events.KindClock, Clock: stepped},
		events.Record{Kind: events.KindLoss, Loss: lost})
	b = file(thisHead,
		block(transition(all[0]), transition(all[1])),
		block(name(named), transition(all[2])),
		block(transition(found), walked(over)),
		block(clockStep(stepped), loss(lost)),
		block(end(9)))
	return b, list, []int{2, 2, 2, 2, 0}
}

// snapshot is the socket of an event, found by a walk.
func snapshot(e events.Event) events.Event {
	e.Source, e.From = events.SourceSnapshot, e.To
	e.Snapshot = events.Snapshot{Silent: 1, Left: 2, RecvQueue: 3, SendQueue: 4, Holders: 5, FD: -6, Unanswered: 7}
	return e
}

func TestReadsTheFormat(t *testing.T) {
	b, want, _ := small()
	list, end := mustRead(t, b)
	if !sameRecords(list, want) || end != 9 {
		t.Errorf("read %+v, ends at %d, want %+v", list, end, want)
	}
}

// Whatever a read returns at once makes no difference.
func TestReadsInPieces(t *testing.T) {
	b, want, _ := small()
	for name, in := range map[string]io.Reader{
		"bytes":          iotest.OneByteReader(bytes.NewReader(b)),
		"halves":         iotest.HalfReader(bytes.NewReader(b)),
		"EOF with bytes": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		r, err := capture.NewReader(in)
		if err != nil {
			t.Fatal(name, err)
		}
		var rec events.Record
		n := 0
		for err = r.Read(&rec); err == nil; err = r.Read(&rec) {
			n++
		}
		if err != io.EOF || n != len(want) {
			t.Errorf("in %s: %d records, then %v", name, n, err)
		}
		r.Close()
	}
}

func TestCutAnywhere(t *testing.T) {
	b, want, perBlock := small()
	ends := blockEnds(t, b)
	for n := range b {
		list, endTime, err := read(b[:n])
		whole := 0
		for i, records := range perBlock {
			if ends[i+1] <= n {
				whole += records
			}
		}
		wantErr := capture.ErrTruncated
		if n == 0 {
			wantErr = capture.ErrForeign
		}
		if !errors.Is(err, wantErr) || errors.Is(err, io.EOF) {
			t.Errorf("cut at %d of %d: %v, want %v", n, len(b), err, wantErr)
		}
		if !sameRecords(list, want[:whole]) || endTime != 0 {
			t.Errorf("cut at %d of %d: %d records, want %d; ends at %d", n, len(b), len(list), whole, endTime)
		}
	}
}

func TestEveryFlippedBit(t *testing.T) {
	b, want, _ := small()
	for n := range b {
		for bit := range 8 {
			b[n] ^= 1 << bit
			list, _, err := read(b)
			b[n] ^= 1 << bit
			if !blames(err) {
				t.Errorf("bit %d of byte %d: %v", bit, n, err)
			}
			if len(list) > len(want) || !sameRecords(list, want[:len(list)]) {
				t.Errorf("bit %d of byte %d: read what nobody wrote: %+v", bit, n, list)
			}
		}
	}
}

func TestHeaderErrors(t *testing.T) {
	good := fmt.Sprintf(`{"byte_order":%q}`, thisOrder)
	sized := head(1, good)
	binary.LittleEndian.PutUint32(sized[len(magic)+4:], 1<<16+1)
	for _, c := range []struct {
		name string
		file []byte
		want error
	}{
		{"empty", nil, capture.ErrForeign},
		{"one byte", []byte("x"), capture.ErrForeign},
		{"text", []byte("tcptrace\n"), capture.ErrForeign},
		{"a recording of another program", []byte("\xa1\xb2\xc3\xd4" + strings.Repeat("\x00", 100)), capture.ErrForeign},
		{"line ends mended", bytes.ReplaceAll(head(1, good), []byte("\r\n"), []byte("\n")), capture.ErrForeign},
		{"the high bit stripped", append([]byte{0x09}, head(1, good)[1:]...), capture.ErrForeign},
		{"version 2", head(2, good), capture.ErrNewer},
		{"version 2, of which nothing else is known", []byte(magic + "\x02\x00\xff\xff\xff\xff\xff\xff"), capture.ErrNewer},
		{"version 65535", head(65535, good), capture.ErrNewer},
		{"too large", sized, capture.ErrCorrupt},
		{"no JSON", head(1, "nonsense"), capture.ErrCorrupt},
		{"nothing", head(1, ""), capture.ErrCorrupt},
		{"JSON of another kind", head(1, `[1]`), capture.ErrCorrupt},
		{"no byte order", head(1, `{}`), capture.ErrCorrupt},
		{"a strange byte order", head(1, `{"byte_order":"middle"}`), capture.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := capture.NewReader(bytes.NewReader(c.file))
			if r != nil || !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestLaterHeadersMayHoldMore(t *testing.T) {
	text := fmt.Sprintf(`{"start":5,"byte_order":%q,"host":"a","tags":[1,{}]}`, thisOrder)
	r, err := capture.NewReader(bytes.NewReader(head(1, text)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Header().Start != 5 {
		t.Errorf("read %+v", *r.Header())
	}
}

func TestOtherByteOrder(t *testing.T) {
	list := churn(2)
	list = append(list, snapshot(list[0]))
	var items [][]byte
	for _, e := range list {
		record := e.AppendRecord(nil)
		events.SwapRecord(record)
		items = append(items, item(1, record))
	}
	// The others are not in the host's byte order.
	lost := events.Loss{Time: 1, Reason: events.LossRingFull, Count: 2}
	named := events.Name{Kind: events.NameExe, ID: 3, Text: "/bin/sh"}
	over := events.Walked{Start: 1, Time: 2}
	stepped := events.ClockStep{Time: 2, Offset: -3}
	items = append(items, loss(lost), name(named), walked(over), clockStep(stepped), end(3))
	got, endTime := mustRead(t, file(head(1, fmt.Sprintf(`{"byte_order":%q}`, otherOrder)), block(items...)))
	want := append(transitions(list),
		events.Record{Kind: events.KindLoss, Loss: lost},
		events.Record{Kind: events.KindName, Name: named},
		events.Record{Kind: events.KindWalked, Walked: over},
		events.Record{Kind: events.KindClock, Clock: stepped})
	if !sameRecords(got, want) || endTime != 3 {
		t.Errorf("read\n%+v, ends at %d, want\n%+v", got, endTime, want)
	}
}

func TestItems(t *testing.T) {
	e := churn(1)[0]
	record := e.AppendRecord(nil)
	walk := snapshot(e)
	found := walk.AppendRecord(nil)
	lost := events.Loss{Time: 1, Reason: events.LossRingFull, Count: 2}
	lossItem := loss(lost)
	const ownerSource, source = 139, 156 // offsets
	unknownOwner, unknownSource := bytes.Clone(record), bytes.Clone(record)
	unknownOwner[ownerSource] = 200
	unknownSource[source] = 200
	for _, c := range []struct {
		name    string
		items   [][]byte
		records int
		want    error
	}{
		{"unknown kinds", [][]byte{item(0, nil), item(7, []byte("later")), transition(e), item(65535, make([]byte, 65535)), loss(lost), end(1)}, 2, io.EOF},
		{"longer ones of a later version", [][]byte{item(1, append(bytes.Clone(record), "more"...)), item(2, append(lossItem[4:], "more"...)), item(3, make([]byte, 20))}, 2, io.EOF},
		{"longer ones of a later walk", [][]byte{item(1, append(bytes.Clone(found), "more"...)), end(1)}, 1, io.EOF},
		{"a name of a later kind", [][]byte{name(events.Name{Kind: 200, Text: "?"}), end(1)}, 1, io.EOF},
		{"a name of nothing", [][]byte{name(events.Name{}), end(1)}, 1, io.EOF},
		{"nothing", nil, 0, capture.ErrTruncated},
		{"no end", [][]byte{transition(e)}, 1, capture.ErrTruncated},
		{"a head cut off", [][]byte{transition(e), {1}}, 1, capture.ErrCorrupt},
		{"a payload cut off", [][]byte{transition(e), {1, 0, events.RecordSize, 0}}, 1, capture.ErrCorrupt},
		{"a short transition", [][]byte{transition(e), item(1, record[:events.RecordSize-1])}, 1, capture.ErrCorrupt},
		{"an empty transition", [][]byte{item(1, nil)}, 0, capture.ErrCorrupt},
		{"an impossible transition", [][]byte{transition(e), item(1, unknownOwner)}, 1, capture.ErrCorrupt},
		{"an impossible source", [][]byte{transition(e), item(1, unknownSource)}, 1, capture.ErrCorrupt},
		{"a short loss", [][]byte{transition(e), item(2, make([]byte, 16))}, 1, capture.ErrCorrupt},
		{"a short snapshot", [][]byte{transition(e), item(1, found[:events.SnapshotSize-1])}, 1, capture.ErrCorrupt},
		{"a short name", [][]byte{transition(e), item(4, make([]byte, 8))}, 1, capture.ErrCorrupt},
		{"a short end of a walk", [][]byte{transition(e), item(5, make([]byte, 15))}, 1, capture.ErrCorrupt},
		{"a short step of the clock", [][]byte{transition(e), item(6, make([]byte, 15))}, 1, capture.ErrCorrupt},
		{"a short end", [][]byte{transition(e), item(3, make([]byte, 7))}, 1, capture.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, _, err := read(file(thisHead, block(c.items...)))
			if len(list) != c.records || !errors.Is(err, c.want) {
				t.Errorf("%d records, then %v, want %d, then %v", len(list), err, c.records, c.want)
			}
		})
	}
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// stream compresses as a file, not as a block: its size is not told before.
func stream(t *testing.T, raw []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, append(opts, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBadBlocks(t *testing.T) {
	e := transition(churn(1)[0])
	frame := encoder.EncodeAll(e, nil)
	bomb := make([]byte, 32<<20)
	for _, c := range []struct {
		name  string
		block []byte
	}{
		{"a bomb that tells its size", packed(64, encoder.EncodeAll(bomb, nil))},
		{"a bomb that tells another size", packed(1<<20, encoder.EncodeAll(bomb, nil))},
		{"a bomb that tells no size", packed(1<<20, stream(t, bomb))},
		{"a bomb with a large window", packed(1<<20, stream(t, bomb, zstd.WithWindowSize(128<<20)))},
		{"a bomb of many parts", packed(1<<20, bytes.Repeat(encoder.EncodeAll(bomb[:1<<20], nil), 64))},
		{"stored too large", packed(len(e), make([]byte, 1<<20+1))},
		{"stored far too large", append([]byte{0, 0, 0, 0x20, 1, 0, 0, 0}, make([]byte, 4)...)}, // 512 MiB that are not there
		{"unpacked too large", packed(1<<20+1, frame)},
		{"unpacks to less", packed(len(e)+1, frame)},
		{"unpacks to more", packed(len(e)-1, frame)},
		{"not compressed", packed(len(e), e)},
		{"compressed data cut off", packed(len(e), frame[:len(frame)-1])},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := file(thisHead, block(e), c.block, block(end(1)))
			n := allocated(func() {
				if list, _, err := read(b); len(list) != 1 || !errors.Is(err, capture.ErrCorrupt) || !strings.Contains(err.Error(), "block 2") {
					t.Errorf("%d records, then %v, want 1, then %v in block 2", len(list), err, capture.ErrCorrupt)
				}
			})
			if n > 16<<20 {
				t.Errorf("%d MiB allocated", n>>20)
			}
		})
	}
}

// The largest block that is allowed, and one of nothing.
func TestBlockSizes(t *testing.T) {
	raw := bytes.Repeat(item(9, make([]byte, 1020)), 1<<10)
	if len(raw) != 1<<20 {
		t.Fatal(len(raw))
	}
	_, endTime := mustRead(t, file(thisHead, block(raw), block(), packed(0, nil), block(end(4))))
	if endTime != 4 {
		t.Errorf("ends at %d", endTime)
	}
}

func TestErrorsOfTheDiskAreNotOfTheFile(t *testing.T) {
	b, _, _ := small()
	errDisk := errors.New("disk on fire")
	for n := range b {
		in := io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(errDisk))
		r, err := capture.NewReader(in)
		if err == nil {
			var rec events.Record
			for err = r.Read(&rec); err == nil; err = r.Read(&rec) {
			}
			if again := r.Read(&rec); again != err {
				t.Errorf("after %d bytes: %v, then %v", n, err, again)
			}
			r.Close()
		}
		if !errors.Is(err, errDisk) || blames(err) {
			t.Errorf("after %d bytes: %v, want %v", n, err, errDisk)
		}
	}
}

func TestReadErrorIsSticky(t *testing.T) {
	b, _, _ := small()
	b[len(b)-1] ^= 1
	r, err := capture.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var rec events.Record
	for err = r.Read(&rec); err == nil; err = r.Read(&rec) {
	}
	if again := r.Read(&rec); again != err {
		t.Errorf("%v, then %v", err, again)
	}
}

func TestReadDoesNotAllocate(t *testing.T) {
	list := churn(500)
	b := eventstest.Recording(list)
	if n := testing.AllocsPerRun(3, func() {
		r, err := capture.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var rec events.Record
		for range list {
			if err := r.Read(&rec); err != nil {
				t.Fatal(err)
			}
		}
	}); n > 200 { // to open it
		t.Errorf("%v allocations for %d records", n, len(list))
	}
}

// FuzzReader reads anything: as a whole file, as the items of one block, as its
// compressed bytes. The checksums would keep all but the first from it.
func FuzzReader(f *testing.F) {
	b, _, _ := small()
	f.Add(uint8(0), b)
	f.Add(uint8(0), b[:len(b)-1])
	f.Add(uint8(0), eventstest.Recording(churn(1)))
	f.Add(uint8(0), head(2, "{}"))
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), file(transition(churn(1)[0]), item(9, nil), loss(events.Loss{}), end(1)))
	f.Add(uint8(1), []byte{1, 0, events.RecordSize, 0})
	f.Add(uint8(1), file(transition(snapshot(churn(1)[0])), walked(events.Walked{Start: 1, Time: 2})))
	f.Add(uint8(1), walked(events.Walked{Unseen: strings.Repeat("n", events.MaxName+1)}))
	f.Add(uint8(1), name(events.Name{Kind: events.NameExe, ID: 1, Text: strings.Repeat("n", events.MaxName+1)}))
	f.Add(uint8(1), clockStep(events.ClockStep{Time: 1, Offset: -1}))
	f.Add(uint8(2), encoder.EncodeAll(end(1), nil))
	f.Fuzz(func(t *testing.T, how uint8, b []byte) {
		switch how % 3 {
		case 1:
			b = file(thisHead, block(b))
		case 2:
			b = file(thisHead, packed(len(end(1)), b))
		}
		r, err := capture.NewReader(bytes.NewReader(b))
		if err == nil {
			defer r.Close()
			var rec events.Record
			for err = r.Read(&rec); err == nil; err = r.Read(&rec) {
				switch rec.Kind {
				case events.KindTransition, events.KindLoss, events.KindClock:
				case events.KindName, events.KindWalked:
					if n := max(len(rec.Name.Text), len(rec.Walked.Unseen)); n > events.MaxName {
						t.Fatalf("a text of %d bytes", n)
					}
				default:
					t.Fatalf("kind %d", rec.Kind)
				}
			}
			if (r.End() != 0) && err != io.EOF {
				t.Fatalf("ends at %d, but %v", r.End(), err)
			}
			if again := r.Read(&rec); again != err {
				t.Fatalf("%v, then %v", err, again)
			}
		}
		if err != io.EOF && !blames(err) {
			t.Fatal(err)
		}
	})
}

func BenchmarkCaptureRead(b *testing.B) {
	list := churn(10_000)
	data := eventstest.Recording(list)
	b.SetBytes(int64(len(list) * events.RecordSize))
	b.ReportAllocs()
	var rec events.Record
	for b.Loop() {
		r, err := capture.NewReader(bytes.NewReader(data))
		if err != nil {
			b.Fatal(err)
		}
		for err = r.Read(&rec); err == nil; err = r.Read(&rec) {
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		r.Close()
	}
	b.ReportMetric(float64(len(list)*b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkCaptureWrite(b *testing.B) {
	list := transitions(churn(100))
	w, err := capture.NewWriter(io.Discard, eventstest.Header())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range list {
			if err := w.Write(&list[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(list)*b.N)/b.Elapsed().Seconds(), "records/s")
}
