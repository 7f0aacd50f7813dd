package bpf

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Unseen says of which network namespaces a walk could not list the sockets.
type Unseen struct {
	NetNS []uint32 // inodes
	// Processes of which it is not known in which namespace they are.
	Processes int
	Err       error // why, of one of them
}

// Walk makes a record of every socket, minisock and handshake that there is, in
// all network namespaces that are to be found, and says who holds it. It returns
// when the last record is written; they are read by [Tracer.Read], which must go
// on meanwhile, in another goroutine: a walk waits for a full ring. It may run
// beside the other methods, but only once at a time, and neither Stop nor Close
// may be called before it has returned.
//
// A record is made of a socket while nobody can change it: with its sequence
// number it has its exact place among the transitions.
func (t *Tracer) Walk(ctx context.Context) (Unseen, error) {
	if t.walkErr != nil {
		return Unseen{}, t.walkErr
	}
	t.walks++
	if err := t.objects.Walk.Set(t.walks); err != nil {
		return Unseen{}, fmt.Errorf("number the walk: %w", err)
	}
	var unseen Unseen
	done := make(chan error)
	go func() {
		// Never unlocked: a thread that has been in other namespaces ends with
		// the goroutine.
		runtime.LockOSThread()
		var err error
		unseen, err = t.walk(ctx)
		done <- err
	}()
	err := <-done
	return unseen, err
}

func (t *Tracer) walk(ctx context.Context) (unseen Unseen, err error) {
	defer func() { err = errors.Join(err, t.objects.Walker.Set(uint64(0))) }() // the programs set it
	if err := drain(ctx, t.files); err != nil {
		return unseen, fmt.Errorf("walk the files of all processes: %w", err)
	}
	home, others, unknown, err := findNetNS()
	if err != nil {
		return unseen, err
	}
	if err := t.findHeld(home, others); err != nil {
		return unseen, err
	}
	if t.netns == 0 {
		unseen.Processes, unseen.Err = unknown.count, unknown.err
	}
	if t.wantsNetNS(home) {
		if err := drain(ctx, t.sockets); err != nil {
			return unseen, fmt.Errorf("walk the sockets: %w", err)
		}
	}
	back, err := os.Open(ownNetNS)
	if err != nil {
		return unseen, err
	}
	away := false
	defer func() { // the first thread of a process does not end with its goroutine
		if away {
			err = errors.Join(err, unix.Setns(int(back.Fd()), unix.CLONE_NEWNET))
		}
		err = errors.Join(err, back.Close())
	}()
	for inode, path := range others {
		if !t.wantsNetNS(inode) {
			continue
		}
		err := enterNetNS(path, inode)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has gone
		}
		if err != nil {
			unseen.NetNS = append(unseen.NetNS, inode)
			unseen.Err = err
			continue
		}
		away = true
		if err := drain(ctx, t.sockets); err != nil {
			return unseen, fmt.Errorf("walk the sockets of network namespace %d: %w", inode, err)
		}
	}
	return unseen, nil
}

// findHeld adds the namespaces of the sockets that processes hold, and the one that
// is wanted, without a path if none is known.
func (t *Tracer) findHeld(home uint32, others map[uint32]string) error {
	var inode uint32
	var one uint8
	found := []uint32{t.netns}
	all := t.objects.Spaces.Iterate()
	for all.Next(&inode, &one) {
		found = append(found, inode)
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("read the network namespaces of sockets: %w", err)
	}
	for _, inode := range found {
		if _, known := others[inode]; !known && inode != home && inode != 0 {
			others[inode] = ""
		}
		if err := t.objects.Spaces.Delete(inode); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget the network namespaces of sockets: %w", err)
		}
	}
	return nil
}

func (t *Tracer) wantsNetNS(inode uint32) bool { return t.netns == 0 || t.netns == inode }

// walkPause is how long a walk waits for the reader.
const walkPause = time.Millisecond

// drain runs an iterator to its end, in the network namespace of the thread.
func drain(ctx context.Context, walk *link.Iter) error {
	r, err := walk.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	b := make([]byte, os.Getpagesize())
	for {
		// Nothing is ever written: it reads until the end, or until the program
		// asks for a pause.
		switch _, err := r.Read(b); {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, unix.EAGAIN):
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(walkPause):
			}
		case errors.Is(err, unix.EINTR):
		default:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
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
	lines := bufio.NewScanner(f)
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
