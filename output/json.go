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
	b := j.appendTime(append(j.begin(), `{"type":"transition"`...), "time", j.clock.Time(e.Time))
	b = appendSocket(b, e.Cookie, e.Generation)
	if e.Seq != 0 {
		b = appendNumber(b, "seq", uint64(e.Seq))
	}
	b = appendWord(b, "from", e.From.String())
	b = appendWord(b, "to", e.To.String())
	if t.HasDwell {
		b = appendNumber(b, "dwell_ns", uint64(t.Dwell))
		if t.AtLeast {
			b = append(b, `,"dwell_exact":false`...)
		}
		if t.AtMost {
			b = append(b, `,"dwell_at_most":true`...)
		}
		if e.Flags&events.FlagEstimated != 0 {
			b = append(b, `,"dwell_estimated":true`...)
		}
	}
	b = appendEnds(b, e.Local, e.Remote, e.EndsPending())
	b = appendOwner(b, &e.Owner, e.NetNS, e.Cgroup, &t.Place)
	if e.Source == events.SourceTracepoint && e.From.Synchronized() {
		if e.SRTT != 0 {
			b = appendNumber(b, "rtt_us", uint64(e.SRTT))
		}
		b = appendNumber(b, "bytes_acked", e.BytesAcked)
		b = appendNumber(b, "bytes_received", e.BytesReceived)
		b = appendNumber(b, "bytes_sent", e.BytesSent)
		b = appendNumber(b, "retransmits", uint64(e.Retransmits))
	}
	if e.Wire != nil && e.Wire.Counted && e.From.Synchronized() {
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
	if e.Wire != nil && e.Wire.Trigger != "" {
		b = appendWord(b, "trigger", e.Wire.Trigger)
	}
	b = appendWord(b, "source", e.Source.String())
	return j.end(b)
}

// duration returns how long the connection was there, as far as it is known. It is a
// lower bound where its beginning was not seen.
func duration(c *lifecycle.Lifecycle) (d time.Duration, known, atLeast bool) {
	start := c.Start
	if atLeast = start == 0; atLeast {
		start = c.Since
	}
	return time.Duration(c.End - start), start != 0 && c.End >= start, atLeast
}

// dwellAtLeast reports whether the time in the state is a lower bound because its
// beginning was not seen.
func dwellAtLeast(c *lifecycle.Lifecycle, s fsm.State) bool {
	return c.AtLeast && len(c.Path) > 0 && c.Path[0] == s
}

