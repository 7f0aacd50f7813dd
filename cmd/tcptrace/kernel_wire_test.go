package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// wire sees all TCP segments that arrive in a namespace, IPv4 only, and sends
// any.
type wire struct {
	ns   *netns
	in   int // gets a copy of what arrives
	out  int
	seen []segment
}

// segment is a TCP segment.
type segment struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    byte
	length   int    // of the data
	packet   []byte // with the IP header
}

// The flags of a segment.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
)

// wire taps the namespace from now on.
func (ns *netns) wire() *wire {
	ns.t.Helper()
	w := &wire{ns: ns, in: ns.raw(unix.IPPROTO_TCP), out: ns.raw(unix.IPPROTO_RAW)}
	check(ns.t, unix.SetsockoptInt(w.in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	return w
}

func (ns *netns) raw(protocol int) int {
	ns.t.Helper()
	var fd int
	ns.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	ns.t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// await returns the first segment that is meant, of those since the last.
func (w *wire) await(what string, meant func(*segment) bool) *segment {
	t := w.ns.t
	t.Helper()
	var found *segment
	eventually(t, what+" is on the wire", func() bool {
		w.read()
		for i := range w.seen {
			if meant(&w.seen[i]) {
				found = &w.seen[i]
				w.seen = w.seen[i+1:]
				return true
			}
		}
		return false
	})
	return found
}

// awaitFlags waits for a segment to the socket at the end, with these flags
// among others.
func (w *wire) awaitFlags(flags byte, to netip.AddrPort) *segment {
	w.ns.t.Helper()
	return w.await(fmt.Sprintf("a segment with flags %#x to %v", flags, to), func(s *segment) bool {
		return s.to == to && s.flags&flags == flags
	})
}

func (w *wire) read() {
	w.ns.t.Helper()
	for b := make([]byte, 64<<10); ; {
		n, _, err := unix.Recvfrom(w.in, b, 0)
		if err == unix.EAGAIN {
			return
		}
		check(w.ns.t, err)
		w.seen = append(w.seen, parseSegment(append([]byte(nil), b[:n]...)))
	}
}

func parseSegment(packet []byte) segment {
	header := int(packet[0]&15) * 4
	tcp := packet[header:]
	addr := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(packet[at : at+4])) }
	return segment{
		from:   netip.AddrPortFrom(addr(12), binary.BigEndian.Uint16(tcp)),
		to:     netip.AddrPortFrom(addr(16), binary.BigEndian.Uint16(tcp[2:])),
		seq:    binary.BigEndian.Uint32(tcp[4:]),
		ack:    binary.BigEndian.Uint32(tcp[8:]),
		flags:  tcp[13],
		length: len(tcp) - int(tcp[12]>>4)*4,
		packet: packet,
	}
}

// next returns the sequence number after the segment.
func (s *segment) next() uint32 {
	n := s.seq + uint32(s.length)
	if s.flags&flagSYN != 0 {
		n++
	}
	if s.flags&flagFIN != 0 {
		n++
	}
	return n
}

// send sends a segment without options and data.
func (w *wire) send(s *segment) {
	w.ns.t.Helper()
	check(w.ns.t, sendSegment(w.out, s))
}

func sendSegment(fd int, s *segment) error {
	const ipHeader, tcpHeader, window = 20, 20, 8192
	var b [ipHeader + tcpHeader]byte
	order := binary.BigEndian
	from, to := s.from.Addr().As4(), s.to.Addr().As4()
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_TCP // the kernel fills the rest in
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	tcp := b[ipHeader:]
	order.PutUint16(tcp, s.from.Port())
	order.PutUint16(tcp[2:], s.to.Port())
	order.PutUint32(tcp[4:], s.seq)
	order.PutUint32(tcp[8:], s.ack)
	tcp[12], tcp[13] = tcpHeader/4<<4, s.flags
	order.PutUint16(tcp[14:], window)
	sum := uint32(unix.IPPROTO_TCP + tcpHeader)
	for i := 12; i < len(b); i += 2 { // addresses and segment
		sum += uint32(order.Uint16(b[i:]))
	}
	order.PutUint16(tcp[16:], checksum(sum))
	return unix.Sendto(fd, b[:], 0, &unix.SockaddrInet4{Addr: to})
}

func checksum(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// unreachable tells the sender of the segment by ICMP that its host cannot be
// reached.
func (w *wire) unreachable(s *segment) {
	w.ns.t.Helper()
	const quoted = 28 // the IP header and 8 bytes
	b := make([]byte, 8, 8+quoted)
	b[0], b[1] = 3, 1 // destination unreachable: host
	b = append(b, s.packet[:quoted]...)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[2:], checksum(sum))
	fd := w.ns.raw(unix.IPPROTO_ICMP)
	check(w.ns.t, unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: s.from.Addr().As4()}))
}

// ssLine is a socket, by ss.
type ssLine struct {
	state, cookie string
	local, remote string
}

// ss returns what ss says of the TCP sockets of the namespace, by their cookies.
func (ns *netns) ss() map[string]ssLine {
	ns.t.Helper()
	sockets := make(map[string]ssLine)
	for text := range strings.Lines(ns.runSS("-tanHe")) {
		// TIME-WAIT 0 0 127.0.0.1:6001 127.0.0.1:5000 timer:(timewait,59sec,0) ino:0 sk:d7fab5
		words := strings.Fields(text)
		if len(words) < 5 {
			continue
		}
		l := ssLine{state: words[0], local: words[3], remote: words[4]}
		for _, word := range words[5:] {
			if cookie, ok := strings.CutPrefix(word, "sk:"); ok {
				l.cookie = cookie
			}
		}
		sockets[l.cookie] = l
	}
	return sockets
}

// destroy lets ss -K destroy the sockets of the filter.
func (ns *netns) destroy(filter ...string) {
	ns.t.Helper()
	ns.runSS(append([]string{"-HKtan"}, filter...)...)
}

func (ns *netns) runSS(args ...string) string {
	ns.t.Helper()
	return ns.runTool("ss", args...)
}

// runTool runs a tool of iproute2 in the namespace.
func (ns *netns) runTool(name string, args ...string) string {
	ns.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		unavailable(ns.t, "iproute2 is not there: %v", err)
	}
	var out []byte
	ns.do(func() (err error) { // it is born into the namespace of the thread
		out, err = exec.Command(path, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %q: %w: %s", name, args, err, out)
		}
		return err
	})
	return string(out)
}

// silence makes an IPv4 network of hosts that never answer: what is sent to them
// is dropped without a word.
func (ns *netns) silence() netip.Prefix {
	ns.t.Helper()
	net := netip.MustParsePrefix("198.51.100.0/24") // for documentation
	ns.runTool("ip", "route", "add", net.String(), "dev", "lo")
	return net
}
