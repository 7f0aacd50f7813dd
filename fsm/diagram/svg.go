package diagram

import (
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
	"strings"

	"tcptrace/fsm"
)

const (
	lineHeight   = 16
	cornerRadius = 14

	// ascent moves a line of text from its middle to its baseline.
	ascent = 4.5
)

// The casing is a border in the colour of the ground, which shows where one
// edge passes over another. Colours are given once for each kind, as color,
// for lines, arrowheads and words.
const svgHead = `<svg xmlns="http://www.w3.org/2000/svg" class="tcpfsm" viewBox="0 0 %[1]d %[2]d" width="%[1]d" height="%[2]d" role="img" aria-labelledby="tcpfsm-title tcpfsm-desc">
<title id="tcpfsm-title">%[3]s</title>
<desc id="tcpfsm-desc">%[4]s</desc>
<style>
` + svgStyle + `</style>
<defs>
`

const svgStyle = `.tcpfsm { font-family: "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 13px; color: #1f2937; }
.tcpfsm text { fill: currentColor; }
.tcpfsm .ground { fill: #ffffff; }
.tcpfsm .area rect { fill: none; stroke: #c3cad5; stroke-dasharray: 3 4; }
.tcpfsm .area text { fill: #7b8494; font-style: italic; }
.tcpfsm .state rect { fill: #eef2f8; stroke: #4b5870; stroke-width: 1.5; }
.tcpfsm .state text { font-size: 15px; font-weight: bold; }
.tcpfsm .edge path { fill: none; stroke: currentColor; stroke-width: 1.6; }
.tcpfsm .edge .casing { stroke: #ffffff; stroke-width: 8; }
.tcpfsm .edge text { stroke: #ffffff; stroke-width: 4; stroke-linejoin: round; paint-order: stroke; }
.tcpfsm .call { color: #1a56b8; }
.tcpfsm .segment { color: #0b7246; }
.tcpfsm .timeout { color: #b04a04; }
.tcpfsm marker path { fill: currentColor; }
.tcpfsm .heading { font-size: 22px; font-weight: bold; }
.tcpfsm .notes { color: #5b6472; }
.tcpfsm .notes .topic { font-weight: bold; }
@media (prefers-color-scheme: dark) {
.tcpfsm { color: #e6edf3; }
.tcpfsm .ground { fill: #0d1117; }
.tcpfsm .area rect { stroke: #3d4654; }
.tcpfsm .area text { fill: #8b94a3; }
.tcpfsm .state rect { fill: #1b2430; stroke: #8d9bb0; }
.tcpfsm .edge .casing, .tcpfsm .edge text { stroke: #0d1117; }
.tcpfsm .call { color: #79b8ff; }
.tcpfsm .segment { color: #56d19a; }
.tcpfsm .timeout { color: #f5a55b; }
.tcpfsm .notes { color: #9aa4b2; }
}
`

const (
	title       = "TCP state machine"
	description = "The reference machine of RFC 9293: its eleven states as boxes and its transitions as arrows, " +
		"each with the event that triggers it and what TCP does about it."
)

type kind struct{ class, words string }

// kinds are what sets an edge off, which the picture shows by colour.
var kinds = []kind{
	{"call", "local call"},
	{"segment", "received segment"},
	{"timeout", "timeout"},
}

func kindOf(e *fsm.Edge) string {
	switch {
	case strings.HasPrefix(e.Event, "rcv "):
		return "segment"
	case strings.HasPrefix(e.Event, "timeout"):
		return "timeout"
	}
	return "call"
}

func svg(u *Usage) string {
	// The height is that of the notes, which come last.
	var body strings.Builder
	svgFigure(&body, u)
	svgLegend(&body, figureHeight+36, u)
	notes := footnotes()
	if u != nil {
		notes = u.footnotes()
	}
	height := svgNotes(&body, notes, figureHeight+78)

	var out strings.Builder
	fmt.Fprintf(&out, svgHead, width, height, title, description)
	svgMarkers(&out, u.kinds())
	if u != nil {
		out.WriteString("<style>\n" + usedStyle + "</style>\n")
	}
	fmt.Fprintf(&out, "</defs>\n<rect class=\"ground\" width=\"%d\" height=\"%d\"/>\n", width, height)
	return out.String() + body.String() + "</svg>\n"
}

// svgMarkers writes the arrowheads.
func svgMarkers(out *strings.Builder, kinds []kind) {
	for _, k := range kinds {
		fmt.Fprintf(out, `<marker id="tcpfsm-%s" class="%[1]s" viewBox="0 0 10 10" refX="9" refY="5"`+
			` markerWidth="11" markerHeight="11" markerUnits="userSpaceOnUse" orient="auto">`+
			"<path d=\"M0 1 L10 5 L0 9 L2.5 5 Z\"/></marker>\n", k.class)
	}
}

func svgFigure(out *strings.Builder, u *Usage) {
	fmt.Fprintf(out, "<text class=\"heading\" x=\"36\" y=\"42\">%s</text>\n", title)
	fmt.Fprintf(out, "<text x=\"%d\" y=\"42\" text-anchor=\"end\">%s</text>\n", width-36, escape(u.heading()))
	for _, a := range areas {
		svgArea(out, a)
	}
	for _, e := range append(legalEdges(), u.illegalEdges()...) {
		svgEdge(out, &e, u)
	}
	for _, s := range fsm.States() {
		svgState(out, s)
	}
}

