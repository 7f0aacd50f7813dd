package lifecycle

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
)

// Limits are how long a socket may be in each state, by the state; 0: for any time.
// No limit applies to LISTEN and CLOSED.
type Limits [len(places)]time.Duration

// DefaultLimits returns limits that a healthy connection keeps.
func DefaultLimits() Limits {
	return Limits{
		// An answer takes a round trip; after 10 s the SYN was sent four times.
		fsm.SynSent: 10 * time.Second,
		fsm.SynRcvd: 10 * time.Second, // and the SYN-ACK likewise
		// A connection may be idle for any time.
		fsm.Established: 0,
		// What is left to send, and the FIN, take round trips; a dead peer is given up
		// after minutes only.
		fsm.FinWait1: 30 * time.Second,
		// The kernel gives up a socket that no process holds after 60 s
		// (net.ipv4.tcp_fin_timeout); one that is held it never does.
		fsm.FinWait2: 2 * time.Minute,
		// A process that reads notices the end at once, and has to close.
		fsm.CloseWait: time.Minute,
		fsm.Closing:   30 * time.Second, // for the ACK of a FIN, as the next
		fsm.LastAck:   30 * time.Second,
		// 2 MSL are 60 s, and the timer wheel adds up to 4 s; a segment that comes
		// again begins them anew.
		fsm.TimeWait: 2 * time.Minute,
	}
}

// limited are the states that can have a limit, in the order of a connection's life.
func limited() []fsm.State { return fsm.States()[2:] }

// Set changes limits as a text says, such as CLOSE_WAIT=30s,FIN_WAIT_2=off, with
// any spelling of the states. After an error none is changed.
func (l *Limits) Set(text string) error {
	next, seen := *l, map[fsm.State]bool{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return fmt.Errorf("limit %q: want STATE=TIME, such as CLOSE_WAIT=30s, or STATE=off", part)
		}
		s, err := fsm.ParseState(name)
		switch {
		case err != nil || !s.Known():
			return fmt.Errorf("limit %q: no such state: want one of %s", part, stateNames())
		case places[s] == 0:
			return fmt.Errorf("limit %q: a socket may be in %v for any time: want one of %s", part, s, stateNames())
		case seen[s]:
			return fmt.Errorf("limit %q: %v has one before: give one for each state", part, s)
		}
		seen[s] = true
		value = strings.TrimSpace(value)
		if strings.EqualFold(value, "off") {
			next[s] = 0
			continue
		}
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("limit %q: want a time above 0, such as 30s, 5m or 1h, or off", part)
		}
		next[s] = d
	}
	*l = next
	return nil
}

// String returns the text that Set takes for all limits.
func (l *Limits) String() string {
	parts := make([]string, 0, len(l))
	for _, s := range limited() {
		value := "off"
		if l[s] > 0 {
			value = trimZeros(l[s])
		}
		parts = append(parts, s.String()+"="+value)
	}
	return strings.Join(parts, ",")
}

func stateNames() string {
	names := make([]string, 0, len(places))
	for _, s := range limited() {
		names = append(names, s.String())
	}
	return strings.Join(names, ", ")
}

// of returns the limit of a state, 0 if it has none.
func (l *Limits) of(s fsm.State) time.Duration {
	if !s.Known() {
		return 0
	}
	return l[s]
}

// Stuck is a socket, a minisock or a handshake that has been in a state for longer
// than its limit.
type Stuck struct {
	Time       uint64 // when that was found, as events.Event.Time
	Cookie     uint64
	Generation uint32
	State      fsm.State
	// Age is the time in State up to Time. If not AgeExact it is a lower bound:
	// the beginning was not seen.
	Age      time.Duration
	AgeExact bool
	Limit    time.Duration
	// Resolved: it is over. To is the state that followed, 0 where that is not
	// known.
	Resolved bool
	To       fsm.State

	// Request: a handshake, which has no socket yet. Minisock: what the kernel
	// keeps without a socket. Orphan: no process holds the socket any more.
	// Unaccepted: of a listener's child that no process has accepted.
	Request, Minisock, Orphan, Unaccepted bool
	// Snapshot is of the walk that found it, if HasSnapshot.
	Snapshot    events.Snapshot
	HasSnapshot bool
	Retransmits uint32 // segments of the whole connection

	Local, Remote netip.AddrPort
	Family        uint16
	Owner         events.Owner
	NetNS         uint32
	Cgroup        uint64
	Place         events.Place
	Exe           string // that the owner executes; "" not known
}

