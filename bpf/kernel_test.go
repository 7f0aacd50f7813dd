package bpf

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/events"
	"tcptrace/fsm"
)

// The tests of this file run on the real kernel, each in a network namespace of
// its own. Where the kernel or the privileges do not allow tracing they are
// skipped, or fail if TCPTRACE_REQUIRE_KERNEL=1.

// Environment variables that make of the test binary another program. That is
// decided in init, as the package has no TestMain of its own.
const (
	envOpen   = "TCPTRACE_TEST_OPEN"   // try Open and print its error
	envNow    = "TCPTRACE_TEST_NOW"    // print the clock of the records, and its offset
	envListen = "TCPTRACE_TEST_LISTEN" // listen on this IPv4 address once
)

func init() {
	switch {
	case os.Getenv(envOpen) != "":
		_, err := Open(nil)
		fmt.Printf("unsupported=%t %v", errors.Is(err, ErrUnsupported), err)
		os.Exit(0)
	case os.Getenv(envNow) != "":
		now, err := Now()
		offset, offsetErr := ClockOffset()
		fmt.Println(now, offset)
		if err = errors.Join(err, offsetErr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv(envListen) != "":
		at := netip.MustParseAddrPort(os.Getenv(envListen))
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err == nil {
			err = errors.Join(unix.Bind(fd, sockaddr(at)), unix.Listen(fd, 1))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

var missing = sync.OnceValue(func() error {
	for _, r := range Requirements() {
		if !r.Optional && r.Err != nil {
			return fmt.Errorf("%s: %w", r.Name, r.Err)
		}
	}
	return nil
})

func requireKernel(t *testing.T) {
	t.Helper()
	err := missing()
	switch {
	case err == nil:
	case os.Getenv("TCPTRACE_REQUIRE_KERNEL") == "1":
		t.Fatalf("TCPTRACE_REQUIRE_KERNEL=1, but tracing is not possible: %v", err)
	default:
		t.Skipf("tracing is not possible here: %v", err)
	}
}

// netns is a network namespace that exists for one test. Sockets that it makes
// belong to it, wherever they are used then.
type netns struct {
	inode uint32
	calls chan func()
}

func newNetNS(t *testing.T) *netns {
	t.Helper()
	ns := &netns{calls: make(chan func())}
	go func() {
		// Never unlocked: the thread ends with the goroutine, and with thread
		// and sockets the namespace.
		runtime.LockOSThread()
		for call := range ns.calls {
			call()
		}
	}()
	t.Cleanup(func() { close(ns.calls) })
	ns.do(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var stat unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
			return err
		}
		ns.inode = uint32(stat.Ino)
		return loopbackUp()
	})
	return ns
}

// do runs a function inside the namespace.
func (ns *netns) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	ns.calls <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (ns *netns) socket(t *testing.T, at netip.AddrPort) (fd int) {
	t.Helper()
	family := unix.AF_INET6
	if at.Addr().Is4() {
		family = unix.AF_INET
	}
	ns.do(t, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return err
	})
	check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(t, unix.Bind(fd, sockaddr(at)))
	return fd
}

func (ns *netns) listen(t *testing.T, at netip.AddrPort) (fd int) {
	t.Helper()
	fd = ns.socket(t, at)
	check(t, unix.Listen(fd, 16))
	return fd
}

// converse makes a connection from one address to the other and ends it by a
// reset: TIME_WAIT would keep the ports from the next one.
func (ns *netns) converse(t *testing.T, from, to netip.AddrPort) {
	t.Helper()
	server := ns.listen(t, to)
	defer func() { check(t, unix.Close(server)) }()
	client := ns.socket(t, from)
	check(t, unix.Connect(client, sockaddr(to)))
	child, _, err := unix.Accept(server)
	check(t, err)
	check(t, closeByReset(client))
	check(t, unix.Close(child))
}

func closeByReset(fd int) error {
	return errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Close(fd))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func v4(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func openTracer(t *testing.T, o *Options) *Tracer {
	t.Helper()
	tracer, err := Open(o)
	check(t, err)
	t.Cleanup(func() {
		if err := tracer.Close(); err != nil {
			t.Error(err)
		}
	})
	return tracer
}

// rest stops the tracer and returns all that it has not yet delivered.
func rest(t *testing.T, tracer *Tracer) (list []events.Event) {
	t.Helper()
	check(t, tracer.Stop())
	for {
		b, err := tracer.Read()
		switch {
		case err == io.EOF:
			return list
		case errors.Is(err, ErrIdle):
		case err != nil:
			t.Fatal(err)
		default:
			list = append(list, decode(t, b))
		}
	}
}

func decode(t *testing.T, b []byte) (e events.Event) {
	t.Helper()
	check(t, e.Decode(b))
	return e
}

// descriptors lists the file descriptors of this process that hold an eBPF
// program, map, link or type information.
func descriptors(t *testing.T) (list []string) {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	check(t, err)
	for _, name := range infos {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // closed meanwhile, as the one of the directory
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			if slices.Contains([]string{"prog_id", "map_id", "link_id", "btf_id"}, key) {
				list = append(list, fmt.Sprintf("fd %s: %s %s", filepath.Base(name), key, value))
				break
			}
		}
	}
	return list
}

func TestRequirements(t *testing.T) {
	requireKernel(t)
	for _, r := range Requirements() {
		t.Run(r.Name, func(t *testing.T) {
			if r.Purpose == "" || r.Remedy == "" {
				t.Errorf("purpose %q, remedy %q: want both", r.Purpose, r.Remedy)
			}
			if r.Err != nil && !r.Optional {
				t.Errorf("tracing is possible, but this is missing: %v", r.Err)
			}
		})
	}
}

func TestOpenWithoutPrivileges(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	// By this name, as the folder of the test binary is closed to others.
	child := exec.Command("/proc/self/exe")
	child.Env = []string{envOpen + "=1"}
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	message, unsupported := strings.CutPrefix(string(out), "unsupported=true ")
	if !unsupported {
		t.Errorf("the error does not wrap ErrUnsupported: %s", message)
	}
	for _, word := range []string{"CAP_BPF", "CAP_PERFMON", "root"} {
		if !strings.Contains(message, word) {
			t.Errorf("the error does not name %s: %s", word, message)
		}
	}
	if strings.Contains(message, "\n") {
		t.Errorf("the error has several lines:\n%s", message)
	}
}

func TestOpenRefusesBufferSizes(t *testing.T) {
	requireKernel(t)
	page := os.Getpagesize()
	for _, size := range []int{-page, -1, 1, page / 2, page - 1, page + 1, 3 * page, 1<<30 + page} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			tracer, err := Open(&Options{BufferSize: size})
			if err == nil {
				t.Fatal(errors.Join(errors.New("accepted"), tracer.Close()))
			}
			if errors.Is(err, ErrUnsupported) {
				t.Errorf("the error blames the kernel: %v", err)
			}
			if !strings.Contains(err.Error(), strconv.Itoa(size)) || !strings.Contains(err.Error(), "power of two") {
				t.Errorf("the error names neither the size nor what is wanted: %v", err)
			}
		})
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	for _, test := range []struct {
		name string
		use  func(*Tracer) error
	}{
		{"unused", func(*Tracer) error { return nil }},
		{"stopped", (*Tracer).Stop},
		{"read to its end", func(tracer *Tracer) error { rest(t, tracer); return nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := descriptors(t)
			tracer, err := Open(&Options{
				NetNS: ns.inode, BufferSize: os.Getpagesize(), Cgroups: []uint64{1},
				LocalPorts: func(uint16) bool { return true },
			})
			check(t, err)
			if during := descriptors(t); len(during) <= len(before) {
				t.Errorf("the tracer holds nothing: this test looks at the wrong place: %v", during)
			}
			if err := errors.Join(test.use(tracer), tracer.Close()); err != nil {
				t.Error(err)
			}
			if after := descriptors(t); !slices.Equal(before, after) {
				t.Errorf("left open: %v, before: %v", after, before)
			}
		})
	}
}

