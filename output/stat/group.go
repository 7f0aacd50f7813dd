package stat

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// DefaultMaxGroups is how many groups are told apart at once. One of a few sockets
// takes two kilobytes, one of very many up to some twenty.
const DefaultMaxGroups = 4096

// By is what sockets are grouped by. The values are those of the command line and the
// names in JSON.
type By string

// What sockets can be grouped by. ByNone: they are not.
const (
	ByNone      By = ""
	ByComm      By = "comm"      // name of the owner
	ByPID       By = "pid"       // owner
	ByLPort     By = "lport"     // local port
	ByRPort     By = "rport"     // remote port
	ByLAddr     By = "laddr"     // local address
	ByRAddr     By = "raddr"     // remote address
	ByContainer By = "container" // id or name
	ByUnit      By = "unit"      // systemd unit
	ByNetNS     By = "netns"     // inode of the network namespace
	ByState     By = "state"     // that the transition leaves
)

// Bys returns all but ByNone.
func Bys() []By {
	return []By{ByComm, ByPID, ByLPort, ByRPort, ByLAddr, ByRAddr, ByContainer, ByUnit, ByNetNS, ByState}
}

// ParseBy returns what is meant by the name.
func ParseBy(name string) (By, error) {
	if slices.Contains(Bys(), By(name)) {
		return By(name), nil
	}
	words := make([]string, len(Bys()))
	for i, by := range Bys() {
		words[i] = string(by)
	}
	return ByNone, fmt.Errorf("unknown group %q: want one of %s", name, strings.Join(words, ", "))
}

// Key is what a group has in common, for comparing with ==. The zero value is what is
// not known.
type Key struct {
	number uint64
	addr   netip.Addr
	comm   events.Comm // with number 1, as a name can be empty
	text   string
}

// KeyOf returns what the socket of the transition is grouped by.
func KeyOf(by By, t *lifecycle.Transition) (k Key) {
	e := t.Event
	switch by {
	case ByComm:
		if e.Owner.Known() {
			k.number, k.comm = 1, e.Owner.Comm
		}
	case ByPID:
		if e.Owner.Known() {
			k.number, k.comm = uint64(e.Owner.PID), e.Owner.Comm
		}
	case ByLPort:
		k.number = uint64(e.Local.Port())
	case ByRPort:
		k.number = uint64(e.Remote.Port())
	case ByLAddr:
		if !e.Local.Addr().IsUnspecified() || !e.EndsPending() {
			k.addr = e.Local.Addr()
		}
	case ByRAddr:
		if !e.Remote.Addr().IsUnspecified() {
			k.addr = e.Remote.Addr()
		}
	case ByContainer:
		k.text = t.Place.Container
	case ByUnit:
		k.text = t.Place.Unit
	case ByNetNS:
		k.number = uint64(e.NetNS)
	case ByState:
		k.number = uint64(e.From)
	}
	return k
}

func (k Key) known() bool { return k != Key{} }

// Compare orders keys.
func (k Key) Compare(o Key) int {
	return cmp.Or(
		cmp.Compare(k.number, o.number), k.addr.Compare(o.addr),
		bytes.Compare(k.comm[:], o.comm[:]), cmp.Compare(k.text, o.text),
	)
}

// AppendText appends the key for people, - if it is not known.
func (k Key) AppendText(b []byte, by By) []byte {
	switch {
	case !k.known():
		return append(b, '-')
	case by == ByComm:
		return output.AppendEscaped(b, k.comm.Bytes())
	case by == ByPID:
		b = append(strconv.AppendUint(b, k.number, 10), ' ')
		return output.AppendEscaped(b, k.comm.Bytes())
	case by == ByState:
		return append(b, fsm.State(k.number).String()...)
	case k.addr.IsValid():
		return k.addr.AppendTo(b)
	case k.text != "":
		return output.AppendEscaped(b, []byte(k.text))
	}
	return strconv.AppendUint(b, k.number, 10)
}

// Group is what is counted of the sockets that have something in common.
type Group struct {
	Tally
	Key Key
	// AtLeast: there may have been more, before there was room for the group.
	AtLeast bool
	dwells  [fsm.Closing + 1]*Dwell // by state; nil: none
}

// dwell returns that of a state that is known.
func (g *Group) dwell(s fsm.State) *Dwell {
	if g.dwells[s] == nil {
		g.dwells[s] = &Dwell{}
	}
	return g.dwells[s]
}

func (g *Group) merge(o *Group) {
	g.Tally.merge(&o.Tally)
	for s, d := range o.dwells {
		if d != nil {
			g.dwell(fsm.State(s)).merge(d)
		}
	}
}

// groups are those of a window. Where there are too many, the smaller half goes into
// other: so one that has much stays, whenever it came.
type groups struct {
	byKey map[Key]*Group
	other Group
	full  bool // some went into other
}

// of returns the group of the key.
func (g *groups) of(k Key, most int) *Group {
	if found := g.byKey[k]; found != nil {
		return found
	}
	if len(g.byKey) >= most {
		g.shrink()
	}
	if g.byKey == nil {
		g.byKey = make(map[Key]*Group)
	}
	added := &Group{Key: k, AtLeast: g.full}
	g.byKey[k] = added
	return added
}

func (g *groups) shrink() {
	list := g.sorted()
	for _, small := range list[len(list)/2:] {
		g.other.merge(small)
		delete(g.byKey, small.Key)
	}
	g.full = true
}

// sorted returns the groups, the one of most transitions first.
func (g *groups) sorted() []*Group {
	list := make([]*Group, 0, len(g.byKey))
	for _, group := range g.byKey {
		list = append(list, group)
	}
	slices.SortFunc(list, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(b.Transitions, a.Transitions), a.Key.Compare(b.Key))
	})
	return list
}

// top returns the n groups of most transitions, and what all others have in common.
func (g *groups) top(n int) (list []*Group, other *Group) {
	list = g.sorted()
	other = &Group{}
	other.merge(&g.other)
	for len(list) > n {
		other.merge(list[len(list)-1])
		list = list[:len(list)-1]
	}
	return list, other
}
