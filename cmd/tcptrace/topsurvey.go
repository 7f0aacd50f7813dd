package main

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output/stat"
	"tcptrace/output/tui"
)

// survey looks at all sockets that are followed, for one picture.
type survey struct {
	v *topView
	r *tui.Request
	p *tui.Picture

	all    bool // the filter wants all
	groups map[stat.Key]*tui.Group
	stuck  map[stuckID]*tui.Stuck
	rows   []tui.Socket // the first of those so far, and some more
	worst  *tui.Socket  // of the first; nil: they are not enough

	life  lifecycle.Lifecycle // reused
	event events.Event
	found lifecycle.Stuck
}

// stuckID is what sockets that are stuck are told of together.
type stuckID struct {
	state fsm.State
	pid   uint32
}

// maxStuckGroups is how many can be looked at.
const maxStuckGroups = 100

func (s *survey) begin(v *topView, r *tui.Request, p *tui.Picture) {
	*s = survey{v: v, r: r, p: p, all: reflect.DeepEqual(v.filter, &filter{}), groups: make(map[stat.Key]*tui.Group), stuck: make(map[stuckID]*tui.Stuck)}
}

// walk looks at each.
func (s *survey) walk() {
	v := s.v
	over := v.stuck().over
	for id, o := range over {
		if v.p.tracker.Find(id.cookie, id.generation) == nil { // a handshake
			s.found = o.Stuck
			s.countStuck(v.now)
		}
	}
	_ = v.p.tracker.Each(func(l *lifecycle.Life) error { // f gives no error
		s.look(l)
		return nil
	})
	if s.r.Table == tui.TableSockets && (s.r.State == fsm.Closed || s.r.State == 0 && v.replay != nil) {
		for i := range v.closed.lives {
			l := &v.closed.lives[i].life
			if s.read(l) {
				s.offer(l, false)
			}
		}
	}
	if s.r.Socket != (tui.SocketID{}) {
		s.detail()
	}
}

// read takes in a socket, and reports whether the filter wants it.
func (s *survey) read(l *lifecycle.Life) bool {
	v, c := s.v, &s.life
	l.Lifecycle(v.now, c)
	c.Place = v.names.place(c.Cgroup)
	return s.all || v.filter.wantsVerdict(c.Verdict) && v.filter.wantsLifecycle(c)
}

// look counts a socket.
func (s *survey) look(l *lifecycle.Life) {
	state := l.State()
	if !s.read(l) || !state.Known() {
		return
	}
	s.p.Sockets[state]++
	stuck := s.isStuck(l)
	if stuck {
		s.countStuck(s.v.now)
	}
	if s.r.Table == tui.TableGroups {
		g := s.group(s.key(s.r.By))
		g.Sockets[state]++
		g.All++
		if stuck {
			g.Stuck++
		}
		return
	}
	s.offer(l, stuck)
}

// isStuck reports whether a socket is over its limit, and finds what is known of that.
func (s *survey) isStuck(l *lifecycle.Life) bool {
	view := s.v.stuck()
	o := view.over[socketID{s.life.Cookie, s.life.Generation}]
	if o != nil && o.State == l.State() {
		s.found = o.Stuck
		return true
	}
	if !view.limits.CheckLife(l, s.v.now, &s.found) {
		return false
	}
	s.found.Place = s.life.Place
	return view.wantsStuck(&s.found)
}

// countStuck adds what was found.
func (s *survey) countStuck(now uint64) {
	o := overdue{Stuck: s.found}
	o.grow(now)
	s.found = o.Stuck
	s.p.StuckCount++
	id := stuckID{state: s.found.State}
	if s.found.Owner.Known() {
		id.pid = s.found.Owner.PID
	}
	g := s.stuck[id]
	if g == nil {
		g = &tui.Stuck{State: id.state, Oldest: s.found}
		s.stuck[id] = g
	}
	g.Count++
	if s.found.Age > g.Oldest.Age {
		g.Oldest = s.found
	}
}

// key returns what the socket that was read is grouped by.
func (s *survey) key(by stat.By) stat.Key {
	c := &s.life
	s.event.Owner, s.event.Local, s.event.Remote, s.event.NetNS = c.Owner, c.Local, c.Remote, c.NetNS
	return stat.KeyOf(by, &lifecycle.Transition{Event: &s.event, Place: c.Place})
}

func (s *survey) group(k stat.Key) *tui.Group {
	g := s.groups[k]
	if g == nil {
		g = &tui.Group{Key: k}
		s.groups[k] = g
	}
	return g
}

// offer has the socket in the table, if it is among the first.
func (s *survey) offer(l *lifecycle.Life, stuck bool) {
	c := &s.life
	if s.r.Table != tui.TableSockets ||
		s.r.State != 0 && s.r.State != l.State() ||
		s.r.Group != nil && s.key(s.r.By) != *s.r.Group {
		return
	}
	s.p.All++
	row := tui.Socket{
		ID:    tui.SocketID{Cookie: c.Cookie, Generation: c.Generation},
		State: l.State(), Owner: c.Owner, Local: c.Local, Remote: c.Remote, Verdict: c.Verdict, Stuck: stuck,
	}
	row.Age, row.AgeExact, row.HasAge = l.Age(s.v.now)
	if s.worst != nil && s.compareSockets(row, *s.worst) >= 0 {
		return
	}
	s.rows = append(s.rows, row)
	if len(s.rows) >= 2*s.r.Rows {
		s.cut()
	}
}

