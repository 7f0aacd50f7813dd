package main

import (
	"errors"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"tcptrace/events"
	"tcptrace/fsm/lifecycle"
)

// What is read again is the same: a recording, a capture, and both together.
func TestRewind(t *testing.T) {
	const recording, capture = "testdata/recordings/lifecycles.tct", "testdata/captures/findings.pcap"
	for _, names := range [][2]string{{recording}, {capture}, {recording, capture}} {
		f := viewFlags{read: names[0], readToo: names[1], maxConnections: lifecycle.DefaultMaxConnections}
		s, err := f.openFiles(nil, &filter{}, slog.New(slog.DiscardHandler))
		check(t, err)
		first := readAll(t, s)
		check(t, s.(recorded).rewind())
		if again := readAll(t, s); len(first) == 0 || !reflect.DeepEqual(first, again) {
			t.Errorf("%v: %d records, then %d others", names, len(first), len(again))
		}
		check(t, s.Close())
	}
}

func readAll(t *testing.T, s source) (list []events.Record) {
	t.Helper()
	for {
		var r events.Record
		switch err := s.Next(&r); {
		case errors.Is(err, io.EOF):
			return list
		case err != nil:
			t.Fatal(err)
		}
		list = append(list, r)
	}
}

// A pipe cannot be read again.
func TestRewindPipe(t *testing.T) {
	in, err := openInput("-", io.MultiReader(strings.NewReader("x")))
	check(t, err)
	if err := in.rewind(); err == nil || !strings.Contains(err.Error(), "standard input") {
		t.Errorf("a pipe is read again: %v", err)
	}
}
