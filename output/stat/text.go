package stat

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/output"
)

// DefaultTop is how many groups are shown.
const DefaultTop = 10

// TextOptions choose how the text looks. Nil means the zero value.
type TextOptions struct {
	// Wide shows whole names.
	Wide bool
	// Top is how many groups are shown.
	Top int
	// Color marks what is illegal with ANSI colours.
	Color bool
	// Location of the times; nil means UTC.
	Location *time.Location
}

// Text writes windows for people.
type Text struct {
	output.Discard
	w       *bufio.Writer
	clock   events.Clock
	options TextOptions
	begun   bool
}

// NewText returns a printer, and sink of all else, that writes to w.
func NewText(w io.Writer, clock events.Clock, o *TextOptions) *Text {
	t := &Text{w: bufio.NewWriter(w), clock: clock}
	if o != nil {
		t.options = *o
	}
	if t.options.Location == nil {
		t.options.Location = time.UTC
	}
	return t
}

// Flush implements [output.Sink].
func (t *Text) Flush() error {
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Close implements [output.Sink].
func (t *Text) Close() error { return t.Flush() }

// Window implements [Printer].
func (t *Text) Window(w *Window) error {
	if t.begun {
		t.w.WriteString("\n\n")
	}
	t.begun = true
	t.heading(w)
	if w.Transitions > 0 {
		t.matrix(w)
		t.dwells(w)
	}
	t.sums(w)
	t.histograms(w)
	t.groups(w)
	t.ports(w)
	return t.Flush()
}

func (t *Text) heading(w *Window) {
	const layout = "15:04:05.000"
	at := func(boot uint64) string { return t.clock.Time(boot).In(t.options.Location).Format(layout) }
	fmt.Fprintf(t.w, "%s to %s: %d transitions", at(w.Start), at(w.End), w.Transitions)
	if rate, known := w.Rate(); known {
		fmt.Fprintf(t.w, " in %v, %.1f/s", w.Duration().Round(time.Millisecond), rate)
	}
	if w.Inferred() {
		t.w.WriteString(", inferred from packets: times are between those")
	}
	t.w.WriteByte('\n')
}

// cell is one of a table.
type cell struct {
	text string
	bad  bool
}

// table writes rows under their heading: the first column to the left, all others to
// the right.
func (t *Text) table(rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			text := c.text
			if c.bad {
				text = t.red(text)
			}
			if i == 0 {
				line.WriteString(text + space)
			} else {
				line.WriteString(" " + space + text)
			}
		}
		t.w.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

func (t *Text) red(text string) string {
	if !t.options.Color {
		return text
	}
	return "\x1b[1;31m" + text + "\x1b[0m"
}

func cells(texts ...string) []cell {
	row := make([]cell, len(texts))
	for i, text := range texts {
		row[i].text = text
	}
	return row
}

// matrix writes how often which state followed which. What is illegal has a mark,
// and is told below.
func (t *Text) matrix(w *Window) {
	froms := w.states(func(e Edge, s fsm.State) bool { return s == e.From })
	tos := w.states(func(e Edge, s fsm.State) bool { return s == e.To })
	marked := make(map[fsm.State]bool) // columns
	for e, c := range w.Edges {
		marked[e.To] = marked[e.To] || c.Illegal > 0
	}
	head := cells("FROM \\ TO")
	var wrong []string
	rows := [][]cell{nil}
	for _, to := range tos {
		name := output.ShortName(to)
		if marked[to] {
			name += " "
		}
		head = append(head, cell{text: name})
	}
	rows[0] = head
	for _, from := range froms {
		row := cells(fmt.Sprintf("%-11s %2s", from, output.ShortName(from)))
		if !from.Known() {
			row = cells(from.String())
		}
		for _, to := range tos {
			c := cell{text: "."}
			n := w.Edges[Edge{from, to}]
			if n != nil {
				c.text = strconv.FormatUint(n.All, 10)
			}
			switch {
			case n != nil && n.Illegal > 0:
				c.text, c.bad = c.text+"!", true
				wrong = append(wrong, fmt.Sprintf("! %v -> %v: %d of %d illegal", from, to, n.Illegal, n.All))
			case marked[to]:
				c.text += " "
			}
			row = append(row, c)
		}
		rows = append(rows, row)
	}
	t.w.WriteByte('\n')
	t.table(rows)
	for _, line := range wrong {
		t.w.WriteString(t.red(line) + "\n")
	}
}

// quantiles are those that are shown.
var quantiles = [...]struct {
	name string
	q    float64
}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}}

// dwells writes how long the states lasted that came to their end.
func (t *Text) dwells(w *Window) {
	rows := [][]cell{cells("TIME IN", "COUNT", "MIN", "P50", "P90", "P99", "MAX", "≥", "-")}
	for _, s := range fsm.States() {
		d := w.Dwell(s)
		if d.Count+d.AtLeast+d.Unknown == 0 {
			continue
		}
		row := cells(s.String(), strconv.FormatUint(d.Count, 10))
		times := []time.Duration{d.Min}
		for _, q := range quantiles {
			times = append(times, d.Quantile(q.q))
		}
		for _, v := range append(times, d.Max) {
			row = append(row, cell{text: durationOf(&d, v)})
		}
		rows = append(rows, append(row, cells(strconv.FormatUint(d.AtLeast, 10), strconv.FormatUint(d.Unknown, 10))...))
	}
	if len(rows) > 1 {
		t.w.WriteByte('\n')
		t.table(rows)
	}
}