// cut keeps the first rows.
func (s *survey) cut() {
	slices.SortFunc(s.rows, s.compareSockets)
	if n := s.r.Rows; len(s.rows) >= n {
		s.rows = s.rows[:n]
		worst := s.rows[n-1]
		s.worst = &worst
	}
}

func (s *survey) compareSockets(a, b tui.Socket) int {
	var c int
	switch s.r.Sort {
	case tui.ColumnState:
		c = cmp.Compare(slices.Index(fsm.States(), a.State), slices.Index(fsm.States(), b.State))
	case tui.ColumnPID:
		c = cmp.Compare(a.Owner.PID, b.Owner.PID)
	case tui.ColumnComm:
		c = strings.Compare(string(a.Owner.Comm.Bytes()), string(b.Owner.Comm.Bytes()))
	case tui.ColumnLocal:
		c = a.Local.Compare(b.Local)
	case tui.ColumnRemote:
		c = a.Remote.Compare(b.Remote)
	default: // the oldest first, but of the closed the youngest
		c = cmp.Or(compareBool(b.HasAge, a.HasAge), cmp.Compare(b.Age, a.Age))
		if s.r.State == fsm.Closed {
			c = -c
		}
	}
	if s.r.Reverse {
		c = -c
	}
	return cmp.Or(c, cmp.Compare(a.ID.Cookie, b.ID.Cookie), cmp.Compare(a.ID.Generation, b.ID.Generation))
}

// compareBool puts false first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// detail finds all of the socket that is asked for.
func (s *survey) detail() {
	v, id := s.v, s.r.Socket
	l := v.p.tracker.Find(id.Cookie, id.Generation)
	for i := range v.closed.lives {
		if c := &v.closed.lives[i]; l == nil && c.id == id {
			l = &c.life
		}
	}
	if l == nil {
		return
	}
	s.read(l)
	d := &tui.Detail{ID: id, Life: s.life}
	d.Life.Path = slices.Clone(d.Life.Path)
	d.Life.Violations = slices.Clone(d.Life.Violations)
	if s.isStuck(l) {
		o := overdue{Stuck: s.found}
		o.grow(v.now)
		d.Stuck = &o.Stuck
	}
	s.p.Detail = d
}

// finish completes the picture, with what was counted of groups.
func (s *survey) finish(counted []*stat.Group, other *stat.Group, base *sample) {
	for _, g := range s.stuck {
		s.p.Stuck = append(s.p.Stuck, *g)
	}
	slices.SortFunc(s.p.Stuck, func(a, b tui.Stuck) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(b.Oldest.Age, a.Oldest.Age),
			cmp.Compare(a.State, b.State), cmp.Compare(a.Oldest.Owner.PID, b.Oldest.Owner.PID))
	})
	s.p.Stuck = s.p.Stuck[:min(len(s.p.Stuck), maxStuckGroups)]
	if s.r.Table == tui.TableSockets {
		s.cut()
		s.p.Rows = s.rows
		return
	}
	for _, g := range counted {
		row := s.group(g.Key)
		row.Tally, row.AtLeast = g.Tally, g.AtLeast
		if base.at >= s.v.grouped {
			row.Rate, row.HasRate = s.v.perSecond(g.Transitions, base.groups[g.Key], base)
		}
	}
	rows := make([]tui.Group, 0, len(s.groups))
	for _, g := range s.groups {
		rows = append(rows, *g)
	}
	slices.SortFunc(rows, s.compareGroups)
	s.p.All = len(rows)
	s.p.Groups = rows[:min(len(rows), s.r.Rows)]
	for i := range s.p.Groups {
		g := &s.p.Groups[i]
		g.Name = string(g.Key.AppendText(nil, s.r.By))
	}
	if other.Transitions > 0 {
		s.p.All++
		s.p.Groups = append(s.p.Groups, tui.Group{Name: "(others)", Tally: other.Tally})
	}
}

func (s *survey) compareGroups(a, b tui.Group) int {
	var c int
	switch s.r.Sort {
	case tui.ColumnName:
		c = -a.Key.Compare(b.Key)
	case tui.ColumnRate:
		c = cmp.Compare(a.Rate, b.Rate)
	case tui.ColumnTransitions:
		c = cmp.Compare(a.Tally.Transitions, b.Tally.Transitions)
	case tui.ColumnClosed:
		c = cmp.Compare(a.Tally.Ended(), b.Tally.Ended())
	case tui.ColumnAbort:
		c = cmp.Compare(a.Tally.Verdicts[fsm.Abort], b.Tally.Verdicts[fsm.Abort])
	case tui.ColumnIllegal:
		c = cmp.Compare(a.Tally.Verdicts[fsm.Illegal], b.Tally.Verdicts[fsm.Illegal])
	case tui.ColumnStuck:
		c = cmp.Compare(a.Stuck, b.Stuck)
	case tui.ColumnEstablished:
		c = cmp.Compare(a.Sockets[fsm.Established], b.Sockets[fsm.Established])
	case tui.ColumnCloseWait:
		c = cmp.Compare(a.Sockets[fsm.CloseWait], b.Sockets[fsm.CloseWait])
	case tui.ColumnTimeWait:
		c = cmp.Compare(a.Sockets[fsm.TimeWait], b.Sockets[fsm.TimeWait])
	default:
		c = cmp.Compare(a.All, b.All)
	}
	if s.r.Reverse {
		c = -c
	}
	return cmp.Or(-c, cmp.Compare(b.Tally.Transitions, a.Tally.Transitions), a.Key.Compare(b.Key))
}
