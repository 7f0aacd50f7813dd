package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"tcptrace/events"
	"tcptrace/events/infer"
	"tcptrace/events/pcap"
	seg "tcptrace/fsm/segment" // there is a segment in the tests of this package
	"tcptrace/output"
	"tcptrace/output/ladder"
)

// captured infers transitions from a capture of packets.
type captured struct {
	in         *input
	maxSockets int
	reader     *pcap.Reader
	infers     *infer.Follower
	segment    pcap.Segment // the next, if ahead
	ahead      bool
	start      uint64
	limit      uint64 // last time wanted
	last       uint64 // time of the last segment
	rested     bool   // an idle moment was told since
	ended      bool
	stop       atomic.Bool
}

// newCaptured reads a capture. Beyond the duration, 0 for none, it is not read. After an
// error the file is closed.
func newCaptured(in *input, duration time.Duration, maxSockets int) (*captured, error) {
	c := &captured{in: in, maxSockets: maxSockets, limit: ^uint64(0)}
	if err := c.begin(); err != nil {
		return nil, errors.Join(err, in.close())
	}
	if duration > 0 {
		c.limit = c.start + uint64(duration)
	}
	return c, nil
}

// begin begins with the first packet: when the capture begins is for the views to know.
func (c *captured) begin() error {
	reader, err := pcap.NewReader(c.in.Reader)
	if err != nil {
		return c.explain(err)
	}
	switch err = reader.Next(&c.segment); {
	case errors.Is(err, io.EOF):
		c.ended, c.ahead = true, false
	case err != nil:
		reader.Close()
		return c.explain(err)
	default:
		c.ended, c.ahead, c.start, c.last = false, true, c.segment.Time, c.segment.Time
	}
	c.reader, c.infers, c.rested = reader, infer.New(max(c.maxSockets/2, 1)), false
	return nil
}

// rewind implements [recorded].
func (c *captured) rewind() error {
	if err := c.in.rewind(); err != nil {
		return err
	}
	c.reader.Close()
	return c.begin()
}

func (c *captured) explain(err error) error {
	const shown = "all that came before is shown"
	return c.in.explain(err,
		remedy{pcap.ErrForeign, "make one with tcpdump -w FILE; a recording that is compressed has to be unpacked"},
		remedy{pcap.ErrCutOff, "what made it was killed, its disk was full, it still runs, or the copy is not complete; " + shown},
		remedy{pcap.ErrCorrupt, "copy it again if there is another; " + shown},
		remedy{pcap.ErrLinkType, "capture on a network device, or on any"})
}

// Next implements [source].
func (c *captured) Next(r *events.Record) error {
	for {
		if c.infers.Pop(&r.Event) {
			r.Kind = events.KindTransition
			c.rested = false
			return nil
		}
		if gone, ok := c.infers.PopGone(); ok {
			r.Kind, r.Event = events.KindGone, events.Event{Cookie: gone.Cookie, Time: c.last}
			return nil
		}
		if c.stop.Load() || c.ended {
			return io.EOF
		}
		if !c.ahead {
			if c.reader.Waits() && !c.rested { // what is known by now is to be seen
				c.rested = true
				r.Kind, r.Until = events.KindIdle, c.last
				return nil
			}
			if err := c.reader.Next(&c.segment); err != nil {
				if errors.Is(err, io.EOF) {
					c.ended = true
					continue
				}
				return c.explain(err)
			}
		}
		c.ahead = false
		if c.segment.Time > c.limit {
			c.ended = true
			continue
		}
		c.last = c.segment.Time
		c.infers.Take(&c.segment)
	}
}

// Unmeasured implements [source].
func (c *captured) Unmeasured() []string {
	return []string{"all of this is inferred from packets; owners, and what sends no packet, such as the end of TIME_WAIT, are not known"}
}

