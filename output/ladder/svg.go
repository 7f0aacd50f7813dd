package ladder

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"

	"tcptrace/fsm"
	"tcptrace/output"
)

// MaxDrawings is how many ladders one SVG document has; what comes after is counted.
const MaxDrawings = 500

// Places of the picture, in user units.
const (
	svgWidth = 940

	lifeLeft, lifeRight = 300, 640 // middles of the two bars
	barWidth            = 14
	timeInset           = 30 // of the times from the edge
	rowHeight           = 42
	arrowInset          = barWidth/2 + 3
)

// SVGStyle is the style sheet within the document, to the byte: so that a security policy
// can name it by its hash.
const SVGStyle = "\n" + `.tcpladder { font-family: "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 13px; color: #1f2937; }
.tcpladder text { fill: currentColor; }
.tcpladder .ground { fill: #ffffff; }
.tcpladder .heading { font-size: 18px; font-weight: bold; }
.tcpladder .who .role { font-weight: bold; }
.tcpladder .state rect { fill: #dde5f0; stroke: #4b5870; stroke-width: 1.5; }
.tcpladder .state .name { font-size: 14px; font-weight: bold; }
.tcpladder .faint { color: #5b6472; }
.tcpladder .call { color: #1a56b8; font-style: italic; }
.tcpladder .segment { color: #0b7246; }
.tcpladder .illegal { color: #b91c1c; font-weight: bold; }
.tcpladder .gap { color: #8a3ab9; }
.tcpladder .segment path { fill: none; stroke: currentColor; stroke-width: 1.6; }
.tcpladder .inferred path { stroke-dasharray: 6 4; }
.tcpladder .segment text, .tcpladder .call { stroke: #ffffff; stroke-width: 4; stroke-linejoin: round; paint-order: stroke; }
.tcpladder marker.segment path { fill: currentColor; stroke: none; }
.tcpladder .rule { stroke: #c3cad5; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
.tcpladder { color: #e6edf3; }
.tcpladder .ground { fill: #0d1117; }
.tcpladder .state rect { fill: #2a3648; stroke: #8d9bb0; }
.tcpladder .faint { color: #9aa4b2; }
.tcpladder .call { color: #79b8ff; }
.tcpladder .segment { color: #56d19a; }
.tcpladder .illegal { color: #ff8080; }
.tcpladder .gap { color: #d2a8ff; }
.tcpladder .segment text, .tcpladder .call { stroke: #0d1117; }
.tcpladder .rule { stroke: #3d4654; }
}
`

// svgHead has colours once for each kind, as color, for lines, arrowheads and words.
const svgHead = `<svg xmlns="http://www.w3.org/2000/svg" class="tcpladder" viewBox="0 0 %[1]d %[2]d" width="%[1]d" height="%[2]d" role="img" aria-labelledby="tcpladder-title tcpladder-desc">
<title id="tcpladder-title">TCP connections</title>
<desc id="tcpladder-desc">Each connection as a ladder: the states of both ends as bars, time going down but not to scale, and arrows for the segments between them. A dashed arrow is not of a segment that was seen, but of a change of one end that answers the other's.</desc>
<style>` + SVGStyle + `</style>
<defs>
<marker id="tcpladder-head" class="segment" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="11" markerHeight="11" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 1 L10 5 L0 9 L2.5 5 Z"/></marker>
</defs>
<rect class="ground" width="%[1]d" height="%[2]d"/>
`

// SVG draws one document with all ladders, below each other. It is written at the
// end, as its height is known only then.
type SVG struct {
	output.Discard
	w       io.Writer
	options Options
	body    strings.Builder
	y       int
	drawn   int
	beyond  uint64
	written bool
}

var _ Drawer = (*SVG)(nil)

// NewSVG returns a drawer that writes to w.
func NewSVG(w io.Writer, o *Options) *SVG {
	s := &SVG{w: w, options: orDefault(o), y: 20}
	s.options.ASCII = false
	return s
}

// Draw implements [Drawer]. More than [MaxDrawings] are counted only.
func (s *SVG) Draw(l *Ladder) error {
	if s.drawn == MaxDrawings {
		s.beyond++
		return nil
	}
	if s.drawn > 0 {
		fmt.Fprintf(&s.body, "<path class=\"rule\" d=\"M%d %d H%d\"/>\n", timeInset, s.y, svgWidth-timeInset)
		s.y += 16
	}
	s.drawn++
	s.ladder(l)
	return nil
}

// Summary implements [output.Sink]: nothing comes after it.
func (s *SVG) Summary(*output.Summary) error { return s.write() }

// Close implements [output.Sink]. It does not close the underlying writer.
func (s *SVG) Close() error { return s.write() }

