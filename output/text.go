package output

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// TextOptions choose how the text looks. Nil means the zero value.
type TextOptions struct {
	// Wide shows whole names and long addresses in their columns, and adds
	// socket, namespace, verdict and rule.
	Wide bool
	// MaxRows of a report, which has all sockets in its numbers; 0: any.
	MaxRows uint64
	// Table is what is shown.
	Table Table
	// Packets says in the heading that all of it is inferred from packets.
	Packets bool
	// Color marks verdicts with ANSI colours.
	Color bool
	// Location of the times; nil means UTC.
	Location *time.Location
}

// Table is a form of the text.
type Table uint8

// The tables.
const (
	TableTransitions  Table = iota // a row for each transition
	TableLifecycles                // a row for each connection
	TableStuck                     // a row for each socket that is stuck
	TableStuckChanges              // likewise, and when it is over, with the time of both
	// TableStuckReport has a row for each process with sockets that are stuck in the
	// same state, written at the end.
	TableStuckReport
)

// Text writes a table for people. What is stuck is told in the tables of other
// things as well.
type Text struct {
	w       *bufio.Writer
	clock   events.Clock
	options TextOptions
	row     []byte // reused
	report  report
}

// Widths of the columns. A longer value pushes the rest of its row aside.
const (
	narrowComm, wideComm = 12, 16
	narrowAddr, wideAddr = 15, 39
	stateWidth           = len("ESTABLISHED -> FIN_WAIT_1")
)

const (
	narrowTime = "15:04:05.000"
	wideTime   = "2006-01-02T15:04:05.000000"
)

// NewText returns a sink that writes to w, beginning with the heading. The
// clock dates the events.
func NewText(w io.Writer, clock events.Clock, o *TextOptions) *Text {
	t := &Text{w: bufio.NewWriterSize(w, 64<<10), clock: clock}
	if o != nil {
		t.options = *o
	}
	if t.options.Location == nil {
		t.options.Location = time.UTC
	}
	t.heading()
	return t
}

func (t *Text) heading() {
	comm, addr := t.widths()
	switch t.options.Table {
	case TableStuckReport:
		return
	case TableStuck, TableStuckChanges:
		t.stuckHeading()
		return
	}
	fmt.Fprintf(t.w, "%-*s %7s %-*s %-*s %5s %-*s %5s ",
		len(t.timeLayout()), "TIME", "PID", comm, "COMM", addr, "LADDR", "LPORT", addr, "RADDR", "RPORT")
	if t.options.Table == TableLifecycles {
		t.lifecycleHeading()
		return
	}
	fmt.Fprintf(t.w, "%-*s %10s", stateWidth, "FROM -> TO"+t.inferred(), "MS")
	if t.options.Wide {
		fmt.Fprintf(t.w, " %-12s %-10s %-7s %s", "SOCKET", "NETNS", "VERDICT", "RULE")
	}
	t.w.WriteByte('\n')
}

// inferred marks a heading.
func (t *Text) inferred() string {
	if t.options.Packets {
		return " (packets)"
	}
	return ""
}

// widths returns those of the columns COMM and of addresses.
func (t *Text) widths() (comm, addr int) {
	if t.options.Wide {
		return wideComm, wideAddr
	}
	return narrowComm, narrowAddr
}

func (t *Text) timeLayout() string {
	if t.options.Wide {
		return wideTime
	}
	return narrowTime
}

// Transition implements [Sink].
func (t *Text) Transition(tr *lifecycle.Transition) error {
	e := tr.Event
	local, remote := knownEnds(e.Local, e.Remote, e.EndsPending())
	b := t.appendWho(t.row[:0], e.Time, &e.Owner, local, remote)

	start := len(b)
	b = append(b, e.From.String()...)
	b = append(b, " -> "...)
	b = append(b, e.To.String()...)
	b = append(pad(b, start, stateWidth), ' ')

	mark := ""
	switch {
	case tr.AtLeast:
		mark = "≥"
	case tr.AtMost:
		mark = "≤"
	case e.Flags&events.FlagEstimated != 0:
		mark = "~"
	}
	b = appendMillisColumn(b, mark, tr.Dwell, tr.HasDwell, 10)
	if t.options.Wide {
		b = t.appendWide(b, tr)
	} else if tr.Verdict > fsm.Legal && (tr.Verdict != fsm.Linux || tr.End != fsm.EndNone) {
		b = append(b, ' ', ' ')
		b = t.appendVerdict(b, tr)
	}
	return t.end(b)
}

