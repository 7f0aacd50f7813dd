// Package tuitest looks at a screen without a terminal.
package tuitest

import (
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"tcptrace/output/tui"
)

// Eye is a screen of which nobody but a test sees the frames.
type Eye struct {
	model tea.Model
	done  chan struct{}
}

// New returns an eye on the model, of such a size.
func New(m *tui.Model, width, height int) *Eye {
	e := &Eye{model: m, done: make(chan struct{})}
	e.send(tea.WindowSizeMsg{Width: width, Height: height})
	return e
}

// Begin waits until the screen asks for no more by itself, as of a recording that has
// been read.
func (e *Eye) Begin() { e.run(e.model.Init()) }

// named are keys that are no characters.
var named = map[string]rune{
	"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "up": tea.KeyUp, "down": tea.KeyDown,
	"left": tea.KeyLeft, "right": tea.KeyRight, "end": tea.KeyEnd, "home": tea.KeyHome, "pgdown": tea.KeyPgDown,
}

// Press presses keys one by one, and waits for what comes of each: names of keys, or
// text to type.
func (e *Eye) Press(keys ...string) {
	for _, k := range keys {
		if code, ok := named[k]; ok {
			e.send(tea.KeyPressMsg{Code: code})
			continue
		}
		for _, r := range k {
			e.send(tea.KeyPressMsg{Code: r, Text: string(r)})
		}
	}
}

// Frame returns what there is to see, without colours and what ends a line unseen.
func (e *Eye) Frame() string {
	lines := strings.Split(ansi.Strip(e.Styled()), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// Styled returns the same with its styles.
func (e *Eye) Styled() string { return e.model.View().Content }

func (e *Eye) send(msg tea.Msg) {
	var cmd tea.Cmd
	e.model, cmd = e.model.Update(msg)
	e.run(cmd)
}

func (e *Eye) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	msg := cmd()
	if _, quit := msg.(tea.QuitMsg); quit {
		_ = e.Close()
		return
	}
	e.send(msg)
}

// Done implements what shows a screen.
func (e *Eye) Done() <-chan struct{} { return e.done }

// Close ends the looking, from the goroutine that looks, or when that has ended.
func (e *Eye) Close() error {
	select {
	case <-e.done:
	default:
		close(e.done)
	}
	return nil
}
