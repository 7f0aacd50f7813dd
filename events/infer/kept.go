package infer

import (
	"tcptrace/events/pcap"
	"tcptrace/fsm/segment"
)

// NoStep is in the place of a step that a segment does not show.
const NoStep = -1

// Segment is one of a connection, as it was captured.
type Segment struct {
	Time uint64 // as events.Event.Time
	// FromSecond: the second end has sent it.
	FromSecond bool
	Flags      segment.Flags
	// Seq and Ack count from the SYN of either end, or where that was not captured, from
	// the first number that was. Ack means nothing without the flag.
	Seq, Ack uint32
	Text     uint32 // bytes
	// Sent and Received are the steps that it shows, at the end that sends it and at the
	// one that it reaches: how many changes of state there were up to it, or NoStep.
	Sent, Received int
	// Skipped segments were left out before this one.
	Skipped uint64
}

// Bounds of what is kept.
const (
	keptFirst = 48      // of a connection
	keptLast  = 16      // likewise
	keptAll   = 1 << 20 // of all connections
	keptFor   = 1e9     // nanoseconds, of one that has been removed
)

// keeper keeps segments of connections.
type keeper struct {
	byID  map[uint64]*keptSegments
	count int
	gone  []removed
	lost  uint64 // connections for which there was no room
}

type removed struct {
	id uint64
	at uint64
}

// keptSegments are those of one connection: the first, and a ring of the last.
type keptSegments struct {
	first   []Segment
	last    []Segment
	next    int // of the ring
	skipped uint64
	changes [2]int
	base    [2]uint32
	based   [2]bool
}

// Keep lets the follower keep the segments of connections, for Segments: the first and
// the last of each, if it has many.
func (f *Follower) Keep() { f.keeper = &keeper{byID: make(map[uint64]*keptSegments)} }

// NotKept returns how many connections have no segments, as there was no room.
func (f *Follower) NotKept() uint64 {
	if f.keeper == nil {
		return 0
	}
	return f.keeper.lost
}

// Segments returns what was kept of a connection, whose number is in the cookies of its
// ends, in order. It is to be asked for when the connection is over, or the capture.
func (f *Follower) Segments(connection uint64) []Segment {
	if f.keeper == nil || f.keeper.byID[connection] == nil {
		return nil
	}
	k := f.keeper.byID[connection]
	list := append([]Segment(nil), k.first...)
	n := len(list)
	for i := range k.last {
		list = append(list, k.last[(k.next+i)%len(k.last)])
	}
	if len(list) > n {
		list[n].Skipped = k.skipped
	}
	return list
}

// add keeps a segment of a connection.
func (k *keeper) add(c *conn, x int, s *pcap.Segment) {
	kept := k.byID[c.id]
	if kept == nil {
		if k.count >= keptAll {
			k.lost++
			return
		}
		kept = new(keptSegments)
		k.byID[c.id] = kept
	}
	second := int8(x) == c.second
	y := c.peer(x)
	kept.baseOf(x, s.Seq)
	if s.Flags.Has(segment.ACK) {
		kept.baseOf(y, s.Ack-1)
	}
	seg := Segment{
		Time: s.Time, FromSecond: second, Flags: s.Flags, Seq: s.Seq - kept.base[x], Ack: s.Ack - kept.base[y], Text: s.Text,
		Sent: NoStep, Received: NoStep,
	}
	switch {
	case len(kept.first) < keptFirst:
		kept.first = append(kept.first, seg)
		k.count++
	case len(kept.last) < keptLast:
		kept.last = append(kept.last, seg)
		k.count++
	default:
		kept.last[kept.next] = seg
		kept.next = (kept.next + 1) % keptLast
		kept.skipped++
	}
}

// baseOf sets where the numbers of an end begin, if that is not known yet.
func (k *keptSegments) baseOf(x int, number uint32) {
	if !k.based[x] {
		k.base[x], k.based[x] = number, true
	}
}

// latest is the segment that was added last.
func (k *keptSegments) latest() *Segment {
	switch {
	case len(k.last) == 0:
		return &k.first[len(k.first)-1]
	case len(k.last) < keptLast:
		return &k.last[len(k.last)-1]
	}
	return &k.last[(k.next+keptLast-1)%keptLast]
}

// changed says that the segment that was added last has changed the state of an end.
func (k *keeper) changed(c *conn, x int, byArrival bool) {
	kept := k.byID[c.id]
	if kept == nil {
		return
	}
	kept.changes[x]++
	if len(kept.first) == 0 {
		return
	}
	s := kept.latest()
	if byArrival || s.FromSecond != (int8(x) == c.second) && !c.self {
		s.Received = kept.changes[x]
	} else {
		s.Sent = kept.changes[x]
	}
}

// removed says that the connection is followed no more. What was kept of it is still
// there for a while, as the ends are looked at a little later.
func (k *keeper) removed(id, now uint64) {
	if k.byID[id] != nil {
		k.gone = append(k.gone, removed{id, now})
	}
}

func (k *keeper) expire(now uint64) {
	for len(k.gone) > 0 && k.gone[0].at+keptFor < now {
		if kept := k.byID[k.gone[0].id]; kept != nil {
			k.count -= len(kept.first) + len(kept.last)
			delete(k.byID, k.gone[0].id)
		}
		k.gone = k.gone[1:]
	}
}
