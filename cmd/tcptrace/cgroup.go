package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupMount is where the hierarchy of cgroups, version 2, is mounted.
type cgroupMount struct {
	point string
	root  string // path in the hierarchy of what is mounted, mostly "/"
}

func cgroup2Mount() (cgroupMount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return cgroupMount{}, err
	}
	defer f.Close()
	// 24 23 0:21 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return cgroupMount{root: fields[3], point: fields[4]}, nil
		}
	}
	return cgroupMount{}, errors.New("no cgroup2 file system is mounted here: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or give the cgroup's id")
}

// path returns the path in the hierarchy of a directory. One that is not below the
// mount, as in a cgroup namespace, the kernel names from the hierarchy's root.
func (m *cgroupMount) path(dir string) string {
	if below(dir, m.point) {
		dir = dir[len(m.point):]
	}
	return path.Join("/", m.root, dir)
}

// below reports whether a path is that of the directory, or leads below it.
func below(path, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}

// parseCgroup understands the id of a cgroup, or its path, in the hierarchy or in
// the file system of this host; one of both is returned. It may be of another host,
// or not be there yet.
func parseCgroup(text string) (id uint64, name string, err error) {
	if id, err := strconv.ParseUint(text, 10, 64); err == nil && id > 0 {
		return id, "", nil
	}
	if !strings.HasPrefix(text, "/") {
		return 0, "", fmt.Errorf("%q is no cgroup: want a path such as /system.slice/nginx.service, as the line 0:: of /proc/PID/cgroup shows it, or an id", text)
	}
	name = path.Clean(text)
	if m, err := cgroup2Mount(); err == nil && below(name, m.point) {
		name = m.path(name)
	}
	return 0, name, nil
}

// cgroupTree finds the paths of cgroups by their ids.
type cgroupTree struct {
	mount  cgroupMount
	fd     int               // of the mount; -1: handles of files do not work here
	byID   map[uint64]string // without them: what the last walk found
	walkAt uint64            // when the next is due, as events.Event.Time
}

// openCgroups opens the hierarchy of this host.
func openCgroups() (*cgroupTree, error) {
	mount, err := cgroup2Mount()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(mount.point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: mount.point, Err: err}
	}
	return &cgroupTree{mount: mount, fd: fd}, nil
}

func (c *cgroupTree) close() error {
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

// path returns the path of a cgroup at the time of an event, "" if it is gone.
func (c *cgroupTree) path(id, now uint64) string {
	if c.fd >= 0 {
		dir, err := c.dirByHandle(id)
		if err == nil {
			return c.mount.path(strings.TrimSuffix(dir, " (deleted)"))
		}
		if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errors.ErrUnsupported) {
			return ""
		}
		_ = c.close() // of a directory that was only looked at
	}
	if _, found := c.byID[id]; !found && now >= c.walkAt {
		c.walk(now)
	}
	return c.byID[id]
}

// dirByHandle opens the directory of a cgroup by its id, which is all that a handle
// of a file consists of here. It takes CAP_DAC_READ_SEARCH.
func (c *cgroupTree) dirByHandle(id uint64) (string, error) {
	const fileIDKernFS = 0xfe // FILEID_KERNFS of enum fid_type
	handle := unix.NewFileHandle(fileIDKernFS, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(c.fd, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

// Bounds of a walk over the tree.
const (
	maxWalked    = 1 << 16 // cgroups
	walkInterval = uint64(time.Second)
	walkShare    = 20 // of the time goes into walks at most: one of so many parts
)

// walk reads the whole tree: the id of a cgroup is the inode of its directory.
func (c *cgroupTree) walk(now uint64) {
	begun := time.Now()
	c.byID = make(map[uint64]string)
	// What cannot be read has no name; nor has what is there after the bound.
	_ = filepath.WalkDir(c.mount.point, func(dir string, entry fs.DirEntry, err error) error {
		if len(c.byID) >= maxWalked {
			return fs.SkipAll
		}
		var stat unix.Stat_t
		if err == nil && entry.IsDir() && unix.Stat(dir, &stat) == nil {
			c.byID[stat.Ino] = c.mount.path(dir)
		}
		return nil
	})
	c.walkAt = now + max(walkInterval, walkShare*uint64(time.Since(begun)))
}
