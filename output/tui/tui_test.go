package tui

import (
	"bytes"
	"io"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"tcptrace/fsm"
	"tcptrace/fsm/diagram"
	"tcptrace/output/stat"
)

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		n             uint64
		short, narrow string
	}{
		{0, "0", "0"}, {9999, "9999", "9999"}, {10000, "10000", "10k"}, {99999, "99999", "99k"},
		{100000, "100k", "100k"}, {999999, "999k", "999k"}, {1000000, "1.00M", "1.0M"}, {12345678, "12.3M", "12M"},
		{123456789, "123M", "123M"}, {math.MaxUint64, "18.4E", "18E"},
	} {
		if s, n := short(c.n), narrow(c.n); s != c.short || n != c.narrow {
			t.Errorf("%d is %q and %q, want %q and %q", c.n, s, n, c.short, c.narrow)
		}
	}
	for rate, want := range map[float64]string{0: "0", 0.001: "<0.1", 0.05: "0.1", 9.94: "9.9", 9.96: "10", 9999.4: "9999", 12345: "12k", 1e9: "1.0G"} {
		if got := perSecond(rate); got != want {
			t.Errorf("rate %v is %q, want %q", rate, got, want)
		}
	}
}

// busy is a picture with the greatest numbers everywhere.
func busy() *Picture {
	p := &Picture{
		Request: &Request{By: stat.ByPID}, Time: time.Unix(0, 0).UTC(), Span: 100 * time.Hour, Walked: true, TimeWaitUnseen: true,
		Transitions: math.MaxUint64, Illegal: 99999, Gaps: 99999, Lost: 99999, Evicted: 99999, StuckCount: 99999,
	}
	for _, from := range fsm.States() {
		p.Sockets[from] = 12345
		for _, to := range fsm.States() {
			p.Edges = append(p.Edges, Edge{From: from, To: to, All: 99999, Illegal: 1, Rate: 99999, HasRate: true})
		}
	}
	for i := range 300 {
		p.Groups = append(p.Groups, Group{Name: strings.Repeat("name", 40), All: i})
	}
	p.All = len(p.Groups)
	return p
}

// Whatever is shown, no line is longer than the screen is wide, nor are there more, and
// no number hides a part of another.
func TestBounds(t *testing.T) {
	for _, size := range [][2]int{{1, 1}, {20, 5}, {79, 19}, {80, 20}, {80, 24}, {120, 40}, {300, 100}} {
		m := NewModel(&Request{By: stat.ByPID}, func(*Request) *Picture { return busy() })
		m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		m.Update(arrived{busy()})
		for _, page := range []page{pageTable, pageSocket, pageFindings, pageHelp} {
			for _, totals := range []bool{false, true} {
				m.page, m.totals = page, totals
				lines := strings.Split(m.content(), "\n")
				if len(lines) > size[1] {
					t.Errorf("%v, page %d: %d lines", size, page, len(lines))
				}
				for _, line := range lines {
					if n := ansi.StringWidth(line); n > size[0] {
						t.Errorf("%v, page %d: %d cells in %q", size, page, n, line)
					}
				}
			}
		}
	}
	m := NewModel(&Request{}, nil)
	m.picture = busy()
	for _, totals := range []bool{false, true} {
		m.totals = totals
		text := ansi.Strip(strings.Join(m.diagram(), "\n"))
		if n := strings.Count(text, "12345"); n != len(m.panel.Counts)-1 || !strings.Contains(text, "≥12k") {
			t.Errorf("%d states of %d have their number in\n%s", n, len(m.panel.Counts), text)
		}
		if n := strings.Count(text, "99k!"); n != len(m.panel.Edges) {
			t.Errorf("%d edges of %d have their number in\n%s", n, len(m.panel.Edges), text)
		}
		for _, line := range strings.Split(text, "\n") {
			if n := utf8.RuneCountInString(line); n != diagram.PanelWidth {
				t.Errorf("%d characters: %q", n, line)
			}
		}
	}
}

// Every state can be reached in the diagram by the arrow keys.
func TestNeighbours(t *testing.T) {
	m := NewModel(&Request{}, nil)
	for _, from := range fsm.States() {
		reached := map[fsm.State]bool{from: true}
		for range fsm.States() {
			for s := range reached {
				for _, d := range [][2]int{{1, 0}, {-1, 0}, {0, 1}, {0, -1}} {
					m.state = s
					reached[m.neighbour(d[0], d[1])] = true
				}
			}
		}
		if len(reached) != len(fsm.States()) {
			t.Errorf("from %v only %v are reached", from, reached)
		}
	}
}

