package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
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
	cgroup, err := os.MkdirTemp("/sys/fs/cgroup/memory", "tcptrace-test-")
	if err != nil {
		cgroup = memoryCgroup2(t)
	}
	t.Cleanup(func() { check(t, os.Remove(cgroup)) })
	limit := filepath.Join(cgroup, "memory.max")
	if _, err := os.Stat(limit); err != nil {
		limit = filepath.Join(cgroup, "memory.limit_in_bytes")
	}
	check(t, os.WriteFile(limit, []byte("100M"), 0))
	p := newNetNS(t).runLimited(fmt.Sprintf("set -e; echo $$ >%s/cgroup.procs; set -- \"$@\" --buffer %d", cgroup, 256<<20))
	if status := p.status(); status != exitFailure {
		t.Errorf("status %d, want %d: %s", status, exitFailure, p.stderr)
	}
	if message := p.stderr.String(); strings.Count(message, "\n") != 1 || !strings.Contains(message, "the buffers take 262144 KiB") {
		t.Errorf("want one line that says what to do, got: %s", message)
	}
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
