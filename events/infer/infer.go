package infer

import (
	"fmt"
	"time"

	"tcptrace/events"
	"tcptrace/events/pcap"
	"tcptrace/fsm"
	"tcptrace/fsm/segment"
)

// TimeWait is how long an end is taken to stay in TIME_WAIT at least: 2 MSL as Linux has
// it. RFC 9293 has four minutes. Nothing on the wire shows when it ends.
const TimeWait = 60 * time.Second

// moment is within what a segment is captured twice, as on the pseudo-device any.
const moment = uint64(5 * time.Millisecond)

// DefaultMaxConnections is how many connections are followed at once.
const DefaultMaxConnections = 1 << 18

// Counts says what was seen beside the transitions.
type Counts struct {
	Duplicates  uint64 // segments captured twice
	Retransmits uint64 // segments that were sent before
	OutOfOrder  uint64 // segments that may have been missing when later ones came
	NotCaptured uint64 // times that something sent was not captured
	Probes      uint64 // of keep-alive and of closed windows
	Oversized   uint64 // segments that the hardware cuts up or has put together
	Strays      uint64 // segments of no connection: resets, and answers to what was not captured
	Midstream   uint64 // connections that had begun before
	Forgotten   uint64 // connections that were dropped for want of room

	// What Finish finds.
	HalfOpen uint64 // handshakes that were not completed
	FINs     uint64 // FINs that were not acknowledged
	Open     uint64 // connections that go on after the capture
}

// Follower follows the connections of a capture. It may be used from one goroutine at a
// time.
type Follower struct {
	max    int
	conns  map[tuple]*conn
	open   list // by use
	over   list // likewise, of those that are over
	last   *conn
	free   *conn // chained by newer
	ids    uint64
	now    uint64
	queue  []events.Event
	given  int // of queue
	gone   []Gone
	keeper *keeper // nil: segments are not kept
	counts Counts
}

// Gone is an end that was in TIME_WAIT, of which nothing will tell any more.
type Gone struct{ Cookie uint64 }

// New returns a follower that follows so many connections at once, 0 meaning
// DefaultMaxConnections. Beyond that, the one that has been still for longest is
// forgotten and counted.
func New(maxConnections int) *Follower {
	if maxConnections <= 0 {
		maxConnections = DefaultMaxConnections
	}
	f := &Follower{max: maxConnections, conns: make(map[tuple]*conn)}
	f.open.init()
	f.over.init()
	return f
}

// Counts returns what was seen so far.
func (f *Follower) Counts() Counts { return f.counts }

// Pop stores the next transition in e, if there is one. Its cookie is of
// events.WireCookie.
func (f *Follower) Pop(e *events.Event) bool {
	if f.given == len(f.queue) {
		f.queue, f.given = f.queue[:0], 0
		return false
	}
	*e = f.queue[f.given]
	f.queue[f.given] = events.Event{}
	f.given++
	return true
}

// PopGone returns the next end that may be forgotten. All transitions come first.
func (f *Follower) PopGone() (Gone, bool) {
	if len(f.gone) == 0 {
		return Gone{}, false
	}
	g := f.gone[len(f.gone)-1]
	f.gone = f.gone[:len(f.gone)-1]
	return g, true
}

// Finish counts what did not come to its end in the capture.
func (f *Follower) Finish() {
	for c := f.open.oldest(); c != nil && c != &f.open.conn; c = c.newer {
		f.counts.Open++
		halfOpen, fin := false, false
		for i := range c.ends {
			switch e := &c.ends[i]; e.state {
			case fsm.SynSent, fsm.SynRcvd:
				halfOpen = halfOpen || !e.assumed
			case fsm.FinWait1, fsm.Closing, fsm.LastAck:
				fin = true
			}
		}
		if halfOpen {
			f.counts.HalfOpen++
		}
		if fin {
			f.counts.FINs++
		}
	}
}

