package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// walkerConfig is the argument of a process that walks.
type walkerConfig struct {
	Seed, Stream uint64 // what it does
	Name         string // its comm
	Steps        int
	Own          []netip.Addr // of the namespace
	Silent       []netip.Addr // whose answers the odd peer gives, if any
	Listen       []uint16     // ports that listeners take
	Local        []uint16     // ports that clients take
	Walkers      int          // that have mailboxes
	Inherited    int          // sockets, as file descriptors from 3 on; a child has these, and no mailbox
}

// deed is what a process has done to a socket.
type deed struct {
	Begun, Ended uint64 // ns of CLOCK_BOOTTIME
	PID          int
	Comm         string
	Verb         string
	Socket       string // cookie, as tcptrace writes it
	Note         string // arguments, result
}

func (d *deed) String() string {
	return fmt.Sprintf("%d.%06d %s (%d): %s %s %s", d.Begun/1e9, d.Begun/1e3%1e6, d.Comm, d.PID, d.Verb, d.Socket, d.Note)
}

// mailboxFD is of the first process's end of a mailbox to take sockets from; those to
// put sockets into follow.
const mailboxFD = 3

// walker is a process on a random walk through the calls that there are on sockets.
// What it does is decided by its seed; what comes of it also by what the others do,
// and when.
type walker struct {
	walkerConfig
	rng     *rand.Rand
	sockets []*walkedSocket
	child   int // its PID; 0: none
	begun   uint64
	comm    string
}

// walkedSocket is a socket of a walker.
type walkedSocket struct {
	fd     int
	cookie string
	six    bool
}

// playWalker walks so many steps and ends with its sockets open.
func playWalker(args []string) error {
	w := &walker{}
	if err := json.Unmarshal([]byte(args[0]), &w.walkerConfig); err != nil {
		return err
	}
	w.rng = rand.New(rand.NewPCG(w.Seed, w.Stream))
	w.comm = w.Name
	if err := os.WriteFile("/proc/self/comm", []byte(w.comm), 0); err != nil {
		return err
	}
	w.begun = bootClock()
	for i := range w.Inherited {
		if err := w.take(mailboxFD+i, "inherit", ""); err != nil {
			return err
		}
	}
	w.tell("begin", nil, "")
	for range w.Steps {
		if err := w.step(); err != nil {
			return err
		}
	}
	if w.chance(2) {
		for len(w.sockets) > 0 {
			if err := w.close(); err != nil {
				return err
			}
		}
	}
	w.tell("exit", nil, "")
	return nil
}

// tell writes down what has been done since begin.
func (w *walker) tell(verb string, s *walkedSocket, format string, args ...any) {
	d := deed{Begun: w.begun, Ended: bootClock(), PID: os.Getpid(), Comm: w.comm, Verb: verb, Note: fmt.Sprintf(format, args...)}
	if s != nil {
		d.Socket = s.cookie
	}
	line, err := json.Marshal(d)
	if err == nil {
		_, err = os.Stdout.Write(append(line, '\n')) // at once: it may be killed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "walker:", err)
		os.Exit(1)
	}
}

func bootClock() uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err)
	}
	return uint64(now.Nano())
}

// chance is true once in n times.
func (w *walker) chance(n int) bool { return w.rng.IntN(n) == 0 }

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// walkStep is something to do, and how often, against the others.
type walkStep struct {
	weight int
	do     func(*walker) error
}

// maxSockets bounds the sockets that a walker has.
const maxSockets = 24

var ofNoSocket = []walkStep{
	{10, (*walker).makeListener},
	{30, (*walker).makeClient},
	{2, (*walker).makeRepaired},
	{3, (*walker).receive},
	{12, (*walker).rest},
}

// ofSockets are those of a walker that has at least one.
var ofSockets = []walkStep{
	{22, (*walker).accept},
	{16, (*walker).write},
	{16, (*walker).read},
	{9, (*walker).shutdown},
	{14, (*walker).close},
	{6, (*walker).reset},
	{5, (*walker).connectAgain},
	{4, (*walker).disconnect},
	{4, (*walker).listenAgain},
	{12, (*walker).option},
	{5, (*walker).deafen},
	{5, (*walker).hear},
	{2, (*walker).repair},
	{3, (*walker).send},
	{2, (*walker).duplicate},
}

func (w *walker) step() error {
	steps := ofNoSocket
	if len(w.sockets) > 0 && !w.chance(3) || len(w.sockets) >= maxSockets {
		steps = ofSockets
	}
	w.begun = bootClock()
	if w.chance(150) {
		return w.spawn()
	}
	sum := 0
	for _, s := range steps {
		sum += s.weight
	}
	n := w.rng.IntN(sum)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			return s.do(w)
		}
	}
	return nil
}

