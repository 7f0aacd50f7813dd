package output

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"unicode/utf8"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// Bounds of the report, however much is stuck.
const (
	maxGroups  = 1000
	maxPeers   = 64 // of a group, that are told apart
	shownPeers = 3
	shownFDs   = 3
	maxPlace   = 40 // characters
)

// report gathers what is stuck by whose fault that is.
type report struct {
	groups map[groupID]*group
	beyond uint64 // sockets of groups for which there was no room
}

// groupID tells groups apart. Sockets without a known owner have their cgroup alone.
type groupID struct {
	state  fsm.State
	kind   groupKind
	pid    uint32
	cgroup uint64
}

// groupKind is who has the next step.
type groupKind uint8

const (
	groupHeld       groupKind = iota // a process, or nobody knows
	groupReleased                    // the kernel alone
	groupUnaccepted                  // who is to accept it
)

// group is what has the same owner and is stuck in the same state.
type group struct {
	id      groupID
	count   uint64
	oldest  lifecycle.Stuck
	local   netip.AddrPort // what all have; address or port are zero where they differ
	peers   []peer
	others  uint64  // sockets with other peers
	fds     []int32 // the lowest
	fdCount uint64
	unread  uint64
	unacked uint64
}

type peer struct {
	addr  netip.Addr
	port  uint16 // 0: several
	count uint64
}

func (r *report) add(s *lifecycle.Stuck) {
	if s.Resolved {
		return
	}
	id := groupID{state: s.State, cgroup: s.Cgroup}
	if s.Owner.Known() {
		id.pid = s.Owner.PID
	}
	switch {
	case s.Orphan || s.Minisock || s.Request:
		id.kind = groupReleased
	case s.Unaccepted:
		id.kind = groupUnaccepted
	}
	g := r.groups[id]
	if g == nil {
		if len(r.groups) >= maxGroups {
			r.beyond++
			return
		}
		if r.groups == nil {
			r.groups = make(map[groupID]*group)
		}
		g = &group{id: id}
		r.groups[id] = g
	}
	g.add(s)
}

func (g *group) add(s *lifecycle.Stuck) {
	local, remote := knownEnds(s.Local, s.Remote, true)
	g.count++
	if g.count == 1 {
		g.local = local
	}
	g.local = common(g.local, local)
	if g.count == 1 || s.Age > g.oldest.Age {
		g.oldest = *s
	}
	g.addPeer(remote)
	if !hasSocket(s) {
		return
	}
	g.unread += s.Unread()
	g.unacked += s.Unacknowledged()
	if s.Snapshot.Holders == 0 {
		return
	}
	g.fdCount++
	i, _ := slices.BinarySearch(g.fds, s.Snapshot.FD)
	g.fds = slices.Insert(g.fds, i, s.Snapshot.FD)
	g.fds = g.fds[:min(len(g.fds), shownFDs)]
}

func (g *group) addPeer(remote netip.AddrPort) {
	for i := range g.peers {
		if p := &g.peers[i]; p.addr == remote.Addr() {
			p.count++
			if p.port != remote.Port() {
				p.port = 0
			}
			return
		}
	}
	if len(g.peers) == maxPeers {
		g.others++
		return
	}
	g.peers = append(g.peers, peer{addr: remote.Addr(), port: remote.Port(), count: 1})
}

// common returns what two ends have in common.
func common(a, b netip.AddrPort) netip.AddrPort {
	addr, port := a.Addr(), a.Port()
	if addr != b.Addr() {
		addr = netip.Addr{}
	}
	if port != b.Port() {
		port = 0
	}
	return netip.AddrPortFrom(addr, port)
}

// sorted returns the groups, the worst first: that of most sockets.
func (r *report) sorted() []*group {
	list := make([]*group, 0, len(r.groups))
	for _, g := range r.groups {
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b *group) int {
		return cmp.Or(
			cmp.Compare(b.count, a.count), cmp.Compare(b.oldest.Age, a.oldest.Age),
			cmp.Compare(a.id.state, b.id.state), cmp.Compare(a.id.pid, b.id.pid),
			cmp.Compare(a.id.cgroup, b.id.cgroup), cmp.Compare(a.id.kind, b.id.kind),
		)
	})
	return list
}

// reportHeading are the columns, and which are set to the right.
var reportHeading = [...]struct {
	name  string
	right bool
}{
	{"STATE", false}, {"COUNT", true}, {"OLDEST", true}, {"LIMIT", true}, {"PID", true}, {"COMM", false}, {"LOCAL", false}, {"PEERS", false}, {"FDS", false},
}

type reportRow [len(reportHeading)][]byte

