// Command bench measures what tcptrace costs, beside the tools that it is to beat: by
// ratios of one run on one machine, in loads that it makes itself, each in a network
// namespace of its own. It runs as root, on a host that has nothing else to do.
//
// Budgets are those of the design. No figure is a test: a budget that is missed is told,
// and ends the program with status 4.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Exit statuses, as tcptrace's.
const (
	exitDone    = 0
	exitFailure = 1
	exitUsage   = 2
	exitMissed  = 4
)

// bench is one run.
type bench struct {
	tcptrace string        // the binary
	folder   string        // for what the tools write
	rounds   int           // of each contender
	length   time.Duration // of the load of a round
	log      *log.Logger   // of progress
	table    *table
}

// measures are all that can be measured, in the order of the table.
var measures = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"kernel", (*bench).kernelTime},
	{"http", (*bench).http},
	{"churn", (*bench).churn},
	{"requests", (*bench).requests},
	{"bulk", (*bench).bulk},
	{"replay", (*bench).replay},
	{"captures", (*bench).captures},
	{"packages", (*bench).packages},
	{"memory", (*bench).memory},
	{"start", (*bench).start},
	{"idle", (*bench).idle},
	{"delay", (*bench).delay},
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	messages := log.New(stderr, "bench: ", 0)
	if len(args) > 0 && args[0] == loadCommand { // this process is a load of another
		if err := runLoad(args[1:], stdout); err != nil {
			messages.Print(err)
			return exitFailure
		}
		return exitDone
	}

	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	b := &bench{log: messages, table: &table{}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("only", strings.Join(names, ","), "measure these `NAMES`")
	flags.StringVar(&b.tcptrace, "tcptrace", "bin/tcptrace", "the `BINARY` to be measured")
	flags.IntVar(&b.rounds, "rounds", 5, "measure each contender `N` times, by turns")
	flags.DurationVar(&b.length, "length", 3*time.Second, "load it for `D` each time")
	file := flags.String("json", "", "also write the table to `FILE`, as JSON Lines")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return exitUsage
	}
	wanted := strings.Split(*only, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			messages.Printf("-only %s: want %s", name, strings.Join(names, ", "))
			return exitUsage
		}
	}
	if flags.NArg() > 0 || b.rounds < 1 || b.length < 100*time.Millisecond {
		messages.Print("want no arguments, at least one round, and 100ms for each: see bench -h")
		return exitUsage
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := b.runAll(ctx, wanted)
	if err == nil || len(b.table.rows) > 0 {
		err = errors.Join(err, b.show(stdout, *file))
	}
	switch {
	case err != nil:
		messages.Print(err)
		return exitFailure
	case b.table.missed() > 0:
		return exitMissed
	}
	return exitDone
}

func (b *bench) runAll(ctx context.Context, wanted []string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("measuring takes root: sudo make bench")
	}
	if _, err := os.Stat(b.tcptrace); err != nil {
		return fmt.Errorf("%w: make build makes it", err)
	}
	if err := mountTracefs(); err != nil {
		return err
	}
	if b.folder, err = os.MkdirTemp("", "tcptrace-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.folder)) }()
	for _, m := range measures {
		if !slices.Contains(wanted, m.name) {
			continue
		}
		b.log.Printf("measuring %s", m.name)
		if err := m.run(b, ctx); err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
	}
	return nil
}

// show writes the table, to a file too if it has a name.
func (b *bench) show(w io.Writer, name string) error {
	if err := b.table.text(w); err != nil || name == "" {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(b.table.json(f), f.Close())
}
