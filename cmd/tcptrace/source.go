package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"tcptrace/bpf"
	"tcptrace/events"
	"tcptrace/events/capture"
)

// source delivers records in the order of their times, live or from a file.
type source interface {
	// Next stores the next record, and returns io.EOF after the last.
	Next(*events.Record) error
	// Stop lets Next run to its end. It may be called from another goroutine,
	// more than once.
	Stop()
	// Clock dates the records.
	Clock() events.Clock
	// Unmeasured says in words what is not measured, and why.
	Unmeasured() []string
	// Start and End are when tracing began and ended, as events.Event.Time.
	// End may be asked after the last record.
	Start() uint64
	End() uint64
	Close() error
}

// live reads from the kernel.
type live struct {
	tracer  *bpf.Tracer
	clock   events.Clock
	start   uint64
	end     uint64
	stop    atomic.Bool // asked for
	stopped bool        // done
	order   events.Order
	until   uint64     // what order may give away
	ports   unassigned // what came out of order, but the filter for ports cannot decide
	ended   bool       // the ring has been read to its end
	idle    bool
	losses  bpf.Losses
	pending []events.Loss
	checkAt uint64           // when to look at the losses again
	clockAt uint64           // when to look at the wall clock again
	offset  int64            // its offset then
	step    events.ClockStep // which is to be delivered; Time 0: none is

	walks   walks
	walking chan walked // of the walk that goes on; nil: none does
	cancel  context.CancelFunc
	walkAt  uint64        // when the next one begins
	walked  events.Walked // is over, which is to be delivered; Time 0: none is
}

// walks says when the sockets that are there are walked: at the start, and then
// with this time between, if it is not 0.
type walks struct {
	every time.Duration // at least, see walkRest
	only  bool          // nothing is traced: once, and that is the end
}

// walked is what came of a walk.
type walked struct {
	events.Walked
	err error
}

// walkRest bounds the time for which nothing is walked after a walk that took long, as
// where there are a thousand network namespaces, or its reader was slow: else it is
// walkShare times as long.
const walkRest = uint64(time.Minute)

// settle is how long a record may be behind others in the ring that are
// younger: a CPU takes the time, then, a moment later, its place.
const settle = uint64(5 * time.Millisecond)

// The wall clock is looked at so often, and was set if it is off by so much: it is read
// to a microsecond, but for a moment in which the host does not run this.
const (
	clockInterval = uint64(100 * time.Millisecond)
	clockStep     = int64(5 * time.Millisecond)
)

// lossInterval is how often the loss counters are read.
const lossInterval = uint64(time.Second)

func openLive(o *bpf.Options, walks walks) (*live, error) {
	offset, err := bpf.ClockOffset()
	if err != nil {
		return nil, err
	}
	tracer, err := bpf.Open(o)
	if err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // loading took several times what tracing will
	start, err := bpf.Now()
	if err != nil {
		return nil, errors.Join(err, tracer.Close())
	}
	l := &live{
		tracer: tracer, clock: events.NewClock(offset), offset: offset,
		start: start, checkAt: start + lossInterval, walks: walks,
		ports: unassigned{wants: o.WantsPorts()},
	}
	l.walk(start)
	return l, nil
}

// walk begins a walk, beside which the ring is read.
func (l *live) walk(now uint64) {
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	done := make(chan walked, 1)
	l.walking = done
	go func() {
		unseen, err := l.tracer.Walk(ctx)
		end, clockErr := bpf.Now()
		done <- walked{events.Walked{Start: now, Time: max(end, now), Skipped: unseen.NetNS, Unseen: unseenWords(unseen)}, errors.Join(err, clockErr)}
	}()
}

