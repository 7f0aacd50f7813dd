package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/spf13/cobra"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/outputtest"
	"tcptrace/output/prom"
)

// agentOver runs the agent over a recording, and returns its metrics and findings.
func agentOver(t *testing.T, recording string, args ...string) (metrics, found string) {
	t.Helper()
	metrics, found, _ = agentPictures(t, recording, args...)
	return metrics, found
}

// agentPictures is agentOver that also returns what makes the pictures of its page.
func agentPictures(t *testing.T, recording string, args ...string) (metrics, found string, seen *pictures) {
	t.Helper()
	f := &agentFlags{}
	cmd := &cobra.Command{}
	f.register(cmd)
	check(t, cmd.ParseFlags(args))
	f.format, f.stuckMode = "text", stuckBeside
	check(t, f.check(cmd))
	by, err := prom.ParseLabels(f.by)
	check(t, err)
	filter, err := f.filter.parse()
	check(t, err)
	name := "testdata/recordings/" + recording
	in, err := openInput(name, nil)
	check(t, err)
	source, err := newReplay(in, 0)
	check(t, err)
	defer source.Close()

	var out bytes.Buffer

	cmd.SetErr(io.Discard)
	pulse := &pulse{begun: time.Now()}
	sink := prom.New(&prom.Options{Version: "test", Events: pulse.events.Load, By: by, MaxSeries: f.maxSeries})
	p := newPipeline(source, filter)
	registry := registryOf(sink)
	exporter, err := f.exporter(cmd, registry)
	check(t, err)
	v := newAgentView(p, sink, pulse, f.findingsSink(&out, io.Discard, p.clock, exporter))
	p.view = f.stuckView(v, p.results)
	check(t, p.run())
	return exposition(t, registry), out.String(), v.pictures
}

func newPipeline(s source, filter *filter) *pipeline {
	return &pipeline{
		source: s, tracker: lifecycle.NewTracker(0), log: slog.New(slog.DiscardHandler),
		results: &results{filter: filter, clock: s.Clock()},
	}
}

