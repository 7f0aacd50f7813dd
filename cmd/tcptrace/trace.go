package main

import (
	"github.com/spf13/cobra"

	"tcptrace/output"
)

func newTrace() *cobra.Command {
	f := &viewFlags{}
	cmd := &cobra.Command{
		Args: cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			return f.run(cmd, "tracing TCP state transitions", &output.TextOptions{}, func(r *results) view { return newTraceView(r) })
		}),
	}
	f.register(cmd)
	f.registerStuck(cmd)
	return cmd
}