// TestFailedOpenLeavesNothing lets Open fail at every descriptor it needs.
func TestFailedOpenLeavesNothing(t *testing.T) {
	requireKernel(t)
	var limit unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	before := descriptors(t)
	open := func(allowed uint64) (*Tracer, error) {
		check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: allowed, Max: limit.Max}))
		defer func() { check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
		return open(&Options{})
	}
	const most = 100
	for allowed := range uint64(most) {
		tracer, err := open(allowed)
		if err == nil {
			if allowed == 0 {
				t.Error("opened without a descriptor: this test limits nothing")
			}
			check(t, tracer.Close())
			return
		}
		if after := descriptors(t); !slices.Equal(before, after) {
			t.Fatalf("%d descriptors allowed: %v: left open: %v, before: %v", allowed, err, after, before)
		}
	}
	t.Errorf("does not open with %d descriptors", most)
}

func TestReadIsIdle(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	tracer := openTracer(t, &Options{NetNS: ns.inode})
	for range 3 {
		if b, err := tracer.Read(); !errors.Is(err, ErrIdle) {
			t.Fatalf("a ring that nobody writes to: %d bytes, %v, want ErrIdle", len(b), err)
		}
	}

	// A record that wakes nobody is found all the same.
	server := ns.listen(t, v4(0))
	defer func() { check(t, unix.Close(server)) }()
	var e events.Event
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := tracer.Read()
		if err == nil {
			e = decode(t, b)
			break
		}
		if !errors.Is(err, ErrIdle) || time.Now().After(deadline) {
			t.Fatalf("no record: %v", err)
		}
	}
	if e.From != fsm.Closed || e.To != fsm.Listen || e.NetNS != ns.inode || e.Seq != 1 {
		t.Errorf("read %+v, want the one listen of this test", e)
	}
	if more := rest(t, tracer); len(more) != 0 {
		t.Errorf("read after the end: %+v", more)
	}
	if losses, err := tracer.Losses(); err != nil || losses != (Losses{}) {
		t.Errorf("lost %+v, %v, want nothing", losses, err)
	}
}

