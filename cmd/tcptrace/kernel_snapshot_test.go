package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/fsm"
)

// snapshotsOf returns what walks have found in the namespace, by a recording that
// may not be whole.
func (ns *netns) snapshotsOf(recording string) []events.Event {
	t := ns.t
	t.Helper()
	f, err := os.Open(recording)
	check(t, err)
	defer f.Close()
	r, err := capture.NewReader(f)
	if errors.Is(err, capture.ErrTruncated) {
		return nil
	}
	check(t, err)
	defer r.Close()
	var found []events.Event
	for {
		var rec events.Record
		switch err := r.Read(&rec); {
		case errors.Is(err, io.EOF), errors.Is(err, capture.ErrTruncated):
			return found
		case err != nil:
			t.Fatal(err)
		}
		if rec.Kind == events.KindTransition && rec.Event.Source == events.SourceSnapshot && rec.Event.NetNS == ns.inode {
			found = append(found, rec.Event)
		}
	}
}

// foundLife is a life of which the beginning may not have been seen.
type foundLife struct {
	lifecycleLine
	DurationExact *bool `json:"duration_exact"`
	DwellExact    *bool `json:"dwell_exact"`
	Container     string
	Unit          string
	TimeWait      *struct {
		timeWaitLine
		DurationExact *bool `json:"duration_exact"`
	} `json:"time_wait"`
}

func (c *foundLife) String() string {
	text, _ := json.Marshal(c)
	return string(text)
}

// atLeast reports whether what the flag is of is a lower bound.
func atLeast(exact *bool) bool { return exact != nil && !*exact }

func parseFoundLives(t *testing.T, text string) (lives []foundLife) {
	t.Helper()
	for whole := range strings.Lines(text) {
		if !strings.HasPrefix(whole, `{"type":"lifecycle"`) {
			continue
		}
		var c foundLife
		d := json.NewDecoder(bytes.NewReader([]byte(whole)))
		d.DisallowUnknownFields()
		if err := d.Decode(&c); err != nil {
			t.Fatalf("%v: %s", err, whole)
		}
		lives = append(lives, c)
	}
	return lives
}

// foundLives stops the command and returns the lives, and the transitions they are
// made of.
func (tr *lifeTracing) foundLives() (lives []foundLife, r *result) {
	t := tr.t
	t.Helper()
	lives = parseFoundLives(t, tr.whole())
	return lives, newResult(tr.ns, strings.NewReader(replayWhole(t, tr.recording)), tr.stderr.String())
}

// finishFound is finish of a run that began in the midst of lives.
func (tr *lifeTracing) finishFound() (lives []foundLife, r *result) {
	tr.t.Helper()
	made := tr.oracle.settle(tr.ns)
	lives, r = tr.foundLives()
	tr.ns.checkDisturbance(made, r.traced(), r.passedOver())
	return lives, r
}

// lifeOf returns the first life of the socket.
func lifeOf(t *testing.T, lives []foundLife, cookie string) *foundLife {
	t.Helper()
	for i := range lives {
		if lives[i].Socket == cookie && lives[i].Generation == 0 {
			return &lives[i]
		}
	}
	t.Fatalf("no life of %s is shown, only %v", cookie, lives)
	return nil
}

// transitionOf returns the first transition of the socket from the state.
func (r *result) transitionOf(cookie string, from fsm.State) *line {
	r.t.Helper()
	for i := range r.transitions {
		if l := &r.transitions[i]; l.Socket == cookie && l.From == from.String() {
			return l
		}
	}
	r.t.Fatalf("no transition of %s from %v", cookie, from)
	return nil
}

// bounded are the transitions whose dwell is a lower bound, as boundedKey names them.
func boundedOf(t *testing.T, recording string) map[string]bool {
	t.Helper()
	keys := make(map[string]bool)
	for text := range strings.Lines(replayWhole(t, recording)) {
		var l struct {
			line
			DwellExact *bool `json:"dwell_exact"`
		}
		check(t, json.Unmarshal([]byte(text), &l))
		if atLeast(l.DwellExact) {
			keys[boundedKey(&l.line)] = true
		}
	}
	return keys
}

func boundedKey(l *line) string {
	return fmt.Sprint(l.Socket, l.Remote.addrPort(), l.From, l.To, l.Time.UnixNano())
}

// fullSS is a socket with all that ss says of it.
type fullSS struct {
	state         fsm.State
	recvQ, sendQ  int
	local, remote netip.AddrPort
	uid           int
	holders       [][2]int // process and file descriptor
}

