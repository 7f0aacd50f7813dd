package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// leaveInTimeWait ends the connection from the first socket's side, which then
// is in TIME_WAIT, without having been in FIN_WAIT_2 as an orphan.
func leaveInTimeWait(first, second *socket) {
	first.t.Helper()
	first.shutdown(unix.SHUT_WR)
	first.await(fsm.FinWait2)
	second.read("")
	second.close()
	first.read("")
	first.close()
}

// leaveInFinWait2 closes the first socket, whose minisock is in FIN_WAIT_2 then.
func leaveInFinWait2(first *socket) {
	first.t.Helper()
	first.shutdown(unix.SHUT_WR)
	first.await(fsm.FinWait2)
	first.close()
}

// checkSS checks that the minisock is still there, under the socket's cookie.
func (ns *netns) checkSS(cookie, state string) {
	ns.t.Helper()
	sockets := ns.ss()
	if got := sockets[cookie]; got.state != state {
		ns.t.Errorf("ss has %s in %q, want %s: %v", cookie, got.state, state, sockets)
	}
}

// story tells a life by all that does not depend on time.
func (c *lifecycleLine) story() string {
	text := fmt.Sprintf("%s: %s; %s by %s", c.Role, c.path(), c.Close.Cause, c.Close.First)
	if c.TimeWait != nil && c.TimeWait.End != "" {
		text += "; TIME_WAIT " + c.TimeWait.End
	}
	text += "; " + c.Verdict
	if !c.Complete {
		text += ", incomplete"
	}
	return text
}

func checkStory(t *testing.T, c *lifecycleLine, want string) {
	t.Helper()
	if symbolsHidden() {
		want = withoutEnds.Replace(want)
	}
	if got := c.story(); got != want {
		t.Errorf("the story is\n  %s, want\n  %s\n%v", got, want, c)
	}
}

// withoutEnds is for where it is not known what ends a minisock before its time.
var withoutEnds = strings.NewReplacer(
	"TIME_WAIT reused; linux", "TIME_WAIT killed; abort",
	"TIME_WAIT reset; abort", "TIME_WAIT killed; abort",
	"TIME_WAIT netns; abort", "TIME_WAIT killed; abort",
	activeFinWait2+"destroyed by", activeFinWait2+"unknown by",
	activeFinWait2+"reset_received by", activeFinWait2+"unknown by",
)

// Whole lives.
const (
	activeTimeWait  = "active: CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 TIME_WAIT CLOSED; finished by local; TIME_WAIT "
	passiveTimeWait = "passive: LISTEN SYN_RCVD ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 TIME_WAIT CLOSED; finished by local; TIME_WAIT "
	activeFinWait2  = "active: CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 CLOSED; "
)

// TestKernelTimeWaitEnds ends TIME_WAIT, and FIN_WAIT_2 without a socket, in
// every way that the kernel knows but waiting for its time.
func TestKernelTimeWaitEnds(t *testing.T) {
	requireKernel(t)
	w, _ := newWitness(t)
	for _, test := range []struct {
		name string
		play func(*netns, *lifeTracing) (cookie string) // of the one with this story
		want string
	}{
		{"reused by a SYN", reusedBySYN, passiveTimeWait + "reused; linux"},
		{"reused by connect", reusedByConnect, activeTimeWait + "reused; linux"},
		{"reset", resetInTimeWait, activeTimeWait + "reset; abort"},
		{"namespace gone", namespaceGone, activeTimeWait + "netns; abort"},
		{"killed", killed, activeTimeWait + "killed; abort"},
		{"killed, server", killedServer, passiveTimeWait + "killed; abort"},
		{"killed, IPv6", killedIPv6, activeTimeWait + "killed; abort"},
		{"killed, v4-mapped", killedMapped, activeTimeWait + "killed; abort"},
		{"killed, of MPTCP", killedMPTCP, passiveTimeWait + "killed; abort"},
		{"killed after CLOSING", killedAfterClosing,
			"active: CLOSED SYN_SENT SYN_RCVD ESTABLISHED FIN_WAIT_1 CLOSING TIME_WAIT CLOSED; finished by both; TIME_WAIT killed; abort"},
		{"FIN_WAIT_2 expired", finWait2Expired, activeFinWait2 + "timeout by local; abort"},
		{"FIN_WAIT_2 reset", finWait2Reset, activeFinWait2 + "reset_received by local; abort"},
		{"FIN_WAIT_2, then data", finWait2Data, activeFinWait2 + "reset_sent by local; abort"},
		{"FIN_WAIT_2 killed", finWait2Killed, activeFinWait2 + "unknown by local; abort"},
		{"FIN_WAIT_2, FIN late", finWait2FINLate, activeTimeWait + "killed; abort"},
		{"FIN_WAIT_2, FIN at once", finWait2FINAtOnce, activeTimeWait + "killed; abort"},
		{"FIN_WAIT_2, FIN twice", finWait2FINTwice, activeTimeWait + "killed; abort"},
		{"FIN_WAIT_2, FIN soon", finWait2FINSoon, activeTimeWait + "killed; abort"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				tr := traceLife(ns)
				cookie := test.play(ns, tr)
				tr.await(cookie)
				r := tr.finish()
				checkStory(ns.t, r.life(cookie), test.want)
				w.check(r.result, 1)
			})
		})
	}
}

