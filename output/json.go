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
	b := j.appendTime(append(j.line[:0], `{"type":"transition"`...), "time", j.clock.Time(e.Time))
	b = appendSocket(b, e.Cookie, e.Generation)
	if e.Seq != 0 {
		b = appendNumber(b, "seq", uint64(e.Seq))
	}
	b = appendWord(b, "from", e.From.String())
	b = appendWord(b, "to", e.To.String())
	if t.HasDwell {
		b = appendNumber(b, "dwell_ns", uint64(t.Dwell))
		if e.Flags&events.FlagEstimated != 0 {
			b = append(b, `,"dwell_estimated":true`...)
		}
	}
	b = appendEnds(b, e.Local, e.Remote, e.EndsPending())
	b = appendOwner(b, &e.Owner, e.NetNS, e.Cgroup)
	if e.Source == events.SourceTracepoint && e.From.Synchronized() {
		if e.SRTT != 0 {
			b = appendNumber(b, "rtt_us", uint64(e.SRTT))
		}
		b = appendNumber(b, "bytes_acked", e.BytesAcked)
		b = appendNumber(b, "bytes_received", e.BytesReceived)
		b = appendNumber(b, "bytes_sent", e.BytesSent)
		b = appendNumber(b, "retransmits", uint64(e.Retransmits))
	}
	b = appendErrno(b, e.Errno)
	if reason := e.Reset.String(); reason != "" {
		b = appendWord(b, "reset_reason", reason)
	}
	if e.End != fsm.EndNone {
		b = appendWord(b, "end", e.End.String())
	}
	b = appendWord(b, "verdict", t.Verdict.String())
	if t.Rule != "" {
		b = appendText(b, "rule", t.Rule)
	}
	if t.Reason != "" {
		b = appendText(b, "reason", t.Reason)
	}
	b = appendWord(b, "source", e.Source.String())
	return j.end(b)
}

// Lifecycle implements [Sink]. It does not allocate.
func (j *JSON) Lifecycle(c *lifecycle.Lifecycle) error {
	b := appendSocket(append(j.line[:0], `{"type":"lifecycle"`...), c.Cookie, c.Generation)
	if role := c.Role.String(); role != "" {
		b = appendWord(b, "role", role)
	}
	if c.Start != 0 {
		b = j.appendTime(b, "start", j.clock.Time(c.Start))
	}
	b = j.appendTime(b, "end", j.clock.Time(c.End))
	if c.Start != 0 && c.End >= c.Start {
		b = appendNumber(b, "duration_ns", c.End-c.Start)
	}
	if c.HasHandshake {
		b = appendNumber(b, "handshake_ns", uint64(c.Handshake))
	}
	b = append(b, `,"path":[`...)
	for i, s := range c.Path {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, s.String()...)
		b = append(b, '"')
	}
	b = append(b, ']')
	b = appendDwells(b, c)
	b = appendClose(b, c)
	b = appendTimeWait(b, c)
	if c.HasCounters {
		b = appendNumber(b, "bytes_sent", c.BytesSent)
		b = appendNumber(b, "bytes_received", c.BytesReceived)
		if c.SRTT != 0 {
			b = appendNumber(b, "rtt_us", uint64(c.SRTT))
		}
		b = appendNumber(b, "retransmits", uint64(c.Retransmits))
	}
	b = append(b, `,"complete":`...)
	b = strconv.AppendBool(b, c.Complete)
	b = appendWord(b, "verdict", c.Verdict.String())
	b = appendViolations(b, c.Violations)
	b = appendEnds(b, c.Local, c.Remote, true)
	b = appendOwner(b, &c.Owner, c.NetNS, c.Cgroup)
	return j.end(b)
}

func appendDwells(b []byte, c *lifecycle.Lifecycle) []byte {
	b = append(b, `,"dwell_ns":{`...)
	first := true
	for _, s := range fsm.States() {
		d, known := c.Dwell(s)
		if !known {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, s.String()...)
		b = append(b, `":`...)
		b = strconv.AppendUint(b, uint64(d), 10)
	}
	return append(b, '}')
}

