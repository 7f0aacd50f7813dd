package tui

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/diagram"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// leastHeight is that of a screen with diagram, findings and a few rows.
const leastHeight = 20

// View implements [tea.Model].
func (m *Model) View() tea.View {
	v := tea.NewView(m.content())
	v.AltScreen = true
	if m.typing {
		if v.Cursor = m.input.Cursor(); v.Cursor != nil {
			v.Cursor.Y = m.height - 1
		}
	}
	return v
}

func (m *Model) content() string {
	if m.width == 0 || m.height == 0 {
		return ""
	}
	if m.picture == nil {
		return m.look.faint.Render(ansi.Truncate("tcptrace top: waiting for the first picture; q quits", m.width, "…"))
	}
	lines := []string{m.heading()}
	body := m.height - 2
	switch m.page {
	case pageHelp:
		lines = append(lines, m.helpPage()...)
	case pageSocket:
		lines = append(lines, m.socketPage()...)
	case pageFindings:
		lines = append(lines, m.findingsPage(body)...)
	default:
		lines = append(lines, m.tablePage()...)
	}
	lines = lines[:min(len(lines), m.height-1)]
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, m.footer())
	for i, line := range lines {
		lines[i] = ansi.Truncate(line, m.width, "…")
	}
	return strings.Join(lines[:min(len(lines), m.height)], "\n")
}

// heading has what must never be out of sight to the right: what is illegal, what is
// missing.
func (m *Model) heading() string {
	p := m.picture
	var right []string
	add := func(n uint64, word string, bad lipgloss.Style) {
		style := m.look.plain
		if n > 0 {
			style = bad
		}
		right = append(right, style.Render(fmt.Sprintf("%d %s", n, word)))
	}
	rate := ""
	if total, known := m.rate(p); known {
		rate = " " + perSecond(total) + "/s"
	}
	right = append(right, fmt.Sprintf("%d trans%s", p.Transitions, rate))
	add(p.Illegal, "illegal", m.look.bad)
	add(uint64(p.StuckCount), "stuck", m.look.stuck)
	add(p.Gaps, plural(p.Gaps, "gap"), m.look.bad)
	add(p.Lost, "lost", m.look.bad)
	if p.Evicted > 0 {
		add(p.Evicted, "forgotten", m.look.bad)
	}
	end := strings.Join(right, "  ")

	var left []string
	if m.paused {
		left = append(left, m.look.selected.Render("PAUSED"))
	}
	left = append(left, m.look.strong.Render("tcptrace"))
	switch {
	case p.Err != nil:
		left = append(left, m.look.bad.Render("broken off"))
	case p.Recording != "" && !p.Ended:
		left = append(left, "reading")
	}
	if p.Recording != "" {
		left = append(left, escaped(p.Recording))
	} else {
		left = append(left, p.Time.Format("15:04:05"))
		if !p.Walked {
			left = append(left, "looking for sockets")
		}
	}
	left = append(left, lifecycle.FormatDuration(p.Span.Truncate(time.Millisecond)))
	return spread(strings.Join(left, " "), end, m.width)
}

// rate returns that of all transitions.
func (m *Model) rate(p *Picture) (total float64, known bool) {
	for _, e := range p.Edges {
		total += e.Rate
		known = known || e.HasRate
	}
	return total, known
}

// spread puts one text to the left and one to the right, which is whole.
func spread(left, right string, width int) string {
	room := width - lipgloss.Width(right) - 1
	if room < 0 {
		return right
	}
	left = ansi.Truncate(left, room, "…")
	return left + strings.Repeat(" ", width-lipgloss.Width(left)-lipgloss.Width(right)) + right
}

func (m *Model) footer() string {
	switch {
	case m.typing:
		return m.input.View()
	case m.mistake != "":
		return m.look.bad.Render(escaped(m.mistake))
	}
	return m.help.ShortHelpView(m.keys.short())
}