// TestRingOverflow: what does not fit is counted, to the record.
func TestRingOverflow(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	tracer := openTracer(t, &Options{NetNS: ns.inode, BufferSize: os.Getpagesize()})
	const rounds, perRound = 500, 2 // CLOSED to LISTEN and back
	for range rounds {
		check(t, unix.Close(ns.listen(t, v4(0))))
	}
	losses, err := tracer.Losses()
	check(t, err)
	read := rest(t, tracer)

	if len(read) == 0 || len(read) == rounds*perRound {
		t.Fatalf("read %d of %d records: the ring did not overflow", len(read), rounds*perRound)
	}
	if want := uint64(rounds*perRound - len(read)); losses.RingFull != want {
		t.Errorf("counted %d lost, want %d: made %d, read %d", losses.RingFull, want, rounds*perRound, len(read))
	}
	if losses.History != 0 || losses.Missed != 0 {
		t.Errorf("counted %+v: want only a full ring", losses)
	}
	if after, err := tracer.Losses(); err != nil || after != losses {
		t.Errorf("after reading: %+v, %v, want %+v as before", after, err, losses)
	}
}

// TestLostRecordsLeaveAHole: the sequence numbers of a socket go on while the
// ring is full.
func TestLostRecordsLeaveAHole(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	tracer := openTracer(t, &Options{NetNS: ns.inode, BufferSize: os.Getpagesize()})

	server := ns.listen(t, v4(0))
	defer func() { check(t, unix.Close(server)) }()
	to, err := unix.Getsockname(server)
	check(t, err)
	client := ns.socket(t, v4(0))
	check(t, unix.Connect(client, to)) // CLOSED, SYN_SENT, ESTABLISHED: records 1 and 2
	for {
		losses, err := tracer.Losses()
		check(t, err)
		if losses.RingFull > 0 {
			break
		}
		check(t, unix.Close(ns.listen(t, v4(0))))
	}
	cookie, err := unix.GetsockoptUint64(client, unix.SOL_SOCKET, unix.SO_COOKIE)
	check(t, err)
	check(t, unix.Shutdown(client, unix.SHUT_WR)) // FIN_WAIT_1, perhaps FIN_WAIT_2: lost
	for {
		if _, err := tracer.Read(); errors.Is(err, ErrIdle) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	check(t, unix.Close(client)) // the second close: a record again

	for _, e := range rest(t, tracer) {
		if e.Cookie == cookie {
			if e.Seq < 4 {
				t.Errorf("record %v -> %v has number %d after at least 3 others", e.From, e.To, e.Seq)
			}
			return
		}
	}
	t.Error("found no record of the socket after the ring had room again")
}

// TestFilters: the kernel drops what cannot match and keeps what may.
func TestFilters(t *testing.T) {
	requireKernel(t)
	var (
		ns, other = newNetNS(t), newNetNS(t)
		mapped    = netip.MustParseAddr("::ffff:127.0.0.1")
		six       = netip.MustParseAddr("::1")
		is        = func(ports ...uint16) func(uint16) bool {
			return func(port uint16) bool { return slices.Contains(ports, port) }
		}
	)
	// Who talks to whom: each has ports of its own.
	talks := []struct {
		ns       *netns
		from, to netip.AddrPort
	}{
		{ns, v4(2001), v4(1001)},
		{ns, v4(2002), v4(1002)},
		{ns, netip.AddrPortFrom(mapped, 2003), netip.AddrPortFrom(mapped, 1003)},
		{ns, netip.AddrPortFrom(six, 2004), netip.AddrPortFrom(six, 1004)},
		{other, v4(2005), v4(1005)},
	}
	const all = "1001<2001 1002<2002 1003<2003 1004<2004 1005<2005 2001>1001 2002>1002 2003>1003 2004>1004 2005>1005"

	for _, test := range []struct {
		name    string
		options Options
		want    string // the ends seen, as LOCAL>REMOTE (client) or LOCAL<REMOTE (server)
	}{
		{"none", Options{}, all},
		{"local port", Options{LocalPorts: is(1001, 2002)}, "1001<2001 2002>1002"},
		{"remote port", Options{RemotePorts: is(1001, 2002)}, "1002<2002 2001>1001"},
		{"either port", Options{EitherPorts: is(1001, 2002)}, "1001<2001 1002<2002 2001>1001 2002>1002"},
		{"local and remote port", Options{LocalPorts: is(1001, 1002), RemotePorts: is(2002, 2003)}, "1002<2002"},
		{"local and either port", Options{LocalPorts: is(1001, 1002), EitherPorts: is(2002, 2003)}, "1002<2002"},
		{"no port", Options{LocalPorts: is()}, ""},
		{"IPv4", Options{Family: unix.AF_INET}, "1001<2001 1002<2002 1003<2003 1005<2005 2001>1001 2002>1002 2003>1003 2005>1005"},
		{"IPv6", Options{Family: unix.AF_INET6}, "1004<2004 2004>1004"},
		{"namespace", Options{NetNS: other.inode}, "1005<2005 2005>1005"},
		{"namespace and port", Options{NetNS: ns.inode, EitherPorts: is(1001, 1005)}, "1001<2001 2001>1001"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tracer := openTracer(t, &test.options)
			for _, talk := range talks {
				talk.ns.converse(t, talk.from, talk.to)
			}
			seen := make(map[string]bool)
			for _, e := range rest(t, tracer) {
				local, remote := e.Local.Port(), e.Remote.Port()
				// What has no peer yet may pass: the kernel cannot know.
				if local == 0 || remote == 0 || e.NetNS != ns.inode && e.NetNS != other.inode {
					continue
				}
				arrow := ">"
				if local < remote {
					arrow = "<"
				}
				seen[fmt.Sprintf("%d%s%d", local, arrow, remote)] = true
			}
			got := strings.Join(slices.Sorted(maps.Keys(seen)), " ")
			if got != test.want {
				t.Errorf("kept\n %s, want\n %s", got, test.want)
			}
		})
	}
}

