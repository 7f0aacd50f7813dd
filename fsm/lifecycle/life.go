package lifecycle

import (
	"net/netip"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
)

// maxPath bounds the states kept of a connection. A lawful one has seven.
const maxPath = 12

// Life is the history of one generation of a socket. It is made small, for there
// is one for every connection of the host; [Life.Lifecycle] tells it.
type Life struct {
	cookie     uint64
	start      uint64 // when it began, or was known to live, see lifeSince; 0: not seen
	entered    uint64 // when the present state was; 0: not seen
	bytesSent  uint64
	bytesRcvd  uint64
	cgroup     uint64
	dwell      dwells
	local      [16]byte
	remote     [16]byte
	violations *[]Violation // mostly nil
	owner      events.Owner
	generation uint32
	next       uint32 // number of the next record; 0: they are not numbered
	netns      uint32
	srtt       uint32
	retrans    uint32
	errno      int32
	localPort  uint16
	remotePort uint16
	family     uint16
	path       [maxPath]fsm.State
	steps      uint8
	prev       fsm.State // before last
	last       fsm.State
	verdict    fsm.Verdict
	cause      fsm.Cause
	first      First
	role       Role
	end        fsm.End
	reset      events.Reset
	flags      lifeFlags
	// Marked is for the user, who sets it on what has been shown.
	Marked bool
}

// dwells is the time spent in each state of a connection, in nanoseconds and one
// more; 0 where it is not known.
type dwells [9]uint64

// places are those of the states in dwells. What a socket spends in CLOSED, or a
// listener in LISTEN, is of no connection.
var places = [...]int8{
	fsm.SynSent: 1, fsm.SynRcvd: 2, fsm.Established: 3, fsm.FinWait1: 4, fsm.FinWait2: 5,
	fsm.CloseWait: 6, fsm.Closing: 7, fsm.LastAck: 8, fsm.TimeWait: 9,
}

// spend adds the time between two events to a state.
func (d *dwells) spend(s fsm.State, from, to uint64) {
	if s.Known() && places[s] != 0 && from != 0 && to >= from {
		d[places[s]-1] = max(d[places[s]-1], 1) + to - from
	}
}

func (d *dwells) of(s fsm.State) (time.Duration, bool) {
	if !s.Known() || places[s] == 0 || d[places[s]-1] == 0 {
		return 0, false
	}
	return time.Duration(d[places[s]-1] - 1), true
}

type lifeFlags uint16

const (
	lifeListener  lifeFlags = 1 << iota
	lifeBegun               // its first step was seen
	lifeHole                // records are missing, or states had no room in path
	lifeFolded              // the kernel's shortcut past TIME_WAIT was all that was seen
	lifeSkipped             // there was no TIME_WAIT
	lifeEstimated           // TIME_WAIT began at an estimated time
	lifeHasHandshake
	lifeMinisock // a minisock took over
	lifeCounters // the socket's counters were seen
	lifeFound    // last is where a walk found it, not what a transition said
	lifeSince    // start is when it was known to live, not when it began
	lifeAtLeast  // the first state was entered by the time that is known, or before
	lifeMet      // since the last Sweep
	lifeMissed   // the walk before the last Sweep did not tell of it
	lifeMoved    // a transition was seen
)

// IsConnection reports whether it is, or was to become, a connection: it is no
// listener, and more than the closing of a socket that was closed already.
func (l *Life) IsConnection() bool {
	stayedClosed := l.steps == 1 && l.path[0] == fsm.Closed
	return l.flags&lifeListener == 0 && !stayedClosed
}

// InMinisock reports whether a minisock has taken over: the socket is closed, and
// the kernel keeps TIME_WAIT, or FIN_WAIT_2, without it.
func (l *Life) InMinisock() bool { return l.flags&lifeMinisock != 0 }

// Role returns which side of the connection the socket is.
func (l *Life) Role() Role { return l.role }

// State returns where it is.
func (l *Life) State() fsm.State { return l.last }

// Age returns how long it has been in its state by now, the given time, if that is
// known; if it is not exact, at least so long.
func (l *Life) Age(now uint64) (age time.Duration, exact, known bool) {
	if l.entered == 0 || now < l.entered {
		return 0, false, false
	}
	return time.Duration(now - l.entered), !l.bounded(), true
}

// Moved reports whether a transition was seen, not only where it was found.
func (l *Life) Moved() bool { return l.flags&lifeMoved != 0 }

