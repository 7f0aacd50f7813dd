package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"tcptrace/bpf"
	"tcptrace/events"
)

// Bounds of what is remembered.
const (
	maxNames = 1 << 12 // cgroups
	maxExes  = 1 << 16 // processes of one walk
)

// namer delivers what a live source does, and before the first record that needs
// it, the name of what that has as a number. Then a recording has it, too.
type namer struct {
	source
	cgroups *cgroupTree // nil: there are none
	// retry is when to ask for the name of a cgroup again, as events.Event.Time:
	// never for one that has been delivered.
	retry     map[uint64]uint64
	last      uint64 // cgroup of the last record
	lastRetry uint64
	// exes are the processes asked for since the last walk was over; nil: they
	// are not wanted.
	exes map[uint32]struct{}

	pending []events.Name
	held    events.Record // waits for those
	holds   bool
}

const (
	never         = ^uint64(0)
	retryInterval = uint64(time.Second)
)

// newNamer returns a source that also names cgroups and, if exes are wanted, the
// files that the owners found by walks execute. What cannot be found out here has
// no name.
func newNamer(s source, exes bool) source {
	n := &namer{source: s, retry: make(map[uint64]uint64)}
	n.cgroups, _ = openCgroups()
	if exes && bpf.HostPIDs() == nil {
		n.exes = make(map[uint32]struct{})
	}
	return n
}

// Next implements [source].
func (n *namer) Next(r *events.Record) error {
	for {
		if len(n.pending) > 0 {
			r.Kind, r.Name = events.KindName, n.pending[0]
			n.pending = n.pending[1:]
			return nil
		}
		if n.holds {
			n.holds = false
			*r = n.held
			return nil
		}
		if err := n.source.Next(r); err != nil {
			return err
		}
		switch r.Kind {
		case events.KindTransition:
			n.name(&r.Event)
		case events.KindWalked:
			clear(n.exes) // a PID may be used again
		}
		if len(n.pending) == 0 {
			return nil
		}
		n.held, n.holds = *r, true
	}
}

// name asks for the names that a record needs.
func (n *namer) name(e *events.Event) {
	if n.cgroups != nil && e.Cgroup != 0 && (e.Cgroup != n.last || e.Time >= n.lastRetry) {
		n.nameCgroup(e.Cgroup, e.Time)
	}
	if n.exes != nil && e.Source == events.SourceSnapshot && e.Owner.Known() {
		n.nameExe(&e.Owner)
	}
}

func (n *namer) nameCgroup(id, now uint64) {
	retry, known := n.retry[id]
	if !known || now >= retry {
		retry = never
		if path := n.cgroups.path(id, now); path != "" {
			n.deliver(events.NameCgroup, id, path)
		} else {
			retry = now + retryInterval
		}
		if !known && len(n.retry) >= maxNames {
			clear(n.retry)
		}
		n.retry[id] = retry
	}
	n.last, n.lastRetry = id, retry
}

func (n *namer) nameExe(owner *events.Owner) {
	if _, known := n.exes[owner.PID]; known || len(n.exes) >= maxExes {
		return
	}
	n.exes[owner.PID] = struct{}{}
	if exe := exeOf(owner); exe != "" {
		n.deliver(events.NameExe, uint64(owner.PID), exe)
	}
}

// exeOf returns the file that a process executes, "" if that is not known. The
// owner may be gone, and its number another's: then the name is another's, too.
func exeOf(owner *events.Owner) string {
	dir := "/proc/" + strconv.FormatUint(uint64(owner.PID), 10)
	comm, err := os.ReadFile(dir + "/comm")
	if err != nil || strings.TrimSuffix(string(comm), "\n") != string(owner.Comm.Bytes()) {
		return ""
	}
	exe, err := os.Readlink(dir + "/exe")
	if err != nil {
		return ""
	}
	return exe
}

func (n *namer) deliver(kind events.NameKind, id uint64, text string) {
	text = text[:min(len(text), events.MaxName)] // what a recording keeps
	n.pending = append(n.pending, events.Name{Kind: kind, ID: id, Text: text})
}

// Close implements [source].
func (n *namer) Close() error {
	var err error
	if n.cgroups != nil {
		err = n.cgroups.close()
	}
	return errors.Join(n.source.Close(), err)
}

// nameTable keeps the names that were delivered. The zero value is empty.
//
// Of cgroups it forgets none that was asked for lately: what moves to old is there
// until so many others have been asked for that the namer has forgotten it as well,
// and delivers it again.
type nameTable struct {
	young, old map[uint64]*events.Place
	lastID     uint64
	last       events.Place
	exes       map[uint32]string
}

func (n *nameTable) take(name *events.Name) {
	switch name.Kind {
	case events.NameCgroup:
		place := events.ParsePlace(name.Text)
		n.put(name.ID, &place)
		n.lastID, n.last = name.ID, place
	case events.NameExe:
		if n.exes == nil {
			n.exes = make(map[uint32]string)
		}
		if len(n.exes) < maxExes {
			n.exes[uint32(name.ID)] = name.Text
		}
	}
}

func (n *nameTable) put(id uint64, p *events.Place) {
	if len(n.young) >= maxNames {
		n.young, n.old = nil, n.young
	}
	if n.young == nil {
		n.young = make(map[uint64]*events.Place)
	}
	n.young[id] = p
}

// place returns a cgroup by its id.
func (n *nameTable) place(id uint64) events.Place {
	if id == n.lastID {
		return n.last
	}
	p := n.young[id]
	if p == nil {
		if p = n.old[id]; p != nil {
			n.put(id, p)
		} else {
			p = &events.Place{}
		}
	}
	n.lastID, n.last = id, *p
	return *p
}

// exe returns the file that a process found by the last walk executes, "" if it is
// not known.
func (n *nameTable) exe(pid uint32) string { return n.exes[pid] }

// walked forgets what held for one walk.
func (n *nameTable) walked() { clear(n.exes) }
