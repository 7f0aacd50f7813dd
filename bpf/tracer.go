package bpf

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ErrUnsupported says that this kernel, or the privileges of this process, do
// not allow tracing. The error that wraps it names what is missing.
var ErrUnsupported = errors.New("tracing is not possible here")

// ErrIdle is returned by [Tracer.Read] when the ring has been read empty. It is
// no end: the next call waits for more.
var ErrIdle = errors.New("no records waiting")

// Options choose what is traced. The zero value, like nil, traces every TCP
// socket of the host.
//
// The filters run in the kernel and let through whatever they cannot decide
// there: a port that is still 0, the address family of a socket without
// addresses. The reader decides those.
type Options struct {
	// BufferSize of the rings of all CPUs together in bytes: a power of two and a
	// multiple of the page size, of which each CPU has one at least. 0 means
	// DefaultBufferSize.
	BufferSize int
	// Family is AF_INET or AF_INET6, as on the wire: a v4-mapped address
	// counts as IPv4. 0 means both.
	Family uint16
	// NetNS is the inode of a network namespace. 0 means all.
	NetNS uint32
	// Cgroups are ids of cgroups. Empty means all.
	Cgroups []uint64
	// LocalPorts, RemotePorts, EitherPorts report the ports wanted. A nil
	// function means any.
	LocalPorts, RemotePorts, EitherPorts func(port uint16) bool
	// WalkOnly attaches to nothing: there is only what [Tracer.Walk] finds.
	WalkOnly bool
	// NoTimers leaves out what the timers of the kernel tell: TIME_WAIT and
	// FIN_WAIT_2 in minisocks, and handshakes.
	NoTimers bool
	noReads  bool // see reads of tcptrace.bpf.c
	// Counting is what is counted in the kernel instead of being sent; nil: nothing.
	Counting *Counting
	// ResetReasons numbers the names of enum sk_rst_reason, without
	// SK_RST_REASON_, from 2 on. Others are recorded as 1.
	ResetReasons map[string]uint8
}

// WantsPorts reports whether a socket with these ports is wanted, as far as they say; nil:
// any is.
func (o *Options) WantsPorts() func(local, remote uint16) bool {
	if o.LocalPorts == nil && o.RemotePorts == nil && o.EitherPorts == nil {
		return nil
	}
	wants := func(ports func(uint16) bool, port uint16) bool { return ports == nil || ports(port) }
	return func(local, remote uint16) bool {
		return wants(o.LocalPorts, local) && wants(o.RemotePorts, remote) && (wants(o.EitherPorts, local) || wants(o.EitherPorts, remote))
	}
}

// Losses counts what is missing from the records, since the tracer was opened.
type Losses struct {
	// RingFull counts records for which the ring buffer had no room.
	RingFull uint64
	// History counts records sent without history (sequence, owner, entry
	// time), because the kernel had no memory for it.
	History uint64
	// Missed counts transitions that the kernel passed over, because they interrupted
	// both programs on the same CPU, and resets of which it did so.
	Missed uint64
	// Minisocks counts those that are not followed, of the sockets of the whole host:
	// there was no room, or they had ended when their socket came to them.
	Minisocks uint64
}

// Tracer is the attached kernel side. Its methods may be used from one
// goroutine at a time, but for [Tracer.Walk].
type Tracer struct {
	objects tcptraceObjects
	links   []link.Link // in the order of attaching
	rings   *rings

	timeWait, halfOpen error
	endReasons         error // why it is not known what ends a minisock before its time

	sockets, files *link.Iter
	walkErr        error     // why there is no walking
	noMinisocks    error     // why walks leave out minisocks and handshakes
	walks          uint32    // so far
	netns          uint32    // the only one wanted; 0: all
	counting       *Counting // nil: everything is sent
}

// neededFiles returns how many files are open by and by: maps, programs, links, rings,
// and what the caller has.
func neededFiles() uint64 { return 60 + 4*uint64(ringCount()) }

