package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// envLacks names the requirement that a kernel is known to lack.
const envLacks = "TCPTRACE_KERNEL_LACKS"

// TestKernelRefused runs on kernels that lack something: every command that traces
// ends with status 3 and one sentence that names it, and leaves nothing behind.
func TestKernelRefused(t *testing.T) {
	lacks := os.Getenv(envLacks)
	if lacks == "" {
		t.Skip(envLacks + " names nothing that this kernel lacks")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tct")
	before := allObjects(t)
	for _, args := range [][]string{nil, {"-o", "json"}, {"-L", "80"}, {"--no-time-wait"}, {"-w", file}, {"life"}, {"stat"}, {"stuck"}, {"stuck", "--watch"}, {"agent"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			p := startProgram(t, nil, args...)
			out := p.lines().rest(t)
			if status := p.status(); status != exitUnsupported {
				t.Errorf("status %d, want %d", status, exitUnsupported)
			}
			message := p.stderr.String()
			if strings.Count(message, "\n") != 1 || !strings.Contains(message, lacks) || len(message) > 300 {
				t.Errorf("want one short line that names %q, got: %s", lacks, message)
			}
			if out != "" {
				t.Errorf("standard output: %s", out)
			}
		})
	}
	t.Run("check", func(t *testing.T) {
		p := startProgram(t, nil, "check")
		out := p.lines().rest(t)
		if status := p.status(); status != exitUnsupported {
			t.Errorf("status %d, want %d", status, exitUnsupported)
		}
		if _, first, _ := strings.Cut(out, "MISSING "); !strings.HasPrefix(strings.TrimSpace(first), lacks) {
			t.Errorf("the first thing missing is not %q:\n%s", lacks, out)
		}
	})
	entries, err := os.ReadDir(dir)
	check(t, err)
	if len(entries) != 0 {
		t.Errorf("left a file: %v", entries)
	}
	eventually(t, "the kernel has freed all", func() bool { return allObjects(t) == before })
}

// allObjects counts the eBPF objects of the whole host, and what is pinned.
func allObjects(t *testing.T) (n struct{ programs, maps, links, pins int }) {
	t.Helper()
	end := func(err error) {
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	for id := ebpf.ProgramID(0); ; n.programs++ {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			end(err)
			break
		}
		id = next
	}
	for id := ebpf.MapID(0); ; n.maps++ {
		next, err := ebpf.MapGetNextID(id)
		if err != nil {
			end(err)
			break
		}
		id = next
	}
	links := link.Iterator{}
	for links.Next() {
		n.links++
	}
	check(t, links.Err())
	pins, err := os.ReadDir("/sys/fs/bpf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	n.pins = len(pins)
	return n
}
