package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// requireOwners is requireKernel for a test that compares processes.
func requireOwners(t *testing.T) {
	t.Helper()
	requireKernel(t)
	requireHostPIDs(t)
}

// stuckLine is a line of what is stuck, or is so no more. A pointer tells 0 from
// what is not known.
type stuckLine struct {
	Type          string
	Time          time.Time
	Socket        string
	Generation    uint32
	State, To     string
	Age           int64 `json:"age_ns"`
	AgeExact      *bool `json:"age_exact"`
	Limit         int64 `json:"limit_ns"`
	Handshake     bool
	Minisock      bool
	Orphan        bool
	Unaccepted    bool
	FD            *int
	Holders       *int
	RecvQueue     *int `json:"recv_queue"`
	SendQueue     *int `json:"send_queue"`
	Retransmits   *int
	Unanswered    *int
	Silent        int64 `json:"silent_ns"`
	Left          int64 `json:"left_ns"`
	Hint          string
	Family        string
	Local, Remote endpoint
	PID           *int
	Comm          *string
	UID           *int
	OwnerSource   string `json:"owner_source"`
	NetNS         uint32
	Cgroup        uint64
	Container     string
	Unit          string
	Exe           string
}

func (l *stuckLine) String() string {
	text, _ := json.Marshal(l)
	return string(text)
}

func (l *stuckLine) owner() (o owner) {
	return (&line{PID: l.PID, Comm: l.Comm, UID: l.UID, OwnerSource: l.OwnerSource}).owner()
}

// began is when the state began, or by when it had begun.
func (l *stuckLine) began() time.Time { return l.Time.Add(-time.Duration(l.Age)) }

// known returns a number, -1 for one that is not there.
func known(n *int) int {
	if n == nil {
		return -1
	}
	return *n
}

// stuckSummary is the last line.
type stuckSummary struct {
	Transitions, Connections, Illegal, Gaps, Lost int
	Sockets, Stuck                                *int
	Duration                                      int64 `json:"duration_ns"`
}

// stuckResult is what a command has said of what is stuck.
type stuckResult struct {
	t        *testing.T
	status   int
	text     string // standard output
	stderr   string
	stuck    []stuckLine
	resolved []stuckLine
	notices  []line
	summary  stuckSummary
}

// stuck runs tcptrace stuck in the namespace, once, with -o json.
func (ns *netns) stuck(args ...string) *stuckResult {
	ns.t.Helper()
	return runStuck(ns.t, ns.arguments(append([]string{"stuck"}, args...))...)
}

// stuckText is stuck for text, of which it returns the rows.
func (ns *netns) stuckText(args ...string) (rows []string, r *stuckResult) {
	ns.t.Helper()
	r = runStuckText(ns.t, ns.arguments(append([]string{"stuck", "-o", "text"}, args...))...)
	return strings.Split(strings.TrimSuffix(r.text, "\n"), "\n"), r
}

func runStuck(t *testing.T, args ...string) *stuckResult {
	t.Helper()
	r := runStuckText(t, args...)
	r.parse()
	return r
}

func runStuckText(t *testing.T, args ...string) *stuckResult {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(args, strings.NewReader(""), &stdout, &stderr)
	return &stuckResult{t: t, status: status, text: stdout.String(), stderr: stderr.String()}
}

// parse reads the lines, which end with a summary.
func (r *stuckResult) parse() {
	r.t.Helper()
	summaries := 0
	for text := range strings.Lines(r.text) {
		kind, _, _ := strings.Cut(strings.TrimPrefix(text, `{"type":"`), `"`)
		switch kind {
		case "summary":
			summaries++
			check(r.t, json.Unmarshal([]byte(text), &r.summary))
		case "notice":
			var n line
			check(r.t, json.Unmarshal([]byte(text), &n))
			r.notices = append(r.notices, n)
		case "stuck", "resolved":
			var l stuckLine
			d := json.NewDecoder(strings.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&l); err != nil {
				r.t.Fatalf("%v: %s", err, text)
			}
			if kind == "stuck" {
				r.stuck = append(r.stuck, l)
			} else {
				r.resolved = append(r.resolved, l)
			}
		}
	}
	if summaries != 1 {
		r.t.Fatalf("status %d, %d summaries, want one: %s%s", r.status, summaries, r.text, r.stderr)
	}
}

// checkSum checks the status and the summary, and that nothing else is told.
func (r *stuckResult) checkSum(status int) {
	r.t.Helper()
	if r.status != status {
		r.t.Errorf("status %d, want %d: %s", r.status, status, r.stderr)
	}
	s := &r.summary
	if s.Stuck == nil || s.Sockets == nil || *s.Stuck != len(r.stuck) || *s.Sockets < *s.Stuck || s.Lost != 0 || s.Illegal != 0 || s.Gaps != 0 {
		r.t.Errorf("the summary is %s, want %d stuck", r.text[strings.LastIndex(r.text, `{"type":"summary"`):], len(r.stuck))
	}
	for i := range r.notices {
		r.t.Errorf("unexpected notice: %+v", r.notices[i])
	}
}

// only returns the one that is stuck in the state.
func (r *stuckResult) only(state fsm.State) *stuckLine {
	r.t.Helper()
	var found *stuckLine
	for i := range r.stuck {
		if l := &r.stuck[i]; l.State == state.String() {
			if found != nil {
				r.t.Fatalf("more than one is stuck in %v: %v and %v", state, found, l)
			}
			found = l
		}
	}
	if found == nil {
		r.t.Fatalf("nothing is stuck in %v: %s%s", state, r.text, r.stderr)
	}
	return found
}

// at returns what is stuck by the local end.
func (r *stuckResult) at(local netip.AddrPort) *stuckLine {
	r.t.Helper()
	for i := range r.stuck {
		if r.stuck[i].Local.addrPort() == local {
			return &r.stuck[i]
		}
	}
	r.t.Fatalf("nothing is stuck at %v: %s%s", local, r.text, r.stderr)
	return nil
}

// of returns what is stuck by the cookie.
func (r *stuckResult) of(cookie string) *stuckLine {
	r.t.Helper()
	for i := range r.stuck {
		if r.stuck[i].Socket == cookie {
			return &r.stuck[i]
		}
	}
	r.t.Fatalf("%s is not stuck: %s%s", cookie, r.text, r.stderr)
	return nil
}

// checkBegan checks that its state began between two times: at a time that is
// known exactly, or by a time that is known.
func (l *stuckLine) checkBegan(t *testing.T, after, before time.Time, exact bool) {
	t.Helper()
	if l.AgeExact == nil || *l.AgeExact != exact {
		t.Errorf("exact: want %t: %v", exact, l)
	}
	// Who sends again has been heard of since.
	retries := known(l.Unanswered) > 0 || l.State == "LAST_ACK" || l.State == "FIN_WAIT_1"
	if began := l.began(); began.Before(after.Add(-ticks)) || began.After(before.Add(ticks)) && (exact || !retries) {
		t.Errorf("in %s for %v, so since %v, want between %v and %v: %v", l.State, time.Duration(l.Age), began, after, before, l)
	}
	if l.Age <= l.Limit {
		t.Errorf("within its limit: %v", l)
	}
}