// Lifecycle implements [Sink]. It does not allocate.
func (j *JSON) Lifecycle(c *lifecycle.Lifecycle) error {
	b := appendSocket(append(j.begin(), `{"type":"lifecycle"`...), c.Cookie, c.Generation)
	if role := c.Role.String(); role != "" {
		b = appendWord(b, "role", role)
	}
	if c.Start != 0 {
		b = j.appendTime(b, "start", j.clock.Time(c.Start))
	}
	b = j.appendTime(b, "end", j.clock.Time(c.End))
	if d, known, atLeast := duration(c); known {
		b = appendNumber(b, "duration_ns", uint64(d))
		if atLeast {
			b = append(b, `,"duration_exact":false`...)
		}
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
	if c.Verdict != 0 {
		b = appendWord(b, "verdict", c.Verdict.String())
	}
	b = appendViolations(b, c.Violations)
	b = appendEnds(b, c.Local, c.Remote, true)
	b = appendOwner(b, &c.Owner, c.NetNS, c.Cgroup, &c.Place)
	b = appendInferred(b, c.Cookie)
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
	b = append(b, '}')
	if c.AtLeast && len(c.Path) > 0 {
		if _, known := c.Dwell(c.Path[0]); known {
			b = append(b, `,"dwell_exact":false`...)
		}
	}
	return b
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
	if dwellAtLeast(c, fsm.TimeWait) {
		b = append(b, `,"duration_exact":false`...)
	}
	if c.Estimated {
		b = append(b, `,"estimated":true`...)
	}
	if end := c.TimeWaitEnd.OfTimeWait(); end != fsm.EndNone {
		b = appendWord(b, "end", end.String())
	}
	return append(b, '}')
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
	b = events.AppendCookie(b, cookie)
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

func appendOwner(b []byte, o *events.Owner, netns uint32, cgroup uint64, place *events.Place) []byte {
	if o.Known() {
		b = appendNumber(b, "pid", uint64(o.PID))
		b = append(b, `,"comm":`...)
		b = AppendJSONString(b, o.Comm.Bytes())
		b = appendNumber(b, "uid", uint64(o.UID))
		b = appendWord(b, "owner_source", o.Source.String())
	}
	if netns != 0 {
		b = appendNumber(b, "netns", uint64(netns))
	}
	if cgroup != 0 {
		b = appendNumber(b, "cgroup", cgroup)
	}
	if place.Container != "" {
		b = appendText(b, "container", place.Container)
	}
	if place.Unit != "" {
		b = appendText(b, "unit", place.Unit)
	}
	return b
}

// Stuck implements [Sink].
func (j *JSON) Stuck(s *lifecycle.Stuck) error {
	kind := `{"type":"stuck"`
	if s.Resolved {
		kind = `{"type":"resolved"`
	}
	b := j.appendTime(append(j.begin(), kind...), "time", j.clock.Time(s.Time))
	b = appendSocket(b, s.Cookie, s.Generation)
	b = appendWord(b, "state", s.State.String())
	if s.To != 0 {
		b = appendWord(b, "to", s.To.String())
	}
	b = appendNumber(b, "age_ns", uint64(s.Age))
	b = append(b, `,"age_exact":`...)
	b = strconv.AppendBool(b, s.AgeExact)
	b = appendNumber(b, "limit_ns", uint64(s.Limit))
	b = appendTrue(b, "handshake", s.Request)
	b = appendTrue(b, "minisock", s.Minisock && !events.IsWireCookie(s.Cookie))
	if !s.Resolved {
		b = appendTrue(b, "orphan", s.Orphan)
		b = appendTrue(b, "unaccepted", s.Unaccepted)
		b = appendSnapshot(b, s)
		b = append(b, `,"hint":"`...)
		b = append(s.AppendHint(b), '"')
	}
	b = appendEnds(b, s.Local, s.Remote, true)
	b = appendOwner(b, &s.Owner, s.NetNS, s.Cgroup, &s.Place)
	if s.Exe != "" {
		b = appendText(b, "exe", s.Exe)
	}
	b = appendInferred(b, s.Cookie)
	return j.end(b)
}

// appendInferred marks what was inferred from packets.
func appendInferred(b []byte, cookie uint64) []byte {
	if !events.IsWireCookie(cookie) {
		return b
	}
	return appendWord(b, "source", events.SourcePackets.String())
}

// appendSnapshot appends what the walk found. A minisock and a handshake have
// neither queues nor descriptors.
func appendSnapshot(b []byte, s *lifecycle.Stuck) []byte {
	if !s.HasSnapshot {
		return b
	}
	found := &s.Snapshot
	if hasSocket(s) {
		if found.Holders > 0 {
			b = append(b, `,"fd":`...)
			b = strconv.AppendInt(b, int64(found.FD), 10)
		}
		if found.Holders > 0 || s.Orphan || s.Unaccepted { // else who holds it was not seen
			b = appendNumber(b, "holders", uint64(found.Holders))
		}
		b = appendNumber(b, "recv_queue", uint64(found.RecvQueue))
		b = appendNumber(b, "send_queue", uint64(found.SendQueue))
		b = appendNumber(b, "retransmits", uint64(s.Retransmits))
	}
	if !s.Minisock {
		b = appendNumber(b, "unanswered", uint64(found.Unanswered))
	}
	if found.Silent != 0 {
		b = appendNumber(b, "silent_ns", found.Silent)
	}
	if found.Left != 0 {
		b = appendNumber(b, "left_ns", found.Left)
	}
	return b
}

// hasSocket reports whether the walk found a socket with all that belongs to one.
func hasSocket(s *lifecycle.Stuck) bool {
	return s.HasSnapshot && !s.Resolved && !s.Minisock && !s.Request
}

// Notice implements [Sink].
func (j *JSON) Notice(n *Notice) error {
	b := append(j.begin(), `{"type":"notice"`...)
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
	b := append(j.begin(), `{"type":"summary"`...)
	b = appendNumber(b, "transitions", s.Transitions)
	b = appendNumber(b, "connections", s.Connections)
	b = appendNumber(b, "illegal", s.Illegal)
	b = appendNumber(b, "gaps", s.Gaps)
	b = appendNumber(b, "lost", s.Lost)
	if s.Partial {
		b = append(b, `,"partial":true`...)
	}
	if s.HasStuck {
		b = appendNumber(b, "sockets", s.Sockets)
		b = appendNumber(b, "stuck", s.Stuck)
	}
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

// roomyLine is more than nearly all lines take.
const roomyLine = 2 << 10

// begin returns the free part of the buffer, so that a line is made where it is written
// from. An error of making room is returned by end as well.
func (j *JSON) begin() []byte {
	if j.w.Available() < roomyLine {
		_ = j.w.Flush()
	}
	return j.w.AvailableBuffer()
}

func (j *JSON) end(b []byte) error {
	if _, err := j.w.Write(append(b, '}', '\n')); err != nil {
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
	n := uint32(t.Nanosecond())
	b = appendThree(appendThree(appendThree(b, n/1e6), n/1e3%1e3), n%1e3)
	return append(b, 'Z', '"')
}

// appendThree appends a number below 1000 with all its digits.
func appendThree(b []byte, n uint32) []byte {
	return append(b, '0'+byte(n/100), '0'+byte(n/10%10), '0'+byte(n%10))
}

func appendNumber(b []byte, name string, n uint64) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return strconv.AppendUint(b, n, 10)
}

// appendTrue appends what is absent where it is not so.
func appendTrue(b []byte, name string, is bool) []byte {
	if !is {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, `":true`...)
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
	return AppendJSONString(b, value)
}
