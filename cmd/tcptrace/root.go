package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"tcptrace/bpf"
)

// Exit statuses.
const (
	exitDone        = 0
	exitFailure     = 1
	exitUsage       = 2
	exitUnsupported = 3
	exitCondition   = 4
)

// errCondition says that a condition of --fail-on was met.
var errCondition = errors.New("met a condition of --fail-on")

// errUnsupported says that check found something missing; the report is out.
var errUnsupported = errors.New("tracing is not possible here")

// failure is an error of a command that had begun. All others are of the
// command line.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// usageError is found by a command in its own flags.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// confined is the key of a context: this process is the command's own, which confines
// it once it traces.
type confined struct{}

// runProcess is run for a process of its own.
func runProcess(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return execute(context.WithValue(context.Background(), confined{}, true), args, stdin, stdout, stderr)
}

// run executes the command line and returns the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return execute(context.Background(), args, stdin, stdout, stderr)
}

func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// A reader that goes away is an error of the write, so that a recording is
	// still brought to its end.
	signal.Ignore(syscall.SIGPIPE)

	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	status := exitStatus(err)
	switch status {
	case exitDone:
	case exitUsage:
		root.PrintErrf("tcptrace: %v\nTry '%s --help'.\n", err, command.CommandPath())
	default:
		if !errors.Is(err, errUnsupported) {
			root.PrintErrf("tcptrace: %v\n", err)
		}
	}
	return status
}

func exitStatus(err error) int {
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE):
		return exitDone
	case errors.As(err, new(usageError)), !errors.As(err, new(failure)):
		return exitUsage
	case errors.Is(err, bpf.ErrUnsupported), errors.Is(err, errUnsupported):
		return exitUnsupported
	case errors.Is(err, errCondition):
		return exitCondition
	}
	return exitFailure
}

// begun makes of a function the RunE of a command.
func begun(f func(cmd *cobra.Command) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := f(cmd); err != nil {
			return failure{err}
		}
		return nil
	}
}

// Help begins with what people type.
const traceHelp = `  sudo tcptrace                                  every transition of the host, as it happens
  sudo tcptrace -L 443 -s CLOSE_WAIT             connections of a local server that their peers closed
  sudo tcptrace -D 5432 --comm myapp             what myapp does with its database connections
  sudo tcptrace --verdict illegal,abort,gap      only what went wrong
  sudo tcptrace --remote 10.0.0.0/8 -o json      JSON Lines, for jq
  sudo tcptrace -c 100 --duration 30s            stop after 100 transitions or 30 seconds
  sudo tcptrace -w incident.tct                  show and record
  tcptrace -r incident.tct --wide                look at the recording, anywhere, without privileges
  tcptrace -r incident.pcap                      what both ends did, inferred from a capture of packets
  sudo tcptrace --duration 1m --fail-on illegal  a check for scripts: status 4 if there was one
  sudo tcptrace life                             one line per connection: path, times, why it ended
  sudo tcptrace life --ladder -c 1               both ends of a connection, drawn as in a textbook
  sudo tcptrace stat --duration 10s              how often, how long, how it ended: in sum
  sudo tcptrace stuck                            who keeps what open too long, now
  sudo tcptrace top                              the machine and its sockets, on the terminal
  sudo tcptrace agent                            metrics for Prometheus, until it is stopped
  sudo tcptrace check                            what this kernel and these privileges allow

tcptrace shows every TCP socket of this host changing state, as it happens:
which process owns it, how long it was in each state, and whether the change is
one that the state machine of RFC 9293 knows.`

func newRoot() *cobra.Command {
	root := newTrace()
	root.Use = "tcptrace"
	root.Short = "Trace the TCP state transitions of this host and judge them by RFC 9293"
	root.Long = traceHelp + "\n\nWithout a command it does what 'tcptrace trace' does."
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.CompletionOptions.HiddenDefaultCmd = false

	trace := newTrace()
	trace.Use = "trace"
	trace.Short = "Show every transition as it happens (the default)"
	trace.Long = traceHelp
	root.AddCommand(trace, newLife(), newStat(), newStuck(), newTop(), newAgent(), newMachine(), newCheck(), newVersion())
	return root
}

// version is set by the linker; see the Makefile.
var version = "devel"

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: begun(func(cmd *cobra.Command) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), programName())
			return err
		}),
	}
}

func programName() string { return "tcptrace " + version }
