package main

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// ending is what is to be told of the end of a socket.
type ending struct {
	cookie         string
	want           string // as closing writes it
	sent, received int    // bytes; -1: not known, as it was never established
}

// closing tells how a connection ended.
func (c *lifecycleLine) closing() string {
	text := c.Role + ": " + c.Close.Cause + " by " + c.Close.First
	if c.Close.Errno != 0 {
		text += ", errno " + strconv.Itoa(c.Close.Errno)
	}
	if c.Close.ResetReason != "" {
		text += ", reset for " + c.Close.ResetReason
	}
	return text + "; " + c.Verdict
}

// withoutReasons is for kernels that do not say why they reset a connection.
func withoutReasons(text string) string {
	start, rest, found := strings.Cut(text, ", reset for ")
	if !found {
		return text
	}
	_, verdict, _ := strings.Cut(rest, ";")
	return start + ";" + verdict
}

var hasResetReasons = sync.OnceValue(func() bool {
	kernel, err := btf.LoadKernelSpec()
	var reasons *btf.Enum
	return err == nil && kernel.TypeByName("sk_rst_reason", &reasons) == nil
})

// TestKernelCloseCauses ends connections for every reason that there is. Each is
// told with its cause, who was first, the kernel's errno and reason of a reset,
// and the bytes.
func TestKernelCloseCauses(t *testing.T) {
	requireKernel(t)
	requireHostPIDs(t)
	name, err := os.ReadFile("/proc/self/comm")
	check(t, err)
	for _, test := range []struct {
		name string
		play func(*netns) []ending
	}{
		{"client closes first", closeClientFirst},
		{"server closes first", closeServerFirst},
		{"half-close", closeHalf},
		{"as curl and nginx with keep-alive", closeKeepAlive},
		{"as nginx that closes with lingering", closeLingering},
		{"as an HTTP/1.0 server", closeByServer},
		{"at the same time", closeBoth},
		{"linger 0", closeLinger0},
		{"linger 0 in CLOSE_WAIT", closeLinger0CloseWait},
		{"unread data", closeUnread},
		{"unread data in FIN_WAIT_2", closeUnreadFinWait2},
		{"negative TCP_LINGER2", closeLinger2},
		{"data after shutdown", closeDataAfterShutdown},
		{"data after close", closeDataAfterClose},
		{"too many orphans", closeTooManyOrphans},
		{"timeout in SYN_SENT", closeSYNTimeout},
		{"timeout with data", closeTimeout},
		{"timeout of keep-alive", closeKeepAliveTimeout},
		{"timeout of an orphan", closeOrphanTimeout},
		{"refused", closeRefused},
		{"unreachable", closeUnreachable},
		{"cancelled", closeCancelled},
		{"disconnected", closeDisconnected},
		{"disconnected in FIN_WAIT_2", closeDisconnectedFinWait2},
		{"disconnected before its FIN is acknowledged", closeUnacked},
		{"destroyed", closeDestroyed},
		{"destroyed in SYN_SENT", closeDestroyedSynSent},
		{"listener closed", closeListenerClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				tr := traceLife(ns, "--open")
				endings := test.play(ns)
				r := tr.finish()
				for _, e := range endings {
					c := r.life(e.cookie)
					got, want := c.closing(), e.want
					if !hasResetReasons() {
						got, want = withoutReasons(got), withoutReasons(want)
					}
					if got != want {
						t.Errorf("it ended as\n  %s, want\n  %s\n%v", got, want, c)
					}
					checkBytes(t, c, "sent", c.BytesSent, e.sent)
					checkBytes(t, c, "received", c.BytesReceived, e.received)
					if over := c.Path[len(c.Path)-1] == "CLOSED"; c.Complete != over {
						t.Errorf("complete is %t, want %t: %v", c.Complete, over, c)
					}
					if c.PID == nil || *c.PID != os.Getpid() || c.Comm != strings.TrimSpace(string(name)) || c.OwnerSource == "" {
						t.Errorf("the owner is %v %s by %q, want %d, %s", c.PID, c.Comm, c.OwnerSource, os.Getpid(), name)
					}
				}
			})
		})
	}
}

func checkBytes(t *testing.T, c *lifecycleLine, what string, got *uint64, want int) {
	t.Helper()
	switch {
	case got == nil && want < 0:
	case got == nil || want < 0 || *got != uint64(want):
		text := "nothing"
		if got != nil {
			text = strconv.FormatUint(*got, 10)
		}
		t.Errorf("%s %s bytes, want %d: %v", what, text, want, c)
	}
}