// A connection of whose end the record was lost has ended all the same: when its socket
// is connected again, or two walks have not found it.
func TestAgentCountsLostEnds(t *testing.T) {
	step := func(cookie uint64, generation, seq uint32, from, to fsm.State) events.Record {
		return events.Record{Kind: events.KindTransition, Event: events.Event{
			Time: 1000 + cookie, Cookie: cookie, Generation: generation, Seq: seq, From: from, To: to,
		}}
	}
	walked := events.Record{Kind: events.KindWalked, Walked: events.Walked{Start: 2000, Time: 2000}}
	pulse := &pulse{begun: time.Now()}
	sink := prom.New(&prom.Options{Events: pulse.events.Load})
	p := newPipeline(&records{
		step(1, 0, 1, fsm.Closed, fsm.SynSent), step(1, 1, 1, fsm.Closed, fsm.SynSent), step(1, 1, 2, fsm.SynSent, fsm.Closed),
		step(2, 0, 1, fsm.Closed, fsm.SynSent), walked, walked, walked,
	}, &filter{})
	p.view = newAgentView(p, sink, pulse, &findings{Sink: output.Discard{}})
	check(t, p.run())
	got := exposition(t, registryOf(sink))
	for _, want := range []string{`{cause="unknown",role="active"} 2`, `{cause="cancelled",role="active"} 1`} {
		if !strings.Contains(got, "tcptrace_connections_closed_total"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

// A connection is counted once, when both sides have closed: also where a walk shows
// first that it is in TIME_WAIT. One that was in it before it was followed is not.
func TestAgentCountsEndsInTimeWait(t *testing.T) {
	const minisock = events.FlagMinisock
	record := func(cookie, at, entered uint64, seq uint32, from, to fsm.State, source events.Source, flags events.Flags) events.Record {
		return events.Record{Kind: events.KindTransition, Event: events.Event{
			Time: at, Entered: entered, Cookie: cookie, Seq: seq, From: from, To: to, Source: source, Flags: flags,
		}}
	}
	const socket, walk, timer = events.SourceTracepoint, events.SourceSnapshot, events.SourceTimeWait
	pulse := &pulse{begun: time.Now()}
	sink := prom.New(&prom.Options{Events: pulse.events.Load})
	p := newPipeline(&records{
		// The FIN reached its minisock unseen, and a walk came by before the end.
		record(1, 10, 0, 1, fsm.Closed, fsm.SynSent, socket, 0),
		record(1, 20, 10, 2, fsm.SynSent, fsm.Established, socket, 0),
		record(1, 30, 20, 3, fsm.Established, fsm.FinWait1, socket, 0),
		record(1, 40, 30, 4, fsm.FinWait1, fsm.FinWait2, socket, 0),
		record(1, 50, 40, 5, fsm.FinWait2, fsm.FinWait2, socket, minisock),
		record(1, 90, 60, 5, fsm.TimeWait, fsm.TimeWait, walk, minisock|events.FlagEstimated),
		record(1, 200, 60, 6, fsm.TimeWait, fsm.Closed, timer, events.FlagEstimated),
		// These were in it before.
		record(2, 90, 60, 0, fsm.TimeWait, fsm.TimeWait, walk, minisock|events.FlagAtLeast),
		record(2, 200, 60, 0, fsm.TimeWait, fsm.Closed, timer, events.FlagAtLeast),
		record(3, 210, 60, 6, fsm.TimeWait, fsm.Closed, timer, 0),
	}, &filter{})
	p.view = newAgentView(p, sink, pulse, &findings{Sink: output.Discard{}})
	check(t, p.run())
	var got []string
	for line := range strings.Lines(exposition(t, registryOf(sink))) {
		if strings.HasPrefix(line, "tcptrace_connections_closed_total{") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if want := []string{`tcptrace_connections_closed_total{cause="finished",role="active"} 1`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// How full the local ports are is told when all sockets have been found, and anew after
// each walk.
func TestAgentPorts(t *testing.T) {
	walked := func(at uint64, failed bool) events.Record {
		return events.Record{Kind: events.KindWalked, Walked: events.Walked{Start: at, Time: at, Failed: failed}}
	}
	for _, c := range []struct {
		name   string
		walked records
		want   string
	}{
		{"no walk", nil, ""},
		{"one that failed", records{walked(20, true)}, ""},
		{"one", records{walked(20, false)}, "tcptrace_local_ports_used_ratio{netns=\"1\"} 0.5\n"},
		{"two that find them gone", records{walked(20, false), walked(30, false), walked(40, false)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := append(socketsFrom(1, 5, fsm.Established, 80, 0), c.walked...)
			pulse := &pulse{begun: time.Now()}
			sink := prom.New(&prom.Options{Events: pulse.events.Load})
			p := newPipeline(&list, &filter{})
			v := newAgentView(p, sink, pulse, &findings{Sink: output.Discard{}})
			v.ports.available = func([]uint32) map[uint32]uint64 { return map[uint32]uint64{1: 10} }
			p.view = v
			check(t, p.run())
			got := exposition(t, registryOf(sink))
			if ratio := "tcptrace_local_ports_used_ratio{"; !strings.Contains(got, c.want) || c.want == "" && strings.Contains(got, ratio) {
				t.Errorf("want %q in\n%s", c.want, got)
			}
		})
	}
}

func registryOf(sink *prom.Sink) *prometheus.Registry {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(sink)
	return registry
}

// exposition is what a scrape gets, but for what is 0 and what differs with Go.
func exposition(t *testing.T, registry prometheus.Gatherer) string {
	t.Helper()
	families, err := registry.Gather()
	check(t, err)
	var all bytes.Buffer
	encoder := expfmt.NewEncoder(&all, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if family.GetName() != "tcptrace_build_info" {
			check(t, encoder.Encode(family))
		}
	}
	var text strings.Builder
	for line := range strings.Lines(all.String()) {
		if !strings.HasSuffix(line, " 0\n") {
			text.WriteString(line)
		}
	}
	return text.String()
}

// TestAgentMetrics holds what the agent makes of the recordings against golden files.
// UPDATE=1 writes them anew, to be looked at before they are committed.
func TestAgentMetrics(t *testing.T) {
	for _, c := range []struct {
		golden, recording string
		args              []string
	}{
		{"scenarios", "scenarios.tct", nil},
		{"lifecycles", "lifecycles.tct", nil},
		{"lifecycles-filtered", "lifecycles.tct", []string{"-D", "80", "--verdict", "legal", "-4"}},
		{"scenarios-of-a-port", "scenarios.tct", []string{"-L", "40000"}},
		{"scenarios-by-comm", "scenarios.tct", []string{"--by", "comm,lport"}},
		{"scenarios-capped", "scenarios.tct", []string{"--by", "comm", "--max-series", "5"}},
		{"containers-by-place", "containers.tct", []string{"--by", "container,unit"}},
		{"stuck", "stuck.tct", nil},
	} {
		t.Run(c.golden, func(t *testing.T) {
			got, _ := agentOver(t, c.recording, c.args...)
			name := "testdata/agent/" + c.golden + ".prom"
			if os.Getenv("UPDATE") != "" {
				check(t, os.WriteFile(name, []byte(got), 0o644))
			}
			want, err := os.ReadFile(name)
			check(t, err)
			if got != string(want) {
				t.Errorf("%s is not what comes out: look at the change and run UPDATE=1 go test\n%s", name, got)
			}
		})
	}
}

// What is found is what the other views say of it, word for word.
func TestAgentFindings(t *testing.T) {
	for recording, args := range map[string][]string{
		"scenarios.tct": {"trace", "--verdict", "illegal"},
		"stuck.tct":     {"stuck", "--watch"},
	} {
		var want bytes.Buffer
		args = append(args, "-o", "json", "-r", "testdata/recordings/"+recording)
		if status := run(args, nil, &want, io.Discard); status != exitDone {
			t.Fatalf("status %d of %v", status, args)
		}
		_, got := agentOver(t, recording)
		for line := range strings.Lines(want.String()) {
			if !strings.HasPrefix(line, `{"type":"summary"`) && !strings.Contains(got, line) {
				t.Errorf("%s: no %s in\n%s", recording, line, got)
			}
		}
		if strings.Contains(got, `"verdict":"legal"`) || strings.Contains(got, `"lifecycle"`) {
			t.Errorf("%s: what is no finding is written:\n%s", recording, got)
		}
	}
}

func TestAgentFindingsAreLimited(t *testing.T) {
	_, all := agentOver(t, "scenarios.tct")
	illegal := strings.Count(all, `"verdict":"illegal"`)
	if illegal < 2 {
		t.Fatalf("the recording has %d findings", illegal)
	}
	_, got := agentOver(t, "scenarios.tct", "--max-findings", "1")
	if n := strings.Count(got, `"verdict":"illegal"`); n != 1 {
		t.Errorf("%d findings, want 1:\n%s", n, got)
	}
	if want := fmt.Sprintf(`"kind":"suppressed","count":%d}`, illegal-1); !strings.Contains(got, want) {
		t.Errorf("no %s in\n%s", want, got)
	}
	if _, got := agentOver(t, "scenarios.tct", "--max-findings", "0"); got != "" {
		t.Errorf("without findings:\n%s", got)
	}
}

// The limit holds for each minute of the events' own time.
func TestFindingsOfAMinute(t *testing.T) {
	var out bytes.Buffer
	f := &findings{Sink: output.NewJSON(&out, events.Clock{}), most: 2}
	for _, at := range []time.Duration{1, 2, 3, 4, time.Minute, time.Minute + 1, 2*time.Minute + 2} {
		tn := outputtest.Stuck()
		tn.Time = uint64(time.Hour + at)
		check(t, f.Stuck(tn))
	}
	check(t, f.Flush())
	var kinds []string
	for line := range strings.Lines(out.String()) {
		var found struct {
			Type  string
			Count int
		}
		check(t, json.Unmarshal([]byte(line), &found))
		kinds = append(kinds, fmt.Sprint(found.Type, found.Count))
	}
	if got := strings.Join(kinds, " "); got != "stuck0 stuck0 notice3 stuck0 stuck0" {
		t.Errorf("got %s", got)
	}
}

// failingWriter fails as long as it is told to.
type failingWriter struct {
	bytes.Buffer
	err error
}

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	return w.Buffer.Write(b)
}

// A full disk does not end the agent, and it is told once.
func TestAgentEnduresAFullDisk(t *testing.T) {
	w, complaints := &failingWriter{}, &bytes.Buffer{}
	sink := output.NewJSON(&enduring{w: w, complaints: complaints, name: "standard output"}, events.Clock{})
	step := func(err error, count uint64) {
		w.err = err
		check(t, sink.Notice(&output.Notice{Kind: output.NoticeLost, Count: count}))
		check(t, sink.Flush())
	}
	full := errors.New("no space left on device")
	for count, err := range []error{nil, full, full, nil, full} {
		step(err, uint64(count+1))
	}
	if got := strings.Count(w.String(), "\n"); got != 2 || !strings.Contains(w.String(), `"count":4`) {
		t.Errorf("written:\n%s", w.String())
	}
	if got := complaints.String(); strings.Count(got, "no space left") != 2 || strings.Count(got, "again\n") != 3 {
		t.Errorf("told:\n%s", got)
	}
}

func TestAgentConfig(t *testing.T) {
	for _, c := range []struct{ name, file, args, want string }{
		{"empty", "", "", "127.0.0.1:9917 [] 1000"},
		{"comments only", "# nothing\n", "", "127.0.0.1:9917 [] 1000"},
		{"values", "listen: :1234\nby: [comm, lport]\nmax-series: 7\n", "", ":1234 [comm lport] 7"},
		{"flags win", "listen: :1234\nmax-series: 7\n", "--listen :99", ":99 [] 7"},
		{"one of a list", "by: comm\nipv4: true\nlimit: CLOSE_WAIT=30s\nlocal-port: 80,443\n", "", "127.0.0.1:9917 [comm] 1000"},
		{"unknown", "by: comm\nlisten-on: :1\n", "", `agent.yml:2: no such setting: "listen-on"`},
		{"no file in a file", "config: b.yml\n", "", `agent.yml:1: no such setting: "config"`},
		{"wrong type", "\nmax-series: many\n", "", "agent.yml:2: invalid argument \"many\""},
		{"wrong value", "listen: :1\nlocal-port: http\n", "", `agent.yml:2: -L: ports "http"`},
		{"wrong limit", "limit: CLOSE_WAIT\n", "", `agent.yml:1: invalid argument "CLOSE_WAIT"`},
		{"wrong label", "by:\n  - comm\n  - raddr\n", "", `agent.yml:2: --by: unknown label "raddr"`},
		{"wrong endpoint", "listen: :1\notlp-endpoint: localhost\n", "", "agent.yml:2: --otlp-endpoint: "},
		{"excluding", "ipv4: true\nipv6: true\n", "", "agent.yml:2: -4 and -6 exclude each other"},
		{"doubled", "listen: :1\nlisten: :2\n", "", "agent.yml:2: listen is set before, in line 1"},
		{"no value", "listen:\n", "", "agent.yml:1: listen: its value is empty"},
		{"no list", "by: []\n", "", "agent.yml:1: by: its list is empty"},
		{"a map", "limit:\n  CLOSE_WAIT: 30s\n", "", "agent.yml:2: limit: want a value or a list"},
		{"a list of lists", "by: [[comm]]\n", "", "agent.yml:1: by: want a list of values"},
		{"no map", "- listen\n", "", "agent.yml:1: want lines such as listen:"},
		{"no YAML", "listen: [\n", "", "agent.yml: yaml: line 1"},
		{"two documents", "listen: :1\n---\nlisten: :2\n", "", "want one document"},
		{"too long", "#" + strings.Repeat("x", maxConfig), "", "is larger than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "agent.yml")
			check(t, os.WriteFile(name, []byte(c.file), 0o600))
			f := &agentFlags{}
			cmd := &cobra.Command{}
			f.register(cmd)
			check(t, cmd.ParseFlags(strings.Fields(c.args)))
			f.format = "text"
			var got string
			if err := readConfig(name, cmd.Flags(), func() error { return f.check(cmd) }); err != nil {
				got = err.Error()
			} else {
				got = fmt.Sprint(f.listen, " ", f.by, " ", f.maxSeries)
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// startServer serves at an address that the kernel chooses.
func startServer(t *testing.T, config string, profiles bool, state func() health) (url string) {
	t.Helper()
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metrics") })
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") })
	s, err := newAgentServer("127.0.0.1:0", config, profiles, metrics, page, state, slog.New(slog.DiscardHandler))
	check(t, err)
	served := make(chan error)
	go func() { served <- s.serve() }()
	t.Cleanup(func() {
		s.stop()
		check(t, <-served)
	})
	return "http://" + s.listener.Addr().String()
}

// get returns the status and the body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	check(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(t, err)
	return response.StatusCode, string(body)
}

func TestAgentServer(t *testing.T) {
	state := health{Attached: true, Reading: true, LastRead: 0.25, Walked: true, Lost: 3}
	url := startServer(t, "", false, func() health { return state })
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/metrics", 200, "metrics"},
		{"/healthz", 200, `{"attached":true,"reading":true,"last_read_seconds":0.25,"walked":true,"lost":3}` + "\n"},
		{"/debug/pprof/", 200, "page"},
		{"/", 200, "page"},
	} {
		if status, body := get(t, url+c.path); status != c.status || body != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.path, status, body, c.status, c.body)
		}
	}
	for _, bad := range []health{{}, {Attached: true}} {
		state = bad
		if status, _ := get(t, url+"/healthz"); status != http.StatusServiceUnavailable {
			t.Errorf("%+v: status %d", bad, status)
		}
	}
	if status, body := get(t, startServer(t, "", true, nil)+"/debug/pprof/"); status != 200 || !strings.Contains(body, "goroutine") {
		t.Errorf("--pprof: %d %s", status, body)
	}
}

// A reader that reads nothing is stuck, however little there is to read.
func TestPulse(t *testing.T) {
	p := &pulse{begun: time.Now().Add(-time.Hour)}
	if p.age() < time.Hour {
		t.Errorf("read %v ago, but never", p.age())
	}
	s := watched{&records{{Kind: events.KindIdle}, {Kind: events.KindTransition}, {Kind: events.KindTransition, Event: events.Event{Source: events.SourceSnapshot}}}, p}
	var r events.Record
	check(t, s.Next(&r))
	if p.age() > stalled {
		t.Errorf("read %v ago, want just now", p.age())
	}
	check(t, s.Next(&r))
	check(t, s.Next(&r))
	if err := s.Next(&r); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if n := p.events.Load(); n != 1 {
		t.Errorf("%d transitions, want 1: a snapshot is none", n)
	}
}

// records is a source of these.
type records []events.Record

func (l *records) Next(r *events.Record) error {
	if len(*l) == 0 {
		return io.EOF
	}
	*r, *l = (*l)[0], (*l)[1:]
	return nil
}
func (*records) Stop()                {}
func (*records) Clock() events.Clock  { return events.Clock{} }
func (*records) Unmeasured() []string { return nil }
func (*records) Start() uint64        { return 0 }
func (*records) End() uint64          { return 0 }
func (*records) Close() error         { return nil }

// Who may ask is for the file of exporter-toolkit to say.
func TestAgentServerAsksForThePassword(t *testing.T) {
	config := filepath.Join(t.TempDir(), "web.yml")
	// bcrypt of "test".
	check(t, os.WriteFile(config, []byte("basic_auth_users:\n  admin: "+testHash+"\n"), 0o600))
	url := startServer(t, config, false, func() health { return health{} })
	if status, _ := get(t, url+"/metrics"); status != http.StatusUnauthorized {
		t.Errorf("without a password: status %d", status)
	}
	if status, body := get(t, strings.Replace(url, "://", "://admin:test@", 1)+"/metrics"); status != 200 || body != "metrics" {
		t.Errorf("with the password: %d %s", status, body)
	}
}

const testHash = "$2b$04$abcdefghijklmnopqrstuuoD8yw7MmybLKVooaTGGZAt3HXugv2.a"

// TestAgentRefuses: what is wrong is refused before anything is attached.
func TestAgentRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--listen", taken.Addr().String()}, exitFailure, "address already in use"},
		{[]string{"--by", "raddr"}, exitUsage, `unknown label "raddr"`},
		{[]string{"--otlp-endpoint", "127.0.0.1:4318"}, exitUsage, "--otlp-endpoint: "},
		{[]string{"--otlp-endpoint", "ftp://127.0.0.1"}, exitUsage, "want http://HOST:PORT"},
		{[]string{"--otlp-interval", "10ms"}, exitUsage, "--otlp-interval 10ms: want at least 1s"},
		{[]string{"--max-series", "0"}, exitUsage, "--max-series 0: want at least 1"},
		{[]string{"--config", "nowhere.yml"}, exitUsage, "nowhere.yml: no such file"},
		{[]string{"--web.config.file", "nowhere.yml"}, exitUsage, "nowhere.yml: no such file"},
		{[]string{"-L", "http"}, exitUsage, `"http" is no port`},
	} {
		p := startProgram(t, nil, append([]string{"agent", "-v"}, c.args...)...)
		status := p.status()
		if message := p.stderr.String(); status != c.status || !strings.Contains(message, c.want) || strings.Contains(message, "attached") {
			t.Errorf("%v: status %d, want %d: %s", c.args, status, c.status, message)
		}
	}
}
