package output_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/outputtest"
)

// clock puts the events of outputtest into the year 2026.
var clock = events.Clock{Offset: time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC).UnixNano()}

func TestSinks(t *testing.T) {
	for name, open := range map[string]func(io.Writer) output.Sink{
		"text": func(w io.Writer) output.Sink { return output.NewText(w, clock, nil) },
		"text wide": func(w io.Writer) output.Sink {
			return output.NewText(w, clock, &output.TextOptions{Wide: true, Color: true})
		},
		"text of lifecycles": func(w io.Writer) output.Sink {
			return output.NewText(w, clock, &output.TextOptions{Table: output.TableLifecycles})
		},
		"text of lifecycles wide": func(w io.Writer) output.Sink {
			return output.NewText(w, clock, &output.TextOptions{Table: output.TableLifecycles, Wide: true, Color: true})
		},
		"text of what is stuck": func(w io.Writer) output.Sink {
			return output.NewText(w, clock, &output.TextOptions{Table: output.TableStuck})
		},
		"text of what becomes stuck, wide": func(w io.Writer) output.Sink {
			return output.NewText(w, clock, &output.TextOptions{Table: output.TableStuckChanges, Wide: true, Color: true})
		},
		"report of what is stuck": func(w io.Writer) output.Sink {
			return output.NewText(w, clock, &output.TextOptions{Table: output.TableStuckReport})
		},
		"json":     func(w io.Writer) output.Sink { return output.NewJSON(w, clock) },
		"messages": func(w io.Writer) output.Sink { return output.NewMessages(w) },
		"discard":  func(io.Writer) output.Sink { return output.Discard{} },
		"multi": func(w io.Writer) output.Sink {
			return output.Multi{output.NewText(w, clock, nil), output.NewMessages(w)}
		},
	} {
		t.Run(name, func(t *testing.T) { outputtest.TestSink(t, open) })
	}
}

