// Package eventstest writes the lives of sockets for tests: the events that the
// kernel would have reported, as values, as record bytes or as a recording.
//
// A [Script] holds the clock and what has happened so far. A [Socket] moves
// from state to state and keeps the books that the kernel side keeps: sequence,
// generation, the time a state was entered, the ends that are not assigned yet,
// the minisock that outlives the socket. [Scenarios] are ready-made.
//
//	s := eventstest.New(eventstest.Start)
//	c := s.Socket("10.0.0.1:40000", "10.0.0.2:80")
//	c.To(fsm.SynSent, 0)
//	c.To(fsm.Closed, time.Millisecond, eventstest.Errno(111))
//	use(s.Events())
package eventstest

import (
	"net/netip"
	"slices"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
)

// What every socket has unless a test says otherwise.
const (
	// Start is a usual beginning: an hour and a bit after boot.
	Start = uint64(3_723_000_000_000)
	// NetNS is the inode of the first network namespace of a host.
	NetNS = 4026531840

	afInet  = 2
	afInet6 = 10
)

// Script is what happens, in the order of time.
type Script struct {
	now    uint64
	cookie uint64
	events []events.Event
}

// New returns an empty script whose clock shows the given time, as
// events.Event.Time.
func New(start uint64) *Script { return &Script{now: start} }

// Events returns what has happened so far, in the order of time.
func (s *Script) Events() []events.Event { return slices.Clone(s.events) }

// Socket returns a new, closed socket with the ends it is to have; remote is ""
// for a listener. Its family is that of the local address.
func (s *Script) Socket(local, remote string) *Socket {
	s.cookie++
	c := &Socket{
		script: s,
		Cookie: s.cookie,
		Local:  netip.MustParseAddrPort(local),
		NetNS:  NetNS,
		state:  fsm.Closed,
	}
	c.Family = afInet6
	if c.Local.Addr().Is4() {
		c.Family = afInet
	}
	c.Remote = netip.AddrPortFrom(c.unspecified(), 0)
	if remote != "" {
		c.Remote = netip.MustParseAddrPort(remote)
	}
	return c
}

// Owned is what [Socket.Owner] takes: a process whose owner was learnt in the
// given call.
func Owned(pid uint32, comm string, source events.OwnerSource) events.Owner {
	return events.Owner{PID: pid, UID: 1000, Comm: events.MakeComm(comm), Source: source}
}

// Socket is one socket. Its exported fields may be changed at any time; they
// hold for the events that follow.
type Socket struct {
	Cookie        uint64
	Local, Remote netip.AddrPort
	// Family is AF_INET or AF_INET6. AF_INET6 with IPv4 ends is a v4-mapped
	// connection.
	Family uint16
	Owner  events.Owner
	NetNS  uint32
	Cgroup uint64
	// Flags and Shutdown are what goes with every event: evidence that stays.
	Flags    events.Flags
	Shutdown events.Shutdown

	script     *Script
	listener   *Socket // of a child that is not born yet
	state      fsm.State
	seen       bool // by the kernel side
	entered    uint64
	generation uint32
	seq        uint32
	minisock   minisock
}

// minisock is what the kernel side remembers of one.
type minisock struct {
	last    events.Event // of its connection
	entered uint64       // when last.To was
}

// State returns where the socket is: CLOSED, once a minisock has taken over.
func (c *Socket) State() fsm.State { return c.state }

// To moves the socket to the state, the given time after the last event of the
// script, and returns it.
func (c *Socket) To(to fsm.State, after time.Duration, opts ...Option) *Socket {
	c.script.events = append(c.script.events, c.step(to, after, opts))
	return c
}

// Lose is To for a record that gets lost on its way.
func (c *Socket) Lose(to fsm.State, after time.Duration, opts ...Option) *Socket {
	c.step(to, after, opts)
	return c
}

// Jump puts the socket into a state without a transition, as a broken kernel
// would: the next To is no continuation, though no record is missing.
func (c *Socket) Jump(to fsm.State) *Socket {
	c.state = to
	return c
}

