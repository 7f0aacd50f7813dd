package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
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

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// program is the command as a process of its own, its standard output a pipe
// that nobody reads but the test.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *os.File
	stderr *safeBuffer
	done   chan struct{} // closed when it has ended
}

// startProgram starts the command as root, unless the attributes say otherwise.
func startProgram(t *testing.T, attr *syscall.SysProcAttr, args ...string) *program {
	t.Helper()
	return startCommand(t, exec.Command(selfExe, args...), attr)
}

// startCommand does so by way of another command.
func startCommand(t *testing.T, cmd *exec.Cmd, attr *syscall.SysProcAttr) *program {
	t.Helper()
	stdout, childStdout, err := os.Pipe()
	check(t, err)
	p := &program{t: t, cmd: cmd, stdout: stdout, stderr: &safeBuffer{}, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), runAsProgram+"=1")
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = childStdout, p.stderr, attr
	check(t, p.cmd.Start())
	check(t, childStdout.Close())
	go func() {
		_ = p.cmd.Wait() // its status is asked for where it matters
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		_ = stdout.Close()
	})
	return p
}

// startTracer starts the command with -o json for the namespace and waits until
// it is attached.
func (ns *netns) startTracer(args ...string) *program {
	ns.t.Helper()
	p := startProgram(ns.t, nil, ns.arguments(args)...)
	eventually(ns.t, "the tracer is attached", func() bool {
		if p.ended() {
			ns.t.Fatalf("the tracer has ended: %s", p.stderr)
		}
		return attached.MatchString(p.stderr.String())
	})
	return p
}

func (p *program) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// status waits for the end and returns the exit status, -1 for a signal.
func (p *program) status() int {
	p.t.Helper()
	eventually(p.t, "the command has ended", p.ended)
	return p.cmd.ProcessState.ExitCode()
}

func (p *program) signal(s syscall.Signal) {
	p.t.Helper()
	check(p.t, p.cmd.Process.Signal(s))
}

// lines reads from standard output in the background.
func (p *program) lines() *lineReader {
	r := &lineReader{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for b := bufio.NewReader(p.stdout); ; {
			text, err := b.ReadBytes('\n')
			r.add(text)
			if err != nil {
				return
			}
		}
	}()
	return r
}

// lineReader collects lines.
type lineReader struct {
	mu   sync.Mutex
	all  bytes.Buffer
	n    int
	done chan struct{}
}

func (r *lineReader) add(text []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all.Write(text)
	if bytes.HasSuffix(text, []byte("\n")) {
		r.n++
	}
}

func (r *lineReader) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// contains reports whether a text was read.
func (r *lineReader) contains(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Contains(r.all.Bytes(), []byte(text))
}

// rest waits for the end of the stream and returns all of it.
func (r *lineReader) rest(t *testing.T) string {
	t.Helper()
	eventually(t, "standard output is closed", func() bool {
		select {
		case <-r.done:
			return true
		default:
			return false
		}
	})
	return r.all.String()
}

