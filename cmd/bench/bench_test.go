package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	var tab table
	tab.add("kernel time", "tcptrace", "ns/transition", 400, 500, 390)
	tab.add("kernel time", "to tcpstates", "", 0.04, 0.031).atMost(0.05)
	tab.add("churn", "kept", "", 0.9).atLeast(0.95).note("of %d", 7)
	if got := tab.missed(); got != 1 {
		t.Errorf("%d budgets missed, want 1", got)
	}

	var text, json bytes.Buffer
	if err := tab.text(&text); err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(text.String(), "\n\n")
	want := `MEASURE      WHAT          VALUE              ROUNDS         BUDGET           NOTE
kernel time  tcptrace      400 ns/transition  390 … 500
kernel time  to tcpstates  0.036              0.031 … 0.040  ≤ 0.050  met
churn        kept          0.900                             ≥ 0.950  MISSED  of 7
`
	if rows != want {
		t.Errorf("the table is\n%s\nwant\n%s", rows, want)
	}
	if err := tab.json(&json); err != nil {
		t.Fatal(err)
	}
	if want := `{"measure":"churn","what":"kept","value":0.9,"unit":"","budget":"≥ 0.950","met":false,"note":"of 7"}`; !strings.HasSuffix(json.String(), want+"\n") {
		t.Errorf("as JSON it ends\n%s\nwant\n%s", json.String(), want)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{1, 2}, 1.5}, {[]float64{1, 2, 9}, 2}} {
		if got := median(c.values); got != c.want {
			t.Errorf("the median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}

func TestParseBenchmarks(t *testing.T) {
	out := "goos: linux\nBenchmarkDecode-2   \t36939976\t        32.06 ns/op\t4991.29 MB/s\t       0 B/op\t       1 allocs/op\n" +
		"BenchmarkOrder/waiting-1-2         \t84362347\t        14.90 ns/op\t       0 B/op\t       0 allocs/op\nPASS\n"
	got, err := parseBenchmarks([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	want := []benchmark{{"Decode", 32.06, 1}, {"Order/waiting-1", 14.9, 0}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("read %v, want %v", got, want)
	}
	if _, err := parseBenchmarks([]byte("PASS\n")); err == nil {
		t.Error("no benchmark is no error")
	}
}

func TestParseWrk(t *testing.T) {
	out := "Running 1s test\n  1 threads and 32 connections\n  14210 requests in 1.10s, 2.10MB read\nRequests/sec:  12917.11\n"
	if n, err := parseWrk([]byte(out)); n != 14210 || err != nil {
		t.Errorf("read %d, %v, want 14210", n, err)
	}
	if _, err := parseWrk([]byte("unable to connect\n")); err == nil {
		t.Error("no number is no error")
	}
}

func TestReadSummary(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		text string
		want summary
		ok   bool
	}{
		{`{"type":"transition"}` + "\n" + `{"type":"summary","transitions":9,"lost":2}` + "\n", summary{Type: "summary", Transitions: 9, Lost: 2}, true},
		{`{"type":"transition","transitions":9}` + "\n", summary{}, false},
		{"", summary{}, false},
	} {
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readSummary(name)
		if c.ok != (err == nil) || c.ok && got != c.want {
			t.Errorf("%q gives %+v, %v", c.text, got, err)
		}
	}
}

// The loads, in the namespace that the test runs in, and little of each.
func TestLoads(t *testing.T) {
	if d, err := churn(time.Hour, 3); err != nil || d.Connections%3 != 0 || d.Connections == 0 {
		t.Errorf("3 connections on each CPU: %+v, %v", d, err)
	}
	if d, err := bulk(time.Millisecond); err != nil || d.Bytes == 0 {
		t.Errorf("a transfer: %+v, %v", d, err)
	}
	if port, err := connectOnce(); err != nil || port == 0 {
		t.Errorf("a connection from port %d: %v", port, err)
	}
}

func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{{"-only", "speed"}, {"-rounds", "0"}, {"-length", "1ms"}, {"more"}, {"-such"}} {
		var stderr bytes.Buffer
		if status := run(args, &stderr, &stderr); status != exitUsage || stderr.Len() == 0 {
			t.Errorf("bench %v ends with %d: %s", args, status, &stderr)
		}
	}
}
