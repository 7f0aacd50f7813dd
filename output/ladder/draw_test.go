package ladder_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/ladder"
	"tcptrace/output/outputtest"
)

func options() *ladder.Options {
	return &ladder.Options{Clock: events.Clock{Offset: eventstest.Header().ClockOffset}}
}

// draw returns what a drawer makes of the ladders.
func draw(t *testing.T, makeDrawer func(io.Writer) ladder.Drawer, drawn ...*ladder.Ladder) string {
	t.Helper()
	var out bytes.Buffer
	d := makeDrawer(&out)
	for _, l := range drawn {
		check(t, d.Draw(l))
	}
	check(t, d.Flush())
	check(t, d.Close())
	return out.String()
}

func text(o *ladder.Options) func(io.Writer) ladder.Drawer {
	return func(w io.Writer) ladder.Drawer { return ladder.NewText(w, o) }
}

func svg(o *ladder.Options) func(io.Writer) ladder.Drawer {
	return func(w io.Writer) ladder.Drawer { return ladder.NewSVG(w, o) }
}

// golden compares with a file of testdata. UPDATE=1 writes it anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	name = "testdata/" + name
	if os.Getenv("UPDATE") != "" {
		check(t, os.WriteFile(name, []byte(got), 0o644))
	}
	want, err := os.ReadFile(name)
	check(t, err)
	if got != string(want) {
		t.Errorf("%s: got\n%s\nlook at it and run UPDATE=1 go test", name, got)
	}
}

// seen is a connection with segments as a capture has them, some of which were seen
// at one end only.
func seen(t *testing.T) *ladder.Ladder {
	t.Helper()
	l := only(t, script(func(s *eventstest.Script) { s.TimeWait(fsm.EndExpired, 60*time.Second) }))
	start := l.Ends[ladder.Left].Start
	at := func(ms float64) uint64 {
		if ms < 0 {
			return 0
		}
		return start + uint64(ms*1e6)
	}
	l.Arrows = nil
	for _, a := range []struct {
		from           ladder.Side
		label          string
		sent, received float64
	}{
		{ladder.Left, "SYN seq 0", 0.01, 0.02},
		{ladder.Right, "SYN,ACK seq 0 ack 1", 5, 9.99},
		{ladder.Left, "ACK ack 1", 10.01, 20},
		{ladder.Left, "PSH,ACK seq 1 ack 1 len 78", 11, 21},
		{ladder.Right, "PSH,ACK seq 1 ack 79 len 1024", 22, -1}, // lost
		{ladder.Right, "PSH,ACK seq 1 ack 79 len 1024", 60, 70},
		{ladder.Left, "FIN,ACK seq 79 ack 1025", -1, 130},
	} {
		l.Arrows = append(l.Arrows, ladder.Arrow{
			From: a.from, Label: a.label, Sent: at(a.sent), Received: at(a.received),
			SentBy: ladder.NoStep, ReceivedBy: ladder.NoStep,
		})
	}
	return l
}

func TestDrawn(t *testing.T) {
	l := seen(t)
	golden(t, "seen.txt", draw(t, text(options()), l))
	ascii := options()
	ascii.ASCII = true
	golden(t, "seen-ascii.txt", draw(t, text(ascii), l))
	golden(t, "seen.svg", draw(t, svg(options()), l))
}

// Whatever happens, a drawing has no odd characters, fits, and is XML.
func TestScenarios(t *testing.T) {
	ascii := options()
	ascii.ASCII = true
	for _, scenario := range eventstest.Scenarios() {
		drawn, _ := laddersOf(t, scenario.Events, 0)
		for line := range strings.Lines(draw(t, text(options()), drawn...)) {
			line = strings.TrimSuffix(line, "\n")
			sentence := strings.Contains(line, ": ")
			if n := utf8.RuneCountInString(line); n > 80 && !sentence {
				t.Errorf("%s: %d columns: %s", scenario.Name, n, line)
			}
			if strings.ContainsAny(line, "\x1b\a\t\u202e") || !utf8.ValidString(line) {
				t.Errorf("%s: not escaped: %q", scenario.Name, line)
			}
		}
		for _, r := range draw(t, text(ascii), drawn...) {
			if r >= utf8.RuneSelf {
				t.Errorf("%s: %q is not ASCII", scenario.Name, r)
			}
		}
		picture := draw(t, svg(options()), drawn...)
		if strings.ContainsAny(picture, "\x1b\a\t\u202e") || strings.Contains(picture, "<b>") {
			t.Errorf("%s: not escaped", scenario.Name)
		}
		for d := xml.NewDecoder(strings.NewReader(picture)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", scenario.Name, err)
			}
		}
	}
}