func reusedBySYN(ns *netns, _ *lifeTracing) string {
	listener, client, server := ns.connected()
	cookie, at := server.cookie(), client.addr()
	leaveInTimeWait(server, client)
	ns.checkSS(cookie, "TIME-WAIT")

	again := ns.socket(at.Addr())
	again.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	again.bind(at.Addr(), at.Port())
	again.connect(listener.addr())
	againServer := listener.accept()
	again.reset()
	againServer.close()
	listener.close()
	return cookie
}

func reusedByConnect(ns *netns, tr *lifeTracing) string {
	ns.sysctl("ipv4/tcp_tw_reuse", "1")
	ns.sysctl("ipv4/ip_local_port_range", "41000 41000")
	listener := ns.socket(ns.v4(1))
	listener.bind(ns.v4(1), 1000)
	listener.listen(1)
	client := ns.late(ns.v4(2))
	client.connect(listener.addr())
	server := listener.accept()
	cookie := client.cookie()
	leaveInTimeWait(client, server)
	ns.checkSS(cookie, "TIME-WAIT")

	again := ns.late(ns.v4(2))
	for deadline := time.Now().Add(usualWait); ; time.Sleep(50 * time.Millisecond) {
		err := again.tryConnect(listener.addr())
		if err == nil {
			break
		}
		if err != unix.EADDRNOTAVAIL || time.Now().After(deadline) {
			ns.t.Fatalf("connect: %v, want %v for a second, then none", err, unix.EADDRNOTAVAIL)
		}
	}
	againServer := listener.accept()
	again.reset()
	againServer.close()
	listener.close()
	// The kernel waits for a second, before 6.14 for another second by its clock.
	if c := tr.await(cookie); c.TimeWait.Duration > int64(10*time.Second) {
		ns.t.Errorf("reused after %v, want a second or two, or less", time.Duration(c.TimeWait.Duration))
	}
	if got := ns.counters()["TcpExtTWRecycled"]; got != 1 {
		ns.t.Errorf("the kernel says that %d were reused, want 1", got)
	}
	return cookie
}

func resetInTimeWait(ns *netns, _ *lifeTracing) string {
	ns.sysctl("ipv4/tcp_rfc1337", "0")
	listener := ns.listen(ns.v4(1))
	w := ns.wire()
	client, server := ns.dial(ns.v4(2), listener)
	cookie := client.cookie()
	from, to := listener.addr(), client.addr()
	leaveInTimeWait(client, server)
	ns.checkSS(cookie, "TIME-WAIT")
	fin := w.awaitFlags(flagFIN, to)
	w.send(&segment{from: from, to: to, seq: fin.next(), flags: flagRST})
	listener.close()
	return cookie
}

func namespaceGone(ns *netns, tr *lifeTracing) string {
	listener, client, server := ns.connected()
	cookie := client.cookie()
	other, otherServer := ns.dial(ns.v4(2), listener)
	otherCookie := other.cookie()
	leaveInTimeWait(client, server)
	ns.checkSS(cookie, "TIME-WAIT")
	leaveInFinWait2(other)
	otherServer.deafen()
	otherServer.set(unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) // so that closing it says nothing to its peer
	otherServer.close()
	listener.close()
	tr.oracle.settle(ns)
	ns.end()
	checkStory(ns.t, tr.await(otherCookie), activeFinWait2+"destroyed by local; abort")
	return cookie
}

func killed(ns *netns, _ *lifeTracing) string {
	return killedAt(ns, ns.listen(ns.v4(1)), ns.v4(2), netip.AddrPort{})
}