// durationOf writes a time of those in d, - if there are none, with ~ if one of them
// was exact to a tick only.
func durationOf(d *Dwell, v time.Duration) string {
	if d.Count == 0 {
		return "-"
	}
	var b []byte
	if d.Estimated > 0 {
		b = append(b, '~')
	}
	return string(output.AppendDuration(b, v))
}

// sums writes what was counted without regard to the states.
func (t *Text) sums(w *Window) {
	var lines [][2]string
	add := func(name string, counts []named) {
		var parts []string
		for _, c := range counts {
			parts = append(parts, fmt.Sprintf("%s %d", strings.ReplaceAll(c.name, "_", " "), c.count))
		}
		if parts != nil {
			lines = append(lines, [2]string{name, strings.Join(parts, ", ")})
		}
	}
	add("VERDICTS", w.verdicts())
	add("CLOSED", w.closed())
	add("TIME_WAIT", sortedCounts(w.TimeWaitEnds))
	add("LOST", sortedCounts(w.Lost))
	if lines == nil {
		return
	}
	t.w.WriteByte('\n')
	for _, l := range lines {
		fmt.Fprintf(t.w, "%-9s  %s\n", l[0], l[1])
	}
}

// named is a count with its name.
type named struct {
	name  string
	count uint64
}

func (c *Tally) verdicts() (list []named) {
	for _, v := range fsm.Verdicts() {
		if n := c.Verdicts[v]; n > 0 {
			list = append(list, named{v.String(), n})
		}
	}
	return list
}

func (c *Tally) closed() (list []named) {
	for _, cause := range fsm.Causes() {
		if n := c.Closed[cause]; n > 0 {
			list = append(list, named{cause.String(), n})
		}
	}
	return list
}

func sortedCounts(counts map[string]uint64) (list []named) {
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, named{name, counts[name]})
	}
	return list
}

// histograms draws distributions as the tools of bcc do.
func (t *Text) histograms(w *Window) {
	const width = 40
	for _, s := range w.options.Hist {
		unit, list := w.hists[s].Buckets()
		fmt.Fprintf(t.w, "\ntime in %v\n", s)
		if list == nil {
			t.w.WriteString("     none that is known\n")
			continue
		}
		most := uint64(0)
		for _, b := range list {
			most = max(most, b.Count)
		}
		fmt.Fprintf(t.w, "%10s %-13s : %-8s distribution\n", "", unitName(unit), "count")
		for _, b := range list {
			last := max(b.To/unit-1, b.From/unit)
			bar := strings.Repeat("*", int(b.Count*width/most))
			fmt.Fprintf(t.w, "%10d -> %-10d : %-8d |%-*s|\n", b.From/unit, last, b.Count, width, bar)
		}
	}
}

func unitName(unit time.Duration) string {
	switch unit {
	case time.Second:
		return "s"
	case time.Millisecond:
		return "ms"
	}
	return "µs"
}

// groups writes those of most transitions: how many, what went wrong, and the median
// of the time in each state.
func (t *Text) groups(w *Window) {
	if w.options.By == ByNone || w.Transitions == 0 {
		return
	}
	list, other := w.groups.top(t.options.Top)
	all := list
	if other.Transitions > 0 {
		all = append(slices.Clone(list), other)
	}
	states := slices.DeleteFunc(fsm.States(), func(s fsm.State) bool {
		return !slices.ContainsFunc(all, func(g *Group) bool { return g.dwells[s] != nil && g.dwells[s].Count > 0 })
	})
	head := cells(strings.ToUpper(string(w.options.By)), "TRANS", "CLOSED", "ABORT", "ILL")
	for _, s := range states {
		head = append(head, cell{text: output.ShortName(s)})
	}
	rows := [][]cell{head}
	for _, g := range all {
		name := "other"
		if g != other {
			name = t.cut(string(g.Key.AppendText(nil, w.options.By)))
		}
		least := ""
		if g.AtLeast {
			least = "≥"
		}
		count := func(n uint64) string { return least + strconv.FormatUint(n, 10) }
		row := cells(name, count(g.Transitions), count(g.Ended()), count(g.Verdicts[fsm.Abort]), count(g.Verdicts[fsm.Illegal]))
		row[len(row)-1].bad = g.Verdicts[fsm.Illegal] > 0
		for _, s := range states {
			median := cell{text: "-"}
			if d := g.dwells[s]; d != nil {
				median.text = durationOf(d, d.Quantile(0.5))
			}
			row = append(row, median)
		}
		rows = append(rows, row)
	}
	t.w.WriteByte('\n')
	t.table(rows)
}

// cut shortens a name of a group.
func (t *Text) cut(name string) string {
	const most = 24
	if t.options.Wide || utf8.RuneCountInString(name) <= most {
		return name
	}
	return string([]rune(name)[:most-1]) + "…"
}