func (t *Text) writeReport(s *Summary) error {
	groups := t.report.sorted()
	if limit := t.options.MaxRows; limit > 0 && uint64(len(groups)) > limit {
		for _, g := range groups[limit:] {
			t.report.beyond += g.count
		}
		groups = groups[:limit]
	}
	if len(groups) == 0 {
		found := "nothing is stuck"
		if s.Partial {
			found = "nothing is stuck of what could be looked at"
		}
		_, err := fmt.Fprintf(t.w, "%s: %s, none known to be over its limit\n", found, count(s.Sockets, "socket"))
		return err
	}
	rows := make([]reportRow, 1+len(groups))
	for i, h := range reportHeading {
		rows[0][i] = []byte(h.name)
	}
	for i, g := range groups {
		rows[i+1] = g.row()
	}
	var widths [len(reportHeading)]int
	for i := range rows {
		for j, cell := range rows[i] {
			widths[j] = max(widths[j], utf8.RuneCount(cell))
		}
	}
	for i := range rows {
		b := t.row[:0]
		for j, cell := range rows[i] {
			start := len(b)
			b = append(b, cell...)
			switch {
			case reportHeading[j].right:
				b = padLeft(b, start, widths[j])
			case j < len(widths)-1:
				b = pad(b, start, widths[j])
			}
			b = append(b, ' ')
		}
		b = bytes.TrimRight(b, " ")
		if i > 0 {
			b = groups[i-1].appendHint(append(b, "\n    "...))
		}
		if err := t.end(b); err != nil {
			return err
		}
	}
	if n := t.report.beyond; n > 0 {
		_, err := fmt.Fprintf(t.w, "and %s of more processes than are shown\n", count(n, "socket"))
		return err
	}
	return nil
}

func (g *group) row() (r reportRow) {
	o := &g.oldest
	for i, cell := range [...][]byte{
		[]byte(o.State.String()),
		strconv.AppendUint(nil, g.count, 10),
		appendAge(nil, o),
		[]byte(lifecycle.FormatDuration(o.Limit)),
		[]byte(unknown),
		[]byte(unknown),
		appendCommon(nil, g.local),
		g.appendPeers(nil),
		g.appendFDs(nil),
	} {
		r[i] = cell
	}
	if o.Owner.Known() {
		r[4] = strconv.AppendUint(nil, uint64(o.Owner.PID), 10)
		r[5] = AppendEscaped(nil, o.Owner.Comm.Bytes())
	}
	if place := shortPlace(&o.Place); place != "" {
		r[5] = append(r[5], " ("...)
		start := len(r[5])
		r[5] = AppendEscaped(r[5], []byte(place))
		if utf8.RuneCount(r[5][start:]) > maxPlace {
			r[5] = append(cutTo(r[5], start, maxPlace-1), "…"...)
		}
		r[5] = append(r[5], ')')
	}
	return r
}

// shortPlace names what the cgroup is for: a container as docker shows it, or a unit.
func shortPlace(p *events.Place) string {
	const short = 12
	if p.Container == "" {
		return p.Unit
	}
	for _, c := range []byte(p.Container) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return p.Container // a name
		}
	}
	return p.Container[:min(len(p.Container), short)]
}

// appendCommon appends an end of which not all need be known, or be the same.
func appendCommon(b []byte, end netip.AddrPort) []byte {
	switch {
	case end.Addr().IsValid() && end.Port() != 0:
		return end.AppendTo(b)
	case end.Addr().IsValid():
		return end.Addr().AppendTo(b)
	case end.Port() != 0:
		return strconv.AppendUint(append(b, "*:"...), uint64(end.Port()), 10)
	}
	return append(b, unknown...)
}

// appendPeers appends "10.0.0.1 (12), 10.0.0.2:80 (3), … 5 more", the last in sockets.
func (g *group) appendPeers(b []byte) []byte {
	slices.SortStableFunc(g.peers, func(a, b peer) int { return cmp.Compare(b.count, a.count) })
	rest := g.count
	for i, p := range g.peers[:min(len(g.peers), shownPeers)] {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendCommon(b, netip.AddrPortFrom(p.addr, p.port))
		if g.count > 1 {
			b = fmt.Appendf(b, " (%d)", p.count)
		}
		rest -= p.count
	}
	if rest > 0 {
		b = fmt.Appendf(b, ", … %d more", rest)
	}
	return b
}

// appendFDs appends "7, 8, 9 … (12)".
func (g *group) appendFDs(b []byte) []byte {
	if g.fdCount == 0 {
		return append(b, unknown...)
	}
	for i, fd := range g.fds {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, int64(fd), 10)
	}
	if g.fdCount > shownFDs {
		b = fmt.Appendf(b, " … (%d)", g.fdCount)
	}
	return b
}

// appendHint appends the hint of the only one, or what can be said of all.
func (g *group) appendHint(b []byte) []byte {
	switch {
	case g.count == 1:
		return g.oldest.AppendHint(b)
	case g.id.state != fsm.CloseWait || g.id.kind != groupHeld || !g.oldest.HasSnapshot:
		b = g.oldest.AppendHint(append(b, "the oldest: "...))
	default:
		b = append(b, "the peers have closed, and "...)
		if g.oldest.Owner.Known() {
			b = append(b, "this process has not called close"...)
		} else {
			b = append(b, "close has not been called"...)
		}
		switch {
		case g.fdCount > 1:
			b = g.appendFDs(append(b, " on fds "...))
		case g.fdCount == 1:
			b = g.appendFDs(append(b, " on fd "...))
		}
	}
	if g.unread > 0 {
		b = fmt.Appendf(b, "; %s unread in all", count(g.unread, "byte"))
	}
	if g.unacked > 0 {
		b = fmt.Appendf(b, "; %s not acknowledged in all", count(g.unacked, "byte"))
	}
	return b
}
