package fsm

// Edge is one permitted transition.
type Edge struct {
	From, To State
	// Event is what triggers it: a call of the user (CLOSE), a segment (rcv
	// FIN) or a timeout.
	Event string
	// Action is what TCP does about it, "" for nothing.
	Action string
	// Rule is where it is written: a section of RFC 9293 with the event, or,
	// for Linux's own rendering, the kernel function.
	Rule string
	// Class is Legal for an edge of the reference machine, Abort for one that
	// ends a connection at once, Linux for Linux's rendering of a legal step.
	Class Verdict
	// Note says what a Linux edge stands for, else "".
	Note string
}

// Trigger returns event and action as the figure of RFC 9293 3.3.2 labels its
// edges: "rcv FIN / snd ACK".
func (e *Edge) Trigger() string {
	if e.Action == "" {
		return e.Event
	}
	return e.Event + " / " + e.Action
}

// machine is the one place where the rules are written; Check, the pictures
// and the documentation are made from it. The legal edges are figure 5 of RFC
// 9293 with the text of 3.10, which has two that the figure leaves out: RST
// returns a passive SYN_RCVD to LISTEN (note 1 of the figure), and FIN is
// accepted in SYN_RCVD (3.10.7.4, eighth).
var machine = []Edge{
	{From: Closed, To: Listen, Event: "passive OPEN", Action: "create TCB", Rule: "RFC 9293 3.10.1 OPEN", Class: Legal},
	{From: Closed, To: SynSent, Event: "active OPEN", Action: "snd SYN", Rule: "RFC 9293 3.10.1 OPEN", Class: Legal},
	{From: Listen, To: Closed, Event: "CLOSE", Action: "delete TCB", Rule: "RFC 9293 3.10.4 CLOSE", Class: Legal},
	{From: Listen, To: SynRcvd, Event: "rcv SYN", Action: "snd SYN,ACK", Rule: "RFC 9293 3.10.7.2 SYN", Class: Legal},
	{From: Listen, To: SynSent, Event: "SEND", Action: "snd SYN", Rule: "RFC 9293 3.10.2 SEND", Class: Legal},
	{From: SynSent, To: Closed, Event: "CLOSE", Action: "delete TCB", Rule: "RFC 9293 3.10.4 CLOSE", Class: Legal},
	{From: SynSent, To: SynRcvd, Event: "rcv SYN", Action: "snd SYN,ACK", Rule: "RFC 9293 3.10.7.3 SYN", Class: Legal},
	{From: SynSent, To: Established, Event: "rcv SYN,ACK", Action: "snd ACK", Rule: "RFC 9293 3.10.7.3 SYN,ACK", Class: Legal},
	{From: SynRcvd, To: Established, Event: "rcv ACK of SYN", Rule: "RFC 9293 3.10.7.4 ACK of SYN", Class: Legal},
	{From: SynRcvd, To: Listen, Event: "rcv RST", Rule: "RFC 9293 3.10.7.4 RST", Class: Legal},
	{From: SynRcvd, To: FinWait1, Event: "CLOSE", Action: "snd FIN", Rule: "RFC 9293 3.10.4 CLOSE", Class: Legal},
	{From: SynRcvd, To: CloseWait, Event: "rcv FIN", Action: "snd ACK", Rule: "RFC 9293 3.10.7.4 FIN", Class: Legal},
	{From: Established, To: FinWait1, Event: "CLOSE", Action: "snd FIN", Rule: "RFC 9293 3.10.4 CLOSE", Class: Legal},
	{From: Established, To: CloseWait, Event: "rcv FIN", Action: "snd ACK", Rule: "RFC 9293 3.10.7.4 FIN", Class: Legal},
	{From: FinWait1, To: FinWait2, Event: "rcv ACK of FIN", Rule: "RFC 9293 3.10.7.4 ACK of FIN", Class: Legal},
	{From: FinWait1, To: Closing, Event: "rcv FIN", Action: "snd ACK", Rule: "RFC 9293 3.10.7.4 FIN", Class: Legal},
	{From: FinWait1, To: TimeWait, Event: "rcv FIN,ACK of FIN", Action: "snd ACK", Rule: "RFC 9293 3.10.7.4 FIN,ACK of FIN", Class: Legal},
	{From: FinWait2, To: TimeWait, Event: "rcv FIN", Action: "snd ACK", Rule: "RFC 9293 3.10.7.4 FIN", Class: Legal},
	{From: Closing, To: TimeWait, Event: "rcv ACK of FIN", Rule: "RFC 9293 3.10.7.4 ACK of FIN", Class: Legal},
	{From: CloseWait, To: LastAck, Event: "CLOSE", Action: "snd FIN", Rule: "RFC 9293 3.10.4 CLOSE", Class: Legal},
	{From: LastAck, To: Closed, Event: "rcv ACK of FIN", Action: "delete TCB", Rule: "RFC 9293 3.10.7.4 ACK of FIN", Class: Legal},
	{From: TimeWait, To: Closed, Event: "timeout 2MSL", Action: "delete TCB", Rule: "RFC 9293 3.10.8 TIME-WAIT TIMEOUT", Class: Legal},

	// The rule that an abort is judged by depends on its cause: see Cause.
	{From: SynSent, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},
	{From: SynRcvd, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},
	{From: Established, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},
	{From: FinWait1, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},
	{From: FinWait2, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},
	{From: CloseWait, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},
	{From: Closing, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},
	{From: LastAck, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},
	{From: TimeWait, To: Closed, Event: "RST, ABORT or timeout", Action: "delete TCB", Rule: "RFC 9293 3.10.5 ABORT", Class: Abort},

	{From: FinWait2, To: Closed, Event: "rcv FIN", Action: "snd ACK", Rule: "Linux tcp_time_wait", Class: Linux,
		Note: "a minisock takes over, for TIME_WAIT or the rest of FIN_WAIT_2, which is not observed"},
	{From: Closing, To: Closed, Event: "rcv ACK of FIN", Rule: "Linux tcp_time_wait", Class: Linux,
		Note: "a minisock takes over for TIME_WAIT, which is not observed"},
	{From: FinWait1, To: FinWait1, Event: "CLOSE", Rule: "Linux tcp_close_state", Class: Linux, Note: secondClose},
	{From: FinWait2, To: FinWait2, Event: "CLOSE", Rule: "Linux tcp_close_state", Class: Linux, Note: secondClose},
	{From: Closing, To: Closing, Event: "CLOSE", Rule: "Linux tcp_close_state", Class: Linux, Note: secondClose},
	{From: LastAck, To: LastAck, Event: "CLOSE", Rule: "Linux tcp_close_state", Class: Linux, Note: secondClose},
	{From: Closed, To: Closed, Event: "CLOSE", Rule: "Linux tcp_done", Class: Linux,
		Note: "the kernel closes a socket that is closed already"},
}

const secondClose = "closed again after a shutdown: the state stays"

// Machine returns every permitted transition: the reference machine, the
// aborts and Linux's rendering, in this order.
func Machine() []Edge {
	return append([]Edge(nil), machine...)
}

// table is the machine by both ends: at most one edge of each class.
var table = makeTable()

type cell struct{ legal, abort, linux *Edge }

func makeTable() (t [stateCount][stateCount]cell) {
	for i := range machine {
		e := &machine[i]
		c := &t[e.From][e.To]
		switch e.Class {
		case Legal:
			c.legal = e
		case Abort:
			c.abort = e
		case Linux:
			c.linux = e
		}
	}
	return t
}
