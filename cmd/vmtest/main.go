// Command vmtest runs the kernel tests on kernels of Debian, each in a virtual machine of
// its own: see docs/kernels.md. Started as the first process of such a machine, it is
// what runs the tests there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() == 1 {
		beGuest()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("vmtest", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: vmtest [flags] [kernel ...]\nkernels: %s\n", strings.Join(names(), " "))
		flags.PrintDefaults()
	}
	dir := flags.String("dir", "bin/vm", "where what was downloaded is kept")
	only := flags.String("run", "", "run only the tests that match this regular expression, as go test -run")
	verbose := flags.Bool("v", false, "show all that the tests write, also where they pass")
	timeout := flags.Duration("timeout", 30*time.Minute, "of one virtual machine")
	if err := flags.Parse(args); err != nil {
		return flag.ErrHelp
	}
	kernels, err := choose(flags.Args())
	if err != nil {
		return err
	}

	b, err := newBuilder(*dir)
	if err != nil {
		return err
	}
	machines := make([]*machine, len(kernels))
	for i, k := range kernels {
		if machines[i], err = b.machine(ctx, k, suites(k, *only)); err != nil {
			return fmt.Errorf("kernel %s: %w", k.name, err)
		}
	}

	results := make([]*result, len(machines))
	slots := make(chan struct{}, runtime.NumCPU()) // a machine takes one
	var wait sync.WaitGroup
	var lines sync.Mutex
	for i, m := range machines {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, *timeout)
			defer cancel()
			results[i] = m.run(ctx)
			lines.Lock()
			defer lines.Unlock()
			fmt.Print(results[i].text(*verbose))
		})
	}
	wait.Wait()
	if slices.ContainsFunc(results, func(r *result) bool { return r.err != nil }) {
		return errors.New("tests failed")
	}
	return nil
}