const (
	activeFirst   = "active: finished by local; legal"
	activeSecond  = "active: finished by remote; legal"
	passiveFirst  = "passive: finished by local; legal"
	passiveSecond = "passive: finished by remote; legal"
	// By way of a minisock in FIN_WAIT_2, or of a second close.
	activeFirstLinux  = "active: finished by local; linux"
	passiveFirstLinux = "passive: finished by local; linux"
)

func closeClientFirst(ns *netns) []ending {
	listener, client, server := ns.connected()
	endings := []ending{{client.cookie(), activeFirst, 8, 6}, {server.cookie(), passiveSecond, 6, 8}}
	client.write("question")
	server.read("question")
	server.write("answer")
	client.read("answer")
	leaveInTimeWait(client, server)
	listener.close()
	return endings
}

func closeServerFirst(ns *netns) []ending {
	listener := ns.listen(ns.v6())
	client, server := ns.dial(listener.addr().Addr(), listener)
	endings := []ending{{client.cookie(), activeSecond, 0, 7}, {server.cookie(), passiveFirst, 7, 0}}
	server.write("welcome")
	client.read("welcome")
	leaveInTimeWait(server, client)
	listener.close()
	return endings
}

func closeHalf(ns *netns) []ending {
	listener, client, server := halfClosed(ns)
	endings := []ending{{client.cookie(), activeFirst, 0, 6}, {server.cookie(), passiveSecond, 6, 0}}
	server.write("answer")
	client.read("answer")
	server.close()
	client.read("")
	client.close()
	listener.close()
	return endings
}

// much is more than a segment holds.
var much = strings.Repeat("0123456789", 20_000)

// closeKeepAlive: a client that asks twice and closes.
func closeKeepAlive(ns *netns) []ending {
	ns.sysctl("ipv4/tcp_fin_timeout", "10") // so that the kernel shows a FIN that reaches a minisock
	listener, client, server := ns.connected()
	endings := []ending{
		{client.cookie(), activeFirstLinux, 2 * len("GET /"), 2 * len(much)},
		{server.cookie(), passiveSecond, 2 * len(much), 2 * len("GET /")},
	}
	for range 2 {
		client.write("GET /")
		server.read("GET /")
		sent := make(chan error, 1)
		go func() { sent <- writeAll(server.fd, much) }()
		client.read(much)
		check(ns.t, <-sent)
	}
	cookie := client.cookie()
	client.close()
	server.read("")
	eventually(ns.t, "the FIN is acknowledged", func() bool { return ns.ss()[cookie].state == "FIN-WAIT-2" })
	server.close()
	ns.checkSS(cookie, "TIME-WAIT")
	listener.close()
	return endings
}