// nsFile keeps a way into the namespace that neither a thread nor a mount is.
func (ns *netns) nsFile() int {
	ns.t.Helper()
	fd := -1
	ns.do(func() (err error) {
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	ns.t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

var ssUser = regexp.MustCompile(`pid=(\d+),fd=(\d+)`)

// ssIn returns what ss says of a namespace in which the test need not be.
func ssIn(t *testing.T, nsFile int) map[string]fullSS {
	t.Helper()
	path, err := exec.LookPath("ss")
	if err != nil {
		unavailable(t, "iproute2 is not there: %v", err)
	}
	var out []byte
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: it stays there
		err := unix.Setns(nsFile, unix.CLONE_NEWNET)
		if err == nil {
			out, err = exec.Command(path, "-tanHpe").CombinedOutput()
		}
		done <- err
	}()
	check(t, <-done)
	sockets := make(map[string]fullSS)
	for text := range strings.Lines(string(out)) {
		// ESTAB 0 5 127.0.0.1:6001 [::ffff:1.2.3.4]:5000 users:(("a b",pid=7,fd=3)) timer:(..) uid:65534 ino:1 sk:d7fab5 cgroup:/ <->
		words := strings.Fields(text)
		s := fullSS{state: ssState(words[0]), local: parseSS(t, words[3]), remote: parseSS(t, words[4])}
		s.recvQ, err = strconv.Atoi(words[1])
		check(t, err)
		s.sendQ, err = strconv.Atoi(words[2])
		check(t, err)
		for _, m := range ssUser.FindAllStringSubmatch(text, -1) {
			pid, _ := strconv.Atoi(m[1])
			fd, _ := strconv.Atoi(m[2])
			s.holders = append(s.holders, [2]int{pid, fd})
		}
		cookie := ""
		for _, word := range words[5:] {
			if rest, ok := strings.CutPrefix(word, "sk:"); ok {
				cookie = rest
			}
			if rest, ok := strings.CutPrefix(word, "uid:"); ok {
				s.uid, err = strconv.Atoi(rest)
				check(t, err)
			}
		}
		if cookie == "" || s.state == 0 {
			t.Fatalf("what does ss mean by %q?", text)
		}
		sockets[cookie] = s
	}
	return sockets
}

// parseSS reads an end as ss writes it: as on the wire, if it is v4-mapped.
func parseSS(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	at := strings.LastIndexByte(text, ':')
	addr, _, _ := strings.Cut(strings.Trim(text[:at], "[]"), "%")
	if addr == "*" {
		addr = "::"
	}
	a, err := netip.ParseAddr(addr)
	check(t, err)
	port, _ := strconv.Atoi(text[at+1:]) // "*": none
	return netip.AddrPortFrom(a.Unmap(), uint16(port))
}

// population makes sockets of all kinds, in all states that last.
func (ns *netns) population() {
	t := ns.t
	t.Helper()
	listener := ns.listen(ns.v4(1))
	six := ns.v6()
	listener6 := ns.listen(six)
	dual := ns.socket(six)
	dual.bind(netip.IPv6Unspecified(), 0)
	dual.listen(4)
	mapped := ns.socket(six)
	mapped.connect(netip.AddrPortFrom(netip.AddrFrom16(ns.v4(1).As16()), dual.addr().Port()))
	dual.accept()
	client, server := ns.dial(ns.v4(2), listener)
	client.write("nobody reads this")
	server.peek()
	again, err := unix.FcntlInt(uintptr(client.fd), unix.F_DUPFD_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { _ = unix.Close(again) })
	client, server = ns.dial(six, listener6)
	client.shutdown(unix.SHUT_WR)
	client.await(fsm.FinWait2)
	server.await(fsm.CloseWait)
	client, server = ns.dial(ns.v4(2), listener)
	leaveInTimeWait(client, server)
	client, _ = ns.dial(ns.v4(2), listener)
	leaveInFinWait2(client)
	client, server = ns.dial(ns.v4(2), listener)
	server.deafen()
	client.shutdown(unix.SHUT_WR)
	client, server = ns.dial(ns.v4(2), listener)
	client.deafen()
	client.shutdown(unix.SHUT_WR)
	server.read("")
	server.shutdown(unix.SHUT_WR)

	syn := ns.client()
	to := netip.AddrPortFrom(ns.silence().Addr().Next(), 80)
	check(t, unix.SetNonblock(syn.fd, true))
	if err := syn.tryConnect(to); err != unix.EINPROGRESS {
		t.Fatalf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	ns.wire().syn(to, listener.addr())
	ns.awaitSynRecv(1)
	ns.client().connect(listener.addr()) // not accepted
}

// ofOwnThreads reports whether a thread of this process is in the namespace.
func (ns *netns) ofOwnThreads() bool {
	links, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && at == fmt.Sprintf("net:[%d]", ns.inode) {
			return true
		}
	}
	return false
}

// TestKernelSnapshotNamespaces: every socket of every namespace is found once, as ss
// has it, whatever keeps the namespace: a thread, a process or a mount.
func TestKernelSnapshotNamespaces(t *testing.T) {
	requireOwners(t)
	ofThread, ofProcess, mounted := newNetNS(t), newNetNS(t), newNetNS(t)
	spaces := []*netns{ofThread, ofProcess, mounted}
	var files []int
	for _, ns := range spaces {
		ns.population()
		files = append(files, ns.nsFile())
	}
	guest := ofProcess.actor(nobody, "the guest")
	listener := guest.number("listen %v", netip.AddrPortFrom(ofProcess.v4(1), 2000))
	guest.do("connect %v", netip.AddrPortFrom(ofProcess.v4(1), 2000))
	guest.do("accept %d", listener)
	mountPoint := filepath.Join(t.TempDir(), "a name")
	check(t, os.WriteFile(mountPoint, nil, 0))
	mounted.do(func() error { return unix.Mount("/proc/thread-self/ns/net", mountPoint, "", unix.MS_BIND, "") })
	t.Cleanup(func() { check(t, unix.Unmount(mountPoint, unix.MNT_DETACH)) })
	for _, ns := range spaces[1:] {
		ns.end()
		eventually(t, "no thread of this process is there", func() bool { return !ns.ofOwnThreads() })
	}

	recording := filepath.Join(t.TempDir(), "a.tct")
	r := runStuck(t, "stuck", "-o", "json", "--limit", anyAge, "-w", recording)
	if r.status != exitDone {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	for i, ns := range spaces {
		want := ssIn(t, files[i])
		if len(want) < 18 {
			t.Fatalf("ss has %d sockets, want all of them: %v", len(want), want)
		}
		listed := make(map[string]bool)
		for i := range r.stuck {
			l := &r.stuck[i]
			if l.NetNS != ns.inode {
				continue
			}
			s, ok := want[l.Socket]
			if !ok || listed[l.Socket] {
				t.Errorf("twice, or unknown to ss: %v", l)
				continue
			}
			listed[l.Socket] = true
			if l.State != s.state.String() || l.Local.addrPort() != s.local || l.Remote.addrPort() != s.remote {
				t.Errorf("ss has %+v: %v", s, l)
			}
			if len(s.holders) == 0 {
				if l.PID != nil || l.FD != nil || known(l.Holders) > 0 {
					t.Errorf("held by nobody, by ss: %v", l)
				}
			} else if !slices.Contains(s.holders, [2]int{known(l.PID), known(l.FD)}) || known(l.Holders) != len(s.holders) || known(l.UID) != s.uid {
				t.Errorf("held by %v of user %d, by ss: %v", s.holders, s.uid, l)
			}
		}
		found := make(map[string]bool)
		for _, e := range ns.snapshotsOf(recording) {
			cookie := strconv.FormatUint(e.Cookie, 16)
			s, ok := want[cookie]
			if !ok || found[cookie] {
				t.Errorf("twice, or unknown to ss: %s %+v", cookie, e)
				continue
			}
			found[cookie] = true
			recvQ := int(e.Snapshot.RecvQueue)
			if s.state == fsm.CloseWait || s.state == fsm.LastAck {
				recvQ = s.recvQ // in which ss may count the FIN
			}
			if e.To != s.state || recvQ != s.recvQ || int(e.Snapshot.SendQueue) != s.sendQ || int(e.Snapshot.Holders) != len(s.holders) {
				t.Errorf("ss has %+v: %+v", s, e)
			}
			aged := s.state != fsm.Listen && e.Time-e.Entered > 1 // a minisock in FIN_WAIT_2 has no age
			if aged && !listed[cookie] {
				t.Errorf("not listed: %+v", e)
			}
		}
		for cookie, s := range want {
			if !found[cookie] {
				t.Errorf("not found: %s %+v", cookie, s)
			}
		}
	}
}

// churn is connections that come and go.
type churn struct {
	made atomic.Int64
	stop func()
}

// startChurn makes connections on threads of their own until it is stopped. Half of
// them leave a minisock.
func (ns *netns) startChurn(workers int) *churn {
	t := ns.t
	t.Helper()
	c := &churn{}
	home := ns.nsFile()
	enough, done := make(chan struct{}), make(chan error, workers)
	for w := range workers {
		listener := ns.listen(ns.v4(byte(101 + w)))
		to := sockaddr(listener.addr())
		go func() {
			runtime.LockOSThread() // never unlocked: the thread is of no use elsewhere
			if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
			for i := 0; ; i++ {
				select {
				case <-enough:
					done <- nil
					return
				default:
				}
				from := netip.AddrPortFrom(ns.v4(byte(110+10*w+i%8)), 0)
				if err := connectAndClose(listener.fd, sockaddr(from), to, i%2 == 0); err != nil {
					done <- err
					return
				}
				if n := c.made.Add(1); n%8 == 0 {
					time.Sleep(time.Millisecond) // the tracers are to have a CPU as well
				}
			}
		}()
	}
	c.stop = sync.OnceFunc(func() {
		close(enough)
		for range workers {
			check(t, <-done)
		}
	})
	t.Cleanup(c.stop)
	return c
}

func bootNow(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	check(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	return uint64(now.Nano())
}

// compareFrom holds a run that began in the midst of lives, at the latest at the
// given time, against the oracle: from then on it has seen all, and of each life
// that was there before the rest. A dwell that is a lower bound is one.
func (r *result) compareFrom(attachedBy uint64, lives []*life, bounded map[string]bool) {
	t := r.t
	t.Helper()
	byStep := make(map[string][]*life)
	key := func(local, remote netip.AddrPort, from, to string) string { return fmt.Sprint(local, remote, from, to) }
	due := 0
	for _, l := range lives {
		for i := range l.steps {
			s := &l.steps[i]
			k := key(l.local, l.remote, s.from.String(), s.to.String())
			byStep[k] = append(byStep[k], l)
			if s.at >= attachedBy {
				due++
			}
		}
	}
	var skews skews
	seen, cut := 0, 0
	for _, s := range r.sockets {
		steps := s.steps()
		if len(steps) == 0 {
			continue // of a minisock that was there before
		}
		first := steps[0]
		var of *life
		at, nearest := 0, worstSkew
		for _, l := range byStep[key(s.local, s.remote, first.From, first.kernelTo())] {
			for i := range l.steps {
				skew := int64(r.at(first) - l.steps[i].at)
				skew = max(skew, -skew)
				if first.From == l.steps[i].from.String() && skew <= nearest {
					of, at, nearest = l, i, skew
				}
			}
		}
		if of == nil {
			t.Errorf("the oracle did not see %v", s)
			continue
		}
		rest := &life{local: of.local, remote: of.remote, steps: of.steps[at:]}
		if s.path() != rest.path() {
			t.Errorf("%v: tcptrace saw %s, the oracle %s", s, s.path(), rest.path())
			continue
		}
		for _, l := range steps {
			if r.at(l)+uint64(usualSkew) >= attachedBy {
				seen++
			}
		}
		r.compareSteps(s, rest, &skews)
		isBound := bounded[boundedKey(first)]
		switch {
		case at == 0:
			begins := first.From == "CLOSED" || first.From == "LISTEN" && first.To == "SYN_RCVD"
			if isBound && begins {
				t.Errorf("seen from its start, but its dwell is a lower bound: %v", s)
			}
		case of.steps[at-1].at >= attachedBy:
			t.Errorf("tcptrace saw only the end of %v: %v", of, s)
		case first.Dwell != nil && isBound:
			cut++
			// It was in this state for so long.
			if was := int64(of.steps[at].at - of.steps[at-1].at); *first.Dwell > was+usualSkew && first.From != fsm.SynRcvd.String() {
				t.Errorf("in %s for at least %v, but it was for %v: %v", first.From, time.Duration(*first.Dwell), time.Duration(was), s)
			}
		}
	}
	skews.check(t)
	if seen < due {
		t.Errorf("%d steps since the start, %d were seen", due, seen)
	}
	t.Logf("%d steps of %d sockets, %d of them of a lower bound; apart by %v", seen, len(r.sockets), cut, &skews)
}

// TestKernelSnapshotChurn: while connections come and go by the thousand, tracers
// that start, and walk again and again, find each socket that stays once, and take
// none that they have seen half for something that it is not.
func TestKernelSnapshotChurn(t *testing.T) {
	requireOwners(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		const pairs, least = 150, 2000
		ns.sysctl("ipv4/tcp_max_tw_buckets", "100000")
		listener := ns.listen(ns.v4(1))
		var clients, servers []*socket
		stays := make(map[string]string)
		for i := range pairs {
			client, server := ns.dial(ns.v4(2), listener)
			stays[client.cookie()], stays[server.cookie()] = "ESTABLISHED", "ESTABLISHED"
			if i%3 == 0 {
				client.shutdown(unix.SHUT_WR)
				client.await(fsm.FinWait2)
				server.await(fsm.CloseWait)
				stays[client.cookie()], stays[server.cookie()] = "FIN_WAIT_2", "CLOSE_WAIT"
			}
			clients, servers = append(clients, client), append(servers, server)
		}
		churn := ns.startChurn(1)
		recording := filepath.Join(t.TempDir(), "a.tct")
		tr := traceMany(ns, 64<<10, "-w", recording)
		attachedBy := bootNow(t)
		life := ns.startTracer("life", "--open") // what nobody saw move is not over
		lifeOut := life.lines()
		watch := ns.watch("--limit", "ESTABLISHED=10ms,FIN_WAIT_2=10ms,CLOSE_WAIT=10ms,TIME_WAIT=off")
		begun := churn.made.Load()

		for range 3 {
			r := ns.stuck("--limit", anyAge, "-L", "1-65535")
			if r.status != exitDone || r.summary.Lost != 0 || len(r.notices) != 0 {
				t.Errorf("status %d, %+v, %v: %s", r.status, r.summary, r.notices, r.stderr)
			}
			found := make(map[string]bool)
			for i := range r.stuck {
				l := &r.stuck[i]
				if l.Socket == "" || found[l.Socket] {
					t.Errorf("twice: %v", l)
				}
				found[l.Socket] = true
				if state, ok := stays[l.Socket]; ok && (l.State != state || known(l.PID) != os.Getpid()) {
					t.Errorf("want %s: %v", state, l)
				}
			}
			for cookie, state := range stays {
				if !found[cookie] {
					t.Errorf("not found: %s in %s, among %d", cookie, state, len(r.stuck))
				}
			}
		}
		eventually(t, "there was churn enough", func() bool {
			tr.oracle.drain(t)
			return churn.made.Load()-begun >= least
		})
		for cookie := range stays {
			watch.await("stuck", cookie)
		}
		churn.stop()
		for i := range clients {
			clients[i].close()
			servers[i].close()
		}
		lives := tr.oracle.settleBut(ns, 3) // the listeners
		for cookie := range stays {
			watch.await("resolved", cookie)
		}
		watched := watch.end()
		life.signal(syscall.SIGTERM)
		lifeText := lifeOut.rest(t)
		r := tr.result()
		ns.checkDisturbance(lives, r.traced(), r.passedOver())

		if r.summary.Illegal != 0 || r.summary.Gaps != 0 || r.summary.Lost != r.passedOver() {
			t.Errorf("the summary is %+v", r.summary)
		}
		for i := range r.transitions {
			if l := &r.transitions[i]; l.Verdict == "gap" || l.Verdict == "illegal" {
				r.t.Errorf("judged so: %v", l)
			}
		}
		r.compareFrom(attachedBy, lives, boundedOf(t, recording))

		told := make(map[string]int)
		for i := range watched.stuck {
			if l := &watched.stuck[i]; stays[l.Socket] != "" {
				told[l.Socket]++
			}
		}
		for cookie, n := range told {
			if n != 1 {
				t.Errorf("%s is told %d times", cookie, n)
			}
		}
		for i := range watched.resolved {
			l := &watched.resolved[i]
			if state := stays[l.Socket]; state != "" && state != "FIN_WAIT_2" && l.State == state && l.To == "" {
				t.Errorf("gone, and nobody knows where to: %v", l)
			}
		}

		shown := make(map[string]bool)
		found, whole := 0, 0
		for _, c := range parseFoundLives(t, lifeText) {
			if c.Verdict == "gap" || c.Verdict == "illegal" || shown[c.Socket] {
				r.t.Errorf("twice, or judged so: %v", &c)
			}
			shown[c.Socket] = c.Socket != ""
			fromStart := c.Path[0] == "CLOSED" || c.Path[0] == "LISTEN"
			switch state := stays[c.Socket]; {
			case state != "":
				found++
				if c.Path[0] != state || !atLeast(c.DurationExact) || !atLeast(c.DwellExact) || c.Complete || c.Duration == nil {
					r.t.Errorf("want one from %s on: %v", state, &c)
				}
			case fromStart && c.Path[len(c.Path)-1] == "CLOSED":
				whole++
				if !c.Complete || c.DurationExact != nil {
					r.t.Errorf("want a whole life: %v", &c)
				}
			}
		}
		if found != len(stays) || whole < least {
			t.Errorf("%d that were there before, want %d; %d whole lives, want %d", found, len(stays), whole, least)
		}
	})
}

// settleBut is settle where so many sockets stay.
func (o *oracle) settleBut(ns *netns, stay int) (lives []*life) {
	ns.t.Helper()
	eventually(ns.t, fmt.Sprintf("all sockets but %d are closed", stay), func() bool {
		o.drain(ns.t)
		lives = o.lives(ns.owns)
		open := 0
		for _, l := range lives {
			if !l.over() {
				open++
			}
		}
		return open <= stay
	})
	o.checkComplete(ns.t)
	return lives
}

// TestKernelSnapshotLife: of a connection that was there before, all is told that
// comes after, and how long it was there at least.
func TestKernelSnapshotLife(t *testing.T) {
	requireOwners(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		listener := ns.listen(ns.v4(1))
		began := time.Now()
		a := ns.actor(nobody, "the client")
		fd := a.number("connect %v", listener.addr())
		server := listener.accept()
		a.do("write %d %s", fd, "before")
		server.read("before")
		serverCookie, remote := server.cookie(), server.peer()
		clientCookie := ""
		for cookie, s := range ns.ss() {
			if s.local == remote.String() {
				clientCookie = cookie
			}
		}
		still := time.Now()
		lapse(60 * time.Millisecond)
		attaching := time.Now()
		tr := traceLife(ns)
		awaitWalk(t, tr.stderr)

		// One that is new, of a listener that is not.
		young, youngServer := ns.dial(ns.v4(2), listener)
		youngCookie, youngServerCookie := young.cookie(), youngServer.cookie()
		young.reset()
		youngServer.close()

		a.do("write %d %s", fd, "after")
		server.read("after")
		a.do("shutdown %d", fd)
		server.read("")
		eventually(t, "its FIN is acknowledged", func() bool { return ns.ss()[clientCookie].state == "FIN-WAIT-2" })
		server.close()
		a.do("read %d", fd)
		closing := time.Now()
		a.do("close %d", fd)
		ns.checkSS(clientCookie, "TIME-WAIT")
		listener.close()
		lapse(30 * time.Millisecond)
		killing := time.Now()
		ns.destroyTimeWait()
		lives, r := tr.finishFound()
		ended := time.Now()
		if r.summary.Gaps != 0 || r.summary.Illegal != 0 {
			t.Errorf("the summary is %+v", r.summary)
		}

		c := lifeOf(t, lives, clientCookie)
		if got, want := (owner{known(c.PID), c.Comm, known(c.UID), c.OwnerSource}), a.found("the client", nobody); got != want {
			t.Errorf("owner %+v, want %+v: %v", got, want, c)
		}
		if c.path() != "ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 TIME_WAIT CLOSED" || c.Role != "" || !c.Start.IsZero() || c.Handshake != nil || c.Complete || c.Verdict != "abort" ||
			c.Close.Cause != "finished" || c.Close.First != "local" || !atLeast(c.DurationExact) || !atLeast(c.DwellExact) || c.Duration == nil {
			t.Fatalf("want a life from ESTABLISHED on: %v", c)
		}
		if got := c.End.Add(-time.Duration(*c.Duration)); got.Before(began.Add(-ticks)) || got.After(attaching) || *c.Duration < int64(killing.Sub(attaching)) {
			t.Errorf("there since %v, want between %v and %v: %v", got, began, attaching, c)
		}
		if got := time.Duration(c.Dwell["ESTABLISHED"]); got < attaching.Sub(still)-50*time.Millisecond || got > ended.Sub(began) {
			t.Errorf("%v in ESTABLISHED: %v", got, c)
		}
		if w := c.TimeWait; w == nil || w.DurationExact != nil || w.End != "killed" || w.Duration < int64(killing.Sub(closing))/2 || w.Duration > int64(ended.Sub(attaching)) {
			t.Errorf("TIME_WAIT is not measured: %v", c)
		}
		if known, all := c.BytesSent, uint64(len("beforeafter")); known == nil || *known != all {
			t.Errorf("want %d bytes sent, those before included: %v", all, c)
		}

		s := lifeOf(t, lives, serverCookie)
		if got, want := (owner{known(s.PID), s.Comm, known(s.UID), s.OwnerSource}), self(t, "snapshot"); got != want {
			t.Errorf("owner %+v, want %+v: %v", got, want, s)
		}
		if s.path() != "ESTABLISHED CLOSE_WAIT LAST_ACK CLOSED" || s.Role != "" || !atLeast(s.DurationExact) || s.Complete || s.Verdict != "legal" || s.Close.First != "remote" {
			t.Errorf("want a life from ESTABLISHED on: %v", s)
		}
		for _, cookie := range []string{youngCookie, youngServerCookie} {
			if c := lifeOf(t, lives, cookie); !c.Complete || c.DurationExact != nil || c.DwellExact != nil || c.PID == nil || *c.PID != os.Getpid() {
				t.Errorf("seen from its start: %v", c)
			}
		}
		if len(lives) != 4 {
			t.Errorf("%d lives, want 4: %v", len(lives), lives)
		}
		bounded := boundedOf(t, tr.recording)
		for _, cookie := range []string{clientCookie, serverCookie} {
			if l := r.transitionOf(cookie, fsm.Established); l.Dwell == nil || !bounded[boundedKey(l)] {
				t.Errorf("want a lower bound: %v", l)
			}
		}
		if len(bounded) != 3 { // and the listener's
			t.Errorf("lower bounds: %v", bounded)
		}
	})
}

// TestKernelSnapshotTimeWait: of a TIME_WAIT that was there before, the end is told,
// and how long it was at least: the timer says when it began.
func TestKernelSnapshotTimeWait(t *testing.T) {
	requireKernel(t)
	const lasted = 60 * time.Millisecond
	inNetNS(t, func(ns *netns) {
		t := ns.t
		ns.sysctl("ipv4/tcp_rfc1337", "0")
		w := ns.wire()
		listener := ns.listen(ns.v4(1))
		type minisock struct {
			end, path     string // that it is to have
			first, second *socket
			cookie        string
			at, peer      netip.AddrPort
			after, before time.Time
		}
		leave := func(end, path string, server bool) *minisock {
			m := &minisock{end: end, path: path}
			client, accepted := ns.dial(ns.v4(2), listener)
			if m.first, m.second = client, accepted; server {
				m.first, m.second = accepted, client
			}
			m.cookie, m.at, m.peer, m.after = m.first.cookie(), m.first.addr(), m.second.addr(), time.Now()
			if strings.HasPrefix(path, "FIN_WAIT_2") {
				leaveInFinWait2(m.first)
			} else {
				leaveInTimeWait(m.first, m.second)
			}
			m.before = time.Now()
			return m
		}
		killed := leave("killed", "TIME_WAIT CLOSED", false)
		reused := leave("reused", "TIME_WAIT CLOSED", true) // the next client may have its peer's port
		reset := leave("reset", "TIME_WAIT CLOSED", false)
		resetFIN := w.awaitFlags(flagFIN, reset.at)
		finReset := leave("reset", "FIN_WAIT_2 CLOSED", false)
		finned := leave("killed", "FIN_WAIT_2 TIME_WAIT CLOSED", false)
		all := []*minisock{killed, reused, reset, finReset, finned}
		lapse(lasted)
		tr := traceLife(ns)
		walked := time.Now()
		awaitWalk(t, tr.stderr)

		again := ns.socket(reused.peer.Addr())
		again.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		again.bind(reused.peer.Addr(), reused.peer.Port())
		again.connect(listener.addr())
		againServer := listener.accept()
		again.reset()
		againServer.close()
		w.send(&segment{from: reset.peer, to: reset.at, seq: resetFIN.next(), flags: flagRST})
		finReset.second.reset()
		fin := time.Now()
		finned.second.close()
		ns.checkSS(finned.cookie, "TIME-WAIT")
		lapse(lasted)
		listener.close()
		ns.destroyTimeWait()
		eventually(t, "their lives are shown", func() bool {
			text := tr.textSoFar()
			return !slices.ContainsFunc(all, func(m *minisock) bool { return !strings.Contains(text, `"socket":"`+m.cookie+`"`) })
		})
		lives, r := tr.finishFound()
		bounded := boundedOf(t, tr.recording)
		if r.summary.Gaps != 0 || r.summary.Illegal != 0 {
			t.Errorf("the summary is %+v", r.summary)
		}
		for _, m := range all {
			c := lifeOf(t, lives, m.cookie)
			if c.path() != m.path || c.Complete || c.PID != nil || !atLeast(c.DwellExact) || !atLeast(c.DurationExact) || !c.Start.IsZero() {
				t.Errorf("want %s: %v", m.path, c)
			}
			switch m {
			case finReset:
				if l := r.transitionOf(m.cookie, fsm.FinWait2); l.End != m.end || !bounded[boundedKey(l)] || *l.Dwell < int64(fin.Sub(walked))/2 {
					t.Errorf("want a lower bound: %v", l)
				}
				continue
			case finned:
				if w := c.TimeWait; w == nil || w.End != m.end || w.DurationExact != nil || w.Duration < int64(lasted-ticks) || c.End.Add(-time.Duration(w.Duration)).Before(fin.Add(-ticks)) {
					t.Errorf("want the time in TIME_WAIT since %v: %v", fin, c)
				}
				continue
			}
			l := r.transitionOf(m.cookie, fsm.TimeWait)
			if l.To != "CLOSED" || l.End != m.end || l.Source != "timewait" || l.Dwell == nil || !bounded[boundedKey(l)] {
				t.Fatalf("want its end, %s, after a lower bound: %v", m.end, l)
			}
			// 60 s less what was left.
			if began := l.Time.Add(-time.Duration(*l.Dwell)); began.Before(m.after.Add(-ticks)) || began.After(m.before.Add(ticks)) {
				t.Errorf("began at %v, want between %v and %v: %v", began, m.after, m.before, l)
			}
			if *l.Dwell < int64(walked.Sub(m.before)) {
				t.Errorf("want at least %v: %v", walked.Sub(m.before), l)
			}
			if w := c.TimeWait; w == nil || w.Duration != *l.Dwell || !atLeast(w.DurationExact) || w.End != m.end {
				t.Errorf("want a TIME_WAIT of at least %v: %v", time.Duration(*l.Dwell), c)
			}
		}
	})
}

// awaitWalk waits until the walk at the start is over, of which -v tells.
func awaitWalk(t *testing.T, stderr *safeBuffer) {
	t.Helper()
	eventually(t, "the walk at the start is over", func() bool { return strings.Contains(stderr.String(), "walked the sockets") })
}

// textSoFar is what the command has written.
func (tr *tracing) textSoFar() string {
	tr.t.Helper()
	text, err := os.ReadFile(tr.stdout.Name())
	check(tr.t, err)
	return string(text)
}

// TestKernelSnapshotHandshake: of a handshake that was there before, SYN_RCVD lasted
// at least since the SYN-ACKs say so, whether it comes to something or not.
func TestKernelSnapshotHandshake(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		listener := ns.listen(ns.v4(1))
		listener.set(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 10)
		w := ns.wire()
		client := ns.client()
		client.connect(listener.addr())
		silent := netip.AddrPortFrom(ns.silence().Addr().Next(), 7001)
		began := time.Now()
		w.syn(silent, listener.addr())
		ns.awaitSynRecv(2)
		lapse(60 * time.Millisecond)
		attaching := time.Now()
		ns.requests = 1
		tr := traceLife(ns)
		awaitWalk(t, tr.stderr)
		client.write("now")
		server := listener.accept()
		cookie := server.cookie()
		w.rst(silent, listener.addr())
		ns.awaitSynRecv(0)
		client.reset()
		server.close()
		at := listener.addr()
		listener.close()
		lives, r := tr.finishFound()
		bounded := boundedOf(t, tr.recording)
		if r.summary.Gaps != 0 || r.summary.Illegal != 0 || len(r.requests) != 1 {
			t.Fatalf("the summary is %+v, %d handshakes", r.summary, len(r.requests))
		}
		for _, l := range []*line{r.transitionOf(cookie, fsm.SynRcvd), &r.requests[0]} {
			if l.Dwell == nil || bounded[boundedKey(l)] { // a request knows when its SYN-ACK was sent
				t.Fatalf("want an exact time: %v", l)
			}
			if since := l.Time.Add(-time.Duration(*l.Dwell)); since.Before(began.Add(-ticks)) || since.After(attaching.Add(ticks)) {
				t.Errorf("since %v, want before %v: %v", since, attaching, l)
			}
		}
		if l := &r.requests[0]; l.Time.Add(-time.Duration(*l.Dwell)).Before(began.Add(-ticks)) || l.End != "reset" || l.Remote.addrPort() != silent || l.Local.addrPort() != at {
			t.Errorf("want the end of one that began at %v: %v", began, l)
		}
		c := lifeOf(t, lives, cookie)
		if c.path() != "LISTEN SYN_RCVD ESTABLISHED CLOSED" || c.Handshake == nil || *c.Handshake != c.Dwell["SYN_RCVD"] || c.Role != "passive" {
			t.Errorf("want one whose handshake is measured, though it began before: %v", c)
		}
		for i := range lives {
			if c := &lives[i]; c.Socket == "" && (c.path() != "SYN_RCVD CLOSED" || atLeast(c.DurationExact) || atLeast(c.DwellExact) || c.Start.IsZero()) {
				t.Errorf("want a handshake from before: %v", c)
			}
		}
	})
}

