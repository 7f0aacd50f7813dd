package infer_test

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"tcptrace/events"
	"tcptrace/events/infer"
	"tcptrace/events/pcap"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/fsm/segment"
)

// ends are those of the scripts: a, b, and others.
var ends = map[string]netip.AddrPort{
	"a": netip.MustParseAddrPort("10.0.0.1:40000"), "b": netip.MustParseAddrPort("10.0.0.2:80"),
	"c": netip.MustParseAddrPort("10.0.0.3:40000"), "d": netip.MustParseAddrPort("10.0.0.4:80"),
}

func name(e netip.AddrPort) string {
	for n, end := range ends {
		if end == e {
			return n
		}
	}
	return e.String()
}

// parse reads a line of a script: milliseconds, from>to, flags as tcpdump has them
// (. for ACK), sequence number, acknowledgement, bytes of text, and options: ts=N, mss=N,
// copy, for one that is captured again.
func parse(t testing.TB, line string, n int) pcap.Segment {
	t.Helper()
	f := strings.Fields(line)
	number := func(i int) uint32 {
		v, err := strconv.ParseUint(f[i], 10, 32)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return uint32(v)
	}
	from, to, _ := strings.Cut(f[1], ">")
	s := pcap.Segment{
		Time: 1e18 + uint64(number(0))*1e6, Src: ends[from].Addr().As16(), SrcPort: ends[from].Port(),
		Dst: ends[to].Addr().As16(), DstPort: ends[to].Port(), Seq: number(3), Ack: number(4), Text: number(5),
		Print: uint64(n) + 1,
	}
	for _, c := range f[2] {
		s.Flags |= map[rune]segment.Flags{'S': segment.SYN, 'F': segment.FIN, 'R': segment.RST, '.': segment.ACK}[c]
	}
	for _, o := range f[6:] {
		key, value, _ := strings.Cut(o, "=")
		v, _ := strconv.ParseUint(value, 10, 32)
		switch key {
		case "ts":
			s.Stamp, s.HasStamp = uint32(v), true
		case "mss":
			s.MSS = uint16(v)
		case "copy":
			s.Print--
		default:
			t.Fatalf("%q: option %q", line, key)
		}
	}
	return s
}

// play returns what is inferred from a script, as the tracker judges it: a line for each
// transition.
func play(t testing.TB, script string, limit int) (lines []string, f *infer.Follower) {
	t.Helper()
	f = infer.New(limit)
	tracker := lifecycle.NewTracker(0)
	n := 0
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s := parse(t, line, n)
		n++
		f.Take(&s)
		var e events.Event
		for f.Pop(&e) {
			var tr lifecycle.Transition
			tracker.Observe(&e, &tr)
			dwell := "-"
			if tr.HasDwell {
				dwell = map[bool]string{true: "≥"}[tr.AtLeast] + map[bool]string{true: "≤"}[tr.AtMost] + strconv.FormatInt(tr.Dwell.Milliseconds(), 10)
			}
			text := fmt.Sprintf("%d %s %v>%v %s %v", (e.Time-1e18)/1e6, name(e.Local), e.From, e.To, dwell, tr.Verdict)
			if tr.Reason != "" {
				text += ": " + tr.Reason
			}
			lines = append(lines, text)
		}
		for {
			gone, ok := f.PopGone()
			if !ok {
				break
			}
			if tracker.Forget(gone.Cookie, 0) == nil {
				t.Errorf("%x is gone, but was not there", gone.Cookie)
			}
		}
	}
	f.Finish()
	return lines, f
}

const open = `
0 a>b S 100 0 0 mss=1000
1 b>a S. 500 101 0 mss=1000
2 a>b . 101 501 0
`

var opened = []string{
	"0 a CLOSED>SYN_SENT - legal",
	"1 b LISTEN>SYN_RCVD - legal",
	"2 a SYN_SENT>ESTABLISHED 2 legal",
	"2 b SYN_RCVD>ESTABLISHED ≥1 legal",
}

