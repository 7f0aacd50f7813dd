package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// netns is a network namespace that exists for one test. A socket that it makes
// belongs to it, whatever thread uses the socket then.
//
// The oracle does not know of namespaces. So the addresses are the test's own,
// too: a network of loopback addresses, chosen at random.
type netns struct {
	t     *testing.T
	inode uint32
	net4  netip.Prefix
	addrs []netip.Addr // IPv6
	ports []uint16     // of listeners on any address
	calls chan func()

	disturbed bool // see inNetNS
	ended     bool // before its test

	// Of the handshakes of all listeners, for the checks of the results.
	noRequests bool // the kernel keeps no requests: SYN cookies
	fastOpen   bool // some have no requests
	slowSYN    bool // the first SYN may have been lost

	// What is to be found.
	illegal  int // transitions judged so
	requests int // handshakes that came to nothing
}

// inNetNS runs a test in a namespace of its own, and again in another one where
// the kernel has not run the program for all of its transitions. That happens
//
//   - when a transition interrupts the program on the same CPU, at work for a
//     socket of anybody on the host: the kernel passes it over and counts that;
//   - on kernels that run no programs on top of some processes. The virtual
//     machine that this was written on has such a process. The kernel does not
//     count it, but the oracle knows of it.
//
// A test that meets this again and again fails.
func inNetNS(t *testing.T, test func(ns *netns)) {
	t.Helper()
	for try := range 5 {
		var ns *netns
		t.Run(fmt.Sprintf("try %d", try+1), func(t *testing.T) {
			ns = newNetNS(t)
			test(ns)
		})
		if ns == nil || !ns.disturbed { // nil: not among the tests to run
			return
		}
	}
	t.Error("the kernel passes transitions over each time")
}

// checkDisturbance gives up a try in which transitions are missing because the
// kernel has not run the program: the ones it counts, of the whole host, and the
// ones that came about on top of a stranger. Any other is missing for the test
// to find.
func (ns *netns) checkDisturbance(lives []*life, seen, passedOver int) {
	ns.t.Helper()
	made, onStrangers := 0, 0
	for _, l := range lives {
		made += len(l.steps)
	}
	if seen >= made {
		return
	}
	for _, l := range lives {
		for i := range l.steps {
			if l.steps[i].stranger() {
				onStrangers++
			}
		}
	}
	if made-seen <= passedOver+onStrangers {
		ns.disturbed = true
		ns.t.Skipf("%d of %d transitions passed over by the kernel", made-seen, made)
	}
}

func newNetNS(t *testing.T) *netns {
	t.Helper()
	ns := &netns{
		t:     t,
		calls: make(chan func()),
		net4:  netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), 0}), 24),
	}
	home := -1
	go func() {
		// Never unlocked: the thread ends with the goroutine, if it is not the
		// first one, and with thread and sockets the namespace.
		runtime.LockOSThread()
		for call := range ns.calls {
			call()
		}
		_ = errors.Join(unix.Setns(home, unix.CLONE_NEWNET), unix.Close(home))
	}()
	t.Cleanup(ns.end)
	ns.do(func() (err error) {
		if home, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var stat unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
			return err
		}
		ns.inode = uint32(stat.Ino)
		return onLoopback(unix.AF_INET, func(fd int, lo *unix.Ifreq) error {
			lo.SetUint16(unix.IFF_UP)
			return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
		})
	})
	return ns
}

// onLoopback calls a function with a socket to configure the loopback device
// with.
func onLoopback(family int, f func(fd int, lo *unix.Ifreq) error) error {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo, err := unix.NewIfreq("lo")
	if err == nil {
		err = f(fd, lo)
	}
	return errors.Join(err, unix.Close(fd))
}

// end lets the namespace go, as soon as the sockets of the test are closed.
func (ns *netns) end() {
	if !ns.ended {
		ns.ended = true
		close(ns.calls)
	}
}

// do runs a function inside the namespace.
func (ns *netns) do(f func() error) {
	ns.t.Helper()
	done := make(chan error)
	ns.calls <- func() { done <- f() }
	check(ns.t, <-done)
}

// v4 returns one of the namespace's IPv4 addresses.
func (ns *netns) v4(host byte) netip.Addr {
	a := ns.net4.Addr().As4()
	a[3] = host
	return netip.AddrFrom4(a)
}

