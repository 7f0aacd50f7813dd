package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

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

func inNetNS(inodes []uint32, f func(inode uint32)) error {
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
	wanted := func(inode uint32) bool { return slices.Contains(inodes, inode) }
	return roam(others, wanted, func(inode uint32, err error) error {
		if err == nil {
			f(inode)
		}
		return nil
	})
}

// roam calls f in each of the namespaces that are wanted, or with the error of entering
// it, and goes home at the end: the first thread of a process does not end with its
// goroutine. Where the process has ended by whose path a namespace was to be entered,
// another way is looked for; the error is [fs.ErrNotExist] if there is none.
func roam(spaces map[uint32]string, wanted func(inode uint32) bool, f func(inode uint32, err error) error) (err error) {
	home, err := os.Open(ownNetNS)
	if err != nil {
		return err
	}
	away := false
	goHome := func() error { // it takes privileges
		if !away {
			return nil
		}
		away = false
		return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
	}
	defer func() { err = errors.Join(err, goHome(), home.Close()) }()
	const tries = 4
	for try := 1; len(spaces) > 0; try++ {
		missed := make(map[uint32]string)
		for inode, path := range spaces {
			if !wanted(inode) {
				continue
			}
			entered := enterNetNS(path, inode)
			away = away || entered == nil
			if errors.Is(entered, fs.ErrNotExist) && try < tries {
				missed[inode] = path
				continue
			}
			if err := f(inode, entered); err != nil {
				return err
			}
		}
		if len(missed) == 0 {
			return nil
		}
		if err := goHome(); err != nil {
			return err
		}
		_, found, _, err := findNetNS()
		if err != nil {
			return err
		}
		for inode := range missed {
			if path, ok := found[inode]; ok {
				missed[inode] = path
				continue
			}
			delete(missed, inode)
			if err := f(inode, fs.ErrNotExist); err != nil {
				return err
			}
		}
		spaces = missed
	}
	return nil
}

// inFreshNetNS calls f on a thread in a network namespace that is made for it and goes
// after it, in which the interface lo is up. That takes CAP_SYS_ADMIN and CAP_NET_ADMIN.
func inFreshNetNS(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, as in Walk
		done <- func() (err error) {
			home, err := os.Open(ownNetNS)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, home.Close()) }()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			// The first thread of a process does not end with its goroutine.
			defer func() { err = errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)) }()
			if err := loopbackUp(); err != nil {
				return fmt.Errorf("set the interface lo up: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

func loopbackUp() error { return setLoopback(unix.IFF_UP) }

// setLoopback sets the flags of the interface lo in the thread's network namespace.
func setLoopback(flags uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo, err := unix.NewIfreq("lo")
	if err == nil {
		lo.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}
	return errors.Join(err, unix.Close(fd))
}

// unknownNetNS counts processes whose namespace cannot be read.
type unknownNetNS struct {
	count int
	err   error
}

const ownNetNS = "/proc/thread-self/ns/net"

// findNetNS returns the network namespace that this thread is in, and the others,
// of all threads, which may each have one of their own, and those that are mounted:
// by inode, each with a path to enter it by.
func findNetNS() (home uint32, others map[uint32]string, unknown unknownNetNS, err error) {
	others = make(map[uint32]string)
	if home, err = netnsOf(ownNetNS); err != nil {
		return 0, nil, unknown, fmt.Errorf("find the own network namespace: %w", err)
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, nil, unknown, fmt.Errorf("list the processes: %w", err)
	}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		threads, err := os.ReadDir(filepath.Join("/proc", p.Name(), "task"))
		if err != nil {
			continue // it has ended
		}
		for _, thread := range threads {
			path := filepath.Join("/proc", p.Name(), "task", thread.Name(), "ns/net")
			inode, err := netnsOf(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // the thread has ended
			}
			if err != nil {
				unknown.count++
				unknown.err = err
				break // the process's others can be read no better
			}
			if others[inode] == "" {
				others[inode] = path
			}
		}
	}
	err = findMounted(others)
	delete(others, home)
	return home, others, unknown, err
}

// netnsOf reads the inode from a link such as net:[4026531840].
func netnsOf(path string) (uint32, error) {
	text, err := os.Readlink(path)
	if err != nil {
		return 0, err
	}
	return parseLink(text)
}

func parseLink(text string) (uint32, error) {
	digits, ok := strings.CutPrefix(text, "net:[")
	n, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is no network namespace", text)
	}
	return uint32(n), nil
}

// findMounted adds the namespaces that are mounted, as ip netns does.
func findMounted(spaces map[uint32]string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list the mounts: %w", err)
	}
	defer f.Close()
	return parseMounts(f, spaces)
}

// parseMounts adds those of a mountinfo, whose paths are anybody's.
func parseMounts(mountinfo io.Reader, spaces map[uint32]string) error {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		// 340 25 0:4 net:[4026532177] /run/netns/demo rw shared:182 - nsfs nsfs rw
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if inode, err := parseLink(fields[3]); err == nil && spaces[inode] == "" {
			spaces[inode] = unescapeMount.Replace(fields[4])
		}
	}
	return lines.Err()
}

// unescapeMount reads the paths of mountinfo.
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

var errNoPath = errors.New("no process that can be looked at is in it, and it is not mounted")

// enterNetNS moves the thread into a namespace.
func enterNetNS(path string, inode uint32) error {
	if path == "" {
		return fmt.Errorf("enter network namespace %d: %w", inode, errNoPath)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if uint32(stat.Ino) != inode { // of a process that has moved, or another one
		return fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %d: %w", inode, err)
	}
	return nil
}
