package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"reflect"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/events/eventstest"
)

// This file writes the format a second time, plainly, so that the tests can
// make files that Writer does not.

const magic = "\x89TCT\r\n\x1a\n"

func sum(parts ...[]byte) uint32 {
	return crc32.Checksum(bytes.Join(parts, nil), crc32.MakeTable(crc32.Castagnoli))
}

// head is all that stands before the blocks.
func head(version uint16, header string) []byte {
	b := []byte(magic)
	b = binary.LittleEndian.AppendUint16(b, version)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	return binary.LittleEndian.AppendUint32(b, sum(b))
}

func item(kind int, payload []byte) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(kind))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(payload)))
	return append(b, payload...)
}

func transition(e events.Event) []byte { return item(1, e.AppendRecord(nil)) }

func loss(l events.Loss) []byte {
	b := binary.LittleEndian.AppendUint64(nil, l.Time)
	b = binary.LittleEndian.AppendUint64(b, l.Count)
	return item(2, append(b, byte(l.Reason)))
}

func name(n events.Name) []byte {
	b := binary.LittleEndian.AppendUint64([]byte{byte(n.Kind)}, n.ID)
	return item(4, append(b, n.Text...))
}

func clockStep(s events.ClockStep) []byte {
	return item(6, binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, s.Time), uint64(s.Offset)))
}

func walked(w events.Walked) []byte {
	b := binary.LittleEndian.AppendUint64(nil, w.Start)
	b = append(binary.LittleEndian.AppendUint64(b, w.Time), 0)
	if w.Failed {
		b[len(b)-1] = 1
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(w.Skipped)))
	for _, inode := range w.Skipped {
		b = binary.LittleEndian.AppendUint32(b, inode)
	}
	return item(5, append(b, w.Unseen...))
}

func end(time uint64) []byte { return item(3, binary.LittleEndian.AppendUint64(nil, time)) }

var encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)) // of no options but good ones

func block(items ...[]byte) []byte {
	raw := bytes.Join(items, nil)
	return packed(len(raw), encoder.EncodeAll(raw, nil))
}

// packed is a block that says to unpack to so many bytes.
func packed(raw int, stored []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(stored)))
	b = binary.LittleEndian.AppendUint32(b, uint32(raw))
	b = binary.LittleEndian.AppendUint32(b, sum(b, stored))
	return append(b, stored...)
}

var (
	thisOrder, otherOrder = byteOrders()
	thisHead              = head(1, fmt.Sprintf(`{"byte_order":%q}`, thisOrder))
)

func byteOrders() (this, other string) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return "little", "big"
	}
	return "big", "little"
}

func file(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// read returns all that a file holds, when it ends, and the error that ended
// the reading.
func read(b []byte) (list []events.Record, end uint64, err error) {
	r, err := capture.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	for {
		var rec events.Record
		if err := r.Read(&rec); err != nil {
			return list, r.End(), err
		}
		list = append(list, rec)
	}
}

// mustRead is read of a whole file.
func mustRead(t *testing.T, b []byte) ([]events.Record, uint64) {
	t.Helper()
	list, end, err := read(b)
	if err != io.EOF {
		t.Fatalf("after %d records: %v", len(list), err)
	}
	return list, end
}

// transitions makes records of events.
func transitions(list []events.Event) (records []events.Record) {
	for _, e := range list {
		records = append(records, events.Record{Kind: events.KindTransition, Event: e})
	}
	return records
}

func churn(connections int) []events.Event {
	s := eventstest.New(eventstest.Start)
	s.Churn(connections)
	return s.Events()
}

// blames reports whether the error is one of those that blame the file.
func blames(err error) bool {
	for _, target := range []error{capture.ErrForeign, capture.ErrNewer, capture.ErrTruncated, capture.ErrCorrupt} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func sameRecords(a, b []events.Record) bool {
	return slices.EqualFunc(a, b, func(a, b events.Record) bool { return reflect.DeepEqual(a, b) })
}