func TestInference(t *testing.T) {
	for _, test := range []struct {
		name   string
		script string
		want   []string
		counts infer.Counts
	}{
		{"the close in four", open + `
			10 a>b F. 101 501 0
			11 b>a . 501 102 0
			20 b>a F. 501 102 0
			21 a>b . 102 502 0`, append(opened[:4:4],
			"10 a ESTABLISHED>FIN_WAIT_1 8 legal",
			"11 b ESTABLISHED>CLOSE_WAIT ≤9 legal",
			"11 a FIN_WAIT_1>FIN_WAIT_2 ≥1 legal",
			"20 b CLOSE_WAIT>LAST_ACK 9 legal",
			"21 a FIN_WAIT_2>TIME_WAIT ≤10 legal",
			"21 b LAST_ACK>CLOSED ≥1 legal"), infer.Counts{}},
		{"the close in three", open + `
			10 a>b F. 101 501 0
			11 b>a F. 501 102 0
			12 a>b . 102 502 0`, append(opened[:4:4],
			"10 a ESTABLISHED>FIN_WAIT_1 8 legal",
			"11 b ESTABLISHED>CLOSE_WAIT ≤9 legal",
			"11 b CLOSE_WAIT>LAST_ACK 0 legal",
			"12 a FIN_WAIT_1>TIME_WAIT 2 legal",
			"12 b LAST_ACK>CLOSED ≥1 legal"), infer.Counts{}},
		{"FINs that cross", open + `
			10 a>b F. 101 501 0
			10 b>a F. 501 101 0
			11 a>b . 102 502 0
			12 b>a . 502 102 0`, append(opened[:4:4],
			"10 a ESTABLISHED>FIN_WAIT_1 8 legal",
			"10 b ESTABLISHED>FIN_WAIT_1 ≤8 legal",
			"11 a FIN_WAIT_1>CLOSING 1 legal",
			"11 b FIN_WAIT_1>FIN_WAIT_2 ≥1 legal",
			"12 b FIN_WAIT_2>TIME_WAIT ≤1 legal",
			"12 a CLOSING>TIME_WAIT ≥1 legal"), infer.Counts{}},
		{"SYNs that cross", `
			0 a>b S 100 0 0
			0 b>a S 500 0 0
			1 a>b S. 100 501 0
			1 b>a S. 500 101 0
			2 a>b . 101 501 0
			2 b>a . 501 101 0`, []string{
			"0 a CLOSED>SYN_SENT - legal",
			"0 b CLOSED>SYN_SENT - legal",
			"1 a SYN_SENT>SYN_RCVD 1 legal",
			"1 b SYN_SENT>SYN_RCVD 1 legal",
			"1 a SYN_RCVD>ESTABLISHED ≥0 legal",
			"2 b SYN_RCVD>ESTABLISHED ≥1 legal",
		}, infer.Counts{Open: 1}},
		{"refused", `
			0 a>b S 100 0 0
			1 b>a R. 0 101 0`, []string{
			"0 a CLOSED>SYN_SENT - legal",
			"1 a SYN_SENT>CLOSED ≥1 abort: refused by the peer",
		}, infer.Counts{}},
		{"a refusal of another SYN is none", `
			0 a>b S 100 0 0
			1 b>a R. 0 77 0
			2 b>a R 0 0 0`, []string{"0 a CLOSED>SYN_SENT - legal"}, infer.Counts{Open: 1, HalfOpen: 1}},
		{"half-open: the final ACK does not come", `
			0 a>b S 100 0 0
			1 b>a S. 500 101 0
			1000 b>a S. 500 101 0
			3000 b>a S. 500 101 0`, []string{
			"0 a CLOSED>SYN_SENT - legal", "1 b LISTEN>SYN_RCVD - legal",
		}, infer.Counts{Open: 1, HalfOpen: 1, Retransmits: 2}},
		{"reset", open + "10 b>a R. 501 101 0", append(opened[:4:4],
			"10 b ESTABLISHED>CLOSED ≤8 abort: reset sent",
			"10 a ESTABLISHED>CLOSED ≥8 abort: reset by the peer"), infer.Counts{}},
		{"a reset outside the window closes its sender alone", open + "10 b>a R 99 0 0", append(opened[:4:4],
			"10 b ESTABLISHED>CLOSED ≤8 abort: reset sent"), infer.Counts{Strays: 1, Open: 1}},
		{"a reset beyond what was captured", open + "10 b>a R. 601 101 0", append(opened[:4:4],
			"10 b ESTABLISHED>CLOSED ≤8 gap: 100 bytes that this end sent were not captured",
			"10 a ESTABLISHED>CLOSED ≥8 abort: reset by the peer"), infer.Counts{NotCaptured: 1}},
		{"a FIN that is never acknowledged", open + `
			10 a>b F. 101 501 0
			300 a>b F. 101 501 0
			900 a>b F. 101 501 0`, append(opened[:4:4],
			"10 a ESTABLISHED>FIN_WAIT_1 8 legal"), infer.Counts{Retransmits: 2, Open: 1, FINs: 1}},
		{"a FIN behind data that was not captured", open + `
			10 a>b F. 151 501 0
			11 b>a . 501 152 0`, append(opened[:4:4],
			"10 a ESTABLISHED>FIN_WAIT_1 8 gap: 50 bytes that this end sent were not captured",
			"11 b ESTABLISHED>CLOSE_WAIT ≤9 legal",
			"11 a FIN_WAIT_1>FIN_WAIT_2 ≥1 legal"), infer.Counts{NotCaptured: 1, Open: 1}},
		{"an acknowledgement captured before the FIN", open + `
			11 b>a . 501 102 0
			11 a>b F. 101 501 0`, append(opened[:4:4],
			"11 a ESTABLISHED>FIN_WAIT_1 9 legal",
			"11 b ESTABLISHED>CLOSE_WAIT ≤9 legal",
			"11 a FIN_WAIT_1>FIN_WAIT_2 ≥0 legal"), infer.Counts{NotCaptured: 1, OutOfOrder: 1, Open: 1}},
		{"data after FIN", open + `
			10 a>b F. 101 501 0
			11 b>a . 501 102 0
			12 a>b . 102 501 30`, append(opened[:4:4],
			"10 a ESTABLISHED>FIN_WAIT_1 8 legal",
			"11 b ESTABLISHED>CLOSE_WAIT ≤9 legal",
			"11 a FIN_WAIT_1>FIN_WAIT_2 ≥1 legal",
			"12 a FIN_WAIT_2>FIN_WAIT_2 ≤1 illegal: data after FIN: 30 bytes (before: FIN_WAIT_1 -> FIN_WAIT_2)"), infer.Counts{Open: 1}},
		{"data before FIN that comes again is none", open + `
			9 a>b . 101 501 30
			10 a>b F. 131 501 0
			11 b>a . 501 101 0
			300 a>b . 101 501 30
			301 a>b F. 101 501 30`, append(opened[:4:4],
			"10 a ESTABLISHED>FIN_WAIT_1 8 legal"), infer.Counts{Retransmits: 2, Open: 1, FINs: 1}},
		{"SYN in a synchronised state", open + `
			100 a>b S 9000 0 0
			101 b>a . 501 101 0
			102 a>b R 101 0 0
			1100 a>b S 9000 0 0
			1101 b>a S. 7000 9001 0
			1102 a>b . 9001 7001 0`, append(opened[:4:4],
			"100 a ESTABLISHED>CLOSED 98 gap: a new connection begins: how this one ended was not on the wire",
			"100 a CLOSED>SYN_SENT - legal",
			"101 b ESTABLISHED>ESTABLISHED ≤99 illegal: SYN in a synchronised state: the peer begins anew, as if there were no connection (before: SYN_RCVD -> ESTABLISHED)",
			"102 b ESTABLISHED>CLOSED 100 abort: reset by the peer",
			"1101 b LISTEN>SYN_RCVD - legal",
			"1102 a SYN_SENT>ESTABLISHED 1002 legal",
			"1102 b SYN_RCVD>ESTABLISHED ≥1 legal"), infer.Counts{Retransmits: 1, Open: 1}},
		{"a SYN that is answered: that the connection had ended was not captured", open + `
			900 a>b S 9000 0 0
			901 b>a S. 7000 9001 0
			902 a>b . 9001 7001 0`, append(opened[:4:4],
			"900 a ESTABLISHED>CLOSED 898 gap: a new connection begins: how this one ended was not on the wire",
			"900 a CLOSED>SYN_SENT - legal",
			"901 b ESTABLISHED>CLOSED ≤899 gap: a new connection begins: how this one ended was not on the wire",
			"901 b LISTEN>SYN_RCVD - legal",
			"902 a SYN_SENT>ESTABLISHED 2 legal",
			"902 b SYN_RCVD>ESTABLISHED ≥1 legal"), infer.Counts{Open: 1}},
		{"the SYN again is none", `
			0 a>b S 100 0 0
			1000 a>b S 100 0 0
			1001 b>a S. 500 101 0
			1002 a>b S 100 0 0
			1003 a>b . 101 501 0
			1004 a>b S 100 0 0`, []string{
			"0 a CLOSED>SYN_SENT - legal", "1001 b LISTEN>SYN_RCVD - legal",
			"1003 a SYN_SENT>ESTABLISHED 1003 legal", "1003 b SYN_RCVD>ESTABLISHED ≥2 legal",
		}, infer.Counts{Retransmits: 3, Open: 1}},
		{"TIME_WAIT reused as it may be", closed + "1000 a>b S 5000 0 0", append(closedLines[:len(closedLines):len(closedLines)],
			"1000 a TIME_WAIT>CLOSED 979 linux: a new connection took its ports",
			"1000 a CLOSED>SYN_SENT - legal"), infer.Counts{Open: 1, HalfOpen: 1}},
		{"TIME_WAIT reused against the rule", closed + "1000 a>b S 50 0 0", append(closedLines[:len(closedLines):len(closedLines)],
			"1000 a TIME_WAIT>CLOSED 979 illegal: reopened within 2 MSL by a SYN whose sequence number is 52 below what was sent before, without a later time stamp (before: FIN_WAIT_1 -> TIME_WAIT)",
			"1000 a CLOSED>SYN_SENT - legal"), infer.Counts{Open: 1, HalfOpen: 1}},
		{"TIME_WAIT of the other end, which does not let itself be reopened", otherClosed + `
			1000 a>b S 50 0 0
			1001 b>a . 502 102 0
			1002 a>b R 102 0 0
			2000 a>b S 50 0 0
			2001 b>a S. 9000 51 0`, append(otherClosedLines[:len(otherClosedLines):len(otherClosedLines)],
			"1000 a CLOSED>SYN_SENT - legal",
			"1002 b TIME_WAIT>CLOSED ≥981 abort: reset by the peer",
			"2001 b LISTEN>SYN_RCVD - legal"), infer.Counts{Open: 1, HalfOpen: 1, Retransmits: 1}},
		{"TIME_WAIT of the other end, reopened against the rule", otherClosed + `
			1000 a>b S 50 0 0
			1001 b>a S. 9000 51 0`, append(otherClosedLines[:len(otherClosedLines):len(otherClosedLines)],
			"1000 a CLOSED>SYN_SENT - legal",
			"1001 b TIME_WAIT>CLOSED 980 illegal: reopened within 2 MSL by a SYN whose sequence number is 52 below what was sent before, without a later time stamp (before: FIN_WAIT_1 -> TIME_WAIT)",
			"1001 b LISTEN>SYN_RCVD - legal"), infer.Counts{Open: 1, HalfOpen: 1}},
		{"TIME_WAIT of the other end, reopened as it may be", otherClosed + `
			1000 a>b S 5000 0 0
			1001 b>a S. 9000 5001 0`, append(otherClosedLines[:len(otherClosedLines):len(otherClosedLines)],
			"1000 a CLOSED>SYN_SENT - legal",
			"1001 b TIME_WAIT>CLOSED 980 linux: a new connection took its ports",
			"1001 b LISTEN>SYN_RCVD - legal"), infer.Counts{Open: 1, HalfOpen: 1}},
		{"TIME_WAIT over", closed + "70000 a>b S 50 0 0", append(closedLines[:len(closedLines):len(closedLines)],
			"70000 a CLOSED>SYN_SENT - legal"), infer.Counts{Open: 1, HalfOpen: 1}},
		{"TIME_WAIT reset", closed + "30 b>a R 502 0 0", append(closedLines[:len(closedLines):len(closedLines)],
			"30 a TIME_WAIT>CLOSED ≥9 abort: reset by the peer"), infer.Counts{}},
		{"captured twice", strings.ReplaceAll(open, "mss=1000\n", "mss=1000\n0 a>b S 100 0 0 copy\n"), nil, infer.Counts{}},
		{"begins before the capture", `
			0 a>b . 100 500 10
			1 b>a . 500 110 10
			2 a>b F. 110 510 0
			3 b>a . 510 111 0
			4 b>a F. 510 111 0
			5 a>b . 111 511 0`, []string{
			"2 a ESTABLISHED>FIN_WAIT_1 - gap: the capture begins within this connection",
			"3 b ESTABLISHED>CLOSE_WAIT - gap: the capture begins within this connection",
			"3 a FIN_WAIT_1>FIN_WAIT_2 ≥1 legal",
			"4 b CLOSE_WAIT>LAST_ACK 1 legal",
			"5 a FIN_WAIT_2>TIME_WAIT ≤2 legal",
			"5 b LAST_ACK>CLOSED ≥1 legal",
		}, infer.Counts{Midstream: 1}},
		{"begins when perhaps one has closed", `
			0 a>b . 100 500 10
			1 b>a . 500 110 0
			2 a>b F. 110 500 0
			3 b>a . 500 111 0`, []string{
			"2 a ESTABLISHED>FIN_WAIT_1 - gap: the capture begins within this connection",
			"3 b ESTABLISHED>CLOSE_WAIT - gap: the capture begins within this connection",
			"3 a FIN_WAIT_1>FIN_WAIT_2 ≥1 gap: the capture begins within this connection, and does not tell who closed first",
		}, infer.Counts{Midstream: 1, Open: 1}},
		{"begins with the SYN,ACK", `
			1 b>a S. 500 101 0
			2 a>b . 101 501 0`, []string{
			"1 b LISTEN>SYN_RCVD - legal",
			"2 a SYN_SENT>ESTABLISHED - gap: the capture begins within this connection",
			"2 b SYN_RCVD>ESTABLISHED ≥1 legal",
		}, infer.Counts{Midstream: 1, Open: 1}},
		{"a reset of what was not captured", "0 a>b R. 1 1 0", nil, infer.Counts{Strays: 1}},
		{"another connection, whose SYN was not captured", closed + `
			100 a>b . 1000000000 2000000000 10
			101 b>a F. 2000000000 1000000010 0`, append(closedLines[:len(closedLines):len(closedLines)],
			"101 b ESTABLISHED>FIN_WAIT_1 - gap: the capture begins within this connection"), infer.Counts{Midstream: 1, Open: 1, FINs: 1}},
		{"keep-alive, and too long", open + `
			10 a>b . 100 501 0
			20 a>b . 101 501 2000
			30 b>a . 501 2101 0
			40 a>b . 2100 501 1`, opened, infer.Counts{Oversized: 1, Probes: 1, Open: 1}},
		{"numbers that wrap", `
			0 a>b S 4294967295 0 0
			1 b>a S. 4294967294 0 0
			2 a>b . 0 4294967295 0
			3 a>b F. 0 4294967295 5
			4 b>a F. 4294967295 6 3
			5 a>b . 6 3 0`, []string{
			"0 a CLOSED>SYN_SENT - legal", "1 b LISTEN>SYN_RCVD - legal",
			"2 a SYN_SENT>ESTABLISHED 2 legal", "2 b SYN_RCVD>ESTABLISHED ≥1 legal",
			"3 a ESTABLISHED>FIN_WAIT_1 1 legal",
			"4 b ESTABLISHED>CLOSE_WAIT ≤2 legal", "4 b CLOSE_WAIT>LAST_ACK 0 legal",
			"5 a FIN_WAIT_1>TIME_WAIT 2 legal", "5 b LAST_ACK>CLOSED ≥1 legal",
		}, infer.Counts{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.want == nil && test.name == "captured twice" {
				test.script = "0 a>b S 100 0 0\n0 a>b S 100 0 0 copy\n1000 a>b S 100 0 0"
				test.want, test.counts = opened[:1], infer.Counts{Duplicates: 1, Retransmits: 1, Open: 1, HalfOpen: 1}
			}
			got, f := play(t, test.script, 0)
			if g, w := strings.Join(got, "\n"), strings.Join(test.want, "\n"); g != w {
				t.Errorf("inferred\n%s\nwant\n%s", g, w)
			}
			if got := f.Counts(); got != test.counts {
				t.Errorf("counts %+v, want %+v", got, test.counts)
			}
		})
	}
}

