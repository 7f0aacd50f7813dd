package main

import (
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

const stuckHelp = `  sudo tcptrace stuck                                 who keeps what open too long, worst first
  sudo tcptrace stuck --each                          one line for each socket
  sudo tcptrace stuck --limit CLOSE_WAIT=10s -L 8080  another limit, one server only
  sudo tcptrace stuck --limit ESTABLISHED=24h --comm myapp
  sudo tcptrace stuck --fail-on stuck                 a health check: status 4 if anything is
  sudo tcptrace stuck --watch                         stay, and speak when a socket gets stuck or loose
  sudo tcptrace --stuck                               all transitions, and what does not move
  tcptrace stuck -r incident.tct                      what was stuck when the recording ended

stuck looks at every TCP socket of this host, in all network namespaces, and
shows those that have been in a state for longer than is healthy: the process
that holds it, by which file descriptor, for how long, and what it waits for.
≥ says that the socket was in that state before anybody looked: it is at least so
old, by the last thing that it sent or received.`

// stuckMode is how a view speaks of sockets that are stuck.
type stuckMode uint8

const (
	stuckOff    stuckMode = iota
	stuckBeside           // when it happens, between its own rows
	stuckWatch            // when it happens
	stuckOnce             // of those that are so now
)

// stuckFlags choose what is stuck, in every view.
type stuckFlags struct {
	limits lifecycle.Limits
	on     bool          // asked for, by any of these flags
	every  time.Duration // between two walks; 0: as the limits take it
}

// limitValue is the value of --limit.
type limitValue struct{ *stuckFlags }

func (v limitValue) Set(text string) error {
	v.on = true
	return v.limits.Set(text)
}

func (v limitValue) String() string { return v.limits.String() }
func (v limitValue) Type() string   { return "LIMITS" }

func (f *stuckFlags) register(flags *pflag.FlagSet) {
	f.limits = lifecycle.DefaultLimits()
	limit := flags.VarPF(limitValue{f}, "limit", "", "how long a socket may be in a state: changes to the default `LIMITS`, such as CLOSE_WAIT=30s,ESTABLISHED=1h,SYN_SENT=off")
	limit.DefValue = f.limits.String()
}

// registerStuck adds the flags by which a view also tells of what is stuck.
func (f *viewFlags) registerStuck(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.stuck.on, "stuck", false, "also tell of sockets that are in a state for too long: see 'tcptrace stuck --help'")
	f.stuck.register(cmd.Flags())
}

// interval is the time between two walks: a fraction of the shortest limit.
func (f *stuckFlags) interval() time.Duration {
	if f.every > 0 {
		return f.every
	}
	const least, most = time.Second, 10 * time.Second
	shortest := 2 * most
	for _, s := range fsm.States() {
		if limit := f.limits[s]; limit > 0 {
			shortest = min(shortest, limit)
		}
	}
	return max(shortest/2, least)
}

func newStuck() *cobra.Command {
	f := &viewFlags{}
	each, watch := false, false
	cmd := &cobra.Command{
		Use:   "stuck",
		Short: "Show sockets that are in a state for too long, and who holds them",
		Long:  stuckHelp,
		Args:  cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			switch {
			case each && watch:
				return usagef("--each and --watch exclude each other: --watch has a line for each socket")
			case slices.Contains(f.failOn, failOnIllegal):
				return usagef("--fail-on illegal: what is stuck has no verdict: see tcptrace life --stuck")
			case len(f.filter.verdicts) > 0:
				return usagef("--verdict: what is stuck has no verdict: see tcptrace trace")
			}
			f.stuckMode = stuckOnce
			doing, table := "", output.TableStuckReport
			switch {
			case watch:
				f.stuckMode = stuckWatch
				doing, table = "watching for sockets that are stuck", output.TableStuckChanges
			case each:
				table = output.TableStuck
			}
			return f.run(cmd, doing, &output.TextOptions{Table: table}, func(*results) view { return nil })
		}),
	}
	f.register(cmd)
	f.stuck.register(cmd.Flags())
	_ = cmd.Flags().MarkHidden("verdict") // of transitions; fails only for a flag that is not there
	cmd.Flags().BoolVar(&each, "each", false, "text: a line for each socket, not one for all of the same state and process")
	cmd.Flags().BoolVar(&watch, "watch", false, "stay until Ctrl-C, and tell what gets stuck and what no longer is")
	return cmd
}
