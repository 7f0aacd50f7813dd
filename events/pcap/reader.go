package pcap

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// What can be wrong with a capture.
var (
	// ErrForeign: it is no capture.
	ErrForeign = errors.New("no capture of packets")
	// ErrCutOff: it ends in the middle of a packet.
	ErrCutOff = errors.New("the capture is cut off")
	// ErrCorrupt: what should be a packet is none, or what should be compressed is not.
	ErrCorrupt = errors.New("the capture is damaged")
	// ErrLinkType: its packets begin with a header that is not understood.
	ErrLinkType = errors.New("the link type is not understood")
)

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	ngMagic   = []byte{0x0a, 0x0d, 0x0d, 0x0a}
	magics    = [][]byte{
		gzipMagic, zstdMagic, ngMagic,
		{0xa1, 0xb2, 0xc3, 0xd4}, {0xd4, 0xc3, 0xb2, 0xa1}, // microseconds
		{0xa1, 0xb2, 0x3c, 0x4d}, {0x4d, 0x3c, 0xb2, 0xa1}, // nanoseconds
	}
)

// MagicSize is how many bytes Recognize looks at.
const MagicSize = 4

// Recognize reports whether a file that begins with the bytes may be a capture.
// Compressed, it may be of anything.
func Recognize(begin []byte) bool {
	for _, m := range magics {
		if bytes.HasPrefix(begin, m) {
			return true
		}
	}
	return false
}

// Counts says what a capture has had so far, and what of it was of no use.
type Counts struct {
	Packets uint64 // all of them
	// Segments of TCP that were read.
	Segments uint64
	// Other than TCP over IP.
	Other uint64
	// Fragments of IP packets, of which no segment can be told.
	Fragments uint64
	// Truncated: the snapshot ends before the ports and flags of TCP do.
	Truncated uint64
	// Malformed: headers that contradict themselves.
	Malformed uint64
	// UnknownLink: packets of an interface whose link type is not understood.
	UnknownLink uint64
	// Undated: packets that have no time. They get that of the packet before.
	Undated uint64
	// Backwards: packets dated before the one before them. They get its time.
	Backwards uint64
}

// Reader reads a capture. It may be used from one goroutine at a time.
type Reader struct {
	input    *bufio.Reader // as it is in the file
	unpacked bounded
	source   source
	zstd     *zstd.Decoder // nil: none
	link     layers.LinkType
	mixed    bool // the link type is of each packet
	plain    bool // not compressed
	last     uint64
	counts   Counts
}

// source is what both formats of gopacket have in common.
type source interface {
	ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error)
}

// inputSize is large enough that pcapgo reads from it without a buffer of its own.
const inputSize = 256 << 10

// maxPacket bounds what is read for one packet, with all blocks before it: the lengths in a
// compressed capture cost nothing to write.
const maxPacket = 64 << 20

var errLong = fmt.Errorf("more than %d MiB for one packet", maxPacket>>20)

// bounded reads no more than what is left.
type bounded struct {
	from io.Reader
	left int
}

func (b *bounded) Read(p []byte) (n int, err error) {
	if b.left <= 0 {
		return 0, errLong
	}
	n, err = b.from.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// maxWindow bounds what a compressed capture can make the decoder hold.
const maxWindow = 128 << 20

// NewReader reads the beginning of a capture. The reader need not be closed, but Close
// frees the decoder of a compressed one.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{input: bufio.NewReaderSize(in, inputSize)}
	if err := r.open(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Reader) open() error {
	begin, err := r.input.Peek(MagicSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	r.unpacked = bounded{r.input, maxPacket}
	switch {
	case bytes.HasPrefix(begin, gzipMagic):
		z, err := gzip.NewReader(r.input)
		if err != nil {
			return explain(err)
		}
		r.unpacked.from = z
	case bytes.HasPrefix(begin, zstdMagic):
		if r.zstd, err = zstd.NewReader(r.input, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
			return explain(err)
		}
		r.unpacked.from = r.zstd
	default:
		r.plain = true
	}
	content := bufio.NewReaderSize(&r.unpacked, inputSize) // as it is, gopacket makes no smaller one
	if begin, err = content.Peek(MagicSize); err != nil && !errors.Is(err, io.EOF) {
		return explain(err)
	}
	if len(begin) < MagicSize || !Recognize(begin) || bytes.HasPrefix(begin, gzipMagic) || bytes.HasPrefix(begin, zstdMagic) {
		return ErrForeign
	}
	if bytes.HasPrefix(begin, ngMagic) {
		r.mixed = true
		ng, err := pcapgo.NewNgReader(content, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
		if err != nil {
			return explain(err)
		}
		r.source = ng
		return nil
	}
	old, err := pcapgo.NewReader(content)
	if err != nil {
		return explain(err)
	}
	r.source, r.link = old, old.LinkType()
	if !understood(r.link) {
		return fmt.Errorf("%w: %d (%v); those of Ethernet, Linux cooked, raw IP and loopback captures are", ErrLinkType, r.link, r.link)
	}
	return nil
}

// explain makes of an error of a library one of this package. That of a file system
// stays what it is.
func explain(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return ErrCutOff
	case errors.As(err, new(interface{ Timeout() bool })):
		return err // of the operating system
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// Next stores the next TCP segment, and returns io.EOF after the last. After an error
// the segment means nothing; all before it were whole.
func (r *Reader) Next(s *Segment) error {
	for {
		r.unpacked.left = maxPacket
		data, info, err := r.source.ZeroCopyReadPacketData()
		if err != nil {
			if errors.Is(err, io.EOF) && (r.mixed || info.CaptureLength == 0) { // between two packets
				return io.EOF
			}
			return explain(err)
		}
		r.counts.Packets++
		link := r.link
		if r.mixed && len(info.AncillaryData) > 0 {
			link, _ = info.AncillaryData[0].(layers.LinkType)
		}
		if !r.decode(link, data, info.Length, s) {
			continue
		}
		r.date(info, s)
		r.counts.Segments++
		return nil
	}
}

// date gives the segment its time. Times never go back.
func (r *Reader) date(info gopacket.CaptureInfo, s *Segment) {
	s.Time = r.last
	switch t := info.Timestamp.UnixNano(); {
	case info.Timestamp.IsZero() || t <= 0:
		r.counts.Undated++
	case uint64(t) < r.last:
		r.counts.Backwards++
	default:
		s.Time = uint64(t)
		r.last = s.Time
	}
}

// Waits reports whether the next call of Next may have to wait for the input.
func (r *Reader) Waits() bool { return r.plain && r.input.Buffered() == 0 }

// Counts returns what was read so far.
func (r *Reader) Counts() Counts { return r.counts }

// Close frees what decompression takes. It does not close the input.
func (r *Reader) Close() {
	if r.zstd != nil {
		r.zstd.Close()
	}
}