// Take takes the next segment of the capture. The transitions that it shows are to be
// taken by Pop before the next.
func (f *Follower) Take(s *pcap.Segment) {
	f.now = max(f.now, s.Time, 1)
	f.expire()
	if f.keeper != nil {
		f.keeper.expire(f.now)
	}

	from, to := side{s.Src, s.SrcPort}, side{s.Dst, s.DstPort}
	x := 0
	key := tuple{from, to}
	if to.before(&from) {
		key, x = tuple{to, from}, 1
	}
	c := f.last
	if c == nil || c.tuple != key {
		c = f.conns[key]
	}
	if c == nil {
		if c = f.begin(key, x, s); c == nil {
			return
		}
	}
	if c.ends[x].seen(s) {
		f.counts.Duplicates++
		return
	}
	c = f.place(c, x, s)
	if c == nil {
		return
	}
	f.use(c)
	if f.keeper != nil {
		f.keeper.add(c, x, s)
	}
	f.segment(c, x, s)
	f.settle(c)
}

// begin makes a connection for a segment of none, if that can be of one.
func (f *Follower) begin(key tuple, x int, s *pcap.Segment) *conn {
	if s.Flags.Has(segment.RST) {
		f.counts.Strays++
		return nil
	}
	c := f.add(key, x, s)
	switch {
	case !s.Flags.Has(segment.SYN):
		c.midstream = true
		f.counts.Midstream++
		for i := range c.ends {
			c.ends[i].state, c.ends[i].assumed = fsm.Established, true
		}
	case s.Flags.Has(segment.ACK):
		y := &c.ends[c.peer(x)]
		y.state, y.role, y.assumed = fsm.SynSent, events.RoleActive, true
		y.iss, y.next, y.hasISS, y.sent = s.Ack-1, s.Ack, true, true
		f.counts.Midstream++
	}
	return c
}

// add makes a connection, which the end x has begun, or seems to have.
func (f *Follower) add(key tuple, x int, s *pcap.Segment) *conn {
	if len(f.conns) >= f.max {
		oldest := f.over.oldest()
		if oldest == nil {
			oldest = f.open.oldest()
			f.counts.Forgotten++
		}
		f.remove(oldest)
	}
	c := f.free
	if c != nil {
		f.free = c.newer
		*c = conn{}
	} else {
		c = new(conn)
	}
	f.ids++
	c.tuple, c.id, c.ipv6, c.self = key, f.ids, s.IPv6, key.low == key.high
	first := x
	if s.Flags.Has(segment.SYN | segment.ACK) { // the other one did
		first = c.peer(x)
	}
	c.second = int8(1 - first)
	f.conns[key] = c
	f.open.add(c)
	f.last = c
	return c
}

// place says which connection a segment between these ends belongs to: the known one,
// one that begins with it, the one before, or none.
func (f *Follower) place(c *conn, x int, s *pcap.Segment) *conn {
	e, y := &c.ends[x], &c.ends[c.peer(x)]
	if c.earlier != nil && s.Flags.Has(segment.SYN|segment.ACK) {
		f.endEarlier(c, x)
	}
	switch {
	case c.earlier != nil && f.isEarlier(c, x, s):
		f.proveEarlier(c.earlier, x, s)
		return c.earlier
	case s.Flags.Has(segment.RST):
		return c
	case !s.Flags.Has(segment.SYN):
		if c.over() && e.sent && distance(s.Seq, e.next) > farOff {
			// Of another connection, whose SYN was not captured.
			key := c.tuple
			f.remove(c)
			return f.begin(key, x, s)
		}
		return c
	case e.hasISS && e.iss == s.Seq:
		return c // again
	case s.Flags.Has(segment.ACK):
		if e.live() && e.state != fsm.SynSent {
			f.counts.Strays++
			return nil // an answer that does not belong here
		}
		if c.over() && (e.state != 0 || y.state != fsm.SynSent) {
			return f.renew(c, x, s)
		}
		return c
	case !e.hasISS && e.state == 0 && y.state != fsm.Closed && y.state != fsm.TimeWait:
		return c // opened by both at once
	}
	return f.renew(c, x, s)
}

// farOff is more than a segment of a connection can be from the one before.
const farOff = 1 << 24

// distance is between two sequence numbers, whichever is first.
func distance(a, b uint32) uint32 { return min(a-b, b-a) }

// isEarlier reports whether a segment is of the connection before: an answer of the end
// that has not forgotten it, or the reset that makes it.
func (f *Follower) isEarlier(c *conn, x int, s *pcap.Segment) bool {
	e := &c.ends[x]
	switch {
	case s.Flags.Has(segment.SYN), c.earlier.gone():
		return false
	case e.state == 0:
		return !s.Flags.Has(segment.RST) || s.Ack != c.ends[c.peer(x)].next
	}
	return e.state == fsm.SynSent && s.Flags.Has(segment.RST)
}

