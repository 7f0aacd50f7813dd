package main

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// agent is tcptrace agent as a process of its own.
type agent struct {
	*program
	ns  *netns
	url string
}

var serving = regexp.MustCompile(`serving metrics on (\S+)/metrics`)

// startAgent starts it for the namespace, and waits until the sockets are walked.
func (ns *netns) startAgent(args ...string) *agent {
	t := ns.t
	t.Helper()
	always := []string{"agent", "-v", "--listen", "127.0.0.1:0", "--netns", strconv.FormatUint(uint64(ns.inode), 10)}
	a := &agent{program: startProgram(t, nil, append(always, args...)...), ns: ns}
	eventually(t, "the agent is ready", func() bool {
		if a.ended() {
			t.Fatalf("the agent has ended: %s", a.stderr)
		}
		return serving.MatchString(a.stderr.String()) && strings.Contains(a.stderr.String(), "walked the sockets")
	})
	a.url = "http://" + serving.FindStringSubmatch(a.stderr.String())[1]
	return a
}

// scrape returns the metrics that are not 0, by name with labels.
func (a *agent) scrape() map[string]float64 {
	a.t.Helper()
	status, body := get(a.t, a.url+"/metrics")
	if status != http.StatusOK {
		a.t.Fatalf("status %d: %s", status, body)
	}
	metrics := make(map[string]float64)
	for line := range strings.Lines(body) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(name, "tcptrace_") || !ok {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		check(a.t, err)
		if n != 0 {
			metrics[name] = n
		}
	}
	return metrics
}

// await scrapes until a metric has the value.
func (a *agent) await(metric string, want float64) {
	a.t.Helper()
	var got map[string]float64
	for deadline := time.Now().Add(usualWait); ; time.Sleep(10 * time.Millisecond) {
		if got = a.scrape(); got[metric] == want {
			return
		}
		// The kernel does not count what it passes over on top of a process for which
		// it runs no programs; then there is a gap, or less than there should be.
		missed, gaps := got[`tcptrace_events_lost_total{reason="missed"}`], got["tcptrace_sequence_gaps_total"]
		if missed > 0 || gaps > 0 || time.Now().After(deadline) && got[metric] < want {
			a.ns.disturbed = true
			a.t.Skipf("%v transitions passed over by the kernel, %v gaps: %s is %v, want %v: %v", missed, gaps, metric, got[metric], want, got)
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("%s is %v, want %v: %v", metric, got[metric], want, got)
		}
	}
}

// only returns the metrics of the name.
func only(metrics map[string]float64, name string) map[string]float64 {
	maps.DeleteFunc(metrics, func(full string, _ float64) bool { return !strings.HasPrefix(full, name+"{") })
	return metrics
}

// TestKernelAgent holds the metrics against the traffic that is made.
func TestKernelAgent(t *testing.T) {
	requireKernel(t)
	t.Run("streamed", func(t *testing.T) { testAgent(t) })
	// How many sockets there are is known from the walks.
	t.Run("in kernel", func(t *testing.T) { testAgent(t, "--in-kernel", "--limit", "SYN_SENT=1s") })
}