// destroyed leaves the first to close in TIME_WAIT, to be destroyed by ss -K, and
// returns its cookie.
func destroyed(ns *netns, listener, first, second *socket) string {
	cookie := first.cookie()
	leaveInTimeWait(first, second)
	ns.checkSS(cookie, "TIME-WAIT")
	listener.close()
	ns.destroyTimeWait()
	return cookie
}

// killedAt leaves a client in TIME_WAIT, to be destroyed by ss -K.
func killedAt(ns *netns, listener *socket, from netip.Addr, to netip.AddrPort) string {
	if !to.IsValid() {
		to = listener.addr()
	}
	client := ns.socket(from)
	client.bind(from, 0)
	client.connect(to)
	server := listener.accept()
	return destroyed(ns, listener, client, server)
}

// destroyTimeWait destroys the minisocks, when there is nothing else.
func (ns *netns) destroyTimeWait() {
	ns.t.Helper()
	ns.destroy("state", "time-wait")
	if left := ns.ss(); len(left) != 0 {
		ns.t.Errorf("left after ss -K: %v", left)
	}
}

func killedServer(ns *netns, _ *lifeTracing) string {
	listener, client, server := ns.connected()
	return destroyed(ns, listener, server, client)
}

func killedIPv6(ns *netns, _ *lifeTracing) string {
	return killedAt(ns, ns.listen(ns.v6()), ns.v6(), netip.AddrPort{})
}

func killedMapped(ns *netns, _ *lifeTracing) string {
	six := ns.v6() // kept: a namespace owns what it has an address for
	listener := ns.socket(six)
	listener.bind(netip.IPv6Unspecified(), 0)
	listener.listen(1)
	to := netip.AddrPortFrom(netip.AddrFrom16(ns.v4(1).As16()), listener.addr().Port())
	return killedAt(ns, listener, netip.AddrFrom16(ns.v4(2).As16()), to)
}

// killedMPTCP: Go's servers listen like that.
func killedMPTCP(ns *netns, _ *lifeTracing) string {
	listener := ns.mptcp()
	listener.bind(ns.v4(1), 0)
	listener.listen(1)
	client := ns.client()
	client.connect(listener.addr())
	server := listener.accept()
	return destroyed(ns, listener, server, client)
}

func killedAfterClosing(ns *netns, _ *lifeTracing) string {
	s := ns.client()
	s.connect(s.addr())
	cookie := s.cookie()
	s.close()
	ns.checkSS(cookie, "TIME-WAIT")
	ns.destroyTimeWait()
	return cookie
}

// orphanInFinWait2 makes a connection whose client is a minisock in FIN_WAIT_2.
func orphanInFinWait2(ns *netns) (listener, server *socket, cookie string) {
	ns.t.Helper()
	listener = ns.listen(ns.v4(1))
	client, server := ns.dial(ns.v4(2), listener)
	cookie = client.cookie()
	leaveInFinWait2(client)
	ns.checkSS(cookie, "FIN-WAIT-2")
	return listener, server, cookie
}

func finWait2Expired(ns *netns, tr *lifeTracing) string {
	ns.sysctl("ipv4/tcp_fin_timeout", "2")
	listener, server, cookie := orphanInFinWait2(ns)
	c := tr.await(cookie)
	if d := time.Duration(c.Dwell[fsm.FinWait2.String()]); d < 1900*time.Millisecond || d > 4*time.Second {
		ns.t.Errorf("%v in FIN_WAIT_2, want 2 s", d)
	}
	server.close() // its FIN meets no socket
	listener.close()
	if got := ns.counters(); got["TcpExtTWKilled"] != 1 || got["TcpExtTW"] != 0 {
		ns.t.Errorf("the kernel counts %v short-lived minisocks and %v others, want one", got["TcpExtTWKilled"], got["TcpExtTW"])
	}
	return cookie
}

func finWait2Reset(ns *netns, _ *lifeTracing) string {
	listener, server, cookie := orphanInFinWait2(ns)
	server.reset()
	listener.close()
	return cookie
}

func finWait2Data(ns *netns, _ *lifeTracing) string {
	listener, server, cookie := orphanInFinWait2(ns)
	server.write("nobody reads this")
	eventually(ns.t, "the server is reset", func() bool { return server.info().State == uint8(fsm.Closed) })
	server.close()
	listener.close()
	return cookie
}

