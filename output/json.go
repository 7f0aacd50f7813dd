package output

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// JSON writes one object a line, as docs/json.md describes. What is not known
// is absent, never 0 or "".
type JSON struct {
	w     *bufio.Writer
	clock events.Clock
	line  []byte // reused
	// The start of a time stamp up to the second, which few events change.
	second int64
	stamp  []byte
}

// NewJSON returns a sink that writes to w. The clock dates the events.
func NewJSON(w io.Writer, clock events.Clock) *JSON {
	return &JSON{w: bufio.NewWriterSize(w, 64<<10), clock: clock}
}

// Transition implements [Sink]. It does not allocate.
func (j *JSON) Transition(t *lifecycle.Transition) error {
	e := t.Event
	b := append(j.line[:0], `{"type":"transition","time":"`...)
	b = j.appendTime(b, j.clock.Time(e.Time))
	b = append(b, `","socket":"`...)
	b = strconv.AppendUint(b, e.Cookie, 16)
	b = append(b, `","generation":`...)
	b = strconv.AppendUint(b, uint64(e.Generation), 10)
	if e.Seq != 0 {
		b = appendNumber(b, "seq", uint64(e.Seq))
	}
	b = appendWord(b, "from", e.From.String())
	b = appendWord(b, "to", e.To.String())
	if t.HasDwell {
		b = appendNumber(b, "dwell_ns", uint64(t.Dwell))
	}
	b = appendEnds(b, e)
	b = appendOwner(b, e)
	if synchronized(e.From) {
		if e.SRTT != 0 {
			b = appendNumber(b, "rtt_us", uint64(e.SRTT))
		}
		b = appendNumber(b, "bytes_acked", e.BytesAcked)
		b = appendNumber(b, "bytes_received", e.BytesReceived)
		b = appendNumber(b, "retransmits", uint64(e.Retransmits))
	}
	if e.Errno != 0 {
		b = append(b, `,"errno":`...)
		b = strconv.AppendInt(b, int64(e.Errno), 10)
	}
	b = appendWord(b, "verdict", t.Verdict.String())
	if t.Rule != "" {
		b = appendText(b, "rule", t.Rule)
	}
	if t.Reason != "" {
		b = appendText(b, "reason", t.Reason)
	}
	b = append(b, `,"source":"tracepoint"`...)
	return j.end(b)
}

// synchronized reports whether data can have been exchanged.
func synchronized(s fsm.State) bool {
	return s != fsm.Closed && s != fsm.Listen && s != fsm.SynSent && s != fsm.SynRcvd
}

func appendEnds(b []byte, e *events.Event) []byte {
	b = appendWord(b, "family", family(e))
	local, remote := knownEnds(e)
	b = appendEnd(b, "local", local)
	return appendEnd(b, "remote", remote)
}

func appendEnd(b []byte, name string, end netip.AddrPort) []byte {
	if !end.Addr().IsValid() && end.Port() == 0 {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, `":{`...)
	if end.Addr().IsValid() {
		b = append(b, `"addr":"`...)
		b = end.Addr().AppendTo(b)
		b = append(b, '"')
	}
	if end.Port() != 0 {
		if end.Addr().IsValid() {
			b = append(b, ',')
		}
		b = append(b, `"port":`...)
		b = strconv.AppendUint(b, uint64(end.Port()), 10)
	}
	return append(b, '}')
}

func appendOwner(b []byte, e *events.Event) []byte {
	if e.Owner.Known() {
		b = appendNumber(b, "pid", uint64(e.Owner.PID))
		b = append(b, `,"comm":`...)
		b = appendJSONString(b, e.Owner.Comm.Bytes())
		b = appendNumber(b, "uid", uint64(e.Owner.UID))
		b = appendWord(b, "owner_source", e.Owner.Source.String())
	}
	if e.NetNS != 0 {
		b = appendNumber(b, "netns", uint64(e.NetNS))
	}
	if e.Cgroup != 0 {
		b = appendNumber(b, "cgroup", e.Cgroup)
	}
	return b
}

// Notice implements [Sink].
func (j *JSON) Notice(n *Notice) error {
	b := append(j.line[:0], `{"type":"notice"`...)
	if !n.Time.IsZero() {
		b = append(b, `,"time":"`...)
		b = append(j.appendTime(b, n.Time), '"')
	}
	b = appendWord(b, "kind", string(n.Kind))
	if n.Reason != "" {
		b = appendText(b, "reason", n.Reason)
	}
	return j.end(appendNumber(b, "count", n.Count))
}

// Summary implements [Sink].
func (j *JSON) Summary(s *Summary) error {
	b := append(j.line[:0], `{"type":"summary"`...)
	b = appendNumber(b, "transitions", s.Transitions)
	b = appendNumber(b, "connections", s.Connections)
	b = appendNumber(b, "illegal", s.Illegal)
	b = appendNumber(b, "gaps", s.Gaps)
	b = appendNumber(b, "lost", s.Lost)
	return j.end(appendNumber(b, "duration_ns", uint64(s.Duration)))
}

// Flush implements [Sink].
func (j *JSON) Flush() error {
	if err := j.w.Flush(); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Close implements [Sink]. It does not close the underlying writer.
func (j *JSON) Close() error { return j.Flush() }

func (j *JSON) end(b []byte) error {
	j.line = append(b, '}', '\n')
	if _, err := j.w.Write(j.line); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// appendTime appends the time in RFC 3339 with nine digits of the second, UTC.
func (j *JSON) appendTime(b []byte, t time.Time) []byte {
	if second := t.Unix(); second != j.second || len(j.stamp) == 0 {
		j.second = second
		j.stamp = t.UTC().AppendFormat(j.stamp[:0], "2006-01-02T15:04:05.")
	}
	b = append(b, j.stamp...)
	for unit, rest := 100_000_000, t.Nanosecond(); unit > 0; unit /= 10 {
		b = append(b, '0'+byte(rest/unit))
		rest %= unit
	}
	return append(b, 'Z')
}

func appendNumber(b []byte, name string, n uint64) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return strconv.AppendUint(b, n, 10)
}

// appendWord appends a string of ours, that needs no escaping.
func appendWord(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, `":"`...)
	b = append(b, value...)
	return append(b, '"')
}

func appendText(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendJSONString(b, value)
}
