package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/stat"
	"tcptrace/output/tui"
)

// screen is where a topView is looked at.
type screen interface {
	// Done is closed when nobody looks any more.
	Done() <-chan struct{}
	Close() error
}

// topView counts as statView does, and makes pictures of it for a screen that asks. A
// question is answered between two records, by the goroutine that reads them: so nothing
// is shared, and the reading never waits for the screen.
type topView struct {
	*traceView
	p              *pipeline
	ctx            context.Context // done: a recording is to leave the screen, too
	stderr         io.Writer
	maxConnections int
	file           string   // the recording
	noTimeWait     bool     // TIME_WAIT is not measured, or was not once
	replay         recorded // nil: live
	screen         screen
	screenErr      error // of closing it

	questions chan question
	over      chan struct{} // closed: nothing is answered any more

	stat       *stat.Sink
	by         stat.By
	filterLine string
	begun      *filter // what the kernel chooses by
	now        uint64  // everything before was taken
	since      uint64  // begins what is counted
	grouped    uint64  // begins what is counted by groups, if that is later
	ended      bool    // the recording was read
	walked     bool
	err        error // of reading
	again      bool  // the recording is to be read once more

	board    noticeBoard
	findings []tui.Finding // the youngest last
	closed   closedLives
	samples  []sample // for rates

	survey survey
}

// question is one of the screen.
type question struct {
	*tui.Request
	answer chan *tui.Picture
}

// maxFindings is how many illegal transitions can be looked at.
const maxFindings = 64

func newTopView(ctx context.Context, p *pipeline, first *tui.Request, maxConnections int, file string) *topView {
	v := &topView{
		traceView: newTraceView(p.results), p: p, ctx: ctx, maxConnections: maxConnections, file: file,
		questions: make(chan question), over: make(chan struct{}),
		by: first.By, filterLine: first.Filter, begun: p.filter,
	}
	v.replay, _ = p.source.(recorded)
	p.source = observed{p.source, v}
	p.sink = topSink{v: v}
	v.restart(p.source.Start())
	return v
}

// show has the view looked at.
func (v *topView) show(s screen) {
	v.screen = s
	go func() {
		<-s.Done()
		v.p.source.Stop()
	}()
}

// ask answers a question of the screen, from another goroutine; nil when it is over.
func (v *topView) ask(r *tui.Request) *tui.Picture {
	q := question{r, make(chan *tui.Picture, 1)}
	select {
	case v.questions <- q:
	case <-v.over:
		return nil
	}
	select {
	case p := <-q.answer:
		return p
	case <-v.over:
		return nil
	}
}

// observed is a source of which the view knows how it ended.
type observed struct {
	source
	v *topView
}

// Next implements [source].
func (o observed) Next(r *events.Record) error {
	err := o.source.Next(r)
	if err != nil && !errors.Is(err, io.EOF) {
		o.v.err = err
	}
	return err
}

// restart counts anew, from the given time.
func (v *topView) restart(now uint64) {
	v.since, v.grouped = now, now
	v.now = max(v.now, now)
	v.samples, v.findings = nil, nil
	none := stat.PrinterFunc(func(*stat.Window) error { return nil })
	v.stat = stat.NewSink(output.Discard{}, none, v.clock, now, &stat.Options{By: v.by})
}

func (v *topView) take(t *lifecycle.Transition) error {
	v.now = max(v.now, t.Time)
	if err := v.traceView.take(t); err != nil {
		return err
	}
	if t.Ended && t.Cookie != 0 && t.Source != events.SourceSnapshot && t.Life.IsConnection() {
		v.closed.put(t)
	}
	return v.poll()
}

// idle implements [idler].
func (v *topView) idle(until uint64) error {
	v.now = max(v.now, until)
	return v.poll()
}

// walkEnded forgets what the walk would have found if it were still there.
func (v *topView) walkEnded(w *events.Walked) error {
	v.walked = v.walked || !w.Failed
	return v.p.tracker.Sweep(func(netns uint32) bool { return proves(w, netns) }, func(*lifecycle.Life) error { return nil })
}

// poll answers a question, if there is one.
func (v *topView) poll() error {
	select {
	case q := <-v.questions:
		return v.reply(q)
	default:
		return nil
	}
}

