package main

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

// envSoak is how long TestKernelSoak takes: make soak.
const envSoak = "TCPTRACE_SOAK"

// soakSample is what the agent takes at one time; memory in KiB.
type soakSample [4]int

var soakNames = [len(soakSample{})]string{"VmRSS", "RssAnon", "goroutines", "files"}

// TestKernelSoak: under churn, with listeners that come and go, sockets that get stuck,
// and scrapes, the agent takes in the second half of the time what it took in the first.
func TestKernelSoak(t *testing.T) {
	if os.Getenv(envSoak) == "" {
		t.Skip("takes minutes: make soak")
	}
	requireKernel(t)
	// Until the first TIME_WAIT ends and no more series are made, it has to grow.
	const warmUp, least = 75 * time.Second, 3 * time.Minute
	length, err := time.ParseDuration(os.Getenv(envSoak))
	check(t, err)
	if length < least {
		t.Fatalf("%s=%s shows nothing: at least %s", envSoak, length, least)
	}

	ns := newNetNS(t)
	a := ns.startAgent("--by", "comm,lport", "--max-series", "200", "--limit", "CLOSE_WAIT=1s")
	go func() { _, _ = io.Copy(io.Discard, a.stdout) }()

	const aSecond, rounds = 200, 10
	var listener *socket
	var stuck []*socket
	var samples []soakSample
	connections := 0
	tick := time.NewTicker(time.Second / rounds)
	defer tick.Stop()
	start := time.Now()
	for round := 0; time.Since(start) < length; round++ {
		<-tick.C
		if round%rounds == 0 {
			if time.Since(start) > warmUp {
				samples = append(samples, a.sample())
			}
			if listener != nil {
				listener.close()
			}
			listener = ns.listen(ns.v4(1))
			client, server := ns.dial(ns.v4(2), listener)
			client.close()
			stuck = append(stuck, server)
			if len(stuck) > 4 {
				stuck[0].close()
				stuck = stuck[1:]
			}
			connections++
		}
		to := sockaddr(listener.addr())
		ns.do(func() error {
			for i := range aSecond / rounds {
				from := netip.AddrPortFrom(ns.v4(byte(10+i%8)), 0)
				if err := connectAndClose(listener.fd, sockaddr(from), to, i%2 == 0); err != nil {
					return fmt.Errorf("connection %d: %w", connections, err)
				}
				connections++
			}
			return nil
		})
	}

	// At least 8 transitions each, one of which the kernel may pass over.
	if seen := a.scrape()["tcptrace_events_total"]; seen < 7*float64(connections) {
		t.Errorf("%v transitions seen of %d connections", seen, connections)
	}
	first, second := samples[:len(samples)/2], samples[len(samples)/2:]
	for i, name := range soakNames {
		of := func(samples []soakSample) (median, most int) {
			var values []int
			for _, s := range samples {
				values = append(values, s[i])
			}
			slices.Sort(values)
			return values[len(values)/2], values[len(values)-1]
		}
		before, most := of(first)
		after, mostAfter := of(second)
		t.Logf("%-10s first half: median %d, most %d; second half: median %d, most %d", name, before, most, after, mostAfter)
		// What grows has its median above all that was before. The runtime takes
		// memory in steps, hence 3 %: of RssAnon, 50 bytes a connection in 5 minutes.
		if after > most+most*3/100 {
			t.Errorf("%s grows: the median is %d after at most %d", name, after, most)
		}
	}
	t.Logf("%d connections, %d samples", connections, len(samples))
}

// sample reads what the agent takes.
func (a *agent) sample() (s soakSample) {
	t := a.t
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", a.cmd.Process.Pid)
	status, err := os.ReadFile(proc + "status")
	check(t, err)
	response, metrics := get(t, a.url+"/metrics")
	if response != http.StatusOK {
		t.Fatalf("status %d: %s", response, metrics)
	}
	text := string(status) + metrics
	for i, pattern := range []string{`VmRSS:\s+(\d+) kB`, `RssAnon:\s+(\d+) kB`, `(?m)^go_goroutines (\d+)$`} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no %s", soakNames[i])
		}
		s[i], err = strconv.Atoi(m[1])
		check(t, err)
	}
	files, err := os.ReadDir(proc + "fd")
	check(t, err)
	s[3] = len(files)
	return s
}