// Check holds a snapshot that a Tracker observed against its limit. It reports
// whether that is over, and then fills s, but for Exe. It does not allocate.
func (l *Limits) Check(t *Transition, s *Stuck) bool {
	e := t.Event
	limit := l.of(e.To)
	if limit == 0 || t.Life.last != e.To && !t.Life.InMinisock() { // it has moved on
		return false
	}
	entered, exact := uint64(0), false
	if t.HasDwell {
		entered, exact = e.Entered, !t.AtLeast
	}
	if seen := t.Life.entered; t.Life.last == e.To && seen != 0 && seen <= e.Time {
		switch seenExact := !t.Life.bounded(); {
		case seenExact || entered == 0:
			entered, exact = seen, seenExact
		case !exact:
			entered = min(entered, seen)
		}
	}
	age := time.Duration(e.Time - entered)
	if entered == 0 || age <= limit {
		return false
	}
	*s = Stuck{
		Time: e.Time, Cookie: e.Cookie, Generation: e.Generation,
		State: e.To, Age: age, AgeExact: exact, Limit: limit,
		Request:    e.Flags&events.FlagRequest != 0,
		Minisock:   e.Flags&events.FlagMinisock != 0,
		Orphan:     e.Flags&events.FlagOrphan != 0,
		Unaccepted: e.Flags&events.FlagUnaccepted != 0,
		Snapshot:   e.Snapshot, HasSnapshot: true, Retransmits: e.Retransmits,
		Local: e.Local, Remote: e.Remote, Family: e.Family,
		Owner: t.Life.owner, NetNS: e.NetNS, Cgroup: e.Cgroup, Place: t.Place,
	}
	return true
}

// CheckLife is Check for a time at which no walk looked: of what the socket was
// then, nothing is known but its state. It does not fill Place either.
func (l *Limits) CheckLife(life *Life, now uint64, s *Stuck) bool {
	limit := l.of(life.last)
	age, exact, known := life.Age(now)
	if limit == 0 || !known || age <= limit {
		return false
	}
	*s = Stuck{
		Time: now, Cookie: life.cookie, Generation: life.generation,
		State: life.last, Age: age, AgeExact: exact, Limit: limit,
		Minisock: life.InMinisock(),
		Local:    addrPort(life.local, life.localPort), Remote: addrPort(life.remote, life.remotePort), Family: life.family,
		Owner: life.owner, NetNS: life.netns, Cgroup: life.cgroup,
	}
	return true
}

// bounded reports whether the present state was entered by l.entered or before.
func (l *Life) bounded() bool { return l.flags&lifeAtLeast != 0 && l.steps == 1 }

// Resolve says that the socket left its state at the given time, for the state to.
// If that is 0, it is only known that it was gone by then.
func (s *Stuck) Resolve(at uint64, to fsm.State) {
	s.Resolved, s.To = true, to
	switch {
	case to == 0 || at < s.Time:
		s.AgeExact = false
	default:
		s.Age += time.Duration(at - s.Time)
	}
	s.Time = max(s.Time, at)
}

// Hint says in words why it may be stuck, with the evidence, in printable ASCII.
func (s *Stuck) Hint() string { return string(s.AppendHint(nil)) }

// AppendHint appends what Hint returns.
func (s *Stuck) AppendHint(b []byte) []byte {
	if !events.IsWireCookie(s.Cookie) {
		return s.appendHint(b)
	}
	switch s.State {
	case fsm.SynSent: // perhaps there was one, that has not arrived
		b = append(b, "no answer to the SYN was acknowledged"...)
	default:
		b = s.appendHint(b)
	}
	switch s.State {
	case fsm.Established, fsm.CloseWait: // to leave them takes a packet
		return append(b, "; by the packets"...)
	}
	return append(b, "; by the packets: it may have given up since, which none shows"...)
}

func (s *Stuck) appendHint(b []byte) []byte {
	switch s.State {
	case fsm.SynSent:
		if s.HasSnapshot && s.Snapshot.SendQueue == 0 {
			return append(b, "the SYN waits for data of the process (TCP_FASTOPEN_CONNECT)"...)
		}
		if !s.HasSnapshot || s.Snapshot.Unanswered == 0 {
			return append(b, "no answer to the SYN"...)
		}
		return appendCount(append(b, "no answer to "...), 1+uint64(s.Snapshot.Unanswered), "SYN")
	case fsm.SynRcvd:
		// The final ACK may have come, and been dropped: the queue of the listener is
		// full, or it waits for data (TCP_DEFER_ACCEPT).
		b = append(b, "the handshake is not completed"...)
		if s.Request && s.HasSnapshot {
			b = append(appendCount(append(b, ", "...), 1+uint64(s.Snapshot.Unanswered), "SYN-ACK"), " sent"...)
		}
		return b
	case fsm.FinWait1, fsm.LastAck:
		return s.appendFIN(b)
	case fsm.Closing:
		return s.appendFIN(append(b, "both sides have closed; "...))
	case fsm.FinWait2:
		switch {
		case s.Orphan || s.Minisock:
			b = append(b, "closed here; the peer has not sent its FIN"...)
		case !s.HasSnapshot:
			b = append(b, "our FIN is acknowledged; the peer has not sent its own"...)
		case s.Owner.Known():
			b = append(b, "this process has shut down sending, and the peer has not closed"...)
		default:
			b = append(b, "sending is shut down, and the peer has not closed"...)
		}
		return s.appendLeft(s.appendUnread(b))
	case fsm.CloseWait:
		return s.appendUnread(s.appendUnclosed(append(b, "the peer has closed, and "...)))
	case fsm.TimeWait:
		return s.appendLeft(append(b, "both sides have closed"...))
	case fsm.Established:
		b = append(b, "established"...)
		if s.Snapshot.Silent > 0 {
			b = append(append(b, ", silent for "...), FormatDuration(time.Duration(s.Snapshot.Silent))...)
		}
		if n := s.Unacknowledged(); n > 0 {
			b = append(appendCount(append(b, "; "...), n, "byte"), " not acknowledged"...)
			b = s.appendRetries(b)
		}
		return s.appendUnread(b)
	}
	return append(append(b, "in "...), s.State.String()...)
}

