package main

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kept are the capabilities that are needed once the programs are attached:
//
//   - CAP_SYS_ADMIN to enter network namespaces, for each walk over the sockets;
//   - CAP_SYS_PTRACE to find out in which a process is, and what file it executes;
//   - CAP_DAC_READ_SEARCH to open a cgroup by its id, for its name;
//   - CAP_BPF to read counters and begin walks, on kernels before 5.19.
const kept = uint64(1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_BPF)

// dropCapabilities gives up all others, in all threads and for good: what is executed
// later gets none of them back.
func dropCapabilities(keep uint64) error {
	var sets [2]unix.CapUserData // the low 32 bits, and the high
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	for i := range sets {
		sets[i].Permitted &= uint32(keep >> (32 * i))
		sets[i].Effective = sets[i].Permitted
		sets[i].Inheritable = 0
	}
	// By the standard library, which knows of all threads, unless there is cgo.
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno == syscall.ENOTSUP {
		return errors.New("built with cgo: build it with CGO_ENABLED=0, as make build does")
	}
	if errno != 0 {
		return fmt.Errorf("forbid new privileges: %w", errno)
	}
	_, _, errno = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0)
	if errno != 0 {
		return fmt.Errorf("give up capabilities: %w", errno)
	}
	return nil
}
