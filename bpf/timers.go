package bpf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// How many minisocks are followed at once, in memory that the kernel takes as they
// come. The kernel itself makes no more of them for a namespace than
// net.ipv4.tcp_max_tw_buckets, by default 262,144 at most.
const maxMinisocks = 1 << 19

// ErrSwitchedOff is why something is not measured that [Options] left out.
var ErrSwitchedOff = errors.New("switched off")

// leaveTimersOut makes the timer programs do nothing.
func leaveTimersOut(spec *ebpf.CollectionSpec) {
	for _, name := range []string{"timer_start", "timer_cancel", "timer_expire_entry"} {
		spec.Programs[name].Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	}
}

// haveAllocator says why the map of minisocks may not be written to under the lock of the
// timers: before 6.1 the kernel would take memory there in a way that may wait for that
// very lock.
func haveAllocator(types *btf.Cache) error {
	kernel, err := types.Kernel()
	if err != nil {
		return fmt.Errorf("read the kernel's types: %w", err)
	}
	var allocator *btf.Struct
	if err := kernel.TypeByName("bpf_mem_alloc", &allocator); err != nil {
		return errors.New("this kernel cannot take memory for maps in a timer: needs Linux 6.1 or later")
	}
	return nil
}

// readTick returns the nanoseconds of a jiffy: a coarse clock moves with them.
func readTick() (uint64, error) {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the kernel's tick: %w", err)
	}
	return uint64(tick.Nano()), nil
}

// configureTimers sets what the timer programs need to know of the kernel.
func configureTimers(spec *ebpf.CollectionSpec, s *tcptraceVariableSpecs, enders *[enderCount]ender) error {
	spec.Maps[tcptraceMapMinisocks].MaxEntries = maxMinisocks
	return s.Enders.Set(*enders)
}

// Numbers of enum end_reason of event.h.
const (
	endExpired = 1
	endReused  = 2
	endReset   = 3
	endNetNS   = 4
	endKilled  = 5

	endedBySegment = 255 // of tcptrace.bpf.c
)

// enders are the kernel's functions that end a minisock, by
// inet_twsk_deschedule_put before its time, and what that means.
var enders = map[string]uint64{
	"expire_timers":              endExpired,
	"__run_timers":               endExpired,
	"__run_timer_base":           endExpired,
	"run_timer_softirq":          endExpired,
	"tcp_timewait_state_process": endReset,
	"tcp_v4_rcv":                 endedBySegment,
	"tcp_v6_rcv":                 endedBySegment,
	"__inet_hash_connect":        endReused, // connect, by net.ipv4.tcp_tw_reuse
	"__inet_check_established":   endReused, // likewise, of a bound socket
	"__inet6_check_established":  endReused,
	"inet_twsk_purge":            endNetNS,
	"tcp_abort":                  endKilled, // SOCK_DESTROY
}

// ender is the code of a function, as the variable enders of the programs, which has
// room for enderCount.
type ender struct{ From, To, End uint64 }

const enderCount = 24

