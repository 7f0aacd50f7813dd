package output

import (
	"fmt"
	"strconv"
	"time"

	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// Widths of the columns of what is stuck.
const (
	changeWidth    = len("resolved")
	ageWidth       = len(".59m59s")
	stuckWidth     = len("ESTABLISHED")
	fdWidth        = 5
	unknown        = "-"
	lowerBound     = "≥"
	changeStuck    = "stuck"
	changeResolved = "resolved"
)

func (t *Text) stuckHeading() {
	comm, addr := t.widths()
	if t.options.Table == TableStuckChanges {
		fmt.Fprintf(t.w, "%-*s %-*s ", len(t.timeLayout()), "TIME", changeWidth, "CHANGE")
	}
	fmt.Fprintf(t.w, "%*s %-*s %7s %-*s %*s %-*s %5s %-*s %5s %6s %6s %5s ",
		ageWidth, "AGE", stuckWidth, "STATE", "PID", comm, "COMM", fdWidth, "FD",
		addr, "LADDR", "LPORT", addr, "RADDR", "RPORT", "RECVQ", "SENDQ", "RETR")
	if t.options.Wide {
		fmt.Fprintf(t.w, "%-12s %-10s ", "SOCKET", "NETNS")
	}
	t.w.WriteString("HINT\n")
}

// Stuck implements [Sink].
func (t *Text) Stuck(s *lifecycle.Stuck) error {
	switch t.options.Table {
	case TableStuckReport:
		t.report.add(s)
		return nil
	case TableStuck:
		return t.end(t.appendStuck(t.row[:0], s))
	case TableStuckChanges:
		b := t.clock.Time(s.Time).In(t.options.Location).AppendFormat(t.row[:0], t.timeLayout())
		b = append(b, ' ')
		start := len(b)
		if s.Resolved {
			b = append(b, changeResolved...)
		} else {
			b = append(b, changeStuck...)
		}
		return t.end(t.appendStuck(append(pad(b, start, changeWidth), ' '), s))
	}
	return t.end(t.appendStuckNote(t.row[:0], s))
}

func (t *Text) appendStuck(b []byte, s *lifecycle.Stuck) []byte {
	comm, addr := t.widths()
	local, remote := knownEnds(s.Local, s.Remote, true)

	start := len(b)
	b = append(padLeft(appendAge(b, s), start, ageWidth), ' ')
	start = len(b)
	b = append(pad(append(b, s.State.String()...), start, stuckWidth), ' ')
	b = t.appendOwner(b, &s.Owner, comm)
	start = len(b)
	if hasSocket(s) && s.Snapshot.Holders > 0 {
		b = strconv.AppendInt(b, int64(s.Snapshot.FD), 10)
	} else {
		b = append(b, unknown...)
	}
	b = append(padLeft(b, start, fdWidth), ' ')
	b = appendEndColumns(appendEndColumns(b, local, addr), remote, addr)
	b = append(appendSize(b, uint64(s.Snapshot.RecvQueue), hasSocket(s)), ' ')
	b = append(appendSize(b, uint64(s.Snapshot.SendQueue), hasSocket(s)), ' ')
	start = len(b)
	if hasSocket(s) {
		b = strconv.AppendUint(b, uint64(s.Retransmits), 10)
	} else {
		b = append(b, unknown...)
	}
	b = append(padLeft(b, start, 5), ' ')
	if t.options.Wide {
		b = appendSocketColumns(b, s.Cookie, s.NetNS)
	}
	if s.Resolved {
		return appendNext(b, s)
	}
	return s.AppendHint(b)
}

// appendStuckNote appends a row for the table of something else.
func (t *Text) appendStuckNote(b []byte, s *lifecycle.Stuck) []byte {
	local, remote := knownEnds(s.Local, s.Remote, true)
	b = t.appendWho(b, s.Time, &s.Owner, local, remote)
	if s.Resolved {
		b = append(append(b, "RESOLVED "...), s.State.String()...)
		b = appendAge(append(b, " after "...), s)
		return appendNext(append(b, ' '), s)
	}
	b = append(b, t.color(fsm.Abort)...)
	b = append(append(b, "STUCK "...), s.State.String()...)
	b = appendAge(append(b, " for "...), s)
	return t.resetColor(s.AppendHint(append(b, ": "...)))
}

// appendNext appends what became of it.
func appendNext(b []byte, s *lifecycle.Stuck) []byte {
	if s.To == 0 {
		return append(b, "gone"...)
	}
	return append(append(b, "-> "...), s.To.String()...)
}

func appendAge(b []byte, s *lifecycle.Stuck) []byte { return AppendAge(b, s.Age, s.AgeExact) }

// AppendAge appends for how long something is so, such as ≥1m14s if it is not exact.
func AppendAge(b []byte, age time.Duration, exact bool) []byte {
	if !exact {
		b = append(b, lowerBound...)
	}
	return append(b, lifecycle.FormatDuration(age)...)
}
