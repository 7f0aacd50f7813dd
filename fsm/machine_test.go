package fsm_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"tcptrace/fsm"
)

// The edges of figure 5 of RFC 9293 with what triggers them, and the one that
// only its text has. Written from the RFC, not from the table.
const rfcEdges = `
CLOSED LISTEN           passive OPEN
CLOSED SYN_SENT         active OPEN
LISTEN SYN_RCVD         rcv SYN
LISTEN SYN_SENT         SEND
LISTEN CLOSED           CLOSE
SYN_SENT SYN_RCVD       rcv SYN
SYN_SENT ESTABLISHED    rcv SYN,ACK
SYN_SENT CLOSED         CLOSE
SYN_RCVD ESTABLISHED    rcv ACK of SYN
SYN_RCVD LISTEN         rcv RST
SYN_RCVD FIN_WAIT_1     CLOSE
SYN_RCVD CLOSE_WAIT     rcv FIN
ESTABLISHED FIN_WAIT_1  CLOSE
ESTABLISHED CLOSE_WAIT  rcv FIN
FIN_WAIT_1 FIN_WAIT_2   rcv ACK of FIN
FIN_WAIT_1 CLOSING      rcv FIN
FIN_WAIT_1 TIME_WAIT    rcv FIN,ACK of FIN
FIN_WAIT_2 TIME_WAIT    rcv FIN
CLOSE_WAIT LAST_ACK     CLOSE
CLOSING TIME_WAIT       rcv ACK of FIN
LAST_ACK CLOSED         rcv ACK of FIN
TIME_WAIT CLOSED        timeout 2MSL`

// How Linux renders steps that it does not show, or shows twice.
const linuxEdges = `
FIN_WAIT_2 CLOSED       rcv FIN
CLOSING CLOSED          rcv ACK of FIN
FIN_WAIT_1 FIN_WAIT_1   CLOSE
FIN_WAIT_2 FIN_WAIT_2   CLOSE
CLOSING CLOSING         CLOSE
LAST_ACK LAST_ACK       CLOSE
CLOSED CLOSED           CLOSE`

// Every state in which there is a connection to end.
const abortEdges = `
SYN_SENT CLOSED
SYN_RCVD CLOSED
ESTABLISHED CLOSED
FIN_WAIT_1 CLOSED
FIN_WAIT_2 CLOSED
CLOSE_WAIT CLOSED
CLOSING CLOSED
LAST_ACK CLOSED
TIME_WAIT CLOSED`

type pair struct{ from, to fsm.State }

// edges reads a list as above into what triggers each pair.
func edges(t *testing.T, list string) map[pair]string {
	t.Helper()
	m := map[pair]string{}
	for line := range strings.Lines(strings.TrimPrefix(list, "\n")) {
		f := strings.Fields(line)
		from, err1 := fsm.ParseState(f[0])
		to, err2 := fsm.ParseState(f[1])
		if err1 != nil || err2 != nil {
			t.Fatal(line, err1, err2)
		}
		m[pair{from, to}] = strings.Join(f[2:], " ")
	}
	return m
}

func TestMachine(t *testing.T) {
	want := map[fsm.Verdict]map[pair]string{
		fsm.Legal: edges(t, rfcEdges),
		fsm.Linux: edges(t, linuxEdges),
		fsm.Abort: edges(t, abortEdges),
	}
	for p := range want[fsm.Abort] {
		want[fsm.Abort][p] = "RST, ABORT or timeout"
	}
	got := map[fsm.Verdict]map[pair]string{fsm.Legal: {}, fsm.Abort: {}, fsm.Linux: {}}
	for _, e := range fsm.Machine() {
		p := pair{e.From, e.To}
		if got[e.Class] == nil {
			t.Fatalf("%v -> %v has class %v", e.From, e.To, e.Class)
		}
		if _, twice := got[e.Class][p]; twice {
			t.Errorf("%v -> %v is listed twice as %v", e.From, e.To, e.Class)
		}
		got[e.Class][p] = e.Event
		if e.Rule == "" {
			t.Errorf("%v -> %v has no rule", e.From, e.To)
		}
		if (e.Note != "") != (e.Class == fsm.Linux) {
			t.Errorf("%v -> %v is %v with the note %q", e.From, e.To, e.Class, e.Note)
		}
	}
	for class := range want {
		if !maps.Equal(got[class], want[class]) {
			t.Errorf("the %v edges are\n%v, want\n%v", class, got[class], want[class])
		}
	}
}

func TestMachineIsInOrder(t *testing.T) {
	var classes []fsm.Verdict
	for _, e := range fsm.Machine() {
		classes = append(classes, e.Class)
	}
	if !slices.IsSorted(classes) { // Legal, Abort, Linux
		t.Errorf("classes: %v", classes)
	}
}

func TestMachineIsACopy(t *testing.T) {
	fsm.Machine()[0].To = fsm.TimeWait
	if fsm.Machine()[0].To == fsm.TimeWait {
		t.Error("the caller's change shows")
	}
}

func TestTrigger(t *testing.T) {
	for want, e := range map[string]fsm.Edge{
		"rcv FIN / snd ACK": {Event: "rcv FIN", Action: "snd ACK"},
		"rcv ACK of FIN":    {Event: "rcv ACK of FIN"},
	} {
		if got := e.Trigger(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
