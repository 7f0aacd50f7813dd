package fsm

import (
	"fmt"
	"strings"
)

// Evidence is what the kernel knew about a socket at the moment of a
// transition.
type Evidence struct {
	// Errno is the pending error of the socket (sk_err), 0 for none.
	Errno int
	// Local: it happened inside a call of a process on this very socket.
	Local bool
	// Orphan: no process held the socket any more.
	Orphan bool
	// Unaccepted: no process has held it yet.
	Unaccepted bool
	// ShutDown: both directions were shut, as close does first.
	ShutDown bool
	// Linger0: SO_LINGER with time 0, which makes close reset the connection.
	Linger0 bool
	// Linger2: a negative TCP_LINGER2, which allows no FIN_WAIT_2 to an orphan.
	Linger2 bool
	// Unread: received data that nobody has read, which makes close reset the
	// connection.
	Unread bool
	// PeerFIN: the peer's FIN had arrived.
	PeerFIN bool
	// Unacked: the peer had not acknowledged all that was sent, the FIN too.
	Unacked bool

	// ResetSent: the kernel sent a reset with this end; ResetReason is its name
	// for why, "" where it gives none (enum sk_rst_reason).
	ResetSent   bool
	ResetReason string
	// ResetReceived: the peer's reset was seen on the wire, where there is no kernel to
	// tell what it made of it.
	ResetReceived bool

	// Minisock: a minisock took over from the socket.
	Minisock bool
	// End is why a minisock or the request of a handshake ended.
	End End
	// Skipped: where TIME_WAIT should begin no minisock was made, though all
	// are followed. If Counted, the network namespace had so many Minisocks, and
	// MinisockLimit (net.ipv4.tcp_max_tw_buckets).
	Skipped, Counted         bool
	Minisocks, MinisockLimit uint32
}

// Cause is why a connection came to its end.
type Cause uint8

// The causes. CauseNone is the zero value: not an end.
const (
	CauseNone Cause = iota
	CauseFinished
	CauseResetReceived
	CauseResetSent
	CauseTimeout
	CauseRefused
	CauseUnreachable
	CauseCancelled
	CauseDisconnected
	CauseDestroyed
	CauseListenerClosed
	CauseUnknown
)

var causeNames = [...]string{
	CauseNone: "none", CauseFinished: "finished", CauseResetReceived: "reset_received", CauseResetSent: "reset_sent",
	CauseTimeout: "timeout", CauseRefused: "refused", CauseUnreachable: "unreachable", CauseCancelled: "cancelled",
	CauseDisconnected: "disconnected", CauseDestroyed: "destroyed", CauseListenerClosed: "listener_closed",
	CauseUnknown: "unknown",
}

// Causes returns all causes.
func Causes() []Cause {
	list := make([]Cause, 0, len(causeNames)-1)
	for c := CauseFinished; int(c) < len(causeNames); c++ {
		list = append(list, c)
	}
	return list
}

// String returns the name used in JSON.
func (c Cause) String() string {
	if int(c) >= len(causeNames) {
		return causeNames[CauseUnknown]
	}
	return causeNames[c]
}

// The errors by which Linux ends connections, as numbered where tcptrace runs
// (include/uapi/asm-generic/errno.h).
const (
	errACCES       = 13
	errPIPE        = 32
	errNONET       = 64
	errPROTO       = 71
	errMSGSIZE     = 90
	errNOPROTOOPT  = 92
	errOPNOTSUPP   = 95
	errNETDOWN     = 100
	errNETUNREACH  = 101
	errCONNABORTED = 103
	errCONNRESET   = 104
	errTIMEDOUT    = 110
	errCONNREFUSED = 111
	errHOSTDOWN    = 112
	errHOSTUNREACH = 113
)

