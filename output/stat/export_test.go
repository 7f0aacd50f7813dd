package stat

import (
	"time"

	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

var NewWindow = newWindow

func (w *Window) Count(t *lifecycle.Transition) { w.add(t) }

func (w *Window) Top(n int) ([]*Group, *Group) { return w.groups.top(n) }

func (w *Window) GroupCount() int { return len(w.groups.byKey) }

func (g *Group) Name(by By) string { return string(g.Key.AppendText(nil, by)) }

func (h *Histogram) Count(t time.Duration) { h.add(t, 1) }

func (w *Window) Histogram(s fsm.State) *Histogram { return w.hists[s] }