// unseenWords says of what a walk did not find the sockets, "" if it found all.
func unseenWords(u bpf.Unseen) string {
	var parts []string
	if n := len(u.NetNS); n > 0 {
		parts = append(parts, fmt.Sprintf("network namespaces that cannot be entered: %d", n))
	}
	if u.Processes > 0 {
		parts = append(parts, fmt.Sprintf("processes whose network namespace is not known: %d", u.Processes))
	}
	var words []string
	if parts != nil {
		words = append(words, fmt.Sprintf("%s (%v)", strings.Join(parts, ", "), u.Err))
	}
	if u.Minisocks != nil {
		words = append(words, fmt.Sprintf("minisocks and handshakes (%v)", u.Minisocks))
	}
	return strings.Join(words, "; ")
}

// checkWalk takes what came of a walk that is over, and begins the next when it
// is time.
func (l *live) checkWalk(now uint64) {
	if l.walking == nil {
		if l.walks.every > 0 && now >= l.walkAt && l.walked.Time == 0 && !l.stopped {
			l.walk(now)
		}
		return
	}
	select {
	case w := <-l.walking:
		l.walking = nil
		l.cancel()
		l.walkAt = now + max(uint64(l.walks.every), min(walkShare*(w.Time-w.Start), walkRest))
		l.walked = w.Walked
		if w.err != nil { // what is traced is as good without
			l.walked.Failed, l.walked.Unseen = true, w.err.Error()
		}
		if l.walks.only {
			l.Stop()
		}
	default:
	}
}

func (l *live) Next(r *events.Record) error {
	for {
		if l.ports.next(&r.Event) {
			r.Kind = events.KindTransition
			return nil
		}
		if at := l.walked.Time; at != 0 && at <= l.until && !l.order.Waits(at) {
			r.Kind, r.Walked = events.KindWalked, l.walked
			l.walked = events.Walked{}
			return nil
		}
		if at := l.step.Time; at != 0 && at <= l.until && !l.order.Waits(at) {
			r.Kind, r.Clock = events.KindClock, l.step
			l.step = events.ClockStep{}
			return nil
		}
		if l.order.Pop(l.until, &r.Event) {
			if l.ports.take(&r.Event) {
				continue
			}
			r.Kind = events.KindTransition
			return nil
		}
		if len(l.pending) > 0 {
			r.Kind, r.Loss = events.KindLoss, l.pending[0]
			l.pending = l.pending[1:]
			return nil
		}
		if l.idle {
			l.idle = false
			r.Kind, r.Until = events.KindIdle, 0
			if !l.order.Waits(l.until) {
				r.Until = l.until
			}
			return nil
		}
		if l.ended {
			if l.ports.end() {
				continue
			}
			return io.EOF
		}
		if err := l.read(); err != nil {
			return err
		}
	}
}

// read takes one record from the ring into order, or finds the ring empty or
// at its end.
func (l *live) read() error {
	if l.stop.Load() && !l.stopped {
		if err := l.detach(); err != nil {
			return err
		}
	}
	b, err := l.tracer.Read()
	switch {
	case err == nil:
		var e events.Event
		if err := e.Decode(b); err != nil {
			return err
		}
		l.order.Push(&e)
		l.until = max(l.until, e.Time-min(settle, e.Time))
		return l.look(e.Time)
	case errors.Is(err, bpf.ErrIdle):
		now := l.tracer.EmptyAt() // not by a clock that has gone on since
		l.idle = true
		l.until = now - settle
		if l.order.Waits(now) { // it would wait for as long again
			l.tracer.IdleWithin(time.Duration(settle))
		}
		return l.look(now)
	case errors.Is(err, io.EOF):
		l.ended = true
		l.until = ^uint64(0)
		return l.checkLosses(l.end)
	}
	return err
}

// look does what is due beside reading.
func (l *live) look(now uint64) error {
	l.checkWalk(now)
	if err := l.checkClock(now); err != nil {
		return err
	}
	if now < l.checkAt {
		return nil
	}
	return l.checkLosses(now)
}

