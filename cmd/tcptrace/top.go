package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tcptrace/output/stat"
	"tcptrace/output/tui"
)

const topHelp = `  sudo tcptrace top                            the machine, its sockets, and who they belong to
  sudo tcptrace top -L 443 --by raddr          of a local server, by peer
  sudo tcptrace top --by socket                each socket by itself
  sudo tcptrace top --limit CLOSE_WAIT=10s     who does not close
  tcptrace top -r incident.tct                 a recording: it stays on the screen

top shows on the terminal how many sockets are in each state, how many transitions go
along each edge, and below that by whom. Tab goes to the diagram, Enter opens a state or
a group, then a socket, with the time in each of its states. / changes the filter. What
is stuck or illegal, and what was lost, is always in sight. ? shows all keys, q leaves.
It takes 80 columns and 20 lines.`

// walkTime is the time between two walks: what gets stuck is known without, but not by
// which file descriptor.
const walkTime = 10 * time.Second

// bySocket is what --by calls a table of single sockets.
const bySocket = "socket"

func newTop() *cobra.Command {
	f := &viewFlags{}
	by := ""
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the machine and its sockets on the terminal",
		Long:  topHelp,
		Args:  cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			group, err := parseTopBy(by)
			if err != nil {
				return err
			}
			return f.runTop(cmd, group)
		}),
	}
	f.register(cmd)
	f.stuck.register(cmd.Flags())
	f.stuck.every = walkTime
	for _, name := range []string{"output", "wide"} { // of text; fails only for a flag that is not there
		_ = cmd.Flags().MarkHidden(name)
	}
	cmd.Flags().Lookup("count").Usage = "stop after `N` transitions"
	cmd.Flags().StringVar(&by, "by", string(stat.ByPID), "begin with the table by `GROUP`: "+strings.Join(topBys(), ", "))
	complete(cmd, "by", topBys()...)
	return cmd
}

// topBys are the values of --by.
func topBys() []string {
	var list []string
	for _, b := range tui.Bys() {
		if b == stat.ByNone {
			b = bySocket
		}
		list = append(list, string(b))
	}
	return list
}

func parseTopBy(name string) (stat.By, error) {
	if name == bySocket {
		return stat.ByNone, nil
	}
	by, err := stat.ParseBy(name)
	if err != nil || by == stat.ByState {
		return by, usagef("--by %s: want one of %s", name, strings.Join(topBys(), ", "))
	}
	return by, nil
}

// runTop runs the view on the terminal.
func (f *viewFlags) runTop(cmd *cobra.Command, by stat.By) error {
	out := cmd.OutOrStdout()
	switch {
	case cmd.Flags().Changed("output"):
		return usagef("-o: top is for the terminal: for programs there are tcptrace stat --interval 1s -o json, and tcptrace agent")
	case !isTerminal(out):
		return usagef("top needs a terminal, and standard output is none: use tcptrace stat --interval 1s, or tcptrace stuck --watch")
	case f.verbose && isTerminal(cmd.ErrOrStderr()):
		return usagef("-v writes to standard error, which is the screen: add 2>FILE")
	}
	in, closeIn, err := keyboard(cmd.InOrStdin())
	if err != nil {
		return err
	}
	defer closeIn()
	f.stuckMode = stuckBeside
	first := &tui.Request{Filter: filterLine(cmd.Flags()), By: by, Table: tui.TableOf(by)}

	// Also where there is nothing to be stopped any more.
	ctx, stop := signal.NotifyContext(cmd.Context(), stopSignals()...)
	defer stop()
	return f.showTop(ctx, cmd, first, func(v *topView) screen {
		return tui.Show(tui.NewModel(first, v.ask), &tui.Options{
			In: in, Out: out, Environ: os.Environ(), Color: f.color(out),
		})
	})
}

// showTop runs the view with a screen that open makes.
func (f *viewFlags) showTop(ctx context.Context, cmd *cobra.Command, first *tui.Request, open func(*topView) screen) error {
	return f.trace(cmd, "", func(p *pipeline) view {
		v := newTopView(ctx, p, first, f.maxConnections, f.read)
		v.stderr, v.noTimeWait = cmd.ErrOrStderr(), f.noTimeWait
		v.show(open(v))
		return v
	})
}

// keyboard returns where keys come from: the terminal itself, if standard input is
// something else.
func keyboard(stdin io.Reader) (io.Reader, func(), error) {
	if file, ok := stdin.(*os.File); ok && isTerminal(file) {
		return file, func() {}, nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open the keyboard: %w: run top in a terminal", err)
	}
	return tty, func() { _ = tty.Close() }, nil // nothing was written by it
}

// filterLine returns those of the flags that choose, as they can be typed again.
func filterLine(given *pflag.FlagSet) string {
	var words []string
	filterSet(&filterFlags{}).VisitAll(func(flag *pflag.Flag) {
		is := given.Lookup(flag.Name)
		if is == nil || !is.Changed {
			return
		}
		name := "--" + flag.Name
		if flag.Shorthand != "" {
			name = "-" + flag.Shorthand
		}
		value := is.Value.String()
		if _, ok := is.Value.(pflag.SliceValue); ok { // in brackets
			value = value[1 : len(value)-1]
		}
		if flag.Value.Type() == "bool" {
			words = append(words, name)
			return
		}
		words = append(words, name, quoted(value))
	})
	return strings.Join(words, " ")
}

func filterSet(f *filterFlags) *pflag.FlagSet {
	set := pflag.NewFlagSet("filter", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.SortFlags = false
	f.register(set)
	return set
}

// parseFilterLine understands the flags that choose, as on the command line.
func parseFilterLine(line string) (*filter, error) {
	words, err := splitWords(line)
	if err != nil {
		return nil, err
	}
	var f filterFlags
	set := filterSet(&f)
	err = set.Parse(words)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return nil, errors.New("want the flags that choose, such as -L 443 --comm nginx -s CLOSE_WAIT")
	case err != nil:
		return nil, err
	case set.NArg() > 0:
		return nil, fmt.Errorf("%q is no flag: want such as -L 443 --comm nginx -s CLOSE_WAIT", set.Arg(0))
	}
	if err := checkEmpty(set); err != nil {
		return nil, err
	}
	return f.parse()
}

// splitWords splits a line as a shell does: what is between quotes belongs together.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun, quote := false, rune(0)
	for _, r := range line {
		switch {
		case r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, begun = r, true
		case !unicode.IsSpace(r):
			word.WriteRune(r)
			begun = true
		case begun:
			words = append(words, word.String())
			word.Reset()
			begun = false
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

// quoted is a word of splitWords.
func quoted(word string) string {
	switch {
	case !strings.ContainsFunc(word, func(r rune) bool { return unicode.IsSpace(r) || r == '\'' || r == '"' }):
		return word
	case strings.Contains(word, `"`):
		return "'" + word + "'"
	}
	return `"` + word + `"`
}
