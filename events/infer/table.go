package infer

import (
	"net/netip"

	"tcptrace/events"
	"tcptrace/fsm"
)

func addrPort(s *side) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(s.addr).Unmap(), s.port)
}

// use makes a connection the one used last.
func (f *Follower) use(c *conn) {
	if c.newer == nil { // an earlier one: it hangs at its successor
		return
	}
	f.last = c
	if c.closed {
		c.unlink()
		f.over.add(c)
	} else if f.open.older != c {
		c.unlink()
		f.open.add(c)
	}
}

// settle puts a connection that is over among those.
func (f *Follower) settle(c *conn) {
	if c.newer == nil || c.closed || !c.over() {
		return
	}
	c.closed = true
	c.unlink()
	f.over.add(c)
}

// expire forgets what is over for so long that nothing more can come of it.
func (f *Follower) expire() {
	for c := f.over.oldest(); c != nil && c.at+uint64(TimeWait) < f.now; c = f.over.oldest() {
		f.remove(c)
	}
}

// leave gives up the ends of a connection that are in TIME_WAIT.
func (f *Follower) leave(c *conn) {
	for i := range c.ends {
		if c.ends[i].state == fsm.TimeWait {
			f.gone = append(f.gone, Gone{events.WireCookie(c.id, int8(i) == c.second)})
		}
	}
}

// remove forgets a connection.
func (f *Follower) remove(c *conn) {
	f.leave(c)
	if c.earlier != nil {
		f.leave(c.earlier)
	}
	if f.keeper != nil {
		f.keeper.removed(c.id, f.now)
	}
	if f.conns[c.tuple] == c {
		delete(f.conns, c.tuple)
	}
	if f.last == c {
		f.last = nil
	}
	c.unlink()
	c.newer = f.free
	f.free = c
}
