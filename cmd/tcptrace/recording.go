package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"tcptrace/events"
	"tcptrace/events/capture"
)

// recording is the file of -w.
type recording struct {
	*capture.Writer
	file    *os.File
	flushed time.Time
}

// flushInterval is how much of a recording a crash may cost.
const flushInterval = time.Second

// createRecording makes the file, for its owner only: it tells who talks to
// whom. A file that is there is not overwritten, a device or pipe is used.
func createRecording(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return f, err
	}
	switch info, statErr := os.Stat(name); {
	case statErr != nil:
		return nil, statErr
	case info.IsDir():
		return nil, fmt.Errorf("record to %s: it is a directory: name a file in it", name)
	case info.Mode().IsRegular():
		return nil, fmt.Errorf("record to %s: the file exists and is not overwritten: remove it or choose another name", name)
	}
	return os.OpenFile(name, os.O_WRONLY, 0)
}

// abandon closes a file of createRecording in which nothing will be recorded. A
// regular one was made there, and goes; a device or pipe was there before.
func abandon(file *os.File) error {
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = os.Remove(file.Name())
	}
	return errors.Join(err, file.Close())
}

func newRecording(file *os.File, l *live) (*recording, error) {
	header, err := l.header()
	if err != nil {
		return nil, err
	}
	w, err := capture.NewWriter(file, header)
	if err != nil {
		return nil, err
	}
	return &recording{Writer: w, file: file, flushed: time.Now()}, nil
}

// write appends a record, or uses an idle moment to bring the file up to date.
func (r *recording) write(rec *events.Record) error {
	if rec.Kind != events.KindIdle {
		return r.explain(r.Write(rec))
	}
	if time.Since(r.flushed) < flushInterval {
		return nil
	}
	r.flushed = time.Now()
	return r.explain(r.Flush())
}

// explain tells a pipe that nobody reads any more from that of standard output, whose end
// is no failure.
func (r *recording) explain(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("record to %s: who read it has gone", r.file.Name())
	}
	return err
}

// finish marks the recording as whole and closes it.
func (r *recording) finish(end uint64) error {
	return errors.Join(r.explain(r.Close(end)), r.file.Close())
}
