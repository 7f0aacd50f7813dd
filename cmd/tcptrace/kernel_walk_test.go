package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

const (
	// envSeed chooses the walk of TestKernelWalk: replays one that failed.
	envSeed = "TCPTRACE_SEED"
	// envWalk is for how long TestKernelWalk takes new walks: make walk.
	envWalk = "TCPTRACE_WALK"
)

// walkSeeds are walked by make test: some that found what was wrong in tcptrace.
var walkSeeds = []uint64{3255294083, 1418043262, 3401768463, 1407371549}

// TestKernelWalk has processes make what calls they like on many sockets at once, and
// holds all that tcptrace says of it against the kernel's own trace, against ss, and
// against what the processes say that they have done.
func TestKernelWalk(t *testing.T) {
	requireOwners(t)
	seeds := func(yield func(uint64) bool) {
		for _, seed := range walkSeeds {
			if !yield(seed) {
				return
			}
		}
	}
	if text := os.Getenv(envSeed); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s=%s: want a seed that a walk has printed", envSeed, text)
		}
		seeds = func(yield func(uint64) bool) { yield(seed) }
	} else if text := os.Getenv(envWalk); text != "" {
		length, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%s=%s: want how long to walk, such as 1h", envWalk, text)
		}
		until := time.Now().Add(length)
		seeds = func(yield func(uint64) bool) {
			for time.Now().Before(until) && yield(rand.Uint64N(1<<32)) {
			}
		}
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("to walk this again: %s=%d %s -run '^TestKernelWalk$'", envSeed, seed, "go test ./cmd/tcptrace")
				}
			})
			takeWalk(t, seed)
		})
	}
}

// walk is one at random: what is done is decided by the seed, when and on which CPU by
// the kernel.
type walk struct {
	t       *testing.T
	ns      *netns
	rng     *rand.Rand
	config  walkerConfig // that the walkers share
	skipped bool         // TIME_WAIT may be, which is illegal
	filters []string     // rules of nftables, of which one at a time is in force

	tr        *lifeTracing
	mailboxes [][2]int // an end to take from, an end to put into
	told      *os.File // where the walkers tell
	walkers   []*exec.Cmd
	streams   uint64 // used so far

	mu    sync.Mutex
	deeds []*deed
	over  chan error // the walkers have ended

	looks  []string    // recordings of tcptrace stuck, under load
	second *program    // a tracer that came later
	out    *lineReader // its
	from   uint64      // it sees all from then on
	odd    *oddPeer
	killed map[int]bool // walkers, by PID
}

const walkers = 3

func takeWalk(t *testing.T, seed uint64) {
	k := &walk{t: t, ns: newNetNS(t), rng: rand.New(rand.NewPCG(seed, 0)), over: make(chan error, 1), killed: make(map[int]bool)}
	k.prepare(seed)
	k.tr = traceLifeMany(k.ns, 32<<10, "--stuck", "--limit", "SYN_SENT=2s")
	for range walkers {
		k.startWalker(600 + k.rng.IntN(600))
	}
	k.interfere()
	k.finish()
}