// checkClock looks whether the wall clock was set.
func (l *live) checkClock(now uint64) error {
	if now < l.clockAt || l.step.Time != 0 {
		return nil
	}
	l.clockAt = now + clockInterval
	offset, err := bpf.ClockOffset()
	if by := offset - l.offset; err != nil || -clockStep < by && by < clockStep {
		return err
	}
	if now, err = bpf.Now(); err != nil {
		return err
	}
	l.offset, l.step = offset, events.ClockStep{Time: now, Offset: offset}
	return nil
}

// Stop implements [source]. It takes effect when Next reads again, which an idle
// ring makes it do within milliseconds and a full one at once.
func (l *live) Stop() { l.stop.Store(true) }

func (l *live) detach() error {
	l.stopped = true
	l.endWalk()
	if err := l.tracer.Stop(); err != nil {
		return err
	}
	var err error
	l.end, err = bpf.Now()
	return err
}

// checkLosses reports what was lost since the last look.
func (l *live) checkLosses(now uint64) error {
	l.checkAt = now + lossInterval
	losses, err := l.tracer.Losses()
	if err != nil {
		return err
	}
	for _, c := range []struct {
		reason    events.LossReason
		now, then uint64
	}{
		{events.LossRingFull, losses.RingFull, l.losses.RingFull},
		{events.LossHistory, losses.History, l.losses.History},
		{events.LossMissed, losses.Missed, l.losses.Missed},
		{events.LossMinisocks, losses.Minisocks, l.losses.Minisocks},
	} {
		if c.now > c.then {
			l.pending = append(l.pending, events.Loss{Time: now, Reason: c.reason, Count: c.now - c.then})
		}
	}
	l.losses = losses
	return nil
}

// measuredTimeWait begins what Unmeasured says of TIME_WAIT.
const measuredTimeWait = "TIME_WAIT"

func (l *live) Unmeasured() []string {
	var list []string
	for _, m := range []struct {
		what string
		err  error
	}{
		{measuredTimeWait, l.tracer.TimeWait()},
		{"why TIME_WAIT ends before its time", l.tracer.EndReasons()},
		{"the time of handshakes from the SYN-ACK on", l.tracer.HalfOpen()},
	} {
		if m.err != nil && !errors.Is(m.err, bpf.ErrSwitchedOff) {
			list = append(list, fmt.Sprintf("%s: %v", m.what, m.err))
		}
	}
	return list
}

func (l *live) Clock() events.Clock { return l.clock }
func (l *live) Start() uint64       { return l.start }

func (l *live) End() uint64 {
	if l.end == 0 { // not stopped, but no more was wanted
		if now, err := bpf.Now(); err == nil {
			l.end = now
		}
	}
	return l.end
}

func (l *live) Close() error {
	l.endWalk()
	return l.tracer.Close()
}

// endWalk breaks off the walk that goes on, if there is one.
func (l *live) endWalk() {
	if l.walking != nil {
		l.cancel()
		<-l.walking
		l.walking = nil
	}
}

// header describes this run in a recording.
func (l *live) header() (capture.Header, error) {
	release, err := kernelRelease()
	if err != nil {
		return capture.Header{}, err
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return capture.Header{}, fmt.Errorf("read the boot id: %w", err)
	}
	return capture.Header{
		Start: l.start, ClockOffset: l.clock.Offset,
		Kernel: release, BootID: strings.TrimSpace(string(bootID)), Program: programName(),
		Unmeasured: bounded(l.Unmeasured()),
	}, nil
}

// bounded cuts texts to what a recording keeps of one.
func bounded(texts []string) []string {
	for i, text := range texts {
		texts[i] = text[:min(len(text), events.MaxName)]
	}
	return texts
}

// recorded is a source that is a file, and can be read again.
type recorded interface {
	source
	// rewind begins again with the first record. Standard input has to be a file for that.
	rewind() error
}

// replay reads from a recording.
type replay struct {
	in     *input
	reader *capture.Reader
	clock  events.Clock
	limit  uint64 // last time wanted
	last   uint64 // time of the last record
	stop   atomic.Bool
}

// input is a file that -r names, "-" being standard input.
type input struct {
	*bufio.Reader // to look at its beginning
	name          string
	from          io.Reader
}

