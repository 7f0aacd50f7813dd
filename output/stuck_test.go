package output_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/outputtest"
)

// stuckRows is rows for what is stuck, with the summary at the end.
func stuckRows(t *testing.T, s func(io.Writer) output.Sink, sum *output.Summary, list ...*lifecycle.Stuck) []string {
	t.Helper()
	var b bytes.Buffer
	sink := s(&b)
	for _, stuck := range list {
		if err := sink.Stuck(stuck); err != nil {
			t.Fatal(err)
		}
	}
	if sum != nil {
		if err := sink.Summary(sum); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

func text(o output.TextOptions) func(io.Writer) output.Sink {
	return func(w io.Writer) output.Sink { return output.NewText(w, clock, &o) }
}

// stuck returns [outputtest.Stuck], changed.
func stuck(changes ...func(*lifecycle.Stuck)) *lifecycle.Stuck {
	s := outputtest.Stuck()
	for _, c := range changes {
		c(s)
	}
	return s
}

// gone returns what was stuck, and is not found any more.
func gone(s *lifecycle.Stuck) *lifecycle.Stuck {
	s.Resolve(s.Time+1e9, 0)
	return s
}

func TestTextOfStuck(t *testing.T) {
	for _, c := range []struct {
		name    string
		options output.TextOptions
		want    []string
	}{
		{"stuck", output.TextOptions{Table: output.TableStuck}, []string{
			"    AGE STATE           PID COMM            FD LADDR           LPORT RADDR           RPORT  RECVQ  SENDQ  RETR HINT",
			"  1m34s CLOSE_WAIT    22384 curl             7 10.0.0.1        63446 10.0.0.2           80    120   2.9K     4 the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread",
			"   ≥11s SYN_RCVD          - -                - -                   - -                   -      -      -     - the handshake is not completed",
			"  1m35s CLOSE_WAIT    22384 curl             - 10.0.0.1        63446 10.0.0.2           80      -      -     - -> LAST_ACK",
			"   ≥11s SYN_RCVD          - -                - -                   - -                   -      -      -     - gone",
		}},
		{"changes", output.TextOptions{Table: output.TableStuckChanges}, []string{
			"TIME         CHANGE       AGE STATE           PID COMM            FD LADDR           LPORT RADDR           RPORT  RECVQ  SENDQ  RETR HINT",
			"20:00:05.000 stuck      1m34s CLOSE_WAIT    22384 curl             7 10.0.0.1        63446 10.0.0.2           80    120   2.9K     4 the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread",
			"20:00:05.000 stuck       ≥11s SYN_RCVD          - -                - -                   - -                   -      -      -     - the handshake is not completed",
			"20:00:06.000 resolved   1m35s CLOSE_WAIT    22384 curl             - 10.0.0.1        63446 10.0.0.2           80      -      -     - -> LAST_ACK",
			"20:00:06.000 resolved    ≥11s SYN_RCVD          - -                - -                   - -                   -      -      -     - gone",
		}},
		{"wide", output.TextOptions{Table: output.TableStuck, Wide: true}, []string{
			"    AGE STATE           PID COMM                FD LADDR                                   LPORT RADDR                                   RPORT  RECVQ  SENDQ  RETR SOCKET       NETNS      HINT",
			"  1m34s CLOSE_WAIT    22384 curl                 7 10.0.0.1                                63446 10.0.0.2                                   80    120   2.9K     4 1f           4026531840 the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread",
			"   ≥11s SYN_RCVD          - -                    - -                                           - -                                           -      -      -     - -            -          the handshake is not completed",
			"  1m35s CLOSE_WAIT    22384 curl                 - 10.0.0.1                                63446 10.0.0.2                                   80      -      -     - 1f           4026531840 -> LAST_ACK",
			"   ≥11s SYN_RCVD          - -                    - -                                           - -                                           -      -      -     - -            -          gone",
		}},
		{"among transitions", output.TextOptions{}, []string{
			"TIME             PID COMM         LADDR           LPORT RADDR           RPORT FROM -> TO                        MS",
			"20:00:05.000   22384 curl         10.0.0.1        63446 10.0.0.2           80 STUCK CLOSE_WAIT for 1m34s: the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread",
			"20:00:05.000       - -            -                   - -                   - STUCK SYN_RCVD for ≥11s: the handshake is not completed",
			"20:00:06.000   22384 curl         10.0.0.1        63446 10.0.0.2           80 RESOLVED CLOSE_WAIT after 1m35s -> LAST_ACK",
			"20:00:06.000       - -            -                   - -                   - RESOLVED SYN_RCVD after ≥11s gone",
		}},
		{"among lifecycles, in colour", output.TextOptions{Table: output.TableLifecycles, Color: true}, []string{
			"TIME             PID COMM         LADDR           LPORT RADDR           RPORT     TX     RX         MS PATH            CLOSE",
			"20:00:05.000   22384 curl         10.0.0.1        63446 10.0.0.2           80 \x1b[33mSTUCK CLOSE_WAIT for 1m34s: the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread\x1b[0m",
			"20:00:05.000       - -            -                   - -                   - \x1b[33mSTUCK SYN_RCVD for ≥11s: the handshake is not completed\x1b[0m",
			"20:00:06.000   22384 curl         10.0.0.1        63446 10.0.0.2           80 RESOLVED CLOSE_WAIT after 1m35s -> LAST_ACK",
			"20:00:06.000       - -            -                   - -                   - RESOLVED SYN_RCVD after ≥11s gone",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := stuckRows(t, text(c.options), &output.Summary{}, outputtest.Stuck(), outputtest.UnknownStuck(),
				outputtest.Resolved(outputtest.Stuck()), gone(outputtest.UnknownStuck()))
			for i, w := range c.want {
				if i >= len(got) || got[i] != w {
					t.Errorf("row %d:\n%s\nwant:\n%s", i, got[min(i, len(got)-1)], w)
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("%d rows, want %d", len(got), len(c.want))
			}
		})
	}
}

// What has neither socket nor descriptors shows none, and of what no walk found
// nothing is known of them.
func TestStuckWithoutSocket(t *testing.T) {
	for name, s := range map[string]*lifecycle.Stuck{
		"minisock":  stuck(func(s *lifecycle.Stuck) { s.State, s.Minisock = fsm.TimeWait, true }),
		"handshake": stuck(func(s *lifecycle.Stuck) { s.State, s.Request = fsm.SynRcvd, true }),
		"recording": stuck(func(s *lifecycle.Stuck) { s.Snapshot, s.HasSnapshot, s.Retransmits = events.Snapshot{}, false, 0 }),
	} {
		row := strings.Fields(stuckRows(t, text(output.TextOptions{Table: output.TableStuck}), nil, s)[1])
		if got := strings.Join(append(row[4:5], row[9:12]...), " "); got != "- - - -" {
			t.Errorf("%s: FD RECVQ SENDQ RETR is %q", name, got)
		}
		line := stuckRows(t, func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }, nil, s)[0]
		for _, field := range []string{`"fd"`, `"holders"`, `_queue"`, `"retransmits"`} {
			if strings.Contains(line, field) {
				t.Errorf("%s: %s in %s", name, field, line)
			}
		}
		if has := strings.Contains(line, `"unanswered":2`); has != (name == "handshake") {
			t.Errorf("%s: unanswered %v in %s", name, has, line)
		}
	}
	// One that nobody holds has no descriptor, which is known.
	s := stuck(func(s *lifecycle.Stuck) { s.Orphan, s.Snapshot.Holders = true, 0 })
	if row := strings.Fields(stuckRows(t, text(output.TextOptions{Table: output.TableStuck}), nil, s)[1]); row[4] != "-" {
		t.Errorf("held by nobody, by fd %s", row[4])
	}
	line := stuckRows(t, func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }, nil, s)[0]
	if strings.Contains(line, `"fd"`) || !strings.Contains(line, `"holders":0`) {
		t.Error(line)
	}
	// Of one that was made during the walk it is not known who holds it.
	s.Orphan = false
	line = stuckRows(t, func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }, nil, s)[0]
	if strings.Contains(line, `"fd"`) || strings.Contains(line, `"holders"`) {
		t.Error(line)
	}
}

