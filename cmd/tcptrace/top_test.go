package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"tcptrace/events/capture"
	"tcptrace/fsm"
	"tcptrace/output/stat"
	"tcptrace/output/tui"
	"tcptrace/output/tui/tuitest"
)

// watch runs top over a recording of testdata with such arguments, and has the eye look
// at it until look returns.
func watch(t *testing.T, recording string, args []string, width, height int, look func(*topView, *tuitest.Eye)) {
	t.Helper()
	f := &viewFlags{}
	cmd := &cobra.Command{Use: "top", SilenceErrors: true, SilenceUsage: true}
	f.register(cmd)
	f.stuck.register(cmd.Flags())
	by := cmd.Flags().String("by", "pid", "")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		group, err := parseTopBy(*by)
		if err != nil {
			return err
		}
		f.stuckMode = stuckBeside
		first := &tui.Request{Filter: filterLine(cmd.Flags()), By: group, Table: tui.TableOf(group)}
		return f.showTop(t.Context(), cmd, first, func(v *topView) screen {
			eye := tuitest.New(tui.NewModel(first, v.ask), width, height)
			go func() {
				defer eye.Close()
				eye.Begin()
				look(v, eye)
			}()
			return unclosed{eye}
		})
	}
	cmd.SetArgs(append([]string{"-r", "testdata/recordings/" + recording}, args...))
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	check(t, cmd.Execute())
}

// unclosed is an eye that closes by itself.
type unclosed struct{ *tuitest.Eye }

func (unclosed) Close() error { return nil }

// TestTopFrames holds what is on the screen against testdata/top. UPDATE=1 writes that
// anew.
func TestTopFrames(t *testing.T) {
	here := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = here })
	const small, large = 24, 40
	for _, c := range []struct {
		name, recording string
		height          int
		args, keys      []string
	}{
		{"scenarios", "scenarios.tct", small, nil, nil},
		{"scenarios-large", "scenarios.tct", large, nil, nil},
		{"scenarios-rates", "scenarios.tct", small, nil, []string{"t"}},
		{"escaped", "scenarios.tct", large, []string{"--by", "comm"}, []string{"d"}},
		{"lifecycles", "lifecycles.tct", small, nil, nil},
		{"lifecycles-by-port", "lifecycles.tct", small, []string{"--by", "lport"}, []string{"s", "s", "s", "s", "s"}},
		{"lifecycles-closed", "lifecycles.tct", large, nil, []string{"tab", "left", "left", "up", "enter"}},
		{"lifecycles-one", "lifecycles.tct", small, nil, []string{"enter", "down", "enter"}},
		{"lifecycles-findings", "lifecycles.tct", small, nil, []string{"f"}},
		{"lifecycles-filtered", "lifecycles.tct", small, nil, []string{"/", "-D 80 --comm curl -s TIME_WAIT", "enter"}},
		{"wrong-filter", "lifecycles.tct", small, nil, []string{"/", "-s NOWHERE", "enter"}},
		{"stuck", "stuck.tct", small, nil, nil},
		{"stuck-sockets", "stuck.tct", small, []string{"--limit", "ESTABLISHED=5s"}, []string{"enter"}},
		{"stuck-one", "stuck.tct", small, nil, []string{"B", "B", "end", "enter"}},
		{"containers", "containers.tct", large, []string{"--by", "container"}, nil},
		{"all-sockets", "ports.tct", small, []string{"--by", "socket"}, []string{"s"}},
		{"help", "ports.tct", small, nil, []string{"?"}},
		{"paused", "ports.tct", small, nil, []string{"p"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var frame string
			width := 80
			if c.height == large {
				width = 120
			}
			watch(t, c.recording, c.args, width, c.height, func(_ *topView, eye *tuitest.Eye) {
				eye.Press(c.keys...)
				frame = eye.Frame()
			})
			for i, line := range strings.Split(frame, "\n") {
				if n := len([]rune(line)); n > width || i > c.height {
					t.Errorf("line %d has %d characters: the screen is %dx%d", i, n, width, c.height)
				}
			}
			name := filepath.Join("testdata/top", c.name+".txt")
			if os.Getenv("UPDATE") != "" {
				check(t, os.WriteFile(name, []byte(frame), 0o644))
			}
			want, err := os.ReadFile(name)
			check(t, err)
			if frame != string(want) {
				t.Errorf("%s: got\n%s\nwant\n%s", name, frame, want)
			}
		})
	}
}

