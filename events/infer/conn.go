package infer

import (
	"tcptrace/events"
	"tcptrace/events/pcap"
	"tcptrace/fsm"
	"tcptrace/fsm/segment"
)

// side is one end of a connection, in the order of their addresses.
type side struct {
	addr pcap.Addr
	port uint16
}

func (s *side) before(o *side) bool {
	for i := range s.addr {
		if s.addr[i] != o.addr[i] {
			return s.addr[i] < o.addr[i]
		}
	}
	return s.port < o.port
}

// tuple names a connection, the lesser end first.
type tuple struct{ low, high side }

// prints is how many segments of an end are remembered, to know them again if they were
// captured twice.
const prints = 4

// end is what is known of one end.
type end struct {
	state   fsm.State // 0: nothing has shown that there is a socket
	role    events.Role
	entered uint64 // the state; 0: not seen
	// byArrival: it came to its state when something arrived, of which only the capture
	// is known.
	byArrival bool
	// assumed: nothing has shown yet how it came to its state.
	assumed bool
	hasISS  bool
	sent    bool // next is known
	hasRcvd bool
	finSent bool
	// finTaken: next is after the FIN.
	finTaken bool
	finRcvd  bool
	// finHeld: the peer's FIN, which has not been acknowledged, acknowledges ours.
	finHeld  bool
	text     bool // it has sent any in the capture
	hasStamp bool
	// hole: so much of what it sent was not captured.
	hole    uint32
	records uint32
	iss     uint32
	next    uint32 // after the last sequence number that it has sent
	total   uint64 // of sequence numbers up to next without the FIN, of more than 4 GiB, too
	fin     uint32 // after its FIN
	rcvd    uint32 // the highest that it has acknowledged
	stamp   uint32 // the last of RFC 7323
	mss     uint16 // that it takes
	resent  uint32
	printed [prints]uint64
	printAt [prints]uint64
	last    uint8 // of these
}

// conn is a connection, of which anything was captured.
type conn struct {
	tuple
	id   uint64
	ends [2]end // of low and high; one that is connected to itself has the first alone
	// second is the end that is called b: the one that did not begin.
	second int8
	self   bool
	ipv6   bool
	// proven: of an earlier one, an end has shown that it was still there.
	proven bool
	closed bool // is among those that are over
	// unsure: the capture begins within it, and whether the one who was the first to close
	// in the capture really was the first is not known.
	midstream, unsure bool
	at                uint64 // of its last segment
	// earlier is the connection of the same ends that one of them has forgotten and the
	// other has not. Its earlier is nil.
	earlier *conn
	// reopened: of an earlier one in TIME_WAIT, what there is to say if it is reopened.
	reopened     fsm.Judgement
	newer, older *conn // by use
}

func (c *conn) side(i int) *side {
	if i == 0 {
		return &c.low
	}
	return &c.high
}

// peer returns the other end's index.
func (c *conn) peer(i int) int {
	if c.self {
		return i
	}
	return 1 - i
}

func (e *end) live() bool { return e.state != 0 && e.state != fsm.Closed && e.state != fsm.TimeWait }

// over reports whether nothing more can be expected of the connection: it may be begun
// anew.
func (c *conn) over() bool { return !c.ends[0].live() && !c.ends[1].live() }

// gone reports whether nothing of the connection is there any more.
func (c *conn) gone() bool {
	for i := range c.ends {
		if s := c.ends[i].state; s != 0 && s != fsm.Closed {
			return false
		}
	}
	return true
}

// list is a ring by use: its own newer is the oldest, its older the newest.
type list struct{ conn }

func (l *list) init() { l.newer, l.older = &l.conn, &l.conn }

func (l *list) add(c *conn) {
	c.older, c.newer = l.older, &l.conn
	c.older.newer, l.older = c, c
}

func (c *conn) unlink() {
	c.older.newer, c.newer.older = c.newer, c.older
	c.newer, c.older = nil, nil
}

func (l *list) oldest() *conn {
	if l.newer == &l.conn {
		return nil
	}
	return l.newer
}

// seen reports whether the segment was captured before, within a moment.
func (e *end) seen(s *pcap.Segment) bool {
	for i := range e.printed {
		if e.printed[i] == s.Print && e.printAt[i]+moment >= s.Time && e.printAt[i] != 0 {
			return true
		}
	}
	e.last = (e.last + 1) % prints
	e.printed[e.last], e.printAt[e.last] = s.Print, s.Time
	return false
}

// take accounts for the sequence numbers of a segment that the end sends.
func (e *end) take(s *pcap.Segment, c *Counts) {
	space := segment.Space(s.Flags, s.Text)
	to := s.Seq + space
	switch {
	case !e.sent:
		e.next, e.sent, e.finTaken = to, true, s.Flags.Has(segment.FIN)
		return
	case space == 0:
		return
	case s.Seq == e.next:
	case segment.Before(e.next, s.Seq):
		c.NotCaptured++
		e.hole += s.Seq - e.next
	case s.Text <= 1 && s.Seq+1 == e.next && !s.Flags.Has(segment.FIN) && !s.Flags.Has(segment.SYN):
		c.Probes++ // keep-alive, of a window of 0
		return
	case e.hole > 0 && !segment.Before(e.next, to): // it may be what was missing
		c.OutOfOrder++
		e.hole -= min(e.hole, space)
	default:
		c.Retransmits++
		e.resent++
	}
	if segment.Before(e.next, to) {
		e.advance(to)
		if s.Flags.Has(segment.FIN) {
			e.total--
			e.finTaken = true
		}
	}
}

// advance: the end has sent all before the sequence number.
func (e *end) advance(to uint32) {
	e.total += uint64(to - e.next)
	e.next = to
}
