package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// tool is a tracer with its arguments: one of ours, or one to be compared with.
type tool struct {
	name    string
	command []string
	from    string // Debian package, where it is not ours
}

// installed reports whether a tool can be run, and says so if not.
func (b *bench) installed(t *tool) bool {
	if _, err := exec.LookPath(t.command[0]); err != nil {
		b.log.Printf("%s is left out: %s is not installed (apt-get install %s)", t.name, t.command[0], t.from)
		return false
	}
	return true
}

// ours is tcptrace.
func (b *bench) ours(name string, args ...string) *tool {
	return &tool{name: name, command: append([]string{b.tcptrace}, args...)}
}

// others are those that tcptrace is to beat.
func (b *bench) others() (list []*tool) {
	for _, t := range []*tool{
		{"tcplife", []string{"tcplife"}, "libbpf-tools"},
		{"tcpstates", []string{"tcpstates"}, "libbpf-tools"},
		{"bpftrace", []string{"bpftrace", "-e", `tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {
			printf("%llu %p %s %d %d %d %d %d\n", nsecs, args->skaddr, comm, pid, args->sport, args->dport, args->oldstate, args->newstate) }`}, "bpftrace"},
	} {
		if b.installed(t) {
			list = append(list, t)
		}
	}
	return list
}

// tracer is a tool at work.
type tracer struct {
	*tool
	cmd      *exec.Cmd
	output   *os.File
	messages bytes.Buffer
	programs []*ebpf.Program
}

// trace runs a tool, its output in a file, and returns when it sees connections.
func (b *bench) trace(ctx context.Context, t *tool) (_ *tracer, err error) {
	r := &tracer{tool: t}
	if r.output, err = os.Create(filepath.Join(b.folder, "output")); err != nil {
		return nil, err
	}
	r.cmd = exec.CommandContext(ctx, t.command[0], t.command[1:]...)
	r.cmd.Stdout, r.cmd.Stderr = r.output, &r.messages
	r.cmd.Cancel = func() error { return r.cmd.Process.Signal(unix.SIGTERM) }
	if err := r.cmd.Start(); err != nil {
		return nil, errors.Join(err, r.output.Close())
	}
	if err := r.ready(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", t.name, err), r.stop())
	}
	return r, nil
}

// onTracepoint is in the names that all tools give their programs on
// sock:inet_sock_set_state, and that the kernel keeps of them.
const onTracepoint = "set_s"

// ready waits until connections have run its program, others of which may be there before.
func (r *tracer) ready(ctx context.Context) error {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return fmt.Errorf("switch BPF statistics on: %w", err)
	}
	defer stats.Close()
	for wait := time.NewTicker(50 * time.Millisecond); ; <-wait.C {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := connectOnce(); err != nil {
			return err
		}
		if err := r.findPrograms(); err != nil {
			return fmt.Errorf("%w: %s", err, r.messages.String())
		}
		each, _, err := r.runs()
		if err != nil {
			return err
		}
		for i, runs := range each {
			if runs.count > 0 && strings.Contains(name(r.programs[i]), onTracepoint) {
				return nil
			}
		}
	}
}

// connectOnce makes a connection that leaves nothing behind, and returns its client's port.
func connectOnce() (port int, err error) {
	listener, address, err := listen(1)
	if err != nil {
		return 0, err
	}
	defer unix.Close(listener)
	client, server, err := connect(listener, source(0, 0), address)
	if err != nil {
		return 0, err
	}
	local, err := unix.Getsockname(client)
	return local.(*unix.SockaddrInet4).Port, errors.Join(err,
		unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Close(client), unix.Close(server))
}

// findPrograms finds what the process has open, by which nothing is missed that it pinned
// or has attached.
func (r *tracer) findPrograms() error {
	r.closePrograms()
	folder := fmt.Sprintf("/proc/%d/fdinfo", r.cmd.Process.Pid)
	files, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("it has ended: %w", err)
	}
	seen := make(map[int]bool)
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(folder, file.Name()))
		if err != nil {
			continue // closed since
		}
		for line := range strings.Lines(string(text)) {
			value, ok := strings.CutPrefix(line, "prog_id:")
			id, err := strconv.Atoi(strings.TrimSpace(value))
			if !ok || err != nil || seen[id] {
				continue
			}
			seen[id] = true
			program, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("look at its program %d: %w", id, err)
			}
			r.programs = append(r.programs, program)
		}
	}
	return nil
}

func (r *tracer) closePrograms() {
	for _, program := range r.programs {
		_ = program.Close() // only looked at
	}
	r.programs = nil
}

// runs is what the kernel counts of a program, while BPF statistics are on.
type runs struct {
	time  time.Duration
	count uint64
}

// runs returns what it has counted so far, of each program and in sum.
func (r *tracer) runs() (each []runs, sum runs, err error) {
	for _, program := range r.programs {
		s, err := program.Stats()
		if err != nil {
			return nil, sum, fmt.Errorf("read the statistics of a program: %w", err)
		}
		each = append(each, runs{s.Runtime, s.RunCount})
		sum.time += s.Runtime
		sum.count += s.RunCount
	}
	return each, sum, nil
}

// name is that of a program, as far as the kernel keeps it.
func name(program *ebpf.Program) string {
	info, err := program.Info()
	if err != nil {
		return "?"
	}
	return info.Name
}

// cpu is the time that the process took of all CPUs so far: in user space, and in the
// kernel on its behalf.
func (r *tracer) cpu() (user, system time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	// After the name, which may hold anything, utime is the 12th and stime the 13th.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const tick = 10 * time.Millisecond // USER_HZ
	for i, d := range map[int]*time.Duration{11: &user, 12: &system} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read the times of process %d: %w", r.cmd.Process.Pid, err)
		}
		*d = time.Duration(n) * tick
	}
	return user, system, nil
}

// total is both.
func (r *tracer) total() (time.Duration, error) {
	user, system, err := r.cpu()
	return user + system, err
}

// onCPU is the same, exact, but without threads that have ended.
func (r *tracer) onCPU() (sum time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", r.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", file, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// memory is what the process has for itself alone, in bytes.
func (r *tracer) memory() (anonymous float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return float64(n) * 1024, err
		}
	}
	return 0, errors.New("the kernel does not tell RssAnon")
}

// stop ends it as Ctrl-C does, and waits.
func (r *tracer) stop() error {
	r.closePrograms()
	_ = r.cmd.Process.Signal(unix.SIGINT) // it may have ended
	err := r.cmd.Wait()
	var status *exec.ExitError
	if errors.As(err, &status) && r.from != "" {
		err = nil // of others an interrupt may be an error
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", r.name, err, r.messages.String())
	}
	return errors.Join(err, r.output.Close())
}

// summary is what tcptrace says at the end of its JSON.
type summary struct {
	Type        string `json:"type"`
	Transitions uint64 `json:"transitions"`
	Connections uint64 `json:"connections"`
	Lost        uint64 `json:"lost"`
	Gaps        uint64 `json:"gaps"`
}

// readSummary reads it from the end of a file.
func readSummary(name string) (s summary, err error) {
	f, err := os.Open(name)
	if err != nil {
		return s, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return s, err
	}
	if _, err := f.Seek(max(0, size-4096), io.SeekStart); err != nil {
		return s, err
	}
	var last []byte
	for lines := bufio.NewScanner(f); lines.Scan(); {
		last = append(last[:0], lines.Bytes()...)
	}
	if err := json.Unmarshal(last, &s); err != nil || s.Type != "summary" {
		return s, fmt.Errorf("no summary at the end of the output, but %q", last)
	}
	return s, nil
}
