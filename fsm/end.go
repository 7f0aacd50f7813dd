package fsm

import "strconv"

// End is why the kernel ended what has no socket: a minisock (TIME_WAIT, or
// FIN_WAIT_2 of an orphan) or the request of a handshake (SYN_RCVD).
type End uint8

// The ends, as enum end_reason of bpf/event.h. EndNone is no end of this kind.
const (
	EndNone           End = iota
	EndExpired            // its time was over
	EndReused             // a new connection took its ports
	EndReset              // reset by the peer
	EndNetNS              // its network namespace went
	EndKilled             // destroyed, or by what is not known
	EndResetSent          // answered by a reset of ours
	EndListenerClosed     // its listener listens no more
)

var endNames = [...]string{
	EndNone: "none", EndExpired: "expired", EndReused: "reused", EndReset: "reset", EndNetNS: "netns",
	EndKilled: "killed", EndResetSent: "reset_sent", EndListenerClosed: "listener_closed",
}

// String returns the name used in JSON, or END_13 for an unknown number.
func (e End) String() string {
	if int(e) >= len(endNames) {
		return "END_" + strconv.Itoa(int(e))
	}
	return endNames[e]
}

// OfTimeWait returns the end as that of TIME_WAIT: a reset of ours, which answers the
// peer's segment, ends it as one of the peer's does.
func (e End) OfTimeWait() End {
	if e == EndResetSent {
		return EndReset
	}
	return e
}

// judge judges the transition from the state to CLOSED that the end is.
func (e End) judge(from State) Judgement {
	j := Judgement{Verdict: Abort, Rule: "RFC 9293 3.10.5 ABORT", Cause: e.cause(from)}
	switch e {
	case EndExpired:
		switch from {
		case TimeWait:
			return Judgement{Verdict: Legal, Rule: table[TimeWait][Closed].legal.Rule, Cause: j.Cause}
		case FinWait2:
			j.Rule = "Linux tcp_fin_timeout"
			j.Reason = "timed out: the process had closed, and the peer's FIN did not come"
		default:
			j.Rule = "RFC 9293 3.10.8 USER TIMEOUT"
			j.Reason = "timed out: the final ACK did not come"
		}
	case EndReused:
		j.Reason = "a new connection took its ports"
		if from == TimeWait {
			j.Verdict, j.Rule = Linux, "RFC 9293 3.6.1 reopened from TIME-WAIT"
		}
	case EndReset:
		j.Rule, j.Reason = "RFC 9293 3.10.7.4 RST", "reset by the peer"
	case EndNetNS:
		j.Reason = "its network namespace went"
	case EndResetSent:
		j.Reason = "reset sent"
		if from == FinWait2 {
			j.Rule, j.Reason = "RFC 9293 3.6.1 CLOSE with data unread", dataAfterClose
		}
	case EndListenerClosed:
		j.Reason = "its listener closed"
	default:
		j.Reason = "ended before its time: destroyed by an administrator, or it is not known how"
	}
	return j
}

// cause is why a connection ended that was in the state. One in TIME_WAIT had
// finished already, whatever ended that.
func (e End) cause(from State) Cause {
	if from == TimeWait {
		return CauseFinished
	}
	switch e {
	case EndExpired:
		return CauseTimeout
	case EndReset:
		return CauseResetReceived
	case EndResetSent:
		return CauseResetSent
	case EndListenerClosed:
		return CauseListenerClosed
	case EndNetNS:
		return CauseDestroyed
	}
	return CauseUnknown
}