// checkHeld checks who holds it, by which file descriptor, among how many.
func (l *stuckLine) checkHeld(t *testing.T, want owner, fd, holders int) {
	t.Helper()
	if got := l.owner(); got != want || known(l.FD) != fd || known(l.Holders) != holders {
		t.Errorf("held by %+v, by fd %d of %d, want %+v, fd %d of %d: %v", got, known(l.FD), known(l.Holders), want, fd, holders, l)
	}
}

// found is the owner as a walk finds it.
func (a *actor) found(comm string, uid int) owner { return owner{a.pid(), comm, uid, "snapshot"} }

// self is this process, as an owner.
func self(t *testing.T, source string) owner {
	t.Helper()
	comm, err := os.ReadFile("/proc/self/comm")
	check(t, err)
	return owner{os.Getpid(), strings.TrimSpace(string(comm)), os.Getuid(), source}
}

// anyAge are limits that everything is over at once, so that all is listed.
const anyAge = "SYN_SENT=1ns,SYN_RCVD=1ns,ESTABLISHED=1ns,FIN_WAIT_1=1ns,FIN_WAIT_2=1ns,CLOSE_WAIT=1ns,CLOSING=1ns,LAST_ACK=1ns,TIME_WAIT=1ns"

// closeWaitOnly are limits by which a leak shows, and nothing else.
const closeWaitOnly = "CLOSE_WAIT=1ms,FIN_WAIT_2=off,TIME_WAIT=off"

// awaitStates waits until ss has so many sockets in the state.
func (ns *netns) awaitStates(state string, n int) {
	ns.t.Helper()
	eventually(ns.t, fmt.Sprintf("%d sockets are in %s", n, state), func() bool {
		have := 0
		for _, s := range ns.ss() {
			if s.state == state {
				have++
			}
		}
		return have == n
	})
}

// TestKernelStuckLeak: a process that does not close what its peers have closed is
// named, with every file descriptor, until it does.
func TestKernelStuckLeak(t *testing.T) {
	requireOwners(t)
	ns := newNetNS(t)
	const conns, comm, unread = 5, "the leak", "unread"
	exe, err := os.Readlink(selfExe)
	check(t, err)
	listener := ns.listen(ns.v4(1))
	leak := ns.actor(nobody, comm)
	var servers []*socket
	var fds []int
	for range conns {
		fds = append(fds, leak.number("connect %v", listener.addr()))
		servers = append(servers, listener.accept())
	}
	again := leak.number("dup %d", fds[1])
	servers[2].write(unread)
	remotes := make(map[string]int) // the local ends of the leak, by its file descriptor
	for i, server := range servers {
		peer, err := unix.Getpeername(server.fd)
		check(t, err)
		remotes[strconv.Itoa(peer.(*unix.SockaddrInet4).Port)] = fds[i]
	}
	if clean := ns.stuck("--fail-on", "stuck", "--limit", closeWaitOnly); len(clean.stuck) != 0 {
		t.Errorf("nothing is closed yet, but %v is stuck", &clean.stuck[0])
	} else {
		clean.checkSum(exitDone)
		if got := *clean.summary.Sockets; got != 1+2*conns {
			t.Errorf("looked at %d sockets, want %d", got, 1+2*conns)
		}
	}

	after := time.Now()
	for _, server := range servers {
		server.close()
	}
	ns.awaitStates("CLOSE-WAIT", conns)
	ns.awaitStates("FIN-WAIT-2", conns) // so that the FIN has been acknowledged, and all is still
	before := time.Now()
	lapse(20 * time.Millisecond)

	r := ns.stuck("--fail-on", "stuck", "--limit", closeWaitOnly)
	r.checkSum(exitCondition)
	var got []int
	for i := range r.stuck {
		l := &r.stuck[i]
		l.checkBegan(t, after, before, false)
		fd := remotes[strconv.Itoa(int(l.Local.Port))]
		got = append(got, known(l.FD))
		hint := fmt.Sprintf("the peer has closed, and this process has not called close on fd %d", fd)
		holders, queue := 1, 0
		switch fd {
		case fds[1]:
			holders = 2
			fd = known(l.FD)
			hint = fmt.Sprintf("the peer has closed, and this process has not called close on fd %d (and 1 more descriptor)", fd)
			if fd != fds[1] && fd != again {
				t.Errorf("fd %d, want %d or %d: %v", fd, fds[1], again, l)
			}
		case fds[2]:
			hint += "; 6 bytes unread"
			queue = len(unread)
		}
		l.checkHeld(t, leak.found(comm, nobody), fd, holders)
		if l.Hint != hint || l.Exe != exe || l.Limit != int64(time.Millisecond) || l.NetNS != ns.inode || l.Remote.addrPort() != listener.addr() || l.State != "CLOSE_WAIT" ||
			l.Orphan || l.Unaccepted || l.Minisock || l.Handshake {
			t.Errorf("want %q of %s: %v", hint, exe, l)
		}
		// ss counts the FIN as well.
		if known(l.RecvQueue) != queue || known(l.SendQueue) != 0 || known(l.Retransmits) != 0 || known(l.Unanswered) != 0 {
			t.Errorf("want %d unread: %v", queue, l)
		}
		if i > 0 && l.Age > r.stuck[i-1].Age {
			t.Errorf("older than the one before: %v", l)
		}
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(fds)); !slices.Equal(got, want) {
		want[slices.Index(want, fds[1])] = again
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("stuck by the file descriptors %v, want %v, or %d for %d", got, fds, again, fds[1])
		}
	}
	ns.stuck("--limit", closeWaitOnly).checkSum(exitDone) // nobody has asked for a failure
	if r := ns.stuck("--limit", "CLOSE_WAIT=off,FIN_WAIT_2=off", "--fail-on", "stuck"); len(r.stuck) != 0 || r.status != exitDone {
		t.Errorf("status %d, %v: want nothing", r.status, r.stuck)
	}
	if r := ns.stuck("--fail-on", "stuck"); len(r.stuck) != 0 || r.status != exitDone {
		t.Errorf("status %d, %v: want nothing, as none is that old", r.status, r.stuck)
	}

	rows, text := ns.stuckText("--limit", closeWaitOnly, "--fail-on", "stuck")
	if text.status != exitCondition || len(rows) != 3 ||
		!regexp.MustCompile(`^STATE +COUNT +OLDEST +LIMIT +PID +COMM +LOCAL +PEERS +FDS$`).MatchString(rows[0]) ||
		!regexp.MustCompile(fmt.Sprintf(`^CLOSE_WAIT +%d +≥[\d.]+m?s +1ms +%d +%s .* %v \(%d\) +\d+, \d+, \d+ … \(%d\)$`,
			conns, leak.pid(), comm, listener.addr(), conns, conns)).MatchString(rows[1]) ||
		!regexp.MustCompile(`^    the peers have closed, and this process has not called close on fds \d+, \d+, \d+ … \(5\); 6 bytes unread in all$`).MatchString(rows[2]) {
		t.Errorf("status %d, report:\n%s", text.status, text.text)
	}
	rows, text = ns.stuckText("--each", "--limit", closeWaitOnly)
	if text.status != exitDone || len(rows) != 1+conns || strings.Count(text.text, fmt.Sprintf(" %d %s ", leak.pid(), comm)) != conns ||
		strings.Count(text.text, "has not called close on fd ") != conns {
		t.Errorf("status %d, each:\n%s", text.status, text.text)
	}

	// What is closed is not shown any more; one file descriptor is enough to keep it.
	for _, fd := range fds {
		leak.do("close %d", fd)
	}
	r = ns.stuck("--limit", closeWaitOnly)
	r.checkSum(exitDone)
	r.only(fsm.CloseWait).checkHeld(t, leak.found(comm, nobody), again, 1)
	leak.kill()
	ns.awaitStates("CLOSE-WAIT", 0)
	rows, text = ns.stuckText("--limit", closeWaitOnly, "--fail-on", "stuck")
	if text.status != exitDone || len(rows) != 1 || !regexp.MustCompile(`^nothing is stuck: \d+ sockets?, none known to be over its limit$`).MatchString(rows[0]) {
		t.Errorf("status %d, when all is closed:\n%s", text.status, text.text)
	}
}

