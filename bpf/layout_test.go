package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"tcptrace/events"
	"tcptrace/fsm"
)

// The C side and the Go side of a record are written by hand, apart from each
// other. These tests hold them together; they need neither kernel nor
// privileges.

// objects are the committed programs with the byte order of the hosts they are
// for.
var objects = []struct {
	file  string
	order binary.ByteOrder
}{
	{"tcptrace_bpfel.o", binary.LittleEndian},
	{"tcptrace_bpfeb.o", binary.BigEndian},
}

// field is a member of a record.
type field struct {
	name         string
	offset, size uint32
	array        bool // bytes in an order of their own
}

func (f field) end() uint32 { return f.offset + f.size }

// records are the structs that are written into the ring.
var records = []struct {
	name   string
	size   uint32
	source events.Source // of which it is
}{
	{"event", events.RecordSize, events.SourceRequest},
	{"snapshot", events.SnapshotSize, events.SourceSnapshot},
}

// fieldsOf returns what the type information of an object says of a struct, with
// the fields of one that it begins with.
func fieldsOf(t *testing.T, spec *ebpf.CollectionSpec, name string) (fields []field, size uint32) {
	t.Helper()
	var record *btf.Struct
	if err := spec.Types.TypeByName(name, &record); err != nil {
		t.Fatal(err)
	}
	for _, m := range record.Members {
		if m.BitfieldSize != 0 || m.Offset%8 != 0 {
			t.Fatalf("%s is a bit field", m.Name)
		}
		n, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
		if inner, ok := btf.As[*btf.Struct](m.Type); ok && m.Offset == 0 {
			fields, _ = fieldsOf(t, spec, inner.Name)
			continue
		}
		_, array := btf.As[*btf.Array](m.Type)
		fields = append(fields, field{m.Name, m.Offset.Bytes(), uint32(n), array})
	}
	return fields, record.Size
}

func loadSpec(t *testing.T, file string) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(file)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// decoded maps the fields of struct event to where package events puts them.
// Padding is the only field that is not decoded.
var decoded = map[string]func(*events.Event) any{
	"time":           func(e *events.Event) any { return e.Time },
	"cookie":         func(e *events.Event) any { return e.Cookie },
	"entered":        func(e *events.Event) any { return e.Entered },
	"cgroup":         func(e *events.Event) any { return e.Cgroup },
	"bytes_acked":    func(e *events.Event) any { return e.BytesAcked },
	"bytes_received": func(e *events.Event) any { return e.BytesReceived },
	"bytes_sent":     func(e *events.Event) any { return e.BytesSent },
	"generation":     func(e *events.Event) any { return e.Generation },
	"seq":            func(e *events.Event) any { return e.Seq },
	"netns":          func(e *events.Event) any { return e.NetNS },
	"pid":            func(e *events.Event) any { return e.Owner.PID },
	"uid":            func(e *events.Event) any { return e.Owner.UID },
	"srtt_us":        func(e *events.Event) any { return e.SRTT },
	"retransmits":    func(e *events.Event) any { return e.Retransmits },
	"error":          func(e *events.Event) any { return uint32(e.Errno) },
	"tw_count":       func(e *events.Event) any { return e.Minisocks },
	"tw_limit":       func(e *events.Event) any { return e.MinisockLimit },
	"laddr":          func(e *events.Event) any { return e.Local.Addr().As16() },
	"raddr":          func(e *events.Event) any { return e.Remote.Addr().As16() },
	"lport":          func(e *events.Event) any { return e.Local.Port() },
	"rport":          func(e *events.Event) any { return e.Remote.Port() },
	"family":         func(e *events.Event) any { return e.Family },
	"flags":          func(e *events.Event) any { return uint16(e.Flags) },
	"from":           func(e *events.Event) any { return uint8(e.From) },
	"to":             func(e *events.Event) any { return uint8(e.To) },
	"shutdown":       func(e *events.Event) any { return uint8(e.Shutdown) },
	"owner_source":   func(e *events.Event) any { return uint8(e.Owner.Source) },
	"comm":           func(e *events.Event) any { return [16]byte(e.Owner.Comm) },
	"source":         func(e *events.Event) any { return uint8(e.Source) },
	"end":            func(e *events.Event) any { return uint8(e.End) },
	"reset":          func(e *events.Event) any { return uint8(e.Reset) },
	"role":           func(e *events.Event) any { return uint8(e.Role) },
}

