package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// TestKernelFewFiles: too low a limit of open files is no fault of the kernel, and
// leaves nothing behind.
func TestKernelFewFiles(t *testing.T) {
	requireKernel(t)
	p := newNetNS(t).runLimited("ulimit -n 24")
	if status := p.status(); status != exitFailure {
		t.Errorf("status %d, want %d", status, exitFailure)
	}
	if message := p.stderr.String(); strings.Count(message, "\n") != 1 || !strings.Contains(message, "ulimit -n") {
		t.Errorf("want one line that says what to do, got: %s", message)
	}
}

// runLimited runs the command after a line of shell, which sets limits.
func (ns *netns) runLimited(limit string) *program {
	ns.t.Helper()
	self, err := os.Executable()
	check(ns.t, err)
	return startCommand(ns.t, exec.Command("sh", "-c", limit+`; exec "$@"`, "sh", self, "-o", "json", "--netns", strconv.FormatUint(uint64(ns.inode), 10), "--duration", "100ms"), nil)
}

// TestKernelLittleMemory: where the limit of a cgroup leaves no room for the buffer, the
// message says so.
func TestKernelLittleMemory(t *testing.T) {
	requireKernel(t)
	cgroup, limit := memoryCgroup(t)
	check(t, os.WriteFile(limit, []byte("100M"), 0))
	ns := newNetNS(t)
	var p *program
	for range 5 { // the kernel may rather kill it, if it wants memory for itself just then
		p = ns.runLimited(fmt.Sprintf("set -e; echo $$ >%s/cgroup.procs; set -- \"$@\" --buffer %d", cgroup, 256<<20))
		if p.status() != -1 {
			break
		}
	}
	if status := p.status(); status != exitFailure {
		t.Errorf("status %d, want %d: %s", status, exitFailure, p.stderr)
	}
	if message := p.stderr.String(); strings.Count(message, "\n") != 1 || !strings.Contains(message, "the buffers take 262144 KiB") {
		t.Errorf("want one line that says what to do, got: %s", message)
	}
}

// memoryCgroup makes a cgroup whose memory can be limited, by a file.
func memoryCgroup(t *testing.T) (cgroup, limit string) {
	t.Helper()
	cgroup, err := os.MkdirTemp("/sys/fs/cgroup/memory", "tcptrace-test-")
	if err != nil {
		cgroup = memoryCgroup2(t)
	}
	t.Cleanup(func() {
		eventually(t, "the cgroup is empty", func() bool { return os.Remove(cgroup) == nil })
	})
	limit = filepath.Join(cgroup, "memory.max")
	if _, err := os.Stat(limit); err != nil {
		limit = filepath.Join(cgroup, "memory.limit_in_bytes")
	}
	return cgroup, limit
}

// memoryCgroup2 makes a cgroup of version 2 whose memory can be limited.
func memoryCgroup2(t *testing.T) string {
	t.Helper()
	mount, err := cgroup2Mount()
	if err != nil {
		t.Skip("there are no cgroups")
	}
	controllers, err := os.ReadFile(filepath.Join(mount.point, "cgroup.subtree_control"))
	if err != nil || !strings.Contains(string(controllers), "memory") {
		t.Skip("the memory of cgroups is not limited here")
	}
	cgroup, err := os.MkdirTemp(mount.point, "tcptrace-test-")
	check(t, err)
	return cgroup
}

// TestKernelPIDNamespace: in a PID namespace of its own, as in a container, it shows the
// numbers of the host, which are those of the kernel.
func TestKernelPIDNamespace(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	p := startProgram(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, ns.arguments([]string{"-s", "SYN_SENT", "-c", "1"})...)
	stopTraffic := ns.startTraffic()
	out := p.lines().rest(t)
	status := p.status()
	stopTraffic()
	if want := fmt.Sprintf(`"pid":%d,`, os.Getpid()); status != exitDone || !strings.Contains(out, want) {
		t.Errorf("status %d, want 0 and %s: %s\n%s", status, want, out, p.stderr)
	}
}

// TestKernelNamespacesGo: namespaces that go while they are walked are no failure, and
// what stays is found.
func TestKernelNamespacesGo(t *testing.T) {
	requireKernel(t)
	const spaces = 60
	ns := newNetNS(t)
	listener := ns.listen(ns.v4(1))
	defer listener.close()
	going := make([]*exec.Cmd, spaces)
	for i := range going {
		going[i] = exec.Command("sleep", "1000")
		going[i].SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		check(t, going[i].Start())
	}
	gone := make(chan error, 1)
	go func() {
		var errs []error
		for _, cmd := range going {
			errs = append(errs, cmd.Process.Kill())
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) {
				errs = append(errs, err)
			}
		}
		gone <- errors.Join(errs...)
	}()
	for walking := true; walking; {
		select {
		case err := <-gone:
			check(t, err)
			walking = false
		default:
		}
		p := startProgram(t, nil, "stuck", "-o", "json")
		out := p.lines().rest(t)
		if status := p.status(); status != exitDone || !strings.Contains(out, `"type":"summary"`) || strings.Contains(p.stderr.String(), "no such file") {
			t.Fatalf("status %d: %s\n%s", status, out, p.stderr)
		}
	}
}