// TestKernelSnapshotBounds: a lower bound is one, to the nanosecond that two clocks
// of the kernel differ by.
func TestKernelSnapshotBounds(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		oracle := newOracle(t, 8<<10)
		listener := ns.listen(ns.v4(1))
		silent := ns.silence()
		var all []*socket
		for i := range 20 {
			lapse(700 * time.Microsecond) // at different times within a millisecond
			syn := ns.client()
			check(t, unix.SetNonblock(syn.fd, true))
			if err := syn.tryConnect(netip.AddrPortFrom(silent.Addr().Next(), uint16(80+i))); err != unix.EINPROGRESS {
				t.Fatalf("connect: %v, want %v", err, unix.EINPROGRESS)
			}
			client, server := ns.dial(ns.v4(2), listener)
			server.deafen()
			switch i % 4 {
			case 0:
				client.write("unheard")
			case 1:
				client.shutdown(unix.SHUT_WR) // FIN_WAIT_1
			case 2:
				client.deafen()
				client.shutdown(unix.SHUT_WR)
				server.shutdown(unix.SHUT_WR)
				client.hear()
				client.await(fsm.Closing)
			}
			all = append(all, syn, client, server)
		}
		lapse(250 * time.Millisecond) // for what is sent again
		p := ns.startTracer()
		out := p.lines()
		awaitWalk(t, p.stderr)
		for _, s := range all {
			s.reset()
		}
		listener.close()
		lives := oracle.settle(ns)
		eventually(t, "all is shown", func() bool { return out.count() >= len(all)+1 })
		p.signal(syscall.SIGTERM)
		r := newResult(ns, strings.NewReader(out.rest(t)), p.stderr.String())
		ns.checkDisturbance(lives, r.traced(), r.passedOver())
		checked := make(map[string]int)
		for _, s := range r.sockets {
			first := s.steps()[0]
			for _, l := range lives {
				if l.local != s.local || l.remote != s.remote {
					continue
				}
				at := slices.IndexFunc(l.steps, func(step step) bool {
					skew := int64(step.at - r.at(first))
					return max(skew, -skew) < usualSkew && step.from.String() == first.From
				})
				if at < 1 || first.Dwell == nil {
					t.Fatalf("the oracle saw %v, tcptrace %v", l, first)
				}
				checked[first.From]++
				if was := int64(l.steps[at].at - l.steps[at-1].at); *first.Dwell > was+usualSkew && first.From != "LISTEN" {
					t.Errorf("in %s for at least %v, but it was for %v", first.From, time.Duration(*first.Dwell), time.Duration(was))
				} else if first.From != "LISTEN" && *first.Dwell < int64(time.Millisecond) {
					t.Errorf("in %s for %v, and nothing more is known?", first.From, time.Duration(*first.Dwell))
				}
			}
		}
		t.Log(checked)
	})
}

