package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"tcptrace/fsm"
	"tcptrace/output/picture"
	"tcptrace/output/web"
)

// pageState is what the page of the agent is sent.
type pageState struct {
	Transitions, Closed, Illegal, Gaps, Lost uint64
	Stuck                                    int
	Walked                                   bool
	States                                   []struct {
		Name    string
		Sockets *float64
		Owners  []struct {
			Name    string
			Sockets float64
		}
		Dwell *struct {
			Count   float64
			AtLeast float64 `json:"at_least"`
			Unknown float64
			P50     *struct{ NS float64 }
			P99     *struct{ NS float64 }
		}
		Histogram []struct{ Count float64 }
	}
	Edges []struct {
		From, To       string
		Count, Illegal float64
		P50            *struct{ NS float64 }
	}
	StuckGroups []struct {
		State, Owner, Hint, Socket string
		Count                      float64
	} `json:"stuck_groups"`
	Findings []struct{ From, To, Owner, Reason, Rule, Socket string }
}

// pageOf serves the page of what was seen, and returns what it is sent, and gets.
func pageOf(t *testing.T, seen *pictures) (*pageState, func(path string) string) {
	t.Helper()
	page := web.New(&web.Options{Ask: func(_ context.Context, r *picture.Request) *picture.Picture { return seen.picture(r) }})
	server := httptest.NewServer(page)
	t.Cleanup(func() {
		page.Close()
		server.Close()
	})
	fetch := func(path string) string {
		t.Helper()
		status, body := get(t, server.URL+path)
		if status != 200 {
			t.Fatalf("%s: %d %s", path, status, body)
		}
		return body
	}
	state := &pageState{}
	check(t, json.Unmarshal([]byte(fetch("/state.json")), state))
	return state, fetch
}

// TestPageAgrees: of a recording, the page, /metrics and stat say the same.
func TestPageAgrees(t *testing.T) {
	for _, recording := range []string{"scenarios.tct", "lifecycles.tct", "stuck.tct", "ports.tct", "containers.tct"} {
		t.Run(recording, func(t *testing.T) {
			metrics, _, seen := agentPictures(t, recording)
			page, _ := pageOf(t, seen)
			samples := make(map[string]float64)
			for line := range strings.Lines(metrics) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				if n, err := strconv.ParseFloat(value, 64); err == nil {
					samples[name] = n
				}
			}
			metric := func(name string) map[string]float64 { return only(maps.Clone(samples), name) }

			edges, illegal, sockets, dwells := map[string]float64{}, map[string]float64{}, map[string]float64{}, map[string]float64{}
			set := func(of map[string]float64, name string, n float64) {
				if n != 0 { // which the exposition leaves out
					of[name] = n
				}
			}
			for _, e := range page.Edges {
				set(edges, `tcptrace_state_transitions_total{from="`+e.From+`",to="`+e.To+`"}`, e.Count)
				set(illegal, `tcptrace_illegal_transitions_total{from="`+e.From+`",to="`+e.To+`"}`, e.Illegal)
			}
			for _, s := range page.States {
				if s.Sockets != nil {
					set(sockets, `tcptrace_sockets{state="`+s.Name+`"}`, *s.Sockets)
				}
				if s.Dwell != nil {
					set(dwells, `tcptrace_state_dwell_seconds_count{state="`+s.Name+`"}`, s.Dwell.Count)
					sum := 0.0
					for _, b := range s.Histogram {
						sum += b.Count
					}
					if sum != s.Dwell.Count {
						t.Errorf("%s: %v times in the distribution, want %v", s.Name, sum, s.Dwell.Count)
					}
				}
			}
			for name, got := range map[string]map[string]float64{
				"tcptrace_state_transitions_total": edges, "tcptrace_illegal_transitions_total": illegal,
				"tcptrace_sockets": sockets, "tcptrace_state_dwell_seconds_count": dwells,
			} {
				if want := metric(name); !reflect.DeepEqual(got, want) {
					t.Errorf("the page has\n%v\n/metrics has\n%v", got, want)
				}
			}
			stuck, lost := 0.0, samples[`tcptrace_events_lost_total{reason="ringbuf_full"}`]+samples[`tcptrace_events_lost_total{reason="missed"}`]
			for _, n := range metric("tcptrace_stuck_sockets") {
				stuck += n
			}
			if page.Walked && float64(page.Stuck) != stuck {
				t.Errorf("the page has %d stuck, /metrics has %v", page.Stuck, stuck)
			}
			if float64(page.Lost) != lost || float64(page.Gaps) != samples["tcptrace_sequence_gaps_total"] {
				t.Errorf("the page has %d lost, %d gaps; /metrics has %v, %v", page.Lost, page.Gaps, lost, samples["tcptrace_sequence_gaps_total"])
			}
			compareWithStat(t, recording, page)
		})
	}
}

