package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/events"
	"tcptrace/fsm"
)

// envFaults has the tests of this file run, which set the clock and settings of the
// host, for moments, or take minutes: make faults.
const envFaults = "TCPTRACE_FAULTS"

func requireFaults(t *testing.T) {
	t.Helper()
	if os.Getenv(envFaults) == "" {
		t.Skip("changes the host, or takes long: make faults")
	}
	requireKernel(t)
}

// TestKernelClockSet: the wall clock is set forward and back while it is traced. What
// comes after is dated by the new time, no time in a state is touched, and the
// recording shows the same.
func TestKernelClockSet(t *testing.T) {
	requireFaults(t)
	const by = 2 * time.Second
	ns := newNetNS(t)
	recording := filepath.Join(t.TempDir(), "a.tct")
	p := ns.startTracer("-w", recording)
	out := p.lines()
	listener := ns.listen(ns.v4(1))
	held, heldServer := ns.dial(ns.v4(2), listener)
	begun := time.Now() // with the monotonic clock

	// One connection each before, between and after, from an address of its own.
	var made [3]struct{ after, before time.Time } // on the wall clock
	play := func(i int) {
		t.Helper()
		from := ns.v4(byte(10 + i))
		made[i].after = time.Now().Round(0)
		client, server := ns.dial(from, listener)
		client.reset()
		server.close()
		made[i].before = time.Now().Round(0)
		eventually(t, "it is shown", func() bool { return out.contains(from.String()) })
	}
	setBy := 0 * time.Second
	set := func(by time.Duration, word string) {
		t.Helper()
		setBy += by
		stepClock(t, by)
		eventually(t, "it is told", func() bool { return out.contains(`"kind":"clock","reason":"the wall clock was set ` + word) })
	}
	t.Cleanup(func() {
		if setBy != 0 {
			stepClock(t, -setBy)
		}
	})
	play(0)
	set(by, "forward by 2s")
	play(1)
	set(-by, "back by 2s")
	play(2)
	lasted := time.Since(begun)
	held.close()
	heldServer.close()
	listener.close()
	eventually(t, "all is shown", func() bool { return out.contains(`"from":"LAST_ACK"`) })
	p.signal(syscall.SIGTERM)
	text := out.rest(t)
	if replayed := replayWhole(t, recording); replayed != text {
		t.Errorf("replayed:\n%s\nlive:\n%s", replayed, text)
	}

	r := newResult(ns, strings.NewReader(text), p.stderr.String())
	seen := [len(made)]int{}
	for i := range r.transitions {
		l := &r.transitions[i]
		for i, m := range made {
			if ip := ns.v4(byte(10 + i)); l.Local.Addr != ip && l.Remote.Addr != ip {
				continue
			}
			seen[i]++
			const slack = 20 * time.Millisecond // of the wall clock, read before and after
			if l.Time.Before(m.after.Add(-slack)) || l.Time.After(m.before.Add(slack)) {
				t.Errorf("made between %v and %v: %v", m.after, m.before, l)
			}
		}
		if l.From == "ESTABLISHED" && l.To == "FIN_WAIT_1" {
			if d := time.Duration(*l.Dwell); d < lasted || d > time.Since(begun) {
				t.Errorf("established for %v, held for %v: %v", d, lasted, l)
			}
		}
		if l.Verdict == "illegal" || l.Verdict == "gap" {
			t.Errorf("judged so: %v", l)
		}
	}
	if seen != [...]int{6, 6, 6} {
		t.Errorf("%v transitions, want 6 each", seen)
	}
	t.Logf("set by %v and back: %v transitions before, between and after", by, seen)
}

// stepClock sets the wall clock forward, by so much whatever it is.
func stepClock(t *testing.T, by time.Duration) {
	t.Helper()
	whole := by.Truncate(time.Second)
	step := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Sec: int64(whole / time.Second)}}
	if _, err := unix.Adjtimex(&step); err != nil {
		unavailable(t, "the clock cannot be set: %v", err)
	}
}

