package diagram

import (
	"testing"
	"unicode/utf8"

	"tcptrace/fsm"
)

// The panel has all states and all edges of the reference machine, and no others, each
// with room for its number.
func TestPanel(t *testing.T) {
	p := NewPanel()
	if len(p.Lines) != PanelHeight {
		t.Errorf("%d lines, want %d", len(p.Lines), PanelHeight)
	}
	taken := make(map[[2]int]string)
	take := func(what string, s Slot) {
		if s.Width < 1 || s.X < 0 || s.X+s.Width > PanelWidth || s.Y < 0 || s.Y >= PanelHeight {
			t.Errorf("%s is outside: %+v", what, s)
			return
		}
		for x := s.X; x < s.X+s.Width; x++ {
			if other := taken[[2]int{x, s.Y}]; other != "" {
				t.Errorf("%s is over %s at %d,%d", what, other, x, s.Y)
			}
			taken[[2]int{x, s.Y}] = what
		}
	}
	for i, line := range p.Lines {
		if n := utf8.RuneCountInString(line); n != PanelWidth {
			t.Errorf("line %d has %d characters", i, n)
		}
	}
	for _, s := range fsm.States() {
		name, ok := p.Names[s]
		if !ok {
			t.Errorf("%v is not in the picture", s)
		}
		take(s.String(), name)
		count, ok := p.Counts[s]
		if ok != (s != fsm.Closed) {
			t.Errorf("%v: room for a number: %v", s, ok)
		}
		if ok {
			take("the number of "+s.String(), count)
		}
	}
	legal := legalEdges()
	for _, e := range legal {
		if !p.Shows(e.From, e.To) {
			t.Errorf("%v -> %v is not in the picture", e.From, e.To)
		}
	}
	if len(p.Edges) != len(legal) {
		t.Errorf("%d edges are drawn, the machine has %d", len(p.Edges), len(legal))
	}
	for _, e := range p.Edges {
		if e.Slot.Width != 5 {
			t.Errorf("%v -> %v: room for %d characters, want 5", e.From, e.To, e.Slot.Width)
		}
		take(e.From.String()+" -> "+e.To.String(), e.Slot)
	}
}