// Open loads the programs and attaches them. The records start with the first
// transition after it returns. The error wraps [ErrUnsupported] where kernel or
// privileges do not allow it.
func Open(o *Options) (*Tracer, error) {
	if o == nil {
		o = &Options{}
	}
	// Without them the library takes the kernel for one that can do little.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil && files.Cur < neededFiles() {
		return nil, fmt.Errorf("only %d files may be open, and %d are needed: raise the limit (ulimit -n)", files.Cur, neededFiles())
	}
	t, err := open(o)
	if err == nil {
		return t, nil
	}
	// A kernel that refuses the timer programs alone, or to read its memory, can still be
	// traced.
	less, why := *o, err
	less.NoTimers = true
	if haveProbeRead() != nil {
		less.noReads, why = true, errNoReads
	}
	if less.noReads || !o.NoTimers && !o.WalkOnly {
		if t, errLess := open(&less); errLess == nil {
			if !o.NoTimers && !o.WalkOnly {
				t.timeWait, t.halfOpen = why, why
			}
			return t, nil
		}
	}
	if errors.Is(err, unix.ENOMEM) {
		return nil, fmt.Errorf("%w: the buffers take %d KiB: choose smaller ones, or give more memory (limit of the cgroup)", err, ringCount()*o.ringSize(ringCount())>>10)
	}
	// The kernel's own words seldom name the cause; the probes do.
	for _, r := range Requirements() {
		if !r.Optional && r.Err != nil {
			return nil, fmt.Errorf("%w: %s: %w: %s", ErrUnsupported, r.Name, r.Err, r.Remedy)
		}
	}
	return nil, err
}

func open(o *Options) (_ *Tracer, err error) {
	spec, err := loadTcptrace()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	t := &Tracer{netns: o.NetNS, counting: o.Counting, endReasons: ErrSwitchedOff}
	if o.noReads {
		t.noMinisocks = errNoReads
	}
	var enders [enderCount]ender
	types := btf.NewCache() // the kernel's are read once: it takes half as long as loading
	if !o.NoTimers && !o.WalkOnly {
		if err := haveAllocator(types); err != nil {
			return nil, err
		}
		enders, t.endReasons = findEnders()
	}
	if err := configure(spec, o, types, &enders); err != nil {
		return nil, err
	}

	interval := pollInterval
	if o.WalkOnly { // its end is waited for
		interval = walkPause
	}
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	if err := t.load(spec, o, types); err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	if err := fillFilters(&t.objects.tcptraceMaps, o); err != nil {
		return nil, err
	}
	if err := o.Counting.fill(&t.objects.tcptraceMaps); err != nil {
		return nil, fmt.Errorf("set the bounds of times: %w", err)
	}
	if t.rings, err = openRings(&t.objects.tcptraceMaps, spec.Maps[tcptraceMapRings], interval); err != nil {
		return nil, err
	}
	t.walkErr = t.attachIterators()
	if o.WalkOnly {
		t.timeWait, t.halfOpen = ErrSwitchedOff, ErrSwitchedOff
		return t, t.walkErr
	}
	if err := t.attachTimers(o); err != nil {
		return nil, err
	}
	// In this order: the second takes what the kernel did not run the first for.
	if err := t.attach(t.objects.SetState, t.objects.SetStateAgain, t.objects.SendReset, t.objects.Received); err != nil {
		return nil, err
	}
	return t, t.objects.Attached.Set(true)
}

// load loads what is needed.
func (t *Tracer) load(spec *ebpf.CollectionSpec, o *Options, types *btf.Cache) error {
	options := &ebpf.CollectionOptions{Cache: types}
	if !o.WalkOnly {
		return spec.LoadAndAssign(&t.objects, options)
	}
	var only struct {
		WalkSockets *ebpf.Program `ebpf:"walk_sockets"`
		WalkFiles   *ebpf.Program `ebpf:"walk_files"`
		tcptraceMaps
		tcptraceVariables
	}
	if err := spec.LoadAndAssign(&only, options); err != nil {
		return err
	}
	t.objects.WalkSockets, t.objects.WalkFiles = only.WalkSockets, only.WalkFiles
	t.objects.tcptraceMaps, t.objects.tcptraceVariables = only.tcptraceMaps, only.tcptraceVariables
	return nil
}

