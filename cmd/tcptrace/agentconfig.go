package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// maxConfig bounds the size of a configuration file, in bytes.
const maxConfig = 1 << 20

// readConfig sets the flags that are not given on the command line by a file, YAML with
// their long names. After each one check says whether all is well; an error names the
// line.
func readConfig(name string, flags *pflag.FlagSet, check func() error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return err
	}
	if len(text) > maxConfig {
		return fmt.Errorf("%s is larger than %d bytes", name, maxConfig)
	}
	return parseConfig(name, text, flags, check)
}

func parseConfig(name string, text []byte, flags *pflag.FlagSet, check func() error) error {
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF): // it is empty
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	}
	var more yaml.Node
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s:%d: want one document", name, more.Line)
	}
	wrong := func(n *yaml.Node, format string, args ...any) error {
		return fmt.Errorf("%s:%d: "+format, append([]any{name, n.Line}, args...)...)
	}
	top := document.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" { // comments only
		return nil
	}
	if top.Kind != yaml.MappingNode {
		return wrong(top, "want lines such as listen: 127.0.0.1:9917, with the long names of the flags")
	}
	given := map[string]bool{} // on the command line, which wins
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	lines := map[string]int{}
	for i := 0; i < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		flag := flags.Lookup(key.Value)
		switch {
		case flag == nil || key.Value == "config" || key.Value == "help":
			return wrong(key, "no such setting: %q: want the long name of a flag, see tcptrace agent --help", key.Value)
		case lines[key.Value] != 0:
			return wrong(key, "%s is set before, in line %d", key.Value, lines[key.Value])
		}
		lines[key.Value] = key.Line
		text, err := configValue(value)
		if err != nil {
			return wrong(value, "%s: %w", key.Value, err)
		}
		if given[key.Value] {
			continue
		}
		if err := flags.Set(key.Value, text); err != nil {
			return wrong(value, "%w", err)
		}
		if err := check(); err != nil {
			return wrong(value, "%w", err)
		}
	}
	return nil
}

// configValue returns the text that the flag would have.
func configValue(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" || n.Value == "" {
			return "", errors.New("its value is empty: give one or leave it out")
		}
		return n.Value, nil
	case yaml.SequenceNode:
		parts := make([]string, len(n.Content))
		for i, part := range n.Content {
			if part.Kind != yaml.ScalarNode {
				return "", errors.New("want a list of values")
			}
			parts[i] = part.Value
		}
		if len(parts) == 0 {
			return "", errors.New("its list is empty: give values or leave it out")
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("want a value or a list of values")
}
