package tui

import (
	"charm.land/bubbles/v2/key"
	"charm.land/lipgloss/v2"
)

// keyMap has all keys. The help is made from it.
type keyMap struct {
	up, down, left, right, pageUp, pageDown, first, last key.Binding
	open, back, focus                                    key.Binding
	by, byBack, sort, reverse, filter                    key.Binding
	pause, totals, diagram, findings, help, quit         key.Binding
}

func newKeyMap() keyMap {
	bind := func(help, what string, keys ...string) key.Binding {
		return key.NewBinding(key.WithKeys(keys...), key.WithHelp(help, what))
	}
	return keyMap{
		up:       bind("↑ k", "up", "up", "k"),
		down:     bind("↓ j", "down", "down", "j"),
		left:     bind("← h", "in the diagram: left", "left", "h"),
		right:    bind("→ l", "in the diagram: right", "right", "l"),
		pageUp:   bind("PgUp", "a page up", "pgup"),
		pageDown: bind("PgDn", "a page down", "pgdown"),
		first:    bind("Home", "first row", "home"),
		last:     bind("End", "last row", "end"),
		open:     bind("Enter", "open: state or group, then socket", "enter"),
		back:     bind("Esc", "back", "esc", "backspace"),
		focus:    bind("Tab", "diagram or table", "tab"),
		by:       bind("b", "group by the next", "b"),
		byBack:   bind("B", "... by the one before", "B"),
		sort:     bind("s", "sort by the next column", "s"),
		reverse:  bind("r", "the other way round", "r"),
		filter:   bind("/", "filter, by the flags: -L 443", "/"),
		pause:    bind("p", "pause, go on", "p", "space"),
		totals:   bind("t", "arrows: so often, or per second", "t"),
		diagram:  bind("d", "with or without the diagram", "d"),
		findings: bind("f", "all that is stuck or illegal", "f"),
		help:     bind("?", "keys", "?"),
		quit:     bind("q", "quit", "q", "ctrl+c"),
	}
}

// short are those in the last line, the most important first.
func (k *keyMap) short() []key.Binding {
	return []key.Binding{k.help, k.quit, k.focus, k.open, k.back, k.by, k.sort, k.filter, k.pause, k.totals, k.findings}
}

// full are all, by column.
func (k *keyMap) full() [][]key.Binding {
	return [][]key.Binding{
		{k.up, k.down, k.left, k.right, k.pageUp, k.pageDown, k.first, k.last, k.focus, k.open, k.back},
		{k.by, k.byBack, k.sort, k.reverse, k.filter, k.pause, k.totals, k.diagram, k.findings, k.help, k.quit},
	}
}

// styles use the sixteen colours of the terminal, which its user has made legible.
type styles struct {
	plain, strong, faint, bad, stuck, selected, title lipgloss.Style
}

func newStyles() styles {
	plain := lipgloss.NewStyle()
	return styles{
		plain:    plain,
		strong:   plain.Bold(true),
		faint:    plain.Faint(true),
		bad:      plain.Bold(true).Foreground(lipgloss.Red),
		stuck:    plain.Bold(true).Foreground(lipgloss.Magenta),
		selected: plain.Reverse(true),
		title:    plain.Underline(true),
	}
}
