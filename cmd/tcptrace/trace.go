package main

import (
	"github.com/spf13/cobra"

	"tcptrace/output"
)

func newTrace() *cobra.Command {
	f := &viewFlags{formats: ladderFormats()}
	cmd := &cobra.Command{
		Args: cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			if f.ladder.on && len(f.filter.sockets) == 0 {
				return usagef("--ladder: of which socket? give --socket ID, or draw all with tcptrace life --ladder")
			}
			if err := f.ladder.misused(f); err != nil {
				return err
			}
			if f.ladder.on {
				if f.read == "" && f.count == 0 && len(f.filter.sockets) == 1 {
					f.count = 1 // nothing is left to wait for
				}
				return f.drawLadders(cmd, "waiting for the socket to end", true, true)
			}
			return f.run(cmd, "tracing TCP state transitions", &output.TextOptions{}, func(r *results) view { return newTraceView(r) })
		}),
	}
	f.register(cmd)
	f.registerLadder(cmd)
	f.registerStuck(cmd)
	return cmd
}
