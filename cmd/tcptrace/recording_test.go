package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What was there before -w must be there after a start that failed: /dev/null
// above all.
func TestAbandon(t *testing.T) {
	dir := t.TempDir()
	made, pipe := filepath.Join(dir, "made"), filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(pipe, os.O_RDWR, 0) // lets the pipe be opened for writing
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for name, stays := range map[string]bool{made: false, pipe: true} {
		file, err := createRecording(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := abandon(file); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) == stays {
			t.Errorf("%s: %v, want it to stay: %v", name, err, stays)
		}
	}
}
