package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is who may import whom: the table of the design, by package path
// below the module. The standard library is open to all.
var mayImport = map[string][]string{
	"":               {},
	"bpf":            {"github.com/cilium/ebpf/...", "golang.org/x/sys/..."},
	"fsm":            {},
	"fsm/diagram":    {"tcptrace/fsm"},
	"fsm/segment":    {"tcptrace/fsm"},
	"fsm/lifecycle":  {"tcptrace/fsm", "tcptrace/events"},
	"events":         {"tcptrace/fsm"},
	"events/capture": {"tcptrace/events", "github.com/klauspost/compress/zstd"},
	"events/pcap": {
		"tcptrace/fsm/segment", "github.com/gopacket/gopacket/...", "github.com/klauspost/compress/...",
	},
	"events/pcap/pcaptest": {"tcptrace/fsm/segment"},
	"events/infer":         {"tcptrace/fsm", "tcptrace/fsm/segment", "tcptrace/events", "tcptrace/events/pcap"},
	"events/eventstest":    {"tcptrace/fsm", "tcptrace/events", "tcptrace/events/capture"},
	"output":               {"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle"},
	"output/ladder":        {"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle", "tcptrace/output"},
	"output/stat":          {"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle", "tcptrace/output", "github.com/DataDog/sketches-go/..."},
	"output/prom": {
		"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle", "tcptrace/output",
		"github.com/prometheus/client_golang/...", "github.com/prometheus/client_model/...",
	},
	"output/otlp": {
		"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle", "tcptrace/output",
		"github.com/prometheus/client_golang/...", "github.com/prometheus/client_model/...", "go.opentelemetry.io/...",
	},
	"output/picture": {
		"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle", "tcptrace/output", "tcptrace/output/stat", "tcptrace/output/ladder",
	},
	"output/web": {
		"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle", "tcptrace/fsm/diagram", "tcptrace/output", "tcptrace/output/stat", "tcptrace/output/ladder",
		"tcptrace/output/picture",
	},
	"output/tui": {
		"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle", "tcptrace/fsm/diagram", "tcptrace/output", "tcptrace/output/stat",
		"tcptrace/output/picture",
		"charm.land/...", "github.com/charmbracelet/...",
	},
	"output/tui/tuitest":   {"tcptrace/output/tui", "tcptrace/output/picture", "charm.land/...", "github.com/charmbracelet/..."},
	"output/otlp/otlptest": {"go.opentelemetry.io/proto/...", "google.golang.org/protobuf/..."},
	"output/outputtest":    {"tcptrace/fsm", "tcptrace/events", "tcptrace/fsm/lifecycle", "tcptrace/output"},
	"cmd/bench":            {"github.com/cilium/ebpf/...", "golang.org/x/sys/..."},
	"cmd/tcptrace":         {"..."},
	"cmd/vmtest":           {"golang.org/x/sys/...", "github.com/klauspost/compress/zstd"},
}

// onlyImporters, with what is below them, are of libraries that the program itself does
// not import.
var onlyImporters = map[string]string{
	"go.opentelemetry.io/...":      "output/otlp",
	"charm.land/...":               "output/tui",
	"github.com/charmbracelet/...": "output/tui",
}

func TestLayout(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Doc", "tcptrace/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	type pkg struct {
		ImportPath, Doc string
		Imports         []string
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		place := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, "tcptrace"), "/")
		allowed, ok := mayImport[place]
		if !ok {
			t.Errorf("package %s has no place in the layout", p.ImportPath)
		}
		if p.Doc == "" {
			t.Errorf("package %s has no documentation", p.ImportPath)
		}
		for _, imported := range p.Imports {
			if !isStandard(imported) && !slices.ContainsFunc(allowed, func(a string) bool { return matches(a, imported) }) {
				t.Errorf("package %s may not import %s", p.ImportPath, imported)
			}
			for library, only := range onlyImporters {
				if !matches(only+"/...", place) && matches(library, imported) {
					t.Errorf("package %s imports %s: only %s may", p.ImportPath, imported, only)
				}
			}
		}
	}
}

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return first != "tcptrace" && !strings.Contains(first, ".")
}

func matches(pattern, path string) bool {
	prefix, open := strings.CutSuffix(pattern, "...")
	if !open {
		return path == pattern
	}
	return strings.HasPrefix(path+"/", prefix)
}
