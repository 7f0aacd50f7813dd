package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// terminal is a real one, of tmux, in which the program runs.
type terminal struct {
	t      *testing.T
	server string
	dir    string
}

// startTerminal runs the command in a terminal of such a size, with more in its
// environment.
func startTerminal(t *testing.T, width, height int, env []string, args ...string) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		unavailable(t, "tmux is not there (make deps): %v", err)
	}
	exe, err := os.Executable()
	check(t, err)
	term := &terminal{t: t, server: fmt.Sprintf("tcptrace-test-%d-%d", os.Getpid(), time.Now().UnixNano()), dir: t.TempDir()}
	var command strings.Builder
	for _, word := range append([]string{"env", runAsProgram + "=1", "TZ=UTC"}, append(env, append([]string{exe}, args...)...)...) {
		command.WriteString("'" + word + "' ")
	}
	fmt.Fprintf(&command, "2>'%s/stderr'; echo $? >'%s/status'; echo left; exec cat", term.dir, term.dir)
	term.tmux("new-session", "-d", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height), command.String())
	t.Cleanup(func() { term.tmux("kill-server") })
	return term
}

func (term *terminal) tmux(args ...string) string {
	term.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-u", "-L", term.server, "-f", "/dev/null"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		term.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// screen returns what there is to see.
func (term *terminal) screen() string {
	term.t.Helper()
	return term.tmux("capture-pane", "-p")
}

// shows waits until the pattern is on the screen.
func (term *terminal) shows(pattern string) {
	term.t.Helper()
	want := regexp.MustCompile(pattern)
	last := ""
	for deadline := time.Now().Add(usualWait); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = term.screen(); want.MatchString(last) {
			return
		}
	}
	term.t.Fatalf("waited in vain for %q, there is\n%s", pattern, last)
}

// press presses keys, by their names in tmux, or types what has a space in it.
func (term *terminal) press(keys ...string) {
	term.t.Helper()
	for _, k := range keys {
		if strings.Contains(k, " ") {
			term.tmux("send-keys", "-l", "--", k)
		} else {
			term.tmux("send-keys", k)
		}
	}
}

// left waits until the program has ended, and returns its status and what it wrote to
// standard error.
func (term *terminal) left() (status int, stderr string) {
	term.t.Helper()
	term.shows(`(?m)^left$`)
	text, err := os.ReadFile(filepath.Join(term.dir, "status"))
	check(term.t, err)
	status, err = strconv.Atoi(string(bytes.TrimSpace(text)))
	check(term.t, err)
	text, err = os.ReadFile(filepath.Join(term.dir, "stderr"))
	check(term.t, err)
	return status, string(text)
}

// TestTerminalTop drives the real program over a recording: what is on a real terminal is
// what the frames of TestTopFrames are.
func TestTerminalTop(t *testing.T) {
	here, err := os.Getwd()
	check(t, err)
	for _, c := range []struct {
		frame, recording string
		width, height    int
		keys             []string
		sign             string
	}{
		{"scenarios", "scenarios.tct", 80, 24, nil, "scenarios.tct 2m"},
		{"scenarios-large", "scenarios.tct", 120, 40, nil, "scenarios.tct 2m"},
		{"lifecycles-closed", "lifecycles.tct", 120, 40, []string{"Tab", "Left", "Left", "Up", "Enter"}, "closed last"},
		{"lifecycles-filtered", "lifecycles.tct", 80, 24, []string{"/", "-D 80 --comm curl -s TIME_WAIT", "Enter"}, "filter -D 80"},
		{"lifecycles-findings", "lifecycles.tct", 80, 24, []string{"f"}, "stuck now"},
		{"help", "ports.tct", 80, 24, []string{"?"}, "go on"},
	} {
		t.Run(c.frame, func(t *testing.T) {
			term := startTerminal(t, c.width, c.height, nil, "top", "-r", here+"/testdata/recordings/"+c.recording)
			term.shows(`\d+ trans`)
			term.press(c.keys...)
			want, err := os.ReadFile("testdata/top/" + c.frame + ".txt")
			check(t, err)
			trim := func(s string) string { return strings.TrimRight(s, "\n ") }
			term.shows(regexp.QuoteMeta(c.sign))
			term.shows(`^` + regexp.QuoteMeta(trim(string(want))) + `\n*$`)
			term.press("q")
			status, stderr := term.left()
			if status != exitDone || !strings.Contains(stderr, " transitions of ") {
				t.Errorf("status %d: %s", status, stderr)
			}
		})
	}
}

