package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tcptrace/fsm"
)

// lifecycleLine is a line of tcptrace life. A pointer tells 0 from what is not
// known.
type lifecycleLine struct {
	Type          string
	Socket        string
	Generation    uint32
	Role          string
	Start, End    time.Time
	Duration      *int64 `json:"duration_ns"`
	Handshake     *int64 `json:"handshake_ns"`
	Path          []string
	Dwell         map[string]int64 `json:"dwell_ns"`
	Close         closeLine
	TimeWait      *timeWaitLine `json:"time_wait"`
	BytesSent     *uint64       `json:"bytes_sent"`
	BytesReceived *uint64       `json:"bytes_received"`
	RTT           uint64        `json:"rtt_us"`
	Retransmits   *int
	Complete      bool
	Verdict       string
	Violations    []struct{ From, To, Rule, Reason string }
	Family        string
	Local, Remote endpoint
	PID           *int
	Comm          string
	UID           *int
	OwnerSource   string `json:"owner_source"`
	NetNS         uint32
	Cgroup        uint64
}

type closeLine struct {
	Cause, First string
	Errno        int
	ResetReason  string `json:"reset_reason"`
}

type timeWaitLine struct {
	Duration  int64 `json:"duration_ns"`
	Estimated bool
	End       string
}

// lifeID names a generation of a socket.
type lifeID struct {
	socket     string
	generation uint32
}

func (c *lifecycleLine) id() lifeID { return lifeID{c.Socket, c.Generation} }

func (c *lifecycleLine) path() string { return strings.Join(c.Path, " ") }

// String tells the life in one line.
func (c *lifecycleLine) String() string {
	text := fmt.Sprintf("%s/%d %v>%v %s %s, %s", c.Socket, c.Generation, c.Local.addrPort(), c.Remote.addrPort(), c.Role, c.path(), c.Verdict)
	for _, v := range c.Violations {
		text += fmt.Sprintf(" (%s)", v.Reason)
	}
	text += fmt.Sprintf(", close %+v", c.Close)
	if c.TimeWait != nil {
		text += fmt.Sprintf(", TIME_WAIT %+v", *c.TimeWait)
	}
	return text + fmt.Sprintf(", dwell %v, complete %t", c.Dwell, c.Complete)
}

// parseLives reads what tcptrace life wrote, as far as its lines are whole.
func parseLives(t *testing.T, text []byte) (lives []lifecycleLine, rest []line) {
	t.Helper()
	for whole := range bytes.Lines(text) {
		if !bytes.HasSuffix(whole, []byte("\n")) {
			break
		}
		if !bytes.HasPrefix(whole, []byte(`{"type":"lifecycle"`)) {
			var l line
			check(t, json.Unmarshal(whole, &l))
			rest = append(rest, l)
			continue
		}
		var c lifecycleLine
		d := json.NewDecoder(bytes.NewReader(whole))
		d.DisallowUnknownFields()
		if err := d.Decode(&c); err != nil {
			t.Fatalf("%v: %s", err, whole)
		}
		lives = append(lives, c)
	}
	return lives, rest
}

// lifeTracing is tcptrace life at work, which records as well: the recording
// then shows the transitions that the lives are made of.
type lifeTracing struct {
	*tracing
	recording string
	args      []string
	status    int // that it is to end with
}

// traceLife runs tcptrace life as trace does tcptrace.
func traceLife(ns *netns, args ...string) *lifeTracing {
	ns.t.Helper()
	const roomKiB = 8 << 10
	return traceLifeMany(ns, roomKiB, args...)
}

func traceLifeMany(ns *netns, roomKiB int, args ...string) *lifeTracing {
	ns.t.Helper()
	recording := filepath.Join(ns.t.TempDir(), "a.tct")
	tr := traceMany(ns, roomKiB, slices.Concat([]string{"life", "-w", recording}, args)...)
	return &lifeTracing{tracing: tr, recording: recording, args: args, status: exitDone}
}

// shown returns the lives shown so far.
func (tr *lifeTracing) shown() []lifecycleLine {
	tr.t.Helper()
	text, err := os.ReadFile(tr.stdout.Name())
	check(tr.t, err)
	lives, _ := parseLives(tr.t, text)
	return lives
}