// startTraffic makes connections in the namespace, one after the other, until
// it is told to stop.
func (ns *netns) startTraffic() (stop func()) {
	t := ns.t
	t.Helper()
	listener := ns.listen(ns.v4(1))
	from, to := sockaddr(netip.AddrPortFrom(ns.v4(2), 0)), sockaddr(listener.addr())
	enough, done := make(chan struct{}), make(chan error, 1)
	ns.calls <- func() {
		for {
			select {
			case <-enough:
				done <- nil
				return
			default:
			}
			if err := connectAndClose(listener.fd, from, to, true); err != nil {
				done <- err
				return
			}
		}
	}
	stop = sync.OnceFunc(func() {
		close(enough)
		check(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// TestKernelStdoutClosed: who reads the first line only, as head does, ends the
// command quietly, and its recording is whole.
func TestKernelStdoutClosed(t *testing.T) {
	requireKernel(t)
	recording := filepath.Join(t.TempDir(), "a.tct")
	for _, args := range [][]string{{"-o", "text"}, {"-o", "json"}, {"-o", "json", "-w", recording}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			ns := newNetNS(t)
			p := startProgram(t, nil, append(args, "--netns", strconv.FormatUint(uint64(ns.inode), 10))...)
			stopTraffic := ns.startTraffic()
			first, err := bufio.NewReader(p.stdout).ReadString('\n')
			check(t, err)
			check(t, p.stdout.Close())
			if status := p.status(); status != exitDone {
				t.Errorf("status %d, want %d", status, exitDone)
			}
			stopTraffic()
			// What text says at the start is no complaint.
			complaints := p.stderr.String()
			if greeting, rest, _ := strings.Cut(complaints, "\n"); strings.HasPrefix(greeting, "tcptrace: tracing TCP") {
				complaints = rest
			}
			if complaints != "" {
				t.Errorf("standard error: %s", complaints)
			}
			if slices.Contains(args, "-w") && !strings.HasPrefix(replayWhole(t, recording), first) {
				t.Errorf("the recording does not begin with %s", first)
			}
		})
	}
}

// TestKernelStdoutFull: results that cannot be written are a failure.
func TestKernelStdoutFull(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	check(t, err)
	defer full.Close()
	stopTraffic := ns.startTraffic()
	var stderr safeBuffer
	status := run([]string{"-o", "json", "--netns", strconv.FormatUint(uint64(ns.inode), 10)}, strings.NewReader(""), full, &stderr)
	stopTraffic()
	if status != exitFailure {
		t.Errorf("status %d, want %d", status, exitFailure)
	}
	if message := stderr.String(); !strings.Contains(message, "write results") || !strings.Contains(message, "no space left on device") {
		t.Errorf("the error does not say that there is no space for the results: %s", message)
	}
}

// TestKernelSignals: in the midst of a stream, the last line is whole and the
// sum is drawn.
func TestKernelSignals(t *testing.T) {
	requireKernel(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			ns := newNetNS(t)
			p := ns.startTracer()
			out := p.lines()
			stopTraffic := ns.startTraffic()
			eventually(t, "the stream runs", func() bool { return out.count() > 1000 })
			p.signal(signal)
			text := out.rest(t)
			if status := p.status(); status != exitDone {
				t.Errorf("status %d, want %d", status, exitDone)
			}
			stopTraffic()

			lines := strings.SplitAfter(text, "\n")
			if last := lines[len(lines)-1]; last != "" {
				t.Errorf("the last line is cut off: %q", last)
			}
			if last := lines[len(lines)-2]; !strings.HasPrefix(last, `{"type":"summary"`) {
				t.Errorf("the last line is no summary: %s", last)
			}
			r := newResult(ns, strings.NewReader(text), p.stderr.String())
			r.checkTimes()
			if r.summary.Transitions != len(r.transitions) || r.summary.Illegal > 0 || r.summary.Lost != r.passedOver() {
				t.Errorf("the summary is %+v after %d transitions", r.summary, len(r.transitions))
			}
			if words := fmt.Sprintf("tcptrace: %d transitions of %d connections in ", len(r.transitions), r.summary.Connections); !strings.Contains(p.stderr.String(), words) {
				t.Errorf("standard error does not sum up as %q: %s", words, p.stderr)
			}
		})
	}
}

// TestKernelSecondSignal: a command that cannot write any more can be ended.
func TestKernelSecondSignal(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	p := ns.startTracer()
	stopTraffic := ns.startTraffic()
	eventually(t, "the pipe is full", func() bool { return p.pipeIsFull() })
	eventually(t, "the command ends", func() bool {
		_ = p.cmd.Process.Signal(syscall.SIGINT) // it may have ended
		return p.ended()
	})
	stopTraffic()
}

