package prom_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/outputtest"
	"tcptrace/output/prom"
)

func open(by ...prom.Label) *prom.Sink { return openFor(0, by...) }

func openFor(series int, by ...prom.Label) *prom.Sink {
	return prom.New(&prom.Options{Version: "test", Events: func() uint64 { return 42 }, By: by, MaxSeries: series})
}

func TestSink(t *testing.T) {
	for _, by := range [][]prom.Label{nil, prom.Labels()} {
		outputtest.TestSink(t, func(io.Writer) output.Sink { return open(by...) })
	}
}

// observe gives a sink all that happened.
func observe(t *testing.T, s *prom.Sink, list []events.Event) {
	t.Helper()
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	for i := range list {
		tr.Observe(&list[i], &out)
		check(t, s.Transition(&out))
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expect holds metrics, without help and type, against what is wanted.
func expect(t *testing.T, s *prom.Sink, name, want string) {
	t.Helper()
	text, err := testutil.CollectAndFormat(s, expfmt.TypeTextPlain, name)
	check(t, err)
	var got strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") && !strings.HasSuffix(line, " 0\n") {
			got.WriteString(line)
		}
	}
	if want = strings.TrimLeft(want, "\n"); got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

func TestNamesAreLinted(t *testing.T) {
	for _, s := range []*prom.Sink{open(), open(prom.Labels()...)} {
		observe(t, s, eventstest.Scenarios()[0].Events)
		s.Sockets(func(fsm.State) int { return 1 }, 0)
		s.Ports(map[uint32]float64{1: 0.5})
		problems, err := testutil.CollectAndLint(s)
		check(t, err)
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// What can be counted from the start is there from the start.
func TestNothingYet(t *testing.T) {
	s := open()
	for name, want := range map[string]int{
		"tcptrace_state_transitions_total":   len(edges()),
		"tcptrace_illegal_transitions_total": 11 * 11,
		"tcptrace_connections_closed_total":  len(fsm.Causes()) * 2,
		"tcptrace_state_dwell_seconds":       10,
		"tcptrace_stuck_sockets":             9,
		"tcptrace_time_wait_ends_total":      6,
		"tcptrace_events_lost_total":         4,
		"tcptrace_events_total":              1,
		"tcptrace_sequence_gaps_total":       1,
		"tcptrace_build_info":                1,
		"tcptrace_sockets":                   0, // not known before the first walk
		"tcptrace_local_ports_used_ratio":    0,
	} {
		if got := testutil.CollectAndCount(s, name); got != want {
			t.Errorf("%s has %d series, want %d", name, got, want)
		}
	}
	s.Sockets(func(state fsm.State) int { return int(state) }, 5)
	expect(t, s, "tcptrace_sockets", `
tcptrace_sockets{state="CLOSE_WAIT"} 8
tcptrace_sockets{state="CLOSING"} 11
tcptrace_sockets{state="ESTABLISHED"} 1
tcptrace_sockets{state="FIN_WAIT_1"} 4
tcptrace_sockets{state="FIN_WAIT_2"} 5
tcptrace_sockets{state="LAST_ACK"} 9
tcptrace_sockets{state="LISTEN"} 10
tcptrace_sockets{state="SYN_RCVD"} 3
tcptrace_sockets{state="SYN_SENT"} 2
tcptrace_sockets{state="TIME_WAIT"} 6
`)
	expect(t, s, "tcptrace_events_total", "tcptrace_events_total 42\n")
}

// Of a namespace that is gone, or no longer known, there is no value.
func TestPorts(t *testing.T) {
	s := open()
	s.Ports(map[uint32]float64{1: 1, 4026531840: 0.25})
	expect(t, s, "tcptrace_local_ports_used_ratio", `
tcptrace_local_ports_used_ratio{netns="1"} 1
tcptrace_local_ports_used_ratio{netns="4026531840"} 0.25
`)
	s.Ports(map[uint32]float64{4026531840: 0.5})
	expect(t, s, "tcptrace_local_ports_used_ratio", `
tcptrace_local_ports_used_ratio{netns="4026531840"} 0.5
`)
}

func edges() map[[2]fsm.State]bool {
	m := map[[2]fsm.State]bool{}
	for _, e := range fsm.Machine() {
		m[[2]fsm.State{e.From, e.To}] = true
	}
	return m
}

func TestLoss(t *testing.T) {
	s := open()
	for range 2 {
		check(t, s.Notice(&output.Notice{Kind: output.NoticeLost, Reason: "ringbuf_full", Count: 12}))
	}
	check(t, s.Notice(&output.Notice{Kind: output.NoticeLost, Reason: "minisocks_full", Count: 5}))
	check(t, s.Notice(&output.Notice{Kind: output.NoticeForgotten, Reason: "missed", Count: 7}))
	expect(t, s, "tcptrace_events_lost_total", `
tcptrace_events_lost_total{reason="minisocks_full"} 5
tcptrace_events_lost_total{reason="ringbuf_full"} 24
`)
	if got := s.Lost(); got != 24 {
		t.Errorf("%d lost, want 24: the others are no records", got)
	}
}

// What is not known, or a lower bound, is no observation.
func TestDwell(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*events.Event)
		want   int
	}{
		{"seen", func(*events.Event) {}, 1},
		{"a lower bound", func(e *events.Event) { e.Flags |= events.FlagAtLeast }, 0},
		{"not seen", func(e *events.Event) { e.Entered = 0 }, 0},
		{"it goes on", func(e *events.Event) { e.To = e.From }, 0},
	} {
		e := events.Event{Cookie: 1, Seq: 1, Time: 2_000_000_000, Entered: 1_000_000_000, From: fsm.CloseWait, To: fsm.LastAck}
		c.change(&e)
		s := open()
		observe(t, s, []events.Event{e})
		h := histogramOf(t, s, "CLOSE_WAIT")
		if got := int(h.GetSampleCount()); got != c.want {
			t.Errorf("%s: %d observations, want %d", c.name, got, c.want)
		}
		if c.want > 0 && h.GetSampleSum() != 1 {
			t.Errorf("%s: %v s, want 1", c.name, h.GetSampleSum())
		}
	}
}

func TestIllegalAndGaps(t *testing.T) {
	s := open()
	script := eventstest.New(eventstest.Start)
	script.IllegalEdge()
	script.IllegalJump()
	script.Gap()
	script.Skipped(eventstest.Skipped(16384, 16384))
	observe(t, s, script.Events())
	observe(t, s, []events.Event{{Cookie: 1 << 40, From: 13, To: fsm.Closed}})
	if n := testutil.CollectAndCount(s, "tcptrace_illegal_transitions_total"); n != 11*11+1 {
		t.Errorf("%d series of illegal transitions, want one more than from the start", n)
	}
	expect(t, s, "tcptrace_sequence_gaps_total", "tcptrace_sequence_gaps_total 1\n")
	expect(t, s, "tcptrace_time_wait_ends_total", "tcptrace_time_wait_ends_total{end=\"skipped\"} 1\n")
	text, err := testutil.CollectAndFormat(s, expfmt.TypeTextPlain, "tcptrace_illegal_transitions_total")
	check(t, err)
	for _, want := range []string{
		`{from="FIN_WAIT_2",to="CLOSED"} 1`, `{from="other",to="CLOSED"} 1`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestTimeWaitEnds(t *testing.T) {
	s := open()
	script := eventstest.New(eventstest.Start)
	for end := fsm.EndExpired; end <= fsm.EndResetSent; end++ {
		script.TimeWait(end, time.Minute)
	}
	observe(t, s, script.Events())
	expect(t, s, "tcptrace_time_wait_ends_total", `
tcptrace_time_wait_ends_total{end="expired"} 1
tcptrace_time_wait_ends_total{end="killed"} 1
tcptrace_time_wait_ends_total{end="netns"} 1
tcptrace_time_wait_ends_total{end="reset"} 2
tcptrace_time_wait_ends_total{end="reused"} 1
`)
}

func TestClosed(t *testing.T) {
	s := open()
	for _, c := range []lifecycle.Lifecycle{
		{Cause: fsm.CauseFinished, Role: lifecycle.RoleActive},
		{Cause: fsm.CauseFinished, Role: lifecycle.RoleActive},
		{Cause: fsm.CauseTimeout, Role: lifecycle.RolePassive},
		{Cause: fsm.CauseResetSent}, // it is not known who began it
		{Cause: fsm.CauseNone, Role: lifecycle.RoleActive},
		{Cause: 200},
	} {
		check(t, s.Lifecycle(&c))
	}
	expect(t, s, "tcptrace_connections_closed_total", `
tcptrace_connections_closed_total{cause="finished",role="active"} 2
tcptrace_connections_closed_total{cause="reset_sent",role=""} 1
tcptrace_connections_closed_total{cause="timeout",role="passive"} 1
tcptrace_connections_closed_total{cause="unknown",role=""} 1
tcptrace_connections_closed_total{cause="unknown",role="active"} 1
`)
}

func TestStuck(t *testing.T) {
	s := open()
	socket := func(cookie uint64, state fsm.State, resolved bool) *lifecycle.Stuck {
		return &lifecycle.Stuck{Cookie: cookie, State: state, Resolved: resolved}
	}
	for _, found := range []*lifecycle.Stuck{
		socket(1, fsm.CloseWait, false), socket(2, fsm.CloseWait, false), socket(3, fsm.SynRcvd, false),
		socket(1, fsm.CloseWait, true), socket(4, fsm.LastAck, true), // that nobody had told of
	} {
		check(t, s.Stuck(found))
	}
	expect(t, s, "tcptrace_stuck_sockets", `
tcptrace_stuck_sockets{state="CLOSE_WAIT"} 1
tcptrace_stuck_sockets{state="SYN_RCVD"} 1
`)
}

// owned is a transition of a socket of its own, of a process, so long after the start.
func owned(comm string, at time.Duration) events.Event {
	return events.Event{
		Time: eventstest.Start + uint64(at), Cookie: 1, Seq: 1, From: fsm.Closed, To: fsm.SynSent, NetNS: 7,
		Owner: eventstest.Owned(1, comm, events.OwnerConnect),
	}
}

func TestGroups(t *testing.T) {
	s := open(prom.LabelComm, prom.LabelNetNS)
	unowned := owned("", 0)
	unowned.Owner = events.Owner{}
	observe(t, s, []events.Event{owned("curl", 0), owned("a\xff", 0), owned("a\xfe", 0), owned("curl", 0), unowned})
	stuck := &lifecycle.Stuck{Cookie: 1, State: fsm.CloseWait, Owner: eventstest.Owned(1, "curl", events.OwnerAccept)}
	check(t, s.Stuck(stuck))
	check(t, s.Lifecycle(&lifecycle.Lifecycle{Cause: fsm.CauseRefused, NetNS: 7, Owner: stuck.Owner}))
	expect(t, s, "tcptrace_state_transitions_total", `
tcptrace_state_transitions_total{comm="",from="CLOSED",netns="7",to="SYN_SENT"} 1
tcptrace_state_transitions_total{comm="a\\xfe",from="CLOSED",netns="7",to="SYN_SENT"} 1
tcptrace_state_transitions_total{comm="a\\xff",from="CLOSED",netns="7",to="SYN_SENT"} 1
tcptrace_state_transitions_total{comm="curl",from="CLOSED",netns="7",to="SYN_SENT"} 2
`)
	expect(t, s, "tcptrace_stuck_sockets", `
tcptrace_stuck_sockets{comm="curl",netns="",state="CLOSE_WAIT"} 1
`)
	expect(t, s, "tcptrace_connections_closed_total", `
tcptrace_connections_closed_total{cause="refused",comm="curl",netns="7",role=""} 1
`)
}

func TestGroupsByPlace(t *testing.T) {
	s := open(prom.LabelContainer, prom.LabelUnit)
	tn := outputtest.Transition()
	tn.Place = events.Place{Container: "4f2a", Unit: "nginx.service"}
	check(t, s.Transition(tn))
	expect(t, s, "tcptrace_state_transitions_total", `
tcptrace_state_transitions_total{container="4f2a",from="ESTABLISHED",to="FIN_WAIT_1",unit="nginx.service"} 1
`)
}

// A local port is a label if something listens on it, now or before; others are
// ephemeral.
func TestLocalPorts(t *testing.T) {
	s := open(prom.LabelLPort)
	script := eventstest.New(eventstest.Start)
	script.Exchange("127.0.0.1:40000", "127.0.0.1:80")
	observe(t, s, script.Events())

	before := eventstest.New(eventstest.Start)
	found := before.Socket("10.0.0.1:8080", "").To(fsm.Listen, 0)
	walked := before.Events()[0]
	walked.From, walked.Source = fsm.Listen, events.SourceSnapshot
	s.Found(&lifecycle.Transition{Event: &walked})
	leaked := lifecycle.Stuck{Cookie: 9, State: fsm.CloseWait, NetNS: found.NetNS, Local: found.Local}
	check(t, s.Stuck(&leaked))

	text, err := testutil.CollectAndFormat(s, expfmt.TypeTextPlain, "tcptrace_state_transitions_total", "tcptrace_stuck_sockets")
	check(t, err)
	if strings.Contains(string(text), "40000") {
		t.Errorf("an ephemeral port is a label:\n%s", text)
	}
	for _, want := range []string{
		`tcptrace_state_transitions_total{from="LISTEN",lport="80",to="SYN_RCVD"} 1`,
		`tcptrace_state_transitions_total{from="CLOSE_WAIT",lport="80",to="LAST_ACK"} 1`,
		`tcptrace_state_transitions_total{from="SYN_SENT",lport="",to="ESTABLISHED"} 1`,
		`tcptrace_stuck_sockets{lport="8080",state="CLOSE_WAIT"} 1`,
	} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// The rest is other; and whoever calls himself so is among it.
func TestSeriesAreCapped(t *testing.T) {
	s := openFor(3, prom.LabelComm)
	list := []events.Event{owned("other", 0)}
	for i := range 10 {
		list = append(list, owned(fmt.Sprint("p", i), 0))
	}
	list = append(list, owned("p0", 0), owned("p9", 0))
	observe(t, s, list)
	e := owned("p1", 0)
	e.From, e.To, e.Seq = fsm.SynSent, fsm.Established, 2 // for a series that is not there
	observe(t, s, []events.Event{e})
	expect(t, s, "tcptrace_state_transitions_total", `
tcptrace_state_transitions_total{comm="other",from="CLOSED",to="SYN_SENT"} 9
tcptrace_state_transitions_total{comm="other",from="SYN_SENT",to="ESTABLISHED"} 1
tcptrace_state_transitions_total{comm="p0",from="CLOSED",to="SYN_SENT"} 2
tcptrace_state_transitions_total{comm="p1",from="CLOSED",to="SYN_SENT"} 1
tcptrace_state_transitions_total{comm="p2",from="CLOSED",to="SYN_SENT"} 1
`)
}

// What is over the cap is resolved where it was counted.
func TestStuckOverTheCap(t *testing.T) {
	s := openFor(1, prom.LabelComm)
	for cookie, comm := range []string{"a", "b"} {
		check(t, s.Stuck(&lifecycle.Stuck{Cookie: uint64(cookie), State: fsm.CloseWait, Owner: eventstest.Owned(1, comm, events.OwnerAccept)}))
	}
	want := `
tcptrace_stuck_sockets{comm="a",state="CLOSE_WAIT"} 1
tcptrace_stuck_sockets{comm="other",state="CLOSE_WAIT"} 1
`
	expect(t, s, "tcptrace_stuck_sockets", want)
	check(t, s.Stuck(&lifecycle.Stuck{Cookie: 1, State: fsm.CloseWait, Resolved: true, Owner: eventstest.Owned(1, "a", events.OwnerAccept)}))
	expect(t, s, "tcptrace_stuck_sockets", `
tcptrace_stuck_sockets{comm="a",state="CLOSE_WAIT"} 1
`)
}

// A group of which nothing is heard goes, and leaves its room to others; one that is
// stuck stays.
func TestStaleGroupsGo(t *testing.T) {
	s := openFor(2, prom.LabelComm)
	observe(t, s, []events.Event{owned("old", 0)})
	check(t, s.Stuck(&lifecycle.Stuck{Time: eventstest.Start, Cookie: 5, State: fsm.CloseWait, Owner: eventstest.Owned(1, "stuck", events.OwnerAccept)}))
	check(t, s.Flush())
	later := owned("", 2*time.Hour)
	s.Found(&lifecycle.Transition{Event: &later})
	check(t, s.Flush())
	observe(t, s, []events.Event{owned("new", 2*time.Hour)})
	expect(t, s, "tcptrace_state_transitions_total", `
tcptrace_state_transitions_total{comm="new",from="CLOSED",to="SYN_SENT"} 1
`)
	expect(t, s, "tcptrace_stuck_sockets", `
tcptrace_stuck_sockets{comm="stuck",state="CLOSE_WAIT"} 1
`)
}

// A counter that went and came again began anew: whoever takes it for the one before
// would see it fall.
func TestCountersTellWhenTheyBegan(t *testing.T) {
	s := openFor(1, prom.LabelComm)
	began := func() time.Time {
		t.Helper()
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(s)
		families, err := registry.Gather()
		check(t, err)
		for _, f := range families {
			if f.GetName() == "tcptrace_state_transitions_total" && len(f.GetMetric()) == 1 {
				return f.GetMetric()[0].GetCounter().GetCreatedTimestamp().AsTime()
			}
		}
		t.Fatal("want one counter of transitions")
		return time.Time{}
	}
	observe(t, s, []events.Event{owned("curl", 0)})
	first := began()
	observe(t, s, []events.Event{owned("curl", time.Second)})
	if again := began(); !again.Equal(first) {
		t.Errorf("it began at %v, and then at %v", first, again)
	}
	check(t, s.Flush())
	later := owned("", 2*time.Hour)
	s.Found(&lifecycle.Transition{Event: &later})
	check(t, s.Flush())
	observe(t, s, []events.Event{owned("curl", 2*time.Hour)})
	if again := began(); !again.After(first) {
		t.Errorf("it began at %v, as the one before at %v", again, first)
	}
}

func TestParseLabels(t *testing.T) {
	got, err := prom.ParseLabels([]string{"comm", " lport", "comm"})
	if err != nil || fmt.Sprint(got) != "[comm lport]" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := prom.ParseLabels([]string{"raddr"}); err == nil || !strings.Contains(err.Error(), `"raddr"`) {
		t.Errorf("raddr: %v", err)
	}
}

// Scrapes see the same sum twice, whatever goes on.
func TestScrapesWhileCounting(t *testing.T) {
	s := open(prom.LabelComm)
	server := httptest.NewServer(prom.Handler(s.Registry()))
	defer server.Close()
	script := eventstest.New(eventstest.Start)
	script.Churn(500)
	list := script.Events()
	var wait sync.WaitGroup
	wait.Go(func() { observe(t, s, list) })
	for range 5 {
		response, err := http.Get(server.URL)
		check(t, err)
		body, err := io.ReadAll(response.Body)
		check(t, err)
		check(t, response.Body.Close())
		if response.StatusCode != http.StatusOK || !strings.Contains(string(body), "go_goroutines") {
			t.Fatalf("%s:\n%s", response.Status, body)
		}
	}
	wait.Wait()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	check(t, err)
	sum := 0.0
	for _, f := range families {
		if f.GetName() == "tcptrace_state_transitions_total" {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	if int(sum) != len(list) {
		t.Errorf("%v transitions, want %d", sum, len(list))
	}
}

func TestTransitionDoesNotAllocate(t *testing.T) {
	for _, by := range [][]prom.Label{nil, prom.Labels()} {
		s, list := open(by...), churn()
		if n := testing.AllocsPerRun(10, func() {
			for i := range list {
				check(t, s.Transition(&list[i]))
			}
		}); n != 0 {
			t.Errorf("by %v: %v allocations for %d transitions", by, n, len(list))
		}
	}
}

func churn() []lifecycle.Transition {
	script := eventstest.New(eventstest.Start)
	script.Churn(100)
	list := script.Events()
	tr := lifecycle.NewTracker(0)
	out := make([]lifecycle.Transition, len(list))
	for i := range list {
		tr.Observe(&list[i], &out[i])
	}
	return out
}

func BenchmarkTransition(b *testing.B) {
	for _, by := range [][]prom.Label{nil, {prom.LabelComm}, prom.Labels()} {
		b.Run(fmt.Sprint("by ", by), func(b *testing.B) {
			s, list := open(by...), churn()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				_ = s.Transition(&list[i%len(list)])
			}
		})
	}
}

func BenchmarkScrape(b *testing.B) {
	s, list := open(prom.LabelComm), churn()
	for i := range list {
		_ = s.Transition(&list[i])
	}
	handler := prom.Handler(s.Registry())
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	for b.Loop() {
		handler.ServeHTTP(httptest.NewRecorder(), request)
	}
}
