package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// prometheusServer is the real one.
type prometheusServer struct {
	t   *testing.T
	url string
}

// startPrometheus lets it scrape the agent each second, and watch the alerts of deploy/.
func startPrometheus(t *testing.T, a *agent) *prometheusServer {
	t.Helper()
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		unavailable(t, "make deps fetches prometheus for this: %v", err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := free.Addr().String()
	check(t, free.Close())
	rules, err := filepath.Abs(deploy + "alerts.yml")
	check(t, err)
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	check(t, os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: tcptrace
    static_configs: [{targets: [%q]}]
`, rules, strings.TrimPrefix(a.url, "http://")), 0o600))
	cmd := exec.Command(binary, "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", address, "--enable-feature=native-histograms", "--log.level=error")
	cmd.Stderr = os.Stderr
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	return &prometheusServer{t, "http://" + address}
}

// ask returns the only value of a query, "" if there is none yet.
func (p *prometheusServer) ask(query string) string {
	p.t.Helper()
	connection, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil { // it is not up yet
		return ""
	}
	check(p.t, connection.Close())
	_, body := get(p.t, p.url+"/api/v1/query?query="+url.QueryEscape(query))
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if json.Unmarshal([]byte(body), &answer) != nil || len(answer.Data.Result) != 1 {
		return ""
	}
	return fmt.Sprint(answer.Data.Result[0].Value[1])
}

// await asks until the answer comes.
func (p *prometheusServer) await(query, want string) {
	p.t.Helper()
	var got string
	for deadline := time.Now().Add(usualWait); ; time.Sleep(200 * time.Millisecond) {
		if got = p.ask(query); got == want {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s is %q, want %q", query, got, want)
		}
	}
}

// TestKernelAgentPrometheus: what the real Prometheus answers agrees with the traffic
// that was made, and its alerts fire.
func TestKernelAgentPrometheus(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		a := ns.startAgent()
		p := startPrometheus(ns.t, a)
		p.await(`up{job="tcptrace"}`, "1")
		p.await(`count(tcptrace_sockets)`, "10")
		p.await(`count(ALERTS) or vector(0)`, "0")

		const closes, skipped = 7, 3
		listener := ns.listen(ns.v4(1))
		for i := range closes + skipped {
			if i == closes {
				ns.sysctl("ipv4/tcp_max_tw_buckets", "0")
			}
			leaveInTimeWait(ns.dial(ns.v4(2), listener))
		}
		a.await(`tcptrace_connections_closed_total{cause="finished",role="active"}`, closes+skipped)
		for query, want := range map[string]string{
			`tcptrace_sockets{state="TIME_WAIT"}`:                                                                  strconv.Itoa(closes),
			`sum(tcptrace_illegal_transitions_total)`:                                                              strconv.Itoa(skipped),
			`sum(tcptrace_connections_closed_total)`:                                                               strconv.Itoa(2 * (closes + skipped)),
			`sum(tcptrace_state_transitions_total) - sum(tcptrace_events_total)`:                                   "0",
			`histogram_count(tcptrace_state_dwell_seconds{state="LAST_ACK"})`:                                      strconv.Itoa(closes + skipped),
			`count(ALERTS{alertname="TCPTimeWaitSkipped",alertstate="firing"})`:                                    "1",
			`count(ALERTS{alertname="TCPTransitionIllegal"}) or vector(0)`:                                         "0",
			`tcptrace_state_transitions_total{from="FIN_WAIT_2",to="TIME_WAIT"} and on () (tcptrace_events_total)`: strconv.Itoa(closes),
		} {
			p.await(query, want)
		}
		for _, query := range dashboardQueries(ns.t) {
			if _, body := get(ns.t, p.url+"/api/v1/query?query="+url.QueryEscape(query)); !strings.HasPrefix(body, `{"status":"success"`) {
				ns.t.Errorf("%s: %s", query, body)
			}
		}
	})
}

// dashboardQueries returns what the dashboard asks for.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	check(t, json.Unmarshal([]byte(readDeployed(t, "grafana.json")), &dashboard))
	variables := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, variables.Replace(target.Expr))
		}
	}
	if len(queries) < 10 {
		t.Fatalf("the dashboard asks for %q only", queries)
	}
	return queries
}
