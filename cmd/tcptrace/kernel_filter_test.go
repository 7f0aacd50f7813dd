package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// TestKernelFilters: what a filter keeps, it keeps whole, from the first
// transition on, though the kernel does not know all ends by then.
func TestKernelFilters(t *testing.T) {
	requireKernel(t)
	const (
		one, two, dual = 1001, 1002, 1003 // ports of listeners
		ephemeral      = "41000-41099"
	)
	local := func(ports ...uint16) func(*life) bool {
		return func(l *life) bool { return slices.Contains(ports, l.local.Port()) }
	}
	remote := func(ports ...uint16) func(*life) bool {
		return func(l *life) bool { return slices.Contains(ports, l.remote.Port()) }
	}
	ipv4 := func(l *life) bool { return l.local.Addr().Is4() }
	for _, test := range []struct {
		args []string // NET is the namespace's IPv4 network
		keep func(*life) bool
	}{
		{nil, func(*life) bool { return true }},
		{[]string{"-L", "1001"}, local(one)},
		{[]string{"-L", "1001,1003"}, local(one, dual)},
		{[]string{"-L", ephemeral}, func(l *life) bool { return l.local.Port() >= 41000 }},
		{[]string{"-D", "1001"}, remote(one)},
		{[]string{"-D", ephemeral}, func(l *life) bool { return l.remote.Port() >= 41000 }},
		{[]string{"--port", "1001"}, func(l *life) bool { return local(one)(l) || remote(one)(l) }},
		{[]string{"-L", ephemeral, "-D", "1002"}, remote(two)},
		{[]string{"--local", "NET.7"}, func(l *life) bool { return isHost(l.local, 7) }},
		{[]string{"--local", "NET.0/29"}, func(l *life) bool { return isHost(l.local, 7) }},
		{[]string{"--remote", "NET.9"}, func(l *life) bool { return isHost(l.remote, 9) }},
		{[]string{"-4"}, ipv4},
		{[]string{"-6"}, func(l *life) bool { return !ipv4(l) }},
		{[]string{"-4", "-L", "1003"}, func(l *life) bool { return ipv4(l) && local(dual)(l) }},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				ns.sysctl("ipv4/ip_local_port_range", strings.ReplaceAll(ephemeral, "-", " "))
				six := ns.v6()
				args := slices.Clone(test.args)
				for i := range args {
					args[i] = strings.ReplaceAll(args[i], "NET", strings.TrimSuffix(ns.v4(0).String(), ".0"))
				}
				tr := trace(ns, args...)

				for _, port := range []uint16{one, two} {
					listener := ns.socket(ns.v4(7))
					listener.bind(ns.v4(7), port)
					listener.listen(16)
					converse(listener, ns.late(ns.v4(9)), listener.addr())
					listener.close()
				}
				listener := ns.socket(six)
				listener.bind(netip.IPv6Unspecified(), dual)
				listener.listen(16)
				converse(listener, ns.late(six), netip.AddrPortFrom(six, dual))
				converse(listener, ns.late(ns.v4(9)), netip.AddrPortFrom(ns.v4(7), dual))
				converse(listener, ns.socket(six), netip.AddrPortFrom(netip.AddrFrom16(ns.v4(7).As16()), dual))
				listener.close()

				r := tr.finishWith(test.keep)
				for i := range r.transitions {
					l := &r.transitions[i]
					if l.From == fsm.Closed.String() && l.To == fsm.SynSent.String() && l.Local.Port == 0 && slices.Contains(test.args, "-L") {
						t.Errorf("kept for its local port, but without it: %+v", l)
					}
					if l.Local.Addr.Is4In6() || l.Remote.Addr.Is4In6() {
						t.Errorf("addresses not as on the wire: %v, %v", l.Local, l.Remote)
					}
					if want := map[bool]string{true: "ipv4", false: "ipv6"}[l.Local.Addr.Is4() || l.Remote.Addr.Is4()]; l.Family != want && l.Local.Addr.IsValid() {
						t.Errorf("%v is called %s", l.Local, l.Family)
					}
				}
			})
		})
	}
}

