package bpf

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time on the clock of the records, CLOCK_BOOTTIME in
// nanoseconds.
func Now() (uint64, error) {
	boot, err := read(unix.CLOCK_BOOTTIME)
	return uint64(boot), err
}

// ClockOffset returns what to add to the time of a record for nanoseconds of
// the Unix epoch. It is exact to about a microsecond.
func ClockOffset() (int64, error) {
	var offset, narrowest int64
	// Between two readings of the one clock lies the other; the closest pair
	// of several was not interrupted.
	for range 8 {
		before, err := read(unix.CLOCK_BOOTTIME)
		if err != nil {
			return 0, err
		}
		wall := time.Now().UnixNano()
		after, err := read(unix.CLOCK_BOOTTIME)
		if err != nil {
			return 0, err
		}
		if width := after - before; narrowest == 0 || width < narrowest {
			narrowest, offset = width, wall-(before+width/2)
		}
	}
	return offset, nil
}

func read(clock int32) (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read clock %d: %w", clock, err)
	}
	return ts.Nano(), nil
}