// observe adds a transition that has been judged.
func (l *Life) observe(t *Transition) {
	e := t.Event
	l.flags |= lifeMoved
	if l.steps == 0 {
		l.begin(t)
	}
	l.flags &^= lifeFound
	if t.Verdict == fsm.Gap {
		l.miss()
	}
	l.verdict = fsm.Worse(l.verdict, t.Verdict)
	if t.Verdict == fsm.Illegal {
		l.violate(Violation{From: e.From, To: e.To, Rule: t.Rule, Reason: t.Reason})
	}

	if e.Flags&events.FlagEstimated != 0 {
		l.flags |= lifeEstimated
	}
	if e.From != l.path[max(l.steps, 1)-1] { // unseen: a hole, or a FIN for a minisock
		if t.Verdict != fsm.Gap && l.finReached(e) {
			l.dwell.spend(l.last, l.entered, e.Entered)
		}
		l.visit(e.From)
		l.entered = 0
	}
	// Of a lower bound is told in the first state alone; packets bound most of them.
	hasDwell := t.HasDwell && (!t.AtLeast || e.Wire != nil || l.flags&lifeAtLeast != 0 && e.From == l.path[0])
	if e.From != e.To {
		if hasDwell {
			l.dwell.spend(e.From, e.Entered, e.Time)
		}
		l.visit(e.To)
		l.entered = e.Time
	} else if hasDwell {
		l.entered = e.Entered
	}
	l.open(t)
	l.close(t)

	l.next = 0
	if e.Seq != 0 {
		l.next = e.Seq + 1
	}
	l.prev, l.last = e.From, e.To
	l.identify(e)
	if e.Source == events.SourceTracepoint || e.Wire != nil && e.Wire.Counted {
		l.count(e)
	}
}

// found adds what a walk found. Of a Life that is known it changes neither path nor
// times, but where records of it must be missing. If some of others have been
// forgotten, those before the first of a Life may have been seen.
func (l *Life) found(t *Transition, forgotten bool) {
	e := t.Event
	if e.Owner.Known() {
		l.owner = e.Owner
	}
	minisock := e.Flags&events.FlagMinisock != 0
	switch {
	case l.steps == 0:
		l.visit(e.To)
		l.last, l.next = e.To, e.Seq+1
		l.flags |= lifeFound | lifeSince
		l.start = e.Entered
		if !t.HasDwell {
			l.start = e.Time
		}
		l.entered = l.start
		if !t.HasDwell || t.AtLeast {
			l.flags |= lifeAtLeast
		}
		if e.To == fsm.Listen {
			l.flags |= lifeListener
		}
		if e.Seq > 0 && !forgotten {
			l.miss()
			l.next = 1 // what is missing shows at the next record
		}
	case l.next != 0 && e.Seq+1 < l.next:
		return // it is older than what is known
	case l.InMinisock() && !minisock, minisock && !l.InMinisock() && e.Seq == 0:
		return // the minisock is of the socket's connection before
	case l.InMinisock() && l.last == fsm.FinWait2 && e.To == fsm.TimeWait && e.Seq+1 == max(l.next, 1):
		// A FIN reached it unseen.
		if !t.HasDwell {
			return // the record of its end says when
		}
		l.dwell.spend(l.last, l.entered, e.Entered)
		l.visit(e.To)
		l.prev, l.last, l.entered = l.last, e.To, e.Entered
		l.flags |= lifeEstimated
	case e.To != l.last || minisock != l.InMinisock():
		if e.Flags&events.FlagCountedBefore == 0 {
			l.miss() // the number stays: what is missing shows at the next record
		}
		l.flags |= lifeFound
		if e.To == l.last {
			break
		}
		l.visit(e.To)
		l.prev, l.last, l.entered = 0, e.To, 0
		if t.HasDwell && !t.AtLeast {
			l.entered = e.Entered
		}
	}
	l.close(t)
	l.identify(e)
	if !minisock && e.Flags&events.FlagRequest == 0 {
		l.count(e)
	}
}

// identify takes over who and where the socket is.
func (l *Life) identify(e *events.Event) {
	l.cookie, l.generation = e.Cookie, e.Generation
	l.netns, l.cgroup, l.family = e.NetNS, e.Cgroup, e.Family
	l.local, l.remote = e.Local.Addr().As16(), e.Remote.Addr().As16()
	l.localPort, l.remotePort = e.Local.Port(), e.Remote.Port()
	if e.Owner.Known() {
		l.owner = e.Owner
	}
	if l.role == RoleUnknown {
		l.role = e.Role
	}
}

// miss says that records are missing.
func (l *Life) miss() {
	l.flags |= lifeHole
	l.verdict = fsm.Worse(l.verdict, fsm.Gap)
}

