package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/output"
)

// joined is a recording beside which a capture of the same time is read: the recording
// is what is shown, and where the packets tell otherwise, it says so at the end.
type joined struct {
	*replay
	capture    *captured
	captureEnd bool
	ahead      events.Record // the capture's next, if hasAhead
	hasAhead   bool
	comparison comparison
	done       bool
}

// Next implements [source].
func (j *joined) Next(r *events.Record) error {
	err := j.replay.Next(r)
	switch {
	case err == nil && r.Kind == events.KindTransition:
		j.comparison.kernel.take(&r.Event, j.wall(r.Event.Time))
		return j.pump(j.wall(r.Event.Time))
	case errors.Is(err, io.EOF) && !j.done:
		j.done = true
		if err := j.pump(^uint64(0)); err != nil {
			return err
		}
	}
	return err
}

// wall returns a time of the recording on the clock of the capture.
func (j *joined) wall(at uint64) uint64 { return uint64(j.Clock().Time(at).UnixNano()) }

// pump takes the capture up to a time.
func (j *joined) pump(until uint64) error {
	for !j.captureEnd || j.hasAhead {
		if !j.hasAhead {
			if err := j.capture.Next(&j.ahead); err != nil {
				j.captureEnd = true
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			j.hasAhead = true
		}
		if j.ahead.Kind == events.KindTransition {
			if j.ahead.Event.Time > until {
				return nil
			}
			j.comparison.wire.take(&j.ahead.Event, j.ahead.Event.Time)
		}
		j.hasAhead = false
	}
	return nil
}

// rewind implements [recorded].
func (j *joined) rewind() error {
	j.captureEnd, j.hasAhead, j.done, j.comparison = false, false, false, comparison{}
	return errors.Join(j.replay.rewind(), j.capture.rewind())
}

// Unmeasured implements [source].
func (j *joined) Unmeasured() []string { return nil }

// remarks are those of the capture, and what came of the comparison.
func (j *joined) remarks() []output.Notice {
	from, to := max(j.wall(j.Start()), j.capture.Start()), min(j.wall(j.End()), j.capture.End())
	return append(j.capture.remarks(), j.comparison.notices(from, to)...)
}

// Stop implements [source].
func (j *joined) Stop() {
	j.replay.Stop()
	j.capture.Stop()
}

// Close implements [source].
func (j *joined) Close() error { return j.closeOpen() }

// closeOpen closes what is open.
func (j *joined) closeOpen() error {
	var errs []error
	if j.replay != nil {
		errs = append(errs, j.replay.Close())
	}
	if j.capture != nil {
		errs = append(errs, j.capture.Close())
	}
	return errors.Join(errs...)
}

// comparison holds what the kernel told of sockets against what packets did.
type comparison struct{ kernel, wire tellings }

// maxTellings bounds the sockets of one side.
const maxTellings = 1 << 18

// tellings are the sockets that one side has told of.
type tellings struct {
	byID    map[socketID]*telling
	order   []*telling
	dropped uint64
}

// telling is one socket, as one side tells of it. States that lead to themselves are
// left out.
type telling struct {
	local, remote netip.AddrPort
	states        []fsm.State
	times         []uint64 // of each; 0: not known
	silent        bool     // its last step is one that no packet shows
	whole         bool     // its first step was seen
	gap           bool
	minisock      bool
	matched       bool
}

// take adds a transition, at a time of the capture's clock.
func (s *tellings) take(e *events.Event, at uint64) {
	switch {
	case e.Source == events.SourceSnapshot, e.Cookie == 0, e.From == fsm.Listen && e.To == fsm.Closed, e.To == fsm.Listen:
		return // of no connection, or nothing that happened
	}
	id := socketID{e.Cookie, e.Generation}
	t := s.byID[id]
	if t == nil {
		if len(s.order) >= maxTellings {
			s.dropped++
			return
		}
		if s.byID == nil {
			s.byID = make(map[socketID]*telling)
		}
		t = &telling{states: []fsm.State{e.From}, times: []uint64{0}}
		t.whole = e.From == fsm.Closed || e.From == fsm.Listen
		s.byID[id] = t
		s.order = append(s.order, t)
	}
	if e.Local.Port() != 0 {
		t.local = e.Local
	}
	if e.HasRemote() {
		t.remote = e.Remote
	}
	if e.Wire != nil && e.Wire.Judgement.Verdict == fsm.Gap {
		t.gap = true
	}
	t.minisock = t.minisock || e.Flags&events.FlagMinisock != 0
	if last := t.states[len(t.states)-1]; e.To == last || last == fsm.TimeWait {
		return // when that ends, no packet shows
	}
	t.states, t.times = append(t.states, e.To), append(t.times, at)
	if e.To == fsm.Closed {
		t.silent = isSilent(fsm.Check(e.From, e.To, e.Evidence()), e)
	}
}

// isSilent reports whether an end is one that sends no packet.
func isSilent(j fsm.Judgement, e *events.Event) bool {
	switch j.Cause {
	case fsm.CauseTimeout, fsm.CauseUnreachable, fsm.CauseCancelled, fsm.CauseDestroyed, fsm.CauseUnknown:
		return true
	}
	return e.End == fsm.EndExpired
}

// slack is how long before the first packet the step may be that has sent it.
const slack = uint64(10 * time.Millisecond)

// maxDisagreements bounds those that are told one by one.
const maxDisagreements = 100

// notices says what came of it for sockets that begin within the time that both have.
func (c *comparison) notices(from, to uint64) []output.Notice {
	byEnds := make(map[[2]netip.AddrPort][]*telling)
	for _, w := range c.wire.order {
		key := [2]netip.AddrPort{w.local, w.remote}
		byEnds[key] = append(byEnds[key], w)
	}
	var list []output.Notice
	agree, disagree, outside, unseen := uint64(0), uint64(0), uint64(0), uint64(0)
	for _, k := range c.kernel.order {
		if !k.whole || len(k.times) < 2 || k.times[1]+slack < from || k.times[1] > to || k.remote.Port() == 0 {
			outside++
			continue
		}
		w := nearest(byEnds[[2]netip.AddrPort{k.local, k.remote}], k)
		if w == nil {
			unseen++
			continue
		}
		w.matched = true
		reason := difference(k, w, to)
		if reason == "" {
			agree++
			continue
		}
		if disagree++; disagree <= maxDisagreements {
			list = append(list, output.Notice{
				Time: time.Unix(0, int64(k.times[1])).UTC(), Kind: output.NoticeDisagree,
				Reason: fmt.Sprintf("%v > %v: %s", k.local, k.remote, reason),
			})
		}
	}
	for _, m := range []struct {
		count uint64
		what  string
	}{
		{agree, "sockets of which the kernel and the packets tell the same"},
		{disagree, "sockets of which they do not"},
		{unseen, "sockets that were not captured"},
		{outside, "sockets that begin before the capture or the recording does, or after one of them ends, which were not compared"},
		{c.kernel.dropped + c.wire.dropped, "sockets for which there was no room, which were not compared"},
	} {
		if m.count > 0 {
			list = append(list, output.Notice{Kind: output.NoticeJoined, Reason: m.what, Count: m.count})
		}
	}
	return list
}

// nearest returns what the packets tell that begins nearest to the kernel's, in time,
// of those that are not another's.
func nearest(list []*telling, k *telling) *telling {
	var best *telling
	apart := func(w *telling) uint64 {
		a, b := w.times[1], k.times[1]
		return max(a, b) - min(a, b)
	}
	for _, w := range list {
		if !w.matched && w.whole && len(w.times) > 1 && (best == nil || apart(w) < apart(best)) {
			best = w
		}
	}
	return best
}

// late is how much later than the packets show it a step may be, for the kernel and the
// packets to agree: what happens at once takes less.
const late = uint64(time.Second)

// difference says where both do not tell the same of a socket, "" if they do.
func difference(k, w *telling, to uint64) string {
	kernel, wire := k.states, w.states
	kernelTimes := k.times
	if i := slices.Index(wire, fsm.TimeWait); i > 0 && wire[i-1] == fsm.FinWait1 && slices.Contains(kernel, fsm.FinWait2) {
		// Where the ACK came with the FIN, Linux takes one after the other.
		i := slices.Index(kernel, fsm.FinWait2)
		kernel = slices.Delete(slices.Clone(kernel), i, i+1)
		kernelTimes = slices.Delete(slices.Clone(kernelTimes), i, i+1)
	}
	n := 0
	for n < len(kernel) && n < len(wire) && kernel[n] == wire[n] {
		n++
	}
	rest, more := kernel[n:], wire[n:]
	switch {
	case len(rest) == 0 && len(more) == 0,
		len(more) == 0 && len(rest) == 1 && k.silent,                                  // no packet says so
		len(rest) == 0 && slices.Equal(more, []fsm.State{fsm.TimeWait}) && k.minisock, // what reaches a minisock shows when it ends
		len(more) == 0 && kernelTimes[n] > to,                                         // later than the capture
		len(rest) == 0 && w.times[n] > to:
	default:
		text := fmt.Sprintf("by the kernel %s, by the packets %s", pathText(kernel), pathText(wire))
		if w.gap {
			text += ", not all of which were captured"
		}
		return text
	}
	for i := 1; i < n; i++ {
		if kernel[i] == fsm.SynRcvd { // the kernel makes the socket at the end of the handshake
			continue
		}
		if kernelTimes[i] > w.times[i]+late {
			return fmt.Sprintf("the kernel came to %v %v after the packets show it", kernel[i], time.Duration(kernelTimes[i]-w.times[i]).Round(time.Millisecond))
		}
	}
	return ""
}

func pathText(states []fsm.State) string {
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = output.ShortName(s)
	}
	return strings.Join(names, "·")
}
