package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// DefaultBufferSize is the size of all ring buffers together in bytes, but for hosts
// with so many CPUs that the share of one would be below minRing: about 100,000 records,
// 0.3 s of the fastest loopback churn on a small host.
const DefaultBufferSize = 16 << 20

// minRing is what a CPU gets at least by default: 3,000 records.
const minRing = 512 << 10

// pollInterval bounds how long a record waits in the rings of an idle host.
// Records do not wake the reader: a wake-up costs several times the record.
const pollInterval = 80 * time.Millisecond

// ringSize returns the size of the ring of each of n CPUs.
func (o *Options) ringSize(n int) int {
	total, least := o.BufferSize, os.Getpagesize()
	if total == 0 {
		total, least = DefaultBufferSize, minRing
	}
	share := total >> bits.Len(uint(n-1)) // a power of two again
	return max(share, least)
}

// rings are the ring buffers of the CPUs, read as one in the order of time.
type rings struct {
	all      []ring
	bell     *ringbuf.Reader
	rung     ringbuf.Record
	interval time.Duration
	taken    *ring  // was read last, so its next may be older than all others
	lookedAt uint64 // when the rings without a head were seen to be empty, CLOCK_BOOTTIME
	due      bool   // to say that nothing is waiting
	flushed  bool   // there will be nothing new
}

// ring is that of a CPU.
type ring struct {
	reader *ringbuf.Reader
	head   ringbuf.Record // the record to be read next, if has
	time   uint64         // its
	has    bool
}

// ringCount is how many there are.
func ringCount() int { return runtime.NumCPU() }

// configureRings sets how many rings there are and their size, before loading.
func configureRings(spec *ebpf.CollectionSpec, o *Options) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	outer := spec.Maps[tcptraceMapRings]
	outer.MaxEntries = uint32(cpus)
	outer.InnerMap.MaxEntries = uint32(o.ringSize(ringCount()))
	return nil
}

// openRings makes the rings, and has the programs write to them.
func openRings(m *tcptraceMaps, spec *ebpf.MapSpec, interval time.Duration) (_ *rings, err error) {
	r := &rings{all: make([]ring, ringCount()), interval: interval}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.bell, err = ringbuf.NewReader(m.Bell); err != nil {
		return nil, fmt.Errorf("open the ring buffer that wakes: %w", err)
	}
	r.bell.SetDeadline(time.Now().Add(interval))
	for i := range r.all {
		if err := r.all[i].open(m.Rings, spec.InnerMap, i, len(r.all)); err != nil {
			return nil, fmt.Errorf("open the ring buffer of a CPU: %w", err)
		}
	}
	return r, nil
}

// open makes a ring, which is for every nth CPU.
func (r *ring) open(outer *ebpf.Map, spec *ebpf.MapSpec, first, n int) error {
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	// The reader will have mapped it, and the programs have it from the outer.
	defer inner.Close()
	for cpu := first; cpu < int(outer.MaxEntries()); cpu += n {
		if err := outer.Put(uint32(cpu), inner); err != nil {
			return err
		}
	}
	if r.reader, err = ringbuf.NewReader(inner); err != nil {
		return err
	}
	r.reader.SetDeadline(time.Unix(0, 1)) // it is asked only when there is something
	return nil
}

// fill reads the head, if there is one.
func (r *ring) fill() error {
	for !r.has && r.reader.AvailableBytes() > 0 {
		switch err := r.reader.ReadInto(&r.head); {
		case err == nil:
			if len(r.head.RawSample) < 8 {
				return fmt.Errorf("read the ring buffer: a record of %d bytes", len(r.head.RawSample))
			}
			r.time, r.has = binary.NativeEndian.Uint64(r.head.RawSample), true
		case errors.Is(err, os.ErrDeadlineExceeded): // of when it was empty last
		default:
			return fmt.Errorf("read the ring buffer: %w", err)
		}
	}
	return nil
}

// next returns the ring with the oldest head, nil where all are empty.
func (r *rings) next() (*ring, error) {
	if r.taken != nil {
		r.taken.has = false
		if err := r.taken.fill(); err != nil {
			return nil, err
		}
		r.taken = nil
	}
	first := r.oldest()
	if first != nil && first.time <= r.lookedAt {
		return first, nil
	}
	// What has come since to one that was empty may be older.
	now, err := Now()
	if err != nil {
		return nil, err
	}
	r.lookedAt = now
	for i := range r.all {
		if err := r.all[i].fill(); err != nil {
			return nil, err
		}
	}
	return r.oldest(), nil
}

func (r *rings) oldest() (first *ring) {
	for i := range r.all {
		if one := &r.all[i]; one.has && (first == nil || one.time < first.time) {
			first = one
		}
	}
	return first
}

// read returns the next record, see [Tracer.Read].
func (r *rings) read() ([]byte, error) {
	for {
		first, err := r.next()
		switch {
		case err != nil:
			return nil, err
		case first != nil:
			r.taken = first
			return first.head.RawSample, nil
		case r.flushed:
			return nil, io.EOF
		case r.due:
			r.due = false
			r.bell.SetDeadline(time.Now().Add(r.interval))
			return nil, ErrIdle
		}
		switch err := r.bell.ReadInto(&r.rung); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			r.due = true // when what there is has been read
		case errors.Is(err, ringbuf.ErrFlushed):
			r.flushed = true
		case err != nil:
			return nil, fmt.Errorf("wait for the ring buffers: %w", err)
		}
	}
}

// idleWithin has the next read that finds nothing say so by then, once.
func (r *rings) idleWithin(d time.Duration) { r.bell.SetDeadline(time.Now().Add(d)) }

// flush lets read run to its end.
func (r *rings) flush() error { return r.bell.Flush() }

func (r *rings) close() error {
	var errs []error
	if r.bell != nil {
		errs = append(errs, r.bell.Close())
	}
	for _, one := range r.all {
		if one.reader != nil {
			errs = append(errs, one.reader.Close())
		}
	}
	return errors.Join(errs...)
}
