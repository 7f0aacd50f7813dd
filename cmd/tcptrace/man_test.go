package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// The manual page names all commands and flags, and no others.
func TestManual(t *testing.T) {
	source, err := os.ReadFile("../../docs/tcptrace.8")
	check(t, err)
	page := strings.ReplaceAll(string(source), `\-`, "-")
	_, list, ok := strings.Cut(page, "\n.SH COMMANDS\n")
	list, _, end := strings.Cut(list, "\n.SH ")
	if !ok || !end {
		t.Fatal("no list of commands")
	}
	find := func(text, pattern string) []string {
		found := make(map[string]bool)
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found[m[1]] = true
		}
		return slices.Sorted(maps.Keys(found))
	}

	root := newRoot()
	root.InitDefaultCompletionCmd("trace") // cobra adds these when it runs
	var commands []string
	flags := map[string]bool{"help": true}
	shorthands := make(map[string]bool)
	for _, cmd := range root.Commands() {
		commands = append(commands, cmd.Name())
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				flags[f.Name] = true
				if f.Shorthand != "" {
					shorthands[f.Shorthand] = true
				}
			}
		})
	}
	slices.Sort(commands)
	for _, c := range []struct {
		what        string
		named, want []string
	}{
		{"commands", find(list, `(?m)^\.TP\n\.B (\w+)$`), commands},
		{"flags", find(page, `--([a-z0-9.-]*[a-z0-9])`), slices.Sorted(maps.Keys(flags))},
		{"short flags", find(page, `[\s"(]-([a-zA-Z0-9])\b`), slices.Sorted(maps.Keys(shorthands))},
	} {
		if !slices.Equal(c.named, c.want) {
			t.Errorf("%s named: %v\nthere are: %v", c.what, c.named, c.want)
		}
	}
}
