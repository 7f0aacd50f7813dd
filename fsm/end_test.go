package fsm_test

import (
	"testing"

	"tcptrace/fsm"
)

// How what has no socket ends: a minisock, in TIME_WAIT or in FIN_WAIT_2, or the
// request of a handshake.
func TestEndsWithoutSocket(t *testing.T) {
	const (
		abort   = "RFC 9293 3.10.5 ABORT"
		rst     = "RFC 9293 3.10.7.4 RST"
		early   = "ended before its time: destroyed by an administrator, or it is not known how"
		peer    = "reset by the peer"
		netns   = "its network namespace went"
		closed  = "its listener closed"
		ports   = "a new connection took its ports"
		sent    = "reset sent"
		afterIt = "data came after the process had closed: reset sent"
	)
	for _, c := range []struct {
		from    fsm.State
		end     fsm.End
		verdict fsm.Verdict
		cause   fsm.Cause
		rule    string
		reason  string
	}{
		{fsm.TimeWait, fsm.EndExpired, fsm.Legal, fsm.CauseFinished, "RFC 9293 3.10.8 TIME-WAIT TIMEOUT", ""},
		{fsm.TimeWait, fsm.EndReused, fsm.Linux, fsm.CauseFinished, "RFC 9293 3.6.1 reopened from TIME-WAIT", ports},
		{fsm.TimeWait, fsm.EndReset, fsm.Abort, fsm.CauseFinished, rst, peer},
		{fsm.TimeWait, fsm.EndNetNS, fsm.Abort, fsm.CauseFinished, abort, netns},
		{fsm.TimeWait, fsm.EndKilled, fsm.Abort, fsm.CauseFinished, abort, early},
		{fsm.TimeWait, fsm.EndResetSent, fsm.Abort, fsm.CauseFinished, abort, sent},
		{fsm.TimeWait, fsm.EndListenerClosed, fsm.Abort, fsm.CauseFinished, abort, closed},
		{fsm.TimeWait, 13, fsm.Abort, fsm.CauseFinished, abort, early},

		{fsm.FinWait2, fsm.EndExpired, fsm.Abort, fsm.CauseTimeout, "Linux tcp_fin_timeout", "timed out: the process had closed, and the peer's FIN did not come"},
		{fsm.FinWait2, fsm.EndReused, fsm.Abort, fsm.CauseUnknown, abort, ports},
		{fsm.FinWait2, fsm.EndReset, fsm.Abort, fsm.CauseResetReceived, rst, peer},
		{fsm.FinWait2, fsm.EndNetNS, fsm.Abort, fsm.CauseDestroyed, abort, netns},
		{fsm.FinWait2, fsm.EndKilled, fsm.Abort, fsm.CauseUnknown, abort, early},
		{fsm.FinWait2, fsm.EndResetSent, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.6.1 CLOSE with data unread", afterIt},
		{fsm.FinWait2, fsm.EndListenerClosed, fsm.Abort, fsm.CauseListenerClosed, abort, closed},
		{fsm.FinWait2, 13, fsm.Abort, fsm.CauseUnknown, abort, early},

		{fsm.SynRcvd, fsm.EndExpired, fsm.Abort, fsm.CauseTimeout, "RFC 9293 3.10.8 USER TIMEOUT", "timed out: the final ACK did not come"},
		{fsm.SynRcvd, fsm.EndReused, fsm.Abort, fsm.CauseUnknown, abort, ports},
		{fsm.SynRcvd, fsm.EndReset, fsm.Abort, fsm.CauseResetReceived, rst, peer},
		{fsm.SynRcvd, fsm.EndNetNS, fsm.Abort, fsm.CauseDestroyed, abort, netns},
		{fsm.SynRcvd, fsm.EndKilled, fsm.Abort, fsm.CauseUnknown, abort, early},
		{fsm.SynRcvd, fsm.EndResetSent, fsm.Abort, fsm.CauseResetSent, abort, sent},
		{fsm.SynRcvd, fsm.EndListenerClosed, fsm.Abort, fsm.CauseListenerClosed, abort, closed},
		{fsm.SynRcvd, 13, fsm.Abort, fsm.CauseUnknown, abort, early},
	} {
		t.Run(c.from.String()+" "+c.end.String(), func(t *testing.T) {
			want := fsm.Judgement{Verdict: c.verdict, Rule: c.rule, Reason: c.reason, Cause: c.cause}
			if got := fsm.Check(c.from, fsm.Closed, fsm.Evidence{End: c.end}); got != want {
				t.Errorf("got\n%+v, want\n%+v", got, want)
			}
			// What the socket had left behind says nothing of its minisock.
			if got := fsm.Check(c.from, fsm.Closed, fsm.Evidence{End: c.end, Errno: 104, Skipped: true, Counted: true, ShutDown: true}); got != want {
				t.Errorf("with evidence of the socket\n%+v, want\n%+v", got, want)
			}
		})
	}
}

func TestEndString(t *testing.T) {
	for number, want := range []string{"none", "expired", "reused", "reset", "netns", "killed", "reset_sent", "listener_closed", "END_8"} {
		if got := fsm.End(number).String(); got != want {
			t.Errorf("%d is %q, want %q", number, got, want)
		}
	}
	if got := fsm.End(255).String(); got != "END_255" {
		t.Errorf("255 is %q", got)
	}
}

// No TIME_WAIT is a finding only where the kernel's own count explains it.
func TestSkipped(t *testing.T) {
	const limit = 16384
	skipped := fsm.Judgement{Verdict: fsm.Illegal, Rule: "RFC 9293 3.6.1 TIME-WAIT for 2 MSL", Cause: fsm.CauseFinished}
	unseen := fsm.Judgement{
		Verdict: fsm.Linux, Rule: "Linux tcp_time_wait", Cause: fsm.CauseFinished,
		Reason: "the minisock that takes over for TIME_WAIT was not observed",
	}
	reset := fsm.Judgement{Verdict: fsm.Abort, Rule: "RFC 9293 3.10.7.4 RST", Cause: fsm.CauseResetReceived, Reason: "reset by the peer"}
	reached := func(count string) fsm.Judgement {
		j := skipped
		j.Reason = "TIME_WAIT skipped: net.ipv4.tcp_max_tw_buckets is reached (" + count + ")"
		return j
	}
	for _, c := range []struct {
		name     string
		evidence fsm.Evidence
		want     fsm.Judgement
	}{
		{"full", fsm.Evidence{Skipped: true, Counted: true, Minisocks: limit, MinisockLimit: limit}, reached("16384 of 16384")},
		{"more than full", fsm.Evidence{Skipped: true, Counted: true, Minisocks: limit + 9, MinisockLimit: limit}, reached("16393 of 16384")},
		{"a sixteenth below", fsm.Evidence{Skipped: true, Counted: true, Minisocks: limit - limit/16, MinisockLimit: limit}, reached("15360 of 16384")},
		{"one more below", fsm.Evidence{Skipped: true, Counted: true, Minisocks: limit - limit/16 - 1, MinisockLimit: limit}, unseen},
		{"few", fsm.Evidence{Skipped: true, Counted: true, Minisocks: 1, MinisockLimit: limit}, unseen},
		{"none may be", fsm.Evidence{Skipped: true, Counted: true}, reached("0 of 0")},
		{"the largest numbers", fsm.Evidence{Skipped: true, Counted: true, Minisocks: ^uint32(0), MinisockLimit: ^uint32(0)}, reached("4294967295 of 4294967295")},
		{"not counted", fsm.Evidence{Skipped: true, Minisocks: limit, MinisockLimit: limit}, unseen},
		{"with a FIN", fsm.Evidence{Skipped: true, PeerFIN: true}, unseen},
		{"reset, not skipped", fsm.Evidence{Errno: 104, Skipped: true, Counted: true, Minisocks: limit, MinisockLimit: limit}, reset},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, from := range []fsm.State{fsm.FinWait2, fsm.Closing} {
				if got := fsm.Check(from, fsm.Closed, c.evidence); got != c.want {
					t.Errorf("%v: got\n%+v, want\n%+v", from, got, c.want)
				}
			}
		})
	}
}

