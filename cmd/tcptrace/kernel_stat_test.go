package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// statLine is a line of tcptrace stat.
type statLine struct {
	Start, End  string
	Transitions int
	Matrix      []struct {
		From, To       string
		Count, Illegal int
	}
	Dwell map[string]struct {
		Count, Unknown int
		AtLeast        int `json:"at_least"`
	}
	Closed       map[string]int
	Verdicts     map[string]int
	TimeWaitEnds map[string]int `json:"time_wait_ends"`
	Lost         map[string]int
	Groups       []struct{ Transitions int }
	Other        struct{ Transitions int }
}

// edge is a transition as such, by the names of the states.
type edge struct{ from, to string }

// TestKernelStat holds the matrix, put together from many short windows, against the
// kernel's own trace of the same transitions.
func TestKernelStat(t *testing.T) {
	requireKernel(t)
	const connections = 2000
	for name, args := range map[string][]string{
		"measured":                {"stat", "--interval", "20ms", "--by", "lport", "--top", "3"},
		"not measured":            {"stat", "--no-time-wait", "--by", "comm"},
		"in kernel":               {"stat", "--interval", "20ms", "--in-kernel"},
		"in kernel, not measured": {"stat", "--no-time-wait", "--in-kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				recording := filepath.Join(t.TempDir(), "a.tct")
				inKernel := slices.Contains(args, "--in-kernel")
				if !inKernel {
					args = append(slices.Clone(args), "-w", recording)
				}
				tr := trace(ns, args...)
				listener := ns.listen(ns.v4(1))
				to := sockaddr(listener.addr())
				ns.inParallel(func() error {
					for i := range connections {
						from := netip.AddrPortFrom(ns.v4(byte(10+i%8)), 0)
						if err := connectAndPart(listener.fd, sockaddr(from), to, i%4 == 0); err != nil {
							return fmt.Errorf("connection %d: %w", i, err)
						}
					}
					return nil
				})
				listener.close()

				lives := tr.oracle.settle(ns)
				text := tr.text()
				sum, windows, lost := sumWindows(t, text)
				ns.checkDisturbance(lives, sum.total(), lost)
				want := edges{}
				for _, l := range lives {
					for _, s := range l.steps {
						want[edge{s.from.String(), s.to.String()}]++
					}
				}
				if tr.timers {
					// The kernel's socket is closed when a minisock takes over.
					takenOver := edge{fsm.FinWait2.String(), fsm.Closed.String()}
					want[edge{takenOver.from, fsm.TimeWait.String()}] = want[takenOver]
					delete(want, takenOver)
					if windows < 3 {
						t.Errorf("only %d windows", windows)
					}
				}
				if !maps.Equal(sum, want) {
					t.Errorf("counted %v in %d windows, the kernel's own trace has %v", sum, windows, want)
				}
				if !inKernel {
					again := []string{"stat", "-o", "json", "-r", recording}
					for _, arg := range args[1 : len(args)-2] {
						if arg != "--no-time-wait" {
							again = append(again, arg)
						}
					}
					if replayed := replayAs(t, again, exitDone); replayed != text {
						t.Errorf("the recording gives\n%s\nlive it was\n%s", replayed, text)
					}
				}
				established := edge{fsm.SynSent.String(), fsm.Established.String()}
				if want[established] != connections {
					t.Errorf("the kernel's own trace has %d connections, want %d", want[established], connections)
				}
			})
		})
	}
}

