package diagram

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tcptrace/fsm"
)

// Usage is how often the edges of the machine were used, and what else there was.
type Usage struct {
	// Title says when and how much.
	Title string
	Uses  []Use // each edge once
	// Color marks what is illegal in text with ANSI colours; pictures have theirs.
	Color bool
}

// Use is how often there was a transition.
type Use struct {
	From, To fsm.State
	Count    uint64
	Illegal  uint64 // of Count
	// Median of the time in From, in words; "" where it is not known.
	Median string
}

func (use *Use) times() string { return fmt.Sprintf("%d ×", use.Count) }

// Kinds of edges that only a usage has.
const (
	kindIllegal = "illegal"
	kindUnused  = "unused"
)

// usedStyle has the colours of these.
const usedStyle = `.tcpfsm .illegal { color: #c81e1e; }
.tcpfsm .edge.illegal path:not(.casing) { stroke-width: 2.6; }
.tcpfsm .unused { color: #c3cad5; }
@media (prefers-color-scheme: dark) {
.tcpfsm .illegal { color: #ff6b6b; }
.tcpfsm .unused { color: #3d4654; }
}
`

func (u *Usage) heading() string {
	if u == nil {
		return "after RFC 9293, figure 5 and section 3.10"
	}
	return u.Title
}

func (u *Usage) dotTitle() string {
	if u == nil {
		return "TCP state machine: solid RFC 9293, dotted aborts, dashed Linux"
	}
	return u.Title + ": solid RFC 9293, dotted all else, red illegal"
}

func (u *Usage) legend() string {
	if u == nil {
		return "solid line: reference machine; event above action"
	}
	return "count; median time before"
}

func (u *Usage) kinds() []kind {
	if u == nil {
		return kinds
	}
	return append(slices.Clone(kinds), kind{kindIllegal, "illegal"}, kind{kindUnused, "unused"})
}

// use returns that of the edge, nil if there was none.
func (u *Usage) use(from, to fsm.State) *Use {
	i := slices.IndexFunc(u.Uses, func(use Use) bool { return use.From == from && use.To == to })
	if i < 0 {
		return nil
	}
	return &u.Uses[i]
}

func (u *Usage) kindOf(e *fsm.Edge) string {
	if u == nil {
		return kindOf(e)
	}
	switch use := u.use(e.From, e.To); {
	case use == nil:
		return kindUnused
	case use.Illegal > 0:
		return kindIllegal
	}
	return kindOf(e)
}

// labelLines are what is written at the edge: of one that was not used, nothing.
func (u *Usage) labelLines(e *fsm.Edge) []string {
	if u == nil {
		return labelLines(e)
	}
	use := u.use(e.From, e.To)
	if use == nil {
		return nil
	}
	lines := []string{use.times()}
	switch use.Illegal {
	case 0:
	case use.Count:
		lines[0] += " ILLEGAL"
	default:
		lines[0] += fmt.Sprintf(", %d ILLEGAL", use.Illegal)
	}
	if use.Median != "" {
		lines = append(lines, use.Median)
	}
	return lines
}

// otherEdges are those that were used and are not in the reference machine.
func (u *Usage) otherEdges() []fsm.Edge {
	if u == nil {
		return nil
	}
	legal := legalEdges()
	var list []fsm.Edge
	for _, use := range u.Uses {
		if !slices.ContainsFunc(legal, func(e fsm.Edge) bool { return e.From == use.From && e.To == use.To }) {
			list = append(list, edgeOf(&use))
		}
	}
	order := fsm.States()
	place := func(s fsm.State) int {
		if i := slices.Index(order, s); i >= 0 {
			return i
		}
		return len(order) + int(s)
	}
	slices.SortFunc(list, func(a, b fsm.Edge) int {
		return cmp.Or(cmp.Compare(place(a.From), place(b.From)), cmp.Compare(place(a.To), place(b.To)))
	})
	return list
}

// edgeOf returns what the machine knows of the edge.
func edgeOf(use *Use) fsm.Edge {
	for _, e := range fsm.Machine() {
		if e.From == use.From && e.To == use.To {
			return e
		}
	}
	return fsm.Edge{From: use.From, To: use.To, Event: "none", Rule: "RFC 9293 3.3.2 state machine", Class: fsm.Illegal}
}

// events are all that can have triggered the transition, legal or by abort.
func events(e *fsm.Edge) string {
	var list []string
	for _, other := range fsm.Machine() {
		if other.From == e.From && other.To == e.To {
			list = append(list, other.Event)
		}
	}
	if list == nil {
		return e.Event
	}
	return strings.Join(list, "; ")
}

// illegalEdges are the otherEdges of which some were illegal, between states that
// have a place in the picture.
func (u *Usage) illegalEdges() []fsm.Edge {
	return slices.DeleteFunc(u.otherEdges(), func(e fsm.Edge) bool {
		return u.use(e.From, e.To).Illegal == 0 || !e.From.Known() || !e.To.Known()
	})
}

// footnotes tell of what is not in the figure.
func (u *Usage) footnotes() []footnote {
	var notes []footnote
	topic := "Also"
	for _, e := range u.otherEdges() {
		n := footnote{topic: topic, lines: []string{
			fmt.Sprintf("%s → %s: %s", e.From, e.To, strings.Join(u.labelLines(&e), ", ")),
		}}
		if u.use(e.From, e.To).Illegal > 0 {
			n.class = ` class="illegal"`
		}
		notes = append(notes, n)
		topic = ""
	}
	return notes
}

// text is a table of the legal edges, and one of all else.
func (u *Usage) text() string {
	var out strings.Builder
	out.WriteString(u.Title + "\n\n")
	legal, other := legalEdges(), u.otherEdges()
	from, to, trigger := len("FROM"), len("TO"), len("EVENT")
	for _, e := range append(slices.Clone(legal), other...) {
		from = max(from, len(e.From.String()))
		to = max(to, len(e.To.String()))
		trigger = max(trigger, len(events(&e)))
	}
	row := func(red bool, a, arrow, b, c, count, median, end string) {
		line := fmt.Sprintf("%-*s %s %-*s  %-*s  %10s %8s %s", from, a, arrow, to, b, trigger, c, count, median, end)
		line = strings.TrimRight(line, " ")
		if red && u.Color {
			line = "\x1b[1;31m" + line + "\x1b[0m"
		}
		out.WriteString(line + "\n")
	}
	row(false, "FROM", "  ", "TO", "EVENT", "COUNT", "MEDIAN", "")
	table := func(edges []fsm.Edge) {
		for i, e := range edges {
			if i > 0 && edges[i-1].From != e.From {
				out.WriteByte('\n')
			}
			use := u.use(e.From, e.To)
			if use == nil {
				use = &Use{}
			}
			end := ""
			if use.Illegal > 0 {
				end = fmt.Sprintf("! %d illegal", use.Illegal)
			}
			row(use.Illegal > 0, e.From.String(), "->", e.To.String(), events(&e), strconv.FormatUint(use.Count, 10), cmp.Or(use.Median, "-"), end)
		}
	}
	table(legal)
	if len(other) > 0 {
		out.WriteString("\nNot of the reference machine: aborts, Linux's rendering, what is illegal\n")
		table(other)
	}
	return out.String()
}
