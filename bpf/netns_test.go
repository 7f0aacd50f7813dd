package bpf

import (
	"errors"
	"io/fs"
	"maps"
	"runtime"
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	spaces := map[uint32]string{7: "/known"}
	err := parseMounts(strings.NewReader(`340 25 0:4 net:[4026532177] /run/netns/a\040b rw shared:182 - nsfs nsfs rw
341 25 0:4 mnt:[4026532178] /run/mnt rw - nsfs nsfs rw
342 25 0:4 net:[7] /other rw - nsfs nsfs rw
343 25 0:4 net:[99999999999] /large rw - nsfs nsfs rw

24 1 8:1 / / rw
`), spaces)
	check(t, err)
	if want := map[uint32]string{7: "/known", 4026532177: "/run/netns/a b"}; !maps.Equal(spaces, want) {
		t.Errorf("found %v, want %v", spaces, want)
	}
}

// FuzzParseMounts: the paths of mounts are anybody's.
func FuzzParseMounts(f *testing.F) {
	f.Add("340 25 0:4 net:[4026532177] /run/netns/demo rw shared:182 - nsfs nsfs rw\n")
	f.Add("1 2 3 net:[0] \\040\\011\\012\\134\\\n")
	f.Fuzz(func(t *testing.T, text string) {
		spaces := make(map[uint32]string)
		if err := parseMounts(strings.NewReader(text), spaces); err != nil {
			return // a line that no kernel writes
		}
		for inode, path := range spaces {
			if path == "" || len(path) > len(text) {
				t.Errorf("%d: %q", inode, path)
			}
		}
	})
}

// FuzzParseTimens and the others read what only the kernel writes, of which there is
// no hostile one: they must not break all the same.
func FuzzParseTimens(f *testing.F) {
	f.Add("boottime       100000         5")
	f.Add("net:[4026531840]")
	f.Fuzz(func(_ *testing.T, line string) {
		_, _, _ = parseTimens(line)
		_, _ = parseLink(line)
	})
}

// TestRoamByAnotherWay: a namespace has not gone because the process has by whose path it
// was to be entered.
func TestRoamByAnotherWay(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netnsOf(ownNetNS)
	check(t, err)
	const gone = "/proc/self/task/0/ns/net"
	var nowhere uint32 = 1
	got := make(map[uint32]error)
	in := make(map[uint32]uint32)
	err = roam(map[uint32]string{ns.inode: gone, nowhere: gone}, func(uint32) bool { return true }, func(inode uint32, err error) error {
		got[inode] = err
		var here error
		in[inode], here = netnsOf(ownNetNS)
		return here
	})
	if err != nil || len(got) != 2 || got[ns.inode] != nil || in[ns.inode] != ns.inode || !errors.Is(got[nowhere], fs.ErrNotExist) {
		t.Errorf("%v, entered %v with %v, want %d, and no way into %d", err, in, got, ns.inode, nowhere)
	}
	if inode, err := netnsOf(ownNetNS); err != nil || inode != home {
		t.Errorf("ends in %d, %v, want %d", inode, err, home)
	}
}