const closed = open + `
	10 a>b F. 101 501 0
	20 b>a F. 501 102 0
	21 a>b . 102 502 0
`

var closedLines = append(opened[:4:4],
	"10 a ESTABLISHED>FIN_WAIT_1 8 legal",
	"20 b ESTABLISHED>CLOSE_WAIT ≤18 legal",
	"20 b CLOSE_WAIT>LAST_ACK 0 legal",
	"21 a FIN_WAIT_1>TIME_WAIT 11 legal",
	"21 b LAST_ACK>CLOSED ≥1 legal")

const otherClosed = open + `
	10 b>a F. 501 101 0
	20 a>b F. 101 502 0
	21 b>a . 502 102 0
`

var otherClosedLines = append(opened[:4:4],
	"10 b ESTABLISHED>FIN_WAIT_1 ≤8 legal",
	"20 a ESTABLISHED>CLOSE_WAIT 18 legal",
	"20 a CLOSE_WAIT>LAST_ACK 0 legal",
	"21 b FIN_WAIT_1>TIME_WAIT 11 legal",
	"21 a LAST_ACK>CLOSED ≥1 legal")

// TestForgotten: memory is bounded, by the one that was still for longest.
func TestForgotten(t *testing.T) {
	got, f := play(t, `
		0 a>b S 100 0 0
		1 c>d S 100 0 0
		2 b>a S. 500 101 0
		3 a>d S 100 0 0`, 2)
	want := []string{"0 a CLOSED>SYN_SENT - legal", "1 c CLOSED>SYN_SENT - legal", "2 b LISTEN>SYN_RCVD - legal", "3 a CLOSED>SYN_SENT - legal"}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("inferred\n%s\nwant\n%s", g, w)
	}
	if c := f.Counts(); c.Forgotten != 1 || c.Open != 2 {
		t.Errorf("counts %+v, want 1 forgotten, 2 open", c)
	}
}

