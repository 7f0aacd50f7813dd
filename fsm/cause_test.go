package fsm_test

import (
	"slices"
	"testing"

	"tcptrace/fsm"
)

// What a healthy kernel emits, with what it knew at that moment, as measured
// and as read in net/ipv4: how a person is told about it.
func TestEnds(t *testing.T) {
	// As __tcp_close leaves a socket before it changes the state.
	closed := fsm.Evidence{Local: true, Orphan: true, ShutDown: true}
	with := func(e fsm.Evidence, change func(*fsm.Evidence)) fsm.Evidence {
		change(&e)
		return e
	}
	unacked := func(e fsm.Evidence) fsm.Evidence {
		return with(e, func(e *fsm.Evidence) { e.PeerFIN, e.Unacked = true, true })
	}
	linger0 := with(closed, func(e *fsm.Evidence) { e.Linger0 = true })
	unread := with(closed, func(e *fsm.Evidence) { e.Unread = true })
	linger2 := with(closed, func(e *fsm.Evidence) { e.Linger2 = true })

	const (
		refused      = "refused by the peer"
		reset        = "reset by the peer"
		timeout      = "timed out: the peer does not answer"
		unreachable  = "peer unreachable"
		givenUp      = "given up before it was established"
		disconnected = "disconnected by the process: connect(AF_UNSPEC)"
		destroyed    = "destroyed by an administrator"

		afterShutdown        = "disconnected by the process: connect(AF_UNSPEC), or close with TCP_REPAIR"
		closedOrDisconnected = "disconnected by the process: close with SO_LINGER 0, or connect(AF_UNSPEC)"

		unaccepted  = "never accepted: the listener closed or dropped it"
		sentLinger0 = "closed with SO_LINGER 0: reset sent"
		sentUnread  = "closed with received data unread: reset sent"
		sentLinger2 = "closed with a negative TCP_LINGER2: reset sent"
		unknown     = "cause not known"
		minisock    = "a minisock takes over, for TIME_WAIT or the rest of FIN_WAIT_2, which is not observed"
		timeWait    = "a minisock takes over for TIME_WAIT, which is not observed"
	)
	for _, c := range []struct {
		name     string
		from     fsm.State
		evidence fsm.Evidence
		verdict  fsm.Verdict
		cause    fsm.Cause
		rule     string
		reason   string
	}{
		{"listener closed", fsm.Listen, closed, fsm.Legal, fsm.CauseFinished, "RFC 9293 3.10.4 CLOSE", ""},
		{"listener shut down", fsm.Listen, fsm.Evidence{Local: true}, fsm.Legal, fsm.CauseFinished, "RFC 9293 3.10.4 CLOSE", ""},

		{"connect: RST", fsm.SynSent, fsm.Evidence{Errno: 111}, fsm.Abort, fsm.CauseRefused, "RFC 9293 3.10.7.3 RST", refused},
		{"connect: RST in the backlog of the caller", fsm.SynSent, fsm.Evidence{Errno: 111, Local: true}, fsm.Abort, fsm.CauseRefused, "RFC 9293 3.10.7.3 RST", refused},
		{"connect: no answer", fsm.SynSent, fsm.Evidence{Errno: 110}, fsm.Abort, fsm.CauseTimeout, "RFC 9293 3.10.8 USER TIMEOUT", timeout},
		{"connect: no host", fsm.SynSent, fsm.Evidence{Errno: 113}, fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"connect: no net", fsm.SynSent, fsm.Evidence{Errno: 101}, fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"connect: host unknown", fsm.SynSent, fsm.Evidence{Errno: 112}, fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"connect: net down", fsm.SynSent, fsm.Evidence{Errno: 100}, fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"connect: closed", fsm.SynSent, closed, fsm.Abort, fsm.CauseCancelled, "RFC 9293 3.10.4 CLOSE", givenUp},
		{"connect: closed with linger 0", fsm.SynSent, linger0, fsm.Abort, fsm.CauseCancelled, "RFC 9293 3.10.4 CLOSE", givenUp},
		{"connect: destroyed", fsm.SynSent, fsm.Evidence{Errno: 103}, fsm.Abort, fsm.CauseDestroyed, "RFC 9293 3.10.5 ABORT", destroyed},

		{"handshake: RST", fsm.SynRcvd, fsm.Evidence{Errno: 104}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"handshake: no port, by ICMP", fsm.SynRcvd, fsm.Evidence{Errno: 111}, fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"handshake: dropped", fsm.SynRcvd, fsm.Evidence{Unaccepted: true}, fsm.Abort, fsm.CauseListenerClosed, "RFC 9293 3.10.5 ABORT", unaccepted},

		{"RST", fsm.Established, fsm.Evidence{Errno: 104}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"RST in the backlog of a reader", fsm.Established, fsm.Evidence{Errno: 104, Local: true}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"RST goes before unread data", fsm.Established, fsm.Evidence{Errno: 104, Unread: true, Linger0: true, Local: true, ShutDown: true}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"retransmissions unanswered", fsm.Established, fsm.Evidence{Errno: 110}, fsm.Abort, fsm.CauseTimeout, "RFC 9293 3.10.8 USER TIMEOUT", timeout},
		{"retransmissions unanswered, ICMP", fsm.Established, fsm.Evidence{Errno: 113}, fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"retransmissions unanswered, no port by ICMP", fsm.Established, fsm.Evidence{Errno: 111}, fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"retransmissions unanswered, no source route by ICMP", fsm.Established, fsm.Evidence{Errno: 95}, fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"subflow of MPTCP", fsm.Established, fsm.Evidence{Local: true, ResetSent: true, ResetReason: "MPTCP_RST_EMIDDLEBOX"}, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.10.5 ABORT", "reset sent: MPTCP_RST_EMIDDLEBOX"},
		{"ss -K", fsm.Established, fsm.Evidence{Errno: 103}, fsm.Abort, fsm.CauseDestroyed, "RFC 9293 3.10.5 ABORT", destroyed},
		{"linger 0", fsm.Established, linger0, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.10.5 ABORT", sentLinger0},
		{"unread", fsm.Established, unread, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.6.1 CLOSE with data unread", sentUnread},
		{"connect(AF_UNSPEC)", fsm.Established, fsm.Evidence{Local: true}, fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", disconnected},
		{"connect(AF_UNSPEC) with data unread", fsm.Established, fsm.Evidence{Local: true, Unread: true}, fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", disconnected},
		{"listener of a child closed", fsm.Established, fsm.Evidence{Unaccepted: true}, fsm.Abort, fsm.CauseListenerClosed, "RFC 9293 3.10.5 ABORT", unaccepted},
		{"child not accepted yet is reset", fsm.Established, fsm.Evidence{Unaccepted: true, Errno: 104}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"closed by a process, accepted unseen", fsm.Established, with(unread, func(e *fsm.Evidence) { e.Unaccepted = true }), fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.6.1 CLOSE with data unread", sentUnread},
		{"no evidence", fsm.Established, fsm.Evidence{}, fsm.Abort, fsm.CauseUnknown, "RFC 9293 3.10.5 ABORT", unknown},
		{"an error of its own", fsm.Established, fsm.Evidence{Errno: 5}, fsm.Abort, fsm.CauseUnknown, "RFC 9293 3.10.5 ABORT", "ended by the kernel with errno 5"},

		{"CLOSE_WAIT: RST", fsm.CloseWait, fsm.Evidence{Errno: 32, PeerFIN: true}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"CLOSE_WAIT: linger 0", fsm.CloseWait, linger0, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.10.5 ABORT", sentLinger0},
		{"CLOSE_WAIT: unread", fsm.CloseWait, unread, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.6.1 CLOSE with data unread", sentUnread},
		{"CLOSE_WAIT: listener of a child closed", fsm.CloseWait, fsm.Evidence{Unaccepted: true, PeerFIN: true}, fsm.Abort, fsm.CauseListenerClosed, "RFC 9293 3.10.5 ABORT", unaccepted},

		{"FIN_WAIT_1: orphan times out", fsm.FinWait1, fsm.Evidence{Errno: 110, Orphan: true, ShutDown: true}, fsm.Abort, fsm.CauseTimeout, "RFC 9293 3.10.8 USER TIMEOUT", timeout},
		{"FIN_WAIT_1: RST", fsm.FinWait1, fsm.Evidence{Errno: 104, Orphan: true, ShutDown: true}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"FIN_WAIT_1: closed after shutdown, linger 0", fsm.FinWait1, linger0, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.10.5 ABORT", sentLinger0},
		{"FIN_WAIT_1: too many orphans", fsm.FinWait1, fsm.Evidence{Orphan: true, ShutDown: true}, fsm.Abort, fsm.CauseUnknown, "RFC 9293 3.10.5 ABORT", unknown},

		{"FIN_WAIT_2: FIN", fsm.FinWait2, fsm.Evidence{Orphan: true, ShutDown: true, PeerFIN: true}, fsm.Linux, fsm.CauseFinished, "Linux tcp_time_wait", minisock},
		{"FIN_WAIT_2: FIN, data unread", fsm.FinWait2, fsm.Evidence{Local: true, ShutDown: true, PeerFIN: true, Unread: true}, fsm.Linux, fsm.CauseFinished, "Linux tcp_time_wait", minisock},
		{"FIN_WAIT_2: orphaned", fsm.FinWait2, closed, fsm.Linux, fsm.CauseFinished, "Linux tcp_time_wait", minisock},
		{"FIN_WAIT_2: no evidence", fsm.FinWait2, fsm.Evidence{}, fsm.Linux, fsm.CauseFinished, "Linux tcp_time_wait", minisock},
		{"FIN_WAIT_2: RST", fsm.FinWait2, fsm.Evidence{Errno: 104}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"FIN_WAIT_2: closed after shutdown, unread", fsm.FinWait2, unread, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.6.1 CLOSE with data unread", sentUnread},
		{"FIN_WAIT_2: closed after shutdown, linger 0", fsm.FinWait2, linger0, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.10.5 ABORT", sentLinger0},
		{"FIN_WAIT_2: disconnected", fsm.FinWait2, fsm.Evidence{Local: true}, fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", disconnected},
		{"FIN_WAIT_2: disconnected after both directions were shut", fsm.FinWait2, fsm.Evidence{Local: true, ShutDown: true, Skipped: true}, fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", afterShutdown},
		{"FIN_WAIT_2: not for orphans", fsm.FinWait2, linger2, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.10.5 ABORT", sentLinger2},
		{"FIN_WAIT_2: the same, on the ACK of its FIN", fsm.FinWait2, fsm.Evidence{Orphan: true, ShutDown: true, Linger2: true}, fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.10.5 ABORT", sentLinger2},
		{"FIN_WAIT_2: a negative TCP_LINGER2 is for orphans", fsm.FinWait2, fsm.Evidence{Linger2: true, PeerFIN: true}, fsm.Linux, fsm.CauseFinished, "Linux tcp_time_wait", minisock},

		{"CLOSING: ACK", fsm.Closing, fsm.Evidence{Orphan: true, ShutDown: true, PeerFIN: true}, fsm.Linux, fsm.CauseFinished, "Linux tcp_time_wait", timeWait},
		{"CLOSING: no evidence", fsm.Closing, fsm.Evidence{}, fsm.Linux, fsm.CauseFinished, "Linux tcp_time_wait", timeWait},
		{"CLOSING: RST", fsm.Closing, fsm.Evidence{Errno: 104}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},

		{"CLOSING: ACK in the backlog of a caller, linger 0", fsm.Closing, linger0, fsm.Linux, fsm.CauseFinished, "Linux tcp_time_wait", timeWait},
		{"CLOSING: closed after shutdown, linger 0", fsm.Closing, unacked(linger0), fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", closedOrDisconnected},
		{"CLOSING: the same, no minisock seen", fsm.Closing, with(unacked(linger0), func(e *fsm.Evidence) { e.Skipped = true }), fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", closedOrDisconnected},
		{"CLOSING: the same, data unsent", fsm.Closing, with(unacked(linger0), func(e *fsm.Evidence) { e.ResetSent = true }), fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.10.5 ABORT", sentLinger0},
		{"CLOSING: unread", fsm.Closing, unacked(unread), fsm.Abort, fsm.CauseResetSent, "RFC 9293 3.6.1 CLOSE with data unread", sentUnread},
		{"CLOSING: disconnected", fsm.Closing, unacked(fsm.Evidence{Local: true, ShutDown: true}), fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", afterShutdown},
		{"CLOSING: listener of a child closed", fsm.Closing, unacked(fsm.Evidence{Unaccepted: true, ShutDown: true}), fsm.Abort, fsm.CauseListenerClosed, "RFC 9293 3.10.5 ABORT", unaccepted},
		{"CLOSING: no evidence, FIN not acknowledged", fsm.Closing, unacked(fsm.Evidence{Orphan: true, ShutDown: true}), fsm.Abort, fsm.CauseUnknown, "RFC 9293 3.10.5 ABORT", unknown},

		{"LAST_ACK: ACK", fsm.LastAck, fsm.Evidence{Orphan: true, ShutDown: true, PeerFIN: true}, fsm.Legal, fsm.CauseFinished, "RFC 9293 3.10.7.4 ACK of FIN", ""},
		{"LAST_ACK: ACK, data unread", fsm.LastAck, unread, fsm.Legal, fsm.CauseFinished, "RFC 9293 3.10.7.4 ACK of FIN", ""},
		{"LAST_ACK: closed after shutdown, linger 0", fsm.LastAck, unacked(linger0), fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", closedOrDisconnected},
		{"LAST_ACK: disconnected", fsm.LastAck, unacked(fsm.Evidence{Local: true, ShutDown: true}), fsm.Abort, fsm.CauseDisconnected, "RFC 9293 3.10.5 ABORT", afterShutdown},
		{"LAST_ACK: ACK, after an error by IP_RECVERR", fsm.LastAck, fsm.Evidence{Errno: 113, Orphan: true, ShutDown: true, PeerFIN: true}, fsm.Legal, fsm.CauseFinished, "RFC 9293 3.10.7.4 ACK of FIN", ""},
		{"LAST_ACK: unreachable", fsm.LastAck, unacked(fsm.Evidence{Errno: 113, Orphan: true, ShutDown: true}), fsm.Abort, fsm.CauseUnreachable, "RFC 9293 3.9.2.2 ICMP", unreachable},
		{"LAST_ACK: RST", fsm.LastAck, fsm.Evidence{Errno: 104, Orphan: true}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},
		{"LAST_ACK: no answer", fsm.LastAck, fsm.Evidence{Errno: 110, Orphan: true}, fsm.Abort, fsm.CauseTimeout, "RFC 9293 3.10.8 USER TIMEOUT", timeout},

		{"TIME_WAIT: over", fsm.TimeWait, fsm.Evidence{}, fsm.Legal, fsm.CauseFinished, "RFC 9293 3.10.8 TIME-WAIT TIMEOUT", ""},
		{"TIME_WAIT: RST", fsm.TimeWait, fsm.Evidence{Errno: 104}, fsm.Abort, fsm.CauseResetReceived, "RFC 9293 3.10.7.4 RST", reset},

		{"closed twice", fsm.Closed, closed, fsm.Linux, fsm.CauseFinished, "Linux tcp_done", "the kernel closes a socket that is closed already"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := fsm.Judgement{Verdict: c.verdict, Rule: c.rule, Reason: c.reason, Cause: c.cause}
			if got := fsm.Check(c.from, fsm.Closed, c.evidence); got != want {
				t.Errorf("%v -> CLOSED with %+v:\n%+v, want\n%+v", c.from, c.evidence, got, want)
			}
		})
	}
}

// A reset that the kernel sends, where it says so, and its own reason.
func TestResetSent(t *testing.T) {
	const (
		abort  = "RFC 9293 3.10.5 ABORT"
		unread = "RFC 9293 3.6.1 CLOSE with data unread"
	)
	orphan := fsm.Evidence{Orphan: true, ShutDown: true, ResetSent: true}
	closing := fsm.Evidence{Local: true, Orphan: true, ShutDown: true, ResetSent: true}
	with := func(e fsm.Evidence, reason string, change func(*fsm.Evidence)) fsm.Evidence {
		e.ResetReason = reason
		if change != nil {
			change(&e)
		}
		return e
	}
	for _, c := range []struct {
		name     string
		from     fsm.State
		evidence fsm.Evidence
		rule     string
		reason   string
	}{
		{"too many orphans", fsm.FinWait1, with(orphan, "TCP_ABORT_ON_MEMORY", nil), abort, "too many orphans (net.ipv4.tcp_max_orphans), or memory short: reset sent"},
		{"data after close", fsm.FinWait1, with(orphan, "TCP_ABORT_ON_DATA", nil), abort, "data came after the process had closed: reset sent"},
		{"data after close, unread", fsm.FinWait1, with(orphan, "TCP_ABORT_ON_DATA", func(e *fsm.Evidence) { e.Unread = true }), abort, "data came after the process had closed: reset sent"},
		{"another reason", fsm.Established, with(orphan, "TCP_KEEPALIVE_TIMEOUT", nil), abort, "reset sent: TCP_KEEPALIVE_TIMEOUT"},
		{"no reason", fsm.Established, orphan, abort, "reset sent"},
		{"unread", fsm.Established, with(closing, "TCP_ABORT_ON_CLOSE", func(e *fsm.Evidence) { e.Unread = true }), unread, "closed with received data unread: reset sent"},
		{"linger 0", fsm.Established, with(closing, "TCP_ABORT_ON_LINGER", func(e *fsm.Evidence) { e.Linger0 = true }), abort, "closed with SO_LINGER 0: reset sent"},
		{"linger 0, unread", fsm.Established, with(closing, "", func(e *fsm.Evidence) { e.Linger0, e.Unread = true, true }), abort, "closed with SO_LINGER 0: reset sent"},
		{"negative TCP_LINGER2", fsm.FinWait2, with(closing, "TCP_ABORT_ON_LINGER", func(e *fsm.Evidence) { e.Linger2 = true }), abort, "closed with a negative TCP_LINGER2: reset sent"},
		{"FIN_WAIT_2: data after close", fsm.FinWait2, with(orphan, "TCP_ABORT_ON_DATA", nil), abort, "data came after the process had closed: reset sent"},
		{"FIN_WAIT_2: the same with a FIN", fsm.FinWait2, with(orphan, "TCP_ABORT_ON_DATA", func(e *fsm.Evidence) { e.PeerFIN = true }), abort, "data came after the process had closed: reset sent"},
		{"LAST_ACK", fsm.LastAck, orphan, abort, "reset sent"},
		{"CLOSING", fsm.Closing, orphan, abort, "reset sent"},
		{"CLOSE_WAIT", fsm.CloseWait, with(orphan, "TCP_ABORT_ON_MEMORY", nil), abort, "too many orphans (net.ipv4.tcp_max_orphans), or memory short: reset sent"},
		{"by tcp_reset: ECONNRESET", fsm.FinWait2, with(orphan, "TCP_ABORT_ON_DATA", func(e *fsm.Evidence) { e.Errno = 104 }), abort, "data came after the process had closed: reset sent"},
		{"by tcp_reset: EPIPE", fsm.LastAck, with(orphan, "", func(e *fsm.Evidence) { e.Errno = 32 }), abort, "reset sent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := fsm.Judgement{Verdict: fsm.Abort, Rule: c.rule, Reason: c.reason, Cause: fsm.CauseResetSent}
			if got := fsm.Check(c.from, fsm.Closed, c.evidence); got != want {
				t.Errorf("%v -> CLOSED with %+v:\n%+v, want\n%+v", c.from, c.evidence, got, want)
			}
		})
	}
}

// What else is known goes before a reset that was sent on the way.
func TestResetSentIsNotAll(t *testing.T) {
	for _, c := range []struct {
		name     string
		from     fsm.State
		evidence fsm.Evidence
		want     fsm.Cause
	}{
		{"timeout", fsm.Established, fsm.Evidence{Errno: 110}, fsm.CauseTimeout},
		{"destroyed", fsm.Established, fsm.Evidence{Errno: 103}, fsm.CauseDestroyed},
		{"disconnected", fsm.Established, fsm.Evidence{Local: true}, fsm.CauseDisconnected},
		{"disconnected in FIN_WAIT_2", fsm.FinWait2, fsm.Evidence{Local: true}, fsm.CauseDisconnected},
		{"listener closed", fsm.Established, fsm.Evidence{Unaccepted: true}, fsm.CauseListenerClosed},
		{"given up", fsm.SynSent, fsm.Evidence{Local: true, ShutDown: true}, fsm.CauseCancelled},
	} {
		c.evidence.ResetSent = true
		if got := fsm.Check(c.from, fsm.Closed, c.evidence).Cause; got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCauses(t *testing.T) {
	want := []string{
		"none", "finished", "reset_received", "reset_sent", "timeout", "refused", "unreachable", "cancelled",
		"disconnected", "destroyed", "listener_closed", "unknown",
	}
	for number, name := range want {
		if got := fsm.Cause(number).String(); got != name {
			t.Errorf("%d is %q, want %q", number, got, name)
		}
	}
	if got := fsm.Cause(200).String(); got != "unknown" {
		t.Errorf("a cause without a name is %q", got)
	}
	var got []string
	for _, c := range fsm.Causes() {
		got = append(got, c.String())
	}
	if !slices.Equal(got, want[1:]) { // all but "none"
		t.Errorf("causes are %v, want %v", got, want[1:])
	}
}

// The other rows: no evidence is asked.
func TestSteps(t *testing.T) {
	const again = "closed again after a shutdown: the state stays"
	for _, c := range []struct {
		from, to fsm.State
		verdict  fsm.Verdict
		rule     string
		reason   string
	}{
		{fsm.Closed, fsm.Listen, fsm.Legal, "RFC 9293 3.10.1 OPEN", ""},
		{fsm.Closed, fsm.SynSent, fsm.Legal, "RFC 9293 3.10.1 OPEN", ""},
		{fsm.SynSent, fsm.Established, fsm.Legal, "RFC 9293 3.10.7.3 SYN,ACK", ""},
		{fsm.SynSent, fsm.SynRcvd, fsm.Legal, "RFC 9293 3.10.7.3 SYN", ""},
		{fsm.Listen, fsm.SynRcvd, fsm.Legal, "RFC 9293 3.10.7.2 SYN", ""},
		{fsm.SynRcvd, fsm.Established, fsm.Legal, "RFC 9293 3.10.7.4 ACK of SYN", ""},
		{fsm.SynRcvd, fsm.CloseWait, fsm.Legal, "RFC 9293 3.10.7.4 FIN", ""},
		{fsm.SynRcvd, fsm.FinWait1, fsm.Legal, "RFC 9293 3.10.4 CLOSE", ""},
		{fsm.Established, fsm.FinWait1, fsm.Legal, "RFC 9293 3.10.4 CLOSE", ""},
		{fsm.Established, fsm.CloseWait, fsm.Legal, "RFC 9293 3.10.7.4 FIN", ""},
		{fsm.FinWait1, fsm.FinWait2, fsm.Legal, "RFC 9293 3.10.7.4 ACK of FIN", ""},
		{fsm.FinWait1, fsm.Closing, fsm.Legal, "RFC 9293 3.10.7.4 FIN", ""},
		{fsm.CloseWait, fsm.LastAck, fsm.Legal, "RFC 9293 3.10.4 CLOSE", ""},
		{fsm.FinWait1, fsm.FinWait1, fsm.Linux, "Linux tcp_close_state", again},
		{fsm.FinWait2, fsm.FinWait2, fsm.Linux, "Linux tcp_close_state", again},
		{fsm.LastAck, fsm.LastAck, fsm.Linux, "Linux tcp_close_state", again},
		{fsm.Closing, fsm.Closing, fsm.Linux, "Linux tcp_close_state", again},
	} {
		want := fsm.Judgement{Verdict: c.verdict, Rule: c.rule, Reason: c.reason}
		allEvidence(func(e fsm.Evidence) {
			if got := fsm.Check(c.from, c.to, e); got != want {
				t.Errorf("%v -> %v with %+v:\n%+v, want\n%+v", c.from, c.to, e, got, want)
			}
		})
	}
}

// An error that ends a connect makes no orderly end of it, whether it has a
// cause of its own or not. tcp_v4_err and tcp_v6_err end a socket in SYN_SENT
// with any error of icmp_err_convert (net/ipv4/icmp.c) and icmpv6_err_convert
// (net/ipv6/icmp.c).
func TestUnknownErrorIsNoOrderlyEnd(t *testing.T) {
	for name, errno := range map[string]int{
		"EACCES: ICMPv6 prohibited by a firewall": 13,
		"ENONET: ICMP host isolated":              64,
		"EPROTO: ICMP parameter problem":          71,
		"ENOPROTOOPT: ICMP no such protocol":      92,
		"an errno of the future":                  9999,
	} {
		if j := fsm.Check(fsm.SynSent, fsm.Closed, fsm.Evidence{Errno: errno}); j.Verdict != fsm.Abort {
			t.Errorf("%s: SYN_SENT -> CLOSED is %v by %q, want abort", name, j.Verdict, j.Rule)
		}
	}
}
