package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/events/eventstest"
)

// views are all that show a recording.
var views = [][]string{
	{"-o", "text", "--wide"},
	{"-o", "json"},
	{"life", "-o", "text", "--wide", "--open", "--stuck"},
	{"life", "-o", "json", "--open"},
	{"stat", "-o", "text", "--by", "comm", "--ports", "--hist", "CLOSE_WAIT"},
	{"stat", "-o", "json", "--by", "container", "--interval", "1h"},
	{"stuck", "-o", "text", "--each"},
	{"stuck", "-o", "json"},
	{"machine"},
}

// printable reports whether nothing in a text steers a terminal.
func printable(text []byte) bool {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 || r != '\n' && !unicode.IsPrint(r) {
			return false
		}
		text = text[size:]
	}
	return true
}

// show shows a recording in a view, which must end in good order and write nothing that
// steers a terminal.
func show(t *testing.T, view []string, recording []byte) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(append(view[:len(view):len(view)], "-r", "-", "--no-color"), bytes.NewReader(recording), &stdout, &stderr)
	if status != exitDone && status != exitFailure {
		t.Errorf("%v: status %d: %s", view, status, &stderr)
	}
	for what, text := range map[string][]byte{"standard output": stdout.Bytes(), "standard error": stderr.Bytes()} {
		if !printable(text) {
			t.Errorf("%v: %s steers the terminal: %q", view, what, text)
		}
	}
}

// evil steers a terminal, ends lines, is no UTF-8, and turns what follows round.
const evil = "\x1b]0;x\x07\x1b[2J\r\n\xff\xe2\x80\xae\u202e\\\"<&>\u2028 ok"

// TestHostileRecording: whoever made a recording has no way into the terminal of who
// looks at it.
func TestHostileRecording(t *testing.T) {
	s := eventstest.New(eventstest.Start)
	s.HostileNames()
	var records []events.Record
	for i, e := range s.Events() {
		e.Owner.Comm = events.MakeComm(evil)
		e.Cgroup = uint64(1 + i%3)
		records = append(records, events.Record{Kind: events.KindTransition, Event: e})
	}
	found := s.Events()[0]
	found.Source, found.From, found.Cgroup = events.SourceSnapshot, found.To, 1
	found.Owner = events.Owner{PID: 7, Comm: events.MakeComm(evil), Source: events.OwnerSnapshot}
	found.Entered = 1
	records = append([]events.Record{
		{Kind: events.KindName, Name: events.Name{Kind: events.NameCgroup, ID: 1, Text: "/lxc.payload." + evil}},
		{Kind: events.KindName, Name: events.Name{Kind: events.NameCgroup, ID: 2, Text: "/" + evil + ".service"}},
		{Kind: events.KindName, Name: events.Name{Kind: events.NameExe, ID: 7, Text: "/" + evil}},
		{Kind: events.KindTransition, Event: found},
		{Kind: events.KindWalked, Walked: events.Walked{Start: 1, Time: eventstest.Start, Unseen: evil}},
		{Kind: events.KindLoss, Loss: events.Loss{Time: eventstest.Start, Reason: 200, Count: ^uint64(0)}},
		{Kind: events.KindClock, Clock: events.ClockStep{Time: eventstest.Start, Offset: -1 << 63}},
	}, records...)
	header := eventstest.Header()
	header.Kernel, header.BootID, header.Program, header.Unmeasured = evil, evil, evil, []string{evil, "TIME_WAIT"}
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, header)
	check(t, err)
	for i := range records {
		check(t, w.Write(&records[i]))
	}
	check(t, w.Close(^uint64(0)))
	for _, view := range views {
		show(t, view, b.Bytes())
	}

	var stdout, stderr bytes.Buffer
	if status := run([]string{"-v", "-r", "-"}, bytes.NewReader(b.Bytes()), &stdout, &stderr); status != exitDone || !printable(stderr.Bytes()) {
		t.Errorf("-v: status %d: %q", status, &stderr)
	}
	if !strings.Contains(stderr.String(), "not looked at: ") || !strings.Contains(stderr.String(), "not measured: ") {
		t.Errorf("of the evil nothing was told: %q", &stderr)
	}
}

// FuzzReplay shows what may be a recording, or the records of one, in one of the views.
func FuzzReplay(f *testing.F) {
	names, err := filepath.Glob("testdata/recordings/*.tct")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		whole, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for view := range views {
			f.Add(uint8(view), whole, false)
		}
		r, err := capture.NewReader(bytes.NewReader(whole))
		if err != nil {
			f.Fatal(err)
		}
		var raw []byte
		var rec events.Record
		for r.Read(&rec) == nil {
			if rec.Kind == events.KindTransition && len(raw) < 1<<10 {
				raw = rec.Event.AppendRecord(raw)
			}
		}
		r.Close()
		for view := range views {
			f.Add(uint8(view), raw, true)
		}
	}
	f.Fuzz(func(t *testing.T, view uint8, b []byte, records bool) {
		if records { // that are valid one by one, in any order
			var b2 bytes.Buffer
			w, err := capture.NewWriter(&b2, eventstest.Header())
			check(t, err)
			for len(b) >= events.RecordSize {
				rec := events.Record{Kind: events.KindTransition}
				if rec.Event.Decode(b[:events.RecordSize]) == nil {
					check(t, w.Write(&rec))
				}
				b = b[events.RecordSize:]
			}
			check(t, w.Close(eventstest.Start))
			b = b2.Bytes()
		}
		show(t, views[int(view)%len(views)], b)
	})
}

// FuzzConfig reads anything as the configuration file of the agent.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("listen: 127.0.0.1:9917\nby: [comm, lport]\nlimit: CLOSE_WAIT=30s,ESTABLISHED=24h\nlocal-port: 80,443,5432\n"))
	f.Add([]byte("# nothing\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("--- 1\n--- 2\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := parseConfig("file", text, newAgent().Flags(), func() error { return nil }); err != nil && !strings.HasPrefix(err.Error(), "file") {
			t.Errorf("the error does not name the file: %v", err)
		}
	})
}