func writeAll(fd int, text string) error {
	for len(text) > 0 {
		n, err := unix.Write(fd, []byte(text))
		if err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// closeLingering: the server ends its side, reads what the client still has to
// say, and closes.
func closeLingering(ns *netns) []ending {
	listener, client, server := ns.connected()
	endings := []ending{
		{client.cookie(), activeSecond, len("POST /more"), len("413")},
		{server.cookie(), passiveFirst, len("413"), len("POST /more")},
	}
	client.write("POST /")
	server.read("POST /")
	server.write("413")
	server.shutdown(unix.SHUT_WR)
	server.await(fsm.FinWait2)
	client.write("more")
	server.read("more")
	client.read("413")
	client.read("")
	client.close()
	server.read("")
	server.close()
	listener.close()
	return endings
}

// closeByServer: the server closes after its answer, the client when it has read
// that.
func closeByServer(ns *netns) []ending {
	ns.sysctl("ipv4/tcp_fin_timeout", "10") // likewise
	listener, client, server := ns.connected()
	endings := []ending{
		{client.cookie(), activeSecond, len("GET /"), len(much)},
		{server.cookie(), passiveFirstLinux, len(much), len("GET /")},
	}
	client.write("GET /")
	server.read("GET /")
	sent := make(chan error, 1)
	go func() { sent <- writeAll(server.fd, much) }()
	client.read(much)
	check(ns.t, <-sent)
	cookie := server.cookie()
	server.close()
	client.read("")
	eventually(ns.t, "the FIN is acknowledged", func() bool { return ns.ss()[cookie].state == "FIN-WAIT-2" })
	client.close()
	ns.checkSS(cookie, "TIME-WAIT")
	listener.close()
	return endings
}

// peer is the other side of a connection that the test itself plays, segment by
// segment.
type peer struct {
	*socket  // hears nothing, and keeps the kernel from answering
	w        *wire
	at       netip.AddrPort
	to       netip.AddrPort
	seq, ack uint32
}

// connectToPeer connects a socket to a peer.
func connectToPeer(ns *netns) (*socket, *peer) {
	ns.t.Helper()
	listener := ns.listen(ns.v4(5))
	listener.deafen()
	p := &peer{socket: listener, w: ns.wire(), at: listener.addr(), seq: 5000}
	client := ns.client()
	check(ns.t, unix.SetNonblock(client.fd, true))
	if err := client.tryConnect(p.at); err != unix.EINPROGRESS {
		ns.t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	p.to = client.addr()
	p.ack = p.w.awaitFlags(flagSYN, p.at).next()
	p.send(flagSYN | flagACK)
	p.seq++
	client.await(fsm.Established)
	return client, p
}

func (p *peer) send(flags byte) {
	p.w.ns.t.Helper()
	p.w.send(&segment{from: p.at, to: p.to, seq: p.seq, ack: p.ack, flags: flags})
}

// closing makes a connection whose FINs have crossed; the client's is not acknowledged.
func closing(ns *netns) (client *socket, p *peer, fin *segment) {
	client, p = connectToPeer(ns)
	client.shutdown(unix.SHUT_WR)
	fin = p.w.awaitFlags(flagFIN, p.at)
	p.send(flagFIN | flagACK) // of what came before the FIN
	client.await(fsm.Closing)
	return client, p, fin
}

// closeBoth lets two FINs cross.
func closeBoth(ns *netns) []ending {
	itself := ns.client()
	itself.connect(itself.addr())
	endings := []ending{{itself.cookie(), "active: finished by both; legal", 0, 0}}
	itself.close()

	client, p, fin := closing(ns)
	endings = append(endings, ending{client.cookie(), "active: finished by both; legal", 0, 0})
	p.seq++
	p.ack = fin.next()
	p.send(flagACK)
	client.await(fsm.Closed)
	client.close()
	p.close()
	return endings
}

const (
	activeReset  = "active: reset_received by remote, errno 104; abort"
	passiveReset = "passive: reset_received by remote, errno 104; abort"
)

func closeLinger0(ns *netns) []ending {
	listener, client, server := ns.connected()
	client.write("question")
	server.read("question")
	endings := []ending{{client.cookie(), "active: reset_sent by local, reset for TCP_STATE; abort", 8, 0}, {server.cookie(), passiveReset, 0, 8}}
	client.reset()
	server.close()
	listener.close()
	return endings
}

func closeLinger0CloseWait(ns *netns) []ending {
	listener, client, server := halfClosed(ns)
	// Who closed first, did so by FIN; the reset came later.
	endings := []ending{
		{client.cookie(), "active: reset_received by local, errno 104; abort", 0, 0},
		{server.cookie(), "passive: reset_sent by remote, reset for TCP_STATE; abort", 0, 0},
	}
	server.read("")
	server.reset()
	client.close()
	listener.close()
	return endings
}

func closeUnread(ns *netns) []ending {
	listener, client, server := ns.connected()
	endings := []ending{{client.cookie(), "active: reset_sent by local, reset for TCP_ABORT_ON_CLOSE; abort", 0, 7}, {server.cookie(), passiveReset, 7, 0}}
	server.write("ignored")
	client.peek()
	client.close()
	server.close()
	listener.close()
	return endings
}

func closeUnreadFinWait2(ns *netns) []ending {
	listener, client, server := halfClosed(ns)
	endings := []ending{
		{client.cookie(), "active: reset_sent by local, reset for TCP_ABORT_ON_CLOSE; abort", 0, 7},
		{server.cookie(), "passive: reset_received by remote, errno 32; abort", 7, 0},
	}
	server.write("ignored")
	client.peek()
	client.close()
	server.close()
	listener.close()
	return endings
}

func closeLinger2(ns *netns) []ending {
	listener, client, server := halfClosed(ns)
	endings := []ending{
		{client.cookie(), "active: reset_sent by local, reset for TCP_ABORT_ON_LINGER; abort", 0, 0},
		{server.cookie(), "passive: reset_received by remote, errno 32; abort", 0, 0},
	}
	client.set(unix.IPPROTO_TCP, unix.TCP_LINGER2, -1)
	client.close()
	server.close()
	listener.close()
	return endings
}

// closeDataAfterShutdown: nobody will read what comes when both directions are
// shut.
func closeDataAfterShutdown(ns *netns) []ending {
	listener, client, server := ns.connected()
	endings := []ending{
		{client.cookie(), "active: reset_sent by local, errno 104, reset for TCP_ABORT_ON_DATA; abort", 0, 0},
		{server.cookie(), "passive: reset_received by remote, errno 32; abort", 4, 0},
	}
	client.shutdown(unix.SHUT_RDWR)
	client.await(fsm.FinWait2)
	server.write("late")
	client.await(fsm.Closed)
	server.await(fsm.Closed)
	client.close()
	server.close()
	listener.close()
	return endings
}

// closeDataAfterClose: the same, with a minisock.
func closeDataAfterClose(ns *netns) []ending {
	listener, server, cookie := orphanInFinWait2(ns)
	endings := []ending{
		{cookie, "active: reset_sent by local; abort", 0, 0},
		{server.cookie(), "passive: reset_received by remote, errno 32; abort", 4, 0},
	}
	server.write("late")
	server.await(fsm.Closed)
	server.close()
	listener.close()
	return endings
}

// closeTooManyOrphans: the kernel allows for so many sockets without a process,
// on the whole host, and counts them 10 times a second.
func closeTooManyOrphans(ns *netns) []ending {
	const limit = "/proc/sys/net/ipv4/tcp_max_orphans"
	usual, err := os.ReadFile(limit) // outside of the namespace
	if err == nil {
		err = os.WriteFile(limit, usual, 0)
	}
	if err != nil {
		ns.t.Skipf("how many orphans there may be cannot be set: %v", err)
	}
	ns.t.Cleanup(func() { check(ns.t, os.WriteFile(limit, usual, 0)) })

	listener := ns.listen(ns.v4(1))
	// Orphans that stay, as their FIN is not heard.
	var deaf []*socket
	for range 3 {
		client, server := ns.dial(ns.v4(2), listener)
		server.deafen()
		client.close()
		deaf = append(deaf, server)
	}
	check(ns.t, os.WriteFile(limit, []byte("1"), 0))
	// Until the kernel counts again, close is just close.
	var endings []ending
	eventually(ns.t, "there are too many orphans", func() bool {
		client, server := ns.dial(ns.v4(2), listener)
		server.deafen()
		client.write("unread")
		cookie := client.cookie()
		client.close()
		gone := ns.ss()[cookie] == ssLine{}
		server.hear()
		if gone {
			endings = []ending{{cookie, "active: reset_sent by local, reset for TCP_ABORT_ON_MEMORY; abort", 6, 0}}
		}
		server.reset()
		return gone
	})
	check(ns.t, os.WriteFile(limit, usual, 0))
	for _, server := range deaf {
		server.hear()
		server.read("")
		server.close()
	}
	listener.close()
	return endings
}

const activeTimeout = "active: timeout by none, errno 110; abort"

func closeSYNTimeout(ns *netns) []ending {
	client := ns.client()
	client.set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1) // ends it at the first retransmission
	endings := []ending{{client.cookie(), activeTimeout, -1, -1}}
	if err := client.tryConnect(netip.AddrPortFrom(ns.silence().Addr().Next(), 80)); err != unix.ETIMEDOUT {
		ns.t.Errorf("connect: %v, want %v", err, unix.ETIMEDOUT)
	}
	client.close()
	return endings
}

func closeTimeout(ns *netns) []ending {
	client, p := connectToPeer(ns)
	client.set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1)
	endings := []ending{{client.cookie(), activeTimeout, 7, 0}}
	client.write("unheard")
	client.await(fsm.Closed)
	client.close()
	p.close()
	return endings
}

func closeKeepAliveTimeout(ns *netns) []ending {
	client, p := connectToPeer(ns)
	endings := []ending{{client.cookie(), "active: timeout by none, errno 110, reset for TCP_KEEPALIVE_TIMEOUT; abort", 0, 0}}
	for option, value := range map[int]int{unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 1} {
		client.set(unix.IPPROTO_TCP, option, value)
	}
	client.set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	client.await(fsm.Closed)
	client.close()
	p.close()
	return endings
}

func closeOrphanTimeout(ns *netns) []ending {
	client, p := connectToPeer(ns)
	client.set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1)
	cookie := client.cookie()
	client.close()
	eventually(ns.t, "the orphan is gone", func() bool { return ns.ss()[cookie] == ssLine{} })
	p.close()
	return []ending{{cookie, "active: timeout by local, errno 110; abort", 0, 0}}
}

