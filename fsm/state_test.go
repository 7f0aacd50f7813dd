package fsm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"tcptrace/fsm"
)

// As include/net/tcp_states.h numbers them.
var stateNumbers = map[fsm.State]int{
	fsm.Established: 1, fsm.SynSent: 2, fsm.SynRcvd: 3, fsm.FinWait1: 4, fsm.FinWait2: 5, fsm.TimeWait: 6,
	fsm.Closed: 7, fsm.CloseWait: 8, fsm.LastAck: 9, fsm.Listen: 10, fsm.Closing: 11,
}

func TestStates(t *testing.T) {
	seen := map[fsm.State]bool{}
	for _, s := range fsm.States() {
		if seen[s] {
			t.Errorf("States has %v twice", s)
		}
		seen[s] = true
		if n, ok := stateNumbers[s]; !ok || int(s) != n {
			t.Errorf("%v is number %d, want %d", s, s, n)
		}
	}
	if len(seen) != 11 {
		t.Errorf("%d states, want 11", len(seen))
	}
	for n := range 256 {
		if s := fsm.State(n); s.Known() != seen[s] {
			t.Errorf("%v known: %v", s, s.Known())
		}
	}
}

func TestStatesIsACopy(t *testing.T) {
	fsm.States()[0] = 99
	if fsm.States()[0] != fsm.Closed {
		t.Error("the caller's change shows")
	}
}

func TestStateStringParses(t *testing.T) {
	for n := range 256 {
		s := fsm.State(n)
		if got, err := fsm.ParseState(s.String()); err != nil || got != s {
			t.Errorf("ParseState(%q) = %v, %v, want %v", s.String(), got, err, s)
		}
		if want := fmt.Sprintf("STATE_%d", n); !s.Known() && s.String() != want {
			t.Errorf("%d is %q, want %q", n, s, want)
		}
		if got, err := fsm.ParseState(fmt.Sprintf("STATE_%d", n)); err != nil || got != s {
			t.Errorf("by number: %v, %v, want %v", got, err, s)
		}
	}
}

func TestParseState(t *testing.T) {
	spellings := map[fsm.State][]string{ // of this program, the RFC, the kernel, ss, netstat
		fsm.Closed:      {"CLOSED", "CLOSE", "TCP_CLOSE", "UNCONN"},
		fsm.Listen:      {"LISTEN", "TCP_LISTEN"},
		fsm.SynSent:     {"SYN_SENT", "SYN-SENT", "TCP_SYN_SENT", "SYNSENT"},
		fsm.SynRcvd:     {"SYN_RCVD", "SYN-RECEIVED", "SYN_RECV", "TCP_SYN_RECV", "SYN-RECV", "SYN-RCVD"},
		fsm.Established: {"ESTABLISHED", "TCP_ESTABLISHED", "ESTAB"},
		fsm.FinWait1:    {"FIN_WAIT_1", "FIN-WAIT-1", "FIN_WAIT1", "TCP_FIN_WAIT1", "FINWAIT1", "FIN WAIT 1"},
		fsm.FinWait2:    {"FIN_WAIT_2", "FIN-WAIT-2", "FIN_WAIT2", "TCP_FIN_WAIT2", "FINWAIT2"},
		fsm.CloseWait:   {"CLOSE_WAIT", "CLOSE-WAIT", "TCP_CLOSE_WAIT", "CLOSEWAIT"},
		fsm.Closing:     {"CLOSING", "TCP_CLOSING"},
		fsm.LastAck:     {"LAST_ACK", "LAST-ACK", "TCP_LAST_ACK", "LASTACK"},
		fsm.TimeWait:    {"TIME_WAIT", "TIME-WAIT", "TCP_TIME_WAIT", "TIMEWAIT"},
		13:              {"STATE_13", "TCP_STATE_13", "STATE_013"},
	}
	for want, names := range spellings {
		for _, name := range names {
			for _, n := range []string{name, strings.ToLower(name), strings.ToLower(name[:1]) + name[1:], " " + name + "\t"} {
				if got, err := fsm.ParseState(n); err != nil || got != want {
					t.Errorf("ParseState(%q) = %v, %v, want %v", n, got, err, want)
				}
			}
		}
	}
	for _, s := range fsm.States() {
		if len(spellings[s]) == 0 {
			t.Errorf("no spelling of %v is tested", s)
		}
	}
}

func TestParseStateErrors(t *testing.T) {
	for _, name := range []string{
		"", " ", "_", "TCP_", "STATE_", "STATE_256", "STATE_-1", "STATE_+1", "STATE_1x", "STATE_0x1", "13", "7",
		"ESTABLISHEDX", "FIN_WAIT", "FIN_WAIT_3", "SYN", "TCP_TCP_CLOSE", "CLOSED,LISTEN", "\x00", "\xff",
	} {
		s, err := fsm.ParseState(name)
		if err == nil {
			t.Errorf("ParseState(%q) = %v, want an error", name, s)
			continue
		}
		if s != 0 {
			t.Errorf("ParseState(%q) = %v with an error", name, s)
		}
		for _, want := range []string{fmt.Sprintf("%q", name), "SYN_RCVD", "TIME_WAIT"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("ParseState(%q): the error does not tell %s: %v", name, want, err)
			}
		}
	}
}

func TestSynchronized(t *testing.T) {
	for _, s := range fsm.States() {
		want := !slices.Contains([]fsm.State{fsm.Closed, fsm.Listen, fsm.SynSent, fsm.SynRcvd}, s)
		if s.Synchronized() != want {
			t.Errorf("%v: %v, want %v", s, s.Synchronized(), want)
		}
	}
}
