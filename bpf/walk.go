package bpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Unseen says of what a walk could not list the sockets.
type Unseen struct {
	NetNS []uint32 // inodes
	// Processes of which it is not known in which namespace they are.
	Processes int
	Err       error // why, of one of them
	// Minisocks is why those, and handshakes, were left out; nil: they were not.
	Minisocks error
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
	unseen := Unseen{Minisocks: t.noMinisocks}
	done := make(chan error)
	go func() {
		// Never unlocked: a thread that has been in other namespaces ends with
		// the goroutine.
		runtime.LockOSThread()
		done <- t.walk(ctx, &unseen)
	}()
	err := <-done
	return unseen, err
}

func (t *Tracer) walk(ctx context.Context, unseen *Unseen) (err error) {
	defer func() { err = errors.Join(err, t.objects.Walker.Set(uint64(0))) }() // the programs set it
	if err := drain(ctx, t.files); err != nil {
		return fmt.Errorf("walk the files of all processes: %w", err)
	}
	home, others, unknown, err := findNetNS()
	if err != nil {
		return err
	}
	if err := t.findHeld(home, others); err != nil {
		return err
	}
	if t.netns == 0 {
		unseen.Processes, unseen.Err = unknown.count, unknown.err
	}
	if t.wantsNetNS(home) {
		if err := drain(ctx, t.sockets); err != nil {
			return fmt.Errorf("walk the sockets: %w", err)
		}
	}
	return roam(others, t.wantsNetNS, func(inode uint32, err error) error {
		if err == nil {
			if err = drain(ctx, t.sockets); err != nil {
				err = fmt.Errorf("walk the sockets of network namespace %d: %w", inode, err)
			}
			return err
		}
		if !errors.Is(err, fs.ErrNotExist) { // else it has gone
			unseen.NetNS = append(unseen.NetNS, inode)
			unseen.Err = err
		}
		return nil
	})
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
