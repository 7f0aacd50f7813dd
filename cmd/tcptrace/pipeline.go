package main

import (
	"errors"
	"io"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// pipeline is the way of a record from its source to the results.
//
// The filter stands behind the tracker: an owner is learnt in the middle of a
// socket's life, and a tracker that sees only what is shown would take the rest
// for lost.
type pipeline struct {
	source    source
	recording *recording // nil: none
	tracker   *lifecycle.Tracker
	filter    *filter
	sink      output.Sink
	limit     uint64 // of transitions shown; 0: none
	summary   output.Summary

	transition lifecycle.Transition // the present one
	held       held
}

// errEnough ends the reading.
var errEnough = errors.New("enough transitions")

func (p *pipeline) run() error {
	err := p.read()
	if errors.Is(err, io.EOF) || errors.Is(err, errEnough) {
		err = nil
	}
	// What is there is brought to its end, whatever happened; the first error
	// is the cause of the others.
	for _, step := range []func() error{p.finishRecording, p.finishResults, p.sink.Close} {
		if stepErr := step(); err == nil {
			err = stepErr
		}
	}
	return err
}

func (p *pipeline) read() error {
	var r events.Record
	for {
		if err := p.source.Next(&r); err != nil {
			return err
		}
		if p.recording != nil {
			if err := p.recording.write(&r); err != nil {
				return err
			}
		}
		if err := p.take(&r); err != nil {
			return err
		}
	}
}

func (p *pipeline) take(r *events.Record) error {
	switch r.Kind {
	case events.KindTransition:
		p.tracker.Observe(&r.Event, &p.transition)
		return p.decide(&p.transition)
	case events.KindLoss:
		if r.Loss.Reason != events.LossHistory {
			p.summary.Lost += r.Loss.Count
		}
		return p.sink.Notice(&output.Notice{
			Time:   p.source.Clock().Time(r.Loss.Time),
			Kind:   output.NoticeLost,
			Reason: r.Loss.Reason.String(),
			Count:  r.Loss.Count,
		})
	}
	return p.sink.Flush()
}

// decide shows a transition that the filter accepts. One of which the filter
// cannot know yet is held back until the socket's next.
func (p *pipeline) decide(t *lifecycle.Transition) error {
	if earlier := p.held.take(t); earlier != nil && p.filter.events.Match(earlier.Event) == events.Accept {
		if err := p.show(earlier); err != nil {
			return err
		}
	}
	if !p.filter.wantsVerdict(t.Verdict) {
		return nil
	}
	switch p.filter.events.Match(t.Event) {
	case events.Accept:
		return p.show(t)
	case events.Undecided:
		p.held.put(t)
	}
	return nil
}

func (p *pipeline) show(t *lifecycle.Transition) error {
	p.summary.Transitions++
	switch t.Verdict {
	case fsm.Illegal:
		p.summary.Illegal++
	case fsm.Gap:
		p.summary.Gaps++
	}
	if t.Life.IsConnection() && !t.Life.Counted {
		t.Life.Counted = true
		p.summary.Connections++
	}
	if err := p.sink.Transition(t); err != nil {
		return err
	}
	if p.summary.Transitions == p.limit {
		return errEnough
	}
	return nil
}

func (p *pipeline) finishRecording() error {
	if p.recording == nil {
		return nil
	}
	return p.recording.finish(p.source.End())
}

func (p *pipeline) finishResults() error {
	for _, n := range []output.Notice{
		{Kind: output.NoticeUndecided, Count: p.held.undecided()},
		{Kind: output.NoticeForgotten, Count: p.tracker.Evicted()},
	} {
		if n.Count == 0 {
			continue
		}
		if err := p.sink.Notice(&n); err != nil {
			return err
		}
	}
	if end, start := p.source.End(), p.source.Start(); end > start {
		p.summary.Duration = time.Duration(end - start)
	}
	if err := p.sink.Flush(); err != nil {
		return err
	}
	return p.sink.Summary(&p.summary)
}

// held keeps transitions that the filter cannot decide yet, one for a socket.
type held struct {
	byID    map[uint64]*lifecycle.Transition
	dropped uint64
}

// maxHeld bounds the connections that wait for an answer at once.
const maxHeld = 1 << 16

// undecided returns how many transitions no later one has decided.
func (h *held) undecided() uint64 { return uint64(len(h.byID)) + h.dropped }

// put keeps a copy.
func (h *held) put(t *lifecycle.Transition) {
	if len(h.byID) >= maxHeld {
		h.dropped++
		return
	}
	if h.byID == nil {
		h.byID = make(map[uint64]*lifecycle.Transition)
	}
	event, kept := *t.Event, *t
	kept.Event = &event
	h.byID[t.Cookie] = &kept
}

// take gives back what was kept of the socket of the next transition, with the
// ends that the kernel has assigned since, or nil.
func (h *held) take(next *lifecycle.Transition) *lifecycle.Transition {
	t := h.byID[next.Cookie]
	if t == nil {
		return nil
	}
	delete(h.byID, next.Cookie)
	if t.Generation != next.Generation {
		h.dropped++ // another life: the ends of this one were never assigned
		return nil
	}
	t.Local, t.Remote, t.Life = next.Local, next.Remote, next.Life
	return t
}
