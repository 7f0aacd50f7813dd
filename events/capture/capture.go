// Package capture keeps records in files, so that everything that can be shown
// live can be shown again, anywhere.
//
// A file is a preamble (magic, version, length), a header in JSON with a
// checksum, and blocks. Each block is compressed by itself and carries its own
// checksum: what stands before a cut or a damaged block can be read. The last
// block says that the file is whole. docs/record-file.md describes every byte.
package capture

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"tcptrace/events"
)

// Version of the format that this package writes, and the highest it reads.
const Version = 1

// magic begins with a byte that is no text and holds both line ends, so that a
// transfer that mends line ends is noticed.
const magic = "\x89TCT\r\n\x1a\n"

const (
	preambleSize  = len(magic) + 2 + 2 + 4 // magic, version, reserved, header length
	blockHeadSize = 4 + 4 + 4              // stored length, raw length, checksum
	itemHeadSize  = 2 + 2                  // kind, length

	maxHeader = 64 << 10
	// A block is closed when it holds blockTarget bytes; no reader takes one
	// above maxBlock.
	blockTarget = 64 << 10
	maxBlock    = 1 << 20
)

// Kinds of items. A reader passes over kinds it does not know.
const (
	itemTransition = 1 // struct event or snapshot of bpf/event.h, in the header's byte order
	itemLoss       = 2 // time, count, reason
	itemEnd        = 3 // time
	itemName       = 4 // kind, id, text
	itemWalked     = 5 // start, time, whether it failed, namespaces not entered, in words
	itemClock      = 6 // time, offset
)

const (
	lossSize   = 8 + 8 + 1
	endSize    = 8
	nameSize   = 1 + 8         // and the text
	walkedSize = 8 + 8 + 1 + 2 // and the namespaces, and the text
	clockSize  = 8 + 8
)

// Header tells where and when a recording was made.
type Header struct {
	// Start is when tracing began, as events.Event.Time.
	Start uint64 `json:"start"`
	// ClockOffset is events.Clock.Offset, until the first events.ClockStep.
	ClockOffset int64 `json:"clock_offset"`
	// ByteOrder of the transitions: "little" or "big". Create sets it.
	ByteOrder string `json:"byte_order"`
	// Kernel is its release, BootID its /proc/sys/kernel/random/boot_id:
	// cookies and times of two recordings can be compared if it is the same.
	Kernel string `json:"kernel"`
	BootID string `json:"boot_id"`
	// Unmeasured says in words what was not measured, and why.
	Unmeasured []string `json:"unmeasured,omitempty"`
	// Program is the name and version of what wrote the file.
	Program string `json:"program"`
}

// Clock returns the clock of the recorded host, as it was at the start.
func (h *Header) Clock() events.Clock { return events.Clock{Offset: h.ClockOffset} }

var (
	// ErrForeign says that the file is no recording of tcptrace.
	ErrForeign = errors.New("not a tcptrace recording")
	// ErrNewer says that the file has a version of the format that is not known here.
	ErrNewer = errors.New("recorded by a newer tcptrace")
	// ErrTruncated says that the file ends before its end mark. All that came before it
	// has been delivered.
	ErrTruncated = errors.New("the recording is cut off")
	// ErrCorrupt says that the file is damaged. All that came before the damage has
	// been delivered.
	ErrCorrupt = errors.New("the recording is damaged")
)

// maxSkipped bounds the namespaces of an item. A walk that could not enter more is one
// that failed.
const maxSkipped = 1 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func nativeOrder() string {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return "little"
	}
	return "big"
}