// decodedSnapshot does for the rest of struct snapshot.
var decodedSnapshot = map[string]func(*events.Event) any{
	"silent":     func(e *events.Event) any { return e.Snapshot.Silent },
	"left":       func(e *events.Event) any { return e.Snapshot.Left },
	"recv_queue": func(e *events.Event) any { return e.Snapshot.RecvQueue },
	"send_queue": func(e *events.Event) any { return e.Snapshot.SendQueue },
	"holders":    func(e *events.Event) any { return e.Snapshot.Holders },
	"fd":         func(e *events.Event) any { return uint32(e.Snapshot.FD) },
	"unanswered": func(e *events.Event) any { return e.Snapshot.Unanswered },
}

const padding = "pad"

// value reads the field from a record, typed as decoded returns it.
func (f field) value(record []byte, order binary.ByteOrder) any {
	b := record[f.offset:f.end()]
	switch {
	case f.array && f.size == 16:
		return [16]byte(b)
	case f.size == 8:
		return order.Uint64(b)
	case f.size == 4:
		return order.Uint32(b)
	case f.size == 2:
		return order.Uint16(b)
	}
	return b[0]
}

func TestLayoutIsDecoded(t *testing.T) {
	for _, object := range objects {
		for _, r := range records {
			t.Run(object.file+"/"+r.name, func(t *testing.T) {
				fields, size := fieldsOf(t, loadSpec(t, object.file), r.name)
				if size != r.size {
					t.Errorf("struct %s has %d bytes, package events says %d", r.name, size, r.size)
				}

				// No byte is like another, so that none can stand for another.
				record := make([]byte, size)
				for i := range record {
					record[i] = byte(i + 1)
				}
				for _, f := range fields {
					switch f.name { // of these some values are refused
					case "owner_source":
						record[f.offset] = byte(events.OwnerClose)
					case "source":
						record[f.offset] = byte(r.source)
					case "role":
						record[f.offset] = byte(events.RolePassive)
					}
				}
				wire := bytes.Clone(record)
				if !sameOrder(object.order, binary.NativeEndian) {
					events.SwapRecord(wire)
				}
				var e events.Event
				if err := e.Decode(wire); err != nil {
					t.Fatal(err)
				}

				want := maps.Clone(decoded)
				if r.name == "snapshot" {
					maps.Copy(want, decodedSnapshot)
				}
				for _, f := range fields {
					if f.name == padding {
						continue
					}
					got, ok := want[f.name]
					if !ok {
						t.Errorf("field %s at %d is not decoded: add it to package events and to this test", f.name, f.offset)
						continue
					}
					delete(want, f.name)
					if got, want := got(&e), f.value(record, object.order); got != want {
						t.Errorf("%s at %d: decoded as %#x, want %#x", f.name, f.offset, got, want)
					}
				}
				for name := range want {
					t.Errorf("struct %s has no field %s, but package events decodes it", r.name, name)
				}
			})
		}
	}
}

func sameOrder(a, b binary.ByteOrder) bool {
	probe := []byte{1, 2}
	return a.Uint16(probe) == b.Uint16(probe)
}

// TestLayoutHasNoHoles: a byte that no field covers would carry whatever the
// ring buffer held before.
func TestLayoutHasNoHoles(t *testing.T) {
	for _, object := range objects {
		for _, r := range records {
			t.Run(object.file+"/"+r.name, func(t *testing.T) {
				fields, size := fieldsOf(t, loadSpec(t, object.file), r.name)
				end := uint32(0)
				for _, f := range fields {
					if f.offset != end {
						t.Errorf("%s begins at %d, what is before it ends at %d", f.name, f.offset, end)
					}
					if !f.array && f.offset%f.size != 0 {
						t.Errorf("%s at %d is not aligned to its %d bytes", f.name, f.offset, f.size)
					}
					end = f.end()
				}
				if end != size {
					t.Errorf("the fields end at %d, the struct at %d", end, size)
				}
			})
		}
	}
}