// v6 adds a random IPv6 address and returns it.
func (ns *netns) v6() netip.Addr {
	ns.t.Helper()
	a := [16]byte{0: 0xfd, 15: 1}
	for i := 1; i < 8; i++ {
		a[i] = byte(rand.IntN(256))
	}
	return ns.addAddr(netip.AddrFrom16(a))
}

// addAddr gives the loopback device an IPv6 address.
func (ns *netns) addAddr(addr netip.Addr) netip.Addr {
	ns.t.Helper()
	ns.do(func() error {
		return onLoopback(unix.AF_INET6, func(fd int, lo *unix.Ifreq) error {
			if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, lo); err != nil {
				return err
			}
			request := struct { // struct in6_ifreq of linux/ipv6.h
				addr      [16]byte
				prefixLen uint32
				index     int32
			}{addr.As16(), 128, int32(lo.Uint32())}
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request)))
			if errno != 0 {
				return fmt.Errorf("add %v: %w", addr, errno)
			}
			return nil
		})
	})
	// The kernel takes a moment to see that nobody else has it.
	probe := ns.socket(addr)
	eventually(ns.t, fmt.Sprintf("%v can be used", addr), func() bool {
		return unix.Bind(probe.fd, sockaddr(netip.AddrPortFrom(addr, 0))) == nil
	})
	probe.close()
	ns.addrs = append(ns.addrs, addr)
	return addr
}

// sysctl sets /proc/sys/net/NAME.
func (ns *netns) sysctl(name, value string) {
	ns.t.Helper()
	ns.do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// counters are the kernel's of the namespace, by the names of nstat.
type counters map[string]int

// counters reads them.
func (ns *netns) counters() counters {
	ns.t.Helper()
	all := make(counters)
	for _, name := range []string{"snmp", "netstat"} {
		var text []byte
		ns.do(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/" + name)
			return err
		})
		// Names in one line, values in the next:
		//	TcpExt: SyncookiesSent SyncookiesRecv ...
		//	TcpExt: 0 0 ...
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for j := 1; j < min(len(names), len(values)); j++ {
				n, err := strconv.Atoi(values[j])
				check(ns.t, err)
				all[strings.TrimSuffix(names[0], ":")+names[j]] = n
			}
		}
	}
	return all
}

// minisocks returns how many were made: the kernel counts those that are to live
// for 4 seconds or less apart.
func (c counters) minisocks() int { return c["TcpExtTW"] + c["TcpExtTWKilled"] }

// owns reports whether a life that the oracle saw is of this namespace.
func (ns *netns) owns(l *life) bool {
	for _, end := range []netip.AddrPort{l.local, l.remote} {
		if ns.net4.Contains(end.Addr()) || slices.Contains(ns.addrs, end.Addr()) {
			return true
		}
	}
	return l.local.Addr().IsUnspecified() && slices.Contains(ns.ports, l.local.Port())
}

// socket is a TCP socket. Its methods are for the test's own goroutine.
type socket struct {
	ns     *netns
	t      *testing.T
	fd     int
	closed bool
}

// socket makes a TCP socket for addresses of the kind of the given one.
func (ns *netns) socket(kind netip.Addr) *socket {
	ns.t.Helper()
	return ns.open(family(kind), unix.IPPROTO_TCP)
}

func (ns *netns) open(family, protocol int) *socket {
	ns.t.Helper()
	var fd int
	ns.do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	return ns.adopt(fd)
}