// compared is a tracer as a process of its own, beside an oracle.
type compared struct {
	*program
	ns           *netns
	oracle       *oracle
	out          *lineReader
	capabilities map[string]uint64 // when it had seen something
}

// beside starts one for the namespace, with the attributes, by way of another command if
// one is given.
func (ns *netns) beside(attr *syscall.SysProcAttr, by ...string) *compared {
	t := ns.t
	t.Helper()
	oracle := newOracle(t, 8<<10)
	self := selfExe
	if len(by) > 0 { // it is itself only to itself
		var err error
		self, err = os.Executable()
		check(t, err)
	}
	command := append(append(by[:len(by):len(by)], self), ns.arguments(nil)...)
	p := startCommand(t, exec.Command(command[0], command[1:]...), attr)
	eventually(t, "the tracer is attached", func() bool {
		if p.ended() {
			t.Fatalf("the tracer has ended: %s", p.stderr)
		}
		return attached.MatchString(p.stderr.String())
	})
	return &compared{program: p, ns: ns, oracle: oracle, out: p.lines()}
}

// finish ends it when all sockets are closed, and compares what it said with the oracle.
// Notices of these kinds are expected.
func (c *compared) finish(expected ...string) *result {
	t := c.ns.t
	t.Helper()
	lives := c.oracle.settle(c.ns)
	eventually(t, "something is shown", func() bool { return c.out.count() > 0 })
	if proc := fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid); len(c.cmd.Args) == 1+len(c.ns.arguments(nil)) {
		c.capabilities = capabilities(t, proc)
		c.signal(syscall.SIGTERM)
	} else { // its parent is ours
		check(t, exec.Command("pkill", "-TERM", "-P", strconv.Itoa(c.cmd.Process.Pid)).Run())
	}
	text := c.out.rest(t)
	if status := c.status(); status != exitDone {
		t.Errorf("status %d: %s", status, c.stderr)
	}
	r := newResult(c.ns, strings.NewReader(text), c.stderr.String())
	r.notices = slices.DeleteFunc(r.notices, func(n line) bool { return slices.Contains(expected, n.Kind) })
	c.ns.checkDisturbance(lives, r.traced(), r.passedOver())
	r.checkSound()
	r.compare(lives)
	return r
}

// TestKernelManyTracers: several at once see the same, and one that is killed takes
// nothing from the others.
func TestKernelManyTracers(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		victim := ns.startTracer()
		first, second := ns.beside(nil), ns.beside(nil)
		playClientFirst(ns)
		victim.signal(syscall.SIGKILL)
		victim.status()
		playServerFirst(ns)
		playLinger0(ns)
		a, b := first.finish(), second.finish()
		if a.takenOver() != 2 || b.takenOver() != 2 || len(a.transitions) != len(b.transitions) {
			ns.t.Errorf("%d and %d in TIME_WAIT, of %d and %d transitions", a.takenOver(), b.takenOver(), len(a.transitions), len(b.transitions))
		}
	})
}

// TestKernelStatistics: the kernel's own statistics of eBPF change nothing but the cost.
func TestKernelStatistics(t *testing.T) {
	requireKernel(t)
	statistics, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		unavailable(t, "no statistics: %v", err)
	}
	defer statistics.Close()
	inNetNS(t, func(ns *netns) {
		t := ns.t
		p := ns.beside(nil)
		playClientFirst(ns)
		playLinger0(ns)
		var runs uint64
		for _, id := range kernelObjects(t, p.cmd.Process.Pid)["prog_id"] {
			program, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
			check(t, err)
			info, err := program.Info()
			check(t, err)
			stats, err := program.Stats()
			check(t, errors.Join(err, program.Close()))
			if info.Name == "set_state" {
				runs = stats.RunCount
			}
		}
		if r := p.finish(); uint64(len(r.transitions)) > runs+uint64(r.takenOver()) {
			t.Errorf("the program ran %d times for %d transitions: the statistics are off", runs, len(r.transitions))
		}
	})
}

// TestKernelContainer: in PID, mount and time namespaces of its own, with a /proc of its
// own, it sees what it sees outside, with the numbers and the time of the host.
func TestKernelContainer(t *testing.T) {
	requireKernel(t)
	for _, by := range [][]string{
		{"unshare", "--pid", "--fork", "--mount-proc"},
		{"unshare", "--time", "--fork", "--boottime", "100000", "--monotonic", "100000"},
	} {
		t.Run(strings.Join(by, " "), func(t *testing.T) {
			if out, err := exec.Command(by[0], append(by[1:len(by):len(by)], "true")...).CombinedOutput(); err != nil {
				unavailable(t, "%v: %v: %s", by, err, out)
			}
			inNetNS(t, func(ns *netns) {
				p := ns.beside(nil, by...)
				playClientFirst(ns)
				playIPv6(ns)
				after := time.Now().Add(-usualWait)
				for i, r := 0, p.finish("unseen"); i < len(r.transitions); i++ {
					l := &r.transitions[i]
					if l.From == "FIN_WAIT_1" && known(l.PID) != os.Getpid() {
						ns.t.Errorf("want the host's number %d: %v", os.Getpid(), l)
					}
					if l.Time.Before(after) || l.Time.After(time.Now()) {
						ns.t.Errorf("not dated now: %v", l)
					}
				}
			})
		})
	}
}

