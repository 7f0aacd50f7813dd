package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// oracle is the kernel's own trace of sock:inet_sock_set_state, in an instance
// of tracefs of its own: the same tracepoint, by another way. It is read in its
// binary form, which has nanoseconds and the address of the socket.
//
// The form is that of Documentation/trace/ring-buffer-map.rst and of
// events/header_page and header_event in tracefs, on a little-endian host.
type oracle struct {
	dir    string // of the instance
	pipes  []int  // per_cpu/cpu*/trace_pipe_raw
	id     uint16 // of the event
	format map[string]formatField
	page   []byte // reused
	steps  []step // not in order
}

// step is one transition, as the oracle saw it.
type step struct {
	at            uint64 // ns of CLOCK_BOOTTIME
	socket        uint64 // address of the kernel's structure, soon used again
	from, to      fsm.State
	local, remote netip.AddrPort // as far as they were set
	softirq       bool           // on top of whatever was running:
	task          int            // the thread on the CPU
}

// newOracle starts the trace with so much room for each CPU: about 100 bytes a
// transition.
func newOracle(t *testing.T, roomKiB int) *oracle {
	t.Helper()
	root := tracefs(t)
	removeStaleInstances(root)
	o := &oracle{page: make([]byte, 64<<10)}
	err := fs.ErrExist
	for n := 0; errors.Is(err, fs.ErrExist); n++ { // one for each tracer of a test
		o.dir = filepath.Join(root, "instances", fmt.Sprintf("%s%d-%d", instancePrefix, os.Getpid(), n))
		err = os.Mkdir(o.dir, 0o700)
	}
	check(t, err)
	t.Cleanup(func() {
		for _, fd := range o.pipes {
			check(t, unix.Close(fd))
		}
		check(t, unix.Rmdir(o.dir))
	})
	o.readFormat(t)
	o.set(t, "buffer_size_kb", strconv.Itoa(roomKiB))
	o.set(t, "trace_clock", "boot")
	o.set(t, oracleEvent+"/filter", fmt.Sprintf("protocol == %d", unix.IPPROTO_TCP))
	o.set(t, oracleEvent+"/enable", "1")

	names, err := filepath.Glob(filepath.Join(o.dir, "per_cpu/cpu*/trace_pipe_raw"))
	check(t, err)
	for _, name := range names {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		check(t, err)
		o.pipes = append(o.pipes, fd)
	}
	return o
}

const (
	oracleEvent    = "events/sock/inet_sock_set_state"
	instancePrefix = "tcptrace-test-"
)

// tracefs returns where the file system is, mounted for this test alone if need
// be: such a mount is in no table and goes with its descriptor.
func tracefs(t *testing.T) string {
	t.Helper()
	const usual = "/sys/kernel/tracing"
	var stat unix.Statfs_t
	if unix.Statfs(usual, &stat) == nil && stat.Type == unix.TRACEFS_MAGIC {
		return usual
	}
	tracefs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		unavailable(t, "there is no tracefs to compare with: %v", err)
	}
	defer func() { check(t, unix.Close(tracefs)) }()
	check(t, unix.FsconfigCreate(tracefs))
	mount, err := unix.Fsmount(tracefs, unix.FSMOUNT_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { check(t, unix.Close(mount)) })
	return fmt.Sprintf("/proc/self/fd/%d", mount)
}

// removeStaleInstances removes what a test that was killed left behind: it
// would go on tracing for ever.
func removeStaleInstances(root string) {
	names, _ := filepath.Glob(filepath.Join(root, "instances", instancePrefix+"*"))
	for _, name := range names {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(name), instancePrefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			_ = unix.Rmdir(name)
		}
	}
}

func (o *oracle) set(t *testing.T, file, value string) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(o.dir, file), []byte(value), 0))
}

type formatField struct{ offset, size int }

// readFormat finds the fields of the event:
//
//	ID: 2287
//		field:__u8 saddr_v6[16];	offset:40;	size:16;	signed:0;
func (o *oracle) readFormat(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(o.dir, oracleEvent, "format"))
	check(t, err)
	o.format = make(map[string]formatField)
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "ID: %d", &o.id); err == nil {
			continue
		}
		parts := strings.Split(strings.TrimSpace(line), ";")
		if len(parts) < 3 || !strings.HasPrefix(parts[0], "field:") {
			continue
		}
		words := strings.Fields(parts[0])
		name, _, _ := strings.Cut(words[len(words)-1], "[")
		var f formatField
		_, err := fmt.Sscanf(parts[1]+parts[2], "\toffset:%d\tsize:%d", &f.offset, &f.size)
		check(t, err)
		o.format[name] = f
	}
	for _, name := range []string{"common_flags", "common_pid", "skaddr", "oldstate", "newstate", "sport", "dport", "saddr_v6", "daddr_v6"} {
		if o.format[name].size == 0 {
			t.Fatalf("the kernel's event has no field %s:\n%s", name, text)
		}
	}
}

func (o *oracle) bytes(record []byte, name string) []byte {
	f := o.format[name]
	return record[f.offset : f.offset+f.size]
}

func (o *oracle) number(record []byte, name string) uint64 {
	var b [8]byte
	copy(b[:], o.bytes(record, name))
	return binary.LittleEndian.Uint64(b[:])
}

func (o *oracle) end(record []byte, addr, port string) netip.AddrPort {
	a := netip.AddrFrom16([16]byte(o.bytes(record, addr)))
	return netip.AddrPortFrom(a.Unmap(), uint16(o.number(record, port)))
}

