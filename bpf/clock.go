package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time on the clock of the records, CLOCK_BOOTTIME of the host in
// nanoseconds.
func Now() (uint64, error) {
	boot, err := readBoot()
	return uint64(boot), err
}

// readBoot reads CLOCK_BOOTTIME as the kernel side does, which is in no time namespace.
func readBoot() (int64, error) {
	ahead, err := bootAhead()
	if err != nil {
		return 0, err
	}
	boot, err := read(unix.CLOCK_BOOTTIME)
	return boot - ahead, err
}

// bootAhead returns by how much CLOCK_BOOTTIME is ahead of the host's in the time
// namespace of this process, which stays in it.
var bootAhead = sync.OnceValues(func() (int64, error) {
	f, err := os.Open("/proc/self/timens_offsets")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without time namespaces
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the offsets of the time namespace: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if ahead, ok, err := parseTimens(lines.Text()); ok || err != nil {
			return ahead, err
		}
	}
	return 0, fmt.Errorf("read the offsets of the time namespace: no boottime in %s", f.Name())
})

// parseTimens reads the nanoseconds from the line of CLOCK_BOOTTIME, which Linux before
// 5.7 names by its number.
func parseTimens(line string) (ahead int64, ok bool, err error) {
	fields := strings.Fields(line)
	if len(fields) != 3 || fields[0] != "boottime" && fields[0] != strconv.Itoa(unix.CLOCK_BOOTTIME) {
		return 0, false, nil
	}
	seconds, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("read the offsets of the time namespace: %w", err)
	}
	nanoseconds, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("read the offsets of the time namespace: %w", err)
	}
	return seconds*int64(time.Second) + nanoseconds, true, nil
}

// ClockOffset returns what to add to the time of a record for nanoseconds of
// the Unix epoch. It is exact to about a microsecond.
func ClockOffset() (int64, error) {
	var offset, narrowest int64
	// Between two readings of the one clock lies the other; the closest pair
	// of several was not interrupted.
	for range 8 {
		before, err := readBoot()
		if err != nil {
			return 0, err
		}
		wall := time.Now().UnixNano()
		after, err := readBoot()
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
