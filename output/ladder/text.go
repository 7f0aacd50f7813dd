package ladder

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/output"
)

// Options choose how ladders are drawn. Nil means the zero value.
type Options struct {
	// ASCII draws text without other characters.
	ASCII bool
	// Color marks what is illegal or missing in text with ANSI colours.
	Color bool
	// Clock dates the events.
	Clock events.Clock
	// Location of the times; nil means UTC.
	Location *time.Location
}

func orDefault(o *Options) Options {
	var all Options
	if o != nil {
		all = *o
	}
	if all.Location == nil {
		all.Location = time.UTC
	}
	return all
}

// Drawer draws ladders. It is a sink that shows nothing else.
type Drawer interface {
	output.Sink
	// Draw draws one more. It keeps nothing of it.
	Draw(*Ladder) error
}

// Text draws for a terminal, at most 80 columns wide but for long addresses, names and
// labels.
type Text struct {
	output.Discard
	w       *bufio.Writer
	options Options
	drawn   bool
}

var _ Drawer = (*Text)(nil)

// NewText returns a drawer that writes to w.
func NewText(w io.Writer, o *Options) *Text {
	return &Text{w: bufio.NewWriter(w), options: orDefault(o)}
}

// Draw implements [Drawer].
func (t *Text) Draw(l *Ladder) error {
	if t.drawn {
		t.w.WriteByte('\n')
	}
	t.drawn = true
	if _, err := t.w.WriteString(l.text(&t.options)); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Flush implements [output.Sink].
func (t *Text) Flush() error {
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Close implements [output.Sink]. It does not close the underlying writer.
func (t *Text) Close() error { return t.Flush() }

// glyphs are what lines are made of. A segment that was seen has a solid arrow.
type glyphs struct {
	rail, goesOn, solid, dashed, toLeft, toRight, to string
}

var (
	unicodeGlyphs = glyphs{rail: "│", goesOn: "┆ goes on", solid: "─", dashed: "╌", toLeft: "◄", toRight: "►", to: " → "}
	asciiGlyphs   = glyphs{rail: "|", goesOn: ": goes on", solid: "=", dashed: "-", toLeft: "<", toRight: ">", to: " -> "}
)

func (o *Options) glyphs() *glyphs {
	if o.ASCII {
		return &asciiGlyphs
	}
	return &unicodeGlyphs
}

// plain makes text of characters that may be shown.
func (o *Options) plain(text string) string {
	if !o.ASCII {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case r == 'µ':
			b.WriteByte('u')
		case r == '≥':
			b.WriteString(">=")
		case r == '→':
			b.WriteString("->")
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}

// Least widths of the columns.
const (
	stateWidth = len("ESTABLISHED")
	arrowWidth = 18
)

// short is by what an arrow ends, or begins, before the other side, if it was not seen
// there.
const short = "    "

// lane is the part of a line that belongs to one end.
type lane struct{ time, state, dwell string }

// line is one of the drawing.
type line struct {
	lanes  [2]lane
	calls  [2]string // what led to the states, where there is no arrow
	arrows []int
}

func (l *Ladder) text(o *Options) string {
	g := o.glyphs()
	lines := l.lines(o)
	timeWidth, dwellWidth, middleWidth := len("MS"), len("FOR"), arrowWidth
	stateWidths := [2]int{stateWidth, stateWidth}
	for _, ln := range lines {
		for side, c := range ln.lanes {
			stateWidths[side] = max(stateWidths[side], utf8.RuneCountInString(c.state))
			timeWidth = max(timeWidth, utf8.RuneCountInString(c.time))
			dwellWidth = max(dwellWidth, utf8.RuneCountInString(c.dwell))
		}
	}
	for i := range l.Arrows {
		width := utf8.RuneCountInString(o.plain(l.Arrows[i].Label)) + len("<-- "+" --")
		if l.Arrows[i].half() != "" {
			width += len(short)
		}
		middleWidth = max(middleWidth, width)
	}

	var b strings.Builder
	b.WriteString(l.title(o))
	for _, ln := range lines {
		middle := ln.calls[Left]
		switch {
		case len(ln.arrows) > 0:
			middle = l.arrow(ln.arrows, middleWidth, o)
		case ln.calls[Left] == ln.calls[Right]: // of a socket that is connected to itself
			middle = padLeft(middle, (middleWidth+len(middle))/2)
		case ln.calls[Right] != "":
			middle += padLeft(ln.calls[Right], max(middleWidth-len(middle), 1+len(ln.calls[Right])))
		}
		left, right := ln.lanes[Left], ln.lanes[Right]
		text := padLeft(left.time, timeWidth) + " " + pad(left.state, stateWidths[Left]) + " " + padLeft(left.dwell, dwellWidth) + " " +
			pad(middle, middleWidth) + " " + pad(right.state, stateWidths[Right]) + " " + padLeft(right.dwell, dwellWidth) + " " + padLeft(right.time, timeWidth)
		b.WriteString(strings.TrimRight(text, " "))
		b.WriteByte('\n')
	}
	for _, n := range l.remarks() {
		color, reset := "", ""
		if o.Color && n.verdict != 0 {
			color, reset = "\x1b[35m", "\x1b[0m"
			if n.verdict == fsm.Illegal {
				color = "\x1b[1;31m"
			}
		}
		b.WriteString(color + o.plain(n.text) + reset + "\n")
	}
	return strings.ReplaceAll(b.String(), " → ", g.to)
}

// title names both ends.
func (l *Ladder) title(o *Options) string {
	var b strings.Builder
	at := "at an unknown time"
	if start := l.start(); start != 0 {
		at = o.Clock.Time(start).In(o.Location).Format("2006-01-02 15:04:05.000000")
	}
	names, addrs := l.names(), l.addresses()
	fmt.Fprintf(&b, "%s  %s → %s\n", at, addrs[Left], addrs[Right])
	for side := range l.Ends {
		if l.Self && side == int(Right) {
			break
		}
		name := names[side]
		if l.Self {
			name = "both"
		}
		fmt.Fprintf(&b, "%-6s  %s\n", name, o.plain(l.who(Side(side))))
	}
	return b.String()
}

// heading is that of a column.
func (l *Ladder) heading(side Side) string {
	name := strings.ToUpper(l.names()[side])
	switch {
	case l.Ends[side] != nil:
		return name
	case l.elsewhere(side) == elsewhere:
		return name + " (elsewhere)"
	}
	return name + " (not seen)"
}

// names are those of the ends.
func (l *Ladder) names() (names [2]string) {
	for side, e := range l.Ends {
		switch {
		case e == nil:
			names[side] = "peer"
		case l.Self || l.Ends[Side(side).Other()] == nil || e.Role != l.Ends[Side(side).Other()].Role:
			names[side] = roleName(e.Role)
		default:
			names[side] = roleName(events.RoleUnknown)
		}
	}
	return names
}

// addresses are those of the ends, "-" where one is not known.
func (l *Ladder) addresses() (addrs [2]string) {
	for side, e := range l.Ends {
		if e == nil {
			continue
		}
		addrs[side] = address(e.Local.String(), e.Local.Port())
		if l.Ends[Side(side).Other()] == nil {
			addrs[Side(side).Other()] = address(e.Remote.String(), e.Remote.Port())
		}
	}
	return addrs
}

func address(text string, port uint16) string {
	if port == 0 {
		return "-"
	}
	return text
}

// elsewhere says of an end that is not there where it may be.
func (l *Ladder) elsewhere(side Side) string {
	e := l.Ends[side.Other()]
	if e.Remote.Addr().IsLoopback() || e.Remote.Addr() == e.Local.Addr() {
		return "no socket of it was seen"
	}
	return elsewhere
}

const elsewhere = "elsewhere"

// who tells whose an end is, with names escaped.
func (l *Ladder) who(side Side) string {
	e := l.Ends[side]
	if e == nil {
		return l.addresses()[side] + ", " + l.elsewhere(side)
	}
	b := []byte(l.addresses()[side])
	if e.Owner.Known() {
		b = append(output.AppendEscaped(append(b, ", "...), e.Owner.Comm.Bytes()), " ("...)
		b = append(strconv.AppendUint(b, uint64(e.Owner.PID), 10), ')')
	} else {
		b = append(b, ", owner not known"...)
	}
	if place := e.Place.Container; place != "" {
		b = output.AppendEscaped(append(b, ", container "...), []byte(place))
	} else if e.Place.Unit != "" {
		b = output.AppendEscaped(append(b, ", "...), []byte(e.Place.Unit))
	}
	if e.Cookie != 0 {
		b = events.AppendCookie(append(b, ", socket "...), e.Cookie)
	}
	if o := l.Ends[side.Other()]; o != nil && o.NetNS != e.NetNS {
		b = fmt.Appendf(b, ", netns %d", e.NetNS)
	}
	if l.Self {
		b = append(b, ", connected to itself"...)
	}
	return string(b)
}

// lines lays the rows out.
func (l *Ladder) lines(o *Options) []line {
	g := o.glyphs()
	names, start := l.names(), l.start()
	heading := line{}
	for side, name := range names {
		heading.lanes[side] = lane{"MS", strings.ToUpper(name), "FOR"}
		if l.Ends[side] == nil {
			heading.lanes[side] = lane{state: l.heading(Side(side))}
		}
	}
	lines := []line{heading}
	var rails [2]string
	for _, r := range l.rows(false) {
		arrows := r.arrows
		if len(arrows) > 2 || len(arrows) == 2 && !l.opposite(arrows) {
			arrows = arrows[:1]
		}
		ln := line{arrows: arrows}
		for side, i := range r.steps {
			if i == NoStep {
				ln.lanes[side] = lane{state: rails[side], time: l.seenAt(arrows, Side(side), start)}
				continue
			}
			s := &l.Ends[side].Steps[i]
			ln.lanes[side] = lane{relative(s, start), s.State.String(), o.plain(s.dwell())}
			rails[side] = g.rail
			if isInitial(s.State) && i == len(l.Ends[side].Steps)-1 {
				rails[side] = ""
			}
			ln.calls[side] = s.call()
		}
		lines = append(lines, ln)
		if len(arrows) > 0 && l.wrong(&r) { // which the arrow does not show
			lines = append(lines, line{lanes: [2]lane{{state: rails[Left]}, {state: rails[Right]}}, calls: ln.calls})
		}
		for _, more := range r.arrows[len(arrows):] {
			lines = append(lines, line{lanes: [2]lane{{state: rails[Left]}, {state: rails[Right]}}, arrows: []int{more}})
		}
	}
	last := line{}
	for side, e := range l.Ends {
		if e != nil && e.Open {
			last.lanes[side].state = g.goesOn
		}
	}
	if last.lanes != [2]lane{} {
		lines = append(lines, last)
	}
	return lines
}

// wrong reports whether something illegal or missing led to a step of the row.
func (l *Ladder) wrong(r *row) bool {
	for side, i := range r.steps {
		if i != NoStep && l.Ends[side].Steps[i].Verdict != 0 {
			return true
		}
	}
	return false
}

// opposite reports whether two arrows cross and say the same.
func (l *Ladder) opposite(arrows []int) bool {
	a, b := &l.Arrows[arrows[0]], &l.Arrows[arrows[1]]
	return a.From != b.From && a.Label == b.Label && a.Inferred == b.Inferred
}

// seenAt returns when an end sent or got what the row is about, "" where a step says
// that.
func (l *Ladder) seenAt(arrows []int, side Side, start uint64) string {
	for _, i := range arrows {
		a := &l.Arrows[i]
		at, step := a.Received, a.ReceivedBy
		if a.From == side {
			at, step = a.Sent, a.SentBy
		}
		if at != 0 && step == NoStep && !a.Inferred {
			return millis(at - start)
		}
	}
	return ""
}

// arrow draws one arrow, or two that cross.
func (l *Ladder) arrow(arrows []int, width int, o *Options) string {
	g := o.glyphs()
	a := &l.Arrows[arrows[0]]
	dash := g.solid
	if a.Inferred {
		dash = g.dashed
	}
	label := " " + o.plain(a.Label) + " "
	if a.Label == "" {
		label = ""
	}
	full := a.half() == "" || len(arrows) == 2
	if !full {
		width -= len(short)
	}
	heads := 1
	if len(arrows) == 2 {
		heads = 2
	}
	rest := max(width-heads-utf8.RuneCountInString(label), 2)
	before, after := strings.Repeat(dash, rest/2), strings.Repeat(dash, rest-rest/2)
	text := before + label + after
	if a.From == Right || heads == 2 {
		text = g.toLeft + text
	}
	if a.From == Left || heads == 2 {
		text += g.toRight
	}
	if !full && a.half() == "right" {
		text = short + text
	}
	return text
}

// half returns at which side the arrow is, if it is not known of the other: of one
// that was not seen sent or received there.
func (a *Arrow) half() string {
	if a.Captured {
		return ""
	}
	sent, received := a.Sent != 0 || a.SentBy != NoStep, a.Received != 0 || a.ReceivedBy != NoStep
	switch {
	case sent && received:
		return ""
	case sent == (a.From == Left):
		return "left"
	}
	return "right"
}

// call is what led to the step, if it was no segment.
func (s *Step) call() string {
	switch {
	case s.Verdict == fsm.Illegal:
		return "ILLEGAL"
	case s.Verdict == fsm.Gap:
		return "not seen"
	case s.received().flags != "":
		return ""
	}
	return s.Event
}

func (s *Step) dwell() string {
	switch {
	case s.HasDwell && s.AtLeast && s.Dwell == 0: // it has only begun
		return ""
	case !s.HasDwell && isInitial(s.State):
		return ""
	case !s.HasDwell:
		return "-"
	}
	mark := ""
	switch {
	case s.AtLeast:
		mark = "≥"
	case s.Estimated:
		mark = "~"
	}
	return mark + string(output.AppendDuration(nil, s.Dwell))
}

// relative tells when a step was entered, in milliseconds from the start.
func relative(s *Step, start uint64) string {
	switch {
	case s.Entered != 0:
		mark := ""
		if s.Estimated && s.State == fsm.TimeWait {
			mark = "~"
		}
		return mark + millis(s.Entered-start)
	case isInitial(s.State) && !s.HasDwell:
		return ""
	}
	return "-"
}

// millis writes nanoseconds as milliseconds with three decimals, rounded down.
func millis(ns uint64) string {
	micros := ns / 1000
	return fmt.Sprintf("%d.%03d", micros/1000, micros%1000)
}

// remark is a sentence below the drawing.
type remark struct {
	text    string
	verdict fsm.Verdict // what it is about: Gap, Illegal, else 0
}

// remarks tell how each end ended, and what was wrong.
func (l *Ladder) remarks() []remark {
	var list []remark
	names := l.names()
	for side, e := range l.Ends {
		if e == nil || l.Self && side == int(Right) {
			continue
		}
		name := names[side]
		if l.Self {
			name = "both"
		}
		list = append(list, remark{text: name + ": " + string(output.AppendStory(nil, &e.Lifecycle))})
		if e.Verdict == fsm.Gap {
			list = append(list, remark{name + ": gap: " + output.Missing(&e.Lifecycle), fsm.Gap})
		}
		for i := range e.Violations {
			list = append(list, remark{name + ": ILLEGAL: " + e.Violations[i].Reason, fsm.Illegal})
		}
	}
	for _, n := range l.Notes {
		list = append(list, remark{text: n})
	}
	return list
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0))
}

func padLeft(s string, width int) string {
	return strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0)) + s
}