// await waits until the first generation of the socket is shown.
func (tr *lifeTracing) await(cookie string) *lifecycleLine {
	tr.t.Helper()
	return tr.awaitID(lifeID{socket: cookie})
}

func (tr *lifeTracing) awaitID(id lifeID) *lifecycleLine {
	tr.t.Helper()
	return tr.awaitWithin(usualWait, fmt.Sprintf("the life of %s/%d", id.socket, id.generation),
		func(c *lifecycleLine) bool { return c.id() == id })
}

// awaitWithin waits until a life that is meant is shown.
func (tr *lifeTracing) awaitWithin(most time.Duration, what string, meant func(*lifecycleLine) bool) *lifecycleLine {
	tr.t.Helper()
	var lives []lifecycleLine
	found := -1
	for deadline := time.Now().Add(most); found < 0; time.Sleep(5 * time.Millisecond) {
		lives = tr.shown()
		found = slices.IndexFunc(lives, func(c lifecycleLine) bool { return meant(&c) })
		if found < 0 && time.Now().After(deadline) {
			tr.t.Fatalf("waited in vain for %s; shown are %s", what, writeLives(lives))
		}
	}
	return &lives[found]
}

func writeLives(lives []lifecycleLine) string {
	var b strings.Builder
	for i := range lives {
		fmt.Fprintf(&b, "\n  %v", &lives[i])
	}
	return b.String()
}

// lifeResult is what tcptrace life has said, with the transitions.
type lifeResult struct {
	*result
	lives []lifecycleLine
	total line // the summary of the lives
}

// finish ends the command when all sockets are closed, and checks what it said
// against its recording, the oracle and the kernel's counters.
func (tr *lifeTracing) finish() *lifeResult {
	tr.t.Helper()
	t := tr.t
	made := tr.oracle.settle(tr.ns)
	text := tr.whole()
	r := &lifeResult{result: newResult(tr.ns, strings.NewReader(replayWhole(t, tr.recording)), tr.stderr.String())}
	r.timers = tr.timers
	var rest []line
	r.lives, rest = parseLives(t, []byte(text))
	r.total = rest[len(rest)-1]

	tr.ns.checkDisturbance(made, r.traced(), r.passedOver())
	r.checkSound()
	r.compare(made)
	if !tr.ns.ended {
		if want := tr.ns.counters().minisocks(); tr.timers && r.takenOver() != want {
			t.Errorf("%d minisocks took over, the kernel made %d", r.takenOver(), want)
		}
	}
	r.checkLives()
	return r
}

// whole stops the command and returns what it wrote, which its recording shows as
// well, byte for byte.
func (tr *lifeTracing) whole() string {
	t := tr.t
	t.Helper()
	text := tr.text()
	if tr.tracing.status != tr.status {
		t.Errorf("ended with status %d, want %d: %s", tr.tracing.status, tr.status, tr.stderr)
	}
	if replayed := replayAs(t, slices.Concat([]string{"life", "-r", tr.recording, "-o", "json"}, tr.args), tr.status); replayed != text {
		t.Errorf("the recording shows something else than the live run:\n%s\nlive:\n%s", replayed, text)
	}
	return text
}

// end is finish for a command that shows only some of the lives, or not all of
// them: it returns those, and the summary.
func (tr *lifeTracing) end() (lives []lifecycleLine, summary line) {
	tr.t.Helper()
	made := tr.oracle.settle(tr.ns)
	lives, rest := parseLives(tr.t, []byte(tr.whole()))
	r := newResult(tr.ns, strings.NewReader(replayWhole(tr.t, tr.recording)), tr.stderr.String())
	tr.ns.checkDisturbance(made, r.traced(), r.passedOver())
	return lives, rest[len(rest)-1]
}

// replayAs returns what a command says of a recording.
func replayAs(t *testing.T, args []string, want int) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if status := run(args, strings.NewReader(""), &stdout, &stderr); status != want {
		t.Errorf("status %d, want %d: %s", status, want, &stderr)
	}
	return stdout.String()
}