// inputSize is of the buffer in front of what is read.
const inputSize = 256 << 10

func openInput(name string, stdin io.Reader) (*input, error) {
	if name == "-" {
		return &input{bufio.NewReaderSize(stdin, inputSize), name, stdin}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return &input{bufio.NewReaderSize(f, inputSize), name, f}, nil
}

// rewind goes back to the beginning.
func (i *input) rewind() error {
	from, ok := i.from.(io.Seeker)
	if !ok {
		return errors.New("standard input cannot be read again")
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read %s again: %w", i.name, err)
	}
	i.Reset(i.from)
	return nil
}

// close closes the file. Standard input is not ours.
func (i *input) close() error {
	if file, ok := i.from.(io.Closer); ok && i.name != "-" {
		return file.Close()
	}
	return nil
}

// remedy is what to do about an error.
type remedy struct {
	of   error
	text string
}

// explain says of which file an error of its reader is, and what to do about it. Those of
// the file system name the file themselves.
func (i *input) explain(err error, remedies ...remedy) error {
	for _, r := range remedies {
		if errors.Is(err, r.of) {
			return fmt.Errorf("read %s: %w: %s", i.name, err, r.text)
		}
	}
	return err
}

// newReplay reads a recording. Beyond the duration, 0 for none, it is not read. After
// an error the file is closed.
func newReplay(in *input, duration time.Duration) (*replay, error) {
	r := &replay{in: in, limit: ^uint64(0)}
	var err error
	if r.reader, err = capture.NewReader(in.Reader); err != nil {
		return nil, errors.Join(r.explain(err), in.close())
	}
	r.clock = events.NewClock(r.reader.Header().ClockOffset)
	if duration > 0 {
		r.limit = r.reader.Header().Start + uint64(duration)
	}
	return r, nil
}

// rewind implements [recorded].
func (r *replay) rewind() error {
	if err := r.in.rewind(); err != nil {
		return err
	}
	reader, err := capture.NewReader(r.in.Reader)
	if err != nil {
		return r.explain(err)
	}
	r.reader.Close()
	r.reader, r.last = reader, 0
	return nil
}

func (r *replay) explain(err error) error {
	const shown = "all that came before is shown"
	return r.in.explain(err,
		remedy{capture.ErrForeign, "make one with tcptrace -w FILE"},
		remedy{capture.ErrNewer, "update tcptrace"},
		remedy{capture.ErrTruncated, "the tracer was killed, its disk was full, it still runs, or the copy is not complete; " + shown},
		remedy{capture.ErrCorrupt, "copy it again if there is another; " + shown})
}

func (r *replay) Next(rec *events.Record) error {
	if r.stop.Load() {
		return io.EOF
	}
	err := r.reader.Read(rec)
	if errors.Is(err, io.EOF) {
		return err
	}
	if err != nil {
		return r.explain(err)
	}
	at := rec.Event.Time
	switch rec.Kind {
	case events.KindLoss:
		at = rec.Loss.Time
	case events.KindWalked:
		at = rec.Walked.Time
	case events.KindClock:
		at = rec.Clock.Time
	case events.KindName:
		at = r.last
	}
	if at > r.limit {
		return io.EOF
	}
	r.last = at
	return nil
}

// Unmeasured implements [source]: what was not, when it was recorded.
func (r *replay) Unmeasured() []string { return r.reader.Header().Unmeasured }

func (r *replay) Stop()               { r.stop.Store(true) }
func (r *replay) Clock() events.Clock { return r.clock }
func (r *replay) Start() uint64       { return r.reader.Header().Start }

// End returns when the recording was ended, or when what was read of it ends.
func (r *replay) End() uint64 {
	switch end := r.reader.End(); {
	case end == 0:
		return r.last
	case end > r.limit:
		return r.limit
	default:
		return end
	}
}

func (r *replay) Close() error {
	r.reader.Close()
	return r.in.close()
}