// helpPage has all keys, and what the screen shows.
func (m *Model) helpPage() []string {
	lines := strings.Split(m.help.FullHelpView(m.keys.full()), "\n")
	return append(append(lines, ""), m.wrapped(
		"Below each state: its sockets now (of SYN_RCVD not the handshakes that have none yet). At the arrows: transitions per second, of late, or how many (t); "+
			"!: some were illegal. Below the diagram: what has no arrow in it. "+
			"SOCKS E CW TW: sockets now, all and in ESTABLISHED, CLOSE_WAIT, TIME_WAIT. "+
			"TRANS CLOSED ABORT ILL: transitions, ended connections, aborts, illegal, "+
			"since the start, or since grouping or filter were changed. STUCK: now, by --limit. ≥: at least. -: not known.")...)
}

// wrapped breaks a text into lines.
func (m *Model) wrapped(text string) []string {
	return strings.Split(ansi.Wrap(text, m.width, ""), "\n")
}

// tableHeight is how many rows of the table fit.
func (m *Model) tableHeight() int {
	n := m.height - 6 // heading, findings, title and head of the table, footer
	if m.showsDiagram() {
		n -= diagram.PanelHeight + 1
	}
	return n
}

func (m *Model) showsDiagram() bool {
	return !m.hidden && m.width >= diagram.PanelWidth && m.height >= leastHeight
}

func (m *Model) tablePage() []string {
	var lines []string
	if m.showsDiagram() {
		lines = append(m.diagram(), m.otherEdges())
	}
	lines = append(lines, m.strip()...)
	return append(lines, m.table()...)
}

// cell is a character of the diagram.
type cell struct {
	char  rune
	style *lipgloss.Style
}

// diagram draws the machine with what is known of its states and edges.
func (m *Model) diagram() []string {
	p, look := m.picture, &m.look
	grid := make([][]cell, len(m.panel.Lines))
	for y, line := range m.panel.Lines {
		for _, r := range line {
			grid[y] = append(grid[y], cell{r, &look.faint})
		}
	}
	put := func(s diagram.Slot, text string, style *lipgloss.Style) {
		for i, r := range []rune(text) {
			grid[s.Y][s.X+i] = cell{r, style}
		}
	}
	for s, slot := range m.panel.Names {
		style := &look.strong
		if m.focused && s == m.state {
			style = &look.selected
		}
		put(slot, s.String(), style)
	}
	for s, slot := range m.panel.Counts {
		style := &look.plain
		if p.Sockets[s] == 0 {
			style = &look.faint
		}
		text := short(uint64(p.Sockets[s]))
		if s == fsm.TimeWait && p.TimeWaitUnseen {
			text = "≥" + narrow(uint64(p.Sockets[s]))
		}
		put(slot, text, style)
	}
	for _, at := range m.panel.Edges {
		i := slices.IndexFunc(p.Edges, func(e Edge) bool { return e.From == at.From && e.To == at.To })
		if i < 0 {
			continue
		}
		e := &p.Edges[i]
		text, style := m.number(e), &look.plain
		if e.Illegal > 0 {
			text, style = text+"!", &look.bad
		}
		if len(text) > at.Slot.Width {
			text = narrow(e.All) + "!"
		}
		slot := at.Slot
		for x := slot.X; x < slot.X+slot.Width; x++ { // the line goes on to both sides, not across
			if c := &grid[slot.Y][x]; c.char == '│' {
				c.char = ' '
			}
		}
		if at.Arrow != "" {
			put(diagram.Slot{X: slot.X - 1, Y: slot.Y, Width: 1}, at.Arrow, style)
		} else {
			slot.X += (slot.Width - len(text)) / 2
		}
		put(slot, text, style)
	}
	lines := make([]string, len(grid))
	for y, row := range grid {
		var line strings.Builder
		for x := 0; x < len(row); {
			end := x
			var run strings.Builder
			for end < len(row) && row[end].style == row[x].style {
				run.WriteRune(row[end].char)
				end++
			}
			line.WriteString(row[x].style.Render(run.String()))
			x = end
		}
		lines[y] = line.String()
	}
	return lines
}

