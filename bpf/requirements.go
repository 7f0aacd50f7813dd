package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

const tracepoint = "inet_sock_set_state"

// Requirement is one thing that tracing needs, and whether it is there.
type Requirement struct {
	Name     string
	Purpose  string // what it is needed for
	Remedy   string // how to get it
	Optional bool   // without it, only Purpose is missing
	// Err is nil if it is there, and wraps ErrNotTried if nobody can know.
	Err error
}

// ErrNotTried is the Err of a [Requirement] that could not be tried, because an
// earlier one is missing.
var ErrNotTried = errors.New("cannot be tried without the above")

// Requirements probes what tracing needs, in the order in which a missing one
// explains the next. Features are tried, never guessed from the kernel's
// version: vendors backport. Nothing stays loaded.
func Requirements() []Requirement {
	const (
		older    = "needs Linux 5.12 or later, or a vendor's kernel that has it"
		noConfig = "needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (the large distributions' kernels are)"
	)
	tryTimers := sync.OnceValues(haveTimers)
	list := []struct {
		Requirement
		loads bool // the probe loads something, which takes privileges
		probe func() error
	}{
		{Requirement{
			Name:    "privileges (CAP_BPF, CAP_PERFMON)",
			Purpose: "loading and attaching the programs",
			Remedy:  "run as root (sudo), or in a container with --cap-add BPF --cap-add PERFMON",
		}, false, haveCapabilities},
		{Requirement{
			Name:    "kernel BTF",
			Purpose: "finding the fields of kernel structures",
			Remedy:  noConfig,
		}, false, haveBTF},
		{Requirement{
			Name:    "tracepoint sock:" + tracepoint,
			Purpose: "seeing the transitions",
			Remedy:  older,
		}, false, haveTracepoint},
		{Requirement{
			Name:    "BPF tracing programs on tracepoints",
			Purpose: "seeing the transitions",
			Remedy:  older,
		}, true, func() error { return tryLoad(nil) }},
		{Requirement{
			Name:    "BPF ring buffer",
			Purpose: "streaming records",
			Remedy:  older,
		}, true, func() error { return features.HaveMapType(ebpf.RingBuf) }},
		{Requirement{
			Name:    "BPF socket storage",
			Purpose: "remembering each socket: dwell, sequence, owner",
			Remedy:  older,
		}, true, func() error { return features.HaveMapType(ebpf.SkStorage) }},
		{Requirement{
			Name:    "helper bpf_get_socket_cookie in tracing programs",
			Purpose: "telling sockets apart",
			Remedy:  older,
		}, true, func() error { return haveHelper(asm.FnGetSocketCookie) }},
		{Requirement{
			Name:    "helper bpf_sk_storage_get in tracing programs",
			Purpose: "remembering each socket: dwell, sequence, owner",
			Remedy:  older,
		}, true, haveStorageHelper},
		{Requirement{
			Name:    "helper bpf_get_current_task_btf",
			Purpose: "naming the owner",
			Remedy:  older,
		}, true, func() error { return haveHelper(asm.FnGetCurrentTaskBtf) }},
		{Requirement{
			Name:     "helper bpf_probe_read_kernel",
			Purpose:  "measuring TIME_WAIT, and seeing minisocks and handshakes",
			Remedy:   "a kernel that is locked down for confidentiality (/sys/kernel/security/lockdown) refuses it: boot it with lockdown=integrity or without",
			Optional: true,
		}, true, haveProbeRead},
		{Requirement{
			Name:    "the program, loaded and attached",
			Purpose: "everything",
			Remedy:  "please report this with the kernel's version (uname -r)",
		}, true, haveProgram},
		{Requirement{
			Name:     "timers of minisocks, shown by a connection on loopback",
			Purpose:  "measuring TIME_WAIT; without them it is not measured, and tcptrace says so",
			Remedy:   "run as root, who tries it in a network namespace of its own; or the interface lo must be up (ip link set lo up) and let 127.0.0.1 through",
			Optional: true,
		}, true, func() error { timeWait, _ := tryTimers(); return timeWait }},
		{Requirement{
			Name:     "timers of handshakes, likewise",
			Purpose:  "SYN_RCVD from the SYN-ACK on, and handshakes that come to nothing",
			Remedy:   "as before; also not with forced SYN cookies (net.ipv4.tcp_syncookies=2)",
			Optional: true,
		}, true, func() error { _, halfOpen := tryTimers(); return halfOpen }},
		{Requirement{
			Name:     "BPF iterators over sockets and files",
			Purpose:  "sockets that were there before, and who holds them",
			Remedy:   older,
			Optional: true,
		}, true, haveIterators},
		{Requirement{
			Name:     "kernel symbol addresses (kallsyms)",
			Purpose:  "telling why TIME_WAIT ended before its time: reused, reset, netns",
			Remedy:   "needs CAP_SYSLOG and kernel.kptr_restrict below 2",
			Optional: true,
		}, false, haveKallsyms},
		{Requirement{
			Name:     "the host's process namespace",
			Purpose:  "PIDs that mean the same here as in the output",
			Remedy:   "run in the host's PID namespace (docker run --pid host); until then PIDs are the host's",
			Optional: true,
		}, false, HostPIDs},
		{Requirement{
			Name:     "capability CAP_SYS_PTRACE",
			Purpose:  "knowing in which network namespace a process is, and what it executes",
			Remedy:   "run as root (sudo)",
			Optional: true,
		}, false, func() error { return haveCapability(unix.CAP_SYS_PTRACE) }},
		{Requirement{
			Name:     "capability CAP_DAC_READ_SEARCH",
			Purpose:  "naming the containers and units of sockets at once; without it their cgroups are searched for",
			Remedy:   "run as root (sudo)",
			Optional: true,
		}, false, func() error { return haveCapability(unix.CAP_DAC_READ_SEARCH) }},
		{Requirement{
			Name:     "capability CAP_SYS_ADMIN",
			Purpose:  "finding sockets from before in other network namespaces; transitions are seen in all of them without",
			Remedy:   "run as root (sudo)",
			Optional: true,
		}, false, func() error { return haveCapability(unix.CAP_SYS_ADMIN) }},
	}
	found := make([]Requirement, 0, len(list))
	privileged := haveCapabilities() == nil
	for _, r := range list {
		if r.loads && !privileged {
			r.Err = ErrNotTried
		} else {
			r.Err = r.probe()
		}
		found = append(found, r.Requirement)
	}
	return found
}