// rest lets the kernel's timers, and the others, come to work.
func (w *walker) rest() error {
	if w.chance(30) {
		lapse(time.Duration(w.rng.IntN(250)) * time.Millisecond)
	} else {
		lapse(time.Duration(w.rng.IntN(3000)) * time.Microsecond)
	}
	return nil
}

// any returns one of the sockets.
func (w *walker) any() *walkedSocket { return pick(w.rng, w.sockets) }

// take makes a file descriptor one of the sockets.
func (w *walker) take(fd int, verb, note string) error {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return err
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	s := &walkedSocket{fd: fd, cookie: strconv.FormatUint(cookie, 16), six: domain == unix.AF_INET6}
	w.sockets = append(w.sockets, s)
	w.tell(verb, s, "%s", note)
	return nil
}

// open makes a socket, mostly one that does not block, else one that does for a while.
func (w *walker) open() (*walkedSocket, error) {
	domain := unix.AF_INET
	if w.chance(2) {
		domain = unix.AF_INET6
	}
	kind := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	blocks := w.chance(5)
	if !blocks {
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(domain, kind, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	if blocks {
		wait := unix.Timeval{Usec: 1000 * int64(1+w.rng.IntN(40))}
		for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &wait); err != nil {
				return nil, err
			}
		}
	}
	if err := w.take(fd, "socket", fmt.Sprint("blocks: ", blocks)); err != nil {
		return nil, err
	}
	w.begun = bootClock()
	return w.sockets[len(w.sockets)-1], nil
}

// set sets an option, which may be refused.
func (s *walkedSocket) set(level, option, value int) error {
	return unix.SetsockoptInt(s.fd, level, option, value)
}

// addr chooses one of the addresses that the socket can use.
func (w *walker) addr(s *walkedSocket, from []netip.Addr) netip.Addr {
	for {
		a := pick(w.rng, from)
		switch {
		case a.Is4() && s.six:
			return netip.AddrFrom16(a.As16()) // v4-mapped
		case a.Is4() == !s.six:
			return a
		}
	}
}