// TestFilterKeepsUnassignedPort: the kernel assigns the local port after the
// first record of a connection, which a filter of local ports must not drop, nor
// the next, by which user space decides about both.
func TestFilterKeepsUnassignedPort(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	server := ns.listen(t, v4(0))
	defer func() { check(t, unix.Close(server)) }()
	to, err := unix.Getsockname(server)
	check(t, err)
	for _, test := range []struct {
		name  string
		wants bool
		want  int // records of the client: of a wanted port, all
	}{{"wanted", true, 3}, {"unwanted", false, 2}} {
		t.Run(test.name, func(t *testing.T) {
			tracer := openTracer(t, &Options{NetNS: ns.inode, LocalPorts: func(uint16) bool { return test.wants }})
			var client int
			ns.do(t, func() (err error) {
				client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
				return err
			})
			check(t, unix.Connect(client, to))
			check(t, closeByReset(client))
			var got []string
			for _, e := range rest(t, tracer) {
				if e.Owner.Source == events.OwnerConnect {
					got = append(got, fmt.Sprintf("%v -> %v", e.From, e.To))
				}
			}
			if len(got) != test.want || got[0] != "CLOSED -> SYN_SENT" {
				t.Errorf("kept %q, want %d records from CLOSED -> SYN_SENT on", got, test.want)
			}
		})
	}
}