// checkLives holds each life against the transitions it is made of.
func (r *lifeResult) checkLives() {
	t := r.t
	t.Helper()
	bySocket := make(map[lifeID]*tracedLife)
	for _, s := range r.sockets {
		bySocket[lifeID{s.lines[0].Socket, s.lines[0].Generation}] = s
	}
	shown := make(map[lifeID]bool)
	illegal := 0
	for i := range r.lives {
		c := &r.lives[i]
		illegal += len(c.Violations)
		if c.NetNS != r.ns.inode {
			t.Errorf("namespace %d, want %d: %v", c.NetNS, r.ns.inode, c)
		}
		if c.Socket == "" {
			continue // a handshake
		}
		if shown[c.id()] {
			t.Errorf("shown twice: %v", c)
		}
		shown[c.id()] = true
		if s := bySocket[c.id()]; s != nil {
			r.checkLife(c, s)
		} else {
			t.Errorf("a life without transitions: %v", c)
		}
	}
	if r.total.Type != "summary" || r.total.Connections != len(r.lives) || r.total.Illegal != illegal || r.total.Lost != r.passedOver() {
		t.Errorf("the summary is %+v, want %d connections, %d illegal", r.total, len(r.lives), illegal)
	}
}

func (r *lifeResult) checkLife(c *lifecycleLine, s *tracedLife) {
	t := r.t
	t.Helper()
	path := []string{s.lines[0].From}
	dwell := make(map[string]int64)
	entered := time.Time{}
	for _, l := range s.lines {
		if last := path[len(path)-1]; l.From != last { // a FIN that a minisock took unseen
			path = append(path, l.From)
			if l.Estimated {
				dwell[last] = l.Time.Sub(entered).Nanoseconds() - *l.Dwell
			}
		}
		if l.From != l.To {
			path = append(path, l.To)
			entered = l.Time
			bounded := l.atLeast() && l != s.lines[0]                        // of the first state alone is told
			if l.Dwell != nil && !bounded && l.From != fsm.Closed.String() { // that is between two lives
				dwell[l.From] += *l.Dwell
			}
		}
	}
	over := path[len(path)-1] == fsm.Closed.String()
	if !slices.Equal(c.Path, path) {
		t.Errorf("the path is %v, the transitions say %v: %v", c.Path, path, c)
	}
	got := maps.Clone(c.Dwell)
	if !over {
		delete(got, path[len(path)-1]) // so far
	}
	if !maps.Equal(got, dwell) {
		t.Errorf("the dwells are %v, the transitions say %v: %v", got, dwell, c)
	}
	first := s.lines[0]
	begun := first.From == fsm.Closed.String() || first.From == fsm.Listen.String() && first.To == fsm.SynRcvd.String()
	if want := over && begun; c.Complete != want && r.timers {
		t.Errorf("complete is %t, want %t: %v", c.Complete, want, c)
	}
	if c.Complete {
		sum := int64(0)
		for _, d := range c.Dwell {
			sum += d
		}
		duration := c.End.Sub(c.Start).Nanoseconds()
		inSynRcvd := c.Role == "passive" && c.Handshake == nil // from the final ACK on, and not told
		if c.Duration == nil || *c.Duration != duration || duration != sum && (!inSynRcvd || duration < sum) {
			t.Errorf("the dwells sum up to %d, the duration is %d, from %v to %v: %v", sum, duration, c.Start, c.End, c)
		}
	}
	if d, ok := c.Dwell[fsm.TimeWait.String()]; ok != (c.TimeWait != nil && c.TimeWait.End != "skipped") || ok && c.TimeWait.Duration != d {
		t.Errorf("time_wait does not go with the dwell: %v", c)
	}
}

// life returns the life of the first generation of a socket.
func (r *lifeResult) life(cookie string) *lifecycleLine {
	r.t.Helper()
	return r.lifeOf(lifeID{socket: cookie})
}

func (r *lifeResult) lifeOf(id lifeID) *lifecycleLine {
	r.t.Helper()
	for i := range r.lives {
		if r.lives[i].id() == id {
			return &r.lives[i]
		}
	}
	r.t.Fatalf("no life of %s/%d is shown, only %s", id.socket, id.generation, writeLives(r.lives))
	return nil
}

