package segment

import "tcptrace/fsm"

// Step is a change of state that a segment brings about.
type Step struct {
	From, To fsm.State
	// Trigger is what the reference machine writes at the edge, such as "rcv FIN / snd
	// ACK". Of resets it says which way they went: "rcv RST", "ABORT / snd RST".
	Trigger string
}

// Answer is what a segment makes its receiver send.
type Answer uint8

// The answers.
const (
	AnswerNone      Answer = iota
	AnswerACK              // an acknowledgement, of what is new or again
	AnswerChallenge        // an ACK that asks the peer whether it meant it (RFC 5961)
	AnswerSYNACK
	AnswerRST
	answers
)

var answerNames = [...]string{"", "ACK", "challenge ACK", "SYN,ACK", "RST"}

// String names the answer, "" for none.
func (a Answer) String() string { return answerNames[a] }

// Finding is what ought not to be on the wire.
type Finding uint8

// The findings.
const (
	FindingNone         Finding = iota
	FindingSYN                  // a new SYN in a synchronised state
	FindingDataAfterFIN         // text after the FIN of its sender
	FindingAckUnsent            // an acknowledgement of what was never sent
	findings
)

var findingNames = [...]string{"", "SYN in a synchronised state", "data after FIN", "acknowledges what was not sent"}

// String names the finding, "" for none.
func (f Finding) String() string { return findingNames[f] }

// Outcome is what a segment does.
type Outcome struct {
	steps   [2]Step
	count   int
	Answer  Answer
	Finding Finding
	// Reopen: a SYN in TIME_WAIT, by which a new connection may begin (RFC 9293
	// 3.10.7.4, fourth).
	Reopen bool
}

// Steps returns the changes of state, mostly none or one, in order.
func (o *Outcome) Steps() []Step { return o.steps[:o.count] }

// State returns the state after it, which before was the given one.
func (o *Outcome) State(before fsm.State) fsm.State {
	if o.count == 0 {
		return before
	}
	return o.steps[o.count-1].To
}

// What the machine has no single name for.
const (
	triggerRcvRST = "rcv RST"
	triggerSndRST = "ABORT / snd RST"
)

func (o *Outcome) step(from, to fsm.State) {
	o.steps[o.count] = Step{From: from, To: to, Trigger: edgeTriggers[from][to]}
	o.count++
}

func (o *Outcome) reset(from, to fsm.State, trigger string) {
	o.steps[o.count] = Step{From: from, To: to, Trigger: trigger}
	o.count++
}

// edgeTriggers are those of the legal edges.
var edgeTriggers = func() (t [fsm.Listen + 2][fsm.Listen + 2]string) {
	for _, e := range fsm.Machine() {
		if e.Class == fsm.Legal {
			t[e.From][e.To] = e.Trigger()
		}
	}
	return t
}()

// Received is a segment as it meets its receiver.
type Received struct {
	Flags Flags
	At    Position
	Acked Acked
	Text  bool // it has any
	// Passive: the receiver came to SYN_RCVD from LISTEN, to which a reset returns it.
	Passive bool
}

// Receive says what a segment does to the end in the state that it reaches. In a state
// without a number it does nothing.
func Receive(state fsm.State, r Received) Outcome {
	var o Outcome
	switch state {
	case fsm.Closed: // 3.10.7.1
		if !r.Flags.Has(RST) {
			o.Answer = AnswerRST
		}
	case fsm.Listen: // 3.10.7.2
		o.listen(r)
	case fsm.SynSent: // 3.10.7.3
		o.synSent(r)
	case fsm.SynRcvd, fsm.Established, fsm.FinWait1, fsm.FinWait2, fsm.CloseWait, fsm.Closing, fsm.LastAck, fsm.TimeWait:
		o.other(state, r)
	}
	return o
}

func (o *Outcome) listen(r Received) {
	switch {
	case r.Flags.Has(RST):
	case r.Flags.Has(ACK):
		o.Answer = AnswerRST
	case r.Flags.Has(SYN):
		o.step(fsm.Listen, fsm.SynRcvd)
		o.Answer = AnswerSYNACK
	}
}

func (o *Outcome) synSent(r Received) {
	acceptable := r.Acked == AckedAll || r.Acked == AckedSome
	switch {
	case r.Flags.Has(ACK) && !acceptable:
		if !r.Flags.Has(RST) {
			o.Answer = AnswerRST
		}
	case r.Flags.Has(RST):
		if r.Flags.Has(ACK) {
			o.reset(fsm.SynSent, fsm.Closed, triggerRcvRST)
		}
	case r.Flags.Has(SYN | ACK):
		o.step(fsm.SynSent, fsm.Established)
		o.Answer = AnswerACK
	case r.Flags.Has(SYN):
		o.step(fsm.SynSent, fsm.SynRcvd)
		o.Answer = AnswerSYNACK
	}
}