// number is what stands at an edge, in five characters.
func (m *Model) number(e *Edge) string {
	if m.totals || !e.HasRate {
		return short(e.All)
	}
	return perSecond(e.Rate)
}

// otherEdges tells of what has no place in the diagram, the illegal first.
func (m *Model) otherEdges() string {
	var other []Edge
	for _, e := range m.picture.Edges {
		if !m.panel.Shows(e.From, e.To) {
			other = append(other, e)
		}
	}
	slices.SortFunc(other, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(b.Illegal, a.Illegal), cmp.Compare(b.All, a.All), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	unit := "at the arrows: per second"
	if m.totals {
		unit = "at the arrows: how many"
	}
	parts := make([]string, len(other))
	for i, e := range other {
		text := fmt.Sprintf("%s→%s %s", output.ShortName(e.From), output.ShortName(e.To), m.number(&e))
		style := m.look.plain
		if e.Illegal > 0 {
			text, style = text+"!", m.look.bad
		}
		parts[i] = style.Render(text)
	}
	line := m.look.faint.Render(unit)
	if len(parts) > 0 {
		line += m.look.faint.Render("; also ") + strings.Join(parts, "  ")
	}
	return line
}

// strip tells of what is stuck, and of what is illegal or else must be known, in a line
// each.
func (m *Model) strip() []string {
	p := m.picture
	stuck := m.look.faint.Render("nothing is stuck")
	if len(p.Stuck) > 0 {
		parts := make([]string, 0, len(p.Stuck))
		for i := range p.Stuck {
			parts = append(parts, m.stuckWords(&p.Stuck[i]))
		}
		stuck = m.look.stuck.Render("STUCK ") + strings.Join(parts, "; ")
	} else if !p.Walked && p.Recording == "" {
		stuck = m.look.faint.Render("nothing is known to be stuck yet")
	}
	wrong := m.look.faint.Render("nothing was illegal")
	switch {
	case p.Err != nil:
		wrong = m.look.bad.Render(escaped(p.Err.Error()))
	case len(p.Findings) > 0:
		wrong = m.look.bad.Render("ILLEGAL ") + findingWords(&p.Findings[0])
	case len(p.Notices) > 0:
		wrong = escaped(p.Notices[len(p.Notices)-1].Words())
	}
	return []string{stuck, wrong}
}

func (m *Model) stuckWords(s *Stuck) string {
	b := fmt.Appendf(nil, "%v %d ", s.State, s.Count)
	b = appendOwner(b, &s.Oldest.Owner)
	b = output.AppendAge(append(b, ' '), s.Oldest.Age, s.Oldest.AgeExact)
	return string(fmt.Appendf(b, " (limit %s)", lifecycle.FormatDuration(s.Oldest.Limit)))
}

func findingWords(f *Finding) string {
	local, remote := output.Ends(f.Local, f.Remote)
	b := fmt.Appendf(nil, "%s %v→%v ", f.Time.Format("15:04:05"), f.From, f.To)
	b = appendOwner(b, &f.Owner)
	return string(fmt.Appendf(b, " %s → %s: %s", local, remote, f.Reason))
}

// appendOwner appends "python3/4243", - if it is not known.
func appendOwner(b []byte, o *events.Owner) []byte {
	if !o.Known() {
		return append(b, '-')
	}
	b = append(output.AppendEscaped(b, o.Comm.Bytes()), '/')
	return strconv.AppendUint(b, uint64(o.PID), 10)
}

// column is one of a table.
type column struct {
	id    Column
	title string
	width int // 0: what is left
	left  bool
}

var groupColumns = []column{
	{ColumnName, "", 0, true},
	{ColumnSockets, "SOCKS", 5, false},
	{ColumnEstablished, "E", 5, false},
	{ColumnCloseWait, "CW", 5, false},
	{ColumnTimeWait, "TW", 5, false},
	{ColumnRate, "/S", 5, false},
	{ColumnTransitions, "TRANS", 6, false},
	{ColumnClosed, "CLOSED", 6, false},
	{ColumnAbort, "ABORT", 5, false},
	{ColumnIllegal, "ILL", 4, false},
	{ColumnStuck, "STUCK", 5, false},
}

var socketColumns = []column{
	{ColumnState, "STATE", 11, true},
	{ColumnAge, "AGE", 7, false},
	{ColumnPID, "PID", 7, false},
	{ColumnComm, "COMM", 10, true},
	{ColumnLocal, "LOCAL", 0, true},
	{ColumnRemote, "REMOTE", 0, true},
}

// table draws the table with its title.
func (m *Model) table() []string {
	r := m.picture.Request
	columns := groupColumns
	if r.Table == TableSockets {
		columns = socketColumns
	}
	widths := widthsOf(columns, m.width)
	heads := make([]string, len(columns))
	for i, c := range columns {
		title := c.title
		if c.id == ColumnName {
			title = strings.ToUpper(string(r.By))
		}
		heads[i] = title
	}
	lines := []string{m.title(r), m.look.title.Render(row(columns, widths, heads))}

	height := max(m.tableHeight(), 0)
	m.offset = max(0, min(m.offset, m.cursor, m.rows()-height))
	if m.cursor >= m.offset+height {
		m.offset = m.cursor - height + 1
	}
	for i := m.offset; i < min(m.rows(), m.offset+height); i++ {
		var cells []string
		var style lipgloss.Style
		if r.Table == TableSockets {
			s := &m.picture.Rows[i]
			cells = socketCells(s)
			style = m.styleOf(s.Verdict == fsm.Illegal, s.Stuck)
		} else {
			g := &m.picture.Groups[i]
			cells = groupCells(g, m.picture.TimeWaitUnseen)
			style = m.styleOf(g.Tally.Verdicts[fsm.Illegal] > 0, g.Stuck > 0)
		}
		if i == m.cursor && !m.focused {
			style = style.Inherit(m.look.selected)
		}
		lines = append(lines, style.Render(row(columns, widths, cells)))
	}
	return lines
}

func (m *Model) styleOf(illegal, stuck bool) lipgloss.Style {
	switch {
	case illegal:
		return m.look.bad
	case stuck:
		return m.look.stuck
	}
	return m.look.plain
}

// title says what the table has.
func (m *Model) title(r *Request) string {
	p := m.picture
	var b strings.Builder
	noun := "socket"
	switch {
	case r.Table == TableGroups:
		fmt.Fprintf(&b, "by %s", r.By)
		noun = "group"
	case r.Group != nil:
		fmt.Fprintf(&b, "sockets of %s %s", r.By, m.group)
	case r.State == fsm.Closed:
		b.WriteString("closed last")
	case r.State != 0:
		fmt.Fprintf(&b, "sockets in %v", r.State)
	default:
		b.WriteString("all sockets")
	}
	left := m.look.strong.Render(b.String())
	if p.Filter != "" {
		left += "  filter " + escaped(p.Filter)
	}
	columns := groupColumns
	if r.Table == TableSockets {
		columns = socketColumns
	}
	i := slices.IndexFunc(columns, func(c column) bool { return c.id == sortOf(r) })
	order := strings.ToLower(columns[i].title)
	if columns[i].id == ColumnName {
		order = "name"
	}
	if r.Reverse {
		order += ", reversed"
	}
	right := fmt.Sprintf("%d %s, by %s", p.All, plural(uint64(p.All), noun), order)
	if n := m.rows(); n < p.All {
		right = fmt.Sprintf("first %d of %s", n, right)
	}
	return spread(left, right, m.width)
}

// widthsOf shares what is left among the columns without a width.
func widthsOf(columns []column, width int) []int {
	widths, left, open := make([]int, len(columns)), width-(len(columns)-1), 0
	for i, c := range columns {
		widths[i] = c.width
		left -= c.width
		if c.width == 0 {
			open++
		}
	}
	for i, c := range columns {
		if c.width == 0 {
			widths[i] = max(left/open, 4)
			left -= widths[i]
			open--
		}
	}
	return widths
}

// row sets cells in their columns.
func row(columns []column, widths []int, cells []string) string {
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteByte(' ')
		}
		text := ansi.Truncate(cells[i], widths[i], "…")
		space := strings.Repeat(" ", max(widths[i]-lipgloss.Width(text), 0))
		if c.left {
			b.WriteString(text + space)
		} else {
			b.WriteString(space + text)
		}
	}
	return b.String()
}

