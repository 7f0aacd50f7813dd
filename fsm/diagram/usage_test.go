package diagram_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tcptrace/fsm"
	"tcptrace/fsm/diagram"
)

func drawUsed(t *testing.T, f diagram.Format, u *diagram.Usage) string {
	t.Helper()
	var out bytes.Buffer
	if err := diagram.WriteUsed(&out, f, u); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// some is a usage of each kind of edge.
func some() *diagram.Usage {
	return &diagram.Usage{Title: "17 transitions", Uses: []diagram.Use{
		{From: fsm.Established, To: fsm.LastAck, Count: 3, Illegal: 3, Median: "12.0ms"}, // no edge
		{From: fsm.FinWait2, To: fsm.Closed, Count: 71, Illegal: 2},
		{From: 13, To: fsm.Closed, Count: 5, Illegal: 5},
		{From: fsm.Closed, To: fsm.SynSent, Count: 17},
		{From: fsm.LastAck, To: fsm.Closed, Count: 19, Illegal: 1, Median: "1.50ms"},
		{From: fsm.Established, To: fsm.Closed, Count: 23, Median: "2.50s"},
	}}
}

func TestUsage(t *testing.T) {
	const red, plain = "\x1b[1;31m", "\x1b[0m"
	for f, want := range map[diagram.Format][]string{
		diagram.Text: {
			"17 transitions\n",
			"\nCLOSED      -> SYN_SENT     active OPEN                                    17        -\n",
			"\nCLOSED      -> LISTEN       passive OPEN                                    0        -\n",
			"\n" + red + "LAST_ACK    -> CLOSED       rcv ACK of FIN; RST, ABORT or timeout          19   1.50ms ! 1 illegal" + plain + "\n",
			"\n" + red + "ESTABLISHED -> LAST_ACK     none                                            3   12.0ms ! 3 illegal" + plain + "\n",
			"\nESTABLISHED -> CLOSED       RST, ABORT or timeout                          23    2.50s\n",
			"\n" + red + "STATE_13    -> CLOSED       none                                            5        - ! 5 illegal" + plain + "\n",
		},
		diagram.DOT: {
			"\tCLOSED -> SYN_SENT [label=\" 17 × \", tooltip=\"active OPEN / snd SYN (RFC 9293 3.10.1 OPEN)\"]\n",
			"\tESTABLISHED -> LAST_ACK [label=\" 3 × ILLEGAL \\n 12.0ms \", tooltip=\"none (RFC 9293 3.3.2 state machine)\", style=dotted, constraint=false, color=red",
			"\tLAST_ACK -> CLOSED [label=\" 19 ×, 1 ILLEGAL \\n 1.50ms \", tooltip=\"rcv ACK of FIN / delete TCB (RFC 9293 3.10.7.4 ACK of FIN)\", color=red",
			"\tCLOSED -> LISTEN [label=\"  \", tooltip=\"passive OPEN / create TCB (RFC 9293 3.10.1 OPEN)\", color=gray80",
			"\tSTATE_13 -> CLOSED ",
		},
		diagram.Mermaid: {
			"\n    CLOSED --> SYN_SENT : 17 ×\n", "\n    CLOSED --> LISTEN\n",
			"\n    ESTABLISHED --> LAST_ACK : 3 × ILLEGAL, 12.0ms\n", "\n    ESTABLISHED --> CLOSED : 23 ×, 2.50s\n",
			"\n    STATE_13 --> CLOSED : 5 × ILLEGAL\n",
		},
	} {
		u := some()
		u.Color = true
		out := drawUsed(t, f, u)
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q is missing:\n%s", f, w, out)
			}
		}
		slices.Reverse(u.Uses)
		if drawUsed(t, f, u) != out {
			t.Errorf("%s depends on the order of the uses", f)
		}
		u.Color = false
		if strings.Contains(drawUsed(t, f, u), "\x1b") {
			t.Errorf("%s has colours that it is not to have", f)
		}
	}
}

func TestUsageAsPicture(t *testing.T) {
	root, groups := parseSVG(t, drawUsed(t, diagram.SVG, some()))
	for id, want := range map[string]string{
		"edge-CLOSED-SYN_SENT":      "edge call: 17 ×",
		"edge-CLOSED-LISTEN":        "edge unused:",
		"edge-LAST_ACK-CLOSED":      "edge illegal: 19 ×, 1 ILLEGAL / 1.50ms",
		"edge-ESTABLISHED-LAST_ACK": "edge illegal: 3 × ILLEGAL / 12.0ms",
		"edge-FIN_WAIT_2-CLOSED":    "edge illegal: 71 ×, 2 ILLEGAL",
	} {
		g := groups[id]
		if g == nil {
			t.Errorf("no group %s", id)
			continue
		}
		var lines []string
		for _, span := range g.all("tspan") {
			lines = append(lines, span.Text)
		}
		if got := strings.TrimSpace(g.attr("class") + ": " + strings.Join(lines, " / ")); got != want {
			t.Errorf("%s is %q, want %q", id, got, want)
		}
	}
	text := root.words()
	for _, want := range []string{"17 transitions", "STATE_13 → CLOSED: 5 × ILLEGAL", "ESTABLISHED → CLOSED: 23 ×, 2.50s"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
}

// Where every edge was used often, nothing hides anything.
func TestUsageIsReadable(t *testing.T) {
	u := &diagram.Usage{Title: "1234567 transitions in 100h0m0s, from 2026-11-24 20:00:00"}
	for _, e := range legalEdges() {
		u.Uses = append(u.Uses, diagram.Use{From: e.From, To: e.To, Count: 12345, Median: "12.3ms"})
	}
	for _, from := range []fsm.State{fsm.FinWait2, fsm.Closing} { // where TIME_WAIT was skipped
		with := *u
		with.Uses = append(slices.Clone(u.Uses), diagram.Use{From: from, To: fsm.Closed, Count: 123, Illegal: 1, Median: "12.3ms"})
		t.Run(fmt.Sprint(from), func(t *testing.T) {
			root, groups := parseSVG(t, drawUsed(t, diagram.SVG, &with))
			checkReadable(t, root, groups)
		})
	}
}

func TestGraphvizTakesUsage(t *testing.T) {
	if _, err := exec.LookPath("dot"); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("dot", "-Tsvg")
	cmd.Stdin = strings.NewReader(drawUsed(t, diagram.DOT, some()))
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "syntax") {
		t.Errorf("%v: %s", err, out)
	}
}