func TestFilterByCgroup(t *testing.T) {
	requireKernel(t)
	own, root := ownCgroup(t)
	child := filepath.Join(root, fmt.Sprintf("tcptrace-test-%d", os.Getpid()))
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Skipf("no cgroup can be made: %v", err)
	}
	t.Cleanup(func() { check(t, unix.Rmdir(child)) })
	ns := newNetNS(t)

	for _, test := range []struct {
		name    string
		cgroups []uint64
		want    []uint16
	}{
		{"own", []uint64{inode(t, own)}, []uint16{1001}},
		{"of a child", []uint64{inode(t, child)}, []uint16{1002}},
		{"both", []uint64{inode(t, own), inode(t, child)}, []uint16{1001, 1002}},
		{"none of them", []uint64{^uint64(0)}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			tracer := openTracer(t, &Options{NetNS: ns.inode, Cgroups: test.cgroups})
			check(t, unix.Close(ns.listen(t, v4(1001))))
			ns.listenFromCgroup(t, child, v4(1002))
			var got []uint16
			for _, e := range rest(t, tracer) {
				if e.To == fsm.Listen {
					got = append(got, e.Local.Port())
				}
				if !slices.Contains(test.cgroups, e.Cgroup) {
					t.Errorf("kept a socket of cgroup %d, want %d", e.Cgroup, test.cgroups)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("kept listeners on %d, want %d", got, test.want)
			}
		})
	}
}

// listenFromCgroup listens once, in a process of the cgroup.
func (ns *netns) listenFromCgroup(t *testing.T, cgroup string, at netip.AddrPort) {
	t.Helper()
	dir, err := os.Open(cgroup)
	check(t, err)
	defer dir.Close()
	child := exec.Command("/proc/self/exe")
	child.Env = []string{envListen + "=" + at.String()}
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	ns.do(t, child.Run) // it is born into the namespace of the thread that starts it
}

// ownCgroup returns where the cgroup of this process and the root of all are in
// the file system.
func ownCgroup(t *testing.T) (own, root string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			root = fields[1]
		}
	}
	if root == "" {
		t.Skip("no cgroup2 file system is mounted")
	}
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	check(t, err)
	for line := range strings.Lines(string(cgroups)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(root, strings.TrimSpace(path)), root
		}
	}
	t.Skip("this process is in no cgroup of version 2")
	return "", ""
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	check(t, unix.Stat(path, &stat))
	return stat.Ino
}

// TestRecordsAreWhole: padding is written too, so that nothing of the kernel's
// memory leaks into a recording.
func TestRecordsAreWhole(t *testing.T) {
	requireKernel(t)
	fields, _ := fieldsOf(t, loadSpec(t, objects[0].file), "event")
	ns := newNetNS(t)
	tracer := openTracer(t, &Options{NetNS: ns.inode, BufferSize: os.Getpagesize()})
	// Often enough that the ring is written over with other bytes.
	for range 5 {
		for range 10 {
			check(t, unix.Close(ns.listen(t, v4(0))))
		}
		ns.leaveMinisock(t)
		ns.abandonHandshake(t)
		for {
			b, err := tracer.Read()
			if errors.Is(err, ErrIdle) {
				break
			}
			check(t, err)
			if len(b) != events.RecordSize {
				t.Fatalf("a record has %d bytes, want %d", len(b), events.RecordSize)
			}
			for _, f := range fields {
				if p := b[f.offset:f.end()]; f.name == padding && slices.ContainsFunc(p, func(c byte) bool { return c != 0 }) {
					t.Fatalf("padding at %d is % x", f.offset, p)
				}
			}
		}
	}
}

// leaveMinisock makes a connection that its client leaves in FIN_WAIT_2, to a
// minisock, which the server then resets. It returns the client's cookie.
func (ns *netns) leaveMinisock(t *testing.T) (cookie uint64) {
	t.Helper()
	server := ns.listen(t, v4(0))
	defer func() { check(t, unix.Close(server)) }()
	to, err := unix.Getsockname(server)
	check(t, err)
	client := ns.socket(t, v4(0))
	check(t, unix.Connect(client, to))
	child, _, err := unix.Accept(server)
	check(t, err)
	cookie, err = unix.GetsockoptUint64(client, unix.SOL_SOCKET, unix.SO_COOKIE)
	check(t, err)
	check(t, unix.Shutdown(client, unix.SHUT_WR))
	for info := (&unix.TCPInfo{}); info.State != uint8(fsm.FinWait2); {
		info, err = unix.GetsockoptTCPInfo(client, unix.IPPROTO_TCP, unix.TCP_INFO)
		check(t, err)
	}
	check(t, unix.Close(client))
	check(t, closeByReset(child))
	return cookie
}

