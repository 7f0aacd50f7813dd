package tui

import (
	"slices"
	"time"

	"charm.land/bubbles/v2/help"
	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"

	"tcptrace/fsm"
	"tcptrace/fsm/diagram"
	"tcptrace/output/stat"
)

// Bounds of how often the screen changes.
const (
	refresh = 250 * time.Millisecond // between two pictures, at least
	rest    = 20                     // times what a picture costs is between two, if that is more
	longest = time.Second            // and at most: it may have cost much because others had the CPU
)

// Bounds of how many rows are asked for.
const (
	firstRows = 200
	mostRows  = 1 << 17
)

// page is what is below the heading.
type page uint8

const (
	pageTable page = iota
	pageSocket
	pageFindings
	pageHelp
)

// level is a table that can be gone back to.
type level struct {
	request Request
	name    string // of the group
	cursor  int
}

// Model is the screen. It changes by messages alone and asks for pictures in commands,
// which wait for the answer in the background: however slow the terminal is, nobody
// waits for it.
type Model struct {
	ask  func(*Request) *Picture
	keys keyMap
	look styles
	drawn
	input textinput.Model
	help  help.Model

	request Request
	picture *Picture // nil: none yet
	levels  []level  // above the present table
	group   string   // whose sockets the table has, for people

	page     page
	before   page // the help
	state    fsm.State
	focused  bool // the diagram has the cursor, else the table
	cursor   int
	offset   int // first row that is shown
	paused   bool
	totals   bool // at the arrows, else rates
	hidden   bool // the diagram
	typing   bool // the filter
	mistake  string
	asking   bool
	outdated bool // what is asked for is no longer what is wanted
	ticks    int  // of which the last counts
}

// drawn is the size of the screen and the picture of the machine for it.
type drawn struct {
	width, height int
	panel         *diagram.Panel
}

// NewModel returns a screen that gets its pictures from ask, which is called from other
// goroutines, never twice at once, and may return nil when there are no more.
func NewModel(first *Request, ask func(*Request) *Picture) *Model {
	m := &Model{
		ask: ask, keys: newKeyMap(), look: newStyles(), request: *first,
		input: textinput.New(), help: help.New(), state: fsm.Established,
		drawn: drawn{panel: diagram.NewPanel()},
	}
	m.request.Rows = firstRows
	m.input.Prompt = "filter: "
	m.input.SetVirtualCursor(false)        // the terminal's own, which need not be drawn again to blink
	m.input.KeyMap.Paste.SetEnabled(false) // it executes programs; the terminal can paste
	plain := textinput.StyleState{Prompt: m.look.strong, Text: m.look.plain, Placeholder: m.look.faint}
	m.input.SetStyles(textinput.Styles{Focused: plain, Blurred: plain})
	m.help.Styles = help.Styles{
		Ellipsis: m.look.faint, ShortKey: m.look.strong, ShortDesc: m.look.plain, ShortSeparator: m.look.faint,
		FullKey: m.look.strong, FullDesc: m.look.plain, FullSeparator: m.look.faint,
	}
	m.help.ShortSeparator = "  "
	return m
}

// arrived is a picture that was asked for.
type arrived struct{ *Picture }

// due says that it is time for the next picture.
type due struct{ tick int }

// Init implements [tea.Model].
func (m *Model) Init() tea.Cmd { return m.fetch() }

// fetch asks for what is wanted, at once, or when the answer to the last question is there.
func (m *Model) fetch() tea.Cmd {
	if m.asking {
		m.outdated = true
		return nil
	}
	m.asking, m.outdated = true, false
	request, ask := m.request, m.ask
	return func() tea.Msg { return arrived{ask(&request)} }
}

// Update implements [tea.Model].
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		m.help.SetWidth(m.width)
		m.input.SetWidth(max(m.width-len(m.input.Prompt)-2, 1))
		return m, nil
	case arrived:
		return m, m.take(msg.Picture)
	case due:
		if m.paused || msg.tick != m.ticks {
			return m, nil
		}
		return m, m.fetch()
	case tea.KeyPressMsg:
		if m.typing {
			return m, m.typed(msg)
		}
		return m, m.pressed(msg)
	}
	if m.typing {
		var cmd tea.Cmd
		m.input, cmd = m.input.Update(msg)
		return m, cmd
	}
	return m, nil
}

