package main

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// TestKernelDeferAccept: a handshake lasts from the SYN-ACK on, not from when the
// kernel makes a socket of it.
func TestKernelDeferAccept(t *testing.T) {
	requireKernel(t)
	const held = 300 * time.Millisecond
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := traceLife(ns)
		listener := ns.listen(ns.v4(1))
		listener.set(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 10)
		client := ns.client()
		client.connect(listener.addr())
		lapse(held)
		client.write("now")
		server := listener.accept()
		clientCookie, serverCookie := client.cookie(), server.cookie()
		client.reset()
		server.close()
		listener.close()

		r := tr.finish()
		c := r.life(serverCookie)
		checkStory(t, c, "passive: LISTEN SYN_RCVD ESTABLISHED CLOSED; reset_received by remote; abort")
		if d := c.Dwell[fsm.SynRcvd.String()]; c.Handshake == nil || *c.Handshake != d || d < int64(held) || d > int64(usualWait) {
			t.Errorf("the handshake took %v, %v of SYN_RCVD, want at least %v", nanos(c.Handshake), time.Duration(d), held)
		}
		if c := r.life(clientCookie); c.Handshake == nil || *c.Handshake <= 0 || *c.Handshake > int64(held) {
			t.Errorf("the client's handshake took %v, want less than %v", nanos(c.Handshake), held)
		}
	})
}

// syn sends a SYN.
func (w *wire) syn(from, to netip.AddrPort) {
	w.ns.t.Helper()
	w.send(&segment{from: from, to: to, seq: synSeq, flags: flagSYN})
}

const synSeq = 1000

// rst resets a handshake that syn began.
func (w *wire) rst(from, to netip.AddrPort) {
	w.ns.t.Helper()
	w.send(&segment{from: from, to: to, seq: synSeq + 1, flags: flagRST})
}

// awaitSynRecv waits until ss shows so many handshakes.
func (ns *netns) awaitSynRecv(n int) {
	ns.t.Helper()
	eventually(ns.t, fmt.Sprintf("there are %d handshakes", n), func() bool { return ns.synRecv() == n })
}

func (ns *netns) synRecv() int {
	ns.t.Helper()
	return strings.Count(ns.runSS("-tnH", "state", "syn-recv"), "\n")
}

// TestKernelHandshakesToNothing ends handshakes in every way but by a
// connection. They had no socket, and each is one line.
func TestKernelHandshakesToNothing(t *testing.T) {
	requireKernel(t)
	for _, test := range []struct {
		name    string
		play    func(*netns) (local, remote netip.AddrPort) // of the last
		n       int
		end     string
		cause   string
		first   string
		reason  string
		atLeast time.Duration
	}{
		{"reset by no socket", requestReset, 1, "reset", "reset_received", "remote", "reset by the peer", 0},
		{"reset, dual-stack listener", requestResetMapped, 1, "reset", "reset_received", "remote", "reset by the peer", 0},
		{"SYN sent again, then reset", requestAgain, 1, "reset", "reset_received", "remote", "reset by the peer", 200 * time.Millisecond},
		{"reset, after a stray ACK", requestResetAfterACK, 1, "reset", "reset_received", "remote", "reset by the peer", 0},
		{"timeout", requestTimeout, 1, "expired", "timeout", "none", "timed out: the final ACK did not come", time.Second},
		{"timeout after another SYN-ACK", requestTimeoutAgain, 1, "expired", "timeout", "none", "timed out: the final ACK did not come", 2900 * time.Millisecond},
		{"refused by a full backlog", requestRefused, 2, "reset_sent", "reset_sent", "local", "reset sent", 0},
		{"listener closed", requestListenerClosed, 1, "listener_closed", "listener_closed", "local", "its listener closed", 0},
		{"listener closed, IPv6", requestListenerClosed6, 1, "listener_closed", "listener_closed", "local", "its listener closed", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				ns.requests = test.n
				tr := traceLife(ns)
				local, remote := test.play(ns)
				ended := func(c *lifecycleLine) bool {
					return c.Local.addrPort() == local && c.Remote.addrPort() == remote && c.Socket == ""
				}
				c := tr.awaitWithin(usualWait, "the handshake", ended)
				r := tr.finish()
				for i := range r.requests {
					l := &r.requests[i]
					if l.From != "SYN_RCVD" || l.To != "CLOSED" || l.End != test.end || l.Verdict != "abort" || l.Reason != test.reason ||
						l.Socket != "" || l.Seq != 0 || l.NetNS != ns.inode || l.Local.addrPort() != local || l.owner() != (owner{}) {
						t.Errorf("want the end of a handshake of %v: %s, %q: %v", local, test.end, test.reason, l)
					}
					if l.Dwell == nil || *l.Dwell < int64(test.atLeast) || *l.Dwell > int64(usualWait) {
						t.Errorf("it took %v, want at least %v: %v", nanos(l.Dwell), test.atLeast, l)
					}
				}
				checkStory(t, c, fmt.Sprintf("passive: SYN_RCVD CLOSED; %s by %s; abort", test.cause, test.first))
				if c.Handshake != nil || c.BytesSent != nil || c.TimeWait != nil || c.Duration == nil || *c.Duration != c.Dwell["SYN_RCVD"] {
					t.Errorf("want a life that was all SYN_RCVD: %v", c)
				}
				if left := ns.ss(); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
			})
		})
	}
}