func appendClose(b []byte, c *lifecycle.Lifecycle) []byte {
	if c.Cause == fsm.CauseNone {
		return b
	}
	b = append(b, `,"close":{"cause":"`...)
	b = append(b, c.Cause.String()...)
	b = append(b, '"')
	if first := c.First.String(); first != "" {
		b = appendWord(b, "first", first)
	}
	b = appendErrno(b, c.Errno)
	if reason := c.Reset.String(); reason != "" {
		b = appendWord(b, "reset_reason", reason)
	}
	return append(b, '}')
}

func appendTimeWait(b []byte, c *lifecycle.Lifecycle) []byte {
	switch {
	case c.Skipped:
		return append(b, `,"time_wait":{"end":"skipped"}`...)
	case !c.HasTimeWait:
		return b
	}
	b = append(b, `,"time_wait":{"duration_ns":`...)
	b = strconv.AppendUint(b, uint64(c.TimeWait), 10)
	if c.Estimated {
		b = append(b, `,"estimated":true`...)
	}
	if end := timeWaitEnd(c.TimeWaitEnd); end != "" {
		b = appendWord(b, "end", end)
	}
	return append(b, '}')
}

// timeWaitEnd names what ended TIME_WAIT; "" while it lasts.
func timeWaitEnd(e fsm.End) string {
	switch e {
	case fsm.EndNone:
		return ""
	case fsm.EndResetSent: // and its answer, a reset of ours
		return fsm.EndReset.String()
	}
	return e.String()
}

func appendViolations(b []byte, list []lifecycle.Violation) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, `,"violations":[`...)
	for i := range list {
		v := &list[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"from":"`...)
		b = append(b, v.From.String()...)
		b = append(b, '"')
		b = appendWord(b, "to", v.To.String())
		b = appendText(b, "rule", v.Rule)
		b = appendText(b, "reason", v.Reason)
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendSocket(b []byte, cookie uint64, generation uint32) []byte {
	if cookie == 0 {
		return b
	}
	b = append(b, `,"socket":"`...)
	b = strconv.AppendUint(b, cookie, 16)
	return appendNumber(append(b, '"'), "generation", uint64(generation))
}

func appendErrno(b []byte, errno int32) []byte {
	if errno == 0 {
		return b
	}
	b = append(b, `,"errno":`...)
	return strconv.AppendInt(b, int64(errno), 10)
}

func appendEnds(b []byte, local, remote netip.AddrPort, pending bool) []byte {
	b = appendWord(b, "family", family(local, remote))
	local, remote = knownEnds(local, remote, pending)
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

func appendOwner(b []byte, o *events.Owner, netns uint32, cgroup uint64) []byte {
	if o.Known() {
		b = appendNumber(b, "pid", uint64(o.PID))
		b = append(b, `,"comm":`...)
		b = appendJSONString(b, o.Comm.Bytes())
		b = appendNumber(b, "uid", uint64(o.UID))
		b = appendWord(b, "owner_source", o.Source.String())
	}
	if netns != 0 {
		b = appendNumber(b, "netns", uint64(netns))
	}
	if cgroup != 0 {
		b = appendNumber(b, "cgroup", cgroup)
	}
	return b
}

// Notice implements [Sink].
func (j *JSON) Notice(n *Notice) error {
	b := append(j.line[:0], `{"type":"notice"`...)
	if !n.Time.IsZero() {
		b = j.appendTime(b, "time", n.Time)
	}
	b = appendWord(b, "kind", string(n.Kind))
	if n.Reason != "" {
		b = appendText(b, "reason", n.Reason)
	}
	if n.Count != 0 {
		b = appendNumber(b, "count", n.Count)
	}
	return j.end(b)
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

// appendTime appends a time in RFC 3339 with nine digits of the second, UTC.
func (j *JSON) appendTime(b []byte, name string, t time.Time) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, `":"`...)
	if second := t.Unix(); second != j.second || len(j.stamp) == 0 {
		j.second = second
		j.stamp = t.UTC().AppendFormat(j.stamp[:0], "2006-01-02T15:04:05.")
	}
	b = append(b, j.stamp...)
	for unit, rest := 100_000_000, t.Nanosecond(); unit > 0; unit /= 10 {
		b = append(b, '0'+byte(rest/unit))
		rest %= unit
	}
	return append(b, 'Z', '"')
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