// take shows a picture, and waits for when the next is due.
func (m *Model) take(p *Picture) tea.Cmd {
	m.asking = false
	if p == nil { // there is nothing more
		return tea.Quit
	}
	if m.outdated {
		return m.fetch()
	}
	selected := m.selected()
	if m.picture == nil { // what went on long ago has no rate that matters
		m.totals = p.Recording != ""
	}
	m.picture = p
	m.request.Filter = p.Filter
	if p.Mistake != "" {
		m.mistake = p.Mistake
		m.request.By, m.request.Table = p.Request.By, p.Request.Table
	}
	m.follow(selected)
	if m.paused || p.Ended {
		return nil
	}
	m.ticks++
	tick := due{m.ticks}
	return tea.Tick(min(max(refresh, rest*p.Cost), longest), func(time.Time) tea.Msg { return tick })
}

// rows returns how many the table has.
func (m *Model) rows() int {
	switch {
	case m.picture == nil:
		return 0
	case m.picture.Request.Table == TableGroups:
		return len(m.picture.Groups)
	}
	return len(m.picture.Rows)
}

// selected tells what the cursor is at, nil for the first row, which stays the first.
func (m *Model) selected() any {
	switch {
	case m.cursor == 0 || m.cursor >= m.rows():
		return nil
	case m.picture.Request.Table == TableGroups:
		return m.picture.Groups[m.cursor].Key
	}
	return m.picture.Rows[m.cursor].ID
}

// follow moves the cursor to where what it was at is now.
func (m *Model) follow(selected any) {
	i := -1
	switch id := selected.(type) {
	case stat.Key:
		i = slices.IndexFunc(m.picture.Groups, func(g Group) bool { return g.Key == id })
	case SocketID:
		i = slices.IndexFunc(m.picture.Rows, func(s Socket) bool { return s.ID == id })
	}
	if i >= 0 {
		m.cursor = i
	}
	m.cursor = max(0, min(m.cursor, m.rows()-1))
}

// typed handles a key while the filter is being typed.
func (m *Model) typed(msg tea.KeyPressMsg) tea.Cmd {
	switch msg.String() {
	case "ctrl+c":
		return tea.Quit
	case "esc":
		m.typing = false
		m.input.Blur()
		return nil
	case "enter":
		m.typing = false
		m.input.Blur()
		m.request.Filter = m.input.Value()
		m.cursor = 0
		return m.fetch()
	}
	var cmd tea.Cmd
	m.input, cmd = m.input.Update(msg)
	return cmd
}

func (m *Model) pressed(msg tea.KeyPressMsg) tea.Cmd {
	m.mistake = ""
	k := &m.keys
	switch {
	case key.Matches(msg, k.quit):
		return tea.Quit
	case m.page == pageHelp: // any other key leaves it
		m.page = m.before
		return nil
	case key.Matches(msg, k.help):
		m.page, m.before = pageHelp, m.page
	case key.Matches(msg, k.back):
		return m.goBack()
	case key.Matches(msg, k.open):
		return m.open()
	case key.Matches(msg, k.focus):
		m.focused = !m.focused && !m.hidden
	case key.Matches(msg, k.by):
		return m.groupBy(1)
	case key.Matches(msg, k.byBack):
		return m.groupBy(-1)
	case key.Matches(msg, k.sort):
		return m.sortBy()
	case key.Matches(msg, k.reverse):
		m.request.Reverse = !m.request.Reverse
		return m.fetch()
	case key.Matches(msg, k.filter):
		m.typing = true
		m.input.SetValue(m.request.Filter)
		m.input.CursorEnd()
		return m.input.Focus()
	case key.Matches(msg, k.pause):
		m.paused = !m.paused
		if !m.paused {
			return m.fetch()
		}
	case key.Matches(msg, k.totals):
		m.totals = !m.totals
	case key.Matches(msg, k.diagram):
		m.hidden = !m.hidden
		m.focused = m.focused && !m.hidden
	case key.Matches(msg, k.findings):
		m.page, m.request.Socket = pageFindings, SocketID{}
	default:
		return m.move(msg)
	}
	return nil
}

// move moves the cursor.
func (m *Model) move(msg tea.KeyPressMsg) tea.Cmd {
	k := &m.keys
	if m.focused {
		for _, d := range []struct {
			key  key.Binding
			x, y int
		}{{k.left, -1, 0}, {k.right, 1, 0}, {k.up, 0, -1}, {k.down, 0, 1}} {
			if key.Matches(msg, d.key) {
				m.state = m.neighbour(d.x, d.y)
			}
		}
		return nil
	}
	height := max(m.tableHeight(), 1)
	switch {
	case key.Matches(msg, k.up):
		m.cursor--
	case key.Matches(msg, k.down):
		m.cursor++
	case key.Matches(msg, k.pageUp):
		m.cursor -= height
	case key.Matches(msg, k.pageDown):
		m.cursor += height
	case key.Matches(msg, k.first):
		m.cursor = 0
	case key.Matches(msg, k.last):
		m.cursor = m.rows() - 1
	}
	m.cursor = max(0, min(m.cursor, m.rows()-1))
	if rows := m.request.Rows; m.cursor >= rows-2*height && rows < mostRows && m.picture != nil && m.picture.All > rows {
		m.request.Rows *= 4
		return m.fetch()
	}
	return nil
}

