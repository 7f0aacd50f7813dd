package main

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// image is a file system for the kernel to begin with: an archive of cpio, in the
// format newc of Documentation/driver-api/early-userspace/buffer-format.rst.
type image struct {
	entries map[string]entry // by path, without a leading slash
	decoder *zstd.Decoder
}

type entry struct {
	mode uint32
	data []byte
}

const (
	typeDirectory = 0o040000
	typeFile      = 0o100000
)

func newImage() (*image, error) {
	decoder, err := zstd.NewReader(nil)
	return &image{entries: map[string]entry{}, decoder: decoder}, err
}

func (i *image) directory(name string) {
	for ; name != "."; name = path.Dir(name) {
		i.entries[name] = entry{mode: typeDirectory | 0o755}
	}
}

func (i *image) put(name string, data []byte) {
	i.directory(path.Dir(name))
	i.entries[name] = entry{typeFile | 0o755, data}
}

func (i *image) file(name, from string) error {
	data, err := os.ReadFile(from)
	if err == nil {
		i.put(name, data)
	}
	return err
}

// program puts one of an unpacked tree of packages, with the libraries and the loader
// that it needs, at the places that the tree has for them.
func (i *image) program(root, name string) error {
	at, err := glob(root, "bin/"+name, "usr/bin/"+name, "sbin/"+name)
	if err != nil {
		return err
	}
	return i.linked(root, "bin/"+name, at)
}

func (i *image) linked(root, name, from string) error {
	if _, ok := i.entries[name]; ok {
		return nil
	}
	if err := i.file(name, from); err != nil {
		return err
	}
	binary, err := elf.Open(from)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	defer binary.Close()
	if section := binary.Section(".interp"); section != nil {
		data, err := section.Data()
		if err != nil {
			return err
		}
		loader := strings.Trim(string(data), "\x00/")
		if err := i.file(loader, filepath.Join(root, loader)); err != nil {
			return err
		}
	}
	libraries, err := binary.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, library := range libraries {
		at, err := glob(root, "lib/*-linux-gnu/"+library, "usr/lib/*-linux-gnu/"+library)
		if err != nil {
			return err
		}
		if err := i.linked(root, "lib/"+library, at); err != nil {
			return err
		}
	}
	return nil
}

// modules puts modules of a kernel, and returns their paths.
func (i *image) modules(root string, names []string) (paths []string, err error) {
	for _, name := range names {
		var at string
		err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
			if base, _, isModule := strings.Cut(filepath.Base(p), ".ko"); err == nil && isModule && base == name {
				at = p
				return fs.SkipAll
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if at == "" {
			return nil, fmt.Errorf("%s has no module %s", root, name)
		}
		data, err := i.module(at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		to := "modules/" + name + ".ko"
		i.put(to, data)
		paths = append(paths, "/"+to)
	}
	return paths, nil
}

// module returns one as the kernel takes it, not compressed.
func (i *image) module(file string) ([]byte, error) {
	if filepath.Ext(file) == ".xz" {
		return exec.Command("xz", "--decompress", "--stdout", file).Output()
	}
	data, err := os.ReadFile(file)
	if err == nil && filepath.Ext(file) == ".zst" {
		return i.decoder.DecodeAll(data, nil)
	}
	return data, err
}

// task puts what the guest is to do.
func (i *image) task(t *task) error {
	data, err := json.Marshal(t)
	if err == nil {
		i.put(taskFile, data)
	}
	return err
}

func (i *image) write(to string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	names := slices.Sorted(maps.Keys(i.entries)) // a directory before what is in it
	for number, name := range names {
		writeEntry(w, number+1, name, i.entries[name])
	}
	writeEntry(w, 0, "TRAILER!!!", entry{})
	return errors.Join(w.Flush(), f.Close())
}

// writeEntry writes a header of 13 hexadecimal numbers, the name, and the data, both
// filled up to a multiple of four bytes.
func writeEntry(w *bufio.Writer, number int, name string, e entry) {
	const inode, mode, links, size, nameSize = 0, 1, 4, 6, 11
	var header [13]int
	header[inode], header[mode], header[links], header[size], header[nameSize] = number, int(e.mode), 1, len(e.data), len(name)+1
	w.WriteString("070701")
	for _, n := range header {
		fmt.Fprintf(w, "%08X", n)
	}
	const headerSize = 6 + 13*8
	w.WriteString(name)
	w.Write(make([]byte, 1+pad(headerSize+len(name)+1))) //nolint:errcheck // Flush returns it
	w.Write(e.data)                                      //nolint:errcheck // likewise
	w.Write(bytes.Repeat([]byte{0}, pad(len(e.data))))   //nolint:errcheck // likewise
}

func pad(size int) int { return -size & 3 }