func groupCells(g *Group, timeWaitUnseen bool) []string {
	timeWait := short(uint64(g.Sockets[fsm.TimeWait]))
	if timeWaitUnseen {
		timeWait = "≥" + narrow(uint64(g.Sockets[fsm.TimeWait]))
	}
	atLeast := ""
	if g.AtLeast {
		atLeast = "≥"
	}
	rate := "-"
	if g.HasRate {
		rate = perSecond(g.Rate)
	}
	return []string{
		g.Name, short(uint64(g.All)),
		short(uint64(g.Sockets[fsm.Established])), short(uint64(g.Sockets[fsm.CloseWait])), timeWait,
		rate, atLeast + short(g.Tally.Transitions), short(g.Tally.Ended()),
		short(g.Tally.Verdicts[fsm.Abort]), short(g.Tally.Verdicts[fsm.Illegal]), short(uint64(g.Stuck)),
	}
}

func socketCells(s *Socket) []string {
	local, remote := output.Ends(s.Local, s.Remote)
	age, pid, comm := "-", "-", "-"
	if s.HasAge {
		age = string(output.AppendAge(nil, s.Age, s.AgeExact))
	}
	if s.Owner.Known() {
		pid, comm = strconv.FormatUint(uint64(s.Owner.PID), 10), escaped(string(s.Owner.Comm.Bytes()))
	}
	return []string{s.State.String(), age, pid, comm, local, remote}
}