func finWait2Killed(ns *netns, _ *lifeTracing) string {
	listener, server, cookie := orphanInFinWait2(ns)
	server.deafen()
	ns.destroy("state", "fin-wait-2")
	server.hear()
	server.close() // its FIN meets no socket
	listener.close()
	return cookie
}

// TestKernelFinWait2Reused: connect takes the ports of a connection that waits for the
// peer's FIN, on kernels that let it. Nothing was sent about that.
func TestKernelFinWait2Reused(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := traceLife(ns)
		listener := ns.listen(ns.v4(1))
		bound := func(at netip.AddrPort) *socket {
			s := ns.socket(at.Addr())
			s.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			s.bind(at.Addr(), at.Port())
			check(t, unix.SetNonblock(s.fd, true))
			return s
		}
		client := bound(netip.AddrPortFrom(ns.v4(2), 0))
		if err := client.tryConnect(listener.addr()); err != unix.EINPROGRESS {
			t.Fatalf("connect: %v", err)
		}
		server := listener.accept()
		cookie, at := client.cookie(), client.addr()
		leaveInFinWait2(client)
		ns.checkSS(cookie, "FIN-WAIT-2")
		again := bound(at)
		err := again.tryConnect(listener.addr())
		again.close()
		server.close()
		listener.close()
		if err == unix.EADDRNOTAVAIL {
			t.Skip("this kernel does not let it")
		}
		checkStory(t, tr.await(cookie), activeFinWait2+"unknown by local; abort")
		tr.end() // the two connections of the same ends are more than the oracle's comparison knows
	})
}

// finWait2FINLate: the FIN comes when the timer is set for another time, which
// the kernel shows.
func finWait2FINLate(ns *netns, tr *lifeTracing) string {
	ns.sysctl("ipv4/tcp_fin_timeout", "10")
	return finWait2FIN(ns, tr, 200*time.Millisecond, func(c *lifecycleLine) {
		if c.TimeWait.Estimated {
			ns.t.Errorf("estimated: %v", c)
		}
	})
}

// finWait2FINAtOnce: the timer need not be moved, which nobody sees.
func finWait2FINAtOnce(ns *netns, tr *lifeTracing) string {
	return finWait2FIN(ns, tr, 0, func(c *lifecycleLine) {
		if !c.TimeWait.Estimated {
			ns.t.Errorf("not estimated: %v", c)
		}
	})
}

// finWait2FINSoon: seen or not, the time is right.
func finWait2FINSoon(ns *netns, tr *lifeTracing) string {
	return finWait2FIN(ns, tr, 100*time.Millisecond, func(*lifecycleLine) {})
}

// finWait2FINTwice: TIME_WAIT begins with the first FIN, which nobody sees, though
// the second, which was sent again, restarts its timer. The kernel shows that, as
// the timer then is far enough from where it was.
func finWait2FINTwice(ns *netns, tr *lifeTracing) string {
	listener, client, server := ns.connected()
	cookie := client.cookie()
	from, to := listener.addr(), client.addr()
	w := ns.wire()
	leaveInFinWait2(client)
	lapse(20 * time.Millisecond) // the next tick: within one, nothing tells the two apart
	before := time.Now()
	server.close()
	fin := w.awaitFlags(flagFIN, to)
	after := time.Now()
	lapse(2200 * time.Millisecond)
	listener.deafen() // who would reset it
	w.send(&segment{from: from, to: to, seq: fin.seq, ack: fin.ack, flags: flagFIN | flagACK})
	ns.checkSS(cookie, "TIME-WAIT")
	listener.close()
	ns.destroyTimeWait()
	c := tr.await(cookie)
	began := c.End.Add(-time.Duration(c.TimeWait.Duration))
	if began.Before(before.Add(-ticks)) || began.After(after.Add(ticks)) {
		ns.t.Errorf("TIME_WAIT began at %v, want between %v and %v: %v", began, before, after, c)
	}
	return cookie
}

// ticks are three of the slowest usual.
const ticks = 12 * time.Millisecond