// Accept returns the child that a connection to the listener c makes, still to
// be born: its first step is LISTEN to SYN_RCVD.
func (c *Socket) Accept(local, remote string) *Socket {
	child := c.script.Socket(local, remote)
	child.Family, child.Owner, child.NetNS, child.Cgroup = c.Family, c.Owner, c.NetNS, c.Cgroup
	child.state, child.listener = fsm.Listen, c
	child.Flags = events.FlagUnaccepted
	return child
}

// MinisockTo is the minisock's step to a state that its timer shows.
func (c *Socket) MinisockTo(to fsm.State, after time.Duration) *Socket {
	return c.ofMinisock(to, after, func(_ *Socket, e *events.Event) { e.Flags = events.FlagSupersedes })
}

// End is the end of the minisock, which its timer shows.
func (c *Socket) End(end fsm.End, after time.Duration, opts ...Option) *Socket {
	return c.ofMinisock(fsm.Closed, after, func(c *Socket, e *events.Event) {
		e.End, e.Flags = end, events.FlagProvisional
		if end == fsm.EndExpired {
			e.Flags = events.FlagSupersedes // cancelled before it runs
		}
		for _, o := range opts {
			o(c, e)
		}
	})
}

// ofMinisock is what the kernel side makes of a step of its timer: all is as in
// the socket's last record but what the step says.
func (c *Socket) ofMinisock(to fsm.State, after time.Duration, change Option) *Socket {
	if c.minisock.last.Time == 0 {
		panic("no minisock has taken over")
	}
	c.script.now += uint64(after)
	e := c.minisock.last
	e.Time, e.Entered = c.script.now, c.minisock.entered
	e.Seq++
	e.From, e.To = e.To, to
	e.Source, e.Errno, e.Reset = events.SourceTimeWait, 0, 0
	change(c, &e)
	c.minisock = minisock{last: e, entered: e.Time}
	c.script.events = append(c.script.events, e)
	return c
}

// Request is a handshake with the listener c that comes to nothing, so long
// after its SYN.
func (c *Socket) Request(local, remote string, end fsm.End, lasted, after time.Duration) *Socket {
	c.script.now += uint64(after)
	e := events.Event{
		Time: c.script.now, Entered: c.script.now - uint64(lasted),
		From: fsm.SynRcvd, To: fsm.Closed, Source: events.SourceRequest, End: end,
		Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
		Family: c.Family, NetNS: c.NetNS, Cgroup: c.Cgroup, Flags: events.FlagProvisional,
	}
	if end == fsm.EndExpired {
		e.Flags |= events.FlagSupersedes
	}
	c.script.events = append(c.script.events, e)
	return c
}

// step is what the kernel side does at a transition.
func (c *Socket) step(to fsm.State, after time.Duration, opts []Option) events.Event {
	c.script.now += uint64(after)
	if c.state == fsm.Closed && to != fsm.Closed && c.seen {
		c.generation++
		c.seq = 0
	}
	c.seen = true
	c.seq++
	switch to {
	case fsm.CloseWait, fsm.Closing, fsm.TimeWait:
		c.Flags |= events.FlagPeerFIN
		c.Shutdown |= events.ShutdownReceiving
	}

	e := events.Event{
		Time: c.script.now, Entered: c.entered,
		Cookie: c.Cookie, Generation: c.generation, Seq: c.seq,
		From: c.state, To: to,
		Local: c.Local, Remote: c.Remote, Family: c.Family,
		Owner: c.Owner, NetNS: c.NetNS, Cgroup: c.Cgroup,
		Flags: c.Flags, Shutdown: c.Shutdown,
	}
	switch {
	case c.listener != nil: // a clone of its listener, whose ends it still has
		e.Local, e.Remote = c.listener.Local, c.listener.Remote
		c.listener = nil
	case c.state == fsm.Closed && to == fsm.SynSent:
		e.Local = netip.AddrPortFrom(c.Local.Addr(), 0)
		e.Flags |= events.FlagLocal
	case c.state == fsm.Closed, c.state == fsm.Listen:
		e.Flags |= events.FlagLocal
	case c.state == fsm.SynRcvd: // and accepted at once
		c.Flags &^= events.FlagUnaccepted
	}
	for _, o := range opts {
		o(c, &e)
	}

	if e.From != to {
		c.entered = e.Time
	}
	c.state = to
	if e.Flags&events.FlagMinisock != 0 { // for the socket it is CLOSED
		c.minisock = minisock{last: e, entered: e.Time}
		if e.From == to {
			c.minisock.entered = e.Entered
		}
		c.state, c.entered = fsm.Closed, e.Time
	}
	return e
}