// TestKernelStuckPrefork: the worker that has accepted is named, not the master
// that listens.
func TestKernelStuckPrefork(t *testing.T) {
	requireOwners(t)
	const port = 1000
	play := func(ns *netns) (master *actor, worker owner, client *socket, fd int) {
		at := netip.AddrPortFrom(ns.v4(1), port)
		master = ns.actor(0, "the master")
		listener := master.number("listen %v", at)
		worker = owner{master.number("spawn %d", listener), "the worker", 0, ""}
		master.do("child name %s", worker.comm)
		client = ns.client()
		client.connect(at)
		fd = master.number("child accept %d", inheritedFD)
		return master, worker, client, fd
	}
	t.Run("stuck", func(t *testing.T) {
		ns := newNetNS(t)
		ns.t = t
		_, worker, client, fd := play(ns)
		client.shutdown(unix.SHUT_WR)
		ns.awaitStates("CLOSE-WAIT", 1)
		unaccepted := ns.client()
		unaccepted.connect(netip.AddrPortFrom(ns.v4(1), port))
		unaccepted.shutdown(unix.SHUT_WR)
		ns.awaitStates("CLOSE-WAIT", 2)
		lapse(2 * time.Millisecond)

		r := ns.stuck("--limit", closeWaitOnly)
		r.checkSum(exitDone)
		if len(r.stuck) != 2 {
			t.Fatalf("want two: %s", r.text)
		}
		for i := range r.stuck {
			l := &r.stuck[i]
			if l.Remote.addrPort() == client.addr() {
				worker.source = "snapshot"
				l.checkHeld(t, worker, fd, 1)
				continue
			}
			// Nobody knows who is to accept it.
			l.checkHeld(t, owner{}, -1, 0)
			if !l.Unaccepted || l.Hint != "the peer has closed, and no process has accepted the connection" {
				t.Errorf("want one that is not accepted: %v", l)
			}
		}
	})
	for _, before := range []bool{false, true} {
		name := map[bool]string{false: "life", true: "life, master from before"}[before]
		t.Run(name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				var tr *lifeTracing
				var early *actor
				at := netip.AddrPortFrom(ns.v4(1), port)
				var listener int
				if before {
					early = ns.actor(0, "the master")
					listener = early.number("listen %v", at)
				}
				tr = traceLife(ns)
				master := early
				if !before {
					master = ns.actor(0, "the master")
					listener = master.number("listen %v", at)
				}
				worker := owner{master.number("spawn %d", listener), "the worker", 0, "accept"}
				master.do("child name %s", worker.comm)
				client := ns.client()
				client.connect(at)
				fd := master.number("child accept %d", inheritedFD)
				client.write("x")
				master.do("child read %d", fd)
				cookie, remote := client.cookie(), client.addr()
				client.close()
				ns.awaitStates("CLOSE-WAIT", 1)
				master.do("child close %d", fd)
				master.do("child close %d", inheritedFD)
				master.do("close %d", listener)
				master.finish()

				made := tr.oracle.settle(ns)
				lives, r := tr.foundLives()
				ns.checkDisturbance(made, r.traced(), r.passedOver())
				theMaster := owner{master.pid(), "the master", 0, "listen"}
				r.checkOwners(remoteAt(remote), func(l *line) owner {
					if l.From == "LISTEN" || l.From == "SYN_RCVD" {
						return theMaster
					}
					return worker
				})
				for i := range lives {
					c := &lives[i]
					got := owner{known(c.PID), c.Comm, known(c.UID), c.OwnerSource}
					want := self(t, "connect")
					if c.Socket != cookie {
						want = worker
					}
					if got != want {
						t.Errorf("owner %+v, want %+v: %v", got, want, c)
					}
				}
				if len(lives) != 2 {
					t.Errorf("%d lives, want 2: %v", len(lives), lives)
				}
			})
		})
	}
}

// TestKernelStuckOfTheDead: what a process leaves behind has no owner, or is gone.
func TestKernelStuckOfTheDead(t *testing.T) {
	requireOwners(t)
	ns := newNetNS(t)
	const comm = "the dead"
	dead := ns.actor(nobody, comm)
	listener := ns.listen(ns.v4(1))
	closeWait := dead.number("connect %v", listener.addr())
	closed := listener.accept()
	established := dead.number("connect %v", listener.addr())
	server := listener.accept()
	deaf := dead.number("connect %v", listener.addr())
	deafServer := listener.accept()
	closed.shutdown(unix.SHUT_WR)
	ns.awaitStates("CLOSE-WAIT", 1)
	local := deafServer.peer()

	r := ns.stuck("--limit", anyAge, "-p", strconv.Itoa(dead.pid()))
	r.checkSum(exitDone)
	for i := range r.stuck {
		l := &r.stuck[i]
		want := map[netip.AddrPort]int{closed.peer(): closeWait, server.peer(): established, local: deaf}
		l.checkHeld(t, dead.found(comm, nobody), want[l.Local.addrPort()], 1)
	}
	if len(r.stuck) != 3 {
		t.Errorf("want three: %s", r.text)
	}

	deafServer.deafen()
	closed.deafen()
	after := time.Now()
	dead.kill()
	ns.awaitStates("LAST-ACK", 1)
	ns.awaitStates("FIN-WAIT-1", 1)
	server.await(fsm.CloseWait)
	before := time.Now()
	lapse(2 * time.Millisecond)
	r = ns.stuck("--limit", anyAge)
	r.checkSum(exitDone)
	for state, want := range map[fsm.State]netip.AddrPort{fsm.LastAck: closed.peer(), fsm.FinWait1: local} {
		l := r.only(state)
		l.checkHeld(t, owner{}, -1, 0)
		if l.Local.addrPort() != want || !l.Orphan || l.Exe != "" || !strings.HasPrefix(l.Hint, "the peer does not acknowledge our FIN") {
			t.Errorf("want an orphan at %v: %v", want, l)
		}
		l.checkBegan(t, after, before, false)
	}
	// Which was acknowledged, and is the kernel's alone now: a minisock that nobody
	// has seen before has no age.
	for i := range r.stuck {
		l := &r.stuck[i]
		if l.Local.addrPort() == server.peer() && (l.State != "FIN_WAIT_2" || !l.Minisock || l.PID != nil || l.Holders != nil) {
			t.Errorf("want a minisock in FIN_WAIT_2: %v", l)
		}
	}
}