// requestReset: where the SYN-ACK comes to is no socket.
func requestReset(ns *netns) (local, remote netip.AddrPort) {
	listener := ns.listen(ns.v4(1))
	local, remote = listener.addr(), netip.AddrPortFrom(ns.v4(2), 7001)
	ns.wire().syn(remote, local)
	ns.awaitSynRecv(0)
	listener.close()
	return local, remote
}

// requestResetAfterACK: the listener itself has sent a reset before, which is not
// the end of the handshake.
func requestResetAfterACK(ns *netns) (local, remote netip.AddrPort) {
	listener := ns.listen(ns.v4(1))
	w := ns.wire()
	local, remote = listener.addr(), netip.AddrPortFrom(ns.v4(2), 7001)
	w.send(&segment{from: remote, to: local, seq: synSeq, ack: 1, flags: flagACK})
	w.awaitFlags(flagRST, remote)
	w.syn(remote, local)
	ns.awaitSynRecv(0)
	listener.close()
	return local, remote
}

func requestResetMapped(ns *netns) (local, remote netip.AddrPort) {
	listener := ns.socket(netip.IPv6Unspecified())
	listener.bind(netip.IPv6Unspecified(), 0)
	listener.listen(4)
	local, remote = netip.AddrPortFrom(ns.v4(1), listener.addr().Port()), netip.AddrPortFrom(ns.v4(2), 7001)
	ns.wire().syn(remote, local)
	ns.awaitSynRecv(0)
	listener.close()
	return local, remote
}

// requestAgain sends the SYN several times, each of which sets the timer anew.
func requestAgain(ns *netns) (local, remote netip.AddrPort) {
	listener := ns.listen(ns.v4(1))
	w := ns.wire()
	local, remote = listener.addr(), netip.AddrPortFrom(ns.silence().Addr().Next(), 7001)
	for range 3 {
		w.syn(remote, local)
		lapse(100 * time.Millisecond)
	}
	ns.awaitSynRecv(1)
	w.rst(remote, local)
	ns.awaitSynRecv(0)
	listener.close()
	return local, remote
}

func requestTimeout(ns *netns) (local, remote netip.AddrPort) {
	ns.sysctl("ipv4/tcp_synack_retries", "0")
	return requestUnanswered(ns)
}

func requestTimeoutAgain(ns *netns) (local, remote netip.AddrPort) {
	ns.sysctl("ipv4/tcp_synack_retries", "1")
	return requestUnanswered(ns)
}

