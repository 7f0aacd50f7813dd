package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"

	"tcptrace/events"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/picture"
	"tcptrace/output/stat"
	"tcptrace/output/tui"
)

// screen is where a topView is looked at.
type screen interface {
	// Done is closed when nobody looks any more.
	Done() <-chan struct{}
	Close() error
}

// topView counts as statView does, and has pictures of it for a screen.
type topView struct {
	*traceView
	*pictures
	ctx            context.Context // done: a recording is to leave the screen, too
	stderr         io.Writer
	maxConnections int
	file           string   // the recording
	replay         recorded // nil: live
	screen         screen
	screenErr      error // of closing it

	filterLine string
	begun      *filter // what the kernel chooses by
	ended      bool    // the recording was read
	err        error   // of reading
	again      bool    // the recording is to be read once more
}

func newTopView(ctx context.Context, p *pipeline, first *picture.Request, maxConnections int, file string) *topView {
	v := &topView{
		traceView: newTraceView(p.results), ctx: ctx, maxConnections: maxConnections, file: file,
		filterLine: first.Filter, begun: p.filter,
	}
	v.pictures = newPictures(p, &stat.Options{By: first.By})
	v.replay, _ = p.source.(recorded)
	v.whole = v.replay != nil
	v.answer = v.reply
	p.source = observed{p.source, v}
	p.sink = topSink{pictureSink: pictureSink{pictures: v.pictures}, v: v}
	v.restart(p.source.Start())
	return v
}

// asked answers a question of the screen, as ask does.
func (v *topView) asked(r *picture.Request) *picture.Picture { return v.ask(context.Background(), r) }

// show has the view looked at.
func (v *topView) show(s screen) {
	v.screen = s
	go func() {
		<-s.Done()
		v.p.source.Stop()
	}()
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

func (v *topView) take(t *lifecycle.Transition) error {
	v.now = max(v.now, t.Time)
	if err := v.traceView.take(t); err != nil {
		return err
	}
	return v.took(t)
}

// idle implements [idler].
func (v *topView) idle(until uint64) error { return v.passed(until) }

// walkEnded forgets what walks would have found if it were still there.
func (v *topView) walkEnded(w *events.Walked) error {
	v.walked = v.walked || !w.Failed
	return v.p.tracker.Sweep(func(netns uint32) bool { return proves(w, netns) }, func(*lifecycle.Life) error { return nil })
}

// reply answers a question. It ends the reading where that has to begin again.
func (v *topView) reply(q question) error {
	mistake, r := "", *q.Request
	if err := v.want(&r); err != nil {
		mistake = err.Error()
		if r.By != stat.ByNone && r.By != v.options.By { // as before
			r.By, r.Table = v.options.By, tui.TableOf(v.options.By)
		}
	}
	if v.again { // nothing is counted yet
		v.ended = false
		v.p.tracker = lifecycle.NewTracker(v.maxConnections)
		v.restart(v.p.source.Start())
	}
	p := v.picture(&r)
	p.Filter, p.Recording, p.Ended, p.Err, p.Mistake = v.filterLine, v.name(), v.ended, v.err, mistake
	q.answer <- p
	if v.again {
		return errEnough
	}
	return nil
}

// want counts what is asked for from now on, or of the whole recording.
func (v *topView) want(r *picture.Request) error {
	if r.By != stat.ByNone && r.By != v.options.By {
		if err := v.rewindable(); err != nil {
			return err
		}
		v.regroup(r.By)
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

// topSink also takes what is told when the screen is gone.
type topSink struct {
	pictureSink
	v *topView
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

// name of the recording, as there is no room for a path.
func (v *topView) name() string {
	if v.file == "" {
		return ""
	}
	return filepath.Base(v.file)
}