// peer returns the address of the other end.
func (s *socket) peer() netip.AddrPort {
	s.t.Helper()
	a, err := unix.Getpeername(s.fd)
	check(s.t, err)
	four := a.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), uint16(four.Port))
}

// TestKernelStuckHandedOver: a socket that went from process to process is whose
// who holds it.
func TestKernelStuckHandedOver(t *testing.T) {
	requireOwners(t)
	ns := newNetNS(t)
	listener := ns.listen(ns.v4(1))
	parent := ns.actor(0, "the parent")
	sent, kept := parent.number("connect %v", listener.addr()), parent.number("connect %v", listener.addr())
	sentServer, keptServer := listener.accept(), listener.accept()
	child := parent.number("spawn %d", kept)
	parent.do("child name the child")
	shared := parent.number("connect %v", listener.addr())
	sharedServer := listener.accept()
	ofChild := owner{child, "the child", 0, "snapshot"}
	ofParent := parent.found("the parent", 0)

	// Both hold it.
	r := ns.stuck("--limit", anyAge)
	r.checkSum(exitDone)
	switch l := r.at(keptServer.peer()); known(l.PID) {
	case child:
		l.checkHeld(t, ofChild, inheritedFD, 2)
	default:
		l.checkHeld(t, ofParent, kept, 2)
	}
	r.at(sentServer.peer()).checkHeld(t, ofParent, sent, 1)

	// The parent keeps one, and gives the others away.
	parent.do("close %d", kept)
	parent.do("send %d", sent)
	parent.do("close %d", sent)
	ns.stuck("--limit", anyAge).at(sentServer.peer()).checkHeld(t, owner{}, -1, -1) // on its way
	received := parent.number("child receive")
	parent.do("send %d", shared)
	receivedToo := parent.number("child receive")
	r = ns.stuck("--limit", anyAge)
	r.checkSum(exitDone)
	r.at(keptServer.peer()).checkHeld(t, ofChild, inheritedFD, 1)
	r.at(sentServer.peer()).checkHeld(t, ofChild, received, 1)
	switch l := r.at(sharedServer.peer()); known(l.PID) {
	case child:
		l.checkHeld(t, ofChild, receivedToo, 2)
	default:
		l.checkHeld(t, ofParent, shared, 2)
	}
	if len(r.stuck) != 6 {
		t.Errorf("want six: %s", r.text)
	}
}

// TestKernelStuckOfThreads: the process is named, whichever of its threads holds
// the socket.
func TestKernelStuckOfThreads(t *testing.T) {
	requireOwners(t)
	ns := newNetNS(t)
	const comm = "of threads"
	a := ns.actor(nobody, comm)
	listener := ns.listen(ns.v4(1))
	apart := a.number("apart connect %v", listener.addr()) // in files that the first thread has not
	apartServer := listener.accept()
	first := a.number("connect %v", listener.addr())
	firstServer := listener.accept()
	thread := a.number("thread connect %v", listener.addr())
	threadServer := listener.accept()

	r := ns.stuck("--limit", anyAge)
	r.checkSum(exitDone)
	want := map[netip.AddrPort]int{apartServer.peer(): apart, firstServer.peer(): first, threadServer.peer(): thread}
	for i := range r.stuck {
		l := &r.stuck[i]
		if fd, ok := want[l.Local.addrPort()]; ok {
			l.checkHeld(t, a.found(comm, nobody), fd, 1)
			delete(want, l.Local.addrPort())
		}
	}
	if len(want) > 0 {
		t.Errorf("not found: %v: %s", want, r.text)
	}
}

