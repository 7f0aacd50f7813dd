package diagram

import (
	"math"

	"tcptrace/fsm"
)

// The picture is that of figure 5 of RFC 9293, on three columns.
const (
	width = 1040

	left, mid, right = 200, 520, 840

	nodeWidth, nodeHeight = 150, 50

	// figureHeight is where the figure ends and legend and footnotes begin.
	figureHeight = 960
)

type point struct{ x, y float64 }

type ends struct{ from, to fsm.State }

// route is how an edge is drawn: along the points, with rounded corners, and
// where its label stands.
type route struct {
	path  []point
	label label
}

// label is placed by the middle of its height; the anchor is that of SVG.
type label struct {
	point
	anchor string
}

const (
	middle = "middle"
	before = "end"   // of a line to its right
	after  = "start" // of a line to its left
)

var nodes = map[fsm.State]point{
	fsm.Closed:      {mid, 135},
	fsm.Listen:      {mid, 265},
	fsm.SynRcvd:     {left, 410},
	fsm.SynSent:     {right, 410},
	fsm.Established: {mid, 555},
	fsm.FinWait1:    {left, 720},
	fsm.Closing:     {mid, 720},
	fsm.CloseWait:   {right, 720},
	fsm.FinWait2:    {left, 880},
	fsm.TimeWait:    {mid, 880},
	fsm.LastAck:     {right, 880},
}

// routes are the edges drawn by hand. One crossing cannot be avoided, as each
// of SYN_SENT, FIN_WAIT_1 and CLOSE_WAIT is tied to SYN_RCVD, to ESTABLISHED
// and, around the figure, to CLOSED.
var routes = map[ends]route{
	{fsm.Closed, fsm.Listen}: {
		[]point{{490, 160}, {490, 240}}, label{point{481, 200}, before}},
	{fsm.Listen, fsm.Closed}: {
		[]point{{550, 240}, {550, 160}}, label{point{559, 200}, after}},
	{fsm.Closed, fsm.SynSent}: {
		[]point{{595, 123}, {880, 123}, {880, 385}}, label{point{720, 102}, middle}},
	{fsm.SynSent, fsm.Closed}: {
		[]point{{840, 385}, {840, 147}, {595, 147}}, label{point{720, 168}, middle}},
	{fsm.Listen, fsm.SynSent}: {
		[]point{{595, 265}, {800, 265}, {800, 385}}, label{point{700, 244}, middle}},
	{fsm.Listen, fsm.SynRcvd}: {
		[]point{{445, 253}, {170, 253}, {170, 385}}, label{point{330, 232}, middle}},
	{fsm.SynRcvd, fsm.Listen}: {
		[]point{{230, 385}, {230, 277}, {445, 277}}, label{point{330, 290}, middle}},

	{fsm.SynSent, fsm.SynRcvd}: {
		[]point{{765, 398}, {275, 398}}, label{point{520, 377}, middle}},
	{fsm.SynSent, fsm.Established}: {
		[]point{{840, 435}, {840, 555}, {595, 555}}, label{point{770, 534}, middle}},
	{fsm.SynRcvd, fsm.Established}: {
		[]point{{230, 435}, {230, 555}, {445, 555}}, label{point{345, 542}, middle}},

	{fsm.SynRcvd, fsm.FinWait1}: {
		[]point{{170, 435}, {170, 695}}, label{point{179, 595}, after}},
	{fsm.SynRcvd, fsm.CloseWait}: {
		[]point{{275, 422}, {670, 422}, {670, 597}, {870, 597}, {870, 695}}, label{point{520, 443}, middle}},
	{fsm.Established, fsm.FinWait1}: {
		[]point{{490, 580}, {490, 625}, {230, 625}, {230, 695}}, label{point{360, 646}, middle}},
	{fsm.Established, fsm.CloseWait}: {
		[]point{{550, 580}, {550, 625}, {810, 625}, {810, 695}}, label{point{680, 646}, middle}},

	{fsm.FinWait1, fsm.FinWait2}: {
		[]point{{170, 745}, {170, 855}}, label{point{161, 800}, before}},
	{fsm.FinWait1, fsm.Closing}: {
		[]point{{275, 720}, {445, 720}}, label{point{360, 699}, middle}},
	{fsm.FinWait1, fsm.TimeWait}: {
		[]point{{230, 745}, {230, 810}, {490, 810}, {490, 855}}, label{point{360, 789}, middle}},
	{fsm.FinWait2, fsm.TimeWait}: {
		[]point{{275, 880}, {445, 880}}, label{point{360, 859}, middle}},
	{fsm.Closing, fsm.TimeWait}: {
		[]point{{550, 745}, {550, 855}}, label{point{559, 800}, after}},
	{fsm.CloseWait, fsm.LastAck}: {
		[]point{{840, 745}, {840, 855}}, label{point{849, 800}, after}},

	{fsm.TimeWait, fsm.Closed}: {
		[]point{{520, 905}, {520, 955}, {36, 955}, {36, 70}, {490, 70}, {490, 110}}, label{point{45, 555}, after}},
	{fsm.LastAck, fsm.Closed}: {
		[]point{{915, 880}, {1004, 880}, {1004, 70}, {550, 70}, {550, 110}}, label{point{995, 555}, before}},
}