func (t *Tracer) attachIterators() (err error) {
	if t.sockets, err = link.AttachIter(link.IterOptions{Program: t.objects.WalkSockets}); err != nil {
		return fmt.Errorf("attach the walk over sockets: %w", err)
	}
	if t.files, err = link.AttachIter(link.IterOptions{Program: t.objects.WalkFiles}); err != nil {
		return fmt.Errorf("attach the walk over files: %w", err)
	}
	return nil
}

func (t *Tracer) attach(programs ...*ebpf.Program) error {
	for _, program := range programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			return fmt.Errorf("attach %v: %w", program, err)
		}
		t.links = append(t.links, l)
	}
	return nil
}

// attachTimers comes before the transitions: that a socket leaves no minisock
// can be said only if it would have been seen. Where the timers do not show
// what they should, the rest works without them.
func (t *Tracer) attachTimers(o *Options) error {
	if o.NoTimers {
		t.timeWait, t.halfOpen = ErrSwitchedOff, ErrSwitchedOff
		return nil
	}
	// The other way round an end would be seen that is none, as the timer is set again.
	err := t.attach(t.objects.TimerStart, t.objects.TimerExpireEntry, t.objects.TimerCancel)
	if err != nil {
		return err
	}
	if t.timeWait, t.halfOpen = t.learnTimers(); t.timeWait == nil {
		return nil
	}
	if t.halfOpen == nil {
		t.halfOpen = t.timeWait
	}
	v := &t.objects.tcptraceVariables
	return errors.Join(t.detach(), v.MinisockHandler.Set(uint64(0)), v.RequestHandler.Set(uint64(0)))
}

// TimeWait returns nil if TIME_WAIT is measured, else why not.
func (t *Tracer) TimeWait() error { return t.timeWait }

// EndReasons returns nil if it is known why TIME_WAIT ends before its time, else why
// not.
func (t *Tracer) EndReasons() error { return t.endReasons }

// HalfOpen returns nil if handshakes are measured from the SYN-ACK on, else why not.
func (t *Tracer) HalfOpen() error { return t.halfOpen }

// configure sets the constants and the sizes, before loading.
func configure(spec *ebpf.CollectionSpec, o *Options, types *btf.Cache, enders *[enderCount]ender) error {
	if size, page := o.BufferSize, os.Getpagesize(); size != 0 && (size < page || bits.OnesCount(uint(size)) != 1 || size > 1<<30) {
		return fmt.Errorf("buffer size %d: want a power of two from %d to %d", size, page, 1<<30)
	}
	if err := configureRings(spec, o); err != nil {
		return err
	}
	size := o.ringSize(ringCount())

	var s tcptraceVariableSpecs
	if err := spec.Assign(&s); err != nil {
		return fmt.Errorf("configure the programs: %w", err)
	}
	var ports uint8
	for _, f := range portFilters(o) {
		if f.wants != nil {
			ports |= f.bit
			spec.Maps[tcptraceMapPorts].MaxEntries = 1 << 16
		}
	}
	if n := len(o.Cgroups); n > 0 {
		spec.Maps[tcptraceMapCgroups].MaxEntries = uint32(n)
	}
	reasons, has, err := resetReasons(types, o.ResetReasons)
	if err != nil {
		return err
	}
	tick, err := readTick()
	if err != nil {
		return err
	}
	if o.NoTimers {
		leaveTimersOut(spec)
	} else if err := configureTimers(spec, &s, enders); err != nil {
		return err
	}
	return errors.Join(
		o.Counting.configure(spec, &s),
		s.ResetReasons.Set(reasons),
		s.HasResetReasons.Set(has),
		s.WakeupBytes.Set(uint32(size/4)),
		s.WalkBytes.Set(uint32(size/2)),
		s.Tracing.Set(!o.WalkOnly),
		s.Reads.Set(!o.noReads),
		s.Tick.Set(tick),
		s.FilterFamily.Set(o.Family),
		s.FilterNetns.Set(o.NetNS),
		s.FilterCgroups.Set(len(o.Cgroups) > 0),
		s.FilterPorts.Set(ports),
	)
}

