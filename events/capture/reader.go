package capture

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"tcptrace/events"
)

// Reader reads a recording. It may be used from one goroutine at a time.
type Reader struct {
	header  Header
	swap    bool
	r       *bufio.Reader
	decoder *zstd.Decoder
	stored  []byte // of the present block
	raw     []byte // of the present block
	items   []byte // of raw, not yet read
	block   int    // number of the present block, from 1
	end     uint64
	err     error
}

// NewReader reads the header. The caller closes r, after [Reader.Close]. The
// error wraps [ErrForeign], [ErrNewer], [ErrTruncated] or [ErrCorrupt] where
// the file is to blame.
func NewReader(r io.Reader) (*Reader, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	preamble := make([]byte, preambleSize)
	n, err := io.ReadFull(br, preamble)
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: it is empty", ErrForeign)
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, err
	case string(preamble[:min(n, len(magic))]) != magic[:min(n, len(magic))]:
		return nil, ErrForeign
	case err != nil:
		return nil, fmt.Errorf("%w in its header", ErrTruncated)
	}
	if v := binary.LittleEndian.Uint16(preamble[len(magic):]); v > Version {
		return nil, fmt.Errorf("%w: format %d, this one reads up to %d", ErrNewer, v, Version)
	}
	size := binary.LittleEndian.Uint32(preamble[len(magic)+4:])
	if size > maxHeader {
		return nil, fmt.Errorf("%w: header of %d bytes", ErrCorrupt, size)
	}
	text := make([]byte, size+4)
	if _, err := io.ReadFull(br, text); err != nil {
		return nil, cut(err, "in its header")
	}
	text, sum := text[:size], binary.LittleEndian.Uint32(text[size:])
	if crc32.Update(crc32.Checksum(preamble, castagnoli), castagnoli, text) != sum {
		return nil, fmt.Errorf("%w: wrong checksum of the header", ErrCorrupt)
	}
	reader := &Reader{r: br}
	if err := json.Unmarshal(text, &reader.header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrCorrupt, err)
	}
	switch reader.header.ByteOrder {
	case "little", "big":
		reader.swap = reader.header.ByteOrder != nativeOrder()
	default:
		return nil, fmt.Errorf("%w: byte order %q", ErrCorrupt, reader.header.ByteOrder)
	}
	if reader.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock)); err != nil {
		return nil, fmt.Errorf("start decompression: %w", err)
	}
	return reader, nil
}

// Header returns the header.
func (r *Reader) Header() *Header { return &r.header }

// End returns the time at which the recording was ended, as
// events.Event.Time. It is 0 before Read has returned [io.EOF].
func (r *Reader) End() uint64 { return r.end }

// Close frees the memory of the decoder.
func (r *Reader) Close() { r.decoder.Close() }

// Read stores the next record in rec: any but an idle moment. At the end of a whole
// recording it returns [io.EOF]; otherwise an error that wraps [ErrTruncated]
// or [ErrCorrupt] where the file is to blame. It does not allocate for each
// record, but for texts.
func (r *Reader) Read(rec *events.Record) error {
	for r.err == nil {
		if len(r.items) == 0 {
			r.err = r.nextBlock()
			continue
		}
		kind, payload, err := r.nextItem()
		if err != nil {
			r.err = r.damage("%w", err)
			break
		}
		switch kind {
		case itemTransition:
			if r.swap {
				events.SwapRecord(payload)
			}
			if err := rec.Event.Decode(payload); err != nil {
				r.err = r.damage("%w", err)
				break
			}
			rec.Kind = events.KindTransition
			return nil
		case itemLoss:
			rec.Kind = events.KindLoss
			rec.Loss = events.Loss{
				Time:   binary.LittleEndian.Uint64(payload),
				Count:  binary.LittleEndian.Uint64(payload[8:]),
				Reason: events.LossReason(payload[16]),
			}
			return nil
		case itemName:
			rec.Kind = events.KindName
			rec.Name = events.Name{
				Kind: events.NameKind(payload[0]),
				ID:   binary.LittleEndian.Uint64(payload[1:]),
				Text: string(bounded(payload[nameSize:])),
			}
			return nil
		case itemWalked:
			if rec.Walked, err = readWalked(payload); err != nil {
				r.err = r.damage("%w", err)
				break
			}
			rec.Kind = events.KindWalked
			return nil
		case itemClock:
			rec.Kind = events.KindClock
			rec.Clock = events.ClockStep{
				Time:   binary.LittleEndian.Uint64(payload),
				Offset: int64(binary.LittleEndian.Uint64(payload[8:])),
			}
			return nil
		case itemEnd:
			r.end = binary.LittleEndian.Uint64(payload)
			r.err = io.EOF
		}
	}
	return r.err
}