// TestBytes: payload is counted once each way, of more than 4 GiB, too.
func TestBytes(t *testing.T) {
	script := []string{"0 a>b S 100 0 0", "1 b>a S. 500 101 0", "2 a>b . 101 501 0"}
	const piece = 1 << 29
	seq := uint32(101)
	for i := range 10 {
		script = append(script, fmt.Sprintf("%d a>b . %d 501 %d", 10+i, seq, piece))
		if i%2 == 0 {
			script = append(script, fmt.Sprintf("%d a>b . %d 501 %d", 10+i, seq, piece))
		}
		seq += piece
		script = append(script, fmt.Sprintf("%d b>a . 501 %d 0", 10+i, seq))
	}
	script = append(script, fmt.Sprintf("30 b>a . 501 %d 7", seq), fmt.Sprintf("31 a>b . %d 508 0", seq),
		fmt.Sprintf("32 a>b F. %d 508 0", seq), fmt.Sprintf("33 b>a F. 508 %d 0", seq+1), fmt.Sprintf("34 a>b . %d 509 0", seq+1))
	f := infer.New(0)
	last := make(map[string]events.Event)
	for n, line := range script {
		s := parse(t, line, n)
		f.Take(&s)
		var e events.Event
		for f.Pop(&e) {
			last[name(e.Local)] = e
		}
	}
	for end, want := range map[string][3]uint64{"a": {10 * piece, 7, 5}, "b": {7, 10 * piece, 0}} {
		e := last[end]
		if got := [3]uint64{e.BytesSent, e.BytesReceived, uint64(e.Retransmits)}; got != want || !e.Wire.Counted {
			t.Errorf("%s sent, received, retransmitted %d, want %d", end, got, want)
		}
	}
}