func testAgent(t *testing.T, args ...string) {
	inNetNS(t, func(ns *netns) {
		t := ns.t
		before := ns.listen(ns.v4(3))
		a := ns.startAgent(args...)
		const closes, resets = 20, 5
		listener := ns.listen(ns.v4(1))
		for range closes {
			leaveInTimeWait(ns.dial(ns.v4(2), listener))
		}
		for range resets {
			client, server := ns.dial(ns.v4(2), listener)
			client.reset()
			server.close()
		}
		ns.client().tryRefused(ns)
		client, server := ns.dial(ns.v4(2), before)

		a.await("tcptrace_sequence_gaps_total", 0)
		a.await(`tcptrace_sockets{state="ESTABLISHED"}`, 2)
		for _, want := range []map[string]float64{
			{
				`tcptrace_connections_closed_total{cause="finished",role="active"}`:        closes,
				`tcptrace_connections_closed_total{cause="finished",role="passive"}`:       closes,
				`tcptrace_connections_closed_total{cause="reset_sent",role="active"}`:      resets,
				`tcptrace_connections_closed_total{cause="reset_received",role="passive"}`: resets,
				`tcptrace_connections_closed_total{cause="refused",role="active"}`:         1,
			},
			{
				`tcptrace_sockets{state="LISTEN"}`:      2,
				`tcptrace_sockets{state="TIME_WAIT"}`:   closes,
				`tcptrace_sockets{state="ESTABLISHED"}`: 2,
			},
			{
				`tcptrace_state_transitions_total{from="CLOSED",to="LISTEN"}`:          1,
				`tcptrace_state_transitions_total{from="CLOSED",to="SYN_SENT"}`:        closes + resets + 2,
				`tcptrace_state_transitions_total{from="SYN_SENT",to="ESTABLISHED"}`:   closes + resets + 1,
				`tcptrace_state_transitions_total{from="SYN_SENT",to="CLOSED"}`:        1,
				`tcptrace_state_transitions_total{from="LISTEN",to="SYN_RCVD"}`:        closes + resets + 1,
				`tcptrace_state_transitions_total{from="SYN_RCVD",to="ESTABLISHED"}`:   closes + resets + 1,
				`tcptrace_state_transitions_total{from="ESTABLISHED",to="CLOSED"}`:     2 * resets,
				`tcptrace_state_transitions_total{from="ESTABLISHED",to="FIN_WAIT_1"}`: closes,
				`tcptrace_state_transitions_total{from="FIN_WAIT_1",to="FIN_WAIT_2"}`:  closes,
				`tcptrace_state_transitions_total{from="FIN_WAIT_2",to="TIME_WAIT"}`:   closes,
				`tcptrace_state_transitions_total{from="ESTABLISHED",to="CLOSE_WAIT"}`: closes,
				`tcptrace_state_transitions_total{from="CLOSE_WAIT",to="LAST_ACK"}`:    closes,
				`tcptrace_state_transitions_total{from="LAST_ACK",to="CLOSED"}`:        closes,
			},
		} {
			name, _, _ := strings.Cut(slices.Collect(maps.Keys(want))[0], "{")
			if got := only(a.scrape(), name); !maps.Equal(got, want) {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		sum := 0.0
		metrics := a.scrape()
		for name, n := range metrics {
			if strings.HasPrefix(name, "tcptrace_state_transitions_total{") {
				sum += n
			}
		}
		if got := metrics["tcptrace_events_total"]; got != sum {
			t.Errorf("%v events, want the %v transitions", got, sum)
		}
		if n := metrics[`tcptrace_state_dwell_seconds_count{state="FIN_WAIT_2"}`]; n != closes {
			t.Errorf("FIN_WAIT_2 was timed %v times, want %d", n, closes)
		}

		// TIME_WAIT is skipped, which is not allowed.
		ns.sysctl("ipv4/tcp_max_tw_buckets", "0")
		client.close()
		server.read("")
		server.close()
		a.await(`tcptrace_illegal_transitions_total{from="FIN_WAIT_2",to="CLOSED"}`, 1)
		a.await(`tcptrace_time_wait_ends_total{end="skipped"}`, 1)

		lines := a.lines()
		a.signal(syscall.SIGTERM)
		if status := a.status(); status != exitDone {
			t.Errorf("status %d: %s", status, a.stderr)
		}
		out := lines.rest(t)
		if strings.Count(out, `"verdict":"illegal"`) != 1 || strings.Contains(out, `"verdict":"legal"`) {
			t.Errorf("want the one illegal transition on standard output:\n%s", out)
		}
	})
}

// tryRefused connects to where nobody listens.
func (s *socket) tryRefused(ns *netns) {
	s.t.Helper()
	nobody := ns.socket(ns.v4(1))
	nobody.bind(ns.v4(1), 0)
	if err := s.tryConnect(nobody.addr()); err != syscall.ECONNREFUSED {
		s.t.Fatalf("connect: %v", err)
	}
	s.close()
	nobody.close()
}

// TestKernelAgentCounts: sockets are followed rightly over many walks, whatever they
// become; and those of which the end was lost go.
func TestKernelAgentCounts(t *testing.T) {
	requireKernel(t)
	t.Run("streamed", func(t *testing.T) { testAgentCounts(t) })
	t.Run("in kernel", func(t *testing.T) { testAgentCounts(t, "--in-kernel") })
}

func testAgentCounts(t *testing.T, args ...string) {
	inNetNS(t, func(ns *netns) {
		const each = 3
		listener := ns.listen(ns.v4(1))
		var stay []*socket
		for range each {
			leaveInTimeWait(ns.dial(ns.v4(2), listener))
			client, server := ns.dial(ns.v4(2), listener)
			stay = append(stay, client, server)
		}
		a := ns.startAgent(append(args, "--limit", "SYN_SENT=1s")...) // walks each second
		for range each {
			leaveInTimeWait(ns.dial(ns.v4(2), listener))
			client, server := ns.dial(ns.v4(2), listener)
			leaveInFinWait2(client)
			stay = append(stay, server)
		}
		want := map[string]float64{
			`tcptrace_sockets{state="LISTEN"}`:      1,
			`tcptrace_sockets{state="TIME_WAIT"}`:   2 * each,
			`tcptrace_sockets{state="ESTABLISHED"}`: 2 * each,
			`tcptrace_sockets{state="FIN_WAIT_2"}`:  each,
			`tcptrace_sockets{state="CLOSE_WAIT"}`:  each,
		}
		walks := func() int { return strings.Count(a.stderr.String(), "walked the sockets") }
		done := walks() + 3
		eventually(ns.t, "there were more walks", func() bool { return walks() >= done })
		if got := only(a.scrape(), "tcptrace_sockets"); !maps.Equal(got, want) {
			ns.t.Errorf("%v, want %v", got, want)
		}
		for _, s := range stay {
			s.close()
		}
		a.await(`tcptrace_sockets{state="CLOSE_WAIT"}`, 0)
		a.await(`tcptrace_sockets{state="ESTABLISHED"}`, 0)
	})
}

// TestKernelAgentPorts: of 20 ports half are in use to one destination, as ss has it:
// before the agent began, since, and in TIME_WAIT.
func TestKernelAgentPorts(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		listener, another := ns.listen(ns.v4(1)), ns.listen(ns.v4(1))
		ns.sysctl("ipv4/ip_local_port_range", "20000 20021")
		ns.sysctl("ipv4/ip_local_reserved_ports", "20003,20006")
		inUse := func() float64 {
			return float64(strings.Count(ns.runSS("-tanH", "dst", listener.addr().String()), "\n"))
		}
		ns.dial(ns.v4(2), listener)
		leaveInTimeWait(ns.dial(ns.v4(2), listener))
		a := ns.startAgent("--limit", "SYN_SENT=1s") // walks each second
		metric := fmt.Sprintf(`tcptrace_local_ports_used_ratio{netns="%d"}`, ns.inode)
		a.await(metric, inUse()/20)
		for range 3 {
			ns.dial(ns.v4(2), another)
			ns.dial(ns.v4(3), listener)
		}
		for range 4 {
			ns.dial(ns.v4(2), listener)
			leaveInTimeWait(ns.dial(ns.v4(2), listener))
		}
		// ss lists those of the other address, too.
		if n := inUse(); n != 10+3 {
			ns.t.Fatalf("ss has %v ports in use, want 13", n)
		}
		a.await(metric, 0.5)
		if got := only(a.scrape(), "tcptrace_local_ports_used_ratio"); len(got) != 1 {
			ns.t.Errorf("%v, want the one", got)
		}
	})
}