// A picture is bounded, and says what it leaves out.
func TestPictureBounded(t *testing.T) {
	l := only(t, script((*eventstest.Script).Refused))
	many := make([]*ladder.Ladder, ladder.MaxDrawings+3)
	for i := range many {
		many[i] = l
	}
	picture := draw(t, svg(nil), many...)
	if n := strings.Count(picture, `<g class="ladder">`); n != ladder.MaxDrawings {
		t.Errorf("%d drawings, want %d", n, ladder.MaxDrawings)
	}
	if !strings.Contains(picture, "and 3 more, which are not drawn") {
		t.Error("it does not say that 3 are left out")
	}
	if !strings.Contains(draw(t, svg(nil)), "no connection ended") {
		t.Error("an empty picture says nothing")
	}
}

// A drawer that cannot write says so.
func TestWriteFails(t *testing.T) {
	l := only(t, script((*eventstest.Script).Refused))
	for _, d := range []ladder.Drawer{ladder.NewText(broken{}, nil), ladder.NewSVG(broken{}, nil)} {
		if err := errors.Join(d.Draw(l), d.Flush(), d.Close()); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%T: %v", d, err)
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestSinks(t *testing.T) {
	for name, open := range map[string]func(io.Writer) ladder.Drawer{"text": text(options()), "picture": svg(options())} {
		t.Run(name, func(t *testing.T) {
			outputtest.TestSink(t, func(w io.Writer) output.Sink { return open(w) })
		})
	}
}

// What is known of an end may be anything: it can be drawn, by itself and with any
// other, and is escaped.
func TestAnyEnds(t *testing.T) {
	lives := []*lifecycle.Lifecycle{outputtest.Lifecycle(), outputtest.UnknownLifecycle(), outputtest.ExtremeLifecycle(), {}, nil}
	for _, a := range lives {
		for _, b := range lives {
			if a == nil && b == nil {
				continue
			}
			l := ladder.New(a, b)
			for _, makeDrawer := range []func(io.Writer) ladder.Drawer{text(options()), svg(options())} {
				if drawn := draw(t, makeDrawer, l); strings.ContainsAny(drawn, "\x1b\a\t\u202e") || !utf8.ValidString(drawn) {
					t.Errorf("not escaped: %q", drawn)
				}
			}
		}
	}
}

// Whatever a recording says happened, it can be drawn.
func FuzzDraw(f *testing.F) {
	for _, s := range eventstest.Scenarios() {
		f.Add(eventstest.Records(s.Events))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var list []events.Event
		for e := (events.Event{}); e.Decode(data) == nil; data = data[size(&e):] {
			list = append(list, e)
		}
		if list == nil {
			return
		}
		drawn, _ := laddersOf(t, list, 3)
		draw(t, text(options()), drawn...)
		for d := xml.NewDecoder(strings.NewReader(draw(t, svg(nil), drawn...))); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func size(e *events.Event) int {
	if e.Source == events.SourceSnapshot {
		return events.SnapshotSize
	}
	return events.RecordSize
}

func BenchmarkDraw(b *testing.B) {
	s := eventstest.New(eventstest.Start)
	s.Churn(1)
	drawn, _ := laddersOf(b, s.Events(), 0)
	left, right := drawn[0].Ends[ladder.Left].Lifecycle, drawn[0].Ends[ladder.Right].Lifecycle
	d := ladder.NewText(io.Discard, nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Draw(ladder.New(&left, &right)); err != nil {
			b.Fatal(err)
		}
	}
}
