package diagram_test

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"tcptrace/fsm"
	"tcptrace/fsm/diagram"
)

func draw(t *testing.T, f diagram.Format) string {
	t.Helper()
	var out bytes.Buffer
	if err := diagram.Write(&out, f); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func legalEdges() []fsm.Edge {
	var edges []fsm.Edge
	for _, e := range fsm.Machine() {
		if e.Class == fsm.Legal {
			edges = append(edges, e)
		}
	}
	return edges
}

func TestEveryFormatShowsTheWholeMachine(t *testing.T) {
	for _, f := range diagram.Formats() {
		t.Run(string(f), func(t *testing.T) {
			out := draw(t, f)
			if out != draw(t, f) {
				t.Error("drawn twice, it differs")
			}
			for _, s := range fsm.States() {
				if !strings.Contains(out, s.String()) {
					t.Errorf("state %s is missing", s)
				}
			}
			for _, e := range fsm.Machine() {
				if !strings.Contains(out, e.Trigger()) {
					t.Errorf("%s -> %s: trigger %q is missing", e.From, e.To, e.Trigger())
				}
			}
		})
	}
}

func TestUnknownFormat(t *testing.T) {
	err := diagram.Write(&bytes.Buffer{}, "png")
	const want = `unknown format "png": want one of text, dot, svg, mermaid`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTextSuitsATerminal(t *testing.T) {
	out := draw(t, diagram.Text)
	for _, line := range strings.Split(out, "\n") {
		if len(line) > 100 || regexp.MustCompile(`[^ -~]`).MatchString(line) || strings.HasSuffix(line, " ") {
			t.Errorf("wider than 100, not plain ASCII or blank at the end: %q", line)
		}
	}
	for _, e := range legalEdges() {
		row := regexp.MustCompile(`(?m)^` + e.From.String() + ` +-> ` + e.To.String() + ` +` +
			regexp.QuoteMeta(e.Trigger()) + ` +` + regexp.QuoteMeta(e.Rule) + `$`)
		if !row.MatchString(out) {
			t.Errorf("no row matches %s", row)
		}
	}
}

func TestGraphvizTakesDOT(t *testing.T) {
	if _, err := exec.LookPath("dot"); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("dot", "-Tsvg")
	cmd.Stdin = strings.NewReader(draw(t, diagram.DOT))
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil || strings.Contains(complaints.String(), "syntax") {
		t.Errorf("%v: %s", err, &complaints)
	}
}

func TestMermaidLabelsAreEscaped(t *testing.T) {
	entity := regexp.MustCompile(`#\w+;`)
	lines := strings.Split(strings.TrimSpace(draw(t, diagram.Mermaid)), "\n")
	for _, line := range lines[1:] {
		_, label, ok := strings.Cut(line, " : ")
		if !ok || strings.ContainsAny(entity.ReplaceAllString(label, ""), ":;#<>") {
			t.Errorf("no label that Mermaid parses: %q", line)
		}
	}
}
