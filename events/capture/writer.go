package capture

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"tcptrace/events"
)

// Writer writes a recording. It may be used from one goroutine at a time.
//
// After an error, the file holds whole blocks up to somewhere before it and
// nothing more can be written.
type Writer struct {
	w       io.Writer
	encoder *zstd.Encoder
	raw     []byte // the items of the open block
	stored  []byte // reused
	err     error
}

// NewWriter writes the header. The caller closes w, after [Writer.Close].
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	h.ByteOrder = nativeOrder()
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the header: %w", err)
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, fmt.Errorf("start compression: %w", err)
	}
	b := append([]byte(nil), magic...)
	b = binary.LittleEndian.AppendUint16(b, Version)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, text...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := w.Write(b); err != nil {
		return nil, fmt.Errorf("write the header: %w", err)
	}
	return &Writer{w: w, encoder: encoder, raw: make([]byte, 0, blockTarget+maxItem)}, nil
}

// maxItem bounds the items of Write, for the capacity of a block.
const maxItem = itemHeadSize + max(events.SnapshotSize, max(nameSize, walkedSize+4*maxSkipped)+events.MaxName)

// Write appends a record; an idle moment is none. Of a text it keeps
// [events.MaxName] bytes.
func (w *Writer) Write(r *events.Record) error {
	if w.err != nil {
		return w.err
	}
	switch r.Kind {
	case events.KindTransition:
		size := events.RecordSize
		if r.Event.Source == events.SourceSnapshot {
			size = events.SnapshotSize
		}
		w.head(itemTransition, uint16(size))
		w.raw = r.Event.AppendRecord(w.raw)
	case events.KindLoss:
		w.head(itemLoss, lossSize)
		w.raw = binary.LittleEndian.AppendUint64(w.raw, r.Loss.Time)
		w.raw = binary.LittleEndian.AppendUint64(w.raw, r.Loss.Count)
		w.raw = append(w.raw, byte(r.Loss.Reason))
	case events.KindName:
		text := bounded(r.Name.Text)
		w.head(itemName, uint16(nameSize+len(text)))
		w.raw = append(w.raw, byte(r.Name.Kind))
		w.raw = binary.LittleEndian.AppendUint64(w.raw, r.Name.ID)
		w.raw = append(w.raw, text...)
	case events.KindWalked:
		unseen, skipped := bounded(r.Walked.Unseen), r.Walked.Skipped
		tooMany := len(skipped) > maxSkipped
		skipped = skipped[:min(len(skipped), maxSkipped)]
		w.head(itemWalked, uint16(walkedSize+4*len(skipped)+len(unseen)))
		w.raw = binary.LittleEndian.AppendUint64(w.raw, r.Walked.Start)
		w.raw = binary.LittleEndian.AppendUint64(w.raw, r.Walked.Time)
		failed := byte(0)
		if r.Walked.Failed || tooMany {
			failed = 1
		}
		w.raw = append(w.raw, failed)
		w.raw = binary.LittleEndian.AppendUint16(w.raw, uint16(len(skipped)))
		for _, inode := range skipped {
			w.raw = binary.LittleEndian.AppendUint32(w.raw, inode)
		}
		w.raw = append(w.raw, unseen...)
	case events.KindClock:
		w.head(itemClock, clockSize)
		w.raw = binary.LittleEndian.AppendUint64(w.raw, r.Clock.Time)
		w.raw = binary.LittleEndian.AppendUint64(w.raw, uint64(r.Clock.Offset))
	}
	if len(w.raw) >= blockTarget {
		return w.Flush()
	}
	return nil
}

// bounded cuts a text to what an item can hold of it.
func bounded[T string | []byte](text T) T { return text[:min(len(text), events.MaxName)] }

func (w *Writer) head(kind, size uint16) {
	w.raw = binary.LittleEndian.AppendUint16(w.raw, kind)
	w.raw = binary.LittleEndian.AppendUint16(w.raw, size)
}

// Flush closes the open block and writes it, so that it survives whatever
// comes. Small blocks compress badly: once a second is often enough.
func (w *Writer) Flush() error {
	if w.err != nil || len(w.raw) == 0 {
		return w.err
	}
	b := append(w.stored[:0], make([]byte, blockHeadSize)...)
	b = w.encoder.EncodeAll(w.raw, b)
	binary.LittleEndian.PutUint32(b[0:], uint32(len(b)-blockHeadSize))
	binary.LittleEndian.PutUint32(b[4:], uint32(len(w.raw)))
	binary.LittleEndian.PutUint32(b[8:], blockSum(b[:8], b[blockHeadSize:]))
	w.stored, w.raw = b, w.raw[:0]
	if _, err := w.w.Write(b); err != nil {
		w.err = fmt.Errorf("write the recording: %w", err)
	}
	return w.err
}

// Close marks the recording as whole, ended at the given time, and writes what
// is left. It does not close the underlying writer.
func (w *Writer) Close(end uint64) error {
	w.head(itemEnd, endSize)
	w.raw = binary.LittleEndian.AppendUint64(w.raw, end)
	return errors.Join(w.Flush(), w.encoder.Close())
}

func blockSum(lengths, stored []byte) uint32 {
	return crc32.Update(crc32.Checksum(lengths, castagnoli), castagnoli, stored)
}