// TestSegments: the first and the last of a connection are kept, with the steps that they
// show.
func TestSegments(t *testing.T) {
	f := infer.New(0)
	f.Keep()
	n := 0
	take := func(line string) {
		s := parse(t, line, n)
		n++
		f.Take(&s)
		var e events.Event
		for f.Pop(&e) {
		}
	}
	for _, line := range []string{"0 a>b S 100 0 0", "1 b>a S. 500 101 0", "2 a>b . 101 501 0"} {
		take(line)
	}
	const texts = 200
	for i := range texts {
		take(fmt.Sprintf("%d a>b . %d 501 10", 10+i, 101+10*i))
	}
	take(fmt.Sprintf("1000 a>b F. %d 501 0", 101+10*texts))
	take(fmt.Sprintf("1001 b>a F. 501 %d 0", 102+10*texts))
	take(fmt.Sprintf("1002 a>b . %d 502 0", 102+10*texts))

	list := f.Segments(1)
	all, skipped := len(list), uint64(0)
	for i := range list {
		skipped += list[i].Skipped
		if i > 0 && list[i].Time < list[i-1].Time {
			t.Errorf("segment %d is of %d, that before of %d", i, list[i].Time, list[i-1].Time)
		}
	}
	if uint64(all)+skipped != uint64(n) || skipped == 0 || all < 20 {
		t.Errorf("%d kept and %d skipped, want %d in sum", all, skipped, n)
	}
	none := infer.NoStep
	for i, want := range map[int]infer.Segment{
		0:       {Time: 1e18, Flags: segment.SYN, Sent: 1, Received: none},
		1:       {Time: 1e18 + 1e6, FromSecond: true, Flags: segment.SYN | segment.ACK, Ack: 1, Sent: 1, Received: none},
		2:       {Time: 1e18 + 2e6, Flags: segment.ACK, Seq: 1, Ack: 1, Sent: 2, Received: 2},
		3:       {Time: 1e18 + 10e6, Flags: segment.ACK, Seq: 1, Ack: 1, Text: 10, Sent: none, Received: none},
		all - 3: {Time: 1e18 + 1e9, Flags: segment.FIN | segment.ACK, Seq: 2001, Ack: 1, Sent: 3, Received: none},
		all - 2: {Time: 1e18 + 1001e6, FromSecond: true, Flags: segment.FIN | segment.ACK, Seq: 1, Ack: 2002, Sent: 4, Received: none},
		all - 1: {Time: 1e18 + 1002e6, Flags: segment.ACK, Seq: 2002, Ack: 2, Sent: 4, Received: 5},
	} {
		if list[i].Flags == segment.SYN {
			list[i].Ack = 0 // means nothing
		}
		if list[i] != want {
			t.Errorf("segment %d is %+v, want %+v", i, list[i], want)
		}
	}
	if f.Segments(2) != nil || f.NotKept() != 0 {
		t.Errorf("there are segments of a connection that is not, or %d were not kept", f.NotKept())
	}
	// Of what is over for long nothing is kept.
	for i := range 3 {
		take(fmt.Sprintf("%d c>d S %d 0 0", 100_000+i*10_000, 1+i))
	}
	if f.Segments(1) != nil {
		t.Error("segments of a connection that is over for long are kept")
	}
}