// remarks are what the reader of the results must know of the capture.
func (c *captured) remarks() []output.Notice {
	c.infers.Finish()
	read, seen := c.reader.Counts(), c.infers.Counts()
	var list []output.Notice
	for _, m := range []struct {
		count uint64
		kind  output.NoticeKind
		what  string
	}{
		{read.Other, output.NoticePackets, "packets of other protocols than TCP"},
		{read.Fragments, output.NoticePackets, "fragments of IP packets, which are not put together, so that what they carry is not seen"},
		{read.Truncated, output.NoticePackets, "packets cut off before the flags of TCP, which takes a longer snapshot (tcpdump -s 128)"},
		{read.Malformed, output.NoticePackets, "malformed packets"},
		{read.UnknownLink, output.NoticePackets, "packets of devices whose link type is not understood"},
		{read.Undated, output.NoticePackets, "packets without a time, which have that of the one before"},
		{read.Backwards, output.NoticePackets, "packets dated before the one before them, which have its time"},
		{seen.Duplicates, output.NoticePackets, "segments captured twice, or sent twice within 5 ms without any difference, taken once"},
		{seen.Retransmits, output.NoticePackets, "segments retransmitted"},
		{seen.OutOfOrder, output.NoticePackets, "segments out of order"},
		{seen.NotCaptured, output.NoticePackets, "times that something sent was not captured"},
		{seen.Probes, output.NoticePackets, "probes, of keep-alive or of a closed window"},
		{seen.Oversized, output.NoticePackets, "segments longer than the peer takes, put together or still to be cut up by the hardware"},
		{seen.Strays, output.NoticePackets, "segments that belong to no connection as far as it was captured"},
		{seen.Midstream, output.NoticePackets, "connections that begin before the capture"},
		{seen.Open, output.NoticePackets, "connections that do not end in the capture"},
		{seen.HalfOpen, output.NoticePackets, "handshakes that are not completed in the capture"},
		{seen.FINs, output.NoticePackets, "connections with a FIN that is never acknowledged in the capture"},
		{c.infers.NotKept(), output.NoticePackets, "segments of connections that were not kept for drawing, as there were too many"},
		{seen.Forgotten, output.NoticeForgotten, "connections of the capture, more than are followed at once; raise --max-connections"},
	} {
		if m.count > 0 {
			list = append(list, output.Notice{Kind: m.kind, Reason: m.what, Count: m.count})
		}
	}
	return list
}

// putSegments draws the segments of a connection in the place of what follows from the
// states.
func (c *captured) putSegments(l *ladder.Ladder) {
	sideOf := func(second bool) ladder.Side {
		for side, e := range l.Ends {
			if e == nil {
				continue
			}
			if _, isSecond := events.WireConnection(e.Cookie); isSecond == second || l.Self {
				return ladder.Side(side)
			}
			return ladder.Side(side).Other()
		}
		return ladder.Left
	}
	var segments []infer.Segment
	for _, e := range l.Ends {
		if e != nil {
			connection, _ := events.WireConnection(e.Cookie)
			segments = c.infers.Segments(connection)
			break
		}
	}
	if len(segments) == 0 {
		l.Notes = append(l.Notes, "its segments were not kept: there were too many connections")
		return
	}
	step := func(side ladder.Side, n int) int {
		if e := l.Ends[side]; n == infer.NoStep || e == nil || n >= len(e.Steps) {
			return ladder.NoStep
		}
		return n
	}
	l.Arrows = l.Arrows[:0]
	skipped := uint64(0)
	for i := range segments {
		s := &segments[i]
		from := sideOf(s.FromSecond)
		skipped += s.Skipped
		l.Arrows = append(l.Arrows, ladder.Arrow{
			From: from, Label: label(s), Sent: s.Time, Captured: true,
			SentBy: step(from, s.Sent), ReceivedBy: step(from.Other(), s.Received),
		})
	}
	l.Notes = append(l.Notes, "inferred from packets: the arrows are its segments, when they were captured; numbers are relative")
	if skipped > 0 {
		l.Notes = append(l.Notes, fmt.Sprintf("%d segments in the middle are left out", skipped))
	}
}

// label tells a segment: its flags, where it begins, what it acknowledges, and its text.
func label(s *infer.Segment) string {
	text := s.Flags.String()
	if text == "none" {
		text = ""
	}
	parts := []string{text, fmt.Sprintf("seq %d", s.Seq)}
	if s.Flags.Has(seg.ACK) {
		parts = append(parts, fmt.Sprintf("ack %d", s.Ack))
	}
	if s.Text > 0 {
		parts = append(parts, fmt.Sprintf("len %d", s.Text))
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

// Stop implements [source].
func (c *captured) Stop() { c.stop.Store(true) }

// Clock implements [source]: times are of the capture.
func (c *captured) Clock() events.Clock { return events.Clock{} }

// Start implements [source].
func (c *captured) Start() uint64 { return c.start }

// End implements [source].
func (c *captured) End() uint64 { return c.last }

// Close implements [source].
func (c *captured) Close() error {
	c.reader.Close()
	return c.in.close()
}