// pipeIsFull reports whether the next page that the command writes would block.
func (p *program) pipeIsFull() bool {
	p.t.Helper()
	conn, err := p.stdout.SyscallConn()
	check(p.t, err)
	var waiting, size int
	var waitingErr, sizeErr error
	check(p.t, conn.Control(func(fd uintptr) {
		waiting, waitingErr = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		size, sizeErr = unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0)
	}))
	check(p.t, errors.Join(waitingErr, sizeErr))
	return waiting > size-os.Getpagesize()
}

// TestKernelStdoutBlocked: when nobody reads for a while, records are lost. All
// of them are counted, the sockets concerned are known, and none is taken for a
// violation.
func TestKernelStdoutBlocked(t *testing.T) {
	requireKernel(t)
	for _, buffer := range []int{os.Getpagesize(), 64 << 10} {
		t.Run(strconv.Itoa(buffer), func(t *testing.T) {
			inNetNS(t, func(ns *netns) { traceBlocked(ns, buffer) })
		})
		t.Run(strconv.Itoa(buffer)+" --no-time-wait", func(t *testing.T) {
			inNetNS(t, func(ns *netns) { traceBlocked(ns, buffer, "--no-time-wait") })
		})
	}
}

// traceBlocked traces with a buffer of the size while nobody reads.
func traceBlocked(ns *netns, buffer int, args ...string) {
	t := ns.t
	oracle := newOracle(t, 8<<10)
	recording := filepath.Join(t.TempDir(), "a.tct")
	p := ns.startTracer(append(args, "--buffer", strconv.Itoa(buffer), "-w", recording)...)
	listener := ns.listen(ns.v4(1))

	// These are seen from the start, and will lose a piece of their lives.
	const witnesses = 10
	var clients, servers [witnesses]*socket
	for i := range witnesses {
		clients[i], servers[i] = ns.dial(ns.v4(2), listener)
	}
	from, to := sockaddr(netip.AddrPortFrom(ns.v4(3), 0)), sockaddr(listener.addr())
	flood := func(connections int) {
		ns.do(func() error {
			var all unix.CPUSet
			if err := unix.SchedGetaffinity(0, &all); err != nil {
				return err
			}
			for cpu := range len(all) * 64 { // each has a buffer of its own
				if !all.IsSet(cpu) {
					continue
				}
				var one unix.CPUSet
				one.Set(cpu)
				if err := unix.SchedSetaffinity(0, &one); err != nil {
					return err
				}
				for range connections {
					if err := bindConnectClose(listener.fd, from, to); err != nil {
						return err
					}
				}
			}
			return unix.SchedSetaffinity(0, &all)
		})
	}
	flood(2000) // far more than pipe and buffers hold
	for i := range witnesses {
		clients[i].shutdown(unix.SHUT_WR)
	}
	flood(1000)
	out := p.lines()
	eventually(t, "the tracer has caught up", func() bool {
		ns.listen(ns.v4(4)).close()
		return out.contains(ns.v4(4).String())
	})
	for i := range witnesses {
		servers[i].close()
		clients[i].close()
	}
	listener.close()

	lives := oracle.settle(ns)
	p.signal(syscall.SIGTERM)
	text := out.rest(t)
	if status := p.status(); status != exitDone {
		t.Errorf("status %d, want %d", status, exitDone)
	}
	r := newResult(ns, strings.NewReader(text), p.stderr.String())
	r.timers = len(args) == 0
	r.compareLossy(lives)
	if replayed := replayWhole(t, recording); replayed != text {
		t.Errorf("the recording shows something else than the live run")
	}
}

// bindConnectClose makes a connection from a port that no other one has had:
// TIME_WAIT keeps it.
func bindConnectClose(listener int, from, to unix.Sockaddr) error {
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(client, from), unix.Connect(client, to)); err != nil {
		return err
	}
	server, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	return errors.Join(err, unix.Close(client), unix.Close(server))
}

