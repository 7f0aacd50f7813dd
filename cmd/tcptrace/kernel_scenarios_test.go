package main

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// What sockets do, as expect writes it.
const (
	listened = "CLOSED LISTEN CLOSED"
	// Who closes first, and the other side, as client and as server.
	clientFirst  = "CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 minisock"
	serverSecond = "LISTEN SYN_RCVD ESTABLISHED CLOSE_WAIT LAST_ACK CLOSED"
	serverFirst  = "LISTEN SYN_RCVD ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 minisock"
	clientSecond = "CLOSED SYN_SENT ESTABLISHED CLOSE_WAIT LAST_ACK CLOSED"

	clientAborts   = "CLOSED SYN_SENT ESTABLISHED CLOSED(abort: closed with SO_LINGER 0: reset sent)"
	clientReset    = "CLOSED SYN_SENT ESTABLISHED CLOSED(abort: reset by the peer)"
	closeWaitReset = "LISTEN SYN_RCVD ESTABLISHED CLOSE_WAIT CLOSED(abort: reset by the peer)"
	serverReset    = "LISTEN SYN_RCVD ESTABLISHED CLOSED(abort: reset by the peer)"
)

// TestKernelScenarios plays what TCP sockets do and compares every transition
// with the kernel's own trace.
func TestKernelScenarios(t *testing.T) {
	requireKernel(t)
	for _, test := range []struct {
		name string
		play func(*netns)
		want []string // nil: however the kernel does it, only the oracle knows
	}{
		{"client closes first", playClientFirst, []string{listened, clientFirst, serverSecond}},
		{"server closes first", playServerFirst, []string{listened, serverFirst, clientSecond}},
		{"IPv6", playIPv6, []string{listened, clientFirst, serverSecond}},
		{"listener on any address", playAnyAddress, []string{listened, clientFirst, serverSecond}},
		{"refused", playRefused, []string{"CLOSED SYN_SENT CLOSED(abort: refused by the peer)"}},
		{"SYN timeout", playSYNTimeout, []string{listened,
			"CLOSED SYN_SENT CLOSED(abort: timed out: the peer does not answer)"}},
		{"given up", playGivenUp, []string{listened,
			"CLOSED SYN_SENT CLOSED(abort: given up before it was established)"}},
		{"timeout when established", playTimeout, []string{listened,
			"CLOSED SYN_SENT ESTABLISHED CLOSED(abort: timed out: the peer does not answer)",
			"LISTEN SYN_RCVD ESTABLISHED FIN_WAIT_1 CLOSED(abort: reset by the peer)"}},
		{"timeout of an orphan", playTimeoutOrphan, []string{listened,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 CLOSED(abort: timed out: the peer does not answer)",
			"LISTEN SYN_RCVD ESTABLISHED FIN_WAIT_1 CLOSED(abort: reset by the peer)"}},
		{"no port left", playNoPort, []string{listened, clientFirst, serverSecond,
			"CLOSED SYN_SENT CLOSED(abort: given up before it was established)"}},
		{"linger 0", playLinger0, []string{listened, clientAborts, serverReset}},
		{"unread data", playUnread, []string{listened, serverReset,
			"CLOSED SYN_SENT ESTABLISHED CLOSED(abort: closed with received data unread: reset sent)"}},
		{"unread data after FIN", playUnreadAfterFIN, []string{listened,
			"LISTEN SYN_RCVD ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 CLOSED(abort: reset by the peer)",
			"CLOSED SYN_SENT ESTABLISHED CLOSE_WAIT CLOSED(abort: closed with received data unread: reset sent)"}},
		{"half-close", playHalfClose, []string{listened, clientFirst, serverSecond}},
		{"second close in FIN_WAIT_1", playSecondCloseFinWait1, []string{listened, serverSecond,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_1(linux) FIN_WAIT_2 minisock"}},
		{"second close in FIN_WAIT_2", playSecondCloseFinWait2, []string{listened, serverSecond,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 FIN_WAIT_2(linux) minisock"}},
		{"second close in LAST_ACK", playSecondCloseLastAck, []string{listened, clientFirst,
			"LISTEN SYN_RCVD ESTABLISHED CLOSE_WAIT LAST_ACK LAST_ACK(linux) CLOSED"}},
		{"second close in CLOSING", playSecondCloseClosing, []string{listened, serverFirst,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 CLOSING CLOSING(linux) minisock"}},
		{"unread data in FIN_WAIT_2", playUnreadFinWait2, []string{listened, closeWaitReset,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 CLOSED(abort: closed with received data unread: reset sent)"}},
		{"linger 0 in FIN_WAIT_2", playLinger0FinWait2, []string{listened, closeWaitReset,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 CLOSED(abort: closed with SO_LINGER 0: reset sent)"}},
		{"disconnected in FIN_WAIT_2", playDisconnectFinWait2, []string{listened, closeWaitReset,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 CLOSED(abort: disconnected by the process: connect(AF_UNSPEC))"}},
		{"negative TCP_LINGER2", playLinger2, []string{listened, closeWaitReset,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 FIN_WAIT_2(linux) CLOSED(abort: closed with a negative TCP_LINGER2: reset sent)"}},
		{"connected to itself", playSelf, []string{"CLOSED SYN_SENT SYN_RCVD ESTABLISHED FIN_WAIT_1 CLOSING minisock"}},
		{"listener with a full backlog closes", playFullBacklog, slices.Concat([]string{listened},
			slices.Repeat([]string{clientReset}, fullBacklog),
			slices.Repeat([]string{"LISTEN SYN_RCVD ESTABLISHED CLOSED(abort: never accepted: the listener closed or dropped it)"}, fullBacklog))},
		{"ended before accept", playBeforeAccept, []string{listened, clientAborts, serverReset,
			"CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 CLOSED(abort: reset by the peer)",
			"LISTEN SYN_RCVD ESTABLISHED CLOSE_WAIT CLOSED(abort: never accepted: the listener closed or dropped it)"}},
		{"listens again", playListenAgain, []string{listened, "life 1: " + listened}},
		{"Fast Open", playFastOpen, []string{listened, clientFirst, clientFirst, serverSecond, serverSecond}},
		{"Fast Open child closes early", playFastOpenEarly, []string{listened, clientFirst, serverSecond,
			"LISTEN SYN_RCVD FIN_WAIT_1 FIN_WAIT_2 minisock", clientSecond}},
		{"MPTCP", playMPTCP, nil},
		{"MPTCP falls back", playMPTCPFallback, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				tr := trace(ns)
				test.play(ns)
				r := tr.finish()
				if test.want != nil {
					r.expect(test.want...)
				}
			})
		})
	}
}

func playClientFirst(ns *netns) { clientCloses(ns, ns.listen(ns.v4(1)), ns.v4(2)) }

// clientCloses makes a connection that its client ends, and closes the listener.
func clientCloses(ns *netns, listener *socket, from netip.Addr) {
	client, server := ns.dial(from, listener)
	client.write("question")
	server.read("question")
	server.write("answer")
	client.read("answer")
	client.close()
	server.read("")
	server.close()
	listener.close()
}

func playServerFirst(ns *netns) {
	listener, client, server := ns.connected()
	server.close()
	client.read("")
	client.close()
	listener.close()
}

func playIPv6(ns *netns) { clientCloses(ns, ns.listen(ns.v6()), ns.v6()) }

func playAnyAddress(ns *netns) {
	listener := ns.listen(netip.IPv4Unspecified())
	client := ns.socket(ns.v4(2))
	client.bind(ns.v4(2), 0)
	client.connect(netip.AddrPortFrom(ns.v4(1), listener.addr().Port()))
	server := listener.accept()
	client.close()
	server.read("")
	server.close()
	listener.close()
}

func playRefused(ns *netns) {
	client := ns.client()
	if err := client.tryConnect(netip.AddrPortFrom(ns.v4(1), 1)); err != unix.ECONNREFUSED {
		ns.t.Errorf("connect: %v, want %v", err, unix.ECONNREFUSED)
	}
	client.close()
}

// client returns a socket that will connect from an address of the namespace.
func (ns *netns) client() *socket {
	ns.t.Helper()
	s := ns.socket(ns.v4(2))
	s.bind(ns.v4(2), 0)
	return s
}

func playSYNTimeout(ns *netns) {
	listener := ns.listen(ns.v4(1))
	listener.deafen()
	client := ns.client()
	client.set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1) // ends it at the first retransmission
	if err := client.tryConnect(listener.addr()); err != unix.ETIMEDOUT {
		ns.t.Errorf("connect: %v, want %v", err, unix.ETIMEDOUT)
	}
	client.close()
	listener.close()
}

func playGivenUp(ns *netns) {
	listener := ns.listen(ns.v4(1))
	listener.deafen()
	client := ns.client()
	check(ns.t, unix.SetNonblock(client.fd, true))
	if err := client.tryConnect(listener.addr()); err != unix.EINPROGRESS {
		ns.t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	client.close()
	listener.close()
}

func playTimeout(ns *netns) {
	listener, client, server := ns.connected()
	server.deafen()
	client.set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1)
	client.write("unheard")
	if _, err := unix.Read(client.fd, make([]byte, 1)); err != unix.ETIMEDOUT {
		ns.t.Errorf("read: %v, want %v", err, unix.ETIMEDOUT)
	}
	client.close()
	server.hear()
	server.close() // its FIN meets no socket
	listener.close()
}

func playTimeoutOrphan(ns *netns) {
	listener, client, server := ns.connected()
	server.deafen()
	client.set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1)
	port := client.addr().Port()
	client.close()
	ns.awaitGone(port)
	server.hear()
	server.close() // its FIN meets no socket
	listener.close()
}

// playNoPort lets connect fail when the socket is in SYN_SENT already.
func playNoPort(ns *netns) {
	ns.sysctl("ipv4/ip_local_port_range", "40000 40000")
	listener := ns.socket(ns.v4(1))
	listener.bind(ns.v4(1), 1000)
	listener.listen(1)
	first := ns.late(ns.v4(2))
	first.connect(listener.addr())
	server := listener.accept()
	second := ns.late(ns.v4(2))
	if err := second.tryConnect(listener.addr()); err != unix.EADDRNOTAVAIL {
		ns.t.Errorf("connect: %v, want %v", err, unix.EADDRNOTAVAIL)
	}
	second.close()
	first.close()
	server.close()
	listener.close()
}

func playLinger0(ns *netns) {
	listener, client, server := ns.connected()
	client.reset()
	server.close()
	listener.close()
}

func playUnread(ns *netns) {
	listener, client, server := ns.connected()
	server.write("ignored")
	client.peek()
	client.close()
	server.close()
	listener.close()
}

func playUnreadAfterFIN(ns *netns) {
	listener, client, server := ns.connected()
	server.write("ignored")
	server.shutdown(unix.SHUT_WR)
	client.peek()
	client.await(fsm.CloseWait)
	server.await(fsm.FinWait2)
	client.close()
	server.close()
	listener.close()
}

func playHalfClose(ns *netns) {
	listener, client, server := ns.connected()
	client.write("question")
	client.shutdown(unix.SHUT_WR)
	server.read("question")
	server.read("")
	server.write("answer")
	client.read("answer")
	server.close()
	client.read("")
	client.close()
	listener.close()
}

func playSecondCloseFinWait1(ns *netns) {
	listener, client, server := ns.connected()
	server.deafen()
	client.shutdown(unix.SHUT_WR)
	client.close()
	server.hear()
	server.read("")
	server.close()
	listener.close()
}

func playSecondCloseFinWait2(ns *netns) {
	listener, client, server := halfClosed(ns)
	client.close()
	server.read("")
	server.close()
	listener.close()
}

func playSecondCloseLastAck(ns *netns) {
	listener, client, server := halfClosed(ns)
	client.deafen()
	server.read("")
	server.shutdown(unix.SHUT_WR)
	server.close()
	client.hear()
	client.read("")
	client.close()
	listener.close()
}

func playSecondCloseClosing(ns *netns) {
	listener, client, server := ns.connected()
	client.deafen()
	server.deafen()
	client.shutdown(unix.SHUT_WR)
	server.shutdown(unix.SHUT_WR)
	client.hear()
	client.await(fsm.Closing)
	client.close()
	server.hear()
	server.read("")
	server.close()
	listener.close()
}

// halfClosed makes a connection whose client is in FIN_WAIT_2.
func halfClosed(ns *netns) (listener, client, server *socket) {
	listener = ns.listen(ns.v4(1))
	client, server = ns.dial(ns.v4(2), listener)
	client.shutdown(unix.SHUT_WR)
	client.await(fsm.FinWait2)
	return listener, client, server
}

func playUnreadFinWait2(ns *netns) {
	listener, client, server := halfClosed(ns)
	server.write("ignored")
	client.peek()
	client.close()
	server.close()
	listener.close()
}

func playLinger0FinWait2(ns *netns) {
	listener, client, server := halfClosed(ns)
	client.reset()
	server.close()
	listener.close()
}

func playDisconnectFinWait2(ns *netns) {
	listener, client, server := halfClosed(ns)
	client.disconnect()
	client.close()
	server.close()
	listener.close()
}

func playLinger2(ns *netns) {
	listener, client, server := halfClosed(ns)
	client.set(unix.IPPROTO_TCP, unix.TCP_LINGER2, -1)
	client.close()
	server.close()
	listener.close()
}

func playSelf(ns *netns) {
	s := ns.client()
	s.connect(s.addr())
	s.close()
}

const fullBacklog = 4

func playFullBacklog(ns *netns) {
	listener := ns.socket(ns.v4(1))
	listener.bind(ns.v4(1), 0)
	listener.listen(fullBacklog - 1) // the kernel allows for one more
	var clients []*socket
	for range fullBacklog {
		client := ns.client()
		client.connect(listener.addr())
		clients = append(clients, client)
	}
	listener.close()
	for _, client := range clients {
		client.close()
	}
}

// playBeforeAccept ends connections that nobody has accepted.
func playBeforeAccept(ns *netns) {
	listener := ns.listen(ns.v4(1))
	resets, finishes := ns.client(), ns.client()
	resets.connect(listener.addr())
	resets.reset()
	finishes.connect(listener.addr())
	finishes.shutdown(unix.SHUT_WR)
	finishes.await(fsm.FinWait2)
	listener.close()
	finishes.close()
}

func playListenAgain(ns *netns) {
	const port = 1000
	s := ns.socket(ns.v4(1))
	s.bind(ns.v4(1), port)
	s.listen(1)
	s.shutdown(unix.SHUT_RD)
	s.listen(1)
	s.close()
}

// fastOpenListener returns a listener for Fast Open whose cookie the clients
// know, which costs a connection.
func fastOpenListener(ns *netns) *socket {
	ns.t.Helper()
	ns.sysctl("ipv4/tcp_fastopen", "3")
	ns.fastOpen = true
	listener := ns.listen(ns.v4(1))
	listener.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 16)
	client, server := ns.dialFast(listener, "ask for the cookie")
	client.close()
	server.read("")
	server.close()
	return listener
}

func (ns *netns) dialFast(listener *socket, text string) (client, server *socket) {
	client = ns.client()
	client.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	client.connect(listener.addr())
	client.write(text) // this sends the SYN
	server = listener.accept()
	server.read(text)
	return client, server
}

func playFastOpen(ns *netns) {
	listener := fastOpenListener(ns)
	client, server := ns.dialFast(listener, "with the SYN")
	const synData = 32 // TCPI_OPT_SYN_DATA of linux/tcp.h
	if info := client.info(); info.Options&synData == 0 {
		ns.t.Errorf("no Fast Open: options %#x", info.Options)
	}
	client.close()
	server.read("")
	server.close()
	listener.close()
}

// playFastOpenEarly closes a child before its handshake is complete.
func playFastOpenEarly(ns *netns) {
	listener := fastOpenListener(ns)
	client := ns.client()
	client.deafen()
	check(ns.t, unix.SetNonblock(client.fd, true)) // write would wait for the answer
	client.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	client.connect(listener.addr())
	client.write("with the SYN")
	server := listener.accept()
	server.read("with the SYN")
	server.close()
	client.hear()
	client.await(fsm.CloseWait)
	client.close()
	listener.close()
}

func playMPTCP(ns *netns) {
	listener := ns.mptcp()
	listener.bind(ns.v4(1), 0)
	listener.listen(1)
	converseMPTCP(ns, listener)
}

func playMPTCPFallback(ns *netns) { converseMPTCP(ns, ns.listen(ns.v4(1))) }

func (ns *netns) mptcp() *socket {
	ns.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err != nil {
		ns.t.Skipf("no MPTCP here: %v", err)
	}
	check(ns.t, unix.Close(fd))
	return ns.open(unix.AF_INET, unix.IPPROTO_MPTCP)
}

func converseMPTCP(ns *netns, listener *socket) {
	client := ns.mptcp()
	client.bind(ns.v4(2), 0)
	client.connect(listener.addr())
	server := listener.accept()
	client.write("question")
	server.read("question")
	client.close()
	server.read("")
	server.close()
	listener.close()
}

// TestKernelReconnect connects a socket again after connect(AF_UNSPEC): the
// same socket, in its next life.
func TestKernelReconnect(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := trace(ns)
		listener := ns.listen(ns.v4(1))
		client, first := ns.dial(ns.v4(2), listener)
		client.disconnect()
		first.close()
		client.connect(listener.addr())
		second := listener.accept()
		cookie, at := client.cookie(), listener.addr()
		client.close()
		second.read("")
		second.close()
		listener.close()

		r := tr.finish()
		r.expect(listened, serverReset, serverSecond,
			"CLOSED SYN_SENT ESTABLISHED CLOSED(abort: disconnected by the process: connect(AF_UNSPEC))",
			"life 1: "+clientFirst)
		for _, s := range r.sockets {
			if s.remote == at && s.lines[0].Socket != cookie {
				t.Errorf("%v is socket %s, want %s", s, s.lines[0].Socket, cookie)
			}
		}
	})
}

// TestKernelStartedBeforeInFinWait2: the minisock of a socket that was there before
// is joined with it, and that there is none is noticed.
func TestKernelStartedBeforeInFinWait2(t *testing.T) {
	requireKernel(t)
	for _, test := range []struct {
		limit, want string
		illegal     int
	}{
		{"100", "FIN_WAIT_2 minisock", 0},
		{"0", "FIN_WAIT_2 CLOSED(illegal: TIME_WAIT skipped: net.ipv4.tcp_max_tw_buckets is reached (0 of 0))", 1},
	} {
		t.Run("tcp_max_tw_buckets="+test.limit, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				ns.sysctl("ipv4/tcp_max_tw_buckets", test.limit)
				ns.illegal = test.illegal
				listener, client, server := halfClosed(ns)
				tr := trace(ns)
				tr.awaitWalk()
				server.read("")
				server.close()
				client.read("")
				client.close()
				listener.close()
				r := tr.finishWith(func(*life) bool { return true })
				for _, s := range r.sockets {
					if strings.Contains(s.path(), "FIN_WAIT_2") && !strings.HasSuffix(s.String(), test.want) {
						ns.t.Errorf("saw %v, want %s", s, test.want)
					}
				}
			})
		})
	}
}

// TestKernelStartedBefore: of sockets that were there before, the next step is
// judged; they have been there for a while at least, and who holds them is known.
func TestKernelStartedBefore(t *testing.T) {
	requireKernel(t)
	requireHostPIDs(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		listener, client, server := ns.connected()
		tr := trace(ns)
		tr.awaitWalk()
		second, secondServer := ns.dial(ns.v4(2), listener)
		client.close()
		server.read("")
		server.close()
		second.close()
		secondServer.read("")
		secondServer.close()
		listener.close()

		r := tr.finish()
		r.expect("LISTEN CLOSED",
			"ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 minisock",
			"ESTABLISHED CLOSE_WAIT LAST_ACK CLOSED",
			clientFirst, serverSecond)
		for _, s := range r.sockets {
			l := s.lines[0]
			if before := l.From == "ESTABLISHED" || l.To == fsm.Closed.String(); before {
				if l.Dwell == nil || !l.atLeast() || l.OwnerSource != "snapshot" {
					t.Errorf("%v: dwell %v, a lower bound: %t, owner by %q; want a lower bound and an owner by snapshot", s, l.Dwell, l.atLeast(), l.OwnerSource)
				}
			}
			if l.owner().pid != os.Getpid() {
				t.Errorf("%v has the owner %+v, want %d", s, l.owner(), os.Getpid())
			}
		}
	})
}

// TestKernelListenerHasNoPeer: a socket that listens, after connect has failed, has no
// peer, though the kernel keeps the address; and no port until it has one.
func TestKernelListenerHasNoPeer(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := trace(ns)
		s := ns.socket(ns.v4(2))
		if err := s.tryConnect(netip.AddrPortFrom(ns.v4(1), 1)); err != unix.ECONNREFUSED {
			t.Errorf("connect: %v, want %v", err, unix.ECONNREFUSED)
		}
		s.listen(1)
		at := s.addr()
		s.close()
		tr.oracle.settle(ns)
		r := tr.result()
		for i := range r.transitions {
			l := &r.transitions[i]
			switch {
			case l.To == "LISTEN" && (l.Remote != (endpoint{}) || l.Local != (endpoint{})),
				l.From == "LISTEN" && (l.Remote != (endpoint{}) || l.Local.addrPort() != at):
				t.Errorf("listens at %v: %v", at, l)
			}
		}
	})
}