func (ns *netns) adopt(fd int) *socket {
	s := &socket{ns: ns, t: ns.t, fd: fd}
	ns.t.Cleanup(func() { // of a test that failed half-way
		if !s.closed {
			_ = unix.Close(s.fd)
		}
	})
	return s
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// listen returns a listener on the address, at a port that the kernel chooses.
func (ns *netns) listen(addr netip.Addr) *socket {
	ns.t.Helper()
	s := ns.socket(addr)
	s.bind(addr, 0)
	s.listen(16)
	return s
}

// connected opens a connection over IPv4.
func (ns *netns) connected() (listener, client, server *socket) {
	ns.t.Helper()
	listener = ns.listen(ns.v4(1))
	client, server = ns.dial(ns.v4(2), listener)
	return listener, client, server
}

// dial returns a socket connected from the address to the listener, and the
// listener's accepted child.
func (ns *netns) dial(from netip.Addr, listener *socket) (client, server *socket) {
	ns.t.Helper()
	client = ns.socket(from)
	client.bind(from, 0)
	client.connect(listener.addr())
	return client, listener.accept()
}

func (s *socket) bind(addr netip.Addr, port uint16) {
	s.t.Helper()
	check(s.t, unix.Bind(s.fd, sockaddr(netip.AddrPortFrom(addr, port))))
}

func (s *socket) listen(backlog int) {
	s.t.Helper()
	check(s.t, unix.Listen(s.fd, backlog))
	if at := s.addr(); at.Addr().IsUnspecified() {
		s.ns.ports = append(s.ns.ports, at.Port())
	}
}

func (s *socket) connect(to netip.AddrPort) {
	s.t.Helper()
	check(s.t, s.tryConnect(to))
}

func (s *socket) tryConnect(to netip.AddrPort) error {
	return unix.Connect(s.fd, sockaddr(to))
}

func (s *socket) accept() *socket {
	s.t.Helper()
	fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
	check(s.t, err)
	return s.ns.adopt(fd)
}

func (s *socket) addr() netip.AddrPort {
	s.t.Helper()
	a, err := unix.Getsockname(s.fd)
	check(s.t, err)
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	s.t.Fatalf("unexpected address %v", a)
	return netip.AddrPort{}
}

// cookie returns what names the socket in the output.
func (s *socket) cookie() string {
	s.t.Helper()
	n, err := unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	check(s.t, err)
	return strconv.FormatUint(n, 16)
}

func (s *socket) write(text string) {
	s.t.Helper()
	_, err := unix.Write(s.fd, []byte(text))
	check(s.t, err)
}

// read waits for exactly the text, or for the end of the stream if it is "".
func (s *socket) read(text string) {
	s.t.Helper()
	b := make([]byte, max(1, len(text)))
	for n := 0; n < len(b); {
		m, err := unix.Read(s.fd, b[n:])
		check(s.t, err)
		if m == 0 {
			b = b[:n]
		}
		n += m
	}
	if string(b) != text {
		s.t.Fatalf("read %q, want %q", b, text)
	}
}

func (s *socket) shutdown(how int) {
	s.t.Helper()
	check(s.t, unix.Shutdown(s.fd, how))
}

func (s *socket) close() {
	s.t.Helper()
	s.closed = true
	check(s.t, unix.Close(s.fd))
}

// reset closes the socket with a reset.
func (s *socket) reset() {
	s.t.Helper()
	check(s.t, unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	s.close()
}

func (s *socket) set(level, option, value int) {
	s.t.Helper()
	check(s.t, unix.SetsockoptInt(s.fd, level, option, value))
}

// deafen lets nothing reach the socket any more; hear ends that.
func (s *socket) deafen() {
	s.t.Helper()
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	check(s.t, unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}))
}

func (s *socket) hear() {
	s.t.Helper()
	s.set(unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
}

func (s *socket) info() *unix.TCPInfo {
	s.t.Helper()
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	check(s.t, err)
	return info
}

// await waits until the kernel has the socket in the state.
func (s *socket) await(state fsm.State) {
	s.t.Helper()
	eventually(s.t, "the socket is in "+state.String(), func() bool { return s.info().State == uint8(state) })
}

// awaitGone waits until the kernel has no IPv4 socket at the port any more.
func (ns *netns) awaitGone(port uint16) {
	ns.t.Helper()
	local := fmt.Sprintf(":%04X", port)
	eventually(ns.t, fmt.Sprintf("no socket is at port %d", port), func() bool {
		var table []byte
		ns.do(func() (err error) {
			table, err = os.ReadFile("/proc/thread-self/net/tcp")
			return err
		})
		//   0: 0100007F:1F90 00000000:0000 0A ...
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); len(fields) > 1 && strings.HasSuffix(fields[1], local) {
				return false
			}
		}
		return true
	})
}

// peek waits until there is something to read, and leaves it.
func (s *socket) peek() {
	s.t.Helper()
	_, _, err := unix.Recvfrom(s.fd, make([]byte, 1), unix.MSG_PEEK)
	check(s.t, err)
}

// disconnect calls connect with AF_UNSPEC.
func (s *socket) disconnect() {
	s.t.Helper()
	unspecified := unix.RawSockaddrAny{Addr: unix.RawSockaddr{Family: unix.AF_UNSPEC}}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&unspecified)), unsafe.Sizeof(unspecified))
	if errno != 0 {
		s.t.Fatal(errno)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