// finWait2FIN lets the FIN reach a minisock in FIN_WAIT_2 after so much time, and
// checks how that is divided.
func finWait2FIN(ns *netns, tr *lifeTracing, after time.Duration, also func(*lifecycleLine)) string {
	listener, client, server := ns.connected()
	cookie := client.cookie()
	leaveInFinWait2(client)
	lapse(after)
	before := time.Now()
	server.close()
	after2 := time.Now()
	ns.checkSS(cookie, "TIME-WAIT")
	lapse(100 * time.Millisecond)
	listener.close()
	ns.destroyTimeWait()

	c := tr.await(cookie)
	fin := c.End.Add(-time.Duration(c.TimeWait.Duration))
	if fin.Before(before.Add(-ticks)) || fin.After(after2.Add(ticks)) {
		ns.t.Errorf("TIME_WAIT began at %v, want between %v and %v: %v", fin, before, after2, c)
	}
	if d := time.Duration(c.Dwell[fsm.FinWait2.String()]); d < after-ticks {
		ns.t.Errorf("%v in FIN_WAIT_2, want at least %v", d, after)
	}
	also(c)
	return cookie
}

// lapse lets time pass, to be measured.
func lapse(d time.Duration) { time.Sleep(d) }

// TestKernelTimeWaitExpires waits for the real end of TIME_WAIT, once for all the
// ways into it.
func TestKernelTimeWaitExpires(t *testing.T) {
	requireKernel(t)
	w, _ := newWitness(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		ns.sysctl("ipv4/tcp_fin_timeout", "10")
		six := ns.v6()
		tr := traceLife(ns)
		want := make(map[string]string)

		listener, client, server := ns.connected()
		want[client.cookie()] = activeTimeWait + "expired; legal"
		leaveInTimeWait(client, server)

		client, server = ns.dial(ns.v4(2), listener)
		want[server.cookie()] = passiveTimeWait + "expired; legal"
		leaveInTimeWait(server, client)

		client, server = ns.dial(ns.v4(2), listener)
		want[client.cookie()] = activeTimeWait + "expired; linux" // by way of a minisock in FIN_WAIT_2
		leaveInFinWait2(client)
		server.close()

		listener6 := ns.listen(six)
		client, server = ns.dial(six, listener6)
		want[client.cookie()] = activeTimeWait + "expired; legal"
		leaveInTimeWait(client, server)

		itself := ns.client()
		itself.connect(itself.addr())
		want[itself.cookie()] = "active: CLOSED SYN_SENT SYN_RCVD ESTABLISHED FIN_WAIT_1 CLOSING TIME_WAIT CLOSED; finished by both; TIME_WAIT expired; legal"
		itself.close()

		for cookie := range want {
			ns.checkSS(cookie, "TIME-WAIT")
		}
		listener.close()
		listener6.close()
		for cookie := range want {
			tr.awaitWithin(100*time.Second, "the life of "+cookie, func(c *lifecycleLine) bool { return c.Socket == cookie })
		}
		if left := ns.ss(); len(left) != 0 {
			t.Errorf("shown as gone, but there is %v", left)
		}
		if got := ns.counters(); got["TcpExtTW"] != len(want) || got["TcpExtTWKilled"] != 0 {
			t.Errorf("the kernel counts %d minisocks, and %d short-lived ones, want %d, 0", got["TcpExtTW"], got["TcpExtTWKilled"], len(want))
		}
		r := tr.finish()
		for cookie, story := range want {
			c := r.life(cookie)
			checkStory(t, c, story)
			if d := time.Duration(c.TimeWait.Duration); d < 60*time.Second || d > 63*time.Second {
				t.Errorf("%v of TIME_WAIT, want 60 to 63 s: %v", d, c)
			}
		}
		w.check(r.result, len(want))
	})
}