func (c *Socket) unspecified() netip.Addr {
	if c.Family == afInet {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// Option says more about one step. It may change the event, and the socket for
// the steps after it.
type Option func(*Socket, *events.Event)

// ByClose says that the process closes the socket, which then is an orphan.
func ByClose(c *Socket, e *events.Event) {
	e.Flags |= events.FlagLocal | events.FlagOrphan
	e.Shutdown |= events.ShutdownReceiving | events.ShutdownSending
	c.Flags |= events.FlagOrphan
	c.Shutdown |= events.ShutdownReceiving | events.ShutdownSending
}

// ByShutdown says that the process shuts sending.
func ByShutdown(c *Socket, e *events.Event) {
	e.Flags |= events.FlagLocal
	e.Shutdown |= events.ShutdownSending
	c.Shutdown |= events.ShutdownSending
}

// ByFIN says that the peer's FIN arrived.
func ByFIN(c *Socket, e *events.Event) {
	e.Flags |= events.FlagPeerFIN
	e.Shutdown |= events.ShutdownReceiving
	c.Flags |= events.FlagPeerFIN
	c.Shutdown |= events.ShutdownReceiving
}

// With adds flags to the event alone.
func With(f events.Flags) Option {
	return func(_ *Socket, e *events.Event) { e.Flags |= f }
}

// Errno sets the pending error.
func Errno(n int32) Option {
	return func(_ *Socket, e *events.Event) { e.Errno = n }
}

// Counters sets what the socket has counted by now.
func Counters(acked, received uint64, srttMicros, retransmits uint32) Option {
	return func(_ *Socket, e *events.Event) {
		e.BytesAcked, e.BytesReceived, e.SRTT, e.Retransmits = acked, received, srttMicros, retransmits
	}
}

// Sent sets how much payload the socket has sent by now, each byte once.
func Sent(payload uint64) Option {
	return func(_ *Socket, e *events.Event) { e.BytesSent = payload }
}

// Minisock says that a minisock takes over, and is in the state of the step.
func Minisock(_ *Socket, e *events.Event) { e.Flags |= events.FlagMinisock }

// Skipped says that no minisock takes over, though all are followed, and how
// many there are of how many that there may be.
func Skipped(minisocks, limit uint32) Option {
	return func(_ *Socket, e *events.Event) {
		e.Flags |= events.FlagSkipped | events.FlagCounted
		e.Minisocks, e.MinisockLimit = minisocks, limit
	}
}

// Estimated says, of the end of a minisock in FIN_WAIT_2, that the FIN reached
// it unseen, about so long before.
func Estimated(inTimeWait time.Duration) Option {
	return func(_ *Socket, e *events.Event) {
		e.From, e.Entered = fsm.TimeWait, e.Time-uint64(inTimeWait)
		e.Flags |= events.FlagEstimated
	}
}

// Since says that the state was entered so long before, as for a child, whose
// SYN came before it was born.
func Since(d time.Duration) Option {
	return func(_ *Socket, e *events.Event) { e.Entered = e.Time - uint64(d) }
}

// Unseen says that it was not seen when the state was entered, as for a child of
// a SYN cookie.
func Unseen(_ *Socket, e *events.Event) { e.Entered = 0 }

// ResetSent says that the kernel sends a reset, and why.
func ResetSent(why events.Reset) Option {
	return func(_ *Socket, e *events.Event) { e.Reset = why }
}