// No key means two things, and each has its help.
func TestKeys(t *testing.T) {
	k := newKeyMap()
	meaning := map[string]string{}
	n := 0
	for _, column := range k.full() {
		for _, b := range column {
			n++
			if b.Help().Desc == "" {
				t.Errorf("no help for %v", b.Keys())
			}
			for _, name := range b.Keys() {
				if other := meaning[name]; other != "" {
					t.Errorf("%q means %q and %q", name, other, b.Help().Desc)
				}
				meaning[name] = b.Help().Desc
			}
		}
	}
	if n != 22 {
		t.Errorf("the help has %d keys, want all 22", n)
	}
	if !key.Matches(tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}, k.quit) {
		t.Error("Ctrl-C does not quit")
	}
}

// While it is paused no picture is asked for but by keys, and the next comes when it goes
// on.
func TestPause(t *testing.T) {
	asked := 0
	m := NewModel(&Request{By: stat.ByPID}, func(r *Request) *Picture {
		asked++
		p := busy()
		p.Request = r
		return p
	})
	press := func(r rune) tea.Cmd {
		_, cmd := m.Update(tea.KeyPressMsg{Code: r, Text: string(r)})
		return cmd
	}
	m.Update(m.Init()())
	press('p')
	if _, cmd := m.Update(due{m.ticks}); cmd != nil || asked != 1 {
		t.Error("it asks though it is paused")
	}
	m.Update(press('s')())
	if asked != 2 || m.picture.Request.Sort != ColumnEstablished {
		t.Errorf("asked %d times, sorted by %v", asked, m.picture.Request.Sort)
	}
	m.Update(press('p')())
	if _, cmd := m.Update(due{m.ticks - 1}); cmd != nil {
		t.Error("a tick of before the pause counts")
	}
	if _, cmd := m.Update(due{m.ticks}); cmd == nil || asked != 3 {
		t.Error("it does not go on")
	}
}

// What is asked for while an answer is awaited is asked when that is there, once.
func TestOneQuestionAtATime(t *testing.T) {
	m := NewModel(&Request{By: stat.ByPID}, nil)
	m.Init()
	for _, r := range "srb" {
		if _, cmd := m.Update(tea.KeyPressMsg{Code: r, Text: string(r)}); cmd != nil {
			t.Errorf("%c asks a second question", r)
		}
	}
	if _, cmd := m.Update(arrived{busy()}); cmd == nil || m.picture != nil {
		t.Error("an answer to an old question is shown")
	}
	if _, cmd := m.Update(arrived{nil}); cmd == nil {
		t.Error("it does not end when there is nothing more")
	}
}

// Without colour nothing is lost: illegal edges have a mark.
func TestColors(t *testing.T) {
	m := NewModel(&Request{}, nil)
	m.picture = busy()
	text := strings.Join(m.diagram(), "")
	if !strings.Contains(text, "\x1b[1;31m") {
		t.Errorf("nothing is red in %q", text)
	}
}

// A terminal that takes nothing is left alone after a moment.
func TestBlockedTerminal(t *testing.T) {
	blocked, unblock := io.Pipe()
	defer blocked.Close()
	in, _ := io.Pipe()
	m := NewModel(&Request{By: stat.ByPID}, func(*Request) *Picture { return busy() })
	s := Show(m, &Options{In: in, Out: unblock, Environ: []string{"TERM=xterm"}})
	err := s.Close()
	if err == nil {
		t.Error("no word of it")
	}
}

// What is shown ends by itself, and the terminal is as before.
func TestShow(t *testing.T) {
	in, _ := io.Pipe()
	var out bytes.Buffer
	pictures := 0
	m := NewModel(&Request{By: stat.ByPID}, func(*Request) *Picture {
		if pictures++; pictures > 2 {
			return nil
		}
		return busy()
	})
	s := Show(m, &Options{In: in, Out: &out, Environ: []string{"TERM=xterm"}})
	<-s.Done()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	const enter, leave = "\x1b[?1049h", "\x1b[?1049l"
	text := out.String()
	if !strings.Contains(text, enter) || !strings.HasSuffix(text[strings.LastIndex(text, leave):], leave) && !strings.Contains(text, leave) {
		t.Errorf("%q", text)
	}
	if strings.Contains(text, "\x1b[1;31m") {
		t.Error("colours, though none are wanted")
	}
}