func compareWithStat(t *testing.T, recording string, page *pageState) {
	t.Helper()
	args := []string{"stat", "-o", "json", "-r", "testdata/recordings/" + recording}
	counted := statOf(t, args)
	stuck := strings.Count(replayAs(t, []string{"stuck", "-o", "json", "-r", "testdata/recordings/" + recording}, exitDone), `"type":"stuck"`)
	if page.Stuck != stuck {
		t.Errorf("the page has %d stuck, stuck has %d", page.Stuck, stuck)
	}
	closed, illegal := uint64(0), uint64(0)
	for _, n := range counted.Closed {
		closed += n
	}
	for _, c := range counted.Matrix {
		illegal += c.Illegal
	}
	if page.Transitions != counted.Transitions || page.Closed != closed || page.Illegal != illegal ||
		page.Gaps != counted.Verdicts["gap"] || page.Lost != counted.Lost {
		t.Errorf("the page has %+v, stat has %+v", page, counted)
	}
	var window struct {
		Type  string
		Dwell map[string]struct {
			Count   float64
			AtLeast float64 `json:"at_least"`
			Unknown float64
			P50     float64 `json:"p50_ns"`
			P99     float64 `json:"p99_ns"`
		}
	}
	for d := json.NewDecoder(strings.NewReader(replayAs(t, args, exitDone))); window.Type != "stat"; {
		check(t, d.Decode(&window))
	}
	for _, s := range page.States {
		want, known := window.Dwell[s.Name]
		if known != (s.Dwell != nil) {
			t.Errorf("%s: the page has %v, stat has %v", s.Name, s.Dwell, want)
		}
		if !known || s.Dwell == nil {
			continue
		}
		if s.Dwell.Count != want.Count || s.Dwell.AtLeast != want.AtLeast || s.Dwell.Unknown != want.Unknown ||
			want.Count > 0 && (s.Dwell.P50.NS != want.P50 || s.Dwell.P99.NS != want.P99) || want.Count == 0 && s.Dwell.P50 != nil {
			t.Errorf("%s: the page has %+v, stat has %+v", s.Name, s.Dwell, want)
		}
	}
}

// What the page tells of single sockets: whose they are, what is wrong with them, and
// their connection with its other end, closed or not.
func TestPageSockets(t *testing.T) {
	_, _, seen := agentPictures(t, "lifecycles.tct")
	page, fetch := pageOf(t, seen)
	if len(page.StuckGroups) != 1 || page.StuckGroups[0].Owner != "nginx (80)" || page.StuckGroups[0].Hint == "" {
		t.Errorf("%+v", page.StuckGroups)
	}
	if len(page.Findings) != 1 || page.Findings[0].Rule == "" || !strings.HasPrefix(page.Findings[0].Reason, "TIME_WAIT skipped") {
		t.Errorf("%+v", page.Findings)
	}
	ladder := fetch("/ladder.txt?socket=" + page.Findings[0].Socket)
	if !strings.Contains(ladder, "client  10.0.0.1:40008") || !strings.Contains(ladder, "FIN_WAIT_2") {
		t.Error(ladder)
	}
	both := 0
	var list struct {
		All     int
		Sockets []struct {
			Socket, Local, Remote string
			Generation            int
		}
	}
	check(t, json.Unmarshal([]byte(fetch("/sockets.json?state=CLOSED")), &list))
	for _, s := range list.Sockets {
		text := fetch(fmt.Sprintf("/ladder.txt?socket=%s&generation=%d", s.Socket, s.Generation))
		if !strings.Contains(text, s.Local) || !strings.Contains(text, "socket "+s.Socket) {
			t.Errorf("%+v: %s", s, text)
		}
		if strings.Contains(text, "\nserver  ") && strings.Contains(text, "\nclient  ") {
			both++
		}
	}
	if list.All == 0 || len(list.Sockets) != list.All || both == 0 {
		t.Errorf("%d of %d closed, %d with both ends", len(list.Sockets), list.All, both)
	}
}

// Who looks at what was closed can ask for more of it when others have taken its place.
func TestPageKeeps(t *testing.T) {
	_, _, seen := agentPictures(t, "lifecycles.tct")
	rows := seen.picture(&picture.Request{Table: picture.TableSockets, State: fsm.Closed, Rows: 10, Keep: true}).Rows
	seen.closed = closedLives{}
	for _, row := range rows {
		d := seen.picture(&picture.Request{Socket: row.ID, Ladder: true}).Detail
		if d == nil || d.Ladder == nil {
			t.Errorf("%+v is not known any more", row.ID)
		}
	}
	for range maxKept {
		seen.keep()
	}
	if len(rows) == 0 || seen.picture(&picture.Request{Socket: rows[0].ID}).Detail != nil {
		t.Error("what is kept is not bounded")
	}
}