// TestKernelLockdown: a kernel that is locked down for confidentiality lets programs see all
// transitions, and their owners; it is told that TIME_WAIT is not measured. Its own trace
// it keeps to itself, so there is no oracle.
func TestKernelLockdown(t *testing.T) {
	requireKernel(t)
	text, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil || !strings.Contains(string(text), "[confidentiality]") {
		t.Skipf("this kernel is not locked down for confidentiality: %s%v", text, err)
	}
	inNetNS(t, func(ns *netns) {
		t := ns.t
		const all = 12
		p := ns.startTracer("-c", strconv.Itoa(all))
		out := p.lines()
		eventually(t, "the sockets have been walked", func() bool { return strings.Contains(p.stderr.String(), "walked the sockets") })
		playClientFirst(ns)
		r := newResult(ns, strings.NewReader(out.rest(t)), p.stderr.String())
		if status := p.status(); status != exitDone || len(r.transitions) != all || r.takenOver() != 0 {
			t.Errorf("status %d, %d transitions, %d in TIME_WAIT, want %d, %d, 0: %s",
				status, len(r.transitions), r.takenOver(), exitDone, all, p.stderr)
		}
		for i := range r.transitions {
			if l := &r.transitions[i]; known(l.PID) != os.Getpid() || l.Verdict != fsm.Legal.String() && l.Verdict != fsm.Linux.String() {
				t.Errorf("want one of process %d, in good order: %v", os.Getpid(), l)
			}
		}
		for _, want := range []string{"TIME_WAIT: programs may not read", "minisocks and handshakes (programs may not read"} {
			if !slices.ContainsFunc(r.notices, func(n line) bool { return strings.HasPrefix(n.Reason, want) }) {
				t.Errorf("want a notice of %q: %s", want, p.stderr)
			}
		}

		listener, client, server := ns.connected()
		found := ns.stuck("--limit", anyAge)
		for _, s := range []*socket{client, server} {
			if i := slices.IndexFunc(found.stuck, func(l stuckLine) bool { return l.Socket == s.cookie() }); i < 0 || known(found.stuck[i].PID) != os.Getpid() {
				t.Errorf("socket %s was not found, or not with its process: %s%s", s.cookie(), found.text, found.stderr)
			}
			s.close()
		}
		listener.close()

		p = startProgram(t, nil, "check")
		told := p.lines().rest(t)
		if status := p.status(); status != exitDone || !strings.Contains(told, "absent   helper bpf_probe_read_kernel\n") || !strings.Contains(told, "lockdown=integrity") {
			t.Errorf("check ends with status %d: %s", status, told)
		}
	})
}

// TestKernelManyScrapers: who opens connections to the agent without end takes nothing
// that tracing and walking need, though few files may be open.
func TestKernelManyScrapers(t *testing.T) {
	requireKernel(t)
	const many, files = 500, 150
	inNetNS(t, func(ns *netns) {
		t := ns.t
		self, err := os.Executable()
		check(t, err)
		p := startCommand(t, exec.Command("sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, files), "sh", self},
			"agent", "-v", "--listen", "127.0.0.1:0", "--netns", strconv.FormatUint(uint64(ns.inode), 10), "--limit", "CLOSE_WAIT=1s")...), nil)
		out := p.lines()
		eventually(t, "the agent is ready", func() bool {
			return serving.MatchString(p.stderr.String()) && strings.Contains(p.stderr.String(), "walked the sockets")
		})
		address := serving.FindStringSubmatch(p.stderr.String())[1]
		for range many {
			c, err := net.Dial("tcp", address)
			check(t, err)
			defer c.Close()
		}
		held := func() int {
			names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
			check(t, err)
			return len(names)
		}
		before := strings.Count(p.stderr.String(), "walked the sockets")
		client, server := ns.dial(ns.v4(2), ns.listen(ns.v4(1)))
		client.close()
		server.await(fsm.CloseWait)
		eventually(t, "what is stuck is found", func() bool {
			return out.contains(`"type":"stuck"`) && strings.Count(p.stderr.String(), "walked the sockets") > before
		})
		if strings.Contains(p.stderr.String(), "too many open files") {
			t.Errorf("scrapers take the files: %s", p.stderr)
		}
		t.Logf("%d files open, of %d, with %d connections", held(), files, many)
	})
}