// proveEarlier: an end answers a SYN as one that is synchronised, which it then was.
func (f *Follower) proveEarlier(c *conn, x int, s *pcap.Segment) {
	e := &c.ends[x]
	if c.proven || s.Flags.Has(segment.RST) || !e.live() {
		return
	}
	c.proven = true
	o := segment.Receive(e.state, segment.Received{Flags: segment.SYN, At: segment.Outside})
	if o.Finding == segment.FindingSYN {
		f.finding(c, x, "RFC 9293 3.10.7.4 SYN", fmt.Sprintf("%v: the peer begins anew, as if there were no connection", o.Finding))
	}
}

// endEarlier: an end takes part in a new connection, so that the one before had ended.
func (f *Follower) endEarlier(c *conn, x int) {
	switch e := &c.earlier.ends[x]; {
	case e.state == fsm.TimeWait:
		f.emit(c.earlier, x, fsm.Closed, &events.Wire{Trigger: "rcv SYN", Judgement: c.earlier.reopened}, false)
	case e.live():
		f.emit(c.earlier, x, fsm.Closed, &events.Wire{Judgement: forgottenGap}, false)
	}
	c.earlier = nil
}

// forgottenGap judges the end of a connection that was not seen.
var forgottenGap = fsm.Judgement{Verdict: fsm.Gap, Reason: "a new connection begins: how this one ended was not on the wire"}

// renew begins a connection anew between the ends of one.
func (f *Follower) renew(c *conn, x int, s *pcap.Segment) *conn {
	var earlier *conn
	if c.over() {
		earlier = f.reuse(c, x, s)
	} else {
		earlier = f.forgotten(c, x)
	}
	key, e := c.tuple, c.ends[x]
	f.remove(c) // which may become the new one
	n := f.begin(key, x, s)
	n.ends[x].printed, n.ends[x].printAt, n.ends[x].last = e.printed, e.printAt, e.last
	n.earlier = earlier
	return n
}

// forgotten deals with a SYN in the middle of a connection: its sender knows nothing of
// that any more. It returns the connection if the other end may still know of it.
func (f *Follower) forgotten(c *conn, x int) *conn {
	e, y := &c.ends[x], c.peer(x)
	if e.live() && !e.assumed {
		f.emit(c, x, fsm.Closed, &events.Wire{Judgement: forgottenGap}, false)
	}
	if y == x || !c.ends[y].live() || c.ends[y].assumed {
		return nil
	}
	old := *c
	old.earlier, old.newer, old.older = nil, nil, nil
	return &old
}

// reuse judges that a new connection takes the ports of one in TIME_WAIT. The end that
// begins it is, by that, in TIME_WAIT no more; the other one by its SYN,ACK,
// until when it is returned.
func (f *Follower) reuse(c *conn, x int, s *pcap.Segment) *conn {
	var judgement fsm.Judgement
	e, y := &c.ends[x], c.peer(x)
	above := !e.sent || segment.Before(e.next, s.Seq) || e.next == s.Seq
	later := e.hasStamp && s.HasStamp && segment.Before(e.stamp, s.Stamp)
	if !above && !later && !s.Flags.Has(segment.ACK) {
		judgement = fsm.Judgement{
			Verdict: fsm.Illegal, Rule: "RFC 9293 3.6.1 TIME-WAIT for 2 MSL",
			Reason: fmt.Sprintf("reopened within 2 MSL by a SYN whose sequence number is %d below what was sent before, without a later time stamp", e.next-s.Seq),
		}
	}
	if e.state == fsm.TimeWait {
		f.emit(c, x, fsm.Closed, &events.Wire{Trigger: "active OPEN / snd SYN", Judgement: judgement}, false)
	}
	if y == x || c.ends[y].state != fsm.TimeWait {
		return nil
	}
	old := *c
	old.earlier, old.newer, old.older, old.reopened = nil, nil, nil, judgement
	c.ends[y].state = fsm.Closed // which is told of by the copy
	return &old
}