// TestTerminalColors: red where colours are wanted, none elsewhere, and the size may
// change.
func TestTerminalColors(t *testing.T) {
	here, err := os.Getwd()
	check(t, err)
	red := regexp.MustCompile(`\x1b\[[0-9;]*31m`)
	color := regexp.MustCompile(`\x1b\[[0-9;]*[34][0-7]m`)
	for name, c := range map[string]struct {
		env, args []string
		colors    bool
	}{
		"colours":    {nil, nil, true},
		"NO_COLOR":   {[]string{"NO_COLOR=1"}, nil, false},
		"--no-color": {nil, []string{"--no-color"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			term := startTerminal(t, 80, 24, c.env, append([]string{"top", "-r", here + "/testdata/recordings/scenarios.tct"}, c.args...)...)
			term.shows(`94 trans`)
			styled := term.tmux("capture-pane", "-p", "-e")
			if red.MatchString(styled) != c.colors || color.MatchString(styled) != c.colors {
				t.Errorf("colours: %v, want %v in\n%q", !c.colors, c.colors, styled)
			}
			term.tmux("resize-window", "-x", "60", "-y", "15")
			term.shows(`(?s)^tcptrace.*by pid`)
			if strings.Contains(term.screen(), "SYN_SENT") {
				t.Error("the diagram is there, though it has no room")
			}
			term.tmux("resize-window", "-x", "100", "-y", "30")
			term.shows("SYN_SENT")
			term.press("C-c")
			if status, stderr := term.left(); status != exitDone || !strings.Contains(stderr, "94 transitions of") {
				t.Errorf("status %d: %s", status, stderr)
			}
		})
	}
}

// TestKernelTop watches a process that does not close: its name and number are on the
// screen, and the way goes on to the socket.
func TestKernelTop(t *testing.T) {
	requireKernel(t)
	requireHostPIDs(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		listener := ns.listen(ns.v4(1))
		before, beforeServer := ns.dial(ns.v4(2), listener) // the start
		before.close()
		term := startTerminal(t, 80, 24, nil, "top", "--netns", strconv.FormatUint(uint64(ns.inode), 10), "--limit", "CLOSE_WAIT=1s", "--by", "socket")
		pid := os.Getpid()
		term.shows(fmt.Sprintf(`STUCK CLOSE_WAIT 1 [^ ]+/%d ≥?\d`, pid))

		client, server := ns.dial(ns.v4(3), listener)
		client.close()
		term.shows(fmt.Sprintf(`STUCK CLOSE_WAIT 2 [^ ]+/%d`, pid))
		term.shows(`2 stuck  0 gaps  0 lost`)

		term.press("b") // by comm
		term.shows("by comm")
		term.press("b")
		term.shows(fmt.Sprintf(`(?m)^%d \S+ .* 2$`, pid))
		term.press("Tab", "Right", "Down", "Enter") // from ESTABLISHED
		term.shows(`(?s)sockets in CLOSE_WAIT.*2 sockets, by age.*CLOSE_WAIT`)
		term.press("Down", "Enter")
		term.shows(`(?s)PATH.*SYN_RCVD.*ESTABLISHED.*CLOSE_WAIT +≥.*STUCK .*the peer has closed`)

		// What is looked at is followed to its end. After a minute the peer's socket is gone.
		server.close()
		term.shows(`(?s)LAST_ACK.*CLOSED.*(finished, remote first|reset received)`)
		term.press("f")
		term.shows(`stuck now: 1`)
		beforeServer.close()
		term.shows(`stuck now: 0`)
		term.press("q")
		status, stderr := term.left()
		if status != exitDone || !regexp.MustCompile(`\d+ transitions of \d+ connections in .*: 0 illegal, 0 gaps, 0 lost`).MatchString(stderr) {
			t.Errorf("status %d: %s", status, stderr)
		}
	})
}