// TestKernelTimeWaitSkipped: the kernel makes no more minisocks than it is
// allowed to, and leaves TIME_WAIT out then, which breaks the rule. It is found
// once for each connection, with the limit, and nothing else is.
func TestKernelTimeWaitSkipped(t *testing.T) {
	requireKernel(t)
	for _, test := range []struct{ limit, closes int }{{0, 4}, {20, 50}} {
		t.Run(fmt.Sprintf("%d of %d", test.limit, test.closes), func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				ns.sysctl("ipv4/tcp_max_tw_buckets", strconv.Itoa(test.limit))
				tr := traceLife(ns, "--fail-on", "illegal")
				tr.status = exitCondition
				listener := ns.listen(ns.v4(1))
				closes := make(map[string]bool)
				for i := range test.closes {
					client, server := ns.dial(ns.v4(byte(2+i)), listener) // no port is used again
					if i%2 == 0 {
						closes[client.cookie()] = true
						leaveInTimeWait(client, server)
					} else {
						closes[server.cookie()] = true
						leaveInTimeWait(server, client)
					}
				}
				listener.close()
				counters := ns.counters()
				skipped := test.closes - test.limit
				if counters["TcpExtTCPTimeWaitOverflow"] != skipped || counters.minisocks() != test.limit {
					t.Errorf("the kernel counts %d that were skipped and %d minisocks, want %d and %d",
						counters["TcpExtTCPTimeWaitOverflow"], counters.minisocks(), skipped, test.limit)
				}
				ns.illegal = skipped
				r := tr.finish()
				if r.total.Illegal != skipped {
					t.Errorf("%d illegal, want %d", r.total.Illegal, skipped)
				}
				reason := fmt.Sprintf("TIME_WAIT skipped: net.ipv4.tcp_max_tw_buckets is reached (%d of %d)", test.limit, test.limit)
				ends := make(map[string]int)
				for i := range r.lives {
					c := &r.lives[i]
					if closes[c.Socket] == (c.TimeWait == nil) {
						r.t.Errorf("which one closed first? %v", c)
					}
					if c.TimeWait == nil {
						continue
					}
					ends[c.TimeWait.End]++
					if (c.TimeWait.End == "skipped") != (len(c.Violations) == 1 && strings.HasPrefix(c.Violations[0].Reason, reason)) ||
						c.Close.Cause != "finished" || c.Close.First != "local" || c.Complete != (c.TimeWait.End == "skipped") {
						r.t.Errorf("want a life that is finished, if it is skipped because of %q: %v", reason, c)
					}
				}
				if ends["skipped"] != skipped || ends[""] != test.limit {
					t.Errorf("TIME_WAIT ended as %v, want %d that were skipped, %d that go on", ends, skipped, test.limit)
				}
			})
		})
	}
	t.Run("after CLOSING", func(t *testing.T) {
		inNetNS(t, func(ns *netns) {
			ns.sysctl("ipv4/tcp_max_tw_buckets", "0")
			tr := traceLife(ns)
			itself := ns.client()
			cookie := itself.cookie()
			itself.connect(itself.addr())
			itself.close()
			ns.illegal = 1
			checkStory(ns.t, tr.finish().life(cookie),
				"active: CLOSED SYN_SENT SYN_RCVD ESTABLISHED FIN_WAIT_1 CLOSING CLOSED; finished by both; TIME_WAIT skipped; illegal")
		})
	})
}

// TestKernelTimeWaitSkippedByOrphan: the same for those who just close, as most
// do. The kernel forgets the connection when the peer has acknowledged the FIN,
// or when the peer's own comes.
func TestKernelTimeWaitSkippedByOrphan(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		ns.sysctl("ipv4/tcp_max_tw_buckets", "0")
		tr := traceLife(ns)
		listener := ns.listen(ns.v4(1))
		const closes = 4
		var cookies []string
		for i := range closes {
			client, server := ns.dial(ns.v4(2), listener)
			cookies = append(cookies, client.cookie())
			client.write("question")
			server.read("question")
			client.close()
			server.read("")
			if i%2 == 0 {
				// Until the delayed ACK of the FIN has come.
				eventually(t, "the client is forgotten", func() bool { return ns.ss()[cookies[i]] == ssLine{} })
			}
			server.close()
		}
		listener.close()
		ns.illegal = closes
		if got := ns.counters()["TcpExtTCPTimeWaitOverflow"]; got != closes {
			t.Errorf("the kernel counts %d that were skipped, want %d", got, closes)
		}
		r := tr.finish()
		for _, cookie := range cookies {
			checkStory(t, r.life(cookie), activeFinWait2+"finished by local; TIME_WAIT skipped; illegal")
		}
	})
}

// TestKernelNoTimeWait: with --no-time-wait all is as the kernel's tracepoint
// has it.
func TestKernelNoTimeWait(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := trace(ns, "--no-time-wait")
		playClientFirst(ns)
		playServerFirst(ns)
		playIPv6(ns)
		playSelf(ns)
		r := tr.finish() // checks that SYN_RCVD has no dwell
		asClient := "CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 CLOSED(linux)"
		r.expect(listened, listened, listened, serverSecond, clientSecond, serverSecond,
			asClient, "LISTEN SYN_RCVD ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 CLOSED(linux)", asClient,
			"CLOSED SYN_SENT SYN_RCVD ESTABLISHED FIN_WAIT_1 CLOSING CLOSED(linux)")
		for i := range r.transitions {
			if l := &r.transitions[i]; l.Source != "tracepoint" || l.End != "" {
				t.Errorf("told by a timer: %v", l)
			}
		}
		if len(r.requests)+len(r.notices) != 0 {
			t.Errorf("handshakes: %s, notices %+v: want none", r.firstRequest(), r.notices)
		}
	})
}