func closeRefused(ns *netns) []ending {
	client := ns.client()
	endings := []ending{{client.cookie(), "active: refused by remote, errno 111; abort", -1, -1}}
	if err := client.tryConnect(netip.AddrPortFrom(ns.v4(1), 1)); err != unix.ECONNREFUSED {
		ns.t.Errorf("connect: %v, want %v", err, unix.ECONNREFUSED)
	}
	client.close()
	return endings
}

func closeUnreachable(ns *netns) []ending {
	listener := ns.listen(ns.v4(1))
	listener.deafen()
	w := ns.wire()
	client := ns.client()
	check(ns.t, unix.SetNonblock(client.fd, true))
	endings := []ending{{client.cookie(), "active: unreachable by none, errno 113; abort", -1, -1}}
	if err := client.tryConnect(listener.addr()); err != unix.EINPROGRESS {
		ns.t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	w.unreachable(w.awaitFlags(flagSYN, listener.addr()))
	client.await(fsm.Closed)
	client.close()
	listener.close()
	return endings
}

func closeCancelled(ns *netns) []ending {
	listener := ns.listen(ns.v4(1))
	listener.deafen()
	client := ns.client()
	check(ns.t, unix.SetNonblock(client.fd, true))
	endings := []ending{{client.cookie(), "active: cancelled by local; abort", -1, -1}}
	if err := client.tryConnect(listener.addr()); err != unix.EINPROGRESS {
		ns.t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	client.close()
	listener.close()
	return endings
}

func closeDisconnected(ns *netns) []ending {
	listener, client, server := ns.connected()
	endings := []ending{
		{client.cookie(), "active: disconnected by local, reset for TCP_STATE; abort", 0, 0},
		{server.cookie(), passiveReset, 0, 0},
	}
	client.disconnect()
	client.close()
	server.close()
	listener.close()
	return endings
}

func closeDisconnectedFinWait2(ns *netns) []ending {
	listener, client, server := halfClosed(ns)
	endings := []ending{
		{client.cookie(), "active: disconnected by local, reset for TCP_STATE; abort", 0, 0},
		{server.cookie(), "passive: reset_received by remote, errno 32; abort", 0, 0},
	}
	client.shutdown(unix.SHUT_RDWR)
	client.disconnect()
	client.close()
	server.close()
	listener.close()
	return endings
}

// closeUnacked ends connections whose both sides have sent FIN. The kernel sends no reset
// then.
func closeUnacked(ns *netns) (endings []ending) {
	for _, disconnect := range []func(*socket){(*socket).reset, func(s *socket) {
		s.disconnect()
		s.close()
	}} {
		client, p, _ := closing(ns)
		endings = append(endings, ending{client.cookie(), "active: disconnected by both; abort", 0, 0})
		disconnect(client)
		p.close()

		client, p = connectToPeer(ns)
		endings = append(endings, ending{client.cookie(), "active: disconnected by remote; abort", 0, 0})
		p.send(flagFIN | flagACK)
		client.await(fsm.CloseWait)
		client.shutdown(unix.SHUT_WR)
		client.await(fsm.LastAck)
		disconnect(client)
		p.close()
	}
	return endings
}

func closeDestroyed(ns *netns) []ending {
	listener, client, server := ns.connected()
	endings := []ending{
		{client.cookie(), "active: destroyed by none, errno 103, reset for TCP_STATE; abort", 0, 0},
		{server.cookie(), passiveReset, 0, 0},
	}
	ns.destroy("sport", "=", fmt.Sprintf(":%d", client.addr().Port()))
	client.await(fsm.Closed)
	server.await(fsm.Closed)
	client.close()
	server.close()
	listener.close()
	return endings
}

func closeDestroyedSynSent(ns *netns) []ending {
	client := ns.client()
	check(ns.t, unix.SetNonblock(client.fd, true))
	endings := []ending{{client.cookie(), "active: destroyed by none, errno 103; abort", -1, -1}}
	if err := client.tryConnect(netip.AddrPortFrom(ns.silence().Addr().Next(), 80)); err != unix.EINPROGRESS {
		ns.t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	ns.destroy("state", "syn-sent")
	client.await(fsm.Closed)
	client.close()
	return endings
}

func closeListenerClosed(ns *netns) []ending {
	listener := ns.listen(ns.v4(1))
	client := ns.client()
	client.connect(listener.addr())
	client.write("hello?")
	var cookie string
	for c, l := range ns.ss() {
		if l.local == listener.addr().String() && l.state == "ESTAB" {
			cookie = c
		}
	}
	endings := []ending{
		{client.cookie(), activeReset, 6, 0},
		{cookie, "passive: listener_closed by local, reset for TCP_STATE; abort", 0, 6},
	}
	listener.close()
	client.await(fsm.Closed)
	client.close()
	return endings
}