// abandonHandshake sends a SYN to a listener that closes before it is answered.
func (ns *netns) abandonHandshake(t *testing.T) (listener netip.AddrPort) {
	t.Helper()
	server := ns.listen(t, v4(0))
	to, err := unix.Getsockname(server)
	check(t, err)
	client := ns.socket(t, v4(0))
	check(t, unix.SetNonblock(client, true))
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // the SYN-ACK
	check(t, unix.SetsockoptSockFprog(client, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}))
	if err := unix.Connect(client, to); err != unix.EINPROGRESS {
		t.Fatalf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	check(t, unix.Close(server))
	check(t, unix.Close(client))
	return v4(uint16(to.(*unix.SockaddrInet4).Port))
}

// readUntil reads records up to one that is meant.
func readUntil(t *testing.T, tracer *Tracer, meant func(*events.Event) bool) (list []events.Event) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := tracer.Read()
		switch {
		case err == nil:
			list = append(list, decode(t, b))
			if meant(&list[len(list)-1]) {
				return list
			}
		case !errors.Is(err, ErrIdle):
			t.Fatal(err)
		case time.Now().After(deadline):
			t.Fatalf("it has not come, only %+v", list)
		}
	}
}

// describe writes the records of timers, and those of the socket.
func describe(list []events.Event, cookie uint64) (lines []string) {
	for i := range list {
		if e := &list[i]; e.Source == events.SourceTimeWait || e.Source == events.SourceRequest || e.Cookie == cookie {
			lines = append(lines, fmt.Sprintf("%d %v %v->%v flags %#x end %v", e.Seq, e.Source, e.From, e.To, uint16(e.Flags&^events.FlagLocal&^events.FlagOrphan), e.End))
		}
	}
	return lines
}

// TestTimers: what becomes of a socket's minisock follows the socket's own
// records, and a handshake that comes to nothing has one of its own.
func TestTimers(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	tracer := openTracer(t, &Options{NetNS: ns.inode})
	if err := errors.Join(tracer.TimeWait(), tracer.HalfOpen()); err != nil {
		t.Fatal(err)
	}
	cookie := ns.leaveMinisock(t)
	listener := ns.abandonHandshake(t)
	list := readUntil(t, tracer, func(e *events.Event) bool { return e.End == fsm.EndListenerClosed })
	list = append(list, rest(t, tracer)...)

	want := []string{
		"1 tracepoint CLOSED->SYN_SENT flags 0x0 end none",
		"2 tracepoint SYN_SENT->ESTABLISHED flags 0x0 end none",
		"3 tracepoint ESTABLISHED->FIN_WAIT_1 flags 0x0 end none",
		"4 tracepoint FIN_WAIT_1->FIN_WAIT_2 flags 0x0 end none",
		"5 tracepoint FIN_WAIT_2->FIN_WAIT_2 flags 0x0 end none", // the second close
		fmt.Sprintf("6 tracepoint FIN_WAIT_2->FIN_WAIT_2 flags %#x end none", uint16(events.FlagMinisock)),
		fmt.Sprintf("7 timewait FIN_WAIT_2->CLOSED flags %#x end reset", uint16(events.FlagProvisional)),
		// The kernel keeps the request until its timer expires, of which the first step looks like this.
		fmt.Sprintf("0 request SYN_RCVD->CLOSED flags %#x end listener_closed", uint16(events.FlagProvisional)),
		fmt.Sprintf("0 request SYN_RCVD->CLOSED flags %#x end listener_closed", uint16(events.FlagProvisional|events.FlagSupersedes)),
	}
	if got := describe(list, cookie); !slices.Equal(got, want) {
		t.Errorf("saw\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	for i := range list {
		e := &list[i]
		switch {
		case e.Source == events.SourceTimeWait && e.Cookie != cookie,
			e.Source == events.SourceRequest && (e.Cookie != 0 || e.Local != listener || !e.HasRemote()):
			t.Errorf("a record of somebody else: %+v", e)
		case e.Source != events.SourceTracepoint && e.Source != events.SourceReset && (e.Entered == 0 || e.Entered >= e.Time || e.NetNS != ns.inode):
			t.Errorf("time or namespace: %+v", e)
		}
	}
}

// TestTimersSwitchedOff: then all is as the kernel's tracepoint has it.
func TestTimersSwitchedOff(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	tracer := openTracer(t, &Options{NetNS: ns.inode, NoTimers: true})
	if !errors.Is(tracer.TimeWait(), ErrSwitchedOff) || !errors.Is(tracer.HalfOpen(), ErrSwitchedOff) {
		t.Errorf("TIME_WAIT: %v, handshakes: %v, want %v", tracer.TimeWait(), tracer.HalfOpen(), ErrSwitchedOff)
	}
	cookie := ns.leaveMinisock(t)
	got := describe(rest(t, tracer), cookie)
	const last = "6 tracepoint FIN_WAIT_2->CLOSED flags 0x0 end none"
	if len(got) != 6 || got[5] != last {
		t.Errorf("saw\n  %s\nwant 6 records, the last %s", strings.Join(got, "\n  "), last)
	}
}

// TestSelfTestInterrupted: signals, as Go's scheduler sends them all the time, do
// not make it fail.
func TestSelfTestInterrupted(t *testing.T) {
	requireKernel(t)
	tracer := openTracer(t, &Options{BufferSize: os.Getpagesize()})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, enough, done := unix.Gettid(), make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-enough:
				done <- nil
				return
			default:
			}
			if err := unix.Tgkill(os.Getpid(), thread, unix.SIGURG); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 100 {
		if err := tracer.selfTest(&tracer.objects.tcptraceVariables); err != nil {
			t.Error(err)
			break
		}
	}
	close(enough)
	check(t, <-done)
}

