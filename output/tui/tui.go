// Package tui shows a picture of the machine and its sockets on a terminal, again and
// again, and lets its user look closer. It is the only importer of its libraries.
//
// It asks for a [Picture] when it wants one, and only then one is made: a slow terminal
// gets fewer of them.
package tui

import (
	"errors"
	"fmt"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
)

// Options are how the screen is shown.
type Options struct {
	// In and Out are the terminal.
	In  io.Reader
	Out io.Writer
	// Environ tells what the terminal can do.
	Environ []string
	// Color: with its colours.
	Color bool
}

// Screen shows a Model on a terminal.
type Screen struct {
	program *tea.Program
	done    chan struct{}
	err     error // once done
}

// framesPerSecond bounds how often the terminal is written to.
const framesPerSecond = 15

// Show begins showing the model.
func Show(m *Model, o *Options) *Screen {
	profile := colorprofile.ANSI // the sixteen of its user: light or dark
	if !o.Color {
		profile = colorprofile.Ascii
	}
	s := &Screen{
		program: tea.NewProgram(m,
			tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithEnvironment(o.Environ),
			tea.WithColorProfile(profile), tea.WithFPS(framesPerSecond), tea.WithoutSignalHandler()),
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if _, err := s.program.Run(); err != nil {
			s.err = fmt.Errorf("show the screen: %w", err)
		}
	}()
	return s
}

// Done is closed when its user has left, or the terminal has gone.
func (s *Screen) Done() <-chan struct{} { return s.done }

// patience is how long the end waits for the terminal, twice.
const patience = time.Second

// Close leaves the screen, and gives the terminal back as it was.
func (s *Screen) Close() error {
	for _, end := range []func(){s.program.Quit, s.program.Kill} {
		go end() // which waits while the terminal does
		select {
		case <-s.done:
			if errors.Is(s.err, tea.ErrProgramKilled) {
				return nil
			}
			return s.err
		case <-time.After(patience):
		}
	}
	return errors.New("the terminal takes nothing: run reset in it")
}