// segment takes a segment of a connection that is known.
func (f *Follower) segment(c *conn, x int, s *pcap.Segment) {
	c.at = f.now
	y := c.peer(x)
	e, p := &c.ends[x], &c.ends[y]
	if s.HasStamp {
		e.stamp, e.hasStamp = s.Stamp, true
	}
	if p.mss != 0 && s.Text > uint32(p.mss) {
		f.counts.Oversized++
	}
	switch {
	case s.Flags.Has(segment.RST):
		f.reset(c, x, s)
		return
	case s.Flags.Has(segment.SYN):
		f.syn(c, x, s)
	default:
		f.text(c, x, s)
	}
	if s.Flags.Has(segment.ACK) {
		f.acknowledged(c, x, s)
	}
	if s.Flags.Has(segment.FIN) {
		f.fin(c, x, s)
	}
	if s.Flags.Has(segment.ACK) {
		f.arrives(c, y, s)
	}
	// Of packets that were captured in another order the acknowledgement came first.
	if !p.finRcvd && p.hasRcvd && e.finSent && !segment.Before(p.rcvd, e.fin) {
		f.deliverFIN(c, y)
		f.arrives(c, x, &pcap.Segment{Ack: p.rcvd, Flags: segment.ACK})
	}
}

// syn: the end opens.
func (f *Follower) syn(c *conn, x int, s *pcap.Segment) {
	e, p := &c.ends[x], &c.ends[c.peer(x)]
	isNew := !e.hasISS || e.iss != s.Seq
	if isNew {
		e.iss, e.hasISS = s.Seq, true
		e.next, e.sent, e.total = s.Next(), true, uint64(s.Next()-s.Seq)
	} else if e.state != fsm.SynSent || !s.Flags.Has(segment.ACK) {
		e.take(s, &f.counts)
	}
	if s.MSS != 0 {
		e.mss = s.MSS
	}
	switch {
	case !isNew && e.state != fsm.SynSent:
	case !s.Flags.Has(segment.ACK):
		if e.state == 0 {
			e.state, e.role = fsm.Closed, events.RoleActive
		}
		f.outcome(c, x, segment.Send(e.state, s.Flags, isNew))
	case p.sent && segment.AckOf(s.Ack, p.iss, p.next) == segment.AckedUnsent:
	case e.state == 0:
		e.state, e.role = fsm.Listen, events.RolePassive
		f.outcome(c, x, segment.Send(e.state, s.Flags, isNew))
	case e.state == fsm.SynSent: // opened by both at once: it has received the other's
		f.outcome(c, x, segment.Receive(e.state, segment.Received{Flags: segment.SYN, At: segment.Next}))
	}
}

// text: the end sends data, or nothing.
func (f *Follower) text(c *conn, x int, s *pcap.Segment) {
	e := &c.ends[x]
	if s.Text == 0 && s.Flags&segment.FIN == 0 {
		if !e.sent {
			e.next, e.sent = s.Seq, true
		}
		return
	}
	if past := s.Seq + s.Text - e.fin; e.finSent && s.Text > 0 && past != 0 && past < farOff {
		f.finding(c, x, "RFC 9293 3.10.4 CLOSE", fmt.Sprintf("%v: %d bytes", segment.FindingDataAfterFIN, min(s.Text, past)))
		return
	}
	e.take(s, &f.counts)
	if s.Text > 0 {
		e.text = true
		c.unsure = c.unsure && e.finSent
	}
}

// acknowledged: the end shows by what it acknowledges what it has received.
func (f *Follower) acknowledged(c *conn, x int, s *pcap.Segment) {
	e, p := &c.ends[x], &c.ends[c.peer(x)]
	switch {
	case p.state == 0 && !p.sent:
		return // it answers nothing that was captured
	case !p.sent:
		p.next, p.sent = s.Ack, true
	case segment.Before(p.next, s.Ack):
		if p.finSent || s.Ack-p.next > maxJump {
			f.counts.Strays++
			return
		}
		f.counts.NotCaptured++
		p.hole += s.Ack - p.next
		p.advance(s.Ack)
	}
	if !e.hasRcvd || segment.Before(e.rcvd, s.Ack) {
		e.rcvd, e.hasRcvd = s.Ack, true
	}
	if e.state == fsm.SynSent && p.hasISS && segment.Before(p.iss, e.rcvd) && p.hasRcvd && segment.Before(e.iss, p.rcvd) &&
		!s.Flags.Has(segment.SYN) {
		f.outcome(c, x, segment.Receive(e.state, segment.Received{Flags: segment.SYN | segment.ACK, At: segment.Next, Acked: segment.AckedAll}))
	}
	if p.finSent && !e.finRcvd && !segment.Before(e.rcvd, p.fin) {
		f.deliverFIN(c, x)
	}
}