// TestKernelStuckStates: in every state in which a connection can wait, what it
// waits for is told, and for how long at least.
func TestKernelStuckStates(t *testing.T) {
	requireOwners(t)
	ns := newNetNS(t)
	type expected struct {
		state         fsm.State
		after, before time.Time // between which it began and was last heard of; 0: not known
		hint          string    // a pattern
		flag          string
		held          *socket
	}
	want := make(map[string]*expected)
	expect := func(cookie string, e expected) { want[cookie] = &e }
	listener := ns.listen(ns.v4(1))
	dial := func() (client, server *socket) { return ns.dial(ns.v4(2), listener) }
	var retried []*socket

	after := time.Now()
	silent := ns.silence()
	syn := ns.late(ns.v4(2))
	check(t, unix.SetNonblock(syn.fd, true))
	if err := syn.tryConnect(netip.AddrPortFrom(silent.Addr().Next(), 80)); err != unix.EINPROGRESS {
		t.Fatalf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	expect(syn.cookie(), expected{fsm.SynSent, after, time.Now(), `^no answer to 2 SYNs$`, "", syn})
	retried = append(retried, syn)

	after = time.Now()
	ns.wire().syn(netip.AddrPortFrom(silent.Addr().Next(), 7001), listener.addr())
	ns.awaitSynRecv(1)
	for cookie, s := range ns.ss() {
		if s.state == "SYN-RECV" {
			expect(cookie, expected{fsm.SynRcvd, after, time.Now(), `^the handshake is not completed, [12] SYN-ACKs? sent$`, "handshake", nil})
		}
	}

	began := time.Now()
	client, server := dial()
	server.deafen()
	after = time.Now()
	client.shutdown(unix.SHUT_WR)
	expect(client.cookie(), expected{fsm.FinWait1, after, time.Now(), `^the peer does not acknowledge our FIN, [2-9] retries$`, "", client})
	expect(server.cookie(), expected{fsm.Established, began, after, `^established, silent for [\d.]+m?s$`, "", server})
	retried = append(retried, client)

	client, server = dial()
	server.deafen()
	client.write("12345")
	client.shutdown(unix.SHUT_WR)
	expect(client.cookie(), expected{fsm.FinWait1, after, time.Time{}, `^5 bytes before our FIN are not acknowledged, [2-9] retries$`, "", client})
	retried = append(retried, client)

	client, server = dial()
	client.deafen()
	client.shutdown(unix.SHUT_WR)
	server.read("")
	after = time.Now()
	server.shutdown(unix.SHUT_WR)
	expect(server.cookie(), expected{fsm.LastAck, after, time.Now(), `^the peer does not acknowledge our FIN, [2-9] retries$`, "", server})
	retried = append(retried, server)

	client, server = dial()
	client.deafen()
	server.deafen()
	client.shutdown(unix.SHUT_WR)
	server.shutdown(unix.SHUT_WR)
	client.hear()
	after = time.Now()
	client.await(fsm.Closing)
	expect(client.cookie(), expected{fsm.Closing, after, time.Time{}, `^both sides have closed; the peer does not acknowledge our FIN, \d+ retr`, "", client})
	retried = append(retried, client)

	client, server = dial()
	after = time.Now()
	client.shutdown(unix.SHUT_WR)
	client.await(fsm.FinWait2)
	server.await(fsm.CloseWait)
	expect(client.cookie(), expected{fsm.FinWait2, after, time.Now(), `^this process has shut down sending, and the peer has not closed$`, "", client})
	expect(server.cookie(), expected{fsm.CloseWait, after, time.Now(), fmt.Sprintf(`^the peer has closed, and this process has not called close on fd %d$`, server.fd), "", server})

	client, _ = dial()
	cookie := client.cookie()
	after = time.Now()
	leaveInFinWait2(client)
	expect(cookie, expected{fsm.FinWait2, after, time.Time{}, `^closed here; the peer has not sent its FIN(; [\d.]+m?s left on its timer)?$`, "minisock", nil})

	client, _ = dial()
	cookie = client.cookie()
	client.set(unix.IPPROTO_TCP, unix.TCP_LINGER2, 100) // more than a minisock may have
	after = time.Now()
	leaveInFinWait2(client)
	expect(cookie, expected{fsm.FinWait2, after, time.Now(), `^closed here; the peer has not sent its FIN$`, "orphan", nil})

	client, server = dial()
	cookie = client.cookie()
	after = time.Now()
	leaveInTimeWait(client, server)
	expect(cookie, expected{fsm.TimeWait, after, time.Now(), `^both sides have closed; [\d.]+m?s left on its timer$`, "minisock", nil})

	client, server = dial()
	server.deafen()
	client.write("12345")
	expect(client.cookie(), expected{fsm.Established, began, time.Time{}, `^established, silent for [\d.]+m?s; 5 bytes not acknowledged, [2-9] retries$`, "", client})
	retried = append(retried, client)

	client = ns.client()
	client.connect(listener.addr())
	after = time.Now()
	client.shutdown(unix.SHUT_WR)
	client.await(fsm.FinWait2)
	for cookie, s := range ns.ss() {
		if s.state == "CLOSE-WAIT" && want[cookie] == nil && s.remote == client.addr().String() {
			expect(cookie, expected{fsm.CloseWait, after, time.Now(), `^the peer has closed, and no process has accepted the connection$`, "unaccepted", nil})
		}
	}

	for _, s := range retried {
		least := uint8(2)
		if s == syn {
			least = 1 // which comes after a second
		}
		eventually(t, "what is not answered is sent again", func() bool { return s.info().Retransmits >= least })
	}
	sockets := ns.ss()
	all := len(sockets)
	looking := time.Now()
	r := ns.stuck("--limit", anyAge)
	now := time.Now()
	r.checkSum(exitDone)
	listed := func(cookie string) bool {
		return slices.ContainsFunc(r.stuck, func(l stuckLine) bool { return l.Socket == cookie })
	}
	for cookie, e := range want {
		if e.state == fsm.FinWait2 && e.flag == "minisock" && !listed(cookie) {
			delete(sockets, cookie)
			continue // it has no age: nobody has seen it before
		}
		l := r.of(cookie)
		if l.State != e.state.String() || ssState(sockets[cookie].state) != e.state {
			t.Errorf("in %s, ss has it in %q, want %v: %v", l.State, sockets[cookie].state, e.state, l)
		}
		if !regexp.MustCompile(e.hint).MatchString(l.Hint) {
			t.Errorf("want %q: %v", e.hint, l)
		}
		if e.before.IsZero() {
			e.before = now
		}
		switch e.state { // of which the waits so far are known, but for what timers add
		case fsm.FinWait1, fsm.LastAck:
			e.before = e.before.Add(now.Sub(e.after) / 2)
		}
		l.checkBegan(t, e.after, e.before, e.state == fsm.SynRcvd)
		for flag, is := range map[string]bool{"handshake": l.Handshake, "minisock": l.Minisock, "orphan": l.Orphan, "unaccepted": l.Unaccepted} {
			if is != (flag == e.flag) {
				t.Errorf("%s: %t: %v", flag, is, l)
			}
		}
		if e.held != nil {
			l.checkHeld(t, self(t, "snapshot"), e.held.fd, 1)
		} else if l.PID != nil || known(l.Holders) > 0 || l.FD != nil {
			t.Errorf("nobody holds it: %v", l)
		}
		if e.state == fsm.TimeWait {
			left := time.Duration(l.Left)
			if least, most := time.Minute-now.Sub(e.after), time.Minute-looking.Sub(e.before); left < least-ticks || left > most+ticks {
				t.Errorf("%v left, want %v to %v: %v", left, least, most, l)
			}
		}
	}
	ofSS := 0
	for cookie, s := range sockets {
		if s.state == "LISTEN" {
			continue
		}
		ofSS++
		if l := r.of(cookie); l.State != ssState(s.state).String() || l.Local.addrPort().String() != s.local || l.Remote.addrPort().String() != s.remote {
			t.Errorf("ss has %+v: %v", s, l)
		}
	}
	if ofSS != len(r.stuck) || *r.summary.Sockets != all {
		t.Errorf("%d are stuck of %d, ss has %d of %d", len(r.stuck), *r.summary.Sockets, ofSS, all)
	}
}

// ssState reads the name of a state by ss.
func ssState(name string) fsm.State {
	s, err := fsm.ParseState(name)
	if err != nil {
		return 0
	}
	return s
}

// TestKernelStuckFlood: of a flood of handshakes each is listed once, and none
// takes much memory.
func TestKernelStuckFlood(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	const flood = 2000
	ns.sysctl("ipv4/tcp_syncookies", "0")
	ns.sysctl("ipv4/tcp_max_syn_backlog", "10000")
	listener := ns.socket(ns.v4(1))
	listener.bind(ns.v4(1), 0)
	listener.listen(2 * flood)
	ns.silence()
	w := ns.wire()
	after := time.Now()
	froms := make(map[netip.AddrPort]bool)
	for i := range flood {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + i%250)}), uint16(1024+i))
		froms[from] = true
		w.syn(from, listener.addr())
	}
	ns.awaitSynRecv(flood)
	before := time.Now()
	lapse(2 * time.Millisecond)

	r := ns.stuck("--limit", "SYN_RCVD=1ms")
	r.checkSum(exitDone)
	for i := range r.stuck {
		l := &r.stuck[i]
		if from := l.Remote.addrPort(); !froms[from] || l.State != "SYN_RCVD" || !l.Handshake || l.Socket == "" || l.Holders != nil || l.PID != nil ||
			l.Left <= 0 || l.Left > int64(4*time.Second) || !strings.HasPrefix(l.Hint, "the handshake is not completed, ") {
			t.Fatalf("twice, or not a handshake: %v", l)
		} else {
			delete(froms, from)
		}
		l.checkBegan(t, after, before, true)
		if t.Failed() {
			break
		}
	}
	if len(froms) > 0 {
		t.Errorf("%d of %d are not listed", len(froms), flood)
	}
	rows, text := ns.stuckText("--limit", "SYN_RCVD=1ms")
	if len(rows) != 3 || !regexp.MustCompile(`^SYN_RCVD +2000 .* \(\d+\), .* \(\d+\), .* \(\d+\), … \d+ more +-$`).MatchString(rows[1]) {
		t.Errorf("report:\n%s", text.text)
	}

	// What a command takes that stays, beyond what it takes without a flood.
	quiet, busy := newNetNS(t).watchedMemory(0), ns.watchedMemory(flood)
	t.Logf("%d KiB, %d KiB with %d stuck", quiet, busy, flood)
	const perSocket = 4 // KiB
	if busy-quiet > flood*perSocket {
		t.Errorf("%d KiB more with %d stuck, want at most %d for each", busy-quiet, flood, perSocket)
	}
}

