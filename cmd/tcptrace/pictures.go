package main

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/picture"
	"tcptrace/output/stat"
)

// pictures counts for those who look at a view from outside, and makes pictures for
// them. A question is answered between two records, by the goroutine that reads them: so
// nothing is shared, and the reading never waits for who asks.
type pictures struct {
	p      *pipeline
	counts *kernelCounts // nil: each transition is sent
	answer func(question) error
	whole  bool // rates are of all that was counted, else of late

	questions chan question
	over      chan struct{} // closed: nothing is answered any more

	options    stat.Options
	stat       *stat.Sink
	now        uint64 // everything before was taken
	since      uint64 // begins what is counted
	grouped    uint64 // begins what is counted by groups, if that is later
	walked     bool
	noTimeWait bool // TIME_WAIT is not measured, or was not once

	board    noticeBoard
	findings []picture.Finding // the youngest last
	closed   closedLives
	kept     []closedLives // of before
	samples  []sample      // for rates

	survey survey
	atWalk *picture.Picture // what the last walk found; nil: with counts only
}

// newPictures returns one for a pipeline. It counts as the options say, after restart.
func newPictures(p *pipeline, o *stat.Options) *pictures {
	v := &pictures{p: p, options: *o, questions: make(chan question), over: make(chan struct{})}
	v.answer = func(q question) error {
		q.answer <- v.picture(q.Request)
		return nil
	}
	return v
}

// question is one of who looks.
type question struct {
	*picture.Request
	answer chan *picture.Picture
}

// maxFindings is how many illegal transitions can be looked at.
const maxFindings = 64

// ask answers a question, from another goroutine; nil when it is over, or the context is.
func (v *pictures) ask(ctx context.Context, r *picture.Request) *picture.Picture {
	q := question{r, make(chan *picture.Picture, 1)}
	select {
	case v.questions <- q:
	case <-ctx.Done():
		return nil
	case <-v.over:
		return nil
	}
	select {
	case p := <-q.answer:
		return p
	case <-ctx.Done():
		return nil
	case <-v.over:
		return nil
	}
}

// restart counts anew, from the given time.
func (v *pictures) restart(now uint64) {
	v.since, v.grouped = now, now
	v.now = max(v.now, now)
	v.samples, v.findings = nil, nil
	none := stat.PrinterFunc(func(*stat.Window) error { return nil })
	v.stat = stat.NewSink(output.Discard{}, none, v.p.clock, now, &v.options)
}

// regroup counts by other groups from now on.
func (v *pictures) regroup(by stat.By) {
	v.options.By, v.grouped, v.samples = by, v.now, nil
	v.stat.Regroup(by)
}

// took answers a question, if there is one, after a transition or snapshot.
func (v *pictures) took(t *lifecycle.Transition) error {
	v.now = max(v.now, t.Time)
	if t.Ended && t.Cookie != 0 && t.Source != events.SourceSnapshot && t.Life.IsConnection() {
		v.closed.put(t)
	}
	return v.poll()
}

// passed answers a question, if there is one, when everything before the time was taken.
func (v *pictures) passed(until uint64) error {
	v.now = max(v.now, until)
	return v.poll()
}

// poll answers a question, if there is one.
func (v *pictures) poll() error {
	select {
	case q := <-v.questions:
		return v.answer(q)
	default:
		return nil
	}
}

// found takes in that a walk has found the sockets. Where the kernel side counts, nobody
// else knows of them.
func (v *pictures) found(at uint64) {
	v.now, v.walked = max(v.now, at), true
	if v.counts == nil {
		return
	}
	v.atWalk = nil
	v.atWalk = v.picture(&picture.Request{By: stat.ByPID, Rows: maxRows})
}

// maxRows is how many rows can be asked for.
const maxRows = 1 << 17

// stuck returns the view that speaks of what is stuck, which is around this one.
func (v *pictures) stuck() *stuckView { return v.p.view.(*stuckView) }

// pictureSink takes what is counted and told.
type pictureSink struct {
	output.Discard
	*pictures
}

