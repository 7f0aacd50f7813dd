package events_test

import (
	"testing"
	"time"

	"tcptrace/events"
)

// An event has the date of the clock at its own time, and gives it back.
func TestClockSteps(t *testing.T) {
	const second = uint64(time.Second)
	clock := events.NewClock(1000 * int64(second))
	shown := clock // as a sink has it
	if by := clock.Step(events.ClockStep{Time: 10 * second, Offset: 4600 * int64(second)}); by != time.Hour {
		t.Errorf("set forward by %v, want 1h", by)
	}
	checkBoot(t, clock, 10, 19, 3000)
	if by := clock.Step(events.ClockStep{Time: 20 * second, Offset: 900 * int64(second)}); by != -3700*time.Second {
		t.Errorf("set forward by %v, want -3700s", by)
	}
	for _, c := range []struct{ boot, wall uint64 }{
		{0, 1000}, {9, 1009}, {10, 4610}, {19, 4619}, {20, 920}, {3000, 3900},
	} {
		for _, clock := range []events.Clock{clock, shown} {
			if got := clock.Time(c.boot * second); got.UnixNano() != int64(c.wall*second) {
				t.Errorf("%d s is dated %v, want %d s", c.boot, got, c.wall)
			}
		}
	}
	checkBoot(t, clock, 20, 3000)
	if got := clock.Boot(clock.Time(9 * second)); got != 109*second {
		t.Errorf("the later of two times is %d ns, want 109 s", got)
	}
}

func checkBoot(t *testing.T, clock events.Clock, seconds ...uint64) {
	t.Helper()
	for _, boot := range seconds {
		boot *= uint64(time.Second)
		if got := clock.Boot(clock.Time(boot)); got != boot {
			t.Errorf("dated and back, %d are %d", boot, got)
		}
	}
}

// However often it is set, the last steps count.
func TestClockManySteps(t *testing.T) {
	const many = 1000
	clock := events.NewClock(-1)
	for i := uint64(1); i <= many; i++ {
		clock.Step(events.ClockStep{Time: 10 * i, Offset: int64(i)})
	}
	for i := uint64(many - 60); i <= many; i++ {
		if got := clock.Time(10*i + 9).UnixNano(); got != int64(10*i+9+i) {
			t.Errorf("after step %d: %d", i, got)
		}
	}
	if got := clock.Time(5).UnixNano(); got != 5+many-64 {
		t.Errorf("before all that is remembered: %d", got)
	}
}

// A clock that is not to be stepped is not, nor does it give way.
func TestClockFixed(t *testing.T) {
	clock := events.Clock{Offset: 5}
	if by := clock.Step(events.ClockStep{Time: 1, Offset: 9}); by != 0 {
		t.Errorf("stepped by %v", by)
	}
	if got := clock.Time(2).UnixNano(); got != 7 || clock.Boot(clock.Time(2)) != 2 {
		t.Errorf("dated %d", got)
	}
}