// TestObjectsAgree: a recording of a host of one byte order is read on one of
// the other.
func TestObjectsAgree(t *testing.T) {
	embedded, err := loadTcptrace()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		little, size := fieldsOf(t, loadSpec(t, objects[0].file), r.name)
		big, bigSize := fieldsOf(t, loadSpec(t, objects[1].file), r.name)
		if size != bigSize || !slices.Equal(little, big) {
			t.Errorf("struct %s differs:\n%s: %v, %d bytes\n%s: %v, %d bytes",
				r.name, objects[0].file, little, size, objects[1].file, big, bigSize)
		}
		if here, hereSize := fieldsOf(t, embedded, r.name); hereSize != size || !slices.Equal(here, little) {
			t.Errorf("struct %s of the embedded object differs from both: %v, %d bytes", r.name, here, hereSize)
		}
	}
}

// TestEnums holds the numbers that C and Go share against each other. The
// header is read, as the objects' type information leaves out an enum of which
// only the constants are used.
func TestEnums(t *testing.T) {
	for _, test := range []struct {
		enum string
		want map[string]uint64
	}{
		{"owner_source", map[string]uint64{
			"OWNER_NONE":     uint64(events.OwnerNone),
			"OWNER_CONNECT":  uint64(events.OwnerConnect),
			"OWNER_LISTEN":   uint64(events.OwnerListen),
			"OWNER_CLOSE":    uint64(events.OwnerClose),
			"OWNER_ACCEPT":   uint64(events.OwnerAccept),
			"OWNER_SNAPSHOT": uint64(events.OwnerSnapshot),
		}},
		{"event_flag", map[string]uint64{
			"EVENT_LOCAL":       uint64(events.FlagLocal),
			"EVENT_ORPHAN":      uint64(events.FlagOrphan),
			"EVENT_LINGER0":     uint64(events.FlagLinger0),
			"EVENT_UNREAD":      uint64(events.FlagUnread),
			"EVENT_LINGER2":     uint64(events.FlagLinger2),
			"EVENT_PEER_FIN":    uint64(events.FlagPeerFIN),
			"EVENT_UNACCEPTED":  uint64(events.FlagUnaccepted),
			"EVENT_MINISOCK":    uint64(events.FlagMinisock),
			"EVENT_SKIPPED":     uint64(events.FlagSkipped),
			"EVENT_COUNTED":     uint64(events.FlagCounted),
			"EVENT_ESTIMATED":   uint64(events.FlagEstimated),
			"EVENT_PROVISIONAL": uint64(events.FlagProvisional),
			"EVENT_SUPERSEDES":  uint64(events.FlagSupersedes),
			"EVENT_AT_LEAST":    uint64(events.FlagAtLeast),
			"EVENT_REQUEST":     uint64(events.FlagRequest),

			"EVENT_COUNTED_BEFORE": uint64(events.FlagCountedBefore),
		}},
		{"event_shutdown", map[string]uint64{
			"SHUTDOWN_RECEIVING": uint64(events.ShutdownReceiving),
			"SHUTDOWN_SENDING":   uint64(events.ShutdownSending),
			"SHUTDOWN_UNACKED":   uint64(events.ShutdownUnacked),
		}},
		{"role", map[string]uint64{
			"ROLE_NONE":    uint64(events.RoleUnknown),
			"ROLE_ACTIVE":  uint64(events.RoleActive),
			"ROLE_PASSIVE": uint64(events.RolePassive),
		}},
		{"event_source", map[string]uint64{
			"SOURCE_TRACEPOINT": uint64(events.SourceTracepoint),
			"SOURCE_TIMEWAIT":   uint64(events.SourceTimeWait),
			"SOURCE_REQUEST":    uint64(events.SourceRequest),
			"SOURCE_RESET":      uint64(events.SourceReset),
			"SOURCE_SNAPSHOT":   uint64(events.SourceSnapshot),
		}},
		{"end_reason", map[string]uint64{
			"END_NONE":       uint64(fsm.EndNone),
			"END_EXPIRED":    uint64(fsm.EndExpired),
			"END_REUSED":     uint64(fsm.EndReused),
			"END_RESET":      uint64(fsm.EndReset),
			"END_NETNS":      uint64(fsm.EndNetNS),
			"END_KILLED":     uint64(fsm.EndKilled),
			"END_RESET_SENT": uint64(fsm.EndResetSent),
			"END_LISTENER":   uint64(fsm.EndListenerClosed),
		}},
		// Tracer.Losses takes the counters in this order.
		{"counter", map[string]uint64{
			"COUNT_RINGBUF_FULL": 0, "COUNT_NO_HISTORY": 1, "COUNT_RESCUED": 2,
			"COUNT_MINISOCKS": 3, "COUNTERS": 4,
		}},
	} {
		t.Run(test.enum, func(t *testing.T) {
			got := enumOf(t, "event.h", test.enum)
			for name, value := range got {
				if want, ok := test.want[name]; !ok {
					t.Errorf("%s = %d has no match in Go", name, value)
				} else if value != want {
					t.Errorf("%s = %d, Go has %d", name, value, want)
				}
			}
			for name := range test.want {
				if _, ok := got[name]; !ok {
					t.Errorf("%s is not in event.h", name)
				}
			}
		})
	}
}

