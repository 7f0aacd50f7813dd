package main

import (
	"slices"
	"time"

	"github.com/spf13/cobra"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/output"
	"tcptrace/output/stat"
)

const statHelp = `  sudo tcptrace stat                                until Ctrl-C: what happened, how long, how it ended
  sudo tcptrace stat --duration 10s --by comm       ... in ten seconds, and by whom
  sudo tcptrace stat --interval 1s                  ... each second by itself
  sudo tcptrace stat -L 443 --by raddr --top 20     who connects most to a local server
  sudo tcptrace stat --hist CLOSE_WAIT --comm myapp how long myapp takes to close
  sudo tcptrace stat --interval 10s --ports         how long the local ports will do
  sudo tcptrace stat --interval 1m -o json          an object each minute, for a program
  tcptrace stat -r incident.tct --by unit           from a recording

stat counts transitions instead of showing them: which state followed which, with
! at what is illegal; how long the states lasted; how connections and TIME_WAIT
ended; verdicts; losses. Columns of states have short names: C CLOSED, L LISTEN, SS
SYN_SENT, SR SYN_RCVD, E ESTABLISHED, F1 F2 FIN_WAIT_1 and 2, CW CLOSE_WAIT, CG
CLOSING, LA LAST_ACK, TW TIME_WAIT.

Quantiles are within 1 % of the exact ones. Times of which only a lower bound is
known (column ≥), or nothing (column -), are not among them. --by adds a row for each
group, with the median of the time in each state.`

func newStat() *cobra.Command {
	f := &viewFlags{}
	interval, by, top := time.Duration(0), "", 0
	var hist []string
	withPorts := false
	cmd := &cobra.Command{
		Use:   "stat",
		Short: "Count transitions, time in states and ends, in sum and by process, port, peer ...",
		Long:  statHelp,
		Args:  cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			o := &stat.Options{Interval: interval}
			var err error
			if cmd.Flags().Changed("by") {
				if o.By, err = stat.ParseBy(by); err != nil {
					return usagef("--by: %w", err)
				}
			}
			if o.Hist, err = parseEach("--hist", hist, fsm.ParseState); err != nil {
				return err
			}
			switch {
			case cmd.Flags().Changed("interval") && interval < minInterval:
				return usagef("--interval %v: want %v or more", interval, minInterval)
			case top < 1:
				return usagef("--top %d: want at least 1", top)
			case slices.Contains(f.failOn, failOnStuck):
				return usagef("--fail-on stuck: stat counts transitions: see tcptrace stuck")
			}
			if f.inKernel {
				if err := f.countInKernel(cmd, stat.Bounds(), "by", "ports"); err != nil {
					return err
				}
				o.Counted = f.counts.read
			}
			if withPorts && f.noTimeWait {
				return usagef("--ports and --no-time-wait exclude each other: TIME_WAIT keeps ports")
			}
			portsTop := 0
			if withPorts {
				f.noCapture = "--ports"
				portsTop = top
			}
			return f.countTransitions(cmd, o, portsTop, func(clock events.Clock) printer {
				out := cmd.OutOrStdout()
				if f.format == "json" {
					return stat.NewJSON(out, clock, top)
				}
				return stat.NewText(out, clock, &stat.TextOptions{Wide: f.wide, Top: top, Color: f.color(out), Location: time.Local})
			})
		}),
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.Lookup("count").Usage = "stop after `N` transitions"
	flags.DurationVar(&interval, "interval", 0, "show the sums every `D`, such as 1s or 5m, each time of that window alone")
	flags.StringVar(&by, "by", "", "also by `GROUP`: comm, pid, lport, rport, laddr, raddr, container, unit, netns, state")
	flags.IntVar(&top, "top", stat.DefaultTop, "of the groups show the `N` with most transitions, the others in sum")
	flags.StringSliceVar(&hist, "hist", nil, "draw the distribution of the time in `STATE`, ...")
	flags.BoolVar(&withPorts, "ports", false, "also how many local ports connections have from each address to each other and its port, the --top fullest")
	f.registerInKernel(flags)
	bys := make([]string, 0, len(stat.Bys()))
	for _, b := range stat.Bys() {
		bys = append(bys, string(b))
	}
	complete(cmd, "by", bys...)
	complete(cmd, "hist", names(fsm.States())...)
	return cmd
}

// minInterval is the shortest --interval.
const minInterval = 10 * time.Millisecond

// printer shows windows, and what else a sink gets.
type printer interface {
	output.Sink
	stat.Printer
}

// countTransitions runs a view that counts, with the printer that open makes, and with
// the ports of so many routes, if portsTop is not 0.
func (f *viewFlags) countTransitions(cmd *cobra.Command, o *stat.Options, portsTop int, open func(events.Clock) printer) error {
	return f.trace(cmd, "counting TCP state transitions", func(p *pipeline) view {
		windows := open(p.clock)
		o.Packets = p.packets
		v := &statView{traceView: newTraceView(p.results), counts: f.counts}
		if portsTop > 0 {
			v.ports = newPorts(p, f.read == "", portsTop)
			o.Ports = v.ports.used
		}
		v.stat = stat.NewSink(windows, windows, p.clock, p.source.Start(), o)
		p.sink = output.Multi{v.stat, output.NewMessages(cmd.ErrOrStderr())}
		return v
	})
}