// Unread returns how many bytes the process has not read.
func (s *Stuck) Unread() uint64 {
	if s.State == fsm.Listen {
		return 0
	}
	return uint64(s.Snapshot.RecvQueue)
}

// Unacknowledged returns how many bytes of payload the peer has not acknowledged.
// Behind those the send queue has the FIN, in the states that wait for its
// acknowledgement, or the SYN.
func (s *Stuck) Unacknowledged() uint64 {
	n := uint64(s.Snapshot.SendQueue)
	switch s.State {
	case fsm.FinWait1, fsm.Closing, fsm.LastAck, fsm.SynSent, fsm.SynRcvd:
		return max(n, 1) - 1
	case fsm.Listen:
		return 0
	}
	return n
}

// appendFIN says, of a state that waits for the acknowledgement of the FIN, what
// keeps it.
func (s *Stuck) appendFIN(b []byte) []byte {
	if n := s.Unacknowledged(); n > 0 {
		verb := " before our FIN are not acknowledged"
		if n == 1 {
			verb = " before our FIN is not acknowledged"
		}
		b = append(appendCount(b, n, "byte"), verb...)
	} else {
		b = append(b, "the peer does not acknowledge our FIN"...)
	}
	return s.appendRetries(b)
}

// appendUnclosed says who should have closed the socket.
func (s *Stuck) appendUnclosed(b []byte) []byte {
	switch {
	case s.Orphan:
		return append(b, "no process holds the socket"...)
	case s.Unaccepted:
		return append(b, "no process has accepted the connection"...)
	case !s.HasSnapshot:
		return append(b, "this side has not"...)
	case s.Owner.Known():
		b = append(b, "this process has not called close"...)
	default:
		b = append(b, "close has not been called"...)
	}
	if s.Snapshot.Holders == 0 {
		return b
	}
	b = strconv.AppendInt(append(b, " on fd "...), int64(s.Snapshot.FD), 10)
	if others := s.Snapshot.Holders - 1; others > 0 {
		b = append(appendCount(append(b, " (and "...), uint64(others), "more descriptor"), ')')
	}
	return b
}

// appendRetries says how often something was sent again, data or FIN, or the closed
// window was probed.
func (s *Stuck) appendRetries(b []byte) []byte {
	if s.Snapshot.Unanswered == 0 {
		return b
	}
	if s.Snapshot.Unanswered == 1 {
		return append(b, ", 1 retry"...)
	}
	return append(strconv.AppendUint(append(b, ", "...), uint64(s.Snapshot.Unanswered), 10), " retries"...)
}

func (s *Stuck) appendUnread(b []byte) []byte {
	if n := s.Unread(); n > 0 {
		b = append(appendCount(append(b, "; "...), n, "byte"), " unread"...)
	}
	return b
}

func (s *Stuck) appendLeft(b []byte) []byte {
	if s.Snapshot.Left > 0 {
		b = append(append(b, "; "...), FormatDuration(time.Duration(s.Snapshot.Left))...)
		b = append(b, " left on its timer"...)
	}
	return b
}

// appendCount appends "1 byte", "2 bytes".
func appendCount(b []byte, n uint64, noun string) []byte {
	b = append(append(strconv.AppendUint(b, n, 10), ' '), noun...)
	if n != 1 {
		b = append(b, 's')
	}
	return b
}

// FormatDuration writes a time span as people do, without what does not matter any
// more: 340ms, 34.2s, 12m30s, 5h10m.
func FormatDuration(d time.Duration) string {
	unit := time.Millisecond
	switch {
	case d < time.Millisecond:
		return d.String()
	case d >= time.Hour:
		unit = time.Minute
	case d >= time.Minute:
		unit = time.Second
	case d >= time.Second:
		unit = 100 * time.Millisecond
	}
	return trimZeros(d.Truncate(unit))
}

// trimZeros writes 1h, not 1h0m0s.
func trimZeros(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