// prepare makes the world to walk in.
func (k *walk) prepare(seed uint64) {
	t, ns := k.t, k.ns
	t.Helper()
	silent := ns.silence()
	k.config = walkerConfig{
		Seed: seed, Walkers: walkers,
		Own: []netip.Addr{ns.v4(1), ns.v4(2), ns.v4(3), ns.v6()},
	}
	port := uint16(2000 + rand.IntN(20_000)) // of this test alone, as a listener on any address has no other mark
	for range 4 {
		k.config.Listen = append(k.config.Listen, port)
		k.config.Local = append(k.config.Local, port+100)
		port++
	}
	a := silent.Addr().As4()
	a[3] = byte(10 + rand.IntN(240)) // of this test alone
	for range 3 {
		k.config.Silent = append(k.config.Silent, netip.AddrFrom4(a))
		a[3]++
	}
	ns.addrs = append(ns.addrs, k.config.Silent...)
	ns.ports = slices.Concat(k.config.Listen, k.config.Local)
	ns.fastOpen, ns.slowSYN = true, true

	choice := func(name string, values ...string) string {
		v := pick(k.rng, values)
		ns.sysctl("ipv4/"+name, v)
		return v
	}
	k.skipped = choice("tcp_max_tw_buckets", "100000", "100000", "100000", "3") == "3"
	choice("tcp_syncookies", "0", "1", "1", "2")
	choice("tcp_fastopen", "1", "3", "0x603", "0x603", "0x407")
	choice("tcp_tw_reuse", "0", "1", "2")
	choice("tcp_abort_on_overflow", "0", "0", "1")
	choice("tcp_rfc1337", "0", "1")
	choice("tcp_migrate_req", "0", "1")
	choice("tcp_timestamps", "1", "1", "0")
	choice("tcp_fin_timeout", "1", "2", "60")
	choice("tcp_syn_retries", "1", "2")
	choice("tcp_synack_retries", "0", "1")
	choice("tcp_retries2", "2", "3")
	choice("tcp_orphan_retries", "1", "2")
	choice("tcp_max_syn_backlog", "2", "128")
	if k.rng.IntN(3) == 0 {
		ns.sysctl("ipv4/ip_local_port_range", "40000 40010")
	}

	k.filters = []string{"numgen random mod 100 < 15 drop", "numgen random mod 100 < 15 reject",
		"numgen random mod 100 < 10 reject with tcp reset", "tcp flags & fin == fin numgen random mod 100 < 70 drop",
		"tcp flags & ack == ack numgen random mod 100 < 30 drop", "tcp flags & rst == rst drop", ""}
	k.nft("add table inet walk; add chain inet walk in { type filter hook input priority 0; }")
	k.filter()

	for range walkers {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		k.mailboxes = append(k.mailboxes, pair)
	}
	r, w, err := os.Pipe()
	check(t, err)
	k.told = w
	go func() {
		k.over <- readDeeds(r, func(d *deed) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.deeds = append(k.deeds, d)
		})
		_ = r.Close()
	}()
	k.odd = ns.startOddPeer(seed, &k.config)
}

// nft changes the rules against segments, where the tool for that is there: the walk does
// without.
func (k *walk) nft(rules string) {
	k.t.Helper()
	if _, err := exec.LookPath("nft"); err == nil {
		k.ns.runTool("nft", rules)
	}
}

// filter puts another rule against segments in force, or none.
func (k *walk) filter() {
	k.t.Helper()
	rules := "flush chain inet walk in"
	if rule := pick(k.rng, k.filters); rule != "" && k.rng.IntN(2) == 0 {
		rules += "; add rule inet walk in meta l4proto tcp " + rule
	}
	k.nft(rules)
}

// startWalker starts another process that walks so many steps.
func (k *walk) startWalker(steps int) {
	t := k.t
	t.Helper()
	c := k.config
	k.streams++
	c.Stream, c.Steps = k.streams, steps
	c.Name = fmt.Sprintf("walker %d", k.streams)
	text, err := json.Marshal(c)
	check(t, err)
	cmd := exec.Command(selfExe, string(text))
	cmd.Env = append(os.Environ(), envRole+"=walker")
	cmd.Stdout, cmd.Stderr = k.told, os.Stderr
	file := func(fd int) *os.File {
		again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		check(t, err)
		return os.NewFile(uintptr(again), "mailbox")
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, file(k.mailboxes[int(k.streams)%walkers][0]))
	for _, m := range k.mailboxes {
		cmd.ExtraFiles = append(cmd.ExtraFiles, file(m[1]))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	k.ns.do(cmd.Start)
	for _, f := range cmd.ExtraFiles {
		check(t, f.Close())
	}
	k.walkers = append(k.walkers, cmd)
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
	})
}

// done returns how many deeds there are.
func (k *walk) done() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.deeds)
}

// interfere does what is done to sockets by others than who holds them, and looks at
// them, until the walkers have ended.
func (k *walk) interfere() {
	t := k.t
	t.Helper()
	for next := 200; ; next += 150 + k.rng.IntN(250) {
		eventually(t, "the walkers go on", func() bool {
			k.tr.oracle.drain(t)
			return k.done() >= next || k.ended()
		})
		if k.ended() {
			break
		}
		switch n := k.rng.IntN(20); {
		case n < 5:
			k.destroySome()
		case n < 9:
			k.filter()
		case n < 13:
			k.killOne()
		case n < 16:
			k.look()
		case n < 18:
			k.standStill()
		case k.second == nil:
			k.second = k.ns.startTracer("trace")
			k.out = k.second.lines()
			k.from = bootNow(t)
		}
	}
	check(t, k.told.Close())
	select {
	case err := <-k.over:
		check(t, err)
	case <-time.After(usualWait):
		t.Fatal("a child of a walker does not end")
	}
}