func requestUnanswered(ns *netns) (local, remote netip.AddrPort) {
	listener := ns.listen(ns.v4(1))
	local, remote = listener.addr(), netip.AddrPortFrom(ns.silence().Addr().Next(), 7001)
	ns.wire().syn(remote, local)
	ns.awaitSynRecv(1)
	ns.awaitSynRecv(0)
	listener.close()
	return local, remote
}

// requestRefused: there is room for one when all want to become connections.
func requestRefused(ns *netns) (local, remote netip.AddrPort) {
	ns.sysctl("ipv4/tcp_abort_on_overflow", "1")
	listener := ns.socket(ns.v4(1))
	listener.bind(ns.v4(1), 0)
	listener.set(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 10)
	listener.listen(16)
	var clients []*socket
	for range 3 {
		client := ns.client()
		client.connect(listener.addr())
		clients = append(clients, client)
	}
	listener.listen(0) // the kernel allows for one more
	local, remote = listener.addr(), clients[2].addr()
	ns.awaitSynRecv(3)
	for i, client := range clients {
		client.write("now")
		if i > 0 {
			client.await(fsm.Closed)
			client.close()
		}
	}
	server := listener.accept()
	clients[0].reset()
	server.close()
	listener.close()
	return local, remote
}

// requestListenerClosed: the kernel finds that out when it wants to send the
// SYN-ACK again.
func requestListenerClosed(ns *netns) (local, remote netip.AddrPort) {
	listener := ns.listen(ns.v4(1))
	local, remote = listener.addr(), netip.AddrPortFrom(ns.silence().Addr().Next(), 7001)
	ns.wire().syn(remote, local)
	ns.awaitSynRecv(1)
	listener.close()
	return local, remote
}

func requestListenerClosed6(ns *netns) (local, remote netip.AddrPort) {
	six := ns.v6()
	listener := ns.listen(six)
	client := ns.socket(six)
	client.bind(six, 0)
	client.deafen()
	check(ns.t, unix.SetNonblock(client.fd, true))
	local, remote = listener.addr(), client.addr()
	if err := client.tryConnect(local); err != unix.EINPROGRESS {
		ns.t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	ns.awaitSynRecv(1)
	listener.close()
	client.close()
	return local, remote
}

// TestKernelHandshakeRetransmitted: where a SYN-ACK is lost, the handshake goes
// on from the first SYN.
func TestKernelHandshakeRetransmitted(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := traceLife(ns)
		listener := ns.listen(ns.v4(1))
		client := ns.client()
		client.deafen()
		check(t, unix.SetNonblock(client.fd, true))
		if err := client.tryConnect(listener.addr()); err != unix.EINPROGRESS {
			t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
		}
		ns.awaitSynRecv(1)
		client.hear()
		client.await(fsm.Established)
		server := listener.accept()
		cookies := []string{client.cookie(), server.cookie()}
		client.reset()
		server.close()
		listener.close()

		r := tr.finish()
		for _, cookie := range cookies {
			if c := r.life(cookie); c.Handshake == nil || *c.Handshake < int64(900*time.Millisecond) || *c.Handshake > int64(usualWait) || !c.Complete {
				t.Errorf("the handshake took %v, want 1 s: %v", nanos(c.Handshake), c)
			}
		}
	})
}

// TestKernelSYNCookies: the kernel keeps nothing of such a handshake, so nothing
// is said of its time.
func TestKernelSYNCookies(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		ns.sysctl("ipv4/tcp_syncookies", "2")
		ns.noRequests = true
		tr := traceLife(ns)
		listener, client, server := ns.connected()
		w := ns.wire()
		w.syn(netip.AddrPortFrom(ns.v4(3), 7001), listener.addr()) // is reset
		cookie := server.cookie()
		client.reset()
		server.close()
		listener.close()
		if got := ns.counters()["TcpExtSyncookiesRecv"]; got != 1 {
			t.Errorf("the kernel got %d SYN cookies back, want 1", got)
		}

		r := tr.finish() // checks that there is no dwell, and no handshake to nothing
		c := r.life(cookie)
		checkStory(t, c, "passive: LISTEN SYN_RCVD ESTABLISHED CLOSED; reset_received by remote; abort")
		if _, known := c.Dwell[fsm.SynRcvd.String()]; known || c.Handshake != nil {
			t.Errorf("the handshake took %v, %v of SYN_RCVD: want nothing", nanos(c.Handshake), c.Dwell)
		}
	})
}