// TestKernelStatInKernel: what the kernel counts is what streaming counts, of the same
// traffic.
func TestKernelStatInKernel(t *testing.T) {
	requireKernel(t)
	const connections = 500
	for name, port := range map[string]bool{"all": false, "of a port": true} {
		t.Run(name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				// Of one that is older it is not known which side it is on.
				oldClient, oldServer := ns.dial(ns.v4(9), ns.listen(ns.v4(9)))
				listener := ns.listen(ns.v4(1))
				args := []string{"stat"}
				if port {
					args = append(args, "-L", strconv.Itoa(int(listener.addr().Port())))
				}
				streamed := trace(ns, args...)
				counted := trace(ns, append(args, "--in-kernel")...)
				streamed.awaitWalk()
				counted.awaitWalk()
				to := sockaddr(listener.addr())
				ns.inParallel(func() error {
					for i := range connections {
						from := netip.AddrPortFrom(ns.v4(byte(10+i%8)), 0)
						if err := connectAndPart(listener.fd, sockaddr(from), to, i%4 == 0); err != nil {
							return fmt.Errorf("connection %d: %w", i, err)
						}
					}
					return nil
				})
				oldClient.close()
				oldServer.close()
				listener.close()
				lives := streamed.oracle.settle(ns)
				var lines [2]statLine
				var sums [2]string
				for i, tr := range []*tracing{streamed, counted} {
					for line := range strings.Lines(tr.text()) {
						switch {
						case strings.HasPrefix(line, `{"type":"stat"`):
							check(t, json.Unmarshal([]byte(line), &lines[i]))
						case strings.HasPrefix(line, `{"type":"summary"`):
							sums[i], _, _ = strings.Cut(line, `"duration_ns"`)
						}
					}
					if !port {
						ns.checkDisturbance(lives, lines[i].Transitions, lines[i].Lost[passedOver])
					}
				}
				for i := range lines { // of different runs, begun one after the other
					lines[i].Start, lines[i].End = "", ""
				}
				if !reflect.DeepEqual(lines[0], lines[1]) || sums[0] != sums[1] {
					t.Errorf("streamed\n%+v\n%s\ncounted\n%+v\n%s", lines[0], sums[0], lines[1], sums[1])
				}
				if lines[0].Transitions < connections*4 {
					t.Errorf("only %d transitions", lines[0].Transitions)
				}
			})
		})
	}
}

// connectAndPart makes a connection that its client ends: by a reset, or in good
// order, in which it is there until its peer has closed, too.
func connectAndPart(listener int, from, to unix.Sockaddr, byReset bool) error {
	if byReset {
		return connectAndClose(listener, from, to, true)
	}
	client, server, err := connectPair(listener, from, to)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Shutdown(client, unix.SHUT_WR), unix.Close(server))
	_, readErr := unix.Read(client, make([]byte, 1))
	return errors.Join(err, readErr, unix.Close(client))
}

// edges are how often there was each.
type edges map[edge]int

func (e edges) total() (n int) {
	for _, count := range e {
		n += count
	}
	return n
}

// sumWindows puts the windows together and checks that each holds what it says.
func sumWindows(t *testing.T, text string) (sum edges, windows, lost int) {
	t.Helper()
	sum = edges{}
	last := ""
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, `{"type":"stat"`) {
			continue
		}
		var w statLine
		check(t, json.Unmarshal([]byte(line), &w))
		windows++
		if last != "" && w.Start != last {
			t.Errorf("a window begins at %s, the one before ended at %s", w.Start, last)
		}
		last = w.End
		lost += w.Lost[passedOver]
		inMatrix, timed := 0, map[string]int{}
		for _, c := range w.Matrix {
			sum[edge{c.From, c.To}] += c.Count
			inMatrix += c.Count
			if c.Illegal != 0 {
				t.Errorf("%d of %s -> %s illegal", c.Illegal, c.From, c.To)
			}
			child := c.From == fsm.Listen.String() && c.To == fsm.SynRcvd.String()
			if c.From != fsm.Closed.String() && !child {
				timed[c.From] += c.Count
			}
		}
		inGroups := w.Other.Transitions
		for _, g := range w.Groups {
			inGroups += g.Transitions
		}
		if w.Groups == nil { // without --by
			inGroups = w.Transitions
		}
		if inMatrix != w.Transitions || inGroups != w.Transitions {
			t.Errorf("%d transitions in the matrix, %d in the groups, want %d", inMatrix, inGroups, w.Transitions)
		}
		for _, s := range slices.Sorted(maps.Keys(timed)) {
			if d := w.Dwell[s]; d.Count+d.Unknown+d.AtLeast != timed[s] {
				t.Errorf("%+v times in %s, want %d", d, s, timed[s])
			}
		}
	}
	return sum, windows, lost
}