// reply answers a question. It ends the reading where that has to begin again.
func (v *topView) reply(q question) error {
	mistake, r := "", *q.Request
	if err := v.want(&r); err != nil {
		mistake = err.Error()
		if r.By != stat.ByNone && r.By != v.by { // as before
			r.By, r.Table = v.by, tui.TableOf(v.by)
		}
	}
	if v.again { // nothing is counted yet
		v.ended = false
		v.p.tracker = lifecycle.NewTracker(v.maxConnections)
		v.restart(v.p.source.Start())
	}
	p := v.picture(&r)
	p.Mistake = mistake
	q.answer <- p
	if v.again {
		return errEnough
	}
	return nil
}

// want counts what is asked for from now on, or of the whole recording.
func (v *topView) want(r *tui.Request) error {
	if r.By != stat.ByNone && r.By != v.by {
		if err := v.rewindable(); err != nil {
			return err
		}
		v.by, v.grouped = r.By, v.now
		v.stat.Regroup(v.by)
		v.samples = nil // by other groups
		v.again = v.replay != nil
	}
	if r.Filter == v.filterLine {
		return nil
	}
	filter, err := parseFilterLine(r.Filter)
	if err != nil {
		return err
	}
	if err := v.rewindable(); err != nil {
		return err
	}
	if v.replay == nil {
		if err := v.begun.covers(filter); err != nil {
			return err
		}
	}
	v.filterLine, v.filter = r.Filter, filter
	v.stuck().drop()
	v.restart(v.now)
	v.again = v.replay != nil
	return nil
}

// rewindable says whether a recording can be read once more.
func (v *topView) rewindable() error {
	if v.replay != nil && v.file == "-" {
		return errors.New("standard input cannot be read again: give the recording by its name")
	}
	return nil
}

// covers says whether all that another filter chooses comes from the kernel, which was
// given this one.
func (f *filter) covers(other *filter) error {
	is, wanted := &f.events, &other.events
	for _, c := range []struct {
		flags      string
		set        bool
		is, wanted any
	}{
		{"-4 and -6", is.IPv4 != is.IPv6, [2]bool{is.IPv4, is.IPv6}, [2]bool{wanted.IPv4, wanted.IPv6}},
		{"-L", len(is.LocalPorts) > 0, is.LocalPorts, wanted.LocalPorts},
		{"-D", len(is.RemotePorts) > 0, is.RemotePorts, wanted.RemotePorts},
		{"--port", len(is.EitherPorts) > 0, is.EitherPorts, wanted.EitherPorts},
		{"--netns", is.NetNS != 0, is.NetNS, wanted.NetNS},
		{"--cgroup", len(is.Cgroups) > 0, is.Cgroups, wanted.Cgroups},
	} {
		if c.set && !reflect.DeepEqual(c.is, c.wanted) {
			return fmt.Errorf("the kernel filters by %s since the start: leave that as it is, or start anew", c.flags)
		}
	}
	return nil
}

// stuck returns the view that speaks of what is stuck, which is around this one.
func (v *topView) stuck() *stuckView { return v.p.view.(*stuckView) }

// finish ends it. A recording stays on the screen until its user leaves.
func (v *topView) finish(end uint64, tracker *lifecycle.Tracker) error {
	v.now = max(v.now, end)
	v.ended = !v.again
	for v.replay != nil && v.ctx.Err() == nil {
		if v.again {
			if err := v.readAgain(); err != nil {
				v.err = err
			}
			tracker = v.p.tracker
			v.now = max(v.now, v.p.source.End())
			v.ended = !v.again
			continue
		}
		select {
		case q := <-v.questions:
			if err := v.reply(q); err != nil && !errors.Is(err, errEnough) {
				return err
			}
			continue
		case <-v.screen.Done():
		case <-v.ctx.Done():
		}
		break
	}
	close(v.over)
	v.screenErr = v.screen.Close()
	v.stuck().grow(end, tracker) // as it was on the screen
	return v.traceView.finish(end, tracker)
}