func TestReport(t *testing.T) {
	type change = func(*lifecycle.Stuck)
	owner := func(pid uint32, comm string) change {
		return func(s *lifecycle.Stuck) {
			s.Owner = events.Owner{PID: pid, Comm: events.MakeComm(comm), Source: events.OwnerSnapshot}
			s.Place = events.Place{}
		}
	}
	fd := func(n int32) change {
		return func(s *lifecycle.Stuck) { s.Snapshot = events.Snapshot{FD: n, Holders: 1} }
	}
	age := func(d time.Duration) change { return func(s *lifecycle.Stuck) { s.Age = d } }
	ends := func(local, remote string) change {
		return func(s *lifecycle.Stuck) {
			s.Local, s.Remote = netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
		}
	}
	in := func(state fsm.State) change { return func(s *lifecycle.Stuck) { s.State = state } }
	unheld := func(s *lifecycle.Stuck) { s.Snapshot = events.Snapshot{} }
	unknown := func(s *lifecycle.Stuck) { s.Owner, s.Place = events.Owner{}, events.Place{} }
	place := func(p events.Place) change { return func(s *lifecycle.Stuck) { s.Place = p } }

	var server []*lifecycle.Stuck
	for i := range int32(12) {
		server = append(server, stuck(owner(100, "python3"), fd(30-i), age(time.Duration(70+i)*time.Second),
			ends("10.0.0.9:8080", fmt.Sprintf("10.0.0.%d:%d", 1+max(i-6, 0), 40000+i))))
	}
	short := strings.Repeat("0123456789abcdef", 4)
	for _, c := range []struct {
		name string
		list []*lifecycle.Stuck
		want []string
	}{
		{"one", []*lifecycle.Stuck{outputtest.Stuck()}, []string{
			"STATE      COUNT OLDEST LIMIT   PID COMM                 LOCAL          PEERS       FDS",
			"CLOSE_WAIT     1  1m34s    1m 22384 curl (nginx.service) 10.0.0.1:63446 10.0.0.2:80 7",
			"    the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread",
		}},
		{"nothing known", []*lifecycle.Stuck{outputtest.UnknownStuck()}, []string{
			"STATE    COUNT OLDEST LIMIT PID COMM LOCAL PEERS FDS",
			"SYN_RCVD     1   ≥11s   10s   - -    -     -     -",
			"    the handshake is not completed",
		}},
		{"a server that leaks", server, []string{
			"STATE      COUNT OLDEST LIMIT PID COMM    LOCAL         PEERS                                                          FDS",
			"CLOSE_WAIT    12  1m21s    1m 100 python3 10.0.0.9:8080 10.0.0.1 (7), 10.0.0.2:40007 (1), 10.0.0.3:40008 (1), … 3 more 19, 20, 21 … (12)",
			"    the peers have closed, and this process has not called close on fds 19, 20, 21 … (12)",
		}},
		{"worst first, alike by state", []*lifecycle.Stuck{
			stuck(owner(1, "a"), fd(3), age(100*time.Second)),
			stuck(owner(2, "b"), fd(3), age(200*time.Second)),
			stuck(owner(3, "c"), fd(3), age(70*time.Second)),
			stuck(owner(3, "c"), fd(4), age(80*time.Second)),
			stuck(owner(2, "b"), in(fsm.LastAck), unheld, age(200*time.Second)),
		}, []string{
			"STATE      COUNT OLDEST LIMIT PID COMM LOCAL          PEERS           FDS",
			"CLOSE_WAIT     2  1m20s    1m   3 c    10.0.0.1:63446 10.0.0.2:80 (2) 3, 4",
			"    the peers have closed, and this process has not called close on fds 3, 4",
			"CLOSE_WAIT     1  3m20s    1m   2 b    10.0.0.1:63446 10.0.0.2:80     3",
			"    the peer has closed, and this process has not called close on fd 3",
			"LAST_ACK       1  3m20s    1m   2 b    10.0.0.1:63446 10.0.0.2:80     -",
			"    the peer does not acknowledge our FIN",
			"CLOSE_WAIT     1  1m40s    1m   1 a    10.0.0.1:63446 10.0.0.2:80     3",
			"    the peer has closed, and this process has not called close on fd 3",
		}},
		{"a client: ports differ", []*lifecycle.Stuck{
			stuck(owner(1, "a"), fd(3), ends("10.0.0.1:1001", "10.0.0.2:5432")),
			stuck(owner(1, "a"), fd(4), ends("10.0.0.1:1002", "10.0.0.2:5432")),
			stuck(owner(1, "a"), unheld, ends("10.0.0.1:1001", "10.0.0.2:5432")),
		}, []string{
			"STATE      COUNT OLDEST LIMIT PID COMM LOCAL    PEERS             FDS",
			"CLOSE_WAIT     3  1m34s    1m   1 a    10.0.0.1 10.0.0.2:5432 (3) 3, 4",
			"    the peers have closed, and this process has not called close on fds 3, 4",
		}},
		{"addresses differ, one descriptor", []*lifecycle.Stuck{
			stuck(owner(1, "a"), fd(3), ends("10.0.0.1:80", "10.0.0.2:1")),
			stuck(owner(1, "a"), unheld, ends("10.0.0.3:80", "10.0.0.2:2")),
			stuck(owner(1, "a"), unheld, ends("10.0.0.1:80", "10.0.0.2:2")),
		}, []string{
			"STATE      COUNT OLDEST LIMIT PID COMM LOCAL PEERS        FDS",
			"CLOSE_WAIT     3  1m34s    1m   1 a    *:80  10.0.0.2 (3) 3",
			"    the peers have closed, and this process has not called close on fd 3",
		}},
		{"nobody known, queues", []*lifecycle.Stuck{
			stuck(unknown, unheld, ends("10.0.0.1:1", "10.0.0.2:1"), func(s *lifecycle.Stuck) { s.Snapshot.RecvQueue, s.Snapshot.SendQueue = 1, 2 }),
			stuck(unknown, unheld, ends("10.0.0.2:2", "10.0.0.2:1"), func(s *lifecycle.Stuck) { s.Snapshot.RecvQueue, s.Snapshot.SendQueue = 3, 4 }),
		}, []string{
			"STATE      COUNT OLDEST LIMIT PID COMM LOCAL PEERS          FDS",
			"CLOSE_WAIT     2  1m34s    1m   - -    -     10.0.0.2:1 (2) -",
			"    the peers have closed, and close has not been called; 4 bytes unread in all; 6 bytes not acknowledged in all",
		}},
		{"others than CLOSE_WAIT", []*lifecycle.Stuck{
			stuck(unheld, in(fsm.FinWait1), func(s *lifecycle.Stuck) { s.Snapshot.SendQueue = 1 }),
			stuck(unheld, in(fsm.FinWait1), age(200*time.Second), func(s *lifecycle.Stuck) { s.Snapshot.SendQueue, s.AgeExact = 8, false }),
		}, []string{
			"STATE      COUNT OLDEST LIMIT   PID COMM                 LOCAL          PEERS           FDS",
			"FIN_WAIT_1     2 ≥3m20s    1m 22384 curl (nginx.service) 10.0.0.1:63446 10.0.0.2:80 (2) -",
			"    the oldest: 7 bytes before our FIN are not acknowledged; 7 bytes not acknowledged in all",
		}},
		{"released, not accepted, held", []*lifecycle.Stuck{
			stuck(unheld, age(5*time.Minute), func(s *lifecycle.Stuck) { s.Unaccepted = true }),
			stuck(unheld, age(4*time.Minute), func(s *lifecycle.Stuck) { s.Orphan = true }),
			stuck(unheld, age(3*time.Minute)),
		}, []string{
			"STATE      COUNT OLDEST LIMIT   PID COMM                 LOCAL          PEERS       FDS",
			"CLOSE_WAIT     1     5m    1m 22384 curl (nginx.service) 10.0.0.1:63446 10.0.0.2:80 -",
			"    the peer has closed, and no process has accepted the connection",
			"CLOSE_WAIT     1     4m    1m 22384 curl (nginx.service) 10.0.0.1:63446 10.0.0.2:80 -",
			"    the peer has closed, and no process holds the socket",
			"CLOSE_WAIT     1     3m    1m 22384 curl (nginx.service) 10.0.0.1:63446 10.0.0.2:80 -",
			"    the peer has closed, and this process has not called close",
		}},
		{"not accepted, several", []*lifecycle.Stuck{
			stuck(unheld, func(s *lifecycle.Stuck) { s.Unaccepted = true }), stuck(unheld, func(s *lifecycle.Stuck) { s.Unaccepted = true }),
		}, []string{
			"STATE      COUNT OLDEST LIMIT   PID COMM                 LOCAL          PEERS           FDS",
			"CLOSE_WAIT     2  1m34s    1m 22384 curl (nginx.service) 10.0.0.1:63446 10.0.0.2:80 (2) -",
			"    the oldest: the peer has closed, and no process has accepted the connection",
		}},
		{"container by its short id", []*lifecycle.Stuck{stuck(place(events.Place{Container: short, Unit: "docker-x.scope"}))}, []string{
			"STATE      COUNT OLDEST LIMIT   PID COMM                LOCAL          PEERS       FDS",
			"CLOSE_WAIT     1  1m34s    1m 22384 curl (0123456789ab) 10.0.0.1:63446 10.0.0.2:80 7",
			"    the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread",
		}},
		{"container by its name", []*lifecycle.Stuck{stuck(place(events.Place{Container: "a-machine-with-a-name"}))}, []string{
			"STATE      COUNT OLDEST LIMIT   PID COMM                         LOCAL          PEERS       FDS",
			"CLOSE_WAIT     1  1m34s    1m 22384 curl (a-machine-with-a-name) 10.0.0.1:63446 10.0.0.2:80 7",
			"    the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread",
		}},
		{"unit with a long name", []*lifecycle.Stuck{stuck(unknown, place(events.Place{Unit: strings.Repeat("long", 50) + ".service"}))}, []string{
			"STATE      COUNT OLDEST LIMIT PID COMM                                         LOCAL          PEERS       FDS",
			"CLOSE_WAIT     1  1m34s    1m   - - (" + strings.Repeat("long", 9) + "lon…) 10.0.0.1:63446 10.0.0.2:80 7",
			"    the peer has closed, and close has not been called on fd 7 (and 2 more descriptors); 120 bytes unread",
		}},
		{"what is over is not in it", []*lifecycle.Stuck{outputtest.Resolved(outputtest.Stuck())}, []string{
			"nothing is stuck: 340 sockets, none known to be over its limit",
		}},
		{"nothing", nil, []string{"nothing is stuck: 340 sockets, none known to be over its limit"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := stuckRows(t, text(output.TextOptions{Table: output.TableStuckReport}), &output.Summary{Sockets: 340, HasStuck: true}, c.list...)
			if g, w := strings.Join(got, "\n"), strings.Join(c.want, "\n"); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}

// The report comes at the end, not whenever nothing more waits.
func TestReportWaitsForTheSummary(t *testing.T) {
	var b bytes.Buffer
	s := output.NewText(&b, clock, &output.TextOptions{Table: output.TableStuckReport})
	for _, err := range []error{s.Flush(), s.Stuck(outputtest.Stuck()), s.Flush()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() > 0 {
		t.Errorf("before the end there is %q", b.String())
	}
	if err := s.Summary(&output.Summary{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil || strings.Count(b.String(), "\n") != 3 {
		t.Errorf("%v, at the end there is %q", err, b.String())
	}
}

// However much is stuck, what is kept and shown of it is bounded, and the rest is
// counted.
func TestReportIsBounded(t *testing.T) {
	const sockets, processes = 20_000, 1500
	var list []*lifecycle.Stuck
	s := outputtest.Stuck()
	for i := range sockets {
		c := *s
		c.Owner.PID = uint32(i % processes)
		c.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i / processes >> 8), byte(i / processes), 1}), uint16(i))
		list = append(list, &c)
	}
	crowd := *s
	crowd.Owner.PID = 7
	for i := range 500 { // of one process, each with a peer of its own
		c := crowd
		c.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 1)
		list = append(list, &c)
	}
	got := stuckRows(t, text(output.TextOptions{Table: output.TableStuckReport}), &output.Summary{}, list...)
	if len(got) != 1+2*1000+1 {
		t.Errorf("%d rows, want a heading, 1000 groups of two and the rest", len(got))
	}
	shown := 0
	for _, row := range got[1 : len(got)-1] {
		if !strings.HasPrefix(row, " ") {
			var state string
			var n int
			if _, err := fmt.Sscan(row, &state, &n); err != nil {
				t.Fatalf("%s: %v", row, err)
			}
			shown += n
		}
	}
	var rest int
	if _, err := fmt.Sscanf(got[len(got)-1], "and %d sockets of more processes than are shown", &rest); err != nil || shown+rest != len(list) {
		t.Errorf("%d shown and %q, %v, of %d", shown, got[len(got)-1], err, len(list))
	}
	if !strings.Contains(got[1], " 514 ") || !strings.Contains(got[1], ", … 511 more") {
		t.Errorf("the worst is %q", got[1])
	}
}

// Whatever names there are, it is rows of printable text.
func TestTextOfExtremeStuck(t *testing.T) {
	for _, table := range []output.Table{output.TableTransitions, output.TableLifecycles, output.TableStuck, output.TableStuckChanges, output.TableStuckReport} {
		for _, wide := range []bool{false, true} {
			for _, s := range []*lifecycle.Stuck{outputtest.ExtremeStuck(), outputtest.Resolved(outputtest.ExtremeStuck())} {
				got := stuckRows(t, text(output.TextOptions{Table: table, Wide: wide}), &output.Summary{}, s)
				want := 2
				if table == output.TableStuckReport {
					want = 3 // with its hint
					if s.Resolved {
						want = 1
					}
				}
				if len(got) != want {
					t.Errorf("table %d: %d rows, want %d: %q", table, len(got), want, got)
				}
				for _, r := range strings.Join(got, "") {
					if !unicode.IsPrint(r) {
						t.Errorf("table %d: %q in the row", table, r)
					}
				}
			}
		}
	}
}

func TestJSONStuck(t *testing.T) {
	const rest = `"family":"ipv4","local":{"addr":"10.0.0.1","port":63446},"remote":{"addr":"10.0.0.2","port":80},"pid":22384,"comm":"curl","uid":1000,"owner_source":"connect","netns":4026531840,"cgroup":1234,"unit":"nginx.service","exe":"/usr/bin/curl"}`
	for _, c := range []struct {
		name  string
		stuck *lifecycle.Stuck
		want  string
	}{
		{"known", outputtest.Stuck(), `{"type":"stuck","time":"2026-11-23T20:00:05.000000000Z","socket":"1f","generation":0,"state":"CLOSE_WAIT","age_ns":94280000000,"age_exact":true,"limit_ns":60000000000,"fd":7,"holders":3,"recv_queue":120,"send_queue":3000,"retransmits":4,"unanswered":2,"silent_ns":94280000000,"hint":"the peer has closed, and this process has not called close on fd 7 (and 2 more descriptors); 120 bytes unread",` + rest},
		{"unknown", outputtest.UnknownStuck(), `{"type":"stuck","time":"2026-11-23T20:00:05.000000000Z","state":"SYN_RCVD","age_ns":11000000000,"age_exact":false,"limit_ns":10000000000,"handshake":true,"hint":"the handshake is not completed","family":"ipv6"}`},
		{"resolved", outputtest.Resolved(outputtest.Stuck()), `{"type":"resolved","time":"2026-11-23T20:00:06.000000000Z","socket":"1f","generation":0,"state":"CLOSE_WAIT","to":"LAST_ACK","age_ns":95280000000,"age_exact":true,"limit_ns":60000000000,` + rest},
		{"gone", gone(outputtest.UnknownStuck()), `{"type":"resolved","time":"2026-11-23T20:00:06.000000000Z","state":"SYN_RCVD","age_ns":11000000000,"age_exact":false,"limit_ns":10000000000,"handshake":true,"family":"ipv6"}`},
		{"minisock", stuck(func(s *lifecycle.Stuck) {
			s.State, s.Minisock, s.Orphan, s.Snapshot = fsm.TimeWait, true, true, events.Snapshot{Left: 5}
			s.Snapshot.Silent = 0
		}), `{"type":"stuck","time":"2026-11-23T20:00:05.000000000Z","socket":"1f","generation":0,"state":"TIME_WAIT","age_ns":94280000000,"age_exact":true,"limit_ns":60000000000,"minisock":true,"orphan":true,"left_ns":5,"hint":"both sides have closed; 5ns left on its timer",` + rest},
		{"not accepted", stuck(func(s *lifecycle.Stuck) { s.Unaccepted, s.Snapshot = true, events.Snapshot{} }), `{"type":"stuck","time":"2026-11-23T20:00:05.000000000Z","socket":"1f","generation":0,"state":"CLOSE_WAIT","age_ns":94280000000,"age_exact":true,"limit_ns":60000000000,"unaccepted":true,"holders":0,"recv_queue":0,"send_queue":0,"retransmits":4,"unanswered":0,"hint":"the peer has closed, and no process has accepted the connection",` + rest},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := stuckRows(t, func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }, nil, c.stuck)
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
func TestJSONOfExtremeStuck(t *testing.T) {
	line := stuckRows(t, func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }, nil, outputtest.ExtremeStuck())
	var got struct {
		Comm, Exe, Unit, Container, Hint string
		FD                               int32
		Silent                           uint64 `json:"silent_ns"`
	}
	if err := json.Unmarshal([]byte(line[0]), &got); err != nil || len(line) != 1 {
		t.Fatalf("%d lines, %v: %s", len(line), err, line)
	}
	comm := outputtest.HostileComm()
	hostile := strings.ToValidUTF8(string(comm.Bytes()), "\ufffd")
	if got.Comm != hostile || got.Exe != hostile || got.Unit != hostile || got.Container != hostile || got.FD != -1<<31 || got.Silent != 1<<64-1 || got.Hint == "" {
		t.Errorf("got %+v", got)
	}
}

func TestMultiPassesStuckOn(t *testing.T) {
	s := outputtest.Stuck()
	first, failing, last := &recorder{}, &recorder{err: io.ErrClosedPipe}, &recorder{}
	if err := (output.Multi{first, last}).Stuck(s); err != nil || len(first.stuck) != 1 || len(last.stuck) != 1 || first.stuck[0] != s {
		t.Errorf("%v, got %v and %v", err, first.stuck, last.stuck)
	}
	if err := (output.Multi{failing, last}).Stuck(s); err != io.ErrClosedPipe || len(last.stuck) != 1 {
		t.Errorf("got %v, and the next one got %d, want the error and 1", err, len(last.stuck))
	}
}

// A time whose beginning was not seen is a lower bound, and says so.
func TestLowerBounds(t *testing.T) {
	const second = uint64(time.Second)
	list := []events.Event{
		{Time: 5 * second, Entered: 2 * second, Cookie: 1, From: fsm.TimeWait, To: fsm.TimeWait, Source: events.SourceSnapshot, Flags: events.FlagAtLeast | events.FlagMinisock},
		{Time: 9 * second, Entered: 2 * second, Cookie: 1, Seq: 1, From: fsm.TimeWait, To: fsm.Closed, Source: events.SourceTimeWait, End: fsm.EndExpired, Flags: events.FlagAtLeast | events.FlagEstimated},
	}
	tr := lifecycle.NewTracker(0)
	var out lifecycle.Transition
	for i := range list {
		tr.Observe(&list[i], &out)
	}
	var life lifecycle.Lifecycle
	out.Life.Lifecycle(out.Time, &life)
	asJSON := func(w io.Writer) output.Sink { return output.NewJSON(w, clock) }
	for _, c := range []struct {
		name, row string
		has       []string
	}{
		{"transition", rows(t, text(output.TextOptions{}), &out)[1], []string{"TIME_WAIT -> CLOSED        ≥7000.000"}},
		{"transition in JSON", rows(t, asJSON, &out)[0], []string{`"dwell_ns":7000000000,"dwell_exact":false,"dwell_estimated":true`}},
		{"lifecycle", lifeRows(t, text(output.TextOptions{Table: output.TableLifecycles}), &life)[1], []string{"  ≥7000.000 TW ", "TIME_WAIT expired after ≥7.00s"}},
		{"lifecycle, wide", lifeRows(t, text(output.TextOptions{Table: output.TableLifecycles, Wide: true}), &life)[1], []string{"TW ≥7.00s ", "TIME_WAIT expired after ≥7.00s"}},
		{"lifecycle in JSON", lifeRows(t, asJSON, &life)[0], []string{
			`"duration_ns":7000000000,"duration_exact":false`, `"dwell_ns":{"TIME_WAIT":7000000000},"dwell_exact":false`,
			`"time_wait":{"duration_ns":7000000000,"duration_exact":false`,
		}},
	} {
		for _, part := range c.has {
			if !strings.Contains(c.row, part) {
				t.Errorf("%s: %q is not in\n%s", c.name, part, c.row)
			}
		}
	}
	// Of a state after the first the time is exact, and of the first it may not be known.
	for _, c := range []struct {
		name   string
		change func(*lifecycle.Lifecycle)
		want   string
	}{
		{"the first is another", func(c *lifecycle.Lifecycle) { c.Path = []fsm.State{fsm.FinWait2, fsm.TimeWait, fsm.Closed} }, "F2 -·TW ~7.00s "},
		{"exact", func(c *lifecycle.Lifecycle) { c.AtLeast, c.Estimated = false, false }, "TW 7.00s "},
	} {
		changed := life
		c.change(&changed)
		if row := lifeRows(t, text(output.TextOptions{Table: output.TableLifecycles, Wide: true}), &changed)[1]; !strings.Contains(row, c.want) || strings.Contains(row, "after ≥") {
			t.Errorf("%s: %q is not in\n%s", c.name, c.want, row)
		}
		if line := lifeRows(t, asJSON, &changed)[0]; strings.Contains(line, "dwell_exact") || strings.Count(line, "duration_exact") != 1 {
			t.Errorf("%s: %s", c.name, line)
		}
	}
	unseen := life
	unseen.Since = 0
	if line := lifeRows(t, asJSON, &unseen)[0]; strings.Contains(line, `Z","duration_`) || strings.Contains(line, `"start"`) {
		t.Errorf("its duration is known: %s", line)
	}
}

func TestStuckDoesNotAllocate(t *testing.T) {
	s := output.NewJSON(io.Discard, clock)
	stuck := outputtest.Stuck()
	if n := testing.AllocsPerRun(100, func() { _ = s.Stuck(stuck) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkStuck(b *testing.B) {
	s := outputtest.Stuck()
	for name, open := range map[string]func(io.Writer) output.Sink{
		"json":   func(w io.Writer) output.Sink { return output.NewJSON(w, clock) },
		"text":   text(output.TextOptions{Table: output.TableStuck}),
		"report": text(output.TextOptions{Table: output.TableStuckReport}),
	} {
		b.Run(name, func(b *testing.B) {
			sink := open(io.Discard)
			b.ReportAllocs()
			n := uint32(0)
			for b.Loop() {
				n++
				s.Owner.PID = n % 2000
				s.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), uint16(n))
				if err := sink.Stuck(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