// FuzzFollower: no segments make it panic or break the chain of an end's states; what is
// kept is bounded.
func FuzzFollower(f *testing.F) {
	for _, script := range []string{open, closed, closed + "1000 a>b S 50 0 0", open + "100 a>b S 9000 0 0\n101 b>a . 501 101 0\n102 a>b R 101 0 0"} {
		var b []byte
		for line := range strings.Lines(script) {
			if line = strings.TrimSpace(line); line != "" {
				s := parse(f, line, 0)
				direction := byte(0)
				if s.Source() != ends["a"] {
					direction = 1
				}
				b = append(b, direction, byte(s.Flags), byte(s.Seq), byte(s.Seq>>8), byte(s.Ack), byte(s.Ack>>8), byte(s.Text), 1)
			}
		}
		f.Add(b)
	}
	pairs := [][2]string{{"a", "b"}, {"b", "a"}, {"a", "a"}, {"c", "b"}, {"b", "c"}, {"c", "d"}, {"d", "c"}, {"b", "b"}}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 3
		follower := infer.New(limit)
		states, records := make(map[uint64]fsm.State), make(map[uint64]uint32)
		now := uint64(1e18)
		for n := 0; len(b) >= 8; n, b = n+1, b[8:] {
			pair := pairs[b[0]%8]
			from, to := ends[pair[0]], ends[pair[1]]
			now += uint64(b[7]) * uint64(b[7]) * 1e6
			s := pcap.Segment{
				Time: now, Src: from.Addr().As16(), SrcPort: from.Port(), Dst: to.Addr().As16(), DstPort: to.Port(),
				Flags: segment.Flags(b[1]), Seq: uint32(b[2]) | uint32(b[3])<<8, Ack: uint32(b[4]) | uint32(b[5])<<8, Text: uint32(b[6] & 63), Print: uint64(n),
				Stamp: uint32(b[6]), HasStamp: b[6]&64 != 0,
			}
			if b[6]&128 != 0 { // far away
				s.Seq, s.Ack = s.Seq<<16, s.Ack<<16
			}
			follower.Take(&s)
			var e events.Event
			for follower.Pop(&e) {
				before, known := states[e.Cookie]
				if known && before != e.From || !events.IsWireCookie(e.Cookie) || e.Wire == nil || e.Seq != records[e.Cookie]+1 || e.Entered > e.Time {
					t.Fatalf("%v in %v: %+v", e.Cookie, before, e)
				}
				if j := fsm.Check(e.From, e.To, e.Evidence()); j.Verdict == fsm.Illegal && e.Wire.Judgement.Verdict == 0 {
					t.Fatalf("a step that is no edge: %v: %+v", j, e)
				}
				states[e.Cookie], records[e.Cookie] = e.To, e.Seq
			}
			for ok := true; ok; {
				_, ok = follower.PopGone()
			}
		}
		follower.Finish()
		if c := follower.Counts(); c.Open > limit {
			t.Fatalf("%d connections are open, of %d at most", c.Open, limit)
		}
	})
}