// readAgain reads the recording from the start, by another filter or into other groups.
func (v *topView) readAgain() error {
	v.again, v.err = false, nil
	if err := v.replay.rewind(); err != nil {
		return err
	}
	v.rows, v.unnamed, v.names = 0, 0, nameTable{}
	v.summary = output.Summary{HasStuck: true}
	v.board, v.closed, v.held, v.now, v.noTimeWait = noticeBoard{}, closedLives{}, held{}, 0, false
	v.stuck().reset()
	v.p.tracker, v.p.unseen = lifecycle.NewTracker(v.maxConnections), ""
	v.restart(v.p.source.Start())
	err := v.p.read()
	if errors.Is(err, io.EOF) || errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// topSink takes what is counted, and what is told when the screen is gone.
type topSink struct {
	output.Discard
	v *topView
}

// Transition implements [output.Sink].
func (s topSink) Transition(t *lifecycle.Transition) error {
	v := s.v
	if t.Verdict == fsm.Illegal {
		if len(v.findings) >= maxFindings {
			v.findings = slices.Delete(v.findings, 0, 1)
		}
		v.findings = append(v.findings, tui.Finding{
			Time: v.clock.Time(t.Time).In(time.Local), From: t.From, To: t.To, Owner: t.Owner,
			Local: t.Local, Remote: t.Remote, Reason: t.Reason,
		})
	}
	if t.Verdict == fsm.Linux && t.To == fsm.Closed && (t.From == fsm.FinWait2 || t.From == fsm.Closing) {
		v.noTimeWait = true // what took over was not seen
	}
	return v.stat.Transition(t)
}

// Notice implements [output.Sink].
func (s topSink) Notice(n *output.Notice) error {
	s.v.board.put(n)
	switch {
	case n.Kind == output.NoticeUnmeasured && strings.HasPrefix(n.Reason, measuredTimeWait),
		n.Kind == output.NoticeLost && n.Reason == events.LossMinisocks.String():
		s.v.noTimeWait = true
	}
	return nil
}

// Summary implements [output.Sink].
func (s topSink) Summary(sum *output.Summary) error {
	messages := output.NewMessages(s.v.stderr)
	for i := range s.v.board.notices {
		if err := messages.Notice(&s.v.board.notices[i]); err != nil {
			return err
		}
	}
	return messages.Summary(sum)
}

// Close implements [output.Sink].
func (s topSink) Close() error { return s.v.screenErr }

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
	id   tui.SocketID
	life lifecycle.Life
}

const maxClosed = 1 << 10

func (c *closedLives) put(t *lifecycle.Transition) {
	l := closedLife{tui.SocketID{Cookie: t.Cookie, Generation: t.Generation}, *t.Life}
	if len(c.lives) < maxClosed {
		c.lives = append(c.lives, l)
		return
	}
	c.lives[c.next] = l
	c.next = (c.next + 1) % maxClosed
}

// sample is what had been counted at one time.
type sample struct {
	at     uint64
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
func (v *topView) sample(w *stat.Window, groups []*stat.Group) {
	if n := len(v.samples); n > 0 && v.now < v.samples[n-1].at+sampleTime {
		return
	}
	s := sample{v.now, make(map[stat.Edge]uint64, len(w.Edges)), make(map[stat.Key]uint64, len(groups))}
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

// base returns the sample that rates are counted from: of a recording the beginning.
func (v *topView) base() *sample {
	begin := sample{at: v.since}
	if v.replay != nil {
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
func (v *topView) perSecond(now, then uint64, base *sample) (rate float64, known bool) {
	if v.now <= base.at || now < then {
		return 0, false
	}
	return float64(now-then) / time.Duration(v.now-base.at).Seconds(), true
}

// name of the recording, as there is no room for a path.
func (v *topView) name() string {
	if v.file == "" {
		return ""
	}
	return filepath.Base(v.file)
}

// picture shows what there is now.
func (v *topView) picture(r *tui.Request) *tui.Picture {
	begun := time.Now()
	w := v.stat.Now(v.now)
	p := &tui.Picture{
		Request: r, Filter: v.filterLine, Recording: v.name(), Ended: v.ended, Err: v.err,
		Time: v.clock.Time(v.now).In(time.Local), Span: w.Duration(), Walked: v.walked,
		Transitions: w.Transitions,
		Illegal:     w.Verdicts[fsm.Illegal], Gaps: w.Verdicts[fsm.Gap], Lost: v.summary.Lost, Evicted: v.p.tracker.Evicted(),
		Notices:  slices.Clone(v.board.notices),
		Findings: slices.Clone(v.findings), TimeWaitUnseen: v.noTimeWait,
	}
	slices.Reverse(p.Findings)
	base := v.base()
	for e, c := range w.Edges {
		edge := tui.Edge{From: e.From, To: e.To, All: c.All, Illegal: c.Illegal}
		edge.Rate, edge.HasRate = v.perSecond(c.All, base.edges[e], base)
		p.Edges = append(p.Edges, edge)
	}
	slices.SortFunc(p.Edges, func(a, b tui.Edge) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })

	v.survey.begin(v, r, p)
	v.survey.walk()
	groups, other := w.Groups()
	v.survey.finish(groups, other, base)
	v.sample(w, groups)
	p.Cost = time.Since(begun)
	return p
}