func svgArea(out *strings.Builder, a area) {
	fmt.Fprintf(out, `<g class="area"><rect x="%s" y="%s" width="%s" height="%s" rx="14"/>`,
		num(a.x), num(a.y), num(a.width), num(a.height))
	fmt.Fprintf(out, "<text x=\"%s\" y=\"%s\">%s</text></g>\n", num(a.x+14), num(a.y+a.height-10), escape(a.name))
}

func svgState(out *strings.Builder, s fsm.State) {
	at := nodes[s]
	fmt.Fprintf(out, `<g id="state-%s" class="state"><rect x="%s" y="%s" width="%d" height="%d" rx="10"/>`,
		s, num(at.x-nodeWidth/2), num(at.y-nodeHeight/2), nodeWidth, nodeHeight)
	fmt.Fprintf(out, "<text x=\"%s\" y=\"%s\" text-anchor=\"middle\">%s</text></g>\n", num(at.x), num(at.y+5), s)
}

func svgEdge(out *strings.Builder, e *fsm.Edge, u *Usage) {
	drawEdge(out, e, u.kindOf(e), "", u.labelLines(e))
}

// drawEdge draws an edge of such a kind, with attributes of its own, and lines of text.
func drawEdge(out *strings.Builder, e *fsm.Edge, kind, attributes string, lines []string) {
	r := routeOf(e)
	if len(lines) > 0 {
		r.move(len(labelLines(e)), len(lines))
	}
	fmt.Fprintf(out, "<g id=\"edge-%s-%s\" class=\"edge %s\"%s>\n", e.From, e.To, kind, attributes)
	fmt.Fprintf(out, "<title>%s to %s: %s (%s)</title>\n", e.From, e.To, escape(e.Trigger()), escape(e.Rule))
	path := rounded(r.path)
	fmt.Fprintf(out, "<path class=\"casing\" d=\"%s\"/>\n", path)
	fmt.Fprintf(out, "<path d=\"%s\" marker-end=\"url(#tcpfsm-%s)\"/>\n", path, kind)
	y := r.label.y + ascent - float64(len(lines)-1)*lineHeight/2
	fmt.Fprintf(out, `<text text-anchor="%s">`, r.label.anchor)
	for i, line := range lines {
		fmt.Fprintf(out, `<tspan x="%s" y="%s">%s</tspan>`, num(r.label.x), num(y+float64(i)*lineHeight), escape(line))
	}
	out.WriteString("</text>\n</g>\n")
}

// rounded is the path with an arc at every corner.
func rounded(points []point) string {
	d := "M" + coords(points[0])
	last := len(points) - 1
	for i := 1; i < last; i++ {
		corner := points[i]
		d += " L" + coords(toward(corner, points[i-1])) + " Q" + coords(corner) + " " + coords(toward(corner, points[i+1]))
	}
	return d + " L" + coords(points[last])
}

// toward is the point of the line from a to b where the rounding of corner a
// begins.
func toward(a, b point) point {
	length := math.Hypot(b.x-a.x, b.y-a.y)
	t := min(cornerRadius/length, 0.5)
	return point{a.x + t*(b.x-a.x), a.y + t*(b.y-a.y)}
}

func svgLegend(out *strings.Builder, y int, u *Usage) {
	out.WriteString("<g class=\"legend\">\n")
	x := 36
	for _, k := range u.kinds() {
		fmt.Fprintf(out, `<g class="edge %s"><path d="M%d %d L%d %[3]d" marker-end="url(#tcpfsm-%[1]s)"/>`, k.class, x, y, x+40)
		fmt.Fprintf(out, "<text x=\"%d\" y=\"%d\">%s</text></g>\n", x+50, y+4, k.words)
		x += 50 + 8*len(k.words) + 30
	}
	fmt.Fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n</g>\n", width-36, y+4, u.legend())
}

// footnote is one edge, or several alike, that the figure leaves out.
type footnote struct {
	topic string // of this one and those that follow
	lines []string
	class string // attribute of the text
}

func footnotes() []footnote {
	var notes []footnote
	add := func(topic string, class fsm.Verdict) {
		for _, b := range fold(class) {
			notes = append(notes, footnote{topic: topic, lines: wrap(b.remark("→"), 110)})
			topic = ""
		}
	}
	add("Aborts", fsm.Abort)
	add("Linux", fsm.Linux)
	return notes
}

// svgNotes writes the notes downward from y and returns where they end.
func svgNotes(out *strings.Builder, notes []footnote, y int) int {
	out.WriteString("<g class=\"notes\">\n")
	for _, n := range notes {
		if n.topic != "" {
			fmt.Fprintf(out, "<text class=\"topic\" x=\"36\" y=\"%d\">%s</text>\n", y, n.topic)
		}
		x := 100
		for _, line := range n.lines {
			fmt.Fprintf(out, "<text%s x=\"%d\" y=\"%d\">%s</text>\n", n.class, x, y, escape(line))
			x = 116
			y += 19
		}
	}
	out.WriteString("</g>\n")
	return y
}

func coords(p point) string { return num(p.x) + " " + num(p.y) }

// num is v to a tenth, the least a screen shows.
func num(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func escape(s string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(s)) // a Builder never fails
	return out.String()
}