// Transition implements [output.Sink].
func (s pictureSink) Transition(t *lifecycle.Transition) error {
	v := s.pictures
	if t.Verdict == fsm.Illegal {
		if len(v.findings) >= maxFindings {
			v.findings = slices.Delete(v.findings, 0, 1)
		}
		v.findings = append(v.findings, picture.Finding{
			Time: v.p.clock.Time(t.Time).In(time.Local), From: t.From, To: t.To, Owner: t.Owner,
			Local: t.Local, Remote: t.Remote, Rule: t.Rule, Reason: t.Reason,
			ID: picture.SocketID{Cookie: t.Cookie, Generation: t.Generation},
		})
	}
	if t.Verdict == fsm.Linux && t.To == fsm.Closed && (t.From == fsm.FinWait2 || t.From == fsm.Closing) {
		v.noTimeWait = true // what took over was not seen
	}
	return v.stat.Transition(t)
}

// Notice implements [output.Sink].
func (s pictureSink) Notice(n *output.Notice) error {
	s.board.put(n)
	switch {
	case n.Kind == output.NoticeUnmeasured && strings.HasPrefix(n.Reason, measuredTimeWait),
		n.Kind == output.NoticeLost && n.Reason == events.LossMinisocks.String():
		s.noTimeWait = true
	}
	return nil
}

// noticeBoard keeps notices, those that say the same in sum.
type noticeBoard struct{ notices []output.Notice }

// maxNotices bounds those that differ.
const maxNotices = 32

func (b *noticeBoard) put(n *output.Notice) {
	i := slices.IndexFunc(b.notices, func(o output.Notice) bool { return o.Kind == n.Kind && o.Reason == n.Reason })
	switch {
	case i >= 0:
		b.notices[i].Count += n.Count
		b.notices[i].Time = n.Time
		return
	case len(b.notices) >= maxNotices: // those that lose their sense first; losses are few and stay
		old := slices.IndexFunc(b.notices, func(o output.Notice) bool { return o.Kind != output.NoticeLost })
		b.notices = slices.Delete(b.notices, max(old, 0), max(old, 0)+1)
	}
	b.notices = append(b.notices, *n)
}

// closedLives are those of the sockets that were closed last.
type closedLives struct {
	lives []closedLife
	next  int
}

type closedLife struct {
	id   picture.SocketID
	at   uint64 // when that was
	life lifecycle.Life
}

const maxClosed = 1 << 10

func (c *closedLives) put(t *lifecycle.Transition) {
	l := closedLife{picture.SocketID{Cookie: t.Cookie, Generation: t.Generation}, t.Time, *t.Life}
	if len(c.lives) < maxClosed {
		c.lives = append(c.lives, l)
		return
	}
	c.lives[c.next] = l
	c.next = (c.next + 1) % maxClosed
}

// maxKept is how many of those who look at what was closed can take their time.
const maxKept = 4

// keep remembers what was closed by now, as who looks at it may want more of it when
// others have taken its place.
func (v *pictures) keep() {
	if len(v.kept) >= maxKept {
		v.kept = slices.Delete(v.kept, 0, 1)
	}
	v.kept = append(v.kept, closedLives{lives: slices.Clone(v.closed.lives), next: v.closed.next})
}

// gone yields what was closed and is known, each once, in the order of their ends.
func (v *pictures) gone() iter.Seq[*closedLife] {
	return func(yield func(*closedLife) bool) {
		seen := make(map[picture.SocketID]bool)
		for _, c := range append(slices.Clone(v.kept), v.closed) {
			for i := range c.lives {
				l := &c.lives[(c.next+i)%len(c.lives)]
				if seen[l.id] {
					continue
				}
				seen[l.id] = true
				if !yield(l) {
					return
				}
			}
		}
	}
}

// sample is what had been counted at one time.
type sample struct {
	at     uint64
	all    uint64
	edges  map[stat.Edge]uint64
	groups map[stat.Key]uint64
}

// A rate is over about that time; a sample is taken so often at most.
const (
	rateTime   = uint64(2 * time.Second)
	sampleTime = uint64(200 * time.Millisecond)
	maxSamples = 16
)