// ended reports whether all walkers have.
func (k *walk) ended() bool {
	for len(k.walkers) > 0 {
		cmd := k.walkers[0]
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != nil || info.Signo == 0 {
			return false
		}
		if err := cmd.Wait(); err != nil && !k.killed[cmd.Process.Pid] {
			k.t.Fatalf("a walker: %v", err)
		}
		k.walkers = k.walkers[1:]
	}
	return true
}

// killOne kills a walker, and starts another that takes its mailbox.
func (k *walk) killOne() {
	cmd := k.walkers[k.rng.IntN(len(k.walkers))]
	if k.killed[cmd.Process.Pid] {
		return
	}
	k.killed[cmd.Process.Pid] = true
	check(k.t, cmd.Process.Kill())
	k.startWalker(200 + k.rng.IntN(300))
}

// destroySome lets an administrator destroy sockets.
func (k *walk) destroySome() {
	filter := pick(k.rng, []string{
		"state established", "state fin-wait-1", "state fin-wait-2", "state time-wait", "state syn-sent", "state syn-recv",
		"state close-wait", "state last-ack", "state closing", "state listening",
		fmt.Sprintf("dport = %d", pick(k.rng, k.config.Listen)), fmt.Sprintf("sport = %d", pick(k.rng, k.config.Listen)),
		fmt.Sprintf("dst %v", pick(k.rng, k.config.Silent)),
	})
	k.ns.destroy(strings.Fields(filter)...)
}

// look lets another tracer look at the sockets while they move.
func (k *walk) look() {
	t := k.t
	t.Helper()
	recording := filepath.Join(t.TempDir(), "a.tct")
	r := k.ns.stuck("--limit", anyAge, "-w", recording)
	if r.status != exitDone || r.summary.Lost != 0 || len(r.notices) != 0 {
		t.Errorf("status %d, %+v, %v: %s", r.status, r.summary, r.notices, r.stderr)
	}
	k.looks = append(k.looks, recording)
}

// signal sends a signal to all walkers.
func (k *walk) signal(s syscall.Signal) {
	for _, cmd := range k.walkers {
		check(k.t, unix.Kill(-cmd.Process.Pid, s)) // and its children
	}
}

// standStill stops the walkers, and holds what tcptrace finds then against ss.
func (k *walk) standStill() {
	t := k.t
	t.Helper()
	k.signal(unix.SIGSTOP)
	defer k.signal(unix.SIGCONT)
	before := k.ssIn()
	r := k.ns.stuck("--limit", anyAge)
	after := k.ssIn()
	found := make(map[string]bool)
	for i := range r.stuck {
		l := &r.stuck[i]
		if l.Socket == "" {
			continue // a handshake
		}
		if found[l.Socket] {
			t.Errorf("twice: %v", l)
		}
		found[l.Socket] = true
		was, ok := before[l.Socket]
		if is, again := after[l.Socket]; !ok || !again || was.state != is.state || was.recvQ != is.recvQ || !slices.Equal(was.holders, is.holders) {
			continue // the odd peer and the timers do not stop, nor does a child that just begins
		}
		if l.State != was.state.String() || !isEnd(l.Local, was.local, false) ||
			was.state != fsm.Listen && !isEnd(l.Remote, was.remote, false) {
			t.Errorf("ss has %+v: %v", was, l)
		}
		if len(was.holders) == 0 {
			if l.PID != nil && l.FD != nil || known(l.Holders) > 0 {
				t.Errorf("held by nobody, by ss: %v", l)
			}
		} else if !slices.Contains(was.holders, [2]int{known(l.PID), known(l.FD)}) || known(l.Holders) != len(was.holders) {
			t.Errorf("held by %v, by ss: %v", was.holders, l)
		}
	}
}

// ssIn returns what ss says of the namespace.
func (k *walk) ssIn() map[string]fullSS {
	k.t.Helper()
	fd := -1
	k.ns.do(func() (err error) {
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	defer func() { check(k.t, unix.Close(fd)) }() // else it would keep the namespace
	return ssIn(k.t, fd)
}