// TestKernelLifeUntilClosed: a life is shown when its minisock begins, and not
// again when that ends.
func TestKernelLifeUntilClosed(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := traceLife(ns, "--until", "closed")
		listener, client, server := ns.connected()
		inTimeWait, passive := client.cookie(), server.cookie()
		leaveInTimeWait(client, server)
		client, server = ns.dial(ns.v4(2), listener)
		inFinWait2 := client.cookie()
		leaveInFinWait2(client)
		tr.await(inTimeWait)
		tr.await(passive)
		tr.await(inFinWait2)
		ns.checkSS(inTimeWait, "TIME-WAIT")
		ns.checkSS(inFinWait2, "FIN-WAIT-2")
		server.reset()
		listener.close()
		ns.destroyTimeWait()

		lives, summary := tr.end()
		if len(lives) != 4 || summary.Connections != 4 {
			t.Errorf("%d lives, the summary says %d, want 4: %s", len(lives), summary.Connections, writeLives(lives))
		}
		got := make(map[string]string)
		for i := range lives {
			got[lives[i].Socket] = lives[i].story()
		}
		for cookie, want := range map[string]string{
			inTimeWait: "active: CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 TIME_WAIT; finished by local; legal, incomplete",
			inFinWait2: "active: CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2;  by ; linux, incomplete",
			passive:    "passive: LISTEN SYN_RCVD ESTABLISHED CLOSE_WAIT LAST_ACK CLOSED; finished by remote; legal",
		} {
			if got[cookie] != want {
				t.Errorf("the story is\n  %s, want\n  %s", got[cookie], want)
			}
		}
		// A recording can be shown either way.
		gone, _ := parseLives(t, []byte(replayAs(t, []string{"life", "-r", tr.recording, "-o", "json"}, exitDone)))
		for i := range gone {
			if c := &gone[i]; c.Socket == inTimeWait {
				checkStory(t, c, activeTimeWait+"killed; abort")
			}
		}
	})
}

// TestKernelLifeInterrupted: at the end of the run, what is in TIME_WAIT is shown
// as far as it has come. What has a socket is shown with --open only.
func TestKernelLifeInterrupted(t *testing.T) {
	requireKernel(t)
	for _, args := range [][]string{nil, {"--open"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				tr := traceLife(ns, args...)
				listener := ns.listen(ns.v4(1))
				open, openServer := ns.dial(ns.v4(2), listener)
				client, server := ns.dial(ns.v4(2), listener)
				inTimeWait, passive := client.cookie(), server.cookie()
				leaveInTimeWait(client, server)
				lapse(100 * time.Millisecond)
				tr.stop()
				lives, rest := parseLives(t, []byte(tr.whole()))
				openCookie, openServerCookie := open.cookie(), openServer.cookie()
				open.close()
				openServer.close()
				listener.close()

				want := map[string]string{
					inTimeWait: "active: CLOSED SYN_SENT ESTABLISHED FIN_WAIT_1 FIN_WAIT_2 TIME_WAIT; finished by local; legal, incomplete",
					passive:    "passive: LISTEN SYN_RCVD ESTABLISHED CLOSE_WAIT LAST_ACK CLOSED; finished by remote; legal",
				}
				if len(args) > 0 {
					want[openCookie] = "active: CLOSED SYN_SENT ESTABLISHED;  by ; legal, incomplete"
					want[openServerCookie] = "passive: LISTEN SYN_RCVD ESTABLISHED;  by ; legal, incomplete"
				}
				got := make(map[string]string)
				for i := range lives {
					c := &lives[i]
					got[c.Socket] = c.story()
					if last := c.Path[len(c.Path)-1]; !c.Complete && c.Dwell[last] < int64(100*time.Millisecond) {
						t.Errorf("at least 100ms in %s: %v", last, c)
					}
				}
				if !maps.Equal(got, want) {
					t.Errorf("saw %v, want %v", got, want)
				}
				if sum := rest[len(rest)-1]; sum.Connections != len(want) {
					t.Errorf("the summary has %d connections, want %d", sum.Connections, len(want))
				}
			})
		})
	}
}

// TestKernelLifeCount: after so many lives it ends by itself, whatever else is
// in TIME_WAIT.
func TestKernelLifeCount(t *testing.T) {
	requireKernel(t)
	ns := newNetNS(t)
	tr := traceLife(ns, "-c", "3")
	listener, client, server := ns.connected()
	leaveInTimeWait(client, server)
	listener.close()
	for range 4 {
		playLinger0(ns) // two
	}
	eventually(t, "the command ends", tr.poll)
	lives, rest := parseLives(t, []byte(tr.text()))
	if len(lives) != 3 || rest[len(rest)-1].Connections != 3 {
		t.Errorf("%d lives, the summary is %+v, want 3: %s", len(lives), rest[len(rest)-1], writeLives(lives))
	}
}

