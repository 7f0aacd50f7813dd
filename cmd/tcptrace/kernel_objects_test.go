package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// bpfObjects are all eBPF objects of the host, as bpftool lists them: by kind and
// number, with the name, and the files that pin some, in every mounted bpffs.
type bpfObjects map[string]string

func listBPF(t *testing.T) bpfObjects {
	t.Helper()
	found := make(bpfObjects)
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		check(t, err)
		id = next
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone meanwhile
		}
		info, err := program.Info()
		check(t, err)
		check(t, program.Close())
		found[fmt.Sprint("program ", id)] = info.Name
	}
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		check(t, err)
		id = next
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		info, err := m.Info()
		check(t, err)
		check(t, m.Close())
		found[fmt.Sprint("map ", id)] = info.Name
	}
	var links link.Iterator
	defer links.Close()
	for links.Next() {
		found[fmt.Sprint("link ", links.ID)] = ""
	}
	check(t, links.Err())
	var types btf.HandleIterator
	for types.Next() {
		found[fmt.Sprint("btf ", types.ID)] = ""
	}
	check(t, types.Err())
	for _, name := range pins(t) {
		found["pin "+name] = name
	}
	return found
}

// pins lists the files of every mounted bpffs.
func pins(t *testing.T) (names []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	for line := range strings.Lines(string(mounts)) {
		words := strings.Fields(line)
		if words[2] != "bpf" {
			continue
		}
		check(t, filepath.WalkDir(words[1], func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				names = append(names, path)
			}
			return nil // what is going while we look is no pin
		}))
	}
	return names
}

// since returns what there was not before.
func (o bpfObjects) since(before bpfObjects) bpfObjects {
	added := maps.Clone(o)
	maps.DeleteFunc(added, func(key, _ string) bool { _, was := before[key]; return was })
	return added
}

// TestKernelKilled: the kernel frees all, however the command ends, in the middle of
// whatever it does; and its recording is good up to the last second.
func TestKernelKilled(t *testing.T) {
	requireKernel(t)
	for _, test := range []struct {
		command []string
		signal  syscall.Signal
	}{
		{[]string{"trace"}, syscall.SIGKILL},
		{[]string{"trace"}, syscall.SIGTERM},
		{[]string{"life", "--stuck"}, syscall.SIGKILL},
		{[]string{"stat", "--in-kernel"}, syscall.SIGKILL},
		{[]string{"stuck", "--watch"}, syscall.SIGKILL},
	} {
		t.Run(fmt.Sprint(strings.Join(test.command, " "), ": ", test.signal), func(t *testing.T) {
			ns := newNetNS(t)
			args := test.command
			recording := ""
			if args[0] == "trace" {
				recording = filepath.Join(t.TempDir(), "a.tct")
				args = append(args, "-w", recording)
			}
			before := listBPF(t)
			p := ns.startTracer(args...)
			out := p.lines()
			churn := ns.startChurn(1)
			const least = 500
			eventually(t, "it is under load", func() bool {
				saved := recording == "" || strings.Contains(string(readFile(t, recording)), "\x28\xb5\x2f\xfd") // a block, by zstd
				return churn.made.Load() > least && saved && (args[0] != "trace" || out.count() > least)
			})
			during := listBPF(t).since(before)
			held := kernelObjects(t, p.cmd.Process.Pid)
			for kind, name := range map[string]string{"prog_id": "program", "map_id": "map", "link_id": "link"} {
				if len(held[kind]) == 0 {
					t.Errorf("the tracer holds no %s", kind)
				}
				for _, id := range held[kind] {
					if _, ok := during[fmt.Sprint(name, " ", id)]; !ok {
						t.Errorf("%s %d is held, and not on the list of the kernel", name, id)
					}
				}
			}
			for key := range during {
				if strings.HasPrefix(key, "pin ") {
					t.Errorf("pinned: %s", key)
				}
			}

			p.signal(test.signal)
			status := p.status()
			if want := map[syscall.Signal]int{syscall.SIGKILL: -1, syscall.SIGTERM: exitDone}[test.signal]; status != want {
				t.Errorf("status %d, want %d: %s", status, want, p.stderr)
			}
			churn.stop()
			var left bpfObjects
			eventually(t, "the kernel has freed all", func() bool {
				left = listBPF(t)
				maps.DeleteFunc(left, func(key, _ string) bool { _, was := during[key]; return !was })
				return len(left) == 0
			})
			t.Logf("%d objects under load, %d after", len(during), len(left))

			if recording == "" {
				return
			}
			wantStatus := exitDone
			if test.signal == syscall.SIGKILL {
				wantStatus = exitFailure // it says that it is cut off
			}
			if text := replayAs(t, []string{"-r", recording, "-o", "json"}, wantStatus); strings.Count(text, "\n") < least/2 {
				t.Errorf("the recording shows %d lines, want %d at least", strings.Count(text, "\n"), least/2)
			}
		})
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	check(t, err)
	return b
}
