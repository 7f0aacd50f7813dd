package main

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// confine gives up what is not needed any more once the source is open, in all threads
// and for good: the capabilities but those to keep, new privileges, and system calls.
func confine(keep uint64) error {
	return errors.Join(dropCapabilities(keep), refuseCalls())
}

// refused are system calls that nothing here makes once it traces, and who takes over a
// process would: to execute, to change files, others' memory or the system.
var refused = []string{
	"execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd",
	"creat", "link", "linkat", "symlink", "symlinkat", "mknod", "mknodat", "mkdir", "mkdirat", "rmdir",
	"unlink", "unlinkat", "rename", "renameat", "renameat2", "truncate", "chmod", "fchmod", "fchmodat", "fchmodat2",
	"chown", "lchown", "fchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr", "openat2", "io_uring_setup",
	"mount", "umount2", "move_mount", "open_tree", "fsopen", "fsmount", "fspick", "pivot_root", "chroot", "unshare",
	"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups",
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff",
	"settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "sethostname", "setdomainname", "acct", "quotactl",
	"keyctl", "add_key", "request_key", "userfaultfd", "perf_event_open", "personality",
}

// refuseCalls makes the calls fail as not permitted, and so every open for writing.
// Landlock would not do: who is confined by it may not look at the namespaces of others.
func refuseCalls() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("refuse system calls: %w", err)
	}
	group := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM)}
	for _, name := range refused {
		if _, ok := info.SyscallNames[name]; ok { // not every architecture has all
			group.Names = append(group.Names, name)
		}
	}
	const forWriting = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC
	for _, c := range []struct {
		name string
		when seccomp.Condition
	}{
		{"open", seccomp.Condition{Argument: 1, Operation: seccomp.BitsSet, Value: forWriting}},
		{"openat", seccomp.Condition{Argument: 2, Operation: seccomp.BitsSet, Value: forWriting}},
		{"open_by_handle_at", seccomp.Condition{Argument: 2, Operation: seccomp.BitsSet, Value: forWriting}},
		{"bpf", seccomp.Condition{Argument: 0, Operation: seccomp.Equal, Value: unix.BPF_PROG_LOAD}},
	} {
		if _, ok := info.SyscallNames[c.name]; !ok {
			continue
		}
		group.NamesWithCondtions = append(group.NamesWithCondtions, seccomp.NameWithConditions{
			Name: c.name, Conditions: seccomp.ArgumentConditions{c.when},
		})
	}
	filter := seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{group}},
	}
	if err := seccomp.LoadFilter(filter); err != nil {
		return fmt.Errorf("refuse system calls: %w", err)
	}
	if err := refuseOthers(uint32(info.ID)); err != nil {
		return fmt.Errorf("refuse the system calls of other architectures: %w", err)
	}
	return nil
}

// refuseOthers refuses all calls by the numbers of other architectures, such as those of
// 32 bits that amd64 also has, which the filter before lets through.
func refuseOthers(own uint32) error {
	const archOffset = 4 // of struct seccomp_data
	code := [...]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: archOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: own, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}

// kept are the capabilities that are needed once the programs are attached; reading a
// recording needs none:
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