// TestKernelLifeFilters: a life is chosen by what is known of it at its end.
func TestKernelLifeFilters(t *testing.T) {
	requireKernel(t)
	const port = 1001
	for _, test := range []struct {
		args string
		want string // of the lives: their paths
	}{
		{"", "A1 A2 P1 P2 R"},
		{"-L 1001", "P1"},
		{"-D 1001", "A1"},
		{"--port 1001", "A1 P1"},
		{"--comm visitor", "A2"},
		{"-s TIME_WAIT", "A1"},
		{"-s LISTEN", "P1 P2"},
		{"-s SYN_RCVD,TIME_WAIT", "A1 P1 P2 R"},
		{"--verdict abort", "A1 A2 P2 R"},
		{"--verdict legal", "P1"},
		{"--remote NET.3", "R"},
	} {
		t.Run(test.args, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				net := strings.TrimSuffix(ns.v4(0).String(), ".0")
				tr := traceLife(ns, strings.Fields(strings.ReplaceAll(test.args, "NET", net))...)
				names := make(map[string]string)

				first := ns.socket(ns.v4(1))
				first.bind(ns.v4(1), port)
				first.listen(4)
				client, server := ns.dial(ns.v4(2), first)
				names[client.cookie()], names[server.cookie()] = "A1", "P1"
				leaveInTimeWait(client, server)
				first.close()
				ns.destroyTimeWait()

				second := ns.listen(ns.v4(1))
				visitor := ns.startRole(0, "client", second.addr().String(), "visitor")
				visitor.says()
				server = second.accept()
				names[server.cookie()] = "P2"
				for cookie, l := range ns.ss() {
					if l.remote == second.addr().String() {
						names[cookie] = "A2"
					}
				}
				server.reset()
				visitor.finish()
				second.close()

				third := ns.listen(ns.v4(1))
				ns.wire().syn(netip.AddrPortFrom(ns.v4(3), 7001), third.addr())
				names[""] = "R"
				third.close()

				lives, summary := tr.end()
				var got []string
				for i := range lives {
					got = append(got, names[lives[i].Socket])
				}
				slices.Sort(got)
				if strings.Join(got, " ") != test.want || summary.Connections != len(got) {
					t.Errorf("shown are %q, the summary says %d, want %s: %s", got, summary.Connections, test.want, writeLives(lives))
				}
			})
		})
	}
}

// TestKernelLifeText: text has the same lives as JSON, and a recording the same
// text as the live run.
func TestKernelLifeText(t *testing.T) {
	requireKernel(t)
	for _, args := range [][]string{nil, {"--wide"}, {"--until", "gone"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				recording := filepath.Join(t.TempDir(), "a.tct")
				tr := trace(ns, slices.Concat([]string{"life", "-o", "text", "-w", recording}, args)...)
				playLinger0(ns)
				listener, client, server := ns.connected()
				leaveInTimeWait(client, server)
				listener.close()
				ns.destroyTimeWait()
				rows := tr.rows()
				// Live, text does not wait for TIME_WAIT.
				again := slices.Concat([]string{"life", "-r", recording, "--until", "closed"}, args)
				if text := tr.text(); replayAs(t, again, exitDone) != text {
					t.Errorf("replayed:\n%s\nlive:\n%s", replayAs(t, again, exitDone), text)
				}
				timeWait := 0
				for _, row := range rows {
					if strings.Contains(row, "TW") {
						timeWait++
						if gone := strings.Contains(row, "TIME_WAIT killed after "); gone != slices.Contains(args, "gone") || gone == strings.Contains(row, "…") {
							t.Errorf("TIME_WAIT has ended, or not: %s", row)
						}
					}
				}
				if len(rows) != 4 || timeWait != 1 {
					t.Errorf("%d rows, %d with TIME_WAIT, want 4 and 1: %q", len(rows), timeWait, rows)
				}
			})
		})
	}
}