// write writes the document, once.
func (s *SVG) write() error {
	if s.written {
		return nil
	}
	s.written = true
	if s.beyond > 0 {
		s.text("faint", timeInset, s.y+14, "", fmt.Sprintf("and %d more, which are not drawn", s.beyond))
		s.y += 30
	}
	if s.drawn == 0 {
		s.text("faint", timeInset, s.y+14, "", "no connection ended")
		s.y += 30
	}
	height := s.y + 10
	if _, err := fmt.Fprintf(s.w, svgHead+"%[3]s</svg>\n", svgWidth, height, s.body.String()); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// text writes one line of text, with its baseline at y.
func (s *SVG) text(class string, x, y int, anchor, text string) {
	if anchor != "" {
		anchor = ` text-anchor="` + anchor + `"`
	}
	if class != "" {
		class = ` class="` + class + `"`
	}
	fmt.Fprintf(&s.body, "<text%s x=\"%d\" y=\"%d\"%s>%s</text>\n", class, x, y, anchor, escape(text))
}

var bars = [2]int{lifeLeft, lifeRight}

// outward is the direction from the bar of the side to the edge of the picture.
var outward = [2]int{-1, 1}

var outerAnchor = [2]string{"end", "start"}

func (s *SVG) ladder(l *Ladder) {
	s.body.WriteString("<g class=\"ladder\">\n")
	start := l.start()
	s.y += 22
	for i, line := range strings.Split(strings.TrimSuffix(l.title(&s.options), "\n"), "\n") {
		if i == 0 {
			s.text("heading", timeInset, s.y, "", line)
			s.y += 24
			continue
		}
		role, who := line[:8], line[8:]
		fmt.Fprintf(&s.body, "<text class=\"who\" x=\"%d\" y=\"%d\"><tspan class=\"role\">%s</tspan> %s</text>\n",
			timeInset, s.y, escape(strings.TrimSpace(role)), escape(who))
		s.y += 18
	}
	s.y += 14
	for side := range l.Ends {
		s.text("faint", bars[side], s.y, "middle", l.heading(Side(side)))
		if l.Ends[side] != nil {
			s.text("faint", edge(Side(side)), s.y, innerAnchor(Side(side)), "ms")
		}
	}
	s.y += 22

	rows := l.rows(true)
	top := s.y
	at := func(row int) int { return top + row*rowHeight }
	s.bars(l, rows, at)
	s.calls(l, rows, at)
	s.arrows(l, rows, at, start)
	for side, e := range l.Ends {
		for i := range rows {
			if step := rows[i].steps[side]; step != NoStep {
				s.state(&e.Steps[step], Side(side), at(i), start)
			}
		}
	}
	s.y = at(len(rows)) + 14
	for _, n := range l.remarks() {
		class := "faint"
		switch n.verdict {
		case fsm.Illegal:
			class = "illegal"
		case fsm.Gap:
			class = "gap"
		}
		s.text(class, timeInset, s.y, "", n.text)
		s.y += 18
	}
	s.y += 14
	s.body.WriteString("</g>\n")
}

// edge is where the times of a side stand.
func edge(side Side) int {
	if side == Left {
		return timeInset
	}
	return svgWidth - timeInset
}

// innerAnchor is that of text which stands at the edge.
func innerAnchor(side Side) string { return outerAnchor[side.Other()] }

// bars draws the time that each end spends in its states.
func (s *SVG) bars(l *Ladder, rows []row, at func(int) int) {
	for side, e := range l.Ends {
		if e == nil {
			x := bars[side]
			fmt.Fprintf(&s.body, "<path class=\"rule\" d=\"M%d %d V%d\" stroke-dasharray=\"2 5\"/>\n", x, at(0), at(len(rows)))
			continue
		}
		s.body.WriteString("<g class=\"state\">\n")
		from, state := NoStep, 0
		bar := func(to int) {
			if from == NoStep {
				return
			}
			step := &e.Steps[state]
			if isInitial(step.State) {
				return
			}
			fmt.Fprintf(&s.body, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"><title>%s</title></rect>\n",
				bars[side]-barWidth/2, at(from), barWidth, at(to)-at(from), escape(step.words()))
		}
		for i := range rows {
			if next := rows[i].steps[side]; next != NoStep {
				bar(i)
				from, state = i, next
			}
		}
		bar(len(rows))
		if e.Open {
			s.text("faint", bars[side]+outward[side]*arrowInset, at(len(rows)), outerAnchor[side], "goes on")
		}
		s.body.WriteString("</g>\n")
	}
}

// words tells a step in a sentence.
func (s *Step) words() string {
	text := s.State.String()
	if s.Event != "" {
		text += ", by " + s.Event
		if s.Action != "" {
			text += " / " + s.Action
		}
	}
	if d := s.dwell(); d != "" && d != "-" {
		text += ", for " + d
	}
	return text
}

// state writes what an end is in from the row on.
func (s *SVG) state(step *Step, side Side, y int, start uint64) {
	x := bars[side] + outward[side]*arrowInset*2
	anchor := outerAnchor[side]
	s.body.WriteString("<g class=\"state\">\n")
	s.text("name", x, y+5, anchor, step.State.String())
	if d := step.dwell(); d != "" {
		s.text("faint", x, y+21, anchor, d)
	}
	if t := relative(step, start); t != "" {
		s.text("faint", edge(side), y+5, innerAnchor(side), t)
	}
	s.body.WriteString("</g>\n")
}

// calls writes what led to states, if it was no segment.
func (s *SVG) calls(l *Ladder, rows []row, at func(int) int) {
	for side, e := range l.Ends {
		for i := range rows {
			step := rows[i].steps[side]
			if step == NoStep {
				continue
			}
			class := "call"
			switch e.Steps[step].Verdict {
			case fsm.Illegal:
				class = "illegal"
			case fsm.Gap:
				class = "gap"
			}
			y := at(i) - 4
			if e.Steps[step].received().flags != "" { // an arrow arrives there
				y = at(i) + 14
			}
			if call := e.Steps[step].call(); call != "" {
				s.text(class, bars[side]-outward[side]*arrowInset*2, y, innerAnchor(Side(side)), call)
			}
		}
	}
}

// arrows draws the segments between the ends.
func (s *SVG) arrows(l *Ladder, rows []row, at func(int) int, start uint64) {
	sent, received := make([]int, len(l.Arrows)), make([]int, len(l.Arrows))
	for i := range sent {
		sent[i], received[i] = NoStep, NoStep
	}
	for y, r := range rows {
		for _, i := range r.arrows {
			if a := &l.Arrows[i]; a.Received == 0 && a.ReceivedBy == NoStep {
				sent[i] = y
			} else {
				received[i] = y
			}
		}
		for _, i := range r.sent {
			sent[i] = y
		}
	}
	for i := range l.Arrows {
		a := &l.Arrows[i]
		if a.SentBy != NoStep && l.Ends[a.From] != nil {
			for y := range rows {
				if rows[y].steps[a.From] == a.SentBy {
					sent[i] = y
				}
			}
		}
		s.arrow(a, sent[i], received[i], at)
		if sent[i] != NoStep && a.Sent != 0 && a.SentBy == NoStep {
			s.text("faint", edge(a.From), at(sent[i])+5, innerAnchor(a.From), millis(a.Sent-start))
		}
		if to := a.From.Other(); received[i] != NoStep && a.Received != 0 && a.ReceivedBy == NoStep {
			s.text("faint", edge(to), at(received[i])+5, innerAnchor(to), millis(a.Received-start))
		}
	}
}

// arrow draws one from a row to another; NoStep is one that is not known.
func (s *SVG) arrow(a *Arrow, sent, received int, at func(int) int) {
	if sent == NoStep && received == NoStep {
		return
	}
	from := bars[a.From] - outward[a.From]*arrowInset
	to := bars[a.From.Other()] - outward[a.From.Other()]*arrowInset
	short := (to - from) / 3
	var y1, y2 int
	switch {
	case sent == NoStep:
		from = to - short*2
		y2 = at(received)
		y1 = y2 - rowHeight/3
	case received == NoStep && a.Captured:
		y1 = at(sent)
		y2 = y1 + rowHeight/3
	case received == NoStep:
		to = from + short*2
		y1 = at(sent)
		y2 = y1 + rowHeight/3
	default:
		y2 = at(received)
		y1 = min(at(sent), y2) // a change may be recorded a moment after its segment left
	}
	class := "segment"
	if a.Inferred {
		class += " inferred"
	}
	fmt.Fprintf(&s.body, "<g class=\"%s\"><path d=\"M%d %d L%d %d\" marker-end=\"url(#tcpladder-head)\"/>", class, from, y1, to, y2)
	// Nearer to where it comes from, so that the labels of two that cross do not meet;
	// but of a short one beside what is called there.
	part := 0.4
	if received == NoStep || !a.Inferred {
		part = 0.5
	}
	x, y := float64(from)+float64(to-from)*part, float64(y1)+float64(y2-y1)*part
	angle := math.Atan(float64(y2-y1)/float64(to-from)) * 180 / math.Pi
	fmt.Fprintf(&s.body, "<text transform=\"translate(%.1f %.1f) rotate(%.1f)\" y=\"-5\" text-anchor=\"middle\">%s</text></g>\n", x, y, angle, escape(a.Label))
}

func escape(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text)) // a Builder never fails
	return out.String()
}