// sample notes what was counted by now.
func (v *pictures) sample(w *stat.Window, groups []*stat.Group) {
	if n := len(v.samples); n > 0 && v.now < v.samples[n-1].at+sampleTime {
		return
	}
	s := sample{v.now, w.Transitions, make(map[stat.Edge]uint64, len(w.Edges)), make(map[stat.Key]uint64, len(groups))}
	for e, c := range w.Edges {
		s.edges[e] = c.All
	}
	for _, g := range groups {
		s.groups[g.Key] = g.Transitions
	}
	v.samples = append(v.samples, s)
	if len(v.samples) > maxSamples {
		v.samples = slices.Delete(v.samples, 0, 1)
	}
}

// base returns the sample that rates are counted from.
func (v *pictures) base() *sample {
	begin := sample{at: v.since}
	if v.whole {
		return &begin
	}
	best := &begin
	for i := range v.samples {
		s := &v.samples[i]
		switch {
		case s.at >= v.now: // there is no time between
		case v.now-s.at >= rateTime: // the youngest of these, if there is no other
			best = s
		case v.now-best.at > rateTime+rateTime/2:
			best = s
		}
	}
	return best
}

// perSecond returns a rate, if it is known.
func (v *pictures) perSecond(now, then uint64, base *sample) (rate float64, known bool) {
	if v.now <= base.at || now < then {
		return 0, false
	}
	return float64(now-then) / time.Duration(v.now-base.at).Seconds(), true
}

// picture shows what there is now.
func (v *pictures) picture(r *picture.Request) *picture.Picture {
	begun := time.Now()
	w := v.stat.Now(v.now)
	p := &picture.Picture{
		Request: r, Clock: v.p.clock, InKernel: v.counts != nil,
		Time: v.p.clock.Time(v.now).In(time.Local), Span: w.Duration(), Walked: v.walked,
		Transitions: w.Transitions, Closed: w.Ended(),
		Illegal: w.Verdicts[fsm.Illegal], Gaps: w.Verdicts[fsm.Gap], Lost: v.p.summary.Lost, Evicted: v.p.tracker.Evicted(),
		Notices:  slices.Clone(v.board.notices),
		Findings: slices.Clone(v.findings), TimeWaitUnseen: v.noTimeWait,
	}
	slices.Reverse(p.Findings)
	base := v.base()
	p.Rate, p.HasRate = v.perSecond(w.Transitions, base.all, base)
	for e, c := range w.Edges {
		edge := picture.Edge{From: e.From, To: e.To, All: c.All, Illegal: c.Illegal}
		edge.Rate, edge.HasRate = v.perSecond(c.All, base.edges[e], base)
		if r.Times && c.Dwell.Count > 0 {
			edge.Median, edge.HasMedian = c.Dwell.Quantile(0.5), true
		}
		p.Edges = append(p.Edges, edge)
	}
	slices.SortFunc(p.Edges, func(a, b picture.Edge) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	if r.Times {
		p.Times = make(map[fsm.State]picture.Times)
		for _, s := range v.options.Hist {
			p.Times[s] = timesOf(w, s)
		}
	}

	v.survey.begin(v, r, p)
	v.survey.walk()
	groups, other := w.Groups()
	v.survey.finish(groups, other, base)
	if v.atWalk != nil { // since then, what moved was counted and not told of
		p.Sockets, p.SocketsAt = v.atWalk.Sockets, v.atWalk.Time
		p.Groups = v.atWalk.Groups
	}
	v.sample(w, groups)
	p.Cost = time.Since(begun)
	return p
}

// timesOf returns what is known of the times in a state.
func timesOf(w *stat.Window, s fsm.State) picture.Times {
	d := w.Dwell(s)
	t := picture.Times{Count: d.Count, Estimated: d.Estimated, AtLeast: d.AtLeast, Unknown: d.Unknown}
	if d.Count == 0 {
		return t
	}
	t.Min, t.Median, t.P90, t.P99, t.Max = d.Min, d.Quantile(0.5), d.Quantile(0.9), d.Quantile(0.99), d.Max
	_, t.Buckets = w.Histogram(s).Buckets()
	return t
}