type portFilter struct {
	bit   uint8 // of enum port_filter
	wants func(uint16) bool
}

func portFilters(o *Options) [3]portFilter {
	return [...]portFilter{{1 << 0, o.LocalPorts}, {1 << 1, o.RemotePorts}, {1 << 2, o.EitherPorts}}
}

// fillFilters fills the maps of the filters in use, before attaching.
func fillFilters(m *tcptraceMaps, o *Options) error {
	for _, id := range o.Cgroups {
		if err := m.Cgroups.Put(id, uint8(1)); err != nil {
			return fmt.Errorf("set the filter for cgroup %d: %w", id, err)
		}
	}
	if m.Ports.MaxEntries() == 1 {
		return nil
	}
	filters := portFilters(o)
	for port := range uint32(1 << 16) {
		var bits uint8
		for _, f := range filters {
			if f.wants != nil && f.wants(uint16(port)) {
				bits |= f.bit
			}
		}
		if bits == 0 {
			continue
		}
		if err := m.Ports.Put(port, bits); err != nil {
			return fmt.Errorf("set the filter for port %d: %w", port, err)
		}
	}
	return nil
}

// Read returns the next record, as struct event of event.h in the byte order of
// the host. The bytes are valid until the next call. It returns [ErrIdle] when
// the ring has been read empty, at least every 80 ms, and [io.EOF] after
// [Tracer.Stop], when all that had been written has been read.
func (t *Tracer) Read() ([]byte, error) {
	return t.rings.read()
}

// EmptyAt returns when the rings were seen to be empty last, as with [ErrIdle]: every
// record written before that, CLOCK_BOOTTIME in nanoseconds, has been read.
func (t *Tracer) EmptyAt() uint64 { return t.rings.lookedAt }

// IdleWithin has the next Read that finds nothing return [ErrIdle] after the time given,
// once, instead of the usual: for who holds records back until others can no longer come
// before them.
func (t *Tracer) IdleWithin(d time.Duration) { t.rings.idleWithin(d) }

// Stop detaches from the kernel and lets Read run to its end. It may be called
// once only.
func (t *Tracer) Stop() error {
	if err := t.detach(); err != nil {
		return fmt.Errorf("detach from the kernel: %w", err)
	}
	if err := t.rings.flush(); err != nil {
		return fmt.Errorf("flush the ring buffers: %w", err)
	}
	return nil
}

func (t *Tracer) detach() error {
	if t.links == nil {
		return nil
	}
	errs := []error{t.objects.Attached.Set(false)}
	// The last first: set_state_again alone would take everything for missed.
	for _, l := range slices.Backward(t.links) {
		errs = append(errs, l.Close())
	}
	t.links = nil
	return errors.Join(errs...)
}

// Losses returns what has been lost so far.
func (t *Tracer) Losses() (Losses, error) {
	// Read before what was rescued of it, which may only be more then.
	var passedOver uint64
	for _, program := range []*ebpf.Program{t.objects.SetState, t.objects.SendReset} {
		if program == nil {
			continue
		}
		stats, err := program.Stats()
		if err != nil {
			return Losses{}, fmt.Errorf("read the statistics of %v: %w", program, err)
		}
		passedOver += stats.RecursionMisses
	}
	var l Losses
	var rescued uint64
	for what, count := range []*uint64{&l.RingFull, &l.History, &rescued, &l.Minisocks} { // as enum counter of event.h
		var perCPU []uint64
		if err := t.objects.Counters.Lookup(uint32(what), &perCPU); err != nil {
			return Losses{}, fmt.Errorf("read the counters: %w", err)
		}
		for _, n := range perCPU {
			*count += n
		}
	}
	if missed := int64(passedOver - rescued); missed > 0 {
		l.Missed = uint64(missed)
	}
	return l, nil
}

// Close detaches and frees everything. Read must not be running.
func (t *Tracer) Close() error {
	errs := []error{t.detach()}
	for _, l := range []*link.Iter{t.sockets, t.files} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	if t.rings != nil {
		errs = append(errs, t.rings.close())
	}
	errs = append(errs, t.objects.Close())
	return errors.Join(errs...)
}