func rows(t *testing.T, open func(io.Writer) output.Sink, transitions ...*lifecycle.Transition) []string {
	t.Helper()
	var b bytes.Buffer
	s := open(&b)
	for _, tr := range transitions {
		if err := s.Transition(tr); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// lifeRows is rows for lifecycles.
func lifeRows(t *testing.T, open func(io.Writer) output.Sink, list ...*lifecycle.Lifecycle) []string {
	t.Helper()
	var b bytes.Buffer
	s := open(&b)
	for _, c := range list {
		if err := s.Lifecycle(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

func TestText(t *testing.T) {
	got := rows(t, func(w io.Writer) output.Sink { return output.NewText(w, clock, nil) },
		outputtest.Transition(), outputtest.Unknown(), outputtest.Extreme())
	want := []string{
		"TIME             PID COMM         LADDR           LPORT RADDR           RPORT FROM -> TO                        MS",
		"20:00:05.000   22384 curl         10.0.0.1        63446 10.0.0.2           80 ESTABLISHED -> FIN_WAIT_1    176.042",
		"20:00:05.000       - -            -                   - -                   - CLOSED -> SYN_SENT                 -",
	}
	for i, w := range want {
		if got[i] != w {
			t.Errorf("row %d:\n%s\nwant:\n%s", i, got[i], w)
		}
	}
	// Pushed aside, but whole and on one row.
	for _, part := range []string{
		`4294967295 a\x0a"\x1b]0 `, "2001:db8:1111:2222:3333:4444:5555:6666 65535", "STATE_13 -> STATE_255",
		"ILLEGAL: no edge leads from STATE_13 to STATE_255: STATE_13 is no TCP state",
	} {
		if !strings.Contains(got[3], part) {
			t.Errorf("row %q does not hold %q", got[3], part)
		}
	}
	if len(got) != 4 {
		t.Errorf("%d rows, want 4", len(got))
	}
}

func TestTextWide(t *testing.T) {
	got := rows(t, func(w io.Writer) output.Sink { return output.NewText(w, clock, &output.TextOptions{Wide: true}) },
		outputtest.Transition())
	fields := strings.Fields(got[1])
	want := strings.Fields("2026-11-23T20:00:05.000000 22384 curl 10.0.0.1 63446 10.0.0.2 80 ESTABLISHED -> FIN_WAIT_1 176.042 1f 4026531840 legal RFC 9293 3.10.4 CLOSE")
	if strings.Join(fields, " ") != strings.Join(want, " ") {
		t.Errorf("got  %v\nwant %v", fields, want)
	}
}

func TestTextColor(t *testing.T) {
	got := rows(t, func(w io.Writer) output.Sink { return output.NewText(w, clock, &output.TextOptions{Color: true}) },
		outputtest.Extreme())
	if !strings.HasSuffix(got[1], "\x1b[0m") || !strings.Contains(got[1], "\x1b[1;31mILLEGAL") {
		t.Errorf("not marked as illegal and reset: %q", got[1])
	}
}

// A finding of Linux's own is told in narrow text only where it is an end.
func TestTextTellsHowAMinisockEnds(t *testing.T) {
	tr := outputtest.Transition()
	tr.From, tr.To, tr.Source, tr.End = fsm.TimeWait, fsm.Closed, events.SourceTimeWait, fsm.EndReused
	tr.Flags = events.FlagEstimated
	tr.Judgement = fsm.Check(tr.From, tr.To, tr.Evidence())
	got := rows(t, func(w io.Writer) output.Sink { return output.NewText(w, clock, nil) }, tr)
	want := "20:00:05.000   22384 curl         10.0.0.1        63446 10.0.0.2           80 TIME_WAIT -> CLOSED         ~176.042  linux: a new connection took its ports"
	if got[1] != want {
		t.Errorf("got\n%s\nwant\n%s", got[1], want)
	}
	tr.From, tr.To, tr.Source, tr.End = fsm.FinWait2, fsm.FinWait2, events.SourceTracepoint, fsm.EndNone
	tr.Judgement = fsm.Check(tr.From, tr.To, tr.Evidence())
	if got = rows(t, func(w io.Writer) output.Sink { return output.NewText(w, clock, nil) }, tr); strings.Contains(got[1], "linux") {
		t.Errorf("got %s, want no verdict", got[1])
	}
}

func TestTextOfLifecycles(t *testing.T) {
	open := func(o *output.TextOptions) func(io.Writer) output.Sink {
		o.Table = output.TableLifecycles
		return func(w io.Writer) output.Sink { return output.NewText(w, clock, o) }
	}
	for _, c := range []struct {
		name    string
		options output.TextOptions
		want    []string
	}{
		{"narrow", output.TextOptions{}, []string{
			"TIME             PID COMM         LADDR           LPORT RADDR           RPORT     TX     RX         MS PATH            CLOSE",
			"20:01:03.000   22384 curl         10.0.0.1        63446 10.0.0.2           80     78    188  62000.000 SS·E·F1·F2·TW   finished, local first, TIME_WAIT expired after 60.0s",
			"20:00:05.000       - -            -                   - -                   -      -      -          - SS·SR…          open",
		}},
		{"wide", output.TextOptions{Wide: true}, []string{
			"TIME                           PID COMM             LADDR                                   LPORT RADDR                                   RPORT     TX     RX         MS SOCKET       NETNS      ROLE      SHAKE_MS   RTT_MS  RETR PATH                                              CLOSE",
			"2026-11-23T20:01:03.000000   22384 curl             10.0.0.1                                63446 10.0.0.2                                   80     78    188  62000.000 1f           4026531840 active      12.345    0.042     1 SS 12.3ms·E 988ms·F1 40.0µs·F2 1.00s·TW 60.0s     finished, local first, TIME_WAIT expired after 60.0s",
			"2026-11-23T20:00:05.000000       - -                -                                           - -                                           -      -      -          - -            -          -                -        -     - SS -·SR…                                          open",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := lifeRows(t, open(&c.options), outputtest.Lifecycle(), outputtest.UnknownLifecycle())
			for i, w := range c.want {
				if got[i] != w {
					t.Errorf("row %d:\n%s\nwant:\n%s", i, got[i], w)
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("%d rows, want %d", len(got), len(c.want))
			}
		})
	}
}

// Whatever the worst connection holds, it is one row of printable text.
func TestTextOfExtremeLifecycle(t *testing.T) {
	for _, o := range []output.TextOptions{{Table: output.TableLifecycles}, {Table: output.TableLifecycles, Wide: true}} {
		got := lifeRows(t, func(w io.Writer) output.Sink { return output.NewText(w, clock, &o) }, outputtest.ExtremeLifecycle())
		if len(got) != 2 {
			t.Fatalf("%d rows, want a heading and one", len(got))
		}
		for _, r := range got[1] {
			if !unicode.IsPrint(r) {
				t.Errorf("%q in the row", r)
			}
		}
		for _, part := range []string{
			`4294967295 a\x0a"\x1b]0`, "16E    16E", "STATE_255", "STATE_100", "TIME_WAIT END_255 after ~9223372037s",
			"  ILLEGAL: no edge leads from STATE_255 to STATE_100: STATE_255 is no TCP state",
		} {
			if !strings.Contains(got[1], part) {
				t.Errorf("row %q does not hold %q", got[1], part)
			}
		}
	}
}

// changed returns a lifecycle that was changed.
func changed(change func(*lifecycle.Lifecycle)) *lifecycle.Lifecycle {
	c := outputtest.Lifecycle()
	change(c)
	return c
}

// openLife returns a connection that is in the state of its last step, of a
// minisock or not, ms after it came there.
func openLife(ms uint64, flags events.Flags, states ...fsm.State) *lifecycle.Lifecycle {
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	at := uint64(1e9)
	for i := range states[1:] {
		e := events.Event{Time: at + 2e6, Entered: at, Cookie: 1, Seq: uint32(i + 1), From: states[i], To: states[i+1]}
		if i == 0 {
			e.Entered = 0
		}
		if i == len(states)-2 {
			e.Flags = flags
		}
		at = e.Time
		tr.Observe(&e, &out)
	}
	var c lifecycle.Lifecycle
	out.Life.Lifecycle(at+ms*1e6, &c)
	return &c
}

// Columns are where their headings are, whatever takes more bytes than columns.
func TestLifecycleColumns(t *testing.T) {
	for _, c := range []struct {
		name string
		life *lifecycle.Lifecycle
		wide bool
		want map[string]string // by heading
	}{
		{"closed", outputtest.Lifecycle(), false, map[string]string{
			"TX": "78", "RX": "188", "MS": "62000.000", "PATH": "SS·E·F1·F2·TW", "CLOSE": "finished, local first, TIME_WAIT expired after 60.0s",
		}},
		{"open", openLife(5, 0, fsm.Closed, fsm.SynSent, fsm.Established), false, map[string]string{
			"MS": "≥7.000", "PATH": "SS·E…", "CLOSE": "open",
		}},
		{"closing", openLife(5, 0, fsm.Closed, fsm.SynSent, fsm.Established, fsm.CloseWait), false, map[string]string{
			"MS": "≥9.000", "PATH": "SS·E·CW…", "CLOSE": "closing, remote first",
		}},
		{"in TIME_WAIT", openLife(5, events.FlagMinisock, fsm.Closed, fsm.SynSent, fsm.Established, fsm.FinWait1, fsm.FinWait2, fsm.TimeWait), false, map[string]string{
			"MS": "≥13.000", "PATH": "SS·E·F1·F2·TW…", "CLOSE": "finished, local first",
		}},
		{"in TIME_WAIT, wide", openLife(60_000, events.FlagMinisock, fsm.Closed, fsm.SynSent, fsm.Established, fsm.FinWait1, fsm.FinWait2, fsm.TimeWait), true, map[string]string{
			"MS": "≥60008.000", "SOCKET": "1", "ROLE": "active", "SHAKE_MS": "2.000", "RTT_MS": "-", "RETR": "0",
			"PATH": "SS 2.00ms·E 2.00ms·F1 2.00ms·F2 2.00ms·TW ≥60.0s…", "CLOSE": "finished, local first",
		}},
		{"TIME_WAIT has only begun", openLife(0, events.FlagMinisock, fsm.Closed, fsm.SynSent, fsm.Established, fsm.FinWait1, fsm.FinWait2, fsm.TimeWait), true, map[string]string{
			"PATH": "SS 2.00ms·E 2.00ms·F1 2.00ms·F2 2.00ms·TW…",
		}},
		{"stays, nobody knows how long", openLife(5, 0, fsm.FinWait1, fsm.FinWait1), true, map[string]string{
			"MS": "-", "PATH": "F1 -…", "CLOSE": "closing, local first",
		}},
		{"estimated", changed(func(c *lifecycle.Lifecycle) { c.Estimated = true }), true, map[string]string{
			"PATH": "SS 12.3ms·E 988ms·F1 40.0µs·F2 1.00s·TW ~60.0s", "CLOSE": "finished, local first, TIME_WAIT expired after ~60.0s",
		}},
		{"short units", changed(func(c *lifecycle.Lifecycle) { c.BytesSent, c.BytesReceived = 1023, 1024 }), false, map[string]string{
			"TX": "1023", "RX": "1.0K",
		}},
		{"larger", changed(func(c *lifecycle.Lifecycle) { c.BytesSent, c.BytesReceived = 10<<10-1, 999<<20 }), false, map[string]string{
			"TX": "10K", "RX": "999M",
		}},
		{"largest", changed(func(c *lifecycle.Lifecycle) { c.BytesSent, c.BytesReceived = 1<<20-1, ^uint64(0) }), false, map[string]string{
			"TX": "1.0M", "RX": "16E",
		}},
		{"no counters", changed(func(c *lifecycle.Lifecycle) { c.HasCounters, c.HasHandshake, c.Role = false, false, 0 }), true, map[string]string{
			"TX": "-", "RX": "-", "RETR": "-", "SHAKE_MS": "-", "ROLE": "-",
		}},
		{"reset", changed(func(c *lifecycle.Lifecycle) { c.Cause, c.TimeWaitEnd = fsm.CauseResetReceived, fsm.EndNone }), false, map[string]string{
			"CLOSE": "reset received",
		}},
		{"TIME_WAIT answered a reset", changed(func(c *lifecycle.Lifecycle) { c.TimeWaitEnd = fsm.EndResetSent }), false, map[string]string{
			"CLOSE": "finished, local first, TIME_WAIT reset after 60.0s",
		}},
		{"who was first is not known", changed(func(c *lifecycle.Lifecycle) { c.First, c.HasTimeWait = lifecycle.FirstUnknown, false }), false, map[string]string{
			"CLOSE": "finished",
		}},
		{"gap", changed(func(c *lifecycle.Lifecycle) { c.Verdict, c.HasTimeWait = fsm.Gap, false }), false, map[string]string{
			"CLOSE": "finished, local first  gap: records are missing",
		}},
		{"violations", changed(func(c *lifecycle.Lifecycle) {
			c.HasTimeWait = false
			c.Violations = []lifecycle.Violation{{Reason: "one"}, {Reason: "another"}}
		}), false, map[string]string{"CLOSE": "finished, local first  ILLEGAL: one  ILLEGAL: another"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := lifeRows(t, func(w io.Writer) output.Sink {
				return output.NewText(w, clock, &output.TextOptions{Table: output.TableLifecycles, Wide: c.wide})
			}, c.life)
			heading, row := []rune(got[0]), []rune(got[1])
			for name, want := range c.want {
				if cell := cellOf(string(heading), row, name); cell != want {
					t.Errorf("%s is %q, want %q:\n%s\n%s", name, cell, want, got[0], got[1])
				}
			}
		})
	}
}

// cellOf returns what stands in the row under a heading, which ends with it or
// begins with it.
func cellOf(heading string, row []rune, name string) string {
	right := map[string]int{"TX": 6, "RX": 6, "MS": 10, "SHAKE_MS": 10, "RTT_MS": 8, "RETR": 5}
	left := map[string]int{"SOCKET": 12, "ROLE": 7, "PATH": 0, "CLOSE": 0}
	at := strings.Index(heading, " "+name+" ") + 1
	if name == "CLOSE" {
		at = strings.Index(heading, name)
		return string(row[at:])
	}
	if width, ok := right[name]; ok {
		end := at + len(name)
		return strings.TrimLeft(string(row[end-width:end]), " ")
	}
	width := left[name]
	if name == "PATH" {
		width = strings.Index(heading, "CLOSE") - at
	}
	return strings.TrimRight(string(row[at:at+width]), " ")
}

func TestTextColorOfLifecycles(t *testing.T) {
	o := output.TextOptions{Table: output.TableLifecycles, Color: true}
	for name, c := range map[string]struct {
		life *lifecycle.Lifecycle
		want string // how the row ends
	}{
		"plain": {outputtest.Lifecycle(), "expired after 60.0s"},
		"gap":   {changed(func(c *lifecycle.Lifecycle) { c.Verdict = fsm.Gap }), "\x1b[35mgap: records are missing\x1b[0m"},
		"illegal": {changed(func(c *lifecycle.Lifecycle) {
			c.Violations = []lifecycle.Violation{{Reason: "why"}}
		}), "\x1b[1;31mILLEGAL: why\x1b[0m"},
	} {
		got := lifeRows(t, func(w io.Writer) output.Sink { return output.NewText(w, clock, &o) }, c.life)
		if !strings.HasSuffix(got[1], c.want) {
			t.Errorf("%s: got %q, want it to end with %q", name, got[1], c.want)
		}
	}
}

// Three digits, and no unit of a thousand.
func TestTextDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1: "1ns", 999: "999ns", 1000: "1.00µs", 9_994: "9.99µs", 9_996: "10.0µs", 12_345: "12.3µs", 99_949: "99.9µs",
		99_951: "100µs", 999_499: "999µs", 999_500: "1.00ms", time.Millisecond: "1.00ms", 999_499_999: "999ms",
		999_960_000: "1.00s", time.Second: "1.00s", 60 * time.Second: "60.0s", time.Hour: "3600s",
	} {
		e := []events.Event{
			{Time: 1, Cookie: 1, Seq: 1, From: fsm.Closed, To: fsm.SynSent},
			{Time: 1 + uint64(d), Entered: 1, Cookie: 1, Seq: 2, From: fsm.SynSent, To: fsm.Closed},
		}
		tr := lifecycle.NewTracker(0)
		var out lifecycle.Transition
		tr.Observe(&e[0], &out)
		tr.Observe(&e[1], &out)
		var c lifecycle.Lifecycle
		out.Life.Lifecycle(out.Time, &c)
		got := lifeRows(t, func(w io.Writer) output.Sink {
			return output.NewText(w, clock, &output.TextOptions{Table: output.TableLifecycles, Wide: true})
		}, &c)
		if !strings.Contains(got[1], " SS "+want+" ") {
			t.Errorf("%d ns: %q, want %q in it", d, got[1], want)
		}
	}
}

func TestJSONLifecycle(t *testing.T) {
	open := func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }
	for _, c := range []struct {
		name string
		life *lifecycle.Lifecycle
		want string
	}{
		{"known", outputtest.Lifecycle(), `{"type":"lifecycle","socket":"1f","generation":0,"role":"active","start":"2026-11-23T20:00:01.000000000Z","end":"2026-11-23T20:01:03.000000000Z","duration_ns":62000000000,"handshake_ns":12345678,"path":["CLOSED","SYN_SENT","ESTABLISHED","FIN_WAIT_1","FIN_WAIT_2","TIME_WAIT","CLOSED"],"dwell_ns":{"SYN_SENT":12345678,"ESTABLISHED":987654322,"FIN_WAIT_1":40000,"FIN_WAIT_2":999960000,"TIME_WAIT":60000000000},"close":{"cause":"finished","first":"local"},"time_wait":{"duration_ns":60000000000,"end":"expired"},"bytes_sent":78,"bytes_received":188,"rtt_us":42,"retransmits":1,"complete":true,"verdict":"legal","family":"ipv4","local":{"addr":"10.0.0.1","port":63446},"remote":{"addr":"10.0.0.2","port":80},"pid":22384,"comm":"curl","uid":1000,"owner_source":"connect","netns":4026531840,"cgroup":1234}`},
		{"unknown", outputtest.UnknownLifecycle(), `{"type":"lifecycle","end":"2026-11-23T20:00:05.000000000Z","path":["SYN_SENT","SYN_RCVD"],"dwell_ns":{"SYN_RCVD":0},"complete":false,"verdict":"legal","family":"ipv6"}`},
		{"in TIME_WAIT", openLife(5, events.FlagMinisock, fsm.Closed, fsm.SynSent, fsm.Established, fsm.FinWait1, fsm.FinWait2, fsm.TimeWait), `{"type":"lifecycle","socket":"1","generation":0,"role":"active","start":"2026-11-23T20:00:01.002000000Z","end":"2026-11-23T20:00:01.015000000Z","duration_ns":13000000,"handshake_ns":2000000,"path":["CLOSED","SYN_SENT","ESTABLISHED","FIN_WAIT_1","FIN_WAIT_2","TIME_WAIT"],"dwell_ns":{"SYN_SENT":2000000,"ESTABLISHED":2000000,"FIN_WAIT_1":2000000,"FIN_WAIT_2":2000000,"TIME_WAIT":5000000},"close":{"cause":"finished","first":"local"},"time_wait":{"duration_ns":5000000},"bytes_sent":0,"bytes_received":0,"retransmits":0,"complete":false,"verdict":"legal","family":"ipv6"}`},
		{"estimated, answered by a reset", changed(func(c *lifecycle.Lifecycle) {
			*c = lifecycle.Lifecycle{End: 1, HasTimeWait: true, TimeWait: 7, TimeWaitEnd: fsm.EndResetSent, Estimated: true, Cause: fsm.CauseFinished, Verdict: fsm.Abort}
		}), `{"type":"lifecycle","end":"2026-11-23T20:00:00.000000001Z","path":[],"dwell_ns":{},"close":{"cause":"finished"},"time_wait":{"duration_ns":7,"estimated":true,"end":"reset"},"complete":false,"verdict":"abort","family":"ipv6"}`},
		{"skipped", changed(func(c *lifecycle.Lifecycle) {
			*c = lifecycle.Lifecycle{
				End: 1, Skipped: true, Cause: fsm.CauseFinished, First: lifecycle.FirstBoth, Verdict: fsm.Illegal,
				Violations: []lifecycle.Violation{
					{From: fsm.FinWait2, To: fsm.Closed, Rule: "a \"rule\"", Reason: "b"}, {From: 13, To: 14, Rule: "c", Reason: "d"},
				},
			}
		}), `{"type":"lifecycle","end":"2026-11-23T20:00:00.000000001Z","path":[],"dwell_ns":{},"close":{"cause":"finished","first":"both"},"time_wait":{"end":"skipped"},"complete":false,"verdict":"illegal","violations":[{"from":"FIN_WAIT_2","to":"CLOSED","rule":"a \"rule\"","reason":"b"},{"from":"STATE_13","to":"STATE_14","rule":"c","reason":"d"}],"family":"ipv6"}`},
		{"reset sent", changed(func(c *lifecycle.Lifecycle) {
			*c = lifecycle.Lifecycle{End: 1, Cause: fsm.CauseResetSent, First: lifecycle.FirstLocal, Errno: 104, Reset: 8, Verdict: fsm.Abort}
		}), `{"type":"lifecycle","end":"2026-11-23T20:00:00.000000001Z","path":[],"dwell_ns":{},"close":{"cause":"reset_sent","first":"local","errno":104,"reset_reason":"TCP_ABORT_ON_DATA"},"complete":false,"verdict":"abort","family":"ipv6"}`},
		{"reset sent, nobody says why", changed(func(c *lifecycle.Lifecycle) {
			*c = lifecycle.Lifecycle{End: 1, Cause: fsm.CauseResetSent, Reset: events.ResetUnspecified, Verdict: fsm.Abort}
		}), `{"type":"lifecycle","end":"2026-11-23T20:00:00.000000001Z","path":[],"dwell_ns":{},"close":{"cause":"reset_sent"},"complete":false,"verdict":"abort","family":"ipv6"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := lifeRows(t, open, c.life)
			if len(got) != 1 || got[0] != c.want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), c.want)
			}
			if !json.Valid([]byte(got[0])) {
				t.Errorf("no JSON: %s", got[0])
			}
		})
	}
}

// The worst values are one line of JSON and come back.
func TestJSONOfExtremeLifecycle(t *testing.T) {
	line := lifeRows(t, func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }, outputtest.ExtremeLifecycle())
	var got struct {
		Socket     string
		Generation uint32
		Path       []string
		Dwell      map[string]uint64 `json:"dwell_ns"`
		Complete   bool
		BytesSent  uint64 `json:"bytes_sent"`
		Violations []struct{ From, Reason string }
		Comm       string
		TimeWait   struct{ End string } `json:"time_wait"`
	}
	if err := json.Unmarshal([]byte(line[0]), &got); err != nil || len(line) != 1 {
		t.Fatalf("%d lines, %v: %s", len(line), err, line)
	}
	comm := outputtest.HostileComm()
	if got.Socket != "ffffffffffffffff" || got.Generation != 1<<32-1 || got.Complete || got.BytesSent != 1<<64-1 ||
		len(got.Path) != 12 || len(got.Violations) != 8 || got.Violations[0].From != "STATE_255" ||
		got.TimeWait.End != "END_255" || got.Comm != strings.ToValidUTF8(string(comm.Bytes()), "\ufffd") {
		t.Errorf("got %+v", got)
	}
	for state := range got.Dwell {
		if _, err := fsm.ParseState(state); err != nil {
			t.Error(err)
		}
	}
}

// What a timer or a reset tells is in a transition, too.
func TestJSONOfTimers(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*events.Event)
		has    []string
		hasNot []string
	}{
		{"TIME_WAIT", func(e *events.Event) {
			e.From, e.To, e.Source, e.End, e.Flags = fsm.TimeWait, fsm.Closed, events.SourceTimeWait, fsm.EndExpired, events.FlagEstimated
		}, []string{`"dwell_ns":176042000,"dwell_estimated":true`, `"end":"expired"`, `"source":"timewait"`}, []string{"bytes_", "rtt_us", "retransmits", "reset_reason"}},
		{"handshake", func(e *events.Event) {
			e.From, e.To, e.Source, e.End, e.Cookie, e.Seq = fsm.SynRcvd, fsm.Closed, events.SourceRequest, fsm.EndListenerClosed, 0, 0
		}, []string{`"end":"listener_closed"`, `"source":"request"`}, []string{`"socket"`, `"generation"`, `"seq"`, "bytes_", "dwell_estimated"}},
		{"reset", func(e *events.Event) { e.To, e.Reset = fsm.Closed, 13 }, []string{`"reset_reason":"TCP_ABORT_ON_MEMORY"`, `"bytes_sent":78`}, []string{`"end"`}},
		{"reset, nobody says why", func(e *events.Event) { e.To, e.Reset = fsm.Closed, events.ResetUnspecified }, nil, []string{"reset_reason"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := outputtest.Transition()
			c.change(tr.Event)
			tr.Judgement = fsm.Check(tr.From, tr.To, tr.Evidence())
			line := rows(t, func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }, tr)[0]
			if !json.Valid([]byte(line)) {
				t.Errorf("no JSON: %s", line)
			}
			for _, part := range c.has {
				if !strings.Contains(line, part) {
					t.Errorf("%s does not hold %s", line, part)
				}
			}
			for _, part := range c.hasNot {
				if strings.Contains(line, part) {
					t.Errorf("%s holds %s", line, part)
				}
			}
		})
	}
}

func TestJSON(t *testing.T) {
	open := func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }
	got := rows(t, open, outputtest.Transition(), outputtest.Unknown(), outputtest.Extreme())
	want := []string{
		`{"type":"transition","time":"2026-11-23T20:00:05.000000000Z","socket":"1f","generation":0,"seq":3,"from":"ESTABLISHED","to":"FIN_WAIT_1","dwell_ns":176042000,"family":"ipv4","local":{"addr":"10.0.0.1","port":63446},"remote":{"addr":"10.0.0.2","port":80},"pid":22384,"comm":"curl","uid":1000,"owner_source":"connect","netns":4026531840,"cgroup":1234,"rtt_us":42,"bytes_acked":79,"bytes_received":188,"bytes_sent":78,"retransmits":1,"verdict":"legal","rule":"RFC 9293 3.10.4 CLOSE","source":"tracepoint"}`,
		`{"type":"transition","time":"2026-11-23T20:00:05.000000000Z","socket":"20","generation":0,"from":"CLOSED","to":"SYN_SENT","family":"ipv6","verdict":"legal","rule":"RFC 9293 3.10.1 OPEN","source":"tracepoint"}`,
	}
	for i, w := range want {
		if got[i] != w {
			t.Errorf("line %d:\n%s\nwant:\n%s", i, got[i], w)
		}
	}
	for i, line := range got {
		if !json.Valid([]byte(line)) {
			t.Errorf("line %d is no JSON: %s", i, line)
		}
	}
}

func TestJSONNoticeAndSummary(t *testing.T) {
	var b bytes.Buffer
	s := output.NewJSON(&b, clock)
	for _, err := range []error{
		s.Notice(&output.Notice{Time: clock.Time(1), Kind: output.NoticeLost, Reason: "ringbuf_full", Count: 12}),
		s.Notice(&output.Notice{Kind: output.NoticeForgotten, Count: 1}),
		s.Notice(&output.Notice{Kind: output.NoticeUnmeasured, Reason: "TIME_WAIT: no \"timers\""}),
		s.Notice(&output.Notice{Time: clock.Time(1), Kind: output.NoticeGrowing, Reason: "a\x1b", Count: 8}),
		s.Notice(&output.Notice{Kind: output.NoticeUnseen, Reason: "why", Count: 2}),
		s.Notice(&output.Notice{Kind: output.NoticeSuppressed, Count: 2}),
		s.Notice(&output.Notice{Time: clock.Time(2), Kind: output.NoticeClock, Reason: "set"}),
		s.Summary(&output.Summary{Transitions: 5, Connections: 2, Illegal: 1, Gaps: 3, Lost: 12, Duration: time.Second}),
		s.Summary(&output.Summary{HasStuck: true, Sockets: 340, Duration: time.Second}),
		s.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := `{"type":"notice","time":"2026-11-23T20:00:00.000000001Z","kind":"lost","reason":"ringbuf_full","count":12}
{"type":"notice","kind":"forgotten","count":1}
{"type":"notice","kind":"unmeasured","reason":"TIME_WAIT: no \"timers\""}
{"type":"notice","time":"2026-11-23T20:00:00.000000001Z","kind":"growing","reason":"a\u001b","count":8}
{"type":"notice","kind":"unseen","reason":"why","count":2}
{"type":"notice","kind":"suppressed","count":2}
{"type":"notice","time":"2026-11-23T20:00:00.000000002Z","kind":"clock","reason":"set"}
{"type":"summary","transitions":5,"connections":2,"illegal":1,"gaps":3,"lost":12,"duration_ns":1000000000}
{"type":"summary","transitions":0,"connections":0,"illegal":0,"gaps":0,"lost":0,"sockets":340,"stuck":0,"duration_ns":1000000000}
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

// A time stamp is put together from a kept second; it must not be kept too long.
func TestJSONTime(t *testing.T) {
	tr := outputtest.Transition()
	var b bytes.Buffer
	s := output.NewJSON(&b, events.Clock{})
	for _, at := range []uint64{0, 999_999_999, 1_000_000_000, 86_400_000_000_123, 1} {
		tr.Time = at
		if err := s.Transition(tr); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for d := json.NewDecoder(&b); d.More(); {
		var line struct{ Time string }
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		got = append(got, line.Time)
	}
	want := "1970-01-01T00:00:00.000000000Z 1970-01-01T00:00:00.999999999Z 1970-01-01T00:00:01.000000000Z 1970-01-02T00:00:00.000000123Z 1970-01-01T00:00:00.000000001Z"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}

func TestMessages(t *testing.T) {
	var b bytes.Buffer
	s := output.NewMessages(&b)
	for _, err := range []error{
		s.Transition(outputtest.Transition()),
		s.Lifecycle(outputtest.Lifecycle()),
		s.Stuck(outputtest.Stuck()),
		s.Notice(&output.Notice{Kind: output.NoticeLost, Reason: "ringbuf_full", Count: 1}),
		s.Notice(&output.Notice{Kind: output.NoticeLost, Reason: "history_unavailable", Count: 2}),
		s.Notice(&output.Notice{Kind: output.NoticeLost, Reason: "missed", Count: 2}),
		s.Notice(&output.Notice{Kind: output.NoticeLost, Reason: "minisocks_full", Count: 1}),
		s.Notice(&output.Notice{Kind: output.NoticeLost, Reason: "loss_9", Count: 2}),
		s.Notice(&output.Notice{Kind: output.NoticeForgotten, Count: 2}),
		s.Notice(&output.Notice{Kind: output.NoticeUnmeasured, Reason: "TIME_WAIT: why"}),
		s.Notice(&output.Notice{Kind: output.NoticeUndecided, Count: 2}),
		s.Notice(&output.Notice{Kind: output.NoticeGrowing, Reason: "CLOSE_WAIT of a\n\x1b]0;x (1): 12 sockets, 8 more than a minute ago", Count: 8}),
		s.Notice(&output.Notice{Kind: output.NoticeUnseen, Reason: "which and why", Count: 2}),
		s.Notice(&output.Notice{Kind: output.NoticeSuppressed, Count: 2}),
		s.Summary(&output.Summary{Transitions: 1, Connections: 1, Gaps: 1, Lost: 1, Duration: 1234567890}),
		s.Summary(&output.Summary{HasStuck: true, Stuck: 12, Sockets: 340}),
		s.Summary(&output.Summary{HasStuck: true, Sockets: 1, Lost: 2}),
		s.Summary(&output.Summary{Transitions: 2, Connections: 1, Duration: 1e9, HasStuck: true, Stuck: 1, Sockets: 3}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := `tcptrace: 1 record lost: the output is slower than the traffic and the buffer was full. Write to a file, filter, or enlarge it with --buffer
tcptrace: 2 records without history: the kernel had no memory for it
tcptrace: 2 transitions not seen: the kernel passed them over while the program was running
tcptrace: TIME_WAIT of 1 connection of this host not measured: too many, or gone too soon
tcptrace: 2 records lost: loss_9
tcptrace: 2 sockets forgotten: more than are followed at once, so a hole in their records may go unnoticed
tcptrace: not measured: TIME_WAIT: why
tcptrace: 2 transitions left out: the end that the filter asks for was not known when tracing ended
tcptrace: growing: CLOSE_WAIT of a\x0a\x1b]0;x (1): 12 sockets, 8 more than a minute ago
tcptrace: not looked at: which and why
tcptrace: 2 findings not shown: more than are shown in a minute
tcptrace: 1 transition of 1 connection in 1.235s: 0 illegal, 1 gap, 1 lost
tcptrace: 12 of 340 sockets stuck
tcptrace: 0 of 1 socket stuck, 2 records lost
tcptrace: 2 transitions of 1 connection in 1s: 0 illegal, 0 gaps, 0 lost, 1 of 3 sockets stuck
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestTransitionDoesNotAllocate(t *testing.T) {
	for name, s := range map[string]output.Sink{
		"json": output.NewJSON(io.Discard, clock),
		"text": output.NewText(io.Discard, clock, nil),
	} {
		tr := outputtest.Transition()
		if n := testing.AllocsPerRun(100, func() { _ = s.Transition(tr) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestLifecycleDoesNotAllocate(t *testing.T) {
	for name, c := range map[string]*lifecycle.Lifecycle{
		"known":   outputtest.Lifecycle(),
		"skipped": changed(func(c *lifecycle.Lifecycle) { c.Skipped = true }),
	} {
		s := output.NewJSON(io.Discard, clock)
		if n := testing.AllocsPerRun(100, func() { _ = s.Lifecycle(c) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// recorder counts what it gets, and fails at will.
type recorder struct {
	output.Discard
	got   []*lifecycle.Lifecycle
	stuck []*lifecycle.Stuck
	err   error
}

func (r *recorder) Lifecycle(c *lifecycle.Lifecycle) error {
	r.got = append(r.got, c)
	return r.err
}

func (r *recorder) Stuck(s *lifecycle.Stuck) error {
	r.stuck = append(r.stuck, s)
	return r.err
}

func TestMultiPassesLifecyclesOn(t *testing.T) {
	c := outputtest.Lifecycle()
	first, failing, last := &recorder{}, &recorder{err: io.ErrClosedPipe}, &recorder{}
	if err := (output.Multi{first, last}).Lifecycle(c); err != nil || len(first.got) != 1 || len(last.got) != 1 || first.got[0] != c {
		t.Errorf("%v, got %v and %v", err, first.got, last.got)
	}
	if err := (output.Multi{failing, last}).Lifecycle(c); err != io.ErrClosedPipe || len(last.got) != 1 {
		t.Errorf("got %v, and the next one got %d, want the error and 1", err, len(last.got))
	}
}

// Whatever a process calls itself, a transition is one row of printable text
// and one line of JSON that gives the name back.
func FuzzComm(f *testing.F) {
	hostile := outputtest.HostileComm()
	for _, seed := range [][]byte{[]byte("curl"), hostile.Bytes(), []byte("\xe2\x80\xae\xf0\x9f\x98\x80"), []byte("\\x41\t\x7f")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name []byte) {
		tr := outputtest.Transition()
		tr.Owner.Comm = events.Comm{}
		copy(tr.Owner.Comm[:], name)

		for _, wide := range []bool{false, true} {
			text := rows(t, func(w io.Writer) output.Sink {
				return output.NewText(w, clock, &output.TextOptions{Wide: wide})
			}, tr)
			if len(text) != 2 {
				t.Errorf("%d rows, want a heading and one", len(text))
			}
			for _, r := range strings.Join(text, "") {
				if !unicode.IsPrint(r) || r == utf8.RuneError && !bytes.ContainsRune(name, utf8.RuneError) {
					t.Errorf("%q in the row of %q", r, name)
				}
			}
		}

		line := rows(t, func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }, tr)
		var got struct{ Comm string }
		if err := json.Unmarshal([]byte(line[0]), &got); err != nil || len(line) != 1 {
			t.Fatalf("%d lines, %v: %q", len(line), err, line)
		}
		if want := strings.ToValidUTF8(string(tr.Owner.Comm.Bytes()), "\ufffd"); utf8.Valid(tr.Owner.Comm.Bytes()) && got.Comm != want {
			t.Errorf("comm %q, want %q", got.Comm, want)
		}
	})
}

func BenchmarkSinks(b *testing.B) {
	tr := outputtest.Transition()
	tr.Judgement = fsm.Check(tr.From, tr.To, fsm.Evidence{})
	life := outputtest.Lifecycle()
	for name, s := range map[string]output.Sink{
		"json": output.NewJSON(io.Discard, clock),
		"text": output.NewText(io.Discard, clock, nil),
		"wide": output.NewText(io.Discard, clock, &output.TextOptions{Wide: true}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Transition(tr); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+" lifecycle", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Lifecycle(life); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