// findEnders looks the functions up in the kernel's symbols, which are in the
// order of their addresses.
func findEnders() (found [enderCount]ender, err error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return found, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	n, open := 0, false // whether found[n] waits for its end
	for lines.Scan() && n < len(found) {
		address, rest, _ := bytes.Cut(lines.Bytes(), []byte{' '})
		_, name, _ := bytes.Cut(rest, []byte{' '})
		base, _, _ := bytes.Cut(name, []byte{'.'}) // .cold, .isra.0
		end, wanted := enders[string(base)]
		if !wanted && !open {
			continue
		}
		at, err := strconv.ParseUint(string(address), 16, 64)
		if err != nil {
			return found, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		if at == 0 {
			return found, errHidden
		}
		if open && at > found[n].From {
			found[n].To = at
			n, open = n+1, false
		}
		if wanted && n < len(found) {
			found[n], open = ender{From: at, End: end}, true
		}
	}
	if err := lines.Err(); err != nil {
		return found, err
	}
	if found[0].To == 0 {
		return found, errMissing
	}
	return found, nil
}

var errHidden = errors.New("the addresses of kernel symbols are hidden: that takes CAP_SYSLOG, and kernel.kptr_restrict below 2")

// resetReasons returns the numbers of the caller for those of this kernel's enum
// sk_rst_reason, which change from version to version, and whether the kernel
// gives a reason at all (6.10 and later).
func resetReasons(types *btf.Cache, numbers map[string]uint8) (table [64]uint8, has bool, err error) {
	for i := range table {
		table[i] = 1 // RESET_UNSPECIFIED of event.h
	}
	kernel, err := types.Kernel()
	if err != nil {
		return table, false, err
	}
	var tracepoint *btf.Typedef
	if err := kernel.TypeByName("btf_trace_tcp_send_reset", &tracepoint); err != nil {
		return table, false, fmt.Errorf("find the tracepoint tcp:tcp_send_reset: %w", err)
	}
	pointer, _ := tracepoint.Type.(*btf.Pointer)
	if pointer == nil {
		return table, false, nil
	}
	proto, _ := pointer.Target.(*btf.FuncProto)
	var reasons *btf.Enum
	err = kernel.TypeByName("sk_rst_reason", &reasons)
	if errors.Is(err, btf.ErrNotFound) || proto == nil || len(proto.Params) < 4 {
		return table, false, nil
	}
	if err != nil {
		return table, false, fmt.Errorf("find the reasons of resets: %w", err)
	}
	for _, v := range reasons.Values {
		const prefix = "SK_RST_REASON_"
		if number, ok := numbers[v.Name[min(len(prefix), len(v.Name)):]]; ok && v.Value < uint64(len(table)) {
			table[v.Value] = number
		}
	}
	return table, true, nil
}

// Bounds of the self-test, which takes a millisecond.
const (
	selfTestTime = time.Second
	selfTests    = 3
)

// learnTimers makes a connection on loopback and leaves its client in
// FIN_WAIT_2, as an orphan, so that a minisock takes over; then it has the
// server reset it. From this the programs learn the handlers of the timers, and
// we that they see a minisock begin and end. Nothing is left behind.
func (t *Tracer) learnTimers() (timeWait, halfOpen error) {
	v := &t.objects.tcptraceVariables
	defer func() {
		err := errors.Join(v.LearnCookie.Set(uint64(0)), v.LearnPort.Set(uint16(0)))
		if timeWait == nil {
			timeWait = err
		}
	}()
	for range selfTests { // a kernel may miss one, where it does not run the programs just then
		if timeWait, halfOpen = t.tryTimers(v); timeWait == nil && halfOpen == nil {
			break
		}
		// The interface lo may be down here, no minisocks allowed, or SYN cookies forced.
		done := false
		err := inFreshNetNS(func() error {
			if w, h := t.tryTimers(v); w == nil {
				timeWait, halfOpen, done = nil, h, true
			}
			return nil
		})
		if done && err == nil { // else that took privileges
			break
		}
	}
	if timeWait != nil {
		return timeWait, halfOpen
	}
	return t.skip(), halfOpen
}

// tryTimers reports of what the self-test has seen, in the network namespace of the
// thread, the handlers; those that it learns are there for good.
func (t *Tracer) tryTimers(v *tcptraceVariables) (timeWait, halfOpen error) {
	if err := t.selfTest(v); err != nil {
		err = fmt.Errorf("the self-test on loopback failed: %w", err)
		return err, err
	}
	var handler uint64
	if err := v.RequestHandler.Get(&handler); err != nil || handler == 0 {
		halfOpen = errors.Join(errors.New("the self-test on loopback saw no handshake: SYN cookies may be forced (net.ipv4.tcp_syncookies=2)"), err)
	}
	return nil, halfOpen
}

// skip reads all that there is, without waiting.
func (t *Tracer) skip() error {
	for t.rings.idleWithin(0); ; {
		if _, err := t.Read(); errors.Is(err, ErrIdle) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (t *Tracer) selfTest(v *tcptraceVariables) error {
	var listener, client, server socket
	defer func() {
		for _, s := range []*socket{&client, &server, &listener} {
			_ = s.close()
		}
	}()
	address := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := listener.open(); err != nil {
		return err
	}
	if err := unix.Bind(listener.fd, address); err != nil {
		return fmt.Errorf("bind to 127.0.0.1 (is the interface lo up?): %w", err)
	}
	if err := unix.Listen(listener.fd, 1); err != nil {
		return fmt.Errorf("listen on 127.0.0.1: %w", err)
	}
	name, err := unix.Getsockname(listener.fd)
	if err != nil {
		return fmt.Errorf("read the port: %w", err)
	}
	address.Port = name.(*unix.SockaddrInet4).Port

	if err := client.open(); err != nil {
		return err
	}
	// Longer than 60 s, of net.ipv4.tcp_fin_timeout, no minisock is made at once.
	if err := unix.SetsockoptInt(client.fd, unix.IPPROTO_TCP, unix.TCP_LINGER2, 5); err != nil {
		return fmt.Errorf("set TCP_LINGER2: %w", err)
	}
	cookie, err := unix.GetsockoptUint64(client.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return fmt.Errorf("read the socket's cookie: %w", err)
	}
	if err := errors.Join(v.LearnPort.Set(uint16(address.Port)), v.LearnCookie.Set(cookie)); err != nil {
		return err
	}
	if err := unix.Connect(client.fd, address); err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("connect to 127.0.0.1 (is the interface lo up?): %w", err)
	}
	err = await("a connection to 127.0.0.1 did not come (does a firewall let it through?)", func() (bool, error) {
		fd, _, err := unix.Accept4(listener.fd, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		if err == nil {
			server = socket{fd, true}
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("accept on 127.0.0.1: %w", err)
	}

	if err := client.close(); err != nil {
		return fmt.Errorf("close the client: %w", err)
	}
	if err := await("the timer of a minisock did not show (is net.ipv4.tcp_max_tw_buckets reached?)", t.minisockIs(true, cookie)); err != nil {
		return err
	}
	if err := unix.SetsockoptLinger(server.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("set SO_LINGER: %w", err)
	}
	if err := server.close(); err != nil {
		return fmt.Errorf("close the server: %w", err)
	}
	return await("the end of a minisock did not show", t.minisockIs(false, cookie))
}

// socket is a TCP socket whose calls do not wait: signals, which Go's scheduler
// sends itself, would break them off.
type socket struct {
	fd     int
	isOpen bool
}

func (s *socket) open() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	*s = socket{fd, true}
	return nil
}

// close closes the socket, if it is open.
func (s *socket) close() error {
	if !s.isOpen {
		return nil
	}
	s.isOpen = false
	return unix.Close(s.fd)
}

// minisockIs returns a condition: that the socket's minisock is followed, or is
// not.
func (t *Tracer) minisockIs(followed bool, cookie uint64) func() (bool, error) {
	return func() (bool, error) {
		var key struct {
			Cookie uint64
			SndNxt uint32
			_      uint32
		}
		var value []byte
		found := false
		entries := t.objects.Minisocks.Iterate()
		for !found && entries.Next(&key, &value) {
			found = key.Cookie == cookie
		}
		err := entries.Err()
		if errors.Is(err, ebpf.ErrIterationAborted) { // others come and go: look again
			return false, nil
		}
		return found == followed, err
	}
}

// await waits until the condition holds, for as long as the self-test may take.
func await(failure string, holds func() (bool, error)) error {
	for deadline := time.Now().Add(selfTestTime); ; time.Sleep(200 * time.Microsecond) {
		ok, err := holds()
		switch {
		case err != nil:
			return err
		case ok:
			return nil
		case time.Now().After(deadline):
			return errors.New(failure)
		}
	}
}