func (t *Text) end(b []byte) error {
	t.row = append(b, '\n')
	if _, err := t.w.Write(t.row); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// appendWho appends the columns that begin every row.
func (t *Text) appendWho(b []byte, at uint64, owner *events.Owner, local, remote netip.AddrPort) []byte {
	comm, addr := t.widths()
	b = t.clock.Time(at).In(t.options.Location).AppendFormat(b, t.timeLayout())
	b = t.appendOwner(append(b, ' '), owner, comm)
	b = appendEndColumns(b, local, addr)
	return appendEndColumns(b, remote, addr)
}

func (t *Text) appendOwner(b []byte, o *events.Owner, width int) []byte {
	start := len(b)
	if !o.Known() {
		b = append(padLeft(append(b, '-'), start, 7), ' ')
		start = len(b)
		return append(pad(append(b, '-'), start, width), ' ')
	}
	b = padLeft(strconv.AppendUint(b, uint64(o.PID), 10), start, 7)
	b = append(b, ' ')
	start = len(b)
	b = AppendEscaped(b, o.Comm.Bytes())
	if !t.options.Wide {
		b = cutTo(b, start, width)
	}
	return append(pad(b, start, width), ' ')
}

func appendEndColumns(b []byte, end netip.AddrPort, width int) []byte {
	start := len(b)
	if end.Addr().IsValid() {
		b = end.Addr().AppendTo(b)
	} else {
		b = append(b, '-')
	}
	b = append(pad(b, start, width), ' ')
	start = len(b)
	if end.Port() != 0 {
		b = strconv.AppendUint(b, uint64(end.Port()), 10)
	} else {
		b = append(b, '-')
	}
	return append(padLeft(b, start, 5), ' ')
}

func (t *Text) appendWide(b []byte, tr *lifecycle.Transition) []byte {
	b = appendSocketColumns(append(b, ' '), tr.Cookie, tr.NetNS)
	start := len(b)
	b = append(b, tr.Verdict.String()...)
	b = append(pad(b, start, 7), ' ')
	b = append(b, tr.Rule...)
	if tr.Reason != "" {
		if tr.Rule != "" {
			b = append(b, ": "...)
		}
		b = t.appendColored(b, tr.Verdict, "", tr.Reason)
	}
	if e := tr.Event; e.Wire != nil && e.Wire.Trigger != "" {
		b = append(b, " ("...)
		b = append(b, e.Wire.Trigger...)
		b = append(b, ')')
	}
	return b
}

// appendSocketColumns appends the columns that name a socket and where it is.
func appendSocketColumns(b []byte, cookie uint64, netns uint32) []byte {
	start := len(b)
	if cookie != 0 {
		b = events.AppendCookie(b, cookie)
	} else {
		b = append(b, '-')
	}
	b = append(pad(b, start, 12), ' ')
	start = len(b)
	if netns != 0 {
		b = strconv.AppendUint(b, uint64(netns), 10)
	} else {
		b = append(b, '-')
	}
	return append(pad(b, start, 10), ' ')
}

// appendVerdict appends "abort: reset by the peer".
func (t *Text) appendVerdict(b []byte, tr *lifecycle.Transition) []byte {
	name := tr.Verdict.String()
	if tr.Verdict == fsm.Illegal {
		name = "ILLEGAL"
	}
	return t.appendColored(b, tr.Verdict, name, tr.Reason)
}

// appendColored appends "name: reason", or the reason alone, in the colour of
// the verdict.
func (t *Text) appendColored(b []byte, v fsm.Verdict, name, reason string) []byte {
	b = append(b, t.color(v)...)
	if name != "" {
		b = append(b, name...)
		b = append(b, ": "...)
	}
	b = append(b, reason...)
	return t.resetColor(b)
}

func (t *Text) color(v fsm.Verdict) string {
	if !t.options.Color {
		return ""
	}
	switch v {
	case fsm.Illegal:
		return "\x1b[1;31m" // bold red
	case fsm.Abort:
		return "\x1b[33m" // yellow
	case fsm.Gap:
		return "\x1b[35m" // magenta
	}
	return ""
}

func (t *Text) resetColor(b []byte) []byte {
	if t.options.Color {
		b = append(b, "\x1b[0m"...)
	}
	return b
}

// Notice implements [Sink]: the table has no notices, see [Messages].
func (t *Text) Notice(*Notice) error { return nil }

// Summary implements [Sink]: it writes the report, if that is the table. For
// everything else see [Messages].
func (t *Text) Summary(s *Summary) error {
	if t.options.Table != TableStuckReport {
		return nil
	}
	if err := t.writeReport(s); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Flush implements [Sink].
func (t *Text) Flush() error {
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Close implements [Sink]. It does not close the underlying writer.
func (t *Text) Close() error { return t.Flush() }

// appendMillisColumn appends a column of milliseconds with a mark before them, -
// if they are not known.
func appendMillisColumn(b []byte, mark string, d time.Duration, known bool, width int) []byte {
	start := len(b)
	if known {
		b = appendMillis(append(b, mark...), d)
	} else {
		b = append(b, '-')
	}
	return padLeft(b, start, width)
}

// appendMillis appends a duration in milliseconds with three decimals, rounded
// down.
func appendMillis(b []byte, d time.Duration) []byte {
	micros := uint64(d / time.Microsecond)
	b = strconv.AppendUint(b, micros/1000, 10)
	rest := micros % 1000
	return append(b, '.', '0'+byte(rest/100), '0'+byte(rest/10%10), '0'+byte(rest%10))
}

// pad fills b up with spaces until what begins at start is width wide.
func pad(b []byte, start, width int) []byte {
	for n := utf8.RuneCount(b[start:]); n < width; n++ {
		b = append(b, ' ')
	}
	return b
}

// padLeft moves what begins at start to the right end of its width.
func padLeft(b []byte, start, width int) []byte {
	n, missing := len(b)-start, width-utf8.RuneCount(b[start:])
	if missing <= 0 {
		return b
	}
	b = pad(b, start, width)
	copy(b[start+missing:], b[start:start+n])
	for i := start; i < start+missing; i++ {
		b[i] = ' '
	}
	return b
}

// cutTo shortens what begins at start to the width.
func cutTo(b []byte, start, width int) []byte {
	n := 0
	for i := start; i < len(b); n++ {
		if n == width {
			return b[:i]
		}
		_, size := utf8.DecodeRune(b[i:])
		i += size
	}
	return b
}