// compareLossy compares a run that lost records with the oracle. The sequence
// number of a record says which step of its socket's life it is.
func (r *result) compareLossy(want []*life) {
	t := r.t
	t.Helper()
	lost := 0
	for i := range r.notices {
		switch n := &r.notices[i]; {
		case n.Kind == "lost" && n.Reason == "ringbuf_full" && n.Count > 0:
			lost += n.Count
		case n.Reason != passedOver:
			t.Errorf("unexpected notice: %s %s %d", n.Kind, n.Reason, n.Count)
		}
	}
	r.ns.checkDisturbance(want, r.traced()+lost, r.passedOver())

	made := 0
	byEnds := make(map[string]*life)
	for _, l := range want {
		made += len(l.steps)
		byEnds[fmt.Sprint(l.local, l.remote)] = l
	}
	var skews skews
	gaps := 0
	for _, s := range r.sockets {
		if l := byEnds[fmt.Sprint(s.local, s.remote)]; l != nil {
			gaps += r.compareHoles(s, l, &skews)
		} else {
			t.Errorf("the oracle did not see %v", s)
		}
	}
	skews.check(t)
	sum := &r.summary
	if lost == 0 || gaps == 0 {
		t.Errorf("%d records lost, %d gaps: want some, or this test shows nothing", lost, gaps)
	}
	if len(r.requests) != 0 { // all became connections
		t.Errorf("%d handshakes came to nothing: %s", len(r.requests), r.firstRequest())
	}
	if sum.Illegal != 0 || sum.Gaps != gaps || sum.Lost != lost+r.passedOver() || sum.Transitions != len(r.transitions) {
		t.Errorf("the summary is %+v, want %d transitions, %d gaps, %d lost", sum, len(r.transitions), gaps, lost)
	}
	// Some of those lost were steps of minisocks, which the oracle does not know.
	if shown := r.traced(); lost+shown < made || !r.timers && lost+shown != made || shown > made {
		t.Errorf("%d lost and %d shown, but %d were made", lost, shown, made)
	}
	if !strings.Contains(r.stderr, "lost: the output is slower than the traffic") {
		t.Errorf("standard error is silent about the loss: %s", r.stderr)
	}
	t.Logf("%d made, %d shown, %d lost, %d gaps; apart by %v", made, len(r.transitions), lost, gaps, &skews)
}

// compareHoles compares what is left of a life with the whole of it: after each
// hole, and nowhere else, is a gap. It returns their number.
func (r *result) compareHoles(s *tracedLife, want *life, skews *skews) (gaps int) {
	t := r.t
	t.Helper()
	due := uint32(1)
	for _, l := range s.lines {
		switch own := l.Seq > 0 && int(l.Seq) <= len(want.steps); {
		case l.ofMinisock() && !own:
		case l.ofMinisock() || !own:
			t.Errorf("record %d of %d: %v", l.Seq, len(want.steps), s)
			return gaps
		default:
			step := &want.steps[l.Seq-1]
			if l.From != step.from.String() || l.kernelTo() != step.to.String() {
				t.Errorf("record %d is %s -> %s, the oracle saw %v -> %v", l.Seq, l.From, l.To, step.from, step.to)
			}
			skews.add(int64(r.at(l) - step.at))
		}
		isGap := l.Verdict == fsm.Gap.String()
		if isGap {
			gaps++
		}
		if isGap != (l.Seq != due) || l.Verdict == fsm.Illegal.String() {
			t.Errorf("record %d, where %d was due, is judged %s: %s", l.Seq, due, l.Verdict, l.Reason)
		}
		due = l.Seq + 1
	}
	return gaps
}

// TestKernelRecording: a recording shows what the live run has shown, byte for
// byte, and nobody else may read it.
func TestKernelRecording(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		name := filepath.Join(t.TempDir(), "a.tct")
		tr := trace(ns, "-w", name)
		playClientFirst(ns)
		playLinger0(ns)
		playListenAgain(ns)
		playIPv6(ns)
		tr.finish()
		live := tr.text()

		info, err := os.Stat(name)
		check(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("the file's mode is %v, want 0600", info.Mode())
		}
		if replayed := replayWhole(t, name); replayed != live {
			t.Errorf("replayed:\n%s\nlive:\n%s", replayed, live)
		}
	})
}