// socketPage tells all of a socket.
func (m *Model) socketPage() []string {
	d := m.picture.Detail
	if d == nil || d.ID != m.request.Socket {
		return []string{"", "this socket is gone, and no longer known: Esc"}
	}
	c := &d.Life
	local, remote := output.Ends(c.Local, c.Remote)
	end := ""
	if !c.Open {
		end = ", ended"
	}
	lines := []string{
		"",
		m.look.strong.Render(fmt.Sprintf("socket %x", c.Cookie)) + fmt.Sprintf("  generation %d%s", c.Generation, end),
		fmt.Sprintf("%s → %s  %s, network namespace %d", local, remote, cmp.Or(c.Role.String(), "role not known"), c.NetNS),
		"owner " + ownerWords(c),
		"",
		m.look.title.Render(fmt.Sprintf("%-13s %10s", "PATH", "TIME IN IT")),
	}
	for i, s := range c.Path {
		last := i == len(c.Path)-1
		dwell := ""
		// What it spends in CLOSED, and a listener in LISTEN, is of no connection.
		if s != fsm.Closed && s != fsm.Listen {
			dwell = string(output.AppendDwell(nil, c, s, last && c.Open))
		}
		line := fmt.Sprintf("%-13s %10s", s, dwell)
		if slices.Index(c.Path, s) < i && dwell != "" {
			line += "  in all"
		}
		lines = append(lines, line)
	}
	lines = append(lines, "")
	if c.HasCounters {
		rtt := "-"
		if c.SRTT != 0 {
			rtt = string(output.AppendDuration(nil, time.Duration(c.SRTT)*time.Microsecond))
		}
		lines = append(lines, fmt.Sprintf("sent %d, received %d bytes when it was last seen; %d retransmits, rtt %s", c.BytesSent, c.BytesReceived, c.Retransmits, rtt))
	}
	verdict := m.look.plain
	if c.Verdict == fsm.Illegal {
		verdict = m.look.bad
	}
	lines = append(lines, m.wrapped(output.Story(c)+"; worst verdict: "+verdict.Render(c.Verdict.String()))...)
	if s := d.Stuck; s != nil {
		b := output.AppendAge(fmt.Appendf(nil, "in %v for ", s.State), s.Age, s.AgeExact)
		b = fmt.Appendf(b, " (limit %s): ", lifecycle.FormatDuration(s.Limit))
		lines = append(lines, m.wrapped(m.look.stuck.Render("STUCK ")+string(s.AppendHint(b)))...)
	}
	return lines
}

