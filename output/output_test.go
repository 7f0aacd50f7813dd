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

func TestJSON(t *testing.T) {
	open := func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }
	got := rows(t, open, outputtest.Transition(), outputtest.Unknown(), outputtest.Extreme())
	want := []string{
		`{"type":"transition","time":"2026-11-23T20:00:05.000000000Z","socket":"1f","generation":0,"seq":3,"from":"ESTABLISHED","to":"FIN_WAIT_1","dwell_ns":176042000,"family":"ipv4","local":{"addr":"10.0.0.1","port":63446},"remote":{"addr":"10.0.0.2","port":80},"pid":22384,"comm":"curl","uid":1000,"owner_source":"connect","netns":4026531840,"cgroup":1234,"rtt_us":42,"bytes_acked":79,"bytes_received":188,"retransmits":1,"verdict":"legal","rule":"RFC 9293 3.10.4 CLOSE","source":"tracepoint"}`,
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
		s.Summary(&output.Summary{Transitions: 5, Connections: 2, Illegal: 1, Gaps: 3, Lost: 12, Duration: time.Second}),
		s.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := `{"type":"notice","time":"2026-11-23T20:00:00.000000001Z","kind":"lost","reason":"ringbuf_full","count":12}
{"type":"notice","kind":"forgotten","count":1}
{"type":"summary","transitions":5,"connections":2,"illegal":1,"gaps":3,"lost":12,"duration_ns":1000000000}
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
		s.Notice(&output.Notice{Kind: output.NoticeLost, Reason: "ringbuf_full", Count: 1}),
		s.Notice(&output.Notice{Kind: output.NoticeUndecided, Count: 2}),
		s.Summary(&output.Summary{Transitions: 1, Connections: 1, Gaps: 1, Lost: 1, Duration: 1234567890}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := `tcptrace: 1 record lost: the output is slower than the traffic and the buffer was full. Write to a file, filter, or enlarge it with --buffer
tcptrace: 2 transitions left out: the end that the filter asks for was never assigned
tcptrace: 1 transition of 1 connection in 1.235s: 0 illegal, 1 gap, 1 lost
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
	}
}
