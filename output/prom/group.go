package prom

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// Label is what transitions, ends and stuck sockets can be grouped by.
type Label string

// The labels. One whose value is not known is empty, which to Prometheus is the same
// as absent.
const (
	LabelComm      Label = "comm"      // name of the owner
	LabelContainer Label = "container" // id or name
	LabelUnit      Label = "unit"      // of systemd
	LabelNetNS     Label = "netns"     // inode of the network namespace
	LabelLPort     Label = "lport"     // local port, if a listener's
)

// Labels returns all labels.
func Labels() []Label {
	return []Label{LabelComm, LabelContainer, LabelUnit, LabelNetNS, LabelLPort}
}

// ParseLabel returns the label of the name.
func ParseLabel(name string) (Label, error) {
	if l := Label(name); slices.Contains(Labels(), l) {
		return l, nil
	}
	return "", fmt.Errorf("unknown label %q: want one of comm, container, unit, netns, lport", name)
}

// other is the value of all labels for what finds no room.
const other = "other"

// staleAfter is for how long a group of which nothing more is heard is kept.
const staleAfter = time.Hour

// group is what is counted for one combination of label values.
type group struct {
	labels []string
	key    key
	since  time.Time // nothing was counted before: one that went and came again begins at 0
	last   uint64    // when it was last counted for, as events.Event.Time
	series int       // that have begun

	transitions [states][states]uint64
	closed      [causes][roles]uint64
	stuck       [states]gauge
}

type gauge struct {
	n    int
	seen bool // was above 0 once
}

// key is the values of the labels that are wanted, as they come.
type key struct {
	comm            events.Comm
	container, unit string
	netns           uint32
	lport           uint16
}

// end is a local end on which something may listen.
type end struct {
	netns uint32
	port  uint16
}

// maxListeners bounds the ends remembered.
const maxListeners = 1 << 16

// listens remembers an end. What is not a listener's is an ephemeral port.
func (s *Sink) listens(e *events.Event) {
	if e.From != fsm.Listen && e.To != fsm.Listen || e.Local.Port() == 0 || !s.wants.lport {
		return
	}
	if len(s.listeners) >= maxListeners {
		clear(s.listeners)
	}
	s.listeners[end{e.NetNS, e.Local.Port()}] = struct{}{}
}

// groupOf returns the group of a socket. It allocates only for a new one.
func (s *Sink) groupOf(owner *events.Owner, place *events.Place, netns uint32, local netip.AddrPort, role lifecycle.Role, now uint64) *group {
	if len(s.by) == 0 {
		return &s.all
	}
	var k key
	if s.wants.comm && owner.Known() {
		k.comm = owner.Comm
	}
	if s.wants.container {
		k.container = place.Container
	}
	if s.wants.unit {
		k.unit = place.Unit
	}
	if s.wants.netns {
		k.netns = netns
	}
	if s.wants.lport {
		_, listens := s.listeners[end{netns, local.Port()}]
		if role == lifecycle.RolePassive || role == lifecycle.RoleUnknown && listens {
			k.lport = local.Port()
		}
	}
	g := s.groups[k]
	if g == nil {
		g = s.newGroup(k)
	}
	g.last = now
	return g
}

// newGroup makes a group, if there is room for one more.
func (s *Sink) newGroup(k key) *group {
	if s.series >= s.maxSeries {
		return &s.all
	}
	g := &group{key: k, labels: k.labels(s.by), since: time.Now()}
	if slices.Equal(g.labels, s.all.labels) { // somebody calls himself so
		return &s.all
	}
	s.groups[k] = g
	return g
}

// labels returns the values of the labels. No two keys have the same, as different
// bytes are escaped differently.
func (k *key) labels(by []Label) []string {
	values := make([]string, len(by))
	for i, l := range by {
		switch l {
		case LabelComm:
			values[i] = escaped(k.comm.Bytes())
		case LabelContainer:
			values[i] = escaped([]byte(k.container))
		case LabelUnit:
			values[i] = escaped([]byte(k.unit))
		case LabelNetNS:
			values[i] = number(uint64(k.netns))
		case LabelLPort:
			values[i] = number(uint64(k.lport))
		}
	}
	return values
}

func escaped(text []byte) string { return string(output.AppendEscaped(nil, text)) }

func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// room returns the group in which a series that may be new is to be counted.
func (s *Sink) room(g *group, begun bool) *group {
	switch {
	case begun || g == &s.all:
	case s.series >= s.maxSeries:
		return &s.all
	default:
		s.series++
		g.series++
	}
	return g
}

// forget drops the groups of which nothing was heard for long.
func (s *Sink) forget(now uint64) {
	const interval = uint64(time.Minute)
	if now < s.forgetAt {
		return
	}
	s.forgetAt = now + interval
	for k, g := range s.groups {
		if g.last+uint64(staleAfter) < now && !g.isStuck() {
			s.series -= g.series
			delete(s.groups, k)
		}
	}
}

func (g *group) isStuck() bool {
	return slices.ContainsFunc(g.stuck[:], func(n gauge) bool { return n.n > 0 })
}

// stuckID names a socket that is stuck.
type stuckID struct {
	cookie     uint64
	generation uint32
}

// stuckIn is where a socket that is stuck is counted.
type stuckIn struct {
	group *group
	state fsm.State
}

// Stuck implements [output.Sink].
func (s *Sink) Stuck(found *lifecycle.Stuck) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = max(s.now, found.Time)
	id := stuckID{found.Cookie, found.Generation}
	// One that is stuck again elsewhere is not stuck where it was.
	if in, ok := s.stuck[id]; ok {
		in.group.stuck[place(in.state)].n--
		delete(s.stuck, id)
	}
	if found.Resolved {
		return nil
	}
	g := s.groupOf(&found.Owner, &found.Place, found.NetNS, found.Local, lifecycle.RoleUnknown, found.Time)
	g = s.room(g, g.stuck[place(found.State)].seen)
	g.stuck[place(found.State)].n++
	g.stuck[place(found.State)].seen = true
	s.stuck[id] = stuckIn{g, found.State}
	return nil
}

// labelNames returns the labels of a metric, those to group by last.
func labelNames(by []Label, own ...string) []string {
	for _, l := range by {
		own = append(own, string(l))
	}
	return own
}

// ParseLabels returns the labels of the names, without doubles.
func ParseLabels(names []string) ([]Label, error) {
	labels := make([]Label, 0, len(names))
	for _, name := range names {
		l, err := ParseLabel(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(labels, l) {
			labels = append(labels, l)
		}
	}
	return labels, nil
}
