package bpf

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseTimens(t *testing.T) {
	for _, test := range []struct {
		line  string
		ahead int64
		ok    bool
	}{
		{"boottime       100000         5", 100_000_000_000_005, true},
		{"7           -1         999999999", -1, true},
		{"monotonic           3         0", 0, false},
		{"", 0, false},
	} {
		if ahead, ok, err := parseTimens(test.line); ahead != test.ahead || ok != test.ok || err != nil {
			t.Errorf("%q: %d, %t, %v", test.line, ahead, ok, err)
		}
	}
	for _, line := range []string{"boottime x 0", "boottime 0 x"} {
		if _, _, err := parseTimens(line); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
}

// TestTimeNamespace: the clock of the records is the kernel's, wherever the process is.
func TestTimeNamespace(t *testing.T) {
	before, err := Now()
	check(t, err)
	cmd := exec.Command("unshare", "--time", "--boottime", "100000", "--", os.Args[0])
	cmd.Env = append(os.Environ(), envNow+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("no time namespace can be made: %v: %s", err, out)
	}
	after, err := Now()
	check(t, err)
	words := strings.Fields(string(out))
	if len(words) != 2 {
		t.Fatalf("printed %q", out)
	}
	now, err := strconv.ParseUint(words[0], 10, 64)
	check(t, err)
	if now < before || now > after {
		t.Errorf("in a time namespace it is %d, here %d to %d", now, before, after)
	}
	offset, err := strconv.ParseInt(words[1], 10, 64)
	check(t, err)
	here, err := ClockOffset()
	check(t, err)
	if d := time.Duration(offset - here).Abs(); d > time.Second {
		t.Errorf("the clock is off by %v there", d)
	}
}