// bind binds the socket to an address, now and then to any.
func (w *walker) bind(s *walkedSocket, port uint16) error {
	if w.chance(2) {
		_ = s.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if w.chance(4) {
		_ = s.set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	at := w.addr(s, w.Own)
	if port != 0 && w.chance(4) {
		at = netip.IPv4Unspecified()
		if s.six {
			at = netip.IPv6Unspecified()
		}
	}
	if port == 0 && w.chance(2) {
		_ = s.set(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	err := unix.Bind(s.fd, sockaddr(netip.AddrPortFrom(at, port)))
	w.tell("bind", s, "%v:%d: %v", at, port, err)
	w.begun = bootClock()
	return err
}

func (w *walker) makeListener() error {
	s, err := w.open()
	if err != nil {
		return err
	}
	if w.chance(3) {
		_ = s.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 1+w.rng.IntN(4))
	}
	if w.chance(6) {
		_ = s.set(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	}
	if w.bind(s, pick(w.rng, w.Listen)) == nil {
		return w.listen(s)
	}
	return nil
}

func (w *walker) listen(s *walkedSocket) error {
	backlog := w.rng.IntN(4)
	err := unix.Listen(s.fd, backlog)
	w.tell("listen", s, "%d: %v", backlog, err)
	return nil
}

func (w *walker) makeClient() error {
	s, err := w.open()
	if err != nil {
		return err
	}
	switch w.rng.IntN(4) {
	case 0:
		_ = w.bind(s, pick(w.rng, w.Local))
	case 1:
		_ = w.bind(s, 0)
	case 2:
		_ = w.bind(s, pick(w.rng, w.Listen))
	}
	if w.chance(6) {
		_ = s.set(unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1)
	}
	if w.chance(6) {
		_ = s.set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1+w.rng.IntN(300))
	}
	return w.connect(s)
}

// connect connects the socket to a listener, to nobody, to the odd peer, or to itself.
func (w *walker) connect(s *walkedSocket) error {
	to := netip.AddrPortFrom(w.addr(s, w.Own), pick(w.rng, w.Listen))
	switch w.rng.IntN(12) {
	case 0:
		to = netip.AddrPortFrom(w.addr(s, w.Own), 1)
	case 1, 2, 3:
		to = netip.AddrPortFrom(w.addr(s, w.Silent), 80)
	case 4:
		if a, err := unix.Getsockname(s.fd); err == nil {
			if self := addrPortOf(a); self.Port() != 0 && !self.Addr().IsUnspecified() {
				to = self
			}
		}
	case 5:
		to = netip.AddrPortFrom(w.addr(s, w.Own), pick(w.rng, w.Local)) // perhaps both at once
	}
	switch w.rng.IntN(10) {
	case 0, 1:
		err := unix.Sendto(s.fd, []byte("with the SYN"), unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL, sockaddr(to))
		w.tell("connect", s, "%v, with data: %v", to, err)
		return nil
	case 2:
		_ = s.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	}
	err := unix.Connect(s.fd, sockaddr(to))
	w.tell("connect", s, "%v: %v", to, err)
	return nil
}

func addrPortOf(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// makeRepaired makes a connection, of which the peer knows nothing, by TCP_REPAIR.
func (w *walker) makeRepaired() error {
	s, err := w.open()
	if err != nil {
		return err
	}
	_ = w.bind(s, pick(w.rng, w.Local))
	on := s.set(unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	for queue := 1; queue <= 2; queue++ {
		_ = s.set(unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue)
		_ = s.set(unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ, int(w.rng.Int32()))
	}
	to := netip.AddrPortFrom(w.addr(s, w.Own), pick(w.rng, w.Listen))
	err = unix.Connect(s.fd, sockaddr(to))
	w.tell("connect", s, "%v, repaired (%v): %v", to, on, err)
	if w.chance(3) {
		return nil // closes without a word
	}
	off := 0
	if w.chance(2) {
		off = -1 // no probe of the window
	}
	w.begun = bootClock()
	err = s.set(unix.IPPROTO_TCP, unix.TCP_REPAIR, off)
	w.tell("repaired", s, "%d: %v", off, err)
	return nil
}

func (w *walker) repair() error {
	s, mode := w.any(), pick(w.rng, []int{1, 0, -1})
	err := s.set(unix.IPPROTO_TCP, unix.TCP_REPAIR, mode)
	w.tell("repair", s, "%d: %v", mode, err)
	return nil
}

// accept accepts all that a listener has, or one.
func (w *walker) accept() error {
	for range 4 {
		s := w.any()
		flags := unix.SOCK_CLOEXEC
		if !w.chance(8) {
			flags |= unix.SOCK_NONBLOCK
		}
		if accepting, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || accepting == 0 {
			continue
		}
		w.begun = bootClock()
		fd, _, err := unix.Accept4(s.fd, flags)
		if err != nil {
			w.tell("accept", s, "%v", err)
			return nil
		}
		if flags&unix.SOCK_NONBLOCK == 0 {
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
				return err
			}
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
				return err
			}
		}
		if err := w.take(fd, "accepted", "of "+s.cookie); err != nil {
			return err
		}
		if len(w.sockets) >= maxSockets || w.chance(2) {
			return nil
		}
	}
	return nil
}

func (w *walker) write() error {
	s, n := w.any(), 1+w.rng.IntN(20)
	if w.chance(4) {
		n = 1 + w.rng.IntN(200_000)
	}
	n, err := unix.SendmsgN(s.fd, make([]byte, n), nil, nil, unix.MSG_NOSIGNAL)
	w.tell("write", s, "%d: %v", n, err)
	return nil
}

func (w *walker) read() error {
	s, flags, n := w.any(), 0, 1+w.rng.IntN(300_000)
	if w.chance(4) {
		flags, n = unix.MSG_PEEK, 1
	}
	n, _, err := unix.Recvfrom(s.fd, make([]byte, n), flags)
	w.tell("read", s, "%#x, %d: %v", flags, n, err)
	return nil
}

func (w *walker) shutdown() error {
	s, how := w.any(), pick(w.rng, []int{unix.SHUT_WR, unix.SHUT_WR, unix.SHUT_RD, unix.SHUT_RDWR})
	err := unix.Shutdown(s.fd, how)
	w.tell("shutdown", s, "%d: %v", how, err)
	return nil
}

// drop takes one of the sockets from the list.
func (w *walker) drop() *walkedSocket {
	i := w.rng.IntN(len(w.sockets))
	s := w.sockets[i]
	w.sockets = append(w.sockets[:i], w.sockets[i+1:]...)
	return s
}

func (w *walker) close() error {
	s, linger := w.drop(), ""
	if w.chance(8) {
		err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
		linger = fmt.Sprintf("waits: %v, ", err)
	}
	w.begun = bootClock()
	err := unix.Close(s.fd)
	w.tell("close", s, "%s%v", linger, err)
	return nil
}

func (w *walker) reset() error {
	s := w.drop()
	err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	err = errors.Join(err, unix.Close(s.fd))
	w.tell("close", s, "SO_LINGER 0: %v", err)
	return nil
}

func (w *walker) connectAgain() error { return w.connect(w.any()) }
func (w *walker) listenAgain() error  { return w.listen(w.any()) }

func (w *walker) disconnect() error {
	s := w.any()
	unspecified := unix.RawSockaddrAny{Addr: unix.RawSockaddr{Family: unix.AF_UNSPEC}}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&unspecified)), unsafe.Sizeof(unspecified))
	w.tell("disconnect", s, "%v", errno)
	if w.chance(2) {
		w.begun = bootClock()
		return w.connect(s)
	}
	return nil
}