// countedByStat is what tcptrace stat says in JSON.
type countedByStat struct {
	Type        string
	Transitions uint64
	Matrix      []struct {
		From, To       string
		Count, Illegal uint64
	}
	Verdicts map[string]uint64
	Closed   map[string]uint64
	Groups   []struct {
		PID         uint64
		Comm        string
		Transitions uint64
		Verdicts    map[string]uint64
		Closed      map[string]uint64
	}
	Lost uint64
}

// TestTopAgrees: top counts of a recording what stat and stuck count, by a filter that
// was given or that is typed, by the first groups and by others.
func TestTopAgrees(t *testing.T) {
	for _, recording := range []string{"scenarios.tct", "lifecycles.tct", "stuck.tct", "ports.tct", "containers.tct"} {
		for _, filter := range []string{"", "--comm curl", "-L 80,8080", "-s TIME_WAIT,CLOSE_WAIT", "--verdict abort,illegal", "--remote 10.0.0.2"} {
			t.Run(recording+" "+filter, func(t *testing.T) {
				words := strings.Fields(filter)
				file := []string{"-r", "testdata/recordings/" + recording}
				want := statOf(t, append(append([]string{"stat", "-o", "json", "--by", "pid", "--top", "1000"}, file...), words...))
				stuck := 0
				if !strings.Contains(filter, "--verdict") {
					stuck = strings.Count(replayAs(t, append(append([]string{"stuck", "-o", "json"}, file...), words...), exitDone), `"type":"stuck"`)
				}
				compare := func(how string, p *tui.Picture) {
					t.Helper()
					if p.Err != nil || !p.Ended {
						t.Fatalf("%s: the recording is not read: %v", how, p.Err)
					}
					got := statFrom(p)
					if !reflect.DeepEqual(got, want) {
						t.Errorf("%s: top has\n%+v\nstat has\n%+v", how, got, want)
					}
					if !strings.Contains(filter, "--verdict") && p.StuckCount != stuck {
						t.Errorf("%s: top has %d stuck, stuck has %d", how, p.StuckCount, stuck)
					}
				}
				// The first picture may have come before the end of the recording.
				ask := func(v *topView, r *tui.Request) *tui.Picture {
					for {
						if p := v.ask(r); p == nil || p.Ended {
							return p
						}
					}
				}
				watch(t, recording, words, 80, 24, func(v *topView, _ *tuitest.Eye) {
					compare("given", ask(v, &tui.Request{Filter: v.filterLine, By: stat.ByPID, Rows: 1000}))
				})
				watch(t, recording, []string{"--by", "lport"}, 80, 24, func(v *topView, _ *tuitest.Eye) {
					compare("typed", ask(v, &tui.Request{Filter: filter, By: stat.ByPID, Rows: 1000}))
				})
			})
		}
	}
}

func statOf(t *testing.T, args []string) countedByStat {
	t.Helper()
	text := replayAs(t, args, exitDone)
	var all countedByStat
	for d := json.NewDecoder(strings.NewReader(text)); d.More(); {
		var line struct {
			countedByStat
			Lost any
		}
		check(t, d.Decode(&line))
		switch line.Type {
		case "stat":
			all = line.countedByStat
			all.Lost = 0
		case "summary":
			lost, _ := line.Lost.(float64)
			all.Lost = uint64(lost)
		}
	}
	all.Type = ""
	dropZeros(&all)
	return all
}

