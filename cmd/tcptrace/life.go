package main

import (
	"github.com/spf13/cobra"

	"tcptrace/output"
)

const lifeHelp = `  sudo tcptrace life                               every connection, when it is closed
  sudo tcptrace life --until gone                  ... when the kernel has forgotten it: TIME_WAIT measured
  sudo tcptrace life --wide                        with the time in each state, handshake, round trip
  sudo tcptrace life -s TIME_WAIT -o json | jq '.time_wait // empty'
  sudo tcptrace life --comm nginx --verdict abort  connections of nginx that did not end in good order
  tcptrace life -r incident.tct --open             from a recording, with those that were still open
  sudo tcptrace life --ladder --port 8080          both ends of each connection, as in the textbook
  sudo tcptrace life --ladder -c 1 -o svg >one.svg ... as a picture

life prints one line for each connection that ended: who, with whom, how many
bytes, how long, which states it went through, and how it was closed. PATH names
them in short: SS SYN_SENT, SR SYN_RCVD, E ESTABLISHED, F1 F2 FIN_WAIT_1 and 2,
CW CLOSE_WAIT, CG CLOSING, LA LAST_ACK, TW TIME_WAIT; … says that it goes on.

With --ladder it draws each connection instead, when both of its ends on this host
are over: their states side by side, time going down, with an arrow where a change of
one end answers the other's. A filter chooses by either end.`

// Values of --until.
const (
	untilClosed = "closed"
	untilGone   = "gone"
)

func newLife() *cobra.Command {
	f := &viewFlags{formats: ladderFormats()}
	until, open := "", false
	cmd := &cobra.Command{
		Use:   "life",
		Short: "Show each connection once, with its states, times and why it ended",
		Long:  lifeHelp,
		Args:  cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			if until == untilGone {
				f.noCapture = "--until gone"
			}
			if until == "" {
				until = untilClosed
				if f.format == "json" || f.read != "" {
					until = untilGone
				}
			}
			if until != untilClosed && until != untilGone {
				return usagef("--until %s: want closed or gone", until)
			}
			if err := f.ladder.misused(f); err != nil {
				return err
			}
			if f.ladder.on {
				return f.drawLadders(cmd, "waiting for connections to end", until == untilGone, open)
			}
			return f.run(cmd, "waiting for connections to end", &output.TextOptions{Table: output.TableLifecycles}, func(r *results) view {
				return &lifeView{results: r, untilGone: until == untilGone && !r.packets, open: open}
			})
		}),
	}
	f.register(cmd)
	f.registerLadder(cmd)
	f.registerStuck(cmd)
	cmd.Flags().StringVar(&until, "until", "", "`WHEN` to print: closed, with TIME_WAIT only begun, or gone, with TIME_WAIT over\n(default closed; gone for JSON and for recordings, not for captures of packets)")
	cmd.Flags().BoolVar(&open, "open", false, "at the end also print what is still open")
	complete(cmd, "until", untilClosed, untilGone)
	return cmd
}
