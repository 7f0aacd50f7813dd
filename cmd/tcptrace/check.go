package main

import (
	"bufio"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tcptrace/bpf"
)

func newCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Report what this kernel and these privileges allow, and how to get the rest",
		Long: `check tries each thing that tracing needs and says what was found, what it is
needed for and how to get it. It ends with status 3 if tracing is not possible.
Nothing stays loaded.`,
		Args: cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			out := bufio.NewWriter(cmd.OutOrStdout())
			release, err := kernelRelease()
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "Linux %s\n\n", release)
			possible := true
			for _, r := range bpf.Requirements() {
				word := "ok"
				switch {
				case errors.Is(r.Err, bpf.ErrNotTried):
					word, possible = "unknown", false
				case r.Err != nil && r.Optional:
					word = "absent"
				case r.Err != nil:
					word, possible = "MISSING", false
				}
				fmt.Fprintf(out, "%-8s %s\n", word, r.Name)
				if r.Err != nil {
					fmt.Fprintf(out, "         found:      %v\n", r.Err)
				}
				fmt.Fprintf(out, "         needed for: %s\n", r.Purpose)
				if r.Err != nil {
					fmt.Fprintf(out, "         to get it:  %s\n", r.Remedy)
				}
			}
			result := "\nTracing is possible.\n"
			if !possible {
				result = "\nTracing is not possible: see MISSING above, the first one first.\n"
			}
			out.WriteString(result)
			if err := out.Flush(); err != nil {
				return err
			}
			if !possible {
				return errUnsupported
			}
			return nil
		}),
	}
}

func kernelRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("read the kernel's release: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}