// TestKernelAgentStuck: what is stuck is a gauge, and a finding.
func TestKernelAgentStuck(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		listener := ns.listen(ns.v4(1))
		a := ns.startAgent("--limit", "CLOSE_WAIT=1s", "--by", "lport")
		lines := a.lines()
		client, server := ns.dial(ns.v4(2), listener)
		client.close()
		stuck := fmt.Sprintf(`tcptrace_stuck_sockets{lport="%d",state="CLOSE_WAIT"}`, listener.addr().Port())
		a.await(stuck, 1)
		server.read("")
		server.close()
		a.await(stuck, 0)
		eventually(ns.t, "both are told", func() bool {
			return lines.contains(`"type":"stuck"`) && lines.contains(`"type":"resolved"`)
		})
	})
}

// systemd is the socket on which it listens for what its services say.
type systemd struct {
	mu    sync.Mutex
	heard []string
}

func listenAsSystemd(t *testing.T) *systemd {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	t.Setenv("NOTIFY_SOCKET", name)
	s := &systemd{}
	go func() {
		for b := make([]byte, 1<<10); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.heard = append(s.heard, string(b[:n]))
			s.mu.Unlock()
		}
	}()
	return s
}

func (s *systemd) count(what string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, heard := range s.heard {
		if heard == what {
			n++
		}
	}
	return n
}