// minSizes are the least payloads of the kinds; a transition is judged by itself.
var minSizes = [...]int{itemLoss: lossSize, itemEnd: endSize, itemName: nameSize, itemWalked: walkedSize, itemClock: clockSize}

func readWalked(b []byte) (w events.Walked, err error) {
	w = events.Walked{
		Start:  binary.LittleEndian.Uint64(b),
		Time:   binary.LittleEndian.Uint64(b[8:]),
		Failed: b[16] != 0,
	}
	n, rest := int(binary.LittleEndian.Uint16(b[17:])), b[walkedSize:]
	if len(rest) < 4*n {
		return w, fmt.Errorf("the end of a walk has %d bytes for %d namespaces", len(rest), n)
	}
	for i := range n {
		w.Skipped = append(w.Skipped, binary.LittleEndian.Uint32(rest[4*i:]))
	}
	w.Unseen = string(bounded(rest[4*n:]))
	return w, nil
}

func (r *Reader) nextItem() (kind uint16, payload []byte, err error) {
	if len(r.items) < itemHeadSize {
		return 0, nil, errors.New("an item is cut off")
	}
	kind = binary.LittleEndian.Uint16(r.items)
	size := int(binary.LittleEndian.Uint16(r.items[2:]))
	rest := r.items[itemHeadSize:]
	if len(rest) < size {
		return 0, nil, errors.New("an item is cut off")
	}
	if kind < uint16(len(minSizes)) && size < minSizes[kind] {
		return 0, nil, fmt.Errorf("an item of kind %d has %d bytes", kind, size)
	}
	r.items = rest[size:]
	return kind, rest[:size], nil
}

func (r *Reader) nextBlock() error {
	r.block++
	var head [blockHeadSize]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return r.cut(err)
	}
	stored, raw := binary.LittleEndian.Uint32(head[0:]), binary.LittleEndian.Uint32(head[4:])
	if stored > maxBlock || raw > maxBlock {
		return r.damage("its size is %d, %d unpacked", stored, raw)
	}
	if cap(r.stored) < int(stored) {
		r.stored = make([]byte, stored)
	}
	r.stored = r.stored[:stored]
	if _, err := io.ReadFull(r.r, r.stored); err != nil {
		return r.cut(err)
	}
	if blockSum(head[:8], r.stored) != binary.LittleEndian.Uint32(head[8:]) {
		return r.damage("wrong checksum")
	}
	var err error
	if r.raw, err = r.decoder.DecodeAll(r.stored, r.raw[:0]); err != nil {
		return r.damage("%w", err)
	}
	if len(r.raw) != int(raw) {
		return r.damage("%d bytes unpacked, want %d", len(r.raw), raw)
	}
	r.items = r.raw
	return nil
}

func (r *Reader) cut(err error) error { return cut(err, fmt.Sprintf("in block %d", r.block)) }

// cut tells the end of the file from a failure to read it.
func cut(err error, where string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w %s", ErrTruncated, where)
	}
	return err
}

func (r *Reader) damage(format string, args ...any) error {
	return fmt.Errorf("%w: block %d: "+format, append([]any{ErrCorrupt, r.block}, args...)...)
}
