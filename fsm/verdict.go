package fsm

import (
	"fmt"
	"strings"
)

// Verdict is what a transition is judged to be. The zero value is none.
type Verdict uint8

// The verdicts.
const (
	// Legal is an edge of the reference machine.
	Legal Verdict = iota + 1
	// Abort ends a connection at once, by reset, timeout or the user, as the
	// RFC allows.
	Abort
	// Linux is how Linux renders a legal step.
	Linux
	// Gap is a transition before which records of its socket were lost, so
	// that it cannot be judged.
	Gap
	// Illegal is none of these: the finding.
	Illegal
)

var verdictNames = [...]string{Legal: "legal", Abort: "abort", Linux: "linux", Gap: "gap", Illegal: "illegal"}

// Verdicts returns all verdicts.
func Verdicts() []Verdict { return []Verdict{Legal, Abort, Linux, Gap, Illegal} }

// String returns the verdict's name, "none" for the zero value.
func (v Verdict) String() string {
	if v == 0 || int(v) >= len(verdictNames) {
		return "none"
	}
	return verdictNames[v]
}

// severity orders the verdicts from harmless to bad.
var severity = [...]int{Legal: 1, Linux: 2, Abort: 3, Gap: 4, Illegal: 5}

// Worse returns the worse of two verdicts: none, legal, linux, abort, gap,
// illegal.
func Worse(a, b Verdict) Verdict {
	if severity[b] > severity[a] {
		return b
	}
	return a
}

// ParseVerdict is the inverse of String, in any case.
func ParseVerdict(name string) (Verdict, error) {
	for _, v := range Verdicts() {
		if strings.EqualFold(strings.TrimSpace(name), v.String()) {
			return v, nil
		}
	}
	return 0, fmt.Errorf("unknown verdict %q: want one of %s", name, strings.Join(verdictNames[1:], ", "))
}

// Judgement is a verdict with its grounds.
type Judgement struct {
	Verdict Verdict
	// Rule is what permits the transition, or what it breaks.
	Rule string
	// Reason explains every verdict but Legal in words, with the evidence.
	Reason string
	// Cause is why a transition to CLOSED came about; CauseNone elsewhere.
	Cause Cause
}

// Check judges the transition by itself, given what the kernel knew at that
// moment. It never returns Gap: only who follows a socket can see one.
func Check(from, to State, e Evidence) Judgement {
	if !from.Known() || !to.Known() {
		return illegal(from, to)
	}
	c := &table[from][to]
	var cause Cause
	if to == Closed {
		if e.End != EndNone && c.abort != nil {
			return e.End.judge(from)
		}
		cause = causeOf(from, e)
	}
	switch {
	case e.Minisock && from == FinWait2 && to == FinWait2:
		return Judgement{Verdict: Linux, Rule: "Linux tcp_time_wait", Reason: "a minisock waits for the peer's FIN"}
	case e.Skipped && cause == CauseFinished && (from == FinWait2 || from == Closing):
		return skipped(e)
	case c.abort != nil && (cause.aborts() || c.legal == nil && c.linux == nil):
		return Judgement{Verdict: Abort, Rule: cause.rule(from, e), Reason: cause.words(e), Cause: cause}
	case c.legal != nil:
		return Judgement{Verdict: Legal, Rule: c.legal.Rule, Cause: cause}
	case c.linux != nil:
		return Judgement{Verdict: Linux, Rule: c.linux.Rule, Reason: c.linux.Note, Cause: cause}
	}
	return illegal(from, to)
}

// skipped judges an end where no minisock took over for TIME_WAIT. The kernel
// makes none if there are too many (inet_twsk_alloc), which it counted a moment
// before; nothing else is known to do it, so without that it proves nothing.
func skipped(e Evidence) Judgement {
	const near = 16
	limit := uint64(e.MinisockLimit)
	if e.Counted && uint64(e.Minisocks)+limit/near >= limit {
		return Judgement{
			Verdict: Illegal, Rule: "RFC 9293 3.6.1 TIME-WAIT for 2 MSL", Cause: CauseFinished,
			Reason: fmt.Sprintf("TIME_WAIT skipped: net.ipv4.tcp_max_tw_buckets is reached (%d of %d)", e.Minisocks, e.MinisockLimit),
		}
	}
	return Judgement{
		Verdict: Linux, Rule: "Linux tcp_time_wait", Cause: CauseFinished,
		Reason: "the minisock that takes over for TIME_WAIT was not observed",
	}
}

func illegal(from, to State) Judgement {
	reason := "no edge leads from " + from.String() + " to " + to.String()
	switch {
	case !from.Known():
		reason += ": " + from.String() + " is no TCP state"
	case !to.Known():
		reason += ": " + to.String() + " is no TCP state"
	case from == to:
		reason = "no edge leads from " + from.String() + " back to itself"
	}
	return Judgement{Verdict: Illegal, Rule: "RFC 9293 3.3.2 state machine", Reason: reason}
}