// TestKernelSelfTest: a tracer makes a connection to itself as it starts. It does
// not show it, and leaves nothing of it.
func TestKernelSelfTest(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	recording := filepath.Join(t.TempDir(), "a.tct")
	var p *program
	ns.do(func() error {
		p = startProgram(t, nil, "-o", "json", "-v", "-w", recording) // of the whole host, from inside
		return nil
	})
	eventually(t, "the tracer is attached", func() bool { return attached.MatchString(p.stderr.String()) })
	if left := ns.ss(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	listener := ns.listen(ns.v4(1))
	converse(listener, ns.late(ns.v4(2)), listener.addr())
	out := p.lines()
	eventually(t, "a connection shows", func() bool { return out.contains(ns.v4(2).String()) })
	p.signal(syscall.SIGTERM)
	text := out.rest(t)
	for _, says := range []struct{ who, text string }{
		{"the tracer", text},
		{"its recording", replayWhole(t, recording)},
		{"its recording, as lives", replayAs(t, []string{"life", "--open", "-r", recording, "-o", "json"}, exitDone)},
	} {
		mine := 0
		for l := range strings.Lines(says.text) {
			if !strings.Contains(l, fmt.Sprintf(`"netns":%d`, ns.inode)) {
				continue
			}
			mine++
			if !strings.Contains(l, ns.v4(1).String()) && !strings.Contains(l, ns.v4(2).String()) {
				t.Errorf("%s tells of somebody else in the namespace: %s", says.who, l)
			}
		}
		if mine == 0 {
			t.Errorf("%s does not tell of the namespace at all: %s", says.who, says.text)
		}
	}
}

// TestKernelTimeWaitOfTwoLives: a socket is connected again, while a minisock
// keeps its first connection.
func TestKernelTimeWaitOfTwoLives(t *testing.T) {
	requireKernel(t)
	for _, test := range []struct {
		name   string
		second func(ns *netns, client, server *socket)
		want   string
	}{
		{"second reset", func(_ *netns, client, server *socket) {
			client.reset()
			server.close()
		}, "active: CLOSED SYN_SENT ESTABLISHED CLOSED; reset_sent by local; abort"},
		{"second in TIME_WAIT too", func(_ *netns, client, server *socket) {
			leaveInTimeWait(client, server)
		}, activeTimeWait + "killed; abort"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				tr := traceLife(ns)
				listener, client, server := ns.connected()
				cookie := client.cookie()
				client.shutdown(unix.SHUT_WR)
				client.await(fsm.FinWait2)
				server.read("")
				server.close()
				client.read("")
				ns.checkSS(cookie, "TIME-WAIT")

				client.disconnect()
				client.bind(ns.v4(3), 0)
				client.connect(listener.addr())
				test.second(ns, client, listener.accept())
				listener.close()
				ns.destroy("state", "time-wait")

				tr.awaitID(lifeID{cookie, 0})
				tr.awaitID(lifeID{cookie, 1})
				r := tr.finish()
				checkStory(t, r.lifeOf(lifeID{cookie, 0}), activeTimeWait+"killed; abort")
				checkStory(t, r.lifeOf(lifeID{cookie, 1}), test.want)
			})
		})
	}
}

// TestKernelTimeWaitFound: that a FIN has reached a minisock unseen is told by a walk, and
// then by its end: both say the same time, so that the times add up.
func TestKernelTimeWaitFound(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		tr := traceLife(ns, "--stuck", "--limit", "TIME_WAIT=1s") // walks every second
		listener, client, server := ns.connected()
		cookie := client.cookie()
		leaveInFinWait2(client)
		lapse(20 * time.Millisecond)
		server.close()
		eventually(ns.t, "a walk has found it", func() bool {
			return strings.Contains(tr.textSoFar(), `"socket":"`+cookie+`"`)
		})
		listener.close()
		ns.destroyTimeWait()
		tr.await(cookie)
		checkStory(ns.t, tr.finish().life(cookie), activeTimeWait+"killed; abort")
	})
}