// TestKernelSymbols: whether the kernel hides its symbols or not, TIME_WAIT is measured;
// why it ends early is known in the one case, and in the other it is told that it is not.
func TestKernelSymbols(t *testing.T) {
	requireFaults(t)
	const setting = "/proc/sys/kernel/kptr_restrict"
	was, err := os.ReadFile(setting)
	check(t, err)
	t.Cleanup(func() { check(t, os.WriteFile(setting, was, 0)) })
	for _, test := range []struct {
		restrict string
		told     bool
	}{{"1", false}, {"2", true}} {
		t.Run(test.restrict, func(t *testing.T) {
			check(t, os.WriteFile(setting, []byte(test.restrict), 0))
			p := newNetNS(t).startTracer()
			told := func() bool {
				return strings.Contains(p.stderr.String(), "not measured: why TIME_WAIT ends before its time")
			}
			awaitWalk(t, p.stderr)
			if told() != test.told || strings.Contains(p.stderr.String(), "not measured: TIME_WAIT") {
				t.Errorf("told: %t, want %t: %s", told(), test.told, p.stderr)
			}
			// In a process of its own, as this one may have looked already.
			cmd := exec.Command(os.Args[0], "-test.run", "^TestKernelTimeWaitEnds$/^(reused_by_a_SYN|reused_by_connect|reset|namespace_gone|killed)$", "-test.v", "-test.count", "1")
			out, err := cmd.CombinedOutput()
			if err != nil || bytes.Count(out, []byte("--- PASS")) < 5 {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// space is a network namespace that is mounted, with a socket in CLOSE_WAIT.
type space struct {
	inode uint32
	mount string
	fd    int
}

// end lets it go.
func (s *space) end() error {
	return errors.Join(unix.Unmount(s.mount, unix.MNT_DETACH), os.Remove(s.mount), unix.Close(s.fd))
}

// TestKernelThousandNamespaces: what happens in a thousand network namespaces is seen,
// and their sockets are found, also while half of them go.
func TestKernelThousandNamespaces(t *testing.T) {
	requireFaults(t)
	requireHostPIDs(t)
	const many = 1000
	tracer := startProgram(t, nil, "-o", "json", "-v", "-s", "CLOSE_WAIT", "-L", "8080")
	eventually(t, "the tracer is attached", func() bool { return attached.MatchString(tracer.stderr.String()) })
	traced := tracer.lines()

	dir, made := t.TempDir(), make(chan error)
	var spaces []*space
	t.Cleanup(func() {
		for _, s := range spaces {
			check(t, s.end())
		}
	})
	begun := time.Now()
	go func() {
		runtime.LockOSThread() // never unlocked: it stays in the last of them
		for i := range many {
			s, err := closeWaitIn(filepath.Join(dir, strconv.Itoa(i)))
			if err != nil {
				made <- fmt.Errorf("namespace %d: %w", i, err)
				return
			}
			spaces = append(spaces, s)
		}
		made <- nil
	}()
	check(t, <-made)
	t.Logf("%d namespaces made in %v", many, time.Since(begun).Round(time.Millisecond))

	// findAll looks once, and has each of those that are there found once.
	findAll := func(there []*space) {
		t.Helper()
		r := runStuck(t, "stuck", "-o", "json", "--limit", "CLOSE_WAIT=1ns")
		if r.status != exitDone || r.summary.Lost != 0 {
			t.Errorf("status %d, %+v: %s", r.status, r.summary, r.stderr)
		}
		found := make(map[uint32][]*stuckLine)
		for i := range r.stuck {
			l := &r.stuck[i]
			found[l.NetNS] = append(found[l.NetNS], l)
		}
		for _, s := range there {
			if lines := found[s.inode]; len(lines) != 1 || known(lines[0].PID) != os.Getpid() || known(lines[0].FD) != s.fd {
				t.Fatalf("in namespace %d: %v, want one of fd %d", s.inode, lines, s.fd)
			}
		}
	}
	begun = time.Now()
	findAll(spaces)
	t.Logf("their sockets, and all others of the host, found in %v", time.Since(begun).Round(time.Millisecond))

	going := spaces[many/2:]
	spaces = spaces[:many/2]
	gone, walked := make(chan error, 1), make(chan struct{}, many)
	go func() {
		var errs []error
		for i, s := range going {
			if i%(many/10) == many/20 { // not all at once
				<-walked
			}
			errs = append(errs, s.end())
		}
		gone <- errors.Join(errs...)
	}()
	walks := 0
	for walking := true; walking; walks++ {
		select {
		case err := <-gone:
			check(t, err)
			walking = false
		case walked <- struct{}{}:
		}
		findAll(spaces)
	}
	t.Logf("%d walks while half of the namespaces went", walks)

	tracer.signal(syscall.SIGTERM)
	seen := make(map[uint32]bool)
	for text := range strings.Lines(traced.rest(t)) {
		var l line
		check(t, json.Unmarshal([]byte(text), &l))
		if l.To == "CLOSE_WAIT" {
			seen[l.NetNS] = true
		}
	}
	missing := 0
	for _, s := range slices.Concat(spaces, going) {
		if !seen[s.inode] {
			missing++
		}
	}
	if missing > many/100 { // the kernel passes some over
		t.Errorf("of %d namespaces nothing was traced", missing)
	}
}

// closeWaitIn makes a network namespace, mounts it there, and leaves in it a socket in
// CLOSE_WAIT.
func closeWaitIn(mount string) (*space, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	if err := onLoopback(unix.AF_INET, func(fd int, lo *unix.Ifreq) error {
		lo.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}); err != nil {
		return nil, err
	}
	if err := os.WriteFile(mount, nil, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", mount, "", unix.MS_BIND, ""); err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(mount, &stat); err != nil {
		return nil, err
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(listener)
	at := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 8080}
	if err := unix.Bind(listener, at); err != nil {
		return nil, err
	}
	if err := unix.Listen(listener, 1); err != nil {
		return nil, err
	}
	client, server, err := connectPair(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, at)
	if err != nil {
		return nil, err
	}
	return &space{uint32(stat.Ino), mount, server}, unix.Close(client)
}

// TestKernelBornDuringWalk: 100,000 sockets are born and go while one walk lasts, as its
// tracer is stopped in the middle of it. What was there before is found once each, in
// its state; what is lost in the meantime is counted, and nothing is made up.
func TestKernelBornDuringWalk(t *testing.T) {
	requireFaults(t)
	const standing, connections, workers = 4000, 50_000, 2
	for try := range 5 {
		done := false
		t.Run(fmt.Sprintf("try %d", try+1), func(t *testing.T) {
			ns := newNetNS(t)
			ns.sysctl("ipv4/tcp_max_tw_buckets", "100000")
			listener := ns.listen(ns.v4(1))
			var held []int
			defer func() {
				for _, fd := range held {
					check(t, unix.Close(fd))
				}
			}()
			stay := make(map[uint64]fsm.State)
			ns.do(func() error {
				for range standing {
					client, server, err := connectPair(listener.fd, sockaddr(netip.AddrPortFrom(ns.v4(2), 0)), sockaddr(listener.addr()))
					if err != nil {
						return err
					}
					held = append(held, client, server)
					for _, fd := range []int{client, server} {
						cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
						if err != nil {
							return err
						}
						stay[cookie] = fsm.Established
					}
				}
				return nil
			})

			recording := filepath.Join(t.TempDir(), "a.tct")
			p := ns.startTracer("-w", recording, "--buffer", "65536") // which one walk fills often
			out := p.lines()
			p.signal(syscall.SIGSTOP)
			from := bootNow(t)
			var work []func() error
			for w := range workers {
				other := ns.listen(ns.v4(byte(101 + w)))
				work = append(work, func() error {
					for i := range connections / workers {
						from := netip.AddrPortFrom(ns.v4(byte(110+10*w+i%8)), 0)
						if err := connectAndClose(other.fd, sockaddr(from), sockaddr(other.addr()), i%2 == 0); err != nil {
							return err
						}
					}
					return nil
				})
			}
			ns.inParallel(work...)
			to := bootNow(t)
			p.signal(syscall.SIGCONT)
			awaitWalk(t, p.stderr)
			p.signal(syscall.SIGTERM)
			text := out.rest(t)

			found, walk := make(map[uint64]int), events.Walked{}
			lost := uint64(0)
			for _, rec := range read(t, readFile(t, recording)) {
				e := &rec.Event
				switch {
				case rec.Kind == events.KindWalked:
					walk = rec.Walked
				case rec.Kind == events.KindLoss && rec.Loss.Reason.Records():
					lost += rec.Loss.Count
				case rec.Kind == events.KindTransition && e.Source == events.SourceSnapshot:
					found[e.Cookie]++
					if state, ok := stay[e.Cookie]; ok && e.To != state || found[e.Cookie] > 1 {
						t.Errorf("want one in %v: %+v", state, e)
					}
				}
			}
			if walk.Start >= from || walk.Time <= to || walk.Failed {
				t.Skipf("the walk was over before: %+v, not around %d to %d", walk, from, to)
			}
			done = true
			for cookie := range stay {
				if found[cookie] != 1 {
					t.Fatalf("%x is found %d times", cookie, found[cookie])
				}
			}
			r := newResult(ns, strings.NewReader(text), p.stderr.String())
			if r.summary.Illegal != 0 || lost == 0 || r.summary.Lost != int(lost) {
				t.Errorf("the summary is %+v, and %d were lost", r.summary, lost)
			}
			for i := range r.transitions {
				if l := &r.transitions[i]; l.Verdict == "illegal" || stay[cookieNumber(t, l.Socket)] != 0 {
					t.Errorf("made up: %v", l)
				}
			}
			t.Logf("%d sockets came and went within a walk of %v; %d of %d found, %d records lost and counted",
				2*connections, time.Duration(walk.Time-walk.Start).Round(time.Millisecond), len(stay), len(stay), lost)
		})
		if done || t.Failed() {
			return
		}
	}
	t.Error("no walk could be stopped in the middle")
}

func cookieNumber(t *testing.T, cookie string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(cookie, 16, 64)
	check(t, err)
	return n
}

// TestKernelMemoryHit: a tracer that meets the limit of its cgroup under load is ended
// by the kernel, or counts what found no memory; either way it leaves nothing, and the
// connections of the host are made as before.
func TestKernelMemoryHit(t *testing.T) {
	requireFaults(t)
	cgroup, limit := memoryCgroup(t)
	ns := newNetNS(t)
	before := listBPF(t)
	self, err := os.Executable()
	check(t, err)
	command := append([]string{"-c", fmt.Sprintf(`echo $$ >%s/cgroup.procs; exec "$@"`, cgroup), "sh", self}, ns.arguments(nil)...)
	p := startCommand(t, exec.Command("sh", command...), nil)
	out := p.lines()
	eventually(t, "the tracer is attached", func() bool { return p.ended() || attached.MatchString(p.stderr.String()) })
	if p.ended() {
		t.Fatalf("there is not even room to start: %d, %s", p.cmd.ProcessState.ExitCode(), p.stderr)
	}

	awaitWalk(t, p.stderr)
	use := filepath.Join(cgroup, "memory.current")
	if _, err := os.Stat(use); err != nil {
		use = filepath.Join(cgroup, "memory.usage_in_bytes")
	}
	used, err := strconv.Atoi(strings.TrimSpace(string(readFile(t, use))))
	check(t, err)
	check(t, os.WriteFile(limit, strconv.AppendInt(nil, int64(used+1<<20), 10), 0)) // 1 MiB more

	listener := ns.listen(ns.v4(1))
	var held []int
	t.Cleanup(func() {
		for _, fd := range held {
			check(t, unix.Close(fd))
		}
	})
	const connections = 8000
	ns.do(func() error {
		for i := range connections {
			from := netip.AddrPortFrom(ns.v4(byte(2+i%8)), 0)
			client, server, err := connectPair(listener.fd, sockaddr(from), sockaddr(listener.addr()))
			if err != nil {
				return err
			}
			held = append(held, client, server)
		}
		return nil
	})
	ended := p.ended()
	if !ended {
		p.signal(syscall.SIGTERM)
	}
	text := out.rest(t)
	status := p.status()
	eventually(t, "the kernel has freed all", func() bool {
		for key, name := range listBPF(t).since(before) {
			if name == "set_state" {
				t.Log(key, name)
				return false
			}
		}
		return true
	})
	switch {
	case status == -1: // killed
	case status == exitDone && strings.Contains(text, `"reason":"history_unavailable"`):
	case status == exitDone && strings.Count(text, `"type":"transition"`) >= 4*connections: // there was room
	default:
		t.Errorf("status %d, %d transitions, not a word of what is missing: %s", status, strings.Count(text, `"type":"transition"`), p.stderr)
	}
	failures, _ := os.ReadFile(filepath.Join(cgroup, "memory.failcnt"))
	t.Logf("%d connections made; killed: %t, status %d, %d transitions shown, limit hit %s times: %s",
		connections, ended, status, strings.Count(text, `"type":"transition"`), bytes.TrimSpace(failures), p.stderr)
}