// TestKernelSnapshotWaitingSYN: what a socket remembers of its last connection says nothing
// of one whose SYN is not sent yet.
func TestKernelSnapshotWaitingSYN(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	ns.sysctl("ipv4/tcp_fastopen", "5") // without a cookie
	s := ns.client()
	check(t, unix.SetNonblock(s.fd, true))
	to := netip.AddrPortFrom(ns.silence().Addr().Next(), 80)
	if err := s.tryConnect(to); err != unix.EINPROGRESS {
		t.Fatalf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	lapse(50 * time.Millisecond)
	s.disconnect()
	s.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	before := time.Now()
	s.connect(to)
	r := ns.stuck("--limit", anyAge)
	age := int64(time.Since(before))
	for i := range r.stuck { // it may be too young to be told
		l := &r.stuck[i]
		if l.State != "SYN_SENT" || l.Age > age || known(l.SendQueue) > 0 || !strings.Contains(l.Hint, "TCP_FASTOPEN_CONNECT") {
			t.Errorf("want one that is younger than %v and sent nothing: %v", time.Duration(age), l)
		}
	}
	recording := filepath.Join(t.TempDir(), "a.tct")
	ns.stuck("--limit", anyAge, "-w", recording)
	found := ns.snapshotsOf(recording)
	if len(found) != 1 || found[0].To != fsm.SynSent || found[0].Snapshot.SendQueue != 0 || found[0].Time-found[0].Entered > uint64(time.Since(before)) {
		t.Errorf("want one in SYN_SENT that sent nothing: %+v", found)
	}
}

// TestKernelSnapshotClosing: a FIN that was sent again before the peer's FIN came says
// nothing of how long the socket is in CLOSING.
func TestKernelSnapshotClosing(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	_, client, server := ns.connected()
	client.deafen()
	server.deafen()
	client.shutdown(unix.SHUT_WR)
	eventually(t, "the FIN was sent again", func() bool { return client.info().Retransmits > 1 })
	before := time.Now()
	client.hear()
	server.shutdown(unix.SHUT_WR)
	client.await(fsm.Closing)
	recording := filepath.Join(t.TempDir(), "a.tct")
	ns.stuck("--limit", anyAge, "-w", recording)
	age := uint64(time.Since(before))
	found := ns.snapshotsOf(recording)
	i := slices.IndexFunc(found, func(e events.Event) bool { return e.To == fsm.Closing })
	if i < 0 || found[i].Time-found[i].Entered > age {
		t.Errorf("want one that is younger than %v in CLOSING: %+v", time.Duration(age), found)
	}
}
