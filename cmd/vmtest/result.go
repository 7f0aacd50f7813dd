package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// suiteLine comes before the output of a suite.
const suiteLine = "vmtest: tests of "

// result is what came of a machine.
type result struct {
	machine *machine
	took    time.Duration
	output  string
	err     error
}

func (m *machine) run(ctx context.Context) *result {
	r := &result{machine: m}
	for _, f := range []string{m.console, m.output} {
		if err := os.RemoveAll(f); err != nil {
			r.err = err
			return r
		}
	}
	begin := time.Now()
	cmd := exec.CommandContext(ctx, m.command[0], m.command[1:]...)
	complaint, err := cmd.CombinedOutput()
	r.took = time.Since(begin)
	output, readErr := os.ReadFile(m.output)
	r.output = string(output)
	switch {
	case ctx.Err() != nil:
		r.err = fmt.Errorf("ended before its time: %w", ctx.Err())
	case err != nil:
		r.err = fmt.Errorf("the emulator: %w: %s", err, complaint)
	case readErr != nil:
		r.err = readErr
	default:
		r.err = verdict(r.output)
	}
	return r
}

// verdict returns why the tests that wrote this did not pass.
func verdict(output string) error {
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	status, ok := strings.CutPrefix(lines[len(lines)-1], statusLine)
	suites := count(output)
	passed, skipped := 0, 0
	for _, s := range suites {
		passed += s.passed
		skipped += s.skipped
	}
	switch {
	case !ok:
		return errors.New("the guest did not come to its end: look at its console")
	case status != "0":
		return errors.New("the tests failed")
	case passed == 0:
		return errors.New("no test ran")
	case skipped > 0: // a guest has all that they need
		return fmt.Errorf("%d tests were skipped", skipped)
	}
	return nil
}

// counts are of the tests of one package, without those in them.
type counts struct {
	pkg                     string
	passed, failed, skipped int
}

var testLine = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): `)

func count(output string) (list []counts) {
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		if pkg, ok := strings.CutPrefix(line, suiteLine); ok {
			list = append(list, counts{pkg: pkg})
		}
		m := testLine.FindStringSubmatch(line)
		if m == nil || len(list) == 0 {
			continue
		}
		c := &list[len(list)-1]
		switch m[1] {
		case "PASS":
			c.passed++
		case "FAIL":
			c.failed++
		case "SKIP":
			c.skipped++
		}
	}
	return list
}

// text is a line for the kernel, and more if it failed.
func (r *result) text(verbose bool) string {
	var b strings.Builder
	word := "ok"
	if r.err != nil {
		word = "FAIL"
	}
	if r.err != nil || verbose {
		b.WriteString(r.output)
	}
	fmt.Fprintf(&b, "%-4s %-15s %-16s", word, r.machine.kernel.name, r.machine.version)
	for _, c := range count(r.output) {
		fmt.Fprintf(&b, " %s: %d passed, %d failed, %d skipped;", c.pkg, c.passed, c.failed, c.skipped)
	}
	fmt.Fprintf(&b, " %s\n", r.took.Round(time.Second))
	if r.err != nil {
		fmt.Fprintf(&b, "     %v (%s)\n", r.err, r.machine.console)
	}
	return b.String()
}