func (l *Life) begin(t *Transition) {
	e := t.Event
	l.visit(e.From)
	born := e.From == fsm.Listen && e.To == fsm.SynRcvd
	if e.To == fsm.Listen || e.From == fsm.Listen && !born {
		l.flags |= lifeListener
	}
	switch {
	case e.Source == events.SourceRequest && !t.AtLeast:
		l.role, l.start = RolePassive, e.Entered
		l.flags |= lifeBegun
	case born:
		l.role, l.start = RolePassive, e.Time
		l.flags |= lifeBegun
	case e.From == fsm.Closed && e.To == fsm.SynSent:
		l.role, l.start = RoleActive, e.Time
		l.flags |= lifeBegun
	case t.AtLeast && e.Wire == nil:
		l.start = e.Entered
		l.flags |= lifeSince | lifeAtLeast
	}
}

// open learns about the handshake.
func (l *Life) open(t *Transition) {
	e := t.Event
	switch {
	case e.From == fsm.SynRcvd && l.role == RolePassive && t.HasDwell && (!t.AtLeast || e.Wire != nil):
		// The child was born at the final ACK; its dwell is from the SYN on.
		l.start = e.Entered
		if e.To != fsm.Closed {
			l.flags |= lifeHasHandshake
		}
	case e.To == fsm.Established && l.role == RoleActive && t.HasDwell && l.flags&lifeHole == 0:
		l.flags |= lifeHasHandshake
	}
}

// close learns how it ends.
func (l *Life) close(t *Transition) {
	e := t.Event
	if l.first == FirstUnknown {
		l.first = firstToClose(e, t.Cause)
	}
	if e.To == fsm.Closing { // the peer had not heard of our FIN
		l.first = FirstBoth
	}
	if e.Flags&events.FlagMinisock != 0 || e.Source == events.SourceTimeWait {
		l.flags |= lifeMinisock
	}
	if e.To == fsm.TimeWait {
		l.cause = fsm.CauseFinished
	}
	if e.To != fsm.Closed {
		return
	}
	l.cause, l.end = t.Cause, e.End
	if e.Source == events.SourceTracepoint {
		l.errno, l.reset = e.Errno, e.Reset
	}
	if t.Cause == fsm.CauseFinished && (e.From == fsm.FinWait2 || e.From == fsm.Closing) {
		if t.Verdict == fsm.Illegal && e.Flags&events.FlagSkipped != 0 {
			l.flags |= lifeSkipped
		} else {
			l.flags |= lifeFolded
		}
	}
}

// count takes over the socket's counters, which mean something once data can
// have been exchanged.
func (l *Life) count(e *events.Event) {
	if !e.From.Synchronized() && e.To != fsm.Established {
		return
	}
	l.flags |= lifeCounters
	l.bytesSent, l.bytesRcvd = e.BytesSent, e.BytesReceived
	if e.Flags&events.FlagPeerFIN != 0 && l.bytesRcvd > 0 {
		l.bytesRcvd-- // the kernel counts the FIN (tcp_rcv_nxt_update)
	}
	l.srtt, l.retrans = e.SRTT, e.Retransmits
}

// violate keeps a violation, if there is room.
func (l *Life) violate(v Violation) {
	if l.violations == nil {
		l.violations = new([]Violation)
	}
	if len(*l.violations) < maxViolations {
		*l.violations = append(*l.violations, v)
	}
}

// visit appends a state to the path.
func (l *Life) visit(s fsm.State) {
	if int(l.steps) == len(l.path) {
		l.flags |= lifeHole
		return
	}
	l.path[l.steps] = s
	l.steps++
}

// finReached reports whether a FIN reached the minisock in FIN_WAIT_2, unseen, so
// that the event leaves TIME_WAIT.
func (l *Life) finReached(e *events.Event) bool {
	return e.From == fsm.TimeWait && l.last == fsm.FinWait2 && e.Flags&events.FlagEstimated != 0
}

// Role is which side of a connection a socket is.
type Role = events.Role

// The roles.
const (
	RoleUnknown = events.RoleUnknown
	RoleActive  = events.RoleActive
	RolePassive = events.RolePassive
)

// First is who closed first: by FIN or by reset.
type First uint8

// The sides. FirstUnknown: it is open, or that was not seen.
const (
	FirstUnknown First = iota
	FirstNone          // nobody: timeout, error, destroyed
	FirstLocal         // this side
	FirstRemote        // the peer
	FirstBoth          // at once: the FINs crossed
)

// String returns the name used in JSON, "" for FirstUnknown.
func (f First) String() string { return [...]string{"", "none", "local", "remote", "both"}[f] }

func firstToClose(e *events.Event, c fsm.Cause) First {
	// Also where the step itself was not seen, only what came of it.
	for _, s := range [...]fsm.State{e.From, e.To} {
		switch s {
		case fsm.FinWait1, fsm.FinWait2:
			return FirstLocal
		case fsm.CloseWait, fsm.LastAck:
			return FirstRemote
		case fsm.Closing:
			return FirstBoth
		}
	}
	switch c {
	case fsm.CauseResetReceived, fsm.CauseRefused:
		return FirstRemote
	case fsm.CauseResetSent, fsm.CauseCancelled, fsm.CauseDisconnected, fsm.CauseListenerClosed:
		return FirstLocal
	case fsm.CauseTimeout, fsm.CauseUnreachable, fsm.CauseDestroyed:
		return FirstNone
	}
	return FirstUnknown
}