// TestSourcesAreAllDecoded: a source that C knows and Go does not would stop the
// tracer.
func TestSourcesAreAllDecoded(t *testing.T) {
	fields, size := fieldsOf(t, loadSpec(t, objects[0].file), "snapshot")
	for name, enum := range map[string]string{"owner_source": "owner_source", "source": "event_source"} {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		for value, number := range enumOf(t, "event.h", enum) {
			record := make([]byte, size)
			record[fields[i].offset] = byte(number)
			var e events.Event
			if err := e.Decode(record); err != nil {
				t.Errorf("%s: %v", value, err)
			}
		}
	}
}

// TestResetUnspecified: C has one reason of its own.
func TestResetUnspecified(t *testing.T) {
	text, err := os.ReadFile("event.h")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`#define RESET_UNSPECIFIED (\d+)`).FindSubmatch(text)
	if m == nil {
		t.Fatal("event.h has no RESET_UNSPECIFIED")
	}
	if got := number(t, string(m[1])); got != uint64(events.ResetUnspecified) {
		t.Errorf("RESET_UNSPECIFIED is %d, Go has %d", got, events.ResetUnspecified)
	}
}

func TestCountersFitTheirMap(t *testing.T) {
	reasons := enumOf(t, "event.h", "counter")["COUNTERS"]
	for _, object := range objects {
		if n := loadSpec(t, object.file).Maps[tcptraceMapCounters].MaxEntries; uint64(n) != reasons {
			t.Errorf("%s: the map of the counters has %d entries, there are %d reasons", object.file, n, reasons)
		}
	}
}

var (
	comments   = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`)
	enumerator = regexp.MustCompile(`^(\w+)(?:\s*=\s*(?:(\d+)\s*<<\s*)?(\d+))?$`)
)

// enumOf reads an enum from a header. It understands NAME, NAME = 1 and
// NAME = 1 << 2.
func enumOf(t *testing.T, file, name string) map[string]uint64 {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	body := regexp.MustCompile(fmt.Sprintf(`enum %s \{([^}]*)\}`, name)).
		FindSubmatch(comments.ReplaceAll(text, nil))
	if body == nil {
		t.Fatalf("%s has no enum %s", file, name)
	}
	values := make(map[string]uint64)
	next := uint64(0)
	for line := range strings.SplitSeq(string(body[1]), ",") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		m := enumerator.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("%s: enum %s: cannot read %q", file, name, line)
		}
		if m[3] != "" {
			next = number(t, m[3])
		}
		if m[2] != "" {
			next = number(t, m[2]) << next
		}
		values[m[1]] = next
		next++
	}
	return values
}

func number(t *testing.T, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
