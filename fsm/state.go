package fsm

import (
	"fmt"
	"strconv"
	"strings"
)

// State is a TCP state, by the number that Linux gives it
// (include/net/tcp_states.h). Numbers that this package does not know are kept
// and shown as STATE_13; the zero value is such a number, no state.
type State uint8

// The eleven states of RFC 9293 3.3.2.
const (
	Established State = 1
	SynSent     State = 2
	SynRcvd     State = 3
	FinWait1    State = 4
	FinWait2    State = 5
	TimeWait    State = 6
	Closed      State = 7
	CloseWait   State = 8
	LastAck     State = 9
	Listen      State = 10
	Closing     State = 11
)

// stateCount is one more than the highest known number: the size of a table
// indexed by State.
const stateCount = 12

var stateNames = [stateCount]string{
	Closed:      "CLOSED",
	Listen:      "LISTEN",
	SynSent:     "SYN_SENT",
	SynRcvd:     "SYN_RCVD",
	Established: "ESTABLISHED",
	FinWait1:    "FIN_WAIT_1",
	FinWait2:    "FIN_WAIT_2",
	CloseWait:   "CLOSE_WAIT",
	Closing:     "CLOSING",
	LastAck:     "LAST_ACK",
	TimeWait:    "TIME_WAIT",
}

// States returns the eleven states in the order of a connection's life.
func States() []State {
	return []State{
		Closed, Listen, SynSent, SynRcvd, Established, FinWait1, FinWait2,
		CloseWait, Closing, LastAck, TimeWait,
	}
}

// Known reports whether s is one of the eleven states.
func (s State) Known() bool { return s > 0 && s < stateCount }

// Synchronized reports whether both sides know each other's sequence numbers in
// the state, so that data can have been exchanged (RFC 9293 3.5.2).
func (s State) Synchronized() bool {
	switch s {
	case Closed, Listen, SynSent, SynRcvd:
		return false
	}
	return true
}

// String returns the name that every output uses, such as FIN_WAIT_1, or
// STATE_13 for a number without a name.
func (s State) String() string {
	if !s.Known() {
		return "STATE_" + strconv.Itoa(int(s))
	}
	return stateNames[s]
}

// otherSpellings are those of the kernel, of ss and of netstat, without case
// and separators; the names of stateNames are found without being listed.
var otherSpellings = map[string]State{
	"CLOSE":       Closed,
	"LISTENING":   Listen,
	"UNCONN":      Closed,
	"SYNRECV":     SynRcvd,
	"SYNRECEIVED": SynRcvd,
	"ESTAB":       Established,
}

// ParseState understands every usual spelling of a state, in any case: of the
// RFC (FIN-WAIT-1, SYN-RECEIVED), of the kernel (TCP_FIN_WAIT1, SYN_RECV,
// CLOSE), of ss (ESTAB, UNCONN) and what String returns.
func ParseState(name string) (State, error) {
	key := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(name)), "TCP_")
	if number, ok := strings.CutPrefix(key, "STATE_"); ok {
		if n, err := strconv.ParseUint(number, 10, 8); err == nil {
			return State(n), nil
		}
	}
	key = separators.Replace(key)
	for _, s := range States() {
		if key == separators.Replace(stateNames[s]) {
			return s, nil
		}
	}
	if s, ok := otherSpellings[key]; ok {
		return s, nil
	}
	return 0, fmt.Errorf("unknown state %q: want one of %s", name, joinStates(States()))
}

var separators = strings.NewReplacer("-", "", "_", "", " ", "")

func joinStates(states []State) string {
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}
