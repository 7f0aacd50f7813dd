package bpf

import (
	"errors"
	"io/fs"
	"runtime"
	"testing"
)

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
