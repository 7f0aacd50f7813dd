package events

import "time"

// Clock turns the kernel's time of an event into wall-clock time.
//
// It is one fixed offset: CLOCK_BOOTTIME and CLOCK_REALTIME are slewed
// together and differ only by what the wall clock is stepped. So times of one
// run agree with each other whatever happens to the wall clock.
type Clock struct {
	// Offset in nanoseconds to add to CLOCK_BOOTTIME for CLOCK_REALTIME.
	Offset int64
}

// Time returns the wall-clock time of an event, in UTC.
func (c Clock) Time(boot uint64) time.Time {
	return time.Unix(0, c.Offset+int64(boot)).UTC()
}