// Violation is an illegal transition of a connection.
type Violation struct {
	From, To     fsm.State
	Rule, Reason string
}

// maxViolations bounds those kept of a connection.
const maxViolations = 8

// Lifecycle is all that is known of a connection.
type Lifecycle struct {
	Cookie     uint64
	Generation uint32
	Role       Role
	// Start is when the SYN was sent or came, as events.Event.Time; without
	// Handshake, of a passive connection, when the final ACK came. 0: not seen.
	// End is of its last transition, or when tracing ended if it is Open.
	Start, End uint64
	// Since is a time by which it was there, if Start was not seen, 0 where that is
	// not known either: End-Since is a lower bound of its duration.
	Since uint64
	// Handshake is the time from SYN to ESTABLISHED, if HasHandshake. With SYN
	// cookies the kernel keeps nothing that could tell it.
	Handshake    time.Duration
	HasHandshake bool
	// Path is the states in order, from the first that was seen to the last.
	Path []fsm.State
	// AtLeast: the time in the first state of Path is a lower bound.
	AtLeast bool

	Cause fsm.Cause // CauseNone while it is not closed
	First First
	Errno int32        // 0: none
	Reset events.Reset // sent at the end; 0: none

	// TimeWait is how long it was in TIME_WAIT, if HasTimeWait, and TimeWaitEnd
	// what ended that: EndNone while it lasts. If Estimated, the time is exact
	// to a tick of the kernel's timers. Skipped: it should have been in it.
	TimeWait    time.Duration
	HasTimeWait bool
	TimeWaitEnd fsm.End
	Estimated   bool
	Skipped     bool

	BytesSent, BytesReceived uint64 // payload, if HasCounters
	SRTT                     uint32 // in microseconds; 0: none measured
	Retransmits              uint32
	HasCounters              bool

	// Open: it has not come to its end. The time in the last state of Path is a
	// lower bound then.
	Open bool
	// Complete: every step was seen, from the first to the last.
	Complete   bool
	Verdict    fsm.Verdict // the worst
	Violations []Violation

	Local, Remote netip.AddrPort
	Family        uint16
	Owner         events.Owner
	NetNS         uint32
	Cgroup        uint64
	// Place is what the socket's cgroup is for.
	Place events.Place

	dwell dwells
}

// Dwell returns the time spent in the state, and whether that is known.
func (c *Lifecycle) Dwell(s fsm.State) (time.Duration, bool) {
	return c.dwell.of(s)
}

func addrPort(b [16]byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(b).Unmap(), port)
}

// Lifecycle stores what is known by now, the given time, in c, which refers to
// the Life.
func (l *Life) Lifecycle(now uint64, c *Lifecycle) {
	*c = Lifecycle{
		Cookie: l.cookie, Generation: l.generation, Role: l.role,
		Start: l.start, End: now,
		Path:  l.path[:l.steps],
		Cause: l.cause, First: l.first, Errno: l.errno, Reset: l.reset,
		Estimated: l.flags&lifeEstimated != 0, Skipped: l.flags&lifeSkipped != 0,
		BytesSent: l.bytesSent, BytesReceived: l.bytesRcvd, SRTT: l.srtt, Retransmits: l.retrans,
		HasCounters: l.flags&lifeCounters != 0,
		Verdict:     l.verdict,
		Local:       addrPort(l.local, l.localPort), Remote: addrPort(l.remote, l.remotePort), Family: l.family,
		Owner: l.owner, NetNS: l.netns, Cgroup: l.cgroup,
		dwell: l.dwell,
	}
	c.AtLeast = l.flags&lifeAtLeast != 0
	if l.flags&lifeSince != 0 {
		c.Start, c.Since = 0, l.start
	}
	if l.violations != nil {
		c.Violations = *l.violations
	}
	if c.HasHandshake = l.flags&lifeHasHandshake != 0; c.HasHandshake {
		sent, _ := c.Dwell(fsm.SynSent)
		received, _ := c.Dwell(fsm.SynRcvd)
		c.Handshake = sent + received
	}
	if c.Open = l.last != fsm.Closed; c.Open {
		c.dwell.spend(l.last, l.entered, now)
	}
	if c.TimeWait, c.HasTimeWait = c.Dwell(fsm.TimeWait); c.HasTimeWait && !c.Open {
		c.TimeWaitEnd = l.end
	}
	c.Complete = !c.Open && l.flags&lifeBegun != 0 && l.flags&(lifeHole|lifeFolded) == 0
}