// neighbour returns the state that is next in a direction.
func (m *Model) neighbour(dx, dy int) fsm.State {
	const shape = 4 // a cell is higher than wide, and rows are what the eye follows
	from := m.panel.Names[m.state]
	best, least := m.state, 0
	for _, s := range fsm.States() {
		to := m.panel.Names[s]
		x, y := to.X+to.Width/2-from.X-from.Width/2, shape*(to.Y-from.Y)
		along, across := x*dx+y*dy, x*dy+y*dx
		if along <= 0 {
			continue
		}
		if d := along + 2*max(across, -across); best == m.state || d < least {
			best, least = s, d
		}
	}
	return best
}

// open goes from a state or a group to its sockets, and from these to one.
func (m *Model) open() tea.Cmd {
	switch {
	case m.page != pageTable || m.picture == nil:
		return nil
	case m.focused:
		m.enter("")
		m.request.State, m.request.Group = m.state, nil
		m.focused = false
	case m.rows() == 0 || m.cursor >= m.rows():
		return nil
	case m.picture.Request.Table == TableGroups:
		g := m.picture.Groups[m.cursor]
		m.enter(g.Name)
		m.request.State, m.request.Group = 0, &g.Key
	default:
		m.page = pageSocket
		m.request.Socket = m.picture.Rows[m.cursor].ID
		return m.fetch()
	}
	return m.fetch()
}

// enter begins a table of sockets below the present one. The sockets of a state take the
// place of other sockets.
func (m *Model) enter(group string) {
	if m.request.Table == TableGroups {
		m.levels = append(m.levels, level{m.request, m.group, m.cursor})
	}
	m.group, m.cursor, m.offset = group, 0, 0
	m.request.Table, m.request.Sort, m.request.Reverse, m.request.Rows = TableSockets, ColumnDefault, false, firstRows
}

func (m *Model) goBack() tea.Cmd {
	if m.page != pageTable {
		m.page, m.request.Socket = pageTable, SocketID{}
		return nil
	}
	if len(m.levels) == 0 {
		if m.request.State != 0 { // of all sockets
			m.request.State, m.cursor = 0, 0
			return m.fetch()
		}
		return nil
	}
	last := m.levels[len(m.levels)-1]
	m.levels = m.levels[:len(m.levels)-1]
	filter := m.request.Filter
	m.request, m.group, m.cursor = last.request, last.name, last.cursor
	m.request.Filter = filter
	return m.fetch()
}

// Bys are what a table can be by; stat.ByNone is single sockets.
func Bys() []stat.By {
	return append(slices.DeleteFunc(stat.Bys(), func(by stat.By) bool { return by == stat.ByState }), stat.ByNone)
}

func (m *Model) groupBy(step int) tea.Cmd {
	bys := Bys()
	i := slices.Index(bys, m.request.By)
	m.request.By = bys[(i+step+len(bys))%len(bys)]
	m.levels, m.group, m.cursor, m.offset, m.page = nil, "", 0, 0, pageTable
	m.request.State, m.request.Group, m.request.Socket = 0, nil, SocketID{}
	m.request.Sort, m.request.Reverse, m.request.Table = ColumnDefault, false, TableOf(m.request.By)
	return m.fetch()
}

// TableOf returns the table that shows groups of the kind, or single sockets.
func TableOf(by stat.By) Table {
	if by == stat.ByNone {
		return TableSockets
	}
	return TableGroups
}

// sortBy sorts by the next column.
func (m *Model) sortBy() tea.Cmd {
	columns := groupColumns
	if m.request.Table == TableSockets {
		columns = socketColumns
	}
	i := slices.IndexFunc(columns, func(c column) bool { return c.id == sortOf(&m.request) })
	m.request.Sort = columns[(i+1)%len(columns)].id
	m.request.Reverse = false
	return m.fetch()
}

// sortOf returns the column that the rows are sorted by.
func sortOf(r *Request) Column {
	switch {
	case r.Sort != ColumnDefault:
		return r.Sort
	case r.Table == TableSockets:
		return ColumnAge
	}
	return ColumnSockets
}
