package diagram

import (
	"slices"
	"strings"
	"unicode/utf8"

	"tcptrace/fsm"
)

// PanelWidth and PanelHeight are the cells that a [Panel] takes.
const (
	PanelWidth  = 80
	PanelHeight = 9
)

// The panel has the life of a connection from left to right: the active side above,
// the passive one below. An arrow that crosses a line has nothing to do with it.
const panelLines = `
  ╭─────────────────────────────────────◀──────────────────────────────────────╮
CLOSED ───────▶ SYN_SENT ───────╮      ╭───────▶ FIN_WAIT_1 ┬─────▶ FIN_WAIT_2 │
 │  ▲  ◀───────          ╭──────┼──────┼───────▶            │              │   │
 │  │            ▲   │   │      ▼      │           │        ╰─────────╮    │   │
 │  │  ╭─────────╯   │   │     ESTABLISHED         ▼                  ▼    ▼   │
 │  │  │             │   │      ▲      │         CLOSING ─────────▶ TIME_WAIT ─┤
 ▼  │  │             ▼   │      │      │                                       │
LISTEN ┴──────▶ SYN_RCVD ┴──────╯      ╰───────▶ CLOSE_WAIT ──────▶ LAST_ACK ──╯
       ◀───────       ╰────────────────────────▶
`

// panelSlots has, over the lines, where something is written: a letter is of the edge
// in panelEdges, a digit of the state in panelStates.
const panelSlots = `

        aaaaa             bbbbb          ccccc               ddddd
         eeeee  22222                    nnnnn   55555              88888
↓fffff                                           ooooo        qqqqq      rrrrr
↑ggggg   jjjjj     hhhhh
                                  44444                    ppppp
                                                 66666              99999↑uuuuu
        iiiii             lllll          ttttt              sssss
11111    kkkkk  33333                    mmmmm   77777              00000↑vvvvv
`

var panelEdges = map[byte]ends{
	'a': {fsm.Closed, fsm.SynSent},
	'b': {fsm.SynSent, fsm.Established},
	'c': {fsm.Established, fsm.FinWait1},
	'd': {fsm.FinWait1, fsm.FinWait2},
	'e': {fsm.SynSent, fsm.Closed},
	'f': {fsm.Closed, fsm.Listen},
	'g': {fsm.Listen, fsm.Closed},
	'h': {fsm.SynSent, fsm.SynRcvd},
	'i': {fsm.Listen, fsm.SynRcvd},
	'j': {fsm.Listen, fsm.SynSent},
	'k': {fsm.SynRcvd, fsm.Listen},
	'l': {fsm.SynRcvd, fsm.Established},
	'm': {fsm.SynRcvd, fsm.CloseWait},
	'n': {fsm.SynRcvd, fsm.FinWait1},
	'o': {fsm.FinWait1, fsm.Closing},
	'p': {fsm.Closing, fsm.TimeWait},
	'q': {fsm.FinWait1, fsm.TimeWait},
	'r': {fsm.FinWait2, fsm.TimeWait},
	's': {fsm.CloseWait, fsm.LastAck},
	't': {fsm.Established, fsm.CloseWait},
	'u': {fsm.TimeWait, fsm.Closed},
	'v': {fsm.LastAck, fsm.Closed},
}

var panelStates = map[byte]fsm.State{
	'0': fsm.LastAck, '1': fsm.Listen, '2': fsm.SynSent, '3': fsm.SynRcvd, '4': fsm.Established,
	'5': fsm.FinWait1, '6': fsm.Closing, '7': fsm.CloseWait, '8': fsm.FinWait2, '9': fsm.TimeWait,
}

// Slot is a place of a panel: cells from X to the right in the row Y, both from 0.
type Slot struct{ X, Y, Width int }

// Panel is the machine laid out for a terminal, with room for a number of five
// characters at each edge and state. What is written there is for the user.
type Panel struct {
	// Lines are the rows, PanelWidth characters each: states, and arrows as if nothing
	// was written.
	Lines []string
	// Names are where the states are, Counts where there is room for a number of each
	// but CLOSED, of which there is none.
	Names, Counts map[fsm.State]Slot
	// Edges are those of the reference machine that are drawn: all, by the test.
	Edges []PanelEdge
}

// PanelEdge is an edge with the room for its number. An Arrow stands before that where
// the line itself does not show which of two edges it is.
type PanelEdge struct {
	From, To fsm.State
	Slot     Slot
	Arrow    string
}

// NewPanel returns the picture.
func NewPanel() *Panel {
	p := &Panel{Names: make(map[fsm.State]Slot), Counts: make(map[fsm.State]Slot)}
	for _, line := range rows(panelLines) {
		p.Lines = append(p.Lines, line+strings.Repeat(" ", PanelWidth-utf8.RuneCountInString(line)))
	}
	for _, s := range fsm.States() {
		for y, line := range p.Lines {
			if i := strings.Index(line, s.String()); i >= 0 {
				p.Names[s] = Slot{utf8.RuneCountInString(line[:i]), y, len(s.String())}
			}
		}
	}
	for y, line := range rows(panelSlots) {
		cells := []rune(line)
		for x := 0; x < len(cells); {
			first := cells[x]
			end := x + 1
			for end < len(cells) && cells[end] == first {
				end++
			}
			slot, arrow := Slot{x, y, end - x}, ""
			x = end
			if slot.X > 0 && strings.ContainsRune("↓↑", cells[slot.X-1]) {
				arrow = string(cells[slot.X-1])
			}
			if s, ok := panelStates[byte(first)]; ok {
				p.Counts[s] = slot
			} else if e, ok := panelEdges[byte(first)]; ok {
				p.Edges = append(p.Edges, PanelEdge{From: e.from, To: e.to, Slot: slot, Arrow: arrow})
			}
		}
	}
	return p
}

// Shows reports whether the edge has a place.
func (p *Panel) Shows(from, to fsm.State) bool {
	return slices.ContainsFunc(p.Edges, func(e PanelEdge) bool { return e.From == from && e.To == to })
}

// rows returns the lines of a literal, which begins and ends with a line break.
func rows(text string) []string { return strings.Split(text[1:len(text)-1], "\n") }
