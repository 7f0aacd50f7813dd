package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"tcptrace/output/prom"
)

const deploy = "../../deploy/"

func readDeployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(deploy + name)
	check(t, err)
	return string(text)
}

// What alerts and dashboard ask for is there.
func TestDeployedMetricsExist(t *testing.T) {
	known := make(map[string]bool)
	descs := make(chan *prometheus.Desc, 100)
	prom.New(&prom.Options{}).Describe(descs)
	close(descs)
	for d := range descs {
		name := regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1]
		known[name], known[name+"_bucket"] = true, true
	}
	metric := regexp.MustCompile(`\btcptrace_\w+`)
	for _, name := range []string{"alerts.yml", "alerts_test.yml", "grafana.json"} {
		used := metric.FindAllString(readDeployed(t, name), -1)
		if len(used) < 5 {
			t.Errorf("%s asks for %v only", name, used)
		}
		for _, m := range used {
			if !known[m] {
				t.Errorf("%s asks for %s, which there is not", name, m)
			}
		}
	}
}

func TestDeployedFilesAreWellFormed(t *testing.T) {
	for _, name := range []string{"alerts.yml", "alerts_test.yml", "daemonset.yml", "nfpm.yml"} {
		var any map[string]any
		if err := yaml.Unmarshal([]byte(readDeployed(t, name)), &any); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !json.Valid([]byte(readDeployed(t, "grafana.json"))) {
		t.Error("grafana.json is no JSON")
	}
}

// The capabilities that the agent keeps are among those that it is given, and all are
// the same everywhere.
func TestDeployedCapabilities(t *testing.T) {
	unit := readDeployed(t, "tcptrace.service")
	line := func(name string) string {
		return regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(unit)[1]
	}
	given := line("AmbientCapabilities")
	if bounding := line("CapabilityBoundingSet"); bounding != given {
		t.Errorf("bound to %s, given %s", bounding, given)
	}
	pod := strings.ReplaceAll("CAP_"+regexp.MustCompile(`add: \[(.*)\]`).FindStringSubmatch(readDeployed(t, "daemonset.yml"))[1], ", ", " CAP_")
	if pod != given {
		t.Errorf("the DaemonSet is given %s, the unit %s", pod, given)
	}
	numbers := map[string]int{
		"CAP_BPF": unix.CAP_BPF, "CAP_PERFMON": unix.CAP_PERFMON, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN,
		"CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE, "CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "CAP_SYSLOG": unix.CAP_SYSLOG,
	}
	var all uint64
	for _, name := range strings.Fields(given) {
		all |= 1 << numbers[name]
	}
	if kept&^all != 0 {
		t.Errorf("keeps %#x, but is given %#x", kept, all)
	}
}

// TestDeployedAlerts runs the tests of the rules by the tool of Prometheus.
func TestDeployedAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		unavailable(t, "make deps fetches prometheus for this: %v", err)
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = filepath.Clean(deploy)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestLicenses: all that is linked may be given away under the license of this program.
func TestLicenses(t *testing.T) {
	known := regexp.MustCompile(`(?i)Apache License\s+Version 2\.0|` +
		`Permission is hereby granted, free of charge, to any person|Redistribution and use in source and binary forms`)
	foreign := regexp.MustCompile(`(?i)GNU (Affero|Lesser|Library)? ?General Public License|Mozilla Public License|Server Side Public License|Commons Clause`)
	modules := make(map[string]bool)
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Dir}}{{end}}{{end}}", "tcptrace/cmd/tcptrace")
		cmd.Env = append(os.Environ(), "GOARCH="+arch)
		out, err := cmd.Output()
		check(t, err)
		for _, dir := range strings.Fields(string(out)) {
			modules[dir] = true
		}
	}
	if len(modules) < 10 {
		t.Errorf("%d modules", len(modules))
	}
	for dir := range modules {
		files, err := filepath.Glob(filepath.Join(dir, "LICENSE*"))
		check(t, err)
		var text []byte
		for _, file := range files {
			part, err := os.ReadFile(file)
			check(t, err)
			text = append(text, part...)
		}
		if !known.Match(text) || foreign.Match(text) {
			t.Errorf("%s: to be looked at: %v", filepath.Base(dir), files)
		}
	}
}