// TestKernelMachineLive draws what happens while it happens.
func TestKernelMachineLive(t *testing.T) {
	requireKernel(t)
	const connections = 20
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := trace(ns, "machine", "--live", "-o", "mermaid")
		listener := ns.listen(ns.v4(1))
		ns.do(func() error {
			for range connections {
				from := netip.AddrPortFrom(ns.v4(2), 0)
				if err := connectAndPart(listener.fd, sockaddr(from), sockaddr(listener.addr()), false); err != nil {
					return err
				}
			}
			return nil
		})
		listener.close()
		lives := tr.oracle.settle(ns)
		text, seen := tr.text(), 0
		for line := range strings.Lines(text) {
			if _, count, ok := strings.Cut(line, " : "); ok {
				var n int
				_, err := fmt.Sscan(count, &n)
				check(t, err)
				seen += n
			}
		}
		ns.checkDisturbance(lives, seen, 0)
		for _, want := range []string{"SYN_SENT --> ESTABLISHED", "FIN_WAIT_2 --> TIME_WAIT", "LAST_ACK --> CLOSED"} {
			if !strings.Contains(text, fmt.Sprintf("    %s : %d ×, ", want, connections)) {
				t.Errorf("want %s %d times, each with a time before it:\n%s", want, connections, text)
			}
		}
	})
}

// TestKernelPorts counts local ports that were in use before, and that came into use
// since, as ss does.
func TestKernelPorts(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		ns.sysctl("ipv4/ip_local_port_range", "20000 20999")
		ns.sysctl("ipv4/ip_local_reserved_ports", "20010-20019,30000")
		listener := ns.listen(ns.v4(1))
		to, from := sockaddr(listener.addr()), sockaddr(netip.AddrPortFrom(ns.v4(2), 0))
		part := func(n int) {
			ns.do(func() error {
				for range n {
					if err := connectAndPart(listener.fd, from, to, false); err != nil {
						return err
					}
				}
				return nil
			})
		}
		part(40)
		before, _ := ns.dial(ns.v4(2), listener)
		tr := trace(ns, "stat", "--ports", "--interval", "1s", "--by", "comm")
		tr.awaitWalk()
		part(60)
		after, _ := ns.dial(ns.v4(2), listener)
		lapse(1500 * time.Millisecond) // of less, no growth is told

		text := tr.text()
		tr.oracle.drain(t)
		sum, _, lost := sumWindows(t, text)
		ns.checkDisturbance(tr.oracle.lives(ns.owns), sum.total(), lost)

		want := portsLine{NetNS: ns.inode, Live: 2, TimeWait: 100, Available: 990}
		want.Local.Addr, want.Remote = ns.v4(2).String(), listenerEnd(listener)
		if used := strings.Count(ns.runSS("-tanH", "dst", listener.addr().String()), "\n"); used != 102 {
			t.Errorf("ss has %d ports in use, want 102", used)
		}
		var last portsLine
		growing := false
		for line := range strings.Lines(text) {
			var w struct{ Ports []portsLine }
			check(t, json.Unmarshal([]byte(line), &w))
			if len(w.Ports) == 0 {
				continue
			}
			last = w.Ports[0]
			if g := last.Growth; g != nil && *g > 0 {
				growing = true
				full := time.Duration((990 - float64(last.Live+last.TimeWait)) / *g * float64(time.Second))
				if d := last.FullIn - full; d.Abs() > time.Millisecond {
					t.Errorf("full in %v, want %v: %+v", last.FullIn, full, last)
				}
			}
		}
		if last.Growth, last.FullIn = nil, 0; last != want {
			t.Errorf("got %+v, want %+v", last, want)
		}
		if !growing {
			t.Error("never growing")
		}
		before.close()
		after.close()
		listener.close()
	})
}

// portsLine is one of the ports of tcptrace stat.
type portsLine struct {
	NetNS         uint32
	Local, Remote struct {
		Addr string
		Port uint16
	}
	Live      int
	TimeWait  int  `json:"time_wait"`
	AtLeast   bool `json:"at_least"`
	Available int
	Growth    *float64      `json:"growth_per_second"`
	FullIn    time.Duration `json:"full_in_ns"`
}

func listenerEnd(s *socket) (end struct {
	Addr string
	Port uint16
}) {
	end.Addr, end.Port = s.addr().Addr().String(), s.addr().Port()
	return end
}