// statFrom is what a picture says, as stat would.
func statFrom(p *tui.Picture) countedByStat {
	c := countedByStat{Transitions: p.Transitions, Lost: p.Lost, Verdicts: map[string]uint64{}, Closed: map[string]uint64{}}
	order := fsm.States()
	for _, from := range order {
		for _, to := range order {
			for _, e := range p.Edges {
				if e.From == from && e.To == to {
					c.Matrix = append(c.Matrix, struct {
						From, To       string
						Count, Illegal uint64
					}{from.String(), to.String(), e.All, e.Illegal})
				}
			}
		}
	}
	groups := slices.Clone(p.Groups)
	slices.SortFunc(groups, func(a, b tui.Group) int {
		if a.Tally.Transitions != b.Tally.Transitions {
			return int(b.Tally.Transitions) - int(a.Tally.Transitions)
		}
		return a.Key.Compare(b.Key)
	})
	for _, g := range groups {
		if g.Tally.Transitions == 0 { // there are sockets, of which nothing happened
			continue
		}
		var key struct {
			PID  uint64
			Comm string
		}
		_ = json.Unmarshal([]byte("{"+string(g.Key.AppendJSON(nil, stat.ByPID))+`"x":0}`), &key)
		of := struct {
			PID         uint64
			Comm        string
			Transitions uint64
			Verdicts    map[string]uint64
			Closed      map[string]uint64
		}{key.PID, key.Comm, g.Tally.Transitions, map[string]uint64{}, map[string]uint64{}}
		for _, v := range fsm.Verdicts() {
			of.Verdicts[v.String()] = g.Tally.Verdicts[v]
			c.Verdicts[v.String()] += g.Tally.Verdicts[v]
		}
		for cause, n := range g.Tally.Closed {
			of.Closed[fsm.Cause(cause).String()] = n
			c.Closed[fsm.Cause(cause).String()] += n
		}
		c.Groups = append(c.Groups, of)
	}
	dropZeros(&c)
	return c
}

func dropZeros(c *countedByStat) {
	maps := []*map[string]uint64{&c.Verdicts, &c.Closed}
	for i := range c.Groups {
		maps = append(maps, &c.Groups[i].Verdicts, &c.Groups[i].Closed)
	}
	for _, m := range maps {
		for name, n := range *m {
			if n == 0 {
				delete(*m, name)
			}
		}
		if len(*m) == 0 {
			*m = nil
		}
	}
	if len(c.Matrix) == 0 {
		c.Matrix = nil
	}
	if len(c.Groups) == 0 {
		c.Groups = nil
	}
}

// TestTopUnwatched: a terminal that takes nothing keeps nobody from reading.
func TestTopUnwatched(t *testing.T) {
	var stderr bytes.Buffer
	f := &viewFlags{stuckMode: stuckBeside}
	cmd := &cobra.Command{Use: "top"}
	f.register(cmd)
	f.stuck.register(cmd.Flags())
	check(t, cmd.ParseFlags([]string{"-r", "testdata/recordings/lifecycles.tct"}))
	cmd.SetContext(t.Context())
	cmd.SetErr(&stderr)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	in, typing := io.Pipe()
	defer typing.Close()
	unread, blocked := io.Pipe()
	defer unread.Close()
	first := &tui.Request{By: stat.ByPID}
	err := f.showTop(ctx, cmd, first, func(v *topView) screen {
		go func() {
			defer leave()
			for !v.ask(first).Ended {
			}
		}()
		return tui.Show(tui.NewModel(first, v.ask), &tui.Options{In: in, Out: blocked, Environ: []string{"TERM=xterm"}})
	})
	if err == nil || !strings.Contains(err.Error(), "the terminal takes nothing") {
		t.Errorf("error %v", err)
	}
	if want := "153 transitions of"; !strings.Contains(stderr.String(), want) {
		t.Errorf("want %q in %q", want, &stderr)
	}
}

