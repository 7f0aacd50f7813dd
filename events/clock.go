package events

import (
	"sync/atomic"
	"time"
)

// Clock turns the kernel's time of an event into wall-clock time.
//
// CLOCK_BOOTTIME and CLOCK_REALTIME are slewed together and differ only by what the
// wall clock is stepped: so it is one offset, and from each step on another one. An
// event is dated by the offset of its own time, and has the same date whenever it is
// shown. Copies share the steps.
type Clock struct {
	// Offset in nanoseconds to add to CLOCK_BOOTTIME for CLOCK_REALTIME, before the
	// first step.
	Offset int64
	steps  *atomic.Pointer[steps] // nil: it cannot be stepped
}

// ClockStep says that the wall clock was set.
type ClockStep struct {
	Time   uint64 // when that was noticed, as Event.Time
	Offset int64  // from then on, as Clock.Offset
}

// steps are the last ones, in the order of their times. It is never changed, but
// replaced.
type steps struct {
	before int64 // the offset before the first
	list   []ClockStep
}

// maxSteps bounds the steps that are remembered; what is older than the first of these
// is dated by the one before it.
const maxSteps = 64

// NewClock returns a clock that can be stepped.
func NewClock(offset int64) Clock {
	return Clock{Offset: offset, steps: new(atomic.Pointer[steps])}
}

// Step has this clock and its copies date what follows by another offset, and returns
// by how much the wall clock was set forward. Steps come in the order of their times,
// and from one goroutine; the clock may be read beside it. A clock that NewClock has
// not made stays as it is.
func (c Clock) Step(s ClockStep) time.Duration {
	if c.steps == nil {
		return 0
	}
	next := steps{before: c.Offset}
	if now := c.steps.Load(); now != nil {
		next.before, next.list = now.before, now.list
	}
	was := next.at(s.Time)
	if len(next.list) == maxSteps {
		next.before, next.list = next.list[0].Offset, next.list[1:]
	}
	next.list = append(next.list[:len(next.list):len(next.list)], s)
	c.steps.Store(&next)
	return time.Duration(s.Offset - was)
}

// at returns the offset at a time.
func (s *steps) at(boot uint64) int64 {
	for i := len(s.list) - 1; i >= 0; i-- {
		if s.list[i].Time <= boot {
			return s.list[i].Offset
		}
	}
	return s.before
}

// stepped returns the steps, nil if there were none.
func (c Clock) stepped() *steps {
	if c.steps == nil {
		return nil
	}
	return c.steps.Load()
}

// Time returns the wall-clock time of an event, in UTC.
func (c Clock) Time(boot uint64) time.Time {
	offset := c.Offset
	if s := c.stepped(); s != nil {
		offset = s.at(boot)
	}
	return time.Unix(0, offset+int64(boot)).UTC()
}

// Boot returns the time of an event that was dated lately. Where the wall clock was set
// back, a date has two of them: it is the later one.
func (c Clock) Boot(t time.Time) uint64 {
	wall := t.UnixNano()
	s := c.stepped()
	if s == nil {
		return uint64(wall - c.Offset)
	}
	for i := len(s.list) - 1; i >= 0; i-- {
		if boot := wall - s.list[i].Offset; boot >= int64(s.list[i].Time) {
			return uint64(boot)
		}
	}
	return uint64(wall - s.before)
}