// watchedMemory returns how much memory a command takes, in KiB, that has found so
// many handshakes stuck.
func (ns *netns) watchedMemory(n int) int {
	t := ns.t
	t.Helper()
	p := ns.startTracer("stuck", "--watch", "--limit", "SYN_RCVD=1ms")
	out := p.lines()
	eventually(t, "all are told", func() bool { return out.count() >= n })
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	check(t, err)
	p.signal(syscall.SIGTERM)
	out.rest(t)
	if got := p.status(); got != exitDone {
		t.Errorf("status %d: %s", got, p.stderr)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmRSS in %s", status)
	}
	kib, err := strconv.Atoi(string(m[1]))
	check(t, err)
	return kib
}

// watching is tcptrace stuck --watch at work, as a process of its own.
type watching struct {
	*program
	out  *lineReader
	read int             // bytes of out
	told map[string]bool // types and sockets of lines, so far
}

func (ns *netns) watch(args ...string) *watching {
	ns.t.Helper()
	p := ns.startTracer(append([]string{"stuck", "--watch"}, args...)...)
	return &watching{program: p, out: p.lines(), told: make(map[string]bool)}
}

var toldLine = regexp.MustCompile(`^{"type":"(\w+)","time":"[^"]*","socket":"(\w+)",`)

// await waits for a line of the type about the socket.
func (w *watching) await(kind, cookie string) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%s is %s", cookie, kind), func() bool {
		if w.told[kind+cookie] {
			return true
		}
		w.out.mu.Lock()
		news := w.out.all.Bytes()[w.read:]
		news = bytes.Clone(news[:bytes.LastIndexByte(news, '\n')+1])
		w.out.mu.Unlock()
		w.read += len(news)
		for text := range bytes.Lines(news) {
			if m := toldLine.FindSubmatch(text); m != nil {
				w.told[string(m[1])+string(m[2])] = true
			}
		}
		return w.told[kind+cookie]
	})
}

// end stops it and returns what it has said.
func (w *watching) end() *stuckResult {
	w.t.Helper()
	w.signal(syscall.SIGTERM)
	r := &stuckResult{t: w.t, text: w.out.rest(w.t), stderr: w.stderr.String(), status: w.status()}
	r.parse()
	return r
}

// TestKernelStuckWatch: what crosses its limit is told once, and once when that is
// over, with the time that it took. A recording tells the same.
func TestKernelStuckWatch(t *testing.T) {
	requireOwners(t)
	ns := newNetNS(t)
	recording := filepath.Join(t.TempDir(), "a.tct")
	listener := ns.listen(ns.v4(1))
	hang := func() (server *socket, after, before time.Time) {
		client, server := ns.dial(ns.v4(2), listener)
		after = time.Now()
		client.close()
		server.await(fsm.CloseWait)
		return server, after, time.Now()
	}
	afterOld := time.Now()
	old, _, beforeOld := hang()
	forgotten, _, _ := hang() // closed, and its end not seen
	limit := []string{"--limit", "CLOSE_WAIT=100ms,FIN_WAIT_2=off,TIME_WAIT=off,LAST_ACK=off"}
	lapse(150 * time.Millisecond)
	w := ns.watch(append(limit, "-w", recording)...)
	awaitWalk(t, w.stderr)
	young, afterYoung, beforeYoung := hang()
	soon, _, _ := hang()
	soonCookie := soon.cookie()
	soon.close() // within its limit

	parent := ns.actor(0, "the parent")
	child := parent.number("spawn")
	parent.do("child name the child")
	handed := parent.number("connect %v", listener.addr())
	handedServer := listener.accept()
	parent.do("send %d", handed)
	received := parent.number("child receive")
	parent.do("close %d", handed)
	handedServer.shutdown(unix.SHUT_WR)
	handedCookie := ""
	ns.awaitStates("CLOSE-WAIT", 4)
	for cookie, s := range ns.ss() {
		if s.local == handedServer.peer().String() {
			handedCookie = cookie
		}
	}

	oldCookie, youngCookie, forgottenCookie := old.cookie(), young.cookie(), forgotten.cookie()
	for _, cookie := range []string{oldCookie, forgottenCookie, youngCookie, handedCookie} {
		w.await("stuck", cookie)
	}
	closedOld := time.Now()
	old.close()
	forgotten.reset()
	young.close()
	parent.do("child close %d", received)
	closedYoung := time.Now()
	for _, cookie := range []string{oldCookie, forgottenCookie, youngCookie, handedCookie} {
		w.await("resolved", cookie)
	}
	r := w.end()
	r.checkSum(exitDone)
	if len(r.stuck) != 4 || len(r.resolved) != 4 {
		t.Fatalf("want four of each: %s", r.text)
	}
	for i := range r.resolved {
		l := &r.resolved[i]
		was := r.of(l.Socket)
		exact := l.Socket == youngCookie || l.Socket == handedCookie
		to := "LAST_ACK"
		if l.Socket == forgottenCookie {
			to = "CLOSED"
		}
		if l.State != "CLOSE_WAIT" || l.To != to || l.AgeExact == nil || *l.AgeExact != exact || l.Time.Before(closedOld.Add(-ticks)) || l.Time.After(closedYoung.Add(ticks)) {
			t.Errorf("want %s, exact %t, between %v and %v: %v", to, exact, closedOld, closedYoung, l)
		}
		if began := l.began(); !began.Equal(was.began()) {
			t.Errorf("began at %v, and before it was said: at %v: %v", began, was.began(), l)
		}
		if l.owner() != was.owner() || l.PID == nil || l.Hint != "" || l.Exe != was.Exe || l.Exe == "" {
			t.Errorf("not as when it was stuck, %v: %v", was, l)
		}
	}
	r.of(oldCookie).checkBegan(t, afterOld, beforeOld, false)
	r.of(youngCookie).checkBegan(t, afterYoung, beforeYoung, true)
	r.of(handedCookie).checkHeld(t, owner{child, "the child", 0, "snapshot"}, received, 1)
	if strings.Contains(r.text, soonCookie) {
		t.Errorf("told of what was closed in time: %s", r.text)
	}
	for _, words := range []string{"4 of ", " stuck"} {
		if !strings.Contains(r.stderr, words) {
			t.Errorf("standard error does not say %q: %s", words, r.stderr)
		}
	}
	if replayed := replayAs(t, append([]string{"stuck", "--watch", "-r", recording, "-o", "json"}, limit...), exitDone); replayed != r.text {
		t.Errorf("replayed:\n%s\nlive:\n%s", replayed, r.text)
	}
	text := replayAs(t, append([]string{"stuck", "--watch", "-r", recording, "--fail-on", "stuck"}, limit...), exitCondition)
	rows := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(rows) != 9 || strings.Count(text, " stuck ") != 4 || strings.Count(text, " resolved ") != 4 || strings.Count(text, "-> LAST_ACK") != 3 || strings.Count(text, "-> CLOSED") != 1 {
		t.Errorf("as text:\n%s", text)
	}
}