// TestTopBroken: what there is of a recording that is cut off is shown, and why there is
// no more; the status tells it, too.
func TestTopBroken(t *testing.T) {
	whole, err := os.ReadFile("testdata/recordings/lifecycles.tct")
	check(t, err)
	name := filepath.Join(t.TempDir(), "cut.tct")
	check(t, os.WriteFile(name, whole[:len(whole)*2/3], 0o600))
	f := &viewFlags{stuckMode: stuckBeside}
	cmd := &cobra.Command{Use: "top"}
	f.register(cmd)
	f.stuck.register(cmd.Flags())
	check(t, cmd.ParseFlags([]string{"-r", name}))
	cmd.SetContext(t.Context())
	cmd.SetErr(io.Discard)
	first := &tui.Request{By: stat.ByPID}
	var frame string
	err = f.showTop(t.Context(), cmd, first, func(v *topView) screen {
		eye := tuitest.New(tui.NewModel(first, v.ask), 80, 24)
		go func() {
			defer eye.Close()
			eye.Begin()
			eye.Press("f")
			frame = eye.Frame()
		}()
		return unclosed{eye}
	})
	if !errors.Is(err, capture.ErrTruncated) || !strings.Contains(frame, "broken off cut.tct") || !strings.Contains(strings.Join(strings.Fields(frame), " "), "the tracer was killed, its disk was full") {
		t.Errorf("error %v, and on the screen\n%s", err, frame)
	}
}

// A filter that is typed is that of the command line, and given back as it was typed.
func TestFilterLine(t *testing.T) {
	for line, want := range map[string]string{
		"":                         "",
		"-L 443":                   "-L 443",
		"  --local-port=443,80 -4": "-4 -L 443,80",
		`--comm "Web Content"`:     `--comm "Web Content"`,
		`--comm '"a""b"'`:          `--comm '"a""b"'`,
		"-s CLOSE_WAIT,estab -p 1,2 --remote 10.0.0.0/8 --verdict abort": "-p 1,2 --remote 10.0.0.0/8 -s CLOSE_WAIT,estab --verdict abort",
	} {
		if _, err := parseFilterLine(line); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		words, err := splitWords(line)
		check(t, err)
		set := filterSet(&filterFlags{})
		check(t, set.Parse(words))
		if got := filterLine(set); got != want {
			t.Errorf("%q is given back as %q, want %q", line, got, want)
		}
	}
	for line, want := range map[string]string{
		"443":          `"443" is no flag`,
		"-L":           "flag needs an argument",
		"-L 0":         "is no port",
		"-L ''":        "its value is empty",
		"-x":           "unknown shorthand flag",
		"-h":           "want the flags that choose",
		"-o json":      "unknown shorthand flag",
		"--comm 'open": "the quote ' is not closed",
	} {
		if _, err := parseFilterLine(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", line, err, want)
		}
	}
}

// What the kernel leaves out since the start cannot be asked for later.
func TestFilterCovers(t *testing.T) {
	for _, c := range []struct {
		begun, wanted string
		refused       string // "": it is not
	}{
		{"", "-L 443 -4 -D 80", ""},
		{"--comm curl -s LISTEN", "--comm nginx", ""},
		{"-L 443", "-L 443 --comm nginx", ""},
		{"-L 443", "-L 80", "-L"},
		{"-L 443", "", "-L"},
		{"-D 1", "-L 1", "-D"},
		{"--port 1", "--port 1,2", "--port"},
		{"-4", "-6", "-4 and -6"},
		{"--netns 1", "", "--netns"},
		{"--cgroup 1", "--cgroup 2", "--cgroup"},
	} {
		begun, err := parseFilterLine(c.begun)
		check(t, err)
		wanted, err := parseFilterLine(c.wanted)
		check(t, err)
		err = begun.covers(wanted)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), "filters by "+c.refused) {
			t.Errorf("from %q to %q: %v", c.begun, c.wanted, err)
		}
	}
}