// other is for the states of 3.10.7.4.
func (o *Outcome) other(state fsm.State, r Received) {
	switch { // first the sequence number, and second RST
	case r.Flags.Has(RST):
		o.receiveRST(state, r)
		return
	case r.Flags.Has(SYN): // fourth, and RFC 5961: wherever it lies
		o.receiveSYN(state, r)
		return
	case r.At == Old || r.At == Outside:
		o.Answer = AnswerACK
		return
	case !r.Flags.Has(ACK): // fifth
		return
	}
	now, ok := o.receiveACK(state, r)
	if !ok {
		return
	}
	if r.Text { // seventh
		switch now {
		case fsm.CloseWait, fsm.Closing, fsm.LastAck, fsm.TimeWait:
			o.Finding = FindingDataAfterFIN
			return
		}
		o.Answer = AnswerACK
	}
	if r.Flags.Has(FIN) && r.At == Next { // eighth
		o.receiveFIN(now)
	}
}

func (o *Outcome) receiveRST(state fsm.State, r Received) {
	switch {
	case r.At == Old || r.At == Outside:
	case r.At == Ahead:
		o.Answer = AnswerChallenge
	case state == fsm.SynRcvd && r.Passive:
		o.reset(state, fsm.Listen, triggerRcvRST)
	default:
		o.reset(state, fsm.Closed, triggerRcvRST)
	}
}

func (o *Outcome) receiveSYN(state fsm.State, r Received) {
	switch {
	case state == fsm.TimeWait:
		o.Reopen = true
	case r.At == Old: // sent again: the answer to it was lost
		o.Answer = AnswerACK
		if state == fsm.SynRcvd {
			if r.Acked == AckedAll || r.Acked == AckedSome { // opened at once by both, the SYN,ACK
				o.step(state, fsm.Established)
				return
			}
			o.Answer = AnswerSYNACK
		}
	case state == fsm.SynRcvd && r.Passive:
		o.reset(state, fsm.Listen, "rcv SYN")
	default:
		o.Answer = AnswerChallenge
		if state.Synchronized() {
			o.Finding = FindingSYN
		}
	}
}

// receiveACK returns the state by then, and whether the segment is looked at further.
func (o *Outcome) receiveACK(state fsm.State, r Received) (fsm.State, bool) {
	all := r.Acked == AckedAll
	switch {
	case state == fsm.SynRcvd && !all && r.Acked != AckedSome:
		o.Answer = AnswerRST
		return state, false
	case r.Acked == AckedUnsent:
		o.Answer, o.Finding = AnswerACK, FindingAckUnsent
		return state, false
	case state == fsm.SynRcvd:
		o.step(state, fsm.Established)
	case state == fsm.FinWait1 && all && r.Flags.Has(FIN) && r.At == Next:
		o.step(state, fsm.TimeWait) // in one, as the figure has it
		o.Answer = AnswerACK
		return state, false
	case state == fsm.FinWait1 && all:
		o.step(state, fsm.FinWait2)
	case state == fsm.Closing && all:
		o.step(state, fsm.TimeWait)
	case state == fsm.LastAck && all:
		o.step(state, fsm.Closed)
		return fsm.Closed, false
	}
	return o.State(state), true
}

func (o *Outcome) receiveFIN(state fsm.State) {
	o.Answer = AnswerACK
	switch state {
	case fsm.SynRcvd, fsm.Established:
		o.step(state, fsm.CloseWait)
	case fsm.FinWait1:
		o.step(state, fsm.Closing)
	case fsm.FinWait2:
		o.step(state, fsm.TimeWait)
	}
}

// Send says what an end in the state shows by sending a segment with these flags: that
// it was opened, that it closes or aborts. New says that the SYN or FIN was not sent
// before. What it shows of what has reached it is for [Receive] to say.
func Send(state fsm.State, f Flags, isNew bool) Outcome {
	var o Outcome
	switch {
	case f.Has(RST):
		switch state {
		case fsm.SynRcvd, fsm.Established, fsm.FinWait1, fsm.FinWait2, fsm.CloseWait, fsm.Closing, fsm.LastAck:
			o.reset(state, fsm.Closed, triggerSndRST)
		}
		// In the others it answers a segment of another connection, and nothing changes
		// (3.5.2, groups 1 and 2; a SYN_SENT is deleted without a segment).
	case f.Has(SYN) && !isNew:
	case f.Has(SYN | ACK):
		switch state {
		case fsm.Listen, fsm.SynSent:
			o.step(state, fsm.SynRcvd)
		}
	case f.Has(SYN):
		switch {
		case state == fsm.Closed || state == fsm.Listen:
			o.step(state, fsm.SynSent)
		case state.Synchronized() && state != fsm.TimeWait:
			o.Finding = FindingSYN
		}
	case f.Has(FIN) && isNew:
		switch state {
		case fsm.SynRcvd, fsm.Established:
			o.step(state, fsm.FinWait1)
		case fsm.CloseWait:
			o.step(state, fsm.LastAck)
		}
	}
	return o
}