// late returns a socket for the address whose port the kernel does not choose
// before connect.
func (ns *netns) late(from netip.Addr) *socket {
	ns.t.Helper()
	s := ns.socket(from)
	s.set(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	s.bind(from, 0)
	return s
}

// converse connects the client, and ends the connection from its side.
func converse(listener, client *socket, to netip.AddrPort) {
	client.t.Helper()
	client.connect(to)
	server := listener.accept()
	client.close()
	server.read("")
	server.close()
}

// isHost reports whether the address is IPv4 and ends in the number.
func isHost(a netip.AddrPort, host byte) bool {
	return a.Addr().Is4() && a.Addr().As4()[3] == host
}

// TestKernelPortFilterForgets: the first transition of every connection of the
// host passes a filter of local ports, as its port is not chosen yet. What is
// kept to be decided later must go when it turns out to be of no interest, or
// it crowds out what is.
func TestKernelPortFilterForgets(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		tr := traceMany(ns, 32<<10, "-L", "50000-50999")
		ns.sysctl("ipv4/ip_local_port_range", "40000 49999") // the listener's port too
		listener := ns.listen(ns.v4(1))
		vacant := sockaddr(netip.AddrPortFrom(ns.v4(1), 1))
		ns.do(func() error {
			for range maxHeld + 10 {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
				if err != nil {
					return err
				}
				if err := unix.Connect(fd, vacant); err != unix.ECONNREFUSED {
					return fmt.Errorf("connect: %v, want %w", err, unix.ECONNREFUSED)
				}
				if err := unix.Close(fd); err != nil {
					return err
				}
			}
			return nil
		})
		ns.sysctl("ipv4/ip_local_port_range", "50000 50999")
		converse(listener, ns.socket(ns.v4(2)), listener.addr())
		listener.close()

		r := tr.finishWith(func(l *life) bool { return l.local.Port() >= 50000 && l.local.Port() <= 50999 })
		r.expect(clientFirst)
	})
}

// TestKernelPortFilterRecording: what the filter for ports refuses is not recorded, though
// the kernel side had to send it.
func TestKernelPortFilterRecording(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		recording := filepath.Join(t.TempDir(), "a.tct")
		p := ns.startTracer("-L", "7", "-w", recording)
		out := p.lines()
		for range 10 {
			playClientFirst(ns)
		}
		p.signal(syscall.SIGINT)
		if text := out.rest(t); p.status() != exitDone || strings.Contains(text, `"type":"transition"`) {
			t.Errorf("status %d: %s", p.status(), text)
		}
		if text := replayWhole(t, recording); strings.Contains(text, `"type":"transition"`) {
			t.Errorf("recorded: %s", text)
		}
	})
}

// TestKernelLongAddress: the longest addresses are shown whole.
func TestKernelLongAddress(t *testing.T) {
	requireKernel(t)
	const long = "2001:db8:1111:2222:3333:4444:5555:6666"
	for _, test := range []struct {
		name string
		args []string
	}{{"text", nil}, {"wide", []string{"--wide"}}} {
		t.Run(test.name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				addr := ns.addAddr(netip.MustParseAddr(long))
				tr := trace(ns, append([]string{"-o", "text", "--no-time-wait"}, test.args...)...)
				listener := ns.listen(addr)
				at := listener.addr()
				clientCloses(ns, listener, addr)
				rows := tr.rows()
				if len(rows) != 12 {
					t.Fatalf("%d rows, want 12: %q", len(rows), rows)
				}
				for _, row := range rows {
					// TIME PID COMM LADDR LPORT RADDR RPORT
					words := strings.Fields(row)
					if len(words) < 7 || words[3] != long || words[5] != long && words[6] != "-" {
						t.Errorf("the addresses of this row are not whole: %s", row)
					}
					if port := strconv.Itoa(int(at.Port())); words[4] != port && words[6] != port {
						t.Errorf("a row with neither end at port %s: %s", port, row)
					}
				}
			})
		})
	}
	t.Run("json", func(t *testing.T) {
		inNetNS(t, func(ns *netns) {
			t := ns.t
			addr := ns.addAddr(netip.MustParseAddr(long))
			tr := trace(ns)
			clientCloses(ns, ns.listen(addr), addr)
			r := tr.finish()
			r.expect(listened, clientFirst, serverSecond)
			if text := tr.text(); !strings.Contains(text, `"remote":{"addr":"`+long+`"`) {
				t.Errorf("%s is not in\n%s", long, text)
			}
		})
	})
}