// TestSelfTestIsNotSeen: the connection that a tracer makes to itself as it
// opens is in no record, neither in its own nor in those of another one, nor is
// anything of it left.
func TestSelfTestIsNotSeen(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	var own []events.Event
	ns.do(t, func() error {
		tracer, err := Open(nil) // of the whole host
		if err != nil {
			return err
		}
		defer tracer.Close()
		if err := errors.Join(tracer.TimeWait(), tracer.HalfOpen(), unix.Access("/proc/thread-self/net/tcp", unix.R_OK)); err != nil {
			return err
		}
		text, err := os.ReadFile("/proc/thread-self/net/tcp")
		if lines := strings.Count(string(text), "\n"); err == nil && lines != 1 {
			t.Errorf("left behind:\n%s", text)
		}
		own = rest(t, tracer)
		return err
	})
	for i := range own {
		if e := &own[i]; e.NetNS == ns.inode {
			t.Errorf("a record of the self-test: %+v", e)
		}
	}
}

// TestSelfTestElsewhere: where the tracer's own network namespace does not show the
// timers, another one does, which leaves nothing either.
func TestSelfTestElsewhere(t *testing.T) {
	requireKernel(t)
	for _, test := range []struct {
		name  string
		spoil func() error
		want  string // what the self-test says there
	}{
		{"no minisocks", func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("0"), 0) }, "tcp_max_tw_buckets"},
		{"forced cookies", func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("2"), 0) }, "tcp_syncookies"},
		{"no loopback", func() error { return setLoopback(0) }, "127.0.0.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad, good := newNetNS(t), newNetNS(t)
			bad.do(t, test.spoil)
			var tracer *Tracer
			bad.do(t, func() (err error) {
				tracer, err = Open(nil)
				return err
			})
			t.Cleanup(func() { check(t, tracer.Close()) })
			if err := errors.Join(tracer.TimeWait(), tracer.HalfOpen()); err != nil {
				t.Fatal(err)
			}
			cookie := good.leaveMinisock(t)
			readUntil(t, tracer, func(e *events.Event) bool {
				return e.Source == events.SourceTimeWait && e.Cookie == cookie && e.End == fsm.EndReset
			})

			// And there was a need.
			v := &tracer.objects.tcptraceVariables
			check(t, errors.Join(v.MinisockHandler.Set(uint64(0)), v.RequestHandler.Set(uint64(0))))
			bad.do(t, func() error {
				timeWait, halfOpen := tracer.tryTimers(v)
				if err := errors.Join(timeWait, halfOpen); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("there: %v, want %s", err, test.want)
				}
				return nil
			})
		})
	}
}
