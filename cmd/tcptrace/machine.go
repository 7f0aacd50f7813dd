package main

import (
	"bufio"
	"slices"

	"github.com/spf13/cobra"

	"tcptrace/fsm/diagram"
)

func newMachine() *cobra.Command {
	format := string(diagram.Text)
	cmd := &cobra.Command{
		Use:   "machine",
		Short: "Draw the reference machine that transitions are judged by",
		Example: `  tcptrace machine                      as a table
  tcptrace machine -o svg > tcp.svg     as a picture
  tcptrace machine -o dot | dot -Tpng -o tcp.png
  tcptrace machine -o mermaid           for Markdown`,
		Args: cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			f := diagram.Format(format)
			if !slices.Contains(diagram.Formats(), f) {
				return usagef("-o %s: want text, dot, svg or mermaid", format)
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			if err := diagram.Write(out, f); err != nil {
				return err
			}
			return out.Flush()
		}),
	}
	cmd.Flags().StringVarP(&format, "output", "o", format, "`FORMAT`: text, dot, svg or mermaid")
	return cmd
}