// replayWhole returns what a whole recording shows.
func replayWhole(t *testing.T, name string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if status := run([]string{"-r", name, "-o", "json"}, strings.NewReader(""), &stdout, &stderr); status != exitDone {
		t.Errorf("status %d: %s", status, &stderr)
	}
	return stdout.String()
}

// TestKernelRecordingIsNotWritable: nothing that is there is harmed.
func TestKernelRecordingIsNotWritable(t *testing.T) {
	requireKernel(t)
	dir := t.TempDir()
	existing := filepath.Join(dir, "existing")
	check(t, os.WriteFile(existing, []byte("precious"), 0o644))
	for _, test := range []struct{ name, file, want string }{
		{"existing file", existing, "exists"},
		{"directory", dir, "directory"},
		{"in no directory", filepath.Join(dir, "no", "where"), "no such file or directory"},
		{"below a file", filepath.Join(existing, "file"), "not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			status := run([]string{"-o", "json", "-w", test.file}, strings.NewReader(""), &stdout, &stderr)
			if status != exitFailure {
				t.Errorf("status %d, want %d", status, exitFailure)
			}
			if message := stderr.String(); strings.Count(message, "\n") != 1 || !strings.Contains(message, test.want) || !strings.Contains(message, test.file) {
				t.Errorf("want one line that names %s and says %q, got: %s", test.file, test.want, message)
			}
			if stdout.Len() > 0 {
				t.Errorf("standard output: %s", &stdout)
			}
			if text, err := os.ReadFile(existing); err != nil || string(text) != "precious" {
				t.Errorf("the file is now %q, %v", text, err)
			}
		})
	}
}

// TestKernelDiskFull: what was written before is not lost.
func TestKernelDiskFull(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	name := filepath.Join(smallDisk(t, "16k"), "a.tct")
	tr := trace(ns, "-w", name)
	stopTraffic := ns.startTraffic()
	eventually(t, "the disk is full", tr.poll)
	stopTraffic()
	if tr.status != exitFailure {
		t.Errorf("status %d, want %d", tr.status, exitFailure)
	}
	if message := tr.stderr.String(); !strings.Contains(message, "no space left on device") || !strings.Contains(message, name) {
		t.Errorf("the error does not say that there is no space for %s: %s", name, message)
	}
	live := tr.text()

	var stdout, stderr bytes.Buffer
	if status := run([]string{"-r", name, "-o", "json"}, strings.NewReader(""), &stdout, &stderr); status != exitFailure {
		t.Errorf("replayed with status %d, want %d", status, exitFailure)
	}
	if !strings.Contains(stderr.String(), "cut off") {
		t.Errorf("replayed without a word of the cut: %s", &stderr)
	}
	rows := 0
	for line := range strings.Lines(stdout.String()) {
		if strings.HasPrefix(line, `{"type":"transition"`) {
			rows++
			if !strings.Contains(live, line) {
				t.Fatalf("replayed, but not shown live: %s", line)
			}
		}
	}
	if rows == 0 {
		t.Error("the recording replays nothing")
	}
	t.Logf("%d transitions saved", rows)
}

// smallDisk mounts a file system of the size for the test alone: it is in no
// table and goes with its descriptor.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		unavailable(t, "no small file system can be made: %v", err)
	}
	defer func() { check(t, unix.Close(fs)) }()
	check(t, unix.FsconfigSetString(fs, "size", size))
	check(t, unix.FsconfigCreate(fs))
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { check(t, unix.Close(mount)) })
	return fmt.Sprintf("/proc/self/fd/%d", mount)
}