func (w *walker) option() error {
	s := w.any()
	o := pick(w.rng, []struct{ level, option, value int }{
		{unix.IPPROTO_TCP, unix.TCP_LINGER2, -1},
		{unix.IPPROTO_TCP, unix.TCP_LINGER2, 1},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1 + w.rng.IntN(500)},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.IPPROTO_TCP, unix.TCP_CORK, w.rng.IntN(2)},
		{unix.IPPROTO_TCP, unix.TCP_QUICKACK, w.rng.IntN(2)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, 2000},
		{unix.SOL_SOCKET, unix.SO_SNDBUF, 4000},
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, w.rng.IntN(2)},
		{unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, 1000},
	})
	err := s.set(o.level, o.option, o.value)
	w.tell("option", s, "%v: %v", o, err)
	return nil
}

// deafen lets nothing, or only some of the segments, reach the socket.
func (w *walker) deafen() error {
	const random = 0xfffff000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM of linux/filter.h
	s, some := w.any(), w.chance(2)
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	if some {
		program = []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: random},
			{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, Jt: 1, K: 1 << 30}, // a quarter is lost
			{Code: unix.BPF_RET | unix.BPF_K},
			{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 20},
		}
	}
	err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	w.tell("deafen", s, "some: %t: %v", some, err)
	return nil
}

func (w *walker) hear() error {
	s := w.any()
	err := s.set(unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	w.tell("hear", s, "%v", err)
	return nil
}

func (w *walker) duplicate() error {
	s := w.any()
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return w.take(fd, "duplicate", "of "+s.cookie)
}

// send puts a socket into somebody's mailbox, and keeps it or not.
func (w *walker) send() error {
	if w.Inherited > 0 {
		return nil
	}
	to := w.rng.IntN(w.Walkers)
	s := w.any()
	w.tell("sends", s, "to %d", to) // before: it may be killed in between
	sent := unix.Sendmsg(mailboxFD+1+to, []byte{0}, unix.UnixRights(s.fd), nil, unix.MSG_DONTWAIT) == nil
	if !sent || w.chance(2) {
		return nil
	}
	i := 0
	for w.sockets[i] != s {
		i++
	}
	w.sockets = append(w.sockets[:i], w.sockets[i+1:]...)
	err := unix.Close(s.fd)
	w.tell("close", s, "sent: %v", err)
	return nil
}

func (w *walker) receive() error {
	if w.Inherited > 0 {
		return nil
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(mailboxFD, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err == unix.EAGAIN {
		return nil
	}
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return err
		}
		for _, fd := range fds {
			if err := w.take(fd, "receive", ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// spawn starts a child that has one or two of the sockets as well, or kills the one
// there was.
func (w *walker) spawn() error {
	if w.Inherited > 0 || len(w.sockets) == 0 {
		return nil
	}
	if w.child != 0 {
		_ = unix.Kill(w.child, unix.SIGKILL) // if it has not ended by itself
		_, err := unix.Wait4(w.child, nil, 0, nil)
		w.tell("killed child", nil, "%d: %v", w.child, err)
		w.child = 0
		return nil
	}
	config := w.walkerConfig
	config.Stream = w.rng.Uint64()
	config.Name += " child"
	config.Steps = 20 + w.rng.IntN(40)
	config.Inherited = 1 + w.rng.IntN(2)
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	files := []uintptr{0, 1, 2}
	for range config.Inherited {
		s := w.any()
		files = append(files, uintptr(s.fd))
		w.tell("shares", s, "with a child")
	}
	// Not by os/exec, which has the sockets block.
	w.child, err = syscall.ForkExec(selfExe, []string{selfExe, string(text)}, &syscall.ProcAttr{
		Env: append(os.Environ(), envRole+"=walker"), Files: files,
	})
	w.tell("spawn", nil, "%d: %v", w.child, err)
	return err
}

// readDeeds reads what walkers tell, until all have ended, and calls f with each.
func readDeeds(r io.Reader, f func(*deed)) error {
	for d := json.NewDecoder(r); ; {
		var one deed
		if err := d.Decode(&one); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read what a walker tells: %w", err)
		}
		f(&one)
	}
}