// illegalRoutes are those of the edges that are no part of the figure and are known
// to occur: where TIME_WAIT is skipped.
var illegalRoutes = map[ends]route{
	{fsm.FinWait2, fsm.Closed}: {
		[]point{{125, 880}, {103, 880}, {103, 135}, {445, 135}}, label{point{112, 190}, after}},
	{fsm.Closing, fsm.Closed}: {
		[]point{{595, 712}, {640, 712}, {640, 135}, {595, 135}}, label{point{649, 300}, after}},
}

// area is a part of the figure with a name.
type area struct {
	name                string
	x, y, width, height float64
}

var areas = []area{
	{"active close", 54, 674, 618, 258},
	{"passive close", 740, 674, 200, 258},
}

// routeOf returns the route by hand or else, for an edge that the table has
// gained since, a straight line.
func routeOf(e *fsm.Edge) route {
	if r, ok := routes[ends{e.From, e.To}]; ok {
		return r
	}
	if r, ok := illegalRoutes[ends{e.From, e.To}]; ok {
		return r
	}
	from, to := nodes[e.From], nodes[e.To]
	if from == to {
		return loop(from)
	}
	a, b := border(from, to), border(to, from)
	return route{[]point{a, b}, label{point{(a.x + b.x) / 2, (a.y + b.y) / 2}, middle}}
}

// move moves a label that stands above or below its line, and was to have so many
// lines of text, away from that if it has more, and nearer if it has fewer.
func (r *route) move(planned, lines int) {
	if r.label.anchor != middle {
		return
	}
	nearest := r.toLine()
	if math.IsInf(nearest, 1) {
		return
	}
	r.label.y -= math.Copysign(1, nearest) * float64(lines-planned) * lineHeight / 2
}

// toLine is how far below the label its line is; above, if it is negative.
func (r *route) toLine() float64 {
	nearest := math.Inf(1) // from the label, downwards
	for i, p := range r.path[1:] {
		if d := p.y - r.label.y; p.y == r.path[i].y && math.Abs(d) < math.Abs(nearest) {
			nearest = d
		}
	}
	return nearest
}

// loop leads out of the right side of the node and back.
func loop(node point) route {
	x, y := node.x+nodeWidth/2, node.y
	path := []point{{x, y - 12}, {x + 24, y - 12}, {x + 24, y + 12}, {x, y + 12}}
	return route{path, label{point{x + 30, y}, after}}
}

// border is where the line from the middle of a node to the other point leaves
// the node.
func border(node, other point) point {
	dx, dy := other.x-node.x, other.y-node.y
	t := 1 / max(math.Abs(dx)/(nodeWidth/2), math.Abs(dy)/(nodeHeight/2))
	return point{node.x + t*dx, node.y + t*dy}
}
