package diagram

import (
	"slices"
	"testing"

	"tcptrace/fsm"
)

func TestEveryStateHasAPlace(t *testing.T) {
	for _, s := range fsm.States() {
		if _, ok := nodes[s]; !ok {
			t.Errorf("%s has none", s)
		}
	}
}

func TestRoutesAreThoseOfEdges(t *testing.T) {
	for r := range routes {
		if !slices.ContainsFunc(legalEdges(), func(e fsm.Edge) bool { return r == ends{e.From, e.To} }) {
			t.Errorf("no edge leads from %s to %s", r.from, r.to)
		}
	}
}

func TestEdgeWithoutARouteIsDrawnStraight(t *testing.T) {
	r := routeOf(&fsm.Edge{From: fsm.CloseWait, To: fsm.TimeWait})
	if !slices.Equal(r.path, []point{{790, 745}, {570, 855}}) {
		t.Errorf("path %v", r.path)
	}
	if r.label != (label{point{680, 800}, middle}) {
		t.Errorf("label %v", r.label)
	}
	loop := routeOf(&fsm.Edge{From: fsm.Listen, To: fsm.Listen})
	if len(loop.path) < 4 {
		t.Errorf("no loop: %v", loop.path)
	}
}

func TestFold(t *testing.T) {
	count := 0
	for _, class := range []fsm.Verdict{fsm.Abort, fsm.Linux} {
		for _, b := range fold(class) {
			for _, from := range b.froms {
				want := b.Edge
				want.From = from
				if b.isLoop() {
					want.To = from
				}
				if !slices.Contains(fsm.Machine(), want) {
					t.Errorf("no edge %+v", want)
				}
				count++
			}
		}
	}
	if want := len(fsm.Machine()) - len(legalEdges()); count != want {
		t.Errorf("%d edges folded, want %d", count, want)
	}
}