// TestKernelStuckWatchUnseenStep: a FIN that reaches a minisock soon after it was made
// is no transition that the kernel shows. Who was told that it is stuck in
// FIN_WAIT_2 is told that it is not any more, and where it is now.
func TestKernelStuckWatchUnseenStep(t *testing.T) {
	requireKernel(t)
	for _, timeWait := range []string{"off", "1ns"} {
		t.Run("TIME_WAIT="+timeWait, func(t *testing.T) {
			ns := newNetNS(t)
			_, client, server := ns.connected()
			cookie := client.cookie()
			client.shutdown(unix.SHUT_WR)
			client.await(fsm.FinWait2)
			server.await(fsm.CloseWait)
			lapse(2 * time.Millisecond)
			w := ns.watch("--limit", "CLOSE_WAIT=off,FIN_WAIT_2=1ms,TIME_WAIT="+timeWait)
			w.await("stuck", cookie)
			client.close()
			server.close()
			ns.checkSS(cookie, "TIME-WAIT")
			eventually(t, "a walk has found it in TIME_WAIT", func() bool {
				return w.out.contains(`"type":"resolved"`) || w.out.contains(`"state":"TIME_WAIT"`)
			})
			r := w.end()
			if len(r.resolved) != 1 || r.resolved[0].State != "FIN_WAIT_2" || r.resolved[0].To != "TIME_WAIT" {
				t.Errorf("want one that went on to TIME_WAIT: %s", r.text)
			}
		})
	}
}

// TestKernelStuckBeside: with --stuck, trace and life tell of it as well, and the
// rest is as without.
func TestKernelStuckBeside(t *testing.T) {
	requireOwners(t)
	for _, command := range []string{"trace", "life"} {
		t.Run(command, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				recording := filepath.Join(t.TempDir(), "a.tct")
				limit := []string{"--stuck", "--limit", closeWaitOnly, "--fail-on", "stuck"}
				args := append([]string{command, "-w", recording}, limit...)
				tr := trace(ns, args...)
				awaitWalk(t, tr.stderr) // which does not know who holds what is opened meanwhile
				listener, client, server := ns.connected()
				cookie := server.cookie()
				after := time.Now()
				client.close()
				server.await(fsm.CloseWait)
				before := time.Now()
				told := func(kind string) func() bool {
					return func() bool {
						text, err := os.ReadFile(tr.stdout.Name())
						check(t, err)
						return bytes.Contains(text, []byte(`{"type":"`+kind+`"`))
					}
				}
				eventually(t, "it is told", told("stuck"))
				server.close()
				eventually(t, "it is resolved", told("resolved"))
				listener.close()
				made := tr.oracle.settle(ns)
				text := tr.text()
				if tr.status != exitCondition {
					t.Errorf("status %d, want %d: %s", tr.status, exitCondition, tr.stderr)
				}
				r := &stuckResult{t: t, status: tr.status, text: text, stderr: tr.stderr.String()}
				r.parse()
				if len(r.stuck) != 1 || len(r.resolved) != 1 || *r.summary.Stuck != 1 {
					t.Fatalf("want one: %s", text)
				}
				r.of(cookie).checkBegan(t, after, before, true)
				// Who has not worked on it until then is who holds it.
				r.of(cookie).checkHeld(t, self(t, "snapshot"), server.fd, 1)
				if l := &r.resolved[0]; l.Socket != cookie || l.To != "LAST_ACK" || *l.AgeExact != true {
					t.Errorf("want %s, to LAST_ACK: %v", cookie, l)
				}
				if again := replayAs(t, append([]string{command, "-r", recording, "-o", "json"}, limit...), exitCondition); again != text {
					t.Errorf("replayed:\n%s\nlive:\n%s", again, text)
				}
				plain := newResult(ns, strings.NewReader(replayWhole(t, recording)), tr.stderr.String())
				ns.checkDisturbance(made, plain.traced(), plain.passedOver())
				plain.checkSound()
				plain.compare(made)
				plain.expect(listened, clientFirst, serverSecond)
				rows := replayAs(t, append([]string{command, "-r", recording}, limit...), exitCondition)
				if strings.Count(rows, "STUCK CLOSE_WAIT for ") != 1 || strings.Count(rows, "RESOLVED CLOSE_WAIT after ") != 1 {
					t.Errorf("as text:\n%s", rows)
				}
			})
		})
	}
}

// TestKernelStuckRecorded: a recording of transitions tells what was stuck when it
// ended, what came to be so after the walk included.
func TestKernelStuckRecorded(t *testing.T) {
	requireOwners(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		recording := filepath.Join(t.TempDir(), "a.tct")
		listener := ns.listen(ns.v4(1))
		hang := func() (server *socket, after, before time.Time) {
			client, server := ns.dial(ns.v4(2), listener)
			after = time.Now()
			client.close()
			server.await(fsm.CloseWait)
			return server, after, time.Now()
		}
		old, afterOld, beforeOld := hang()
		loosened, _, _ := hang()
		oldCookie, loosenedCookie := old.cookie(), loosened.cookie()
		lapse(2 * time.Millisecond)
		tr := trace(ns, "-w", recording)
		awaitWalk(t, tr.stderr)
		loosened.close()
		young, afterYoung, beforeYoung := hang()
		youngCookie := young.cookie()
		lapse(20 * time.Millisecond)
		stopping := time.Now()
		tr.stop()
		stopped := time.Now()
		old.close()
		young.close()
		listener.close()

		args := []string{"stuck", "-r", recording, "-o", "json", "--limit", closeWaitOnly}
		r := runStuck(t, args...)
		r.checkSum(exitDone)
		if strings.Contains(r.text, loosenedCookie) || len(r.stuck) != 2 {
			t.Errorf("want two, and not %s: %s", loosenedCookie, r.text)
		}
		r.of(oldCookie).checkBegan(t, afterOld, beforeOld, false)
		r.of(oldCookie).checkHeld(t, self(t, "snapshot"), old.fd, 1)
		l := r.of(youngCookie)
		l.checkBegan(t, afterYoung, beforeYoung, true)
		if l.FD != nil || l.Holders != nil || l.Hint != "the peer has closed, and this side has not" {
			t.Errorf("no walk has found it, so nobody knows who holds it: %v", l)
		}
		for i := range r.stuck {
			if l := &r.stuck[i]; l.Time.Before(stopping.Add(-ticks)) || l.Time.After(stopped.Add(ticks)) {
				t.Errorf("as of %v, want the end of the recording, between %v and %v: %v", l.Time, stopping, stopped, l)
			}
		}
		replayAs(t, append(args, "--fail-on", "stuck"), exitCondition)
		// As of an earlier time nothing was stuck yet that came later.
		if text := replayAs(t, append(args, "--duration", "1ns"), exitDone); strings.Contains(text, youngCookie) {
			t.Errorf("stuck before it was there: %s", text)
		}
	})
}