// maxJump is the most that can have been sent and not captured between two segments of
// an end: the largest window.
const maxJump = 1 << 30

// deliverFIN: the end has received its peer's FIN.
func (f *Follower) deliverFIN(c *conn, x int) {
	e := &c.ends[x]
	e.finRcvd = true
	r := segment.Received{Flags: segment.FIN | segment.ACK, At: segment.Next, Acked: segment.AckedOld}
	switch {
	case e.state == fsm.SynRcvd:
		r.Acked = segment.AckedSome
	case e.finHeld && e.state == fsm.FinWait1:
		r.Acked = segment.AckedAll
	}
	f.outcome(c, x, segment.Receive(e.state, r))
}

// fin: the end closes.
func (f *Follower) fin(c *conn, x int, s *pcap.Segment) {
	e, p := &c.ends[x], &c.ends[c.peer(x)]
	if e.finSent || s.Flags.Has(segment.SYN) {
		return
	}
	e.fin, e.finSent = s.Next(), true
	if c.midstream && !p.text && !p.finSent && !p.hasISS {
		c.unsure = true
	}
	if p.finSent {
		c.unsure = false
	}
	f.outcome(c, x, segment.Send(e.state, s.Flags, true))
}

// arrives: what the segment acknowledges is taken to have arrived at the end.
func (f *Follower) arrives(c *conn, y int, s *pcap.Segment) {
	e, x := &c.ends[y], c.peer(y)
	p := &c.ends[x]
	r := segment.Received{Flags: segment.ACK, At: segment.Next}
	switch e.state {
	case fsm.SynRcvd:
		if s.Flags.Has(segment.SYN) && y != x && p.state != fsm.SynRcvd || !segment.Before(e.iss, s.Ack) {
			return
		}
		r.Acked = segment.AckOf(s.Ack, e.iss, e.next)
	case fsm.FinWait1, fsm.Closing, fsm.LastAck:
		if !e.finSent || segment.Before(s.Ack, e.fin) {
			return
		}
		if e.state == fsm.FinWait1 && s.Flags.Has(segment.FIN) && !e.finRcvd {
			e.finHeld = true
			return
		}
		r.Acked = segment.AckedAll
	default:
		return
	}
	o := segment.Receive(e.state, r)
	for _, step := range o.Steps() {
		f.emit(c, y, step.To, &events.Wire{Trigger: step.Trigger}, true)
	}
}

// reset: the end sends a reset.
func (f *Follower) reset(c *conn, x int, s *pcap.Segment) {
	y := c.peer(x)
	e, p := &c.ends[x], &c.ends[y]
	r := segment.Received{Flags: s.Flags, At: segment.Next}
	switch p.state {
	case 0, fsm.Closed:
		r.At = segment.Outside
	case fsm.SynSent:
		if r.Acked = segment.AckedNone; s.Flags.Has(segment.ACK) {
			r.Acked = segment.AckOf(s.Ack, p.iss, p.next)
		}
		if p.assumed {
			r.Acked = segment.AckedAll
		}
	default:
		// Of what was sent, all may have arrived that is not known to be missing.
		window := uint32(farOff)
		if e.sent {
			window += e.next - p.rcvd
		}
		if p.hasRcvd {
			r.At = segment.PlaceOf(s.Seq, 0, p.rcvd, window)
		}
		switch past := s.Seq - e.next; {
		case r.At == segment.Old || r.At == segment.Outside:
			f.counts.Strays++
		case e.sent && past != 0 && past < farOff:
			f.counts.NotCaptured++
			e.hole += past
			r.At = segment.Next
		default:
			r.At = segment.Next
		}
	}
	if c.closed && r.At == segment.Outside {
		return
	}
	f.outcome(c, x, segment.Send(e.state, s.Flags, true))
	if y == x {
		return
	}
	o := segment.Receive(p.state, r)
	for _, step := range o.Steps() {
		f.emit(c, y, fsm.Closed, &events.Wire{Trigger: step.Trigger, ResetReceived: true}, true)
	}
}

// outcome tells of the steps that an end shows by what it sends.
func (f *Follower) outcome(c *conn, x int, o segment.Outcome) {
	for _, step := range o.Steps() {
		f.emit(c, x, step.To, &events.Wire{Trigger: step.Trigger, ResetSent: step.To == fsm.Closed}, false)
	}
}
