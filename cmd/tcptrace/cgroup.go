package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupsAt returns the ids of a cgroup and of those below it. It is given by
// its path, in the file system or as in /proc/PID/cgroup, or by its id alone.
func cgroupsAt(text string) ([]uint64, error) {
	if id, err := strconv.ParseUint(text, 10, 64); err == nil && id > 0 {
		return []uint64{id}, nil
	}
	if isCgroup2(text) {
		return cgroupsBelow(text)
	}
	root, err := cgroup2Mount()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, text)
	if !isCgroup2(path) {
		return nil, fmt.Errorf("no cgroup %q: want a path such as /system.slice/nginx.service, as the line 0:: of /proc/PID/cgroup shows it, or an id", text)
	}
	return cgroupsBelow(path)
}

// minContainerID is what docker shows of an id; less might be part of anything.
const minContainerID = 4

// cgroupsOfContainer returns the ids of the cgroups of a running container. The
// runtimes name the cgroup after the id: docker-ID.scope, cri-containerd-ID.scope,
// libpod-ID.scope, crio-ID.scope or plain ID.
func cgroupsOfContainer(id string) ([]uint64, error) {
	if len(id) < minContainerID {
		return nil, fmt.Errorf("%q is too short: want at least %d characters of the container's id", id, minContainerID)
	}
	root, err := cgroup2Mount()
	if err != nil {
		return nil, err
	}
	var found []uint64
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return skipVanished(err)
		}
		if !entry.IsDir() || !isContainerName(entry.Name(), id) {
			return nil
		}
		ids, err := cgroupsBelow(path)
		found = append(found, ids...)
		if err == nil {
			err = fs.SkipDir
		}
		return err
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no container %q runs on this host; for a recording made elsewhere, give its cgroup's id with --cgroup", id)
	}
	return found, err
}

func isContainerName(name, id string) bool {
	name = strings.TrimSuffix(name, ".scope")
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		name = name[i+1:]
	}
	return strings.HasPrefix(name, id)
}

// cgroupsBelow returns the ids, inode numbers of their directories, of the
// cgroup and its descendants.
func cgroupsBelow(root string) ([]uint64, error) {
	var ids []uint64
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return skipVanished(err)
		}
		if !entry.IsDir() {
			return nil
		}
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			return skipVanished(&os.PathError{Op: "stat", Path: path, Err: err})
		}
		ids = append(ids, stat.Ino)
		return nil
	})
	return ids, err
}

// skipVanished forgives that cgroups go while they are walked.
func skipVanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func isCgroup2(path string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(path, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}

func cgroup2Mount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	// 24 23 0:21 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted here: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or give the cgroup's id")
}