// TestKernelSYNFlood: of a flood, the kernel keeps as many as the backlog allows
// for. Each is told once, whatever ends it.
func TestKernelSYNFlood(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		const syns, backlog = 5000, 2000
		ns.sysctl("ipv4/tcp_synack_retries", "1")
		tr := traceLifeMany(ns, 16<<10)
		listener := ns.socket(ns.v4(1))
		listener.bind(ns.v4(1), 0)
		listener.listen(backlog)
		to := listener.addr()
		w := ns.wire()
		from := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + i%250)}), uint16(1024+i))
		}
		ns.silence()
		for i := range syns {
			w.syn(from(i), to)
			if i%3 == 0 {
				w.syn(from(i), to) // again
			}
		}
		kept := ns.synRecv()
		if kept < backlog || kept > backlog+backlog/8 {
			t.Errorf("the kernel keeps %d handshakes, want about %d: this test shows nothing", kept, backlog)
		}
		// Half of them the peer ends, who also ends what is not there.
		for i := range syns {
			if i%2 == 0 {
				w.rst(from(i), to)
			}
		}
		left := ns.synRecv()
		client, server := ns.dial(ns.v4(2), listener)
		client.reset()
		server.close()
		ns.awaitSynRecv(0)
		listener.close()
		ns.requests = kept
		r := tr.finish()

		ends := make(map[string]int)
		ports := make(map[uint16]bool)
		for i := range r.requests {
			l := &r.requests[i]
			ends[l.End]++
			if ports[l.Remote.Port] || l.Dwell == nil || l.Local.addrPort() != to {
				r.t.Errorf("twice, without dwell, or of somebody else: %v", l)
			}
			ports[l.Remote.Port] = true
		}
		if ends["reset"] != kept-left || ends["expired"] != left {
			t.Errorf("the handshakes ended as %v, want %d by reset, %d by timeout", ends, kept-left, left)
		}
		if got := len(r.lives) - 2; got != kept {
			t.Errorf("%d lives of handshakes, want %d", got, kept)
		}
	})
}

// TestKernelUnderLoad: a tracer that starts and stops in the midst of traffic
// takes nothing that it has seen half for something that it is not.
func TestKernelUnderLoad(t *testing.T) {
	requireKernel(t)
	for range 3 {
		ns := newNetNS(t)
		ns.t = t
		stopTraffic := ns.startTraffic()
		p := ns.startTracer()
		out := p.lines()
		eventually(t, "the stream runs", func() bool { return out.count() > 1000 })
		p.signal(syscall.SIGTERM)
		text := out.rest(t)
		stopTraffic()
		r := newResult(ns, strings.NewReader(text), p.stderr.String())
		if len(r.requests) > 0 || r.summary.Illegal > 0 {
			t.Errorf("%d handshakes came to nothing, %d illegal, but all is well: %s", len(r.requests), r.summary.Illegal, r.firstRequest())
		}
		// Of the first few, the SYN was not seen; then all is.
		seen := false
		for _, s := range r.sockets {
			if s.lines[0].From != fsm.Listen.String() || len(s.lines) < 2 {
				continue
			}
			if known := s.lines[1].Dwell != nil; seen && !known {
				r.t.Errorf("no dwell in SYN_RCVD: %v", s)
			} else {
				seen = known
			}
		}
		if !seen {
			t.Errorf("no handshake was seen: this test shows nothing")
		}
	}
}