// TestKernelNoPrivileges: one clear message, and no traces.
func TestKernelNoPrivileges(t *testing.T) {
	requireKernel(t) // as root, who can become somebody else
	somebody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	dir, err := os.MkdirTemp("", "tcptrace-test-")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	check(t, os.Chmod(dir, 0o777))
	file := filepath.Join(dir, "a.tct")
	for _, args := range [][]string{nil, {"-o", "json"}, {"-L", "80"}, {"-w", file}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			p := startProgram(t, somebody, args...)
			out := p.lines().rest(t)
			if status := p.status(); status != exitUnsupported {
				t.Errorf("status %d, want %d", status, exitUnsupported)
			}
			message := p.stderr.String()
			if strings.Count(message, "\n") != 1 || !strings.Contains(message, "CAP_BPF") || !strings.Contains(message, "root") {
				t.Errorf("want one line that names CAP_BPF and root, got: %s", message)
			}
			if out != "" {
				t.Errorf("standard output: %s", out)
			}
			if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left a file: %v", err)
			}
		})
	}
	t.Run("check", func(t *testing.T) {
		p := startProgram(t, somebody, "check")
		out := p.lines().rest(t)
		if status := p.status(); status != exitUnsupported {
			t.Errorf("status %d, want %d", status, exitUnsupported)
		}
		if !strings.Contains(out, "MISSING") || !strings.Contains(out, "CAP_BPF") || p.stderr.String() != "" {
			t.Errorf("standard output:\n%s\nstandard error:\n%s", out, p.stderr)
		}
	})
}

// TestKernelTwoCapabilities: less than root is enough to see all that happens, with the
// owners and TIME_WAIT; what it is not enough for is told.
func TestKernelTwoCapabilities(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		p := ns.beside(&syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
			AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON},
		})
		playClientFirst(ns)
		playServerFirst(ns)
		r := p.finish("unmeasured", "unseen")
		if r.takenOver() != 2 || !strings.Contains(p.stderr.String(), "not looked at: ") {
			t.Errorf("%d in TIME_WAIT, want 2: %s", r.takenOver(), p.stderr)
		}
		for i := range r.transitions {
			if l := &r.transitions[i]; l.From == "FIN_WAIT_1" && known(l.PID) != os.Getpid() {
				t.Errorf("the owner is not known: %v", l)
			}
		}
		// It has no more than these, and gave up what it could.
		if status := p.capabilities; allThreads() &&
			(status["CapEff"]&^(1<<unix.CAP_BPF) != 0 || status["NoNewPrivs"] != 1 || status["Seccomp"] != 2) {
			t.Errorf("it has %x", status)
		}
	})
}

// kernelObjects returns the numbers of the eBPF objects that a process holds.
func kernelObjects(t *testing.T, pid int) map[string][]uint32 {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	check(t, err)
	objects := make(map[string][]uint32)
	for _, name := range infos {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(text)) {
			kind, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			if id, err := strconv.ParseUint(value, 10, 32); err == nil && strings.HasSuffix(kind, "_id") {
				objects[kind] = append(objects[kind], uint32(id))
			}
		}
	}
	return objects
}

// TestKernelEndsByItself: after so many transitions, or so much time.
func TestKernelEndsByItself(t *testing.T) {
	requireKernel(t)
	t.Run("-c", func(t *testing.T) {
		ns := newNetNS(t)
		tr := trace(ns, "-c", "5")
		playClientFirst(ns) // 12 transitions
		eventually(t, "the command ends", tr.poll)
		r := tr.result()
		if len(r.transitions) != 5 || r.summary.Transitions != 5 {
			t.Errorf("%d transitions, the summary says %d, want 5", len(r.transitions), r.summary.Transitions)
		}
	})
	t.Run("--duration", func(t *testing.T) {
		tr := trace(newNetNS(t), "--duration", "1ms")
		eventually(t, "the command ends", tr.poll)
		tr.result()
	})
}
