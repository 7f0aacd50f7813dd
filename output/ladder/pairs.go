package ladder

import (
	"cmp"
	"container/list"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// DefaultMaxEnds is how many ends Pairs knows at once, at less than a kilobyte each.
const DefaultMaxEnds = 1 << 15

// Pairs finds the two ends of connections on this host, by their addresses and ports,
// and draws a connection when both are over.
//
// An end whose other end is open waits for that. One that has none is held for
// [Patience], as the record of the other may come just after. What there is no room
// for is drawn alone, and that is said in a note.
//
// It may be used from one goroutine at a time. After an error of draw it is of no use.
type Pairs struct {
	max     int
	wants   func(*lifecycle.Lifecycle) bool
	draw    func(*Ladder) error
	ends    map[endID]*pairEnd
	tuples  map[tuple][]*pairEnd
	order   *list.List // of *pairEnd, by when they were met
	alone   *list.List // of *pairEnd, over and without another end, by when that was
	evicted uint64
}

// Patience is how long an end that is over, and alone, waits for the record of
// another.
const Patience = 100 * time.Millisecond

// endID names one life of a socket.
type endID struct {
	cookie     uint64
	generation uint32
}

// tuple is both ends of a socket, its own first.
type tuple struct{ local, remote netip.AddrPort }

// pairEnd is one end of a connection.
type pairEnd struct {
	id      endID
	tuple   tuple
	netns   uint32
	role    lifecycle.Role
	born    uint64 // when it began, or was known to live
	begun   bool   // when it began
	synced  bool   // it was connected when it was met
	both    bool   // it may have opened the connection though its peer did, too
	other   *pairEnd
	life    *lifecycle.Lifecycle // of one that is over
	overAt  uint64
	note    string
	inOrder *list.Element
	inAlone *list.Element
}

// NewPairs returns an empty Pairs that knows maxEnds at once, 0 meaning
// DefaultMaxEnds, and calls draw with each connection of which wants chooses an end;
// nil means all. The ladder is the callee's.
func NewPairs(maxEnds int, wants func(*lifecycle.Lifecycle) bool, draw func(*Ladder) error) *Pairs {
	if maxEnds <= 0 {
		maxEnds = DefaultMaxEnds
	}
	if wants == nil {
		wants = func(*lifecycle.Lifecycle) bool { return true }
	}
	return &Pairs{
		max: maxEnds, wants: wants, draw: draw,
		ends: make(map[endID]*pairEnd), tuples: make(map[tuple][]*pairEnd),
		order: list.New(), alone: list.New(),
	}
}

// Evicted returns how many ends were given up for want of room.
func (p *Pairs) Evicted() uint64 { return p.evicted }

// Saw takes in a transition or a snapshot of a connection that is open.
func (p *Pairs) Saw(t *lifecycle.Transition) error {
	if t.Cookie == 0 || t.Ended || t.Flags&events.FlagRequest != 0 || t.EndsPending() ||
		t.Local.Port() == 0 || !t.HasRemote() || !t.Life.IsConnection() || t.Life.Marked {
		return nil
	}
	id := endID{t.Cookie, t.Generation}
	if e := p.ends[id]; e != nil {
		e.both = e.both || t.From == fsm.SynSent && t.To == fsm.SynRcvd
		return nil
	}
	var c lifecycle.Lifecycle
	t.Life.Lifecycle(t.Time, &c)
	_, err := p.meet(&c)
	return err
}

// Ended takes in that a connection is over, or as far as it came. It keeps a copy.
func (p *Pairs) Ended(c *lifecycle.Lifecycle) error {
	id := endID{c.Cookie, c.Generation}
	e := p.ends[id]
	if c.Cookie == 0 { // a handshake that came to nothing, of which this is all
		e = nil
	}
	if e == nil {
		var err error
		if e, err = p.meet(c); err != nil {
			return err
		}
	}
	kept := *c
	kept.Path, kept.Violations = slices.Clone(c.Path), slices.Clone(c.Violations)
	e.life, e.overAt = &kept, c.End
	switch {
	case c.Local == c.Remote && c.Local.Port() != 0:
		p.forget(e)
		if !p.wants(e.life) {
			return nil
		}
		return p.draw(NewSelf(e.life))
	case e.other != nil && e.other.life != nil:
		return p.drawBoth(e)
	case e.other == nil:
		e.inAlone = p.alone.PushBack(e)
	}
	return nil
}

// Waits reports whether the other end of an open connection is over, and waits for it.
func (p *Pairs) Waits(c *lifecycle.Lifecycle) bool {
	e := p.ends[endID{c.Cookie, c.Generation}]
	return e != nil && e.life == nil && e.other != nil && e.other.life != nil
}

// Passed draws what has waited long enough at the given time.
func (p *Pairs) Passed(now uint64) error {
	for el := p.alone.Front(); el != nil; el = p.alone.Front() {
		e := el.Value.(*pairEnd)
		if e.overAt+uint64(Patience) > now {
			return nil
		}
		if err := p.drawAlone(e); err != nil {
			return err
		}
	}
	return nil
}

// Finish draws everything that is over, the other end or not.
func (p *Pairs) Finish() error {
	for el := p.order.Front(); el != nil; el = p.order.Front() {
		e := el.Value.(*pairEnd)
		if e.life == nil {
			p.forget(e)
			continue
		}
		if e.other != nil {
			e.note = "its other end is on this host, and was still open"
		}
		if err := p.drawAlone(e); err != nil {
			return err
		}
	}
	return nil
}

// meet makes place for an end and looks for its other one.
func (p *Pairs) meet(c *lifecycle.Lifecycle) (*pairEnd, error) {
	for p.order.Len() >= p.max {
		if err := p.evict(p.order.Front().Value.(*pairEnd)); err != nil {
			return nil, err
		}
	}
	e := &pairEnd{
		id: endID{c.Cookie, c.Generation}, tuple: tuple{c.Local, c.Remote}, netns: c.NetNS,
		role: c.Role, born: c.Start, begun: c.Start != 0,
		both: c.Role == lifecycle.RoleActive && slices.Contains(c.Path, fsm.SynRcvd),
	}
	if !e.begun {
		e.born = cmp.Or(c.Since, c.End)
	}
	if n := len(c.Path); n > 0 {
		e.synced = c.Path[n-1].Synchronized()
	}
	e.inOrder = p.order.PushBack(e)
	if c.Cookie != 0 {
		p.ends[e.id] = e
	}
	if c.Local.Port() == 0 || c.Remote.Port() == 0 || c.Local == c.Remote {
		return e, nil
	}
	p.marry(e)
	p.tuples[e.tuple] = append(p.tuples[e.tuple], e)
	return e, nil
}

// marry looks for the other end.
func (p *Pairs) marry(e *pairEnd) {
	var here, there []*pairEnd
	for _, o := range p.tuples[tuple{e.tuple.remote, e.tuple.local}] {
		switch {
		case o.other != nil || !fit(e, o) || !fit(o, e):
		case o.netns == e.netns:
			here = append(here, o)
		case !e.tuple.local.Addr().IsLoopback():
			there = append(there, o)
		}
	}
	switch {
	case len(here) > 0:
		e.other = here[len(here)-1] // the last to be met
	case len(there) == 1:
		e.other = there[0]
	case len(there) > 1:
		e.note = fmt.Sprintf("its other end may be any of %d sockets, in other network namespaces", len(there))
		return
	default:
		return
	}
	o := e.other
	o.other, o.note = e, ""
	if o.inAlone != nil {
		p.alone.Remove(o.inAlone)
		o.inAlone = nil
	}
}

// slack is how much later than the client the server may seem to have begun, in
// nanoseconds, or earlier: the times are taken a moment after.
const slack = uint64(time.Millisecond)

// fit reports whether a may be the client of b, as far as is known. The ports of a
// connection are soon used again, by others than the ones that were on its ends.
func fit(a, b *pairEnd) bool {
	switch {
	case a.role == lifecycle.RolePassive && b.role == lifecycle.RolePassive:
		return false
	case a.role == lifecycle.RoleActive && b.role == lifecycle.RoleActive:
		return a.both || b.both // they opened it both at once
	case a.role != lifecycle.RoleActive && b.role != lifecycle.RolePassive:
		return true // which is which is not known, or it is the other way round
	case a.begun && b.born+slack < a.born:
		return false // there was a server before the SYN
	case !a.begun && a.synced && b.begun && a.born+slack < b.born:
		return false // it was connected before the server's SYN came
	}
	return true
}

// forget takes an end out of everything.
func (p *Pairs) forget(e *pairEnd) {
	p.order.Remove(e.inOrder)
	if e.inAlone != nil {
		p.alone.Remove(e.inAlone)
		e.inAlone = nil
	}
	if p.ends[e.id] == e {
		delete(p.ends, e.id)
	}
	same := p.tuples[e.tuple]
	if i := slices.Index(same, e); i >= 0 {
		same = slices.Delete(same, i, i+1)
		if len(same) == 0 {
			delete(p.tuples, e.tuple)
		} else {
			p.tuples[e.tuple] = same
		}
	}
	if e.other != nil {
		e.other.other = nil
	}
}

func (p *Pairs) drawBoth(e *pairEnd) error {
	o := e.other
	p.forget(e)
	p.forget(o)
	if !p.wants(e.life) && !p.wants(o.life) {
		return nil
	}
	return p.draw(New(e.life, o.life))
}

func (p *Pairs) drawAlone(e *pairEnd) error {
	p.forget(e)
	if !p.wants(e.life) {
		return nil
	}
	l := New(e.life, nil)
	if e.note == "" && p.evicted > 0 {
		e.note = fmt.Sprintf("its other end may be on this host: more than %d ends were open at once, and %d were given up", p.max, p.evicted)
	}
	if e.note != "" {
		l.Notes = append(l.Notes, e.note)
	}
	return p.draw(l)
}

// evict gives up an end for want of room. What waits for it is drawn alone.
func (p *Pairs) evict(e *pairEnd) error {
	p.evicted++
	o := e.other
	if e.life == nil {
		p.forget(e)
		if o == nil || o.life == nil {
			return nil
		}
		e = o
	}
	if o != nil {
		e.note = fmt.Sprintf("its other end is on this host, and still open: no more than %d ends wait", p.max)
		o.note = "its other end is on this host, and was drawn before, for want of room"
	}
	return p.drawAlone(e)
}