func ownerWords(c *lifecycle.Lifecycle) string {
	b := appendOwner(nil, &c.Owner)
	if c.Owner.Known() {
		b = fmt.Appendf(b, " uid %d, by %s", c.Owner.UID, c.Owner.Source)
	}
	for _, place := range []struct{ what, name string }{{"container", c.Place.Container}, {"unit", c.Place.Unit}} {
		if place.name != "" {
			b = output.AppendEscaped(fmt.Appendf(b, ", %s ", place.what), []byte(place.name))
		}
	}
	return string(b)
}

// findingsPage has all that is stuck or illegal, and what else must be known.
func (m *Model) findingsPage(height int) []string {
	p := m.picture
	lines := []string{m.look.strong.Render(fmt.Sprintf("stuck now: %d", p.StuckCount))}
	for i := range p.Stuck {
		s := &p.Stuck[i]
		lines = append(append(lines, m.stuckWords(s)), m.wrapped("    the oldest: "+s.Oldest.Hint())...)
	}
	lines = lines[:min(len(lines), max(height/2, 1))]
	lines = append(lines, m.look.strong.Render(fmt.Sprintf("illegal: %d", p.Illegal)))
	for i := range p.Findings {
		lines = append(lines, m.wrapped(m.look.bad.Render(findingWords(&p.Findings[i])))...)
	}
	var notices []string
	if p.Err != nil {
		notices = m.wrapped(m.look.bad.Render(escaped(p.Err.Error())))
	}
	for i := range p.Notices {
		notices = append(notices, m.wrapped(escaped(p.Notices[i].Words()))...)
	}
	lines = lines[:min(len(lines), max(height-len(notices), 1))]
	return append(lines, notices...)
}

func plural(n uint64, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// short writes a number in five characters: 99999, 100k, 12.3M.
func short(n uint64) string { return abbreviated(n, 5) }

// narrow writes a number in four characters: 9999, 12k, 1.2M.
func narrow(n uint64) string { return abbreviated(n, 4) }

// abbreviated writes a number in so many characters at most, rounded down.
func abbreviated(n uint64, width int) string {
	whole := strconv.FormatUint(n, 10)
	if len(whole) <= width {
		return whole
	}
	const units = "kMGTPE"
	unit := (len(whole) - 1) / 3 // a number of more than 4 digits has one
	digits := len(whole) - 3*unit
	text := whole[:digits]
	if decimals := width - digits - 2; decimals > 0 { // beside point and unit
		text += "." + whole[digits:digits+decimals]
	}
	return text + units[unit-1:unit]
}

// perSecond writes a rate in four characters, never one that is not 0 as 0.
func perSecond(rate float64) string {
	switch {
	case rate == 0:
		return "0"
	case rate < 0.05:
		return "<0.1"
	case rate < 9.95:
		return strconv.FormatFloat(rate, 'f', 1, 64)
	}
	return narrow(uint64(math.Round(rate)))
}

// escaped is for names that a process, or whoever calls the program, has chosen.
func escaped(text string) string { return string(output.AppendEscaped(nil, []byte(text))) }