var errMissing = errors.New("missing")

// haveCapabilities reports what is missing of the effective set. CAP_SYS_ADMIN
// is taken for either by the kernel.
func haveCapabilities() error {
	effective, err := capabilities()
	if err != nil {
		return err
	}
	var missing []string
	for _, c := range []struct {
		number int
		name   string
	}{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_PERFMON, "CAP_PERFMON"}} {
		if effective&(1<<c.number|1<<unix.CAP_SYS_ADMIN) == 0 {
			missing = append(missing, c.name)
		}
	}
	if missing != nil {
		return fmt.Errorf("%w: %s", errMissing, strings.Join(missing, ", "))
	}
	return nil
}

func haveCapability(number int) error {
	effective, err := capabilities()
	if err == nil && effective&(1<<number) == 0 {
		return errMissing
	}
	return err
}

// capabilities returns the effective set of this process.
func capabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return 0, fmt.Errorf("read own capabilities: %w", err)
	}
	return uint64(sets[1].Effective)<<32 | uint64(sets[0].Effective), nil
}

func haveBTF() error {
	_, err := btf.LoadKernelSpec()
	return err
}

func haveTracepoint() error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return err
	}
	var t *btf.Typedef
	if err := kernel.TypeByName("btf_trace_"+tracepoint, &t); err != nil {
		return errMissing
	}
	return nil
}

// haveHelper loads a program on the tracepoint that calls the helper with the
// socket as its argument.
func haveHelper(fn asm.BuiltinFunc) error {
	return tryLoad(asm.Instructions{
		asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord),
		fn.Call(),
	})
}

func haveStorageHelper() error {
	spec, err := loadTcptrace()
	if err != nil {
		return err
	}
	storage, err := ebpf.NewMap(spec.Maps[tcptraceMapHistories])
	if err != nil {
		return err
	}
	defer storage.Close()
	return tryLoad(asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord),
		asm.LoadMapPtr(asm.R1, storage.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkStorageGet.Call(),
	})
}

var errNoReads = errors.New("programs may not read the kernel's memory, as where it is locked down for confidentiality (/sys/kernel/security/lockdown)")

// haveProbeRead loads a program that reads from the kernel's memory, which a kernel
// that is locked down for confidentiality may refuse to all.
func haveProbeRead() error {
	return tryLoad(asm.Instructions{
		asm.LoadMem(asm.R3, asm.R1, 0, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, -8),
		asm.Mov.Imm(asm.R2, 8),
		asm.FnProbeReadKernel.Call(),
	})
}

// tryLoad loads a program on the tracepoint that runs the code and returns.
func tryLoad(code asm.Instructions) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.Tracing,
		AttachType:   ebpf.AttachTraceRawTp,
		AttachTo:     tracepoint,
		License:      "Dual BSD/GPL",
		Instructions: append(code, asm.Mov.Imm(asm.R0, 0), asm.Return()),
	})
	if err != nil {
		return err
	}
	return program.Close()
}

func haveProgram() error {
	t, err := open(&Options{BufferSize: os.Getpagesize(), NoTimers: true, noReads: true})
	if err != nil {
		return err
	}
	return t.Close()
}

func haveIterators() error {
	t, err := open(&Options{BufferSize: os.Getpagesize(), WalkOnly: true, noReads: true})
	if err != nil {
		return err
	}
	return t.Close()
}

// haveTimers reports why TIME_WAIT and handshakes cannot be measured.
func haveTimers() (timeWait, halfOpen error) {
	t, err := open(&Options{BufferSize: os.Getpagesize()})
	if err != nil {
		return err, err
	}
	return t.timeWait, errors.Join(t.halfOpen, t.Close())
}

// haveKallsyms looks for the functions of which the addresses are needed. The
// first line is no witness: it may be a variable at 0.
func haveKallsyms() error {
	_, err := findEnders()
	return err
}

// HostPIDs returns nil if /proc numbers processes as the records do, else why not.
func HostPIDs() error {
	const initial = "pid:[4026531836]" // PROC_PID_INIT_INO of include/linux/proc_ns.h
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	if ns != initial {
		return fmt.Errorf("this process is in %s", ns)
	}
	return nil
}