// TestKernelStuckFilters: all filters choose among what is stuck.
func TestKernelStuckFilters(t *testing.T) {
	requireOwners(t)
	ns, other := newNetNS(t), newNetNS(t)
	const port = 1001
	six := ns.v6()
	names := make(map[string]string) // by the cookie
	hang := func(name string, listener, client *socket) {
		client.connect(listener.addr())
		server := listener.accept()
		client.shutdown(unix.SHUT_WR)
		server.await(fsm.CloseWait)
		client.await(fsm.FinWait2)
		names[client.cookie()], names[server.cookie()] = name+"2", name+"1"
	}
	first := ns.socket(ns.v4(1))
	first.bind(ns.v4(1), port)
	first.listen(4)
	hang("A", first, ns.client())
	hang("B", ns.listen(ns.v4(3)), ns.late(ns.v4(4)))
	listener6 := ns.listen(six)
	hang("C", listener6, ns.socket(six))
	visitor := ns.actor(nobody, "the visitor")
	visitor.do("connect %v", first.addr())
	server := first.accept()
	server.shutdown(unix.SHUT_WR)
	server.await(fsm.FinWait2)
	names[server.cookie()] = "V2"
	for cookie, s := range ns.ss() {
		if s.state == "CLOSE-WAIT" && names[cookie] == "" {
			names[cookie] = "V"
		}
	}
	_, _, elsewhereServer := other.connected()
	elsewhereServer.shutdown(unix.SHUT_WR)
	elsewhereServer.await(fsm.FinWait2)
	names[elsewhereServer.cookie()] = "E2"
	lapse(2 * time.Millisecond)

	net := strings.TrimSuffix(ns.v4(0).String(), ".0")
	for _, test := range []struct{ args, want string }{
		{"", "A1 A2 B1 B2 C1 C2 V V2"},
		{"-p PID", "A1 A2 B1 B2 C1 C2 V2"},
		{"-p VISITOR", "V"},
		{"--comm", "V"},
		{"-L 1001", "A1 V2"},
		{"--port 1001", "A1 A2 V V2"},
		{"-s CLOSE-WAIT", "A1 B1 C1 V"},
		{"-s TIME_WAIT", ""},
		{"-6", "C1 C2"},
		{"--remote NET.0/30", "A1 A2 B2 V"},
	} {
		t.Run(test.args, func(t *testing.T) {
			ns.t = t
			args := []string{"--limit", "CLOSE_WAIT=1ms,FIN_WAIT_2=1ms", "--fail-on", "stuck"}
			if test.args == "--comm" {
				args = append(args, "--comm", "the visitor")
			} else {
				args = append(args, strings.Fields(strings.NewReplacer("NET", net, "PID", strconv.Itoa(os.Getpid()), "VISITOR", strconv.Itoa(visitor.pid())).Replace(test.args))...)
			}
			r := ns.stuck(args...)
			status := exitCondition
			if test.want == "" {
				status = exitDone
			}
			r.checkSum(status)
			var got []string
			for i := range r.stuck {
				if name := names[r.stuck[i].Socket]; name != "" {
					got = append(got, name)
				} else {
					t.Errorf("whose is %v?", &r.stuck[i])
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != test.want {
				t.Errorf("stuck are %q, want %s", got, test.want)
			}
		})
	}
	ns.t = t
}

// TestKernelStuckFewPrivileges: who may not enter other namespaces sees the own
// one, and is told that it is not all.
func TestKernelStuckFewPrivileges(t *testing.T) {
	requireKernel(t)
	ns, other := newNetNS(t), newNetNS(t)
	cookies := make([]string, 2)
	for i, ns := range []*netns{ns, other} {
		_, client, server := ns.connected()
		client.shutdown(unix.SHUT_WR)
		server.await(fsm.CloseWait)
		cookies[i] = server.cookie()
	}
	lapse(2 * time.Millisecond)
	for _, test := range []struct {
		name string
		caps []uintptr
	}{
		{"two", []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}},
		{"three", []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE}}, // /proc can be read
	} {
		t.Run(test.name, func(t *testing.T) {
			ns.t = t
			var p *program
			ns.do(func() error {
				p = startProgram(t, &syscall.SysProcAttr{
					Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
					AmbientCaps: test.caps,
				}, "stuck", "-o", "json", "--limit", closeWaitOnly)
				return nil
			})
			out := p.lines().rest(t)
			r := &stuckResult{t: t, status: p.status(), text: out, stderr: p.stderr.String()}
			r.parse()
			if r.status != exitDone {
				t.Errorf("status %d, want %d: %s", r.status, exitDone, r.stderr)
			}
			r.of(cookies[0])
			if strings.Contains(r.text, cookies[1]) {
				t.Errorf("sees the other namespace: %s", r.text)
			}
			told := slices.ContainsFunc(r.notices, func(n line) bool { return n.Kind == "unseen" && n.Reason != "" })
			if !told || !strings.Contains(r.stderr, "not looked at: ") {
				t.Errorf("silent about what it did not look at: %s%s", r.text, r.stderr)
			}
		})
	}
	ns.t = t
}

// TestKernelStuckUnseenNamespace: where a namespace is not looked into, which is
// asked for or in which a process has sockets, "nothing is stuck" is no answer.
func TestKernelStuckUnseenNamespace(t *testing.T) {
	requireKernel(t)
	hang := func(ns *netns) (cookie string) {
		_, client, server := ns.connected()
		client.shutdown(unix.SHUT_WR)
		server.await(fsm.CloseWait)
		lapse(2 * time.Millisecond)
		return server.cookie()
	}
	checkTold := func(t *testing.T, r *stuckResult, cookie string) {
		t.Helper()
		r.parse()
		listed := slices.ContainsFunc(r.stuck, func(l stuckLine) bool { return l.Socket == cookie })
		told := slices.ContainsFunc(r.notices, func(n line) bool { return n.Kind == "unseen" })
		if !listed && !told {
			t.Errorf("status %d, neither is %s listed nor a word said of what was not looked at: %s%s", r.status, cookie, r.text, r.stderr)
		}
	}
	t.Run("may not be entered", func(t *testing.T) {
		ns := newNetNS(t)
		cookie := hang(ns)
		p := startProgram(t, &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
			AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON},
		}, ns.arguments([]string{"stuck", "--limit", closeWaitOnly})...)
		out := p.lines().rest(t)
		checkTold(t, &stuckResult{t: t, status: p.status(), text: out, stderr: p.stderr.String()}, cookie)
	})
	t.Run("kept by its sockets alone", func(t *testing.T) {
		ns := newNetNS(t)
		cookie := hang(ns)
		ns.end()
		eventually(t, "no thread of this process is there", func() bool { return !ns.ofOwnThreads() })
		// With --netns, as the host has others that are not seen.
		checkTold(t, runStuckText(t, ns.arguments([]string{"stuck", "--limit", closeWaitOnly})...), cookie)
	})
}