// drain takes what has come and reports how much that was.
func (o *oracle) drain(t *testing.T) (news int) {
	t.Helper()
	before := len(o.steps)
	for _, fd := range o.pipes {
		for {
			n, err := unix.Read(fd, o.page)
			if errors.Is(err, unix.EAGAIN) || n == 0 && err == nil {
				break
			}
			check(t, err)
			o.readPage(t, o.page[:n])
		}
	}
	return len(o.steps) - before
}

// readPage reads a page of the ring: a time, how much of it is used, and then
// events, each with the time since the one before it.
func (o *oracle) readPage(t *testing.T, page []byte) {
	t.Helper()
	const (
		head                                                 = 16
		typeMax, typePadding, typeExtended, typeStamp        = 28, 29, 30, 31
		usedMask                                      uint64 = 1<<30 - 1 // above it are flags
	)
	at := binary.LittleEndian.Uint64(page)
	rest := page[head:]
	rest = rest[:min(uint64(len(rest)), binary.LittleEndian.Uint64(page[8:])&usedMask)]
	for len(rest) >= 8 {
		first, second := binary.LittleEndian.Uint32(rest), binary.LittleEndian.Uint32(rest[4:])
		kind, delta := first&31, uint64(first>>5)
		size := 4 + int(kind)*4
		data := 4
		switch {
		case kind == 0: // the size stands apart
			size, data = 4+int(second), 8
		case kind == typePadding && delta == 0:
			return
		case kind == typePadding:
			size = 4 + int(second)
		case kind == typeExtended:
			size, delta = 8, delta|uint64(second)<<27
		case kind == typeStamp:
			size, delta = 8, 0
			at = at&^(1<<59-1) | uint64(second)<<27 | uint64(first>>5)
		}
		at += delta
		if kind <= typeMax && binary.LittleEndian.Uint16(rest[data:]) == o.id {
			o.take(at, rest[data:size])
		}
		rest = rest[size:]
	}
}

const softirqFlag = 1 << 4 // TRACE_FLAG_SOFTIRQ of linux/trace_events.h

func (o *oracle) take(at uint64, record []byte) {
	o.steps = append(o.steps, step{
		at:     at,
		socket: o.number(record, "skaddr"),
		from:   fsm.State(o.number(record, "oldstate")),
		to:     fsm.State(o.number(record, "newstate")),
		local:  o.end(record, "saddr_v6", "sport"),
		remote: o.end(record, "daddr_v6", "dport"),

		softirq: o.number(record, "common_flags")&softirqFlag != 0,
		task:    int(o.number(record, "common_pid")),
	})
}

// checkComplete fails the test if the oracle itself has lost something.
func (o *oracle) checkComplete(t *testing.T) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(o.dir, "per_cpu/cpu*/stats"))
	check(t, err)
	for _, name := range names {
		text, err := os.ReadFile(name)
		check(t, err)
		for _, counter := range []string{"overrun: ", "commit overrun: ", "dropped events: "} {
			if _, rest, ok := bytes.Cut(text, []byte("\n"+counter)); ok && !bytes.HasPrefix(rest, []byte("0\n")) {
				t.Fatalf("the kernel's own trace is not complete: give it more room: %s\n%s", name, text)
			}
		}
	}
}

// life is what one socket did, from leaving CLOSED, or being born by a
// listener, to CLOSED.
type life struct {
	local, remote netip.AddrPort
	steps         []step
}

func (l *life) last() fsm.State { return l.steps[len(l.steps)-1].to }

func (l *life) over() bool { return l.last() == fsm.Closed }

// lives puts the steps of each socket together. A structure serves one socket
// after the other, so a life ends where a next one begins. The beginning of that
// may not be there yet, as one CPU is read after the other: a step that does not
// continue a life belongs to another.
func (o *oracle) lives(own func(*life) bool) (list []*life) {
	slices.SortStableFunc(o.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	bySocket := make(map[uint64]*life)
	for _, s := range o.steps {
		l := bySocket[s.socket]
		leaves := s.from == fsm.Closed && s.to != fsm.Closed
		born := s.from == fsm.Listen && s.to == fsm.SynRcvd
		if l == nil || leaves || born || l.last() != s.from {
			l = &life{}
			bySocket[s.socket] = l
			list = append(list, l)
		}
		l.steps = append(l.steps, s)
		// The last word counts: on connect, the local port is 0 or stale.
		if s.local.Port() != 0 || !l.local.IsValid() {
			l.local = s.local
		}
		if s.remote.Port() != 0 {
			l.remote = s.remote
		}
	}
	return slices.DeleteFunc(list, func(l *life) bool { return !own(l) })
}

// settle waits until all sockets of the namespace that were seen are CLOSED, and
// returns their lives.
func (o *oracle) settle(ns *netns) []*life {
	ns.t.Helper()
	var lives []*life
	eventually(ns.t, "all sockets are closed", func() bool {
		if o.drain(ns.t) > 0 || lives == nil {
			lives = o.lives(ns.owns)
		}
		return !slices.ContainsFunc(lives, func(l *life) bool { return !l.over() })
	})
	o.checkComplete(ns.t)
	return lives
}

// stranger reports whether the transition came about on top of a process that
// has nothing to do with the tests.
func (s *step) stranger() bool {
	if !s.softirq || s.task == 0 {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.task))
	if err != nil {
		return false // it has ended: perhaps one of ours
	}
	ours := bytes.Contains(status, fmt.Appendf(nil, "\nTgid:\t%d\n", os.Getpid()))
	kernels := !bytes.Contains(status, []byte("\nVmSize:"))
	return !ours && !kernels
}
