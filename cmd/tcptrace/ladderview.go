package main

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tcptrace/events"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/ladder"
)

// ladderFlags are those of views that draw connections.
type ladderFlags struct {
	on    bool
	ascii bool
}

// ladderFormats are the values of -o of views that draw connections.
func ladderFormats() []string { return []string{"text", "json", formatSVG} }

const formatSVG = "svg"

func (f *viewFlags) registerLadder(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.ladder.on, "ladder", false, "draw connections, both ends side by side; -o svg as pictures")
	cmd.Flags().BoolVar(&f.ladder.ascii, "ascii", false, "with --ladder: plain characters, as in a locale without UTF-8")
}

// misused finds flags that do not go together.
func (l *ladderFlags) misused(f *viewFlags) error {
	switch {
	case !l.on && f.format == formatSVG:
		return usagef("-o svg: it is connections that are drawn: add --ladder")
	case !l.on && l.ascii:
		return usagef("--ascii: it is how connections are drawn: add --ladder")
	case !l.on:
		return nil
	case f.format != "text" && f.format != formatSVG:
		return usagef("--ladder and -o %s exclude each other: want text or svg", f.format)
	case f.stuck.on || slices.Contains(f.failOn, failOnStuck):
		return usagef("--ladder and --stuck exclude each other: a drawing has no room for it")
	}
	return nil
}

// drawLadders draws connections.
func (f *viewFlags) drawLadders(cmd *cobra.Command, doing string, untilGone, open bool) error {
	return f.trace(cmd, doing, func(p *pipeline) view {
		drawer := f.drawer(cmd, p.source.Clock())
		p.sink = output.Multi{drawer, output.NewMessages(cmd.ErrOrStderr())}
		v := newLadderView(p.results, drawer, untilGone && !p.packets, open)
		if c, ok := p.source.(*captured); ok {
			c.infers.Keep()
			v.captured = c
		}
		return v
	})
}

func (f *viewFlags) drawer(cmd *cobra.Command, clock events.Clock) ladder.Drawer {
	out := cmd.OutOrStdout()
	o := &ladder.Options{
		ASCII: f.ladder.ascii || !isUTF8(os.Getenv),
		Color: f.color(out),
		Clock: clock, Location: time.Local,
	}
	if f.format == formatSVG {
		return ladder.NewSVG(out, o)
	}
	return ladder.NewText(out, o)
}

// isUTF8 reports whether the locale of the environment has UTF-8, by the variables
// that decide about characters, the strongest first (POSIX, 8.2).
func isUTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := getenv(name); locale != "" {
			locale = strings.ToLower(locale)
			return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
		}
	}
	return false
}

// ladderView draws every connection of which the filter wants an end, when both are
// over.
type ladderView struct {
	lifeView
	wanted *filter // lifeView has one that takes all, as it may be the other end's
	drawer ladder.Drawer
	pairs  *ladder.Pairs
	// captured has the segments, if the source is a capture; else nil.
	captured *captured
}

func newLadderView(r *results, drawer ladder.Drawer, untilGone, open bool) *ladderView {
	v := &ladderView{wanted: r.filter, drawer: drawer}
	r.filter = &filter{}
	v.pairs = ladder.NewPairs(0, v.wants, v.draw)
	v.lifeView = lifeView{results: r, untilGone: untilGone, open: open, each: v.pairs.Ended}
	return v
}

func (v *ladderView) take(t *lifecycle.Transition) error {
	if err := v.pairs.Passed(t.Time); err != nil {
		return err
	}
	if err := v.lifeView.take(t); err != nil {
		return err
	}
	return v.pairs.Saw(t)
}

// idle implements [idler].
func (v *ladderView) idle(until uint64) error { return v.pairs.Passed(until) }

// finish draws what is left: of what is open, only what the other end waits for, or
// all.
func (v *ladderView) finish(end uint64, tracker *lifecycle.Tracker) error {
	if v.full() {
		return nil
	}
	if err := v.lifeView.finish(end, tracker); err != nil {
		return err
	}
	var c lifecycle.Lifecycle
	err := tracker.Each(func(l *lifecycle.Life) error {
		if l.Marked {
			return nil
		}
		if l.Lifecycle(end, &c); !v.pairs.Waits(&c) {
			return nil
		}
		return v.show(l, end)
	})
	if err != nil {
		return err
	}
	if err := v.pairs.Finish(); err != nil {
		return err
	}
	if n := v.pairs.Evicted(); n > 0 {
		return v.sink.Notice(&output.Notice{Kind: output.NoticeForgotten, Reason: "more ends of connections than wait for each other at once, so some were drawn alone", Count: n})
	}
	return nil
}

func (v *ladderView) draw(l *ladder.Ladder) error {
	if v.captured != nil {
		v.captured.putSegments(l)
	}
	for side, e := range l.Ends {
		if e != nil && (!l.Self || side == 0) {
			v.countLife(&e.Lifecycle)
		}
	}
	if err := v.drawer.Draw(l); err != nil {
		return err
	}
	return v.shown()
}

// wants holds the filter against an end. Where only the name of its cgroup is missing
// to decide, that is counted.
func (v *ladderView) wants(c *lifecycle.Lifecycle) bool {
	if !v.wanted.wantsVerdict(c.Verdict) {
		return false
	}
	if c.Place.Path != "" || v.wanted.cgroup == "" && v.wanted.container == "" {
		return v.wanted.wantsLifecycle(c)
	}
	anyPlace := filter{events: v.wanted.events}
	if anyPlace.wantsLifecycle(c) {
		v.unnamed += uint64(len(c.Path) - 1)
	}
	return false
}