// TestKernelAgentUnderSystemd: it is ready when the sockets are known, alive while it
// reads, and says that it stops.
func TestKernelAgentUnderSystemd(t *testing.T) {
	requireKernel(t)
	systemd := listenAsSystemd(t)
	t.Setenv("WATCHDOG_USEC", "100000")
	a := newNetNS(t).startAgent()
	eventually(t, "it is ready", func() bool { return systemd.count("READY=1") == 1 })
	eventually(t, "it is alive", func() bool { return systemd.count("WATCHDOG=1") >= 3 })
	a.signal(syscall.SIGTERM)
	if status := a.status(); status != exitDone {
		t.Errorf("status %d: %s", status, a.stderr)
	}
	eventually(t, "it stops", func() bool { return systemd.count("STOPPING=1") == 1 })
}

// TestKernelAgentNotRead: who does not take the findings keeps nothing else from going
// on, and is told.
func TestKernelAgentNotRead(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		a := ns.startAgent("--max-findings", "1000000")
		ns.sysctl("ipv4/tcp_max_tw_buckets", "0")
		listener := ns.listen(ns.v4(1))
		made := 0
		eventually(ns.t, "it is told", func() bool {
			leaveInTimeWait(ns.dial(ns.v4(2), listener))
			made++
			return strings.Contains(a.stderr.String(), "standard output: is not read")
		})
		eventually(ns.t, "all is counted", func() bool {
			return a.scrape()[`tcptrace_time_wait_ends_total{end="skipped"}`] >= 0.9*float64(made) // but for what the kernel passes over
		})
		if status, body := get(ns.t, a.url+"/healthz"); status != http.StatusOK {
			ns.t.Errorf("not healthy: %d %s", status, body)
		}
		a.lines()
	})
}

// TestKernelConfined: what only shows is confined as well.
func TestKernelConfined(t *testing.T) {
	requireKernel(t)
	if !allThreads() {
		t.Skip("built with cgo, in which capabilities stay")
	}
	have := capabilities(t, "/proc/thread-self/status")
	for _, view := range []string{"trace", "life", "stat"} {
		p := newNetNS(t).startTracer(view)
		status := fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)
		want := map[string]uint64{"CapInh": 0, "CapPrm": have["CapPrm"] & kept, "CapEff": have["CapPrm"] & kept, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}
		eventually(t, view+" is confined", func() bool { return maps.Equal(capabilities(t, status), want) })
	}
}

// TestKernelAgentCapabilities: once it is attached it has no more than it needs, in all
// threads, and still finds what is stuck in namespaces that come later.
func TestKernelAgentCapabilities(t *testing.T) {
	requireKernel(t)
	if !allThreads() {
		t.Skip("built with cgo, in which capabilities stay")
	}
	inNetNS(t, func(ns *netns) {
		t := ns.t
		have := capabilities(t, "/proc/thread-self/status")
		p := startProgram(t, nil, "agent", "-v", "--listen", "127.0.0.1:0", "--limit", "CLOSE_WAIT=1s")
		lines := p.lines()
		eventually(t, "the sockets have been walked", func() bool { return strings.Contains(p.stderr.String(), "walked the sockets") })
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
		check(t, err)
		if len(threads) < 2 {
			t.Errorf("%d threads", len(threads))
		}
		for _, thread := range threads {
			want := map[string]uint64{"CapInh": 0, "CapPrm": have["CapPrm"] & kept, "CapEff": have["CapPrm"] & kept, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}
			if got := capabilities(t, thread); !maps.Equal(got, want) {
				t.Errorf("%s: %x, want %x", thread, got, want)
			}
		}

		later := newNetNS(t)
		client, _ := later.dial(later.v4(2), later.listen(later.v4(1)))
		client.close()
		eventually(t, "it is found", func() bool {
			return lines.contains(`"type":"stuck"`) && lines.contains(fmt.Sprintf(`"netns":%d`, later.inode)) && lines.contains(`"exe":"/`)
		})
	})
}

// capabilities reads those of a thread, but for the bounding set.
func capabilities(t *testing.T, status string) map[string]uint64 {
	t.Helper()
	text, err := os.ReadFile(status)
	check(t, err)
	sets := make(map[string]uint64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if strings.HasPrefix(name, "Cap") && name != "CapBnd" || name == "NoNewPrivs" || name == "Seccomp" {
			sets[name], err = strconv.ParseUint(value, 16, 64)
			check(t, err)
		}
	}
	return sets
}
