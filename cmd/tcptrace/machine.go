package main

import (
	"bufio"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tcptrace/events"
	"tcptrace/fsm/diagram"
	"tcptrace/output"
	"tcptrace/output/stat"
)

const machineHelp = `  tcptrace machine                              the rules, as a table
  tcptrace machine -o svg >tcp.svg              ... as a picture
  tcptrace machine -o dot | dot -Tpng -o tcp.png
  tcptrace machine -o mermaid                   ... for Markdown
  tcptrace machine -r incident.tct -o svg >incident.svg  what a recording has of it
  sudo tcptrace machine --live --duration 10s   what happens on this host
  sudo tcptrace machine --live -L 443 -o svg >https.svg  ... until Ctrl-C, of a local server

machine draws the reference machine that transitions are judged by. With a recording
or --live it draws how often each transition occurred, and the median of the time in
the state that it leaves; red is what was illegal. All filters work.`

func newMachine() *cobra.Command {
	f := &viewFlags{}
	for _, format := range diagram.Formats() {
		f.formats = append(f.formats, string(format))
	}
	live := false
	cmd := &cobra.Command{
		Use:   "machine",
		Short: "Draw the reference machine that transitions are judged by, and how it is used",
		Long:  machineHelp,
		Args:  cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			switch {
			case live && f.read != "":
				return usagef("-r and --live exclude each other: a recording, or the kernel")
			case slices.Contains(f.failOn, failOnStuck):
				return usagef("--fail-on stuck: machine counts transitions: see tcptrace stuck")
			case live || f.read != "":
				return f.countTransitions(cmd, &stat.Options{}, 0, func(clock events.Clock) printer {
					return &usagePrinter{cmd: cmd, flags: f, clock: clock}
				})
			}
			var idle string // a flag that has nothing to choose from
			cmd.Flags().Visit(func(flag *pflag.Flag) {
				if flag.Name != "output" {
					idle = flag.Name
				}
			})
			if idle != "" {
				return usagef("--%s chooses what happened: give -r FILE or --live", idle)
			}
			return f.draw(cmd, nil)
		}),
	}
	f.register(cmd)
	cmd.Flags().Lookup("count").Usage = "stop after `N` transitions"
	cmd.Flags().BoolVar(&live, "live", false, "draw what happens on this host, until Ctrl-C or --duration")
	return cmd
}

// draw draws the machine, and how it was used, if u is not nil.
func (f *viewFlags) draw(cmd *cobra.Command, u *diagram.Usage) error {
	if !slices.Contains(f.outputs(), f.format) {
		return usagef("-o %s: want %s", f.format, orList(f.outputs()))
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	if err := diagram.WriteUsed(out, diagram.Format(f.format), u); err != nil {
		return err
	}
	return out.Flush()
}

// usagePrinter draws the machine with what a window had of it.
type usagePrinter struct {
	output.Discard
	cmd   *cobra.Command
	flags *viewFlags
	clock events.Clock
}

// Window implements [stat.Printer].
func (p *usagePrinter) Window(w *stat.Window) error {
	u := &diagram.Usage{
		Title: fmt.Sprintf("%d transitions in %v, from %s", w.Transitions, w.Duration().Round(time.Millisecond),
			p.clock.Time(w.Start).In(time.Local).Format("2006-01-02 15:04:05")),
		Color: p.flags.color(p.cmd.OutOrStdout()),
	}
	if w.Inferred() {
		u.Title += ", inferred from packets"
	}
	for e, c := range w.Edges {
		use := diagram.Use{From: e.From, To: e.To, Count: c.All, Illegal: c.Illegal}
		if d := &c.Dwell; d.Count > 0 {
			use.Median = string(output.AppendDuration(nil, d.Quantile(0.5)))
		}
		u.Uses = append(u.Uses, use)
	}
	return p.flags.draw(p.cmd, u)
}