// causeOf tells why a socket went from the state to CLOSED. The order of the
// kernel's steps is in tcp_reset, tcp_write_err, tcp_abort, __tcp_close and
// tcp_disconnect of net/ipv4: the error is set before the state, but close and
// disconnect set it after, if at all.
func causeOf(from State, e Evidence) Cause {
	if e.ResetReceived {
		if from == SynSent {
			return CauseRefused
		}
		return CauseResetReceived
	}
	switch e.Errno {
	case 0:
	case errCONNREFUSED:
		if from == SynSent { // elsewhere tcp_reset has another
			return CauseRefused
		}
		return unreachable(from, e)
	case errCONNRESET, errPIPE:
		if e.ResetSent { // data for a socket that is closed: tcp_reset runs here, too
			return CauseResetSent
		}
		return CauseResetReceived
	case errTIMEDOUT:
		return CauseTimeout
	case errHOSTUNREACH, errNETUNREACH, errHOSTDOWN, errNETDOWN, errACCES, errNONET, errNOPROTOOPT,
		errOPNOTSUPP, errMSGSIZE, errPROTO:
		// All that ICMP can say (icmp_err_convert, tcp_v4_err, icmpv6_err_convert).
		return unreachable(from, e)
	case errCONNABORTED:
		return CauseDestroyed
	default:
		return CauseUnknown
	}

	if strings.HasPrefix(e.ResetReason, "MPTCP_") { // before tcp_done (mptcp_subflow_reset)
		return CauseResetSent
	}
	switch from {
	case SynSent:
		return CauseCancelled
	case Closed, Listen, TimeWait:
		return CauseFinished
	case LastAck, Closing:
		switch {
		case e.ResetSent:
			return CauseResetSent
		case !e.Unacked:
			return CauseFinished
		case e.Local && e.Unread:
			return CauseResetSent
		case e.Local:
			return CauseDisconnected // tcp_disconnect sends no reset here
		}
	case FinWait2:
		// Without the peer's FIN, close may reset and connect disconnect it, before it is
		// an orphan.
		switch {
		case e.Linger2 && e.Orphan,
			!e.PeerFIN && e.Local && e.ShutDown && (e.Unread || e.Linger0):
			return CauseResetSent
		case !e.PeerFIN && e.Local && !e.Orphan:
			return CauseDisconnected
		case e.ResetSent:
			return CauseResetSent
		}
		return CauseFinished
	}

	switch {
	case e.Unaccepted && !e.Local:
		return CauseListenerClosed
	case e.Local && e.ShutDown && (e.Linger0 || e.Unread):
		return CauseResetSent
	case e.Local && !e.ShutDown:
		return CauseDisconnected
	case e.ResetSent:
		return CauseResetSent
	}
	return CauseUnknown
}

// unreachable is the cause of an end with an error that ICMP brought. IP_RECVERR leaves one
// with sockets that end in good order.
func unreachable(from State, e Evidence) Cause {
	if (from == LastAck || from == Closing) && !e.Unacked {
		return CauseFinished
	}
	return CauseUnreachable
}

// aborts reports whether the cause shows that the end was no orderly one.
func (c Cause) aborts() bool { return c > CauseFinished }

// rule returns what allows a socket in the state to be ended by the cause.
func (c Cause) rule(from State, e Evidence) string {
	switch c {
	case CauseRefused, CauseResetReceived:
		if from == SynSent {
			return "RFC 9293 3.10.7.3 RST"
		}
		return "RFC 9293 3.10.7.4 RST"
	case CauseTimeout:
		return "RFC 9293 3.10.8 USER TIMEOUT"
	case CauseUnreachable:
		return "RFC 9293 3.9.2.2 ICMP"
	case CauseCancelled:
		return "RFC 9293 3.10.4 CLOSE"
	case CauseResetSent:
		if e.Unread && e.Local && !e.Linger0 {
			return "RFC 9293 3.6.1 CLOSE with data unread"
		}
	}
	return "RFC 9293 3.10.5 ABORT"
}

const dataAfterClose = "data came after the process had closed: reset sent"

// words tells the cause to a person.
func (c Cause) words(e Evidence) string {
	switch c {
	case CauseRefused:
		return "refused by the peer"
	case CauseResetReceived:
		return "reset by the peer"
	case CauseTimeout:
		return "timed out: the peer does not answer"
	case CauseUnreachable:
		return "peer unreachable"
	case CauseCancelled:
		return "given up before it was established"
	case CauseDisconnected:
		// That close shuts both directions first shows what it was not.
		switch {
		case !e.ShutDown:
			return "disconnected by the process: connect(AF_UNSPEC)"
		case e.Linger0:
			return "disconnected by the process: close with SO_LINGER 0, or connect(AF_UNSPEC)"
		}
		return "disconnected by the process: connect(AF_UNSPEC), or close with TCP_REPAIR"
	case CauseDestroyed:
		return "destroyed by an administrator"
	case CauseListenerClosed:
		return "never accepted: the listener closed or dropped it"
	case CauseResetSent:
		switch {
		case e.Linger0 && e.Local:
			return "closed with SO_LINGER 0: reset sent"
		case e.Unread && e.Local:
			return "closed with received data unread: reset sent"
		case e.Linger2 && e.Orphan && e.ResetReason != "TCP_ABORT_ON_MEMORY":
			return "closed with a negative TCP_LINGER2: reset sent"
		}
		switch e.ResetReason {
		case "TCP_ABORT_ON_MEMORY":
			return "too many orphans (net.ipv4.tcp_max_orphans), or memory short: reset sent"
		case "TCP_ABORT_ON_DATA":
			return dataAfterClose
		case "":
			return "reset sent"
		}
		return "reset sent: " + e.ResetReason
	}
	if e.Errno != 0 {
		return fmt.Sprintf("ended by the kernel with errno %d", e.Errno)
	}
	return "cause not known"
}
