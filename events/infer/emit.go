package infer

import (
	"fmt"

	"tcptrace/events"
	"tcptrace/fsm"
)

// Families, as Linux numbers them.
const (
	familyIPv4 = 2
	familyIPv6 = 10
)

// finding tells of what is wrong at an end, whose state stays.
func (f *Follower) finding(c *conn, x int, rule, reason string) {
	if c.ends[x].state == 0 { // nothing has shown that there is one
		f.counts.Strays++
		return
	}
	f.emit(c, x, c.ends[x].state, &events.Wire{Judgement: fsm.Judgement{Verdict: fsm.Illegal, Rule: rule, Reason: reason}}, false)
}

// emit tells of a step of an end. ByArrival: it happens when something arrives, of which
// only the capture is known.
func (f *Follower) emit(c *conn, x int, to fsm.State, wire *events.Wire, byArrival bool) {
	e, p := &c.ends[x], &c.ends[c.peer(x)]
	local, remote := c.side(x), c.side(c.peer(x))
	e.records++
	ev := events.Event{
		Time: f.now, Entered: e.entered, Cookie: events.WireCookie(c.id, int8(x) == c.second),
		Seq: e.records, From: e.state, To: to,
		Local: addrPort(local), Remote: addrPort(remote),
		Family: familyIPv4, Source: events.SourcePackets, Role: e.role, Wire: wire,
	}
	if c.ipv6 {
		ev.Family = familyIPv6
	}
	if e.state == fsm.TimeWait && to == fsm.Closed {
		ev.End = fsm.EndReused
		if wire.ResetReceived {
			ev.End = fsm.EndReset
		}
	}
	if to == fsm.TimeWait {
		ev.Flags |= events.FlagMinisock // the socket itself has no part in it any more
	}
	switch {
	case byArrival && !e.byArrival:
		ev.Flags |= events.FlagAtLeast
	case !byArrival && e.byArrival:
		wire.AtMost = true
	}
	f.judge(c, e, wire)
	if e.hasISS && p.hasISS {
		wire.Counted = true
		ev.BytesSent, ev.BytesReceived, ev.Retransmits = e.textSent(), e.textReceived(p), e.resent
	}
	if to != e.state {
		if f.keeper != nil {
			f.keeper.changed(c, x, byArrival)
		}
		e.state, e.entered, e.byArrival = to, f.now, byArrival
	}
	e.assumed = false
	f.queue = append(f.queue, ev)
}

// judge says what of the capture makes a step uncertain.
func (f *Follower) judge(c *conn, e *end, wire *events.Wire) {
	switch j := &wire.Judgement; {
	case j.Verdict != 0:
	case e.assumed:
		j.Verdict, j.Reason = fsm.Gap, "the capture begins within this connection"
	case c.unsure:
		j.Verdict, j.Reason = fsm.Gap, "the capture begins within this connection, and does not tell who closed first"
	case e.hole > 0:
		j.Verdict, j.Reason = fsm.Gap, fmt.Sprintf("%d bytes that this end sent were not captured", e.hole)
		e.hole = 0
	}
}

// textSent is the payload, each byte once.
func (e *end) textSent() uint64 {
	return e.total - min(e.total, 1) // the SYN
}

// textReceived is the payload that the end has acknowledged.
func (e *end) textReceived(p *end) uint64 {
	if !e.hasRcvd {
		return 0
	}
	missing := uint64(p.next - e.rcvd)
	if p.finTaken && missing > 0 {
		missing--
	}
	return p.total - min(p.total, 1+missing)
}
