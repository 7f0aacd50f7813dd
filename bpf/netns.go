package bpf

import (
	"errors"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// InNetNS calls f in each of the network namespaces, given by inode, on a thread that
// is in it for the time of the call: what is read there of /proc/sys/net is of that
// namespace. One that cannot be found or entered is left out.
func InNetNS(inodes []uint32, f func(inode uint32)) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, as in Walk
		done <- inNetNS(inodes, f)
	}()
	return <-done
}

func inNetNS(inodes []uint32, f func(inode uint32)) (err error) {
	home, err := netnsOf(ownNetNS)
	if err != nil {
		return err
	}
	if slices.Contains(inodes, home) {
		f(home)
	}
	if !slices.ContainsFunc(inodes, func(inode uint32) bool { return inode != home }) {
		return nil
	}
	_, others, _, err := findNetNS()
	if err != nil {
		return err
	}
	back, err := os.Open(ownNetNS)
	if err != nil {
		return err
	}
	defer back.Close()
	for _, inode := range inodes {
		path, found := others[inode]
		if !found || enterNetNS(path, inode) != nil {
			continue
		}
		f(inode)
		err = errors.Join(err, unix.Setns(int(back.Fd()), unix.CLONE_NEWNET))
		if err != nil {
			return err
		}
	}
	return nil
}