func TestMinisocks(t *testing.T) {
	for _, c := range []struct {
		from, to fsm.State
		want     fsm.Judgement
	}{
		{fsm.FinWait2, fsm.TimeWait, fsm.Judgement{Verdict: fsm.Legal, Rule: "RFC 9293 3.10.7.4 FIN"}},
		{fsm.Closing, fsm.TimeWait, fsm.Judgement{Verdict: fsm.Legal, Rule: "RFC 9293 3.10.7.4 ACK of FIN"}},
		{fsm.FinWait2, fsm.FinWait2, fsm.Judgement{Verdict: fsm.Linux, Rule: "Linux tcp_time_wait", Reason: "a minisock waits for the peer's FIN"}},
		{fsm.Closing, fsm.Closing, fsm.Judgement{Verdict: fsm.Linux, Rule: "Linux tcp_close_state", Reason: "closed again after a shutdown: the state stays"}},
		{fsm.Established, fsm.Established, fsm.Judgement{
			Verdict: fsm.Illegal, Rule: "RFC 9293 3.3.2 state machine", Reason: "no edge leads from ESTABLISHED back to itself",
		}},
	} {
		if got := fsm.Check(c.from, c.to, fsm.Evidence{Minisock: true}); got != c.want {
			t.Errorf("%v -> %v: got\n%+v, want\n%+v", c.from, c.to, got, c.want)
		}
	}
}
