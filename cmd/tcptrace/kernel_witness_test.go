package main

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// witness sees minisocks come and go by another way than the tracer, which goes by
// their timers: by the functions of the kernel that make and end them. Their names, and
// whether a program can be attached to them, are the kernel's own affair, so that only
// tests may go by them.
type witness struct{ begun, ended *ebpf.Map }

// sighting is what the witness remembers by the socket's cookie.
type sighting struct {
	At    uint64 // on the clock of the records
	State uint64 // of a beginning: as the argument of tcp_time_wait
}

// newWitness attaches to the kernel's functions. The error says why that cannot be.
func newWitness(t *testing.T) (*witness, error) {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	check(t, err)
	var common *btf.Struct
	check(t, kernel.TypeByName("sock_common", &common))
	i := slices.IndexFunc(common.Members, func(m btf.Member) bool { return m.Name == "skc_cookie" })
	if i < 0 {
		t.Fatal("this kernel's sock_common has no skc_cookie")
	}
	cookie := int16(common.Members[i].Offset.Bytes())

	w := &witness{}
	for _, side := range []struct {
		function string
		seen     **ebpf.Map
		flags    ebpf.MapUpdateFlags
		state    asm.Instruction
	}{
		// The first is the one that begins it.
		{"tcp_time_wait", &w.begun, ebpf.UpdateNoExist, asm.LoadMem(asm.R0, asm.R6, 8, asm.DWord)},
		{"inet_twsk_kill", &w.ended, ebpf.UpdateAny, asm.Mov.Imm(asm.R0, 0)},
	} {
		seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 16, MaxEntries: 1 << 16})
		check(t, err)
		t.Cleanup(func() { check(t, seen.Close()) })
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: side.function, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{
				asm.Mov.Reg(asm.R6, asm.R1),
				asm.LoadMem(asm.R1, asm.R6, 0, asm.DWord), // a struct that begins with sock_common
				asm.LoadMem(asm.R1, asm.R1, cookie, asm.DWord),
				asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
				side.state,
				asm.StoreMem(asm.RFP, -16, asm.R0, asm.DWord),
				asm.FnKtimeGetBootNs.Call(),
				asm.StoreMem(asm.RFP, -24, asm.R0, asm.DWord),
				asm.LoadMapPtr(asm.R1, seen.FD()),
				asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
				asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -24),
				asm.Mov.Imm(asm.R4, int32(side.flags)),
				asm.FnMapUpdateElem.Call(),
				asm.Mov.Imm(asm.R0, 0),
				asm.Return(),
			},
		})
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { check(t, program.Close()) })
		attached, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { check(t, attached.Close()) })
		*side.seen = seen
	}
	return w, nil
}

// saw returns what one of the maps has of a socket, in the tracer's spelling.
func saw(t *testing.T, m *ebpf.Map, socket string) (s sighting, ok bool) {
	t.Helper()
	cookie, err := strconv.ParseUint(socket, 16, 64)
	check(t, err)
	err = m.Lookup(cookie, &s)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	return s, err == nil
}

// check holds what the tracer says of minisocks against what the witness saw, if there
// is one. At least so many must be there to compare.
func (w *witness) check(r *result, atLeast int) {
	if w == nil {
		return
	}
	compared := 0
	t := r.t
	t.Helper()
	const stateTimeWait = 6
	for _, s := range r.sockets {
		first := slices.IndexFunc(s.lines, (*line).tookOver)
		begun, ok := saw(t.T, w.begun, s.lines[0].Socket)
		if ok != (first >= 0) {
			t.Errorf("a minisock was begun: %t, and shown: %t: %v", ok, first >= 0, s.lines)
		}
		if !ok || first < 0 {
			continue
		}
		last := s.lines[len(s.lines)-1]
		ended, ok := saw(t.T, w.ended, last.Socket)
		if !ok || last.To != "CLOSED" {
			t.Errorf("a minisock was ended: %t, and shown as %v", ok, last)
			continue
		}
		compared++
		// Both are about to look at the clock within the same call.
		atBegin, atEnd := r.later(s.lines[first], begun), r.later(last, ended)
		t.Logf("%s -> %s: begun %v after the witness saw it, ended %v after", last.From, last.To, atBegin, atEnd)
		if atBegin < -ticks || atBegin > ticks || atEnd < -ticks || atEnd > ticks {
			t.Errorf("begun %v after the witness saw it, ended %v after: %v", atBegin, atEnd, s.lines)
		}
		if inTimeWait := begun.State == stateTimeWait; inTimeWait != (s.lines[first].To == "TIME_WAIT") {
			t.Errorf("a minisock began in TIME_WAIT: %t, but it was shown as %v", inTimeWait, s.lines[first])
		}
	}
	if compared < atLeast {
		t.Errorf("%d minisocks compared with the witness, want %d", compared, atLeast)
	}
}

func (r *result) later(l *line, s sighting) time.Duration {
	return time.Duration(r.at(l)) - time.Duration(s.At)
}

// TestKernelWitness: where it is skipped, the tests of TIME_WAIT are without a witness.
func TestKernelWitness(t *testing.T) {
	requireKernel(t)
	if _, err := newWitness(t); err != nil {
		t.Skipf("no program can be attached to functions of this kernel: %v", err)
	}
}
