package diagram

import (
	"fmt"
	"strconv"
	"strings"

	"tcptrace/fsm"
)

const dotHead = `digraph tcp {
	graph [label=%s, labelloc=t, fontname="Helvetica", fontsize=16, nodesep=0.5, ranksep=0.6]
	node [shape=box, style=rounded, fontname="Helvetica-Bold", fontsize=12]
	edge [fontname="Helvetica", fontsize=10]

`

func dot(u *Usage) string {
	var out strings.Builder
	fmt.Fprintf(&out, dotHead, dotQuote(u.dotTitle()))
	for _, s := range fsm.States() {
		fmt.Fprintf(&out, "\t%s\n", s)
	}
	out.WriteByte('\n')
	for _, e := range legalEdges() {
		dotEdge(&out, e.From.String(), &e, u, "")
	}
	out.WriteByte('\n')
	if u != nil {
		for _, e := range u.otherEdges() {
			dotEdge(&out, e.From.String(), &e, u, ", style=dotted, constraint=false")
		}
		out.WriteString("}\n")
		return out.String()
	}
	for i, b := range fold(fsm.Abort) {
		id := "abort" + strconv.Itoa(i+1)
		label := strings.Join(wrap("any of "+join(b.froms), 30), "\n")
		fmt.Fprintf(&out, "\t%s [label=%s, shape=plaintext, fontname=\"Helvetica\", fontsize=10, fontcolor=gray40]\n",
			id, dotQuote(label))
		dotEdge(&out, id, &b.Edge, nil, ", style=dotted, color=gray50, fontcolor=gray40")
	}
	out.WriteByte('\n')
	for _, e := range edgesOf(fsm.Linux) {
		// Without a rank of its own: it must not pull the figure out of shape.
		dotEdge(&out, e.From.String(), &e, nil, ", style=dashed, color=steelblue4, fontcolor=steelblue4, constraint=false")
	}
	out.WriteString("}\n")
	return out.String()
}

func dotEdge(out *strings.Builder, from string, e *fsm.Edge, u *Usage, attributes string) {
	lines := labelLines(e)
	if u != nil {
		lines = u.labelLines(e)
		attributes += dotColors[u.kindOf(e)]
	}
	tooltip := e.Trigger() + " (" + e.Rule + ")"
	fmt.Fprintf(out, "\t%s -> %s [label=%s, tooltip=%s%s]\n",
		from, e.To, dotQuote(" "+strings.Join(lines, " \n ")+" "), dotQuote(tooltip), attributes)
}

// dotColors are the attributes of edges of the kinds that only a usage has.
var dotColors = map[string]string{
	kindIllegal: ", color=red, fontcolor=red, penwidth=2",
	kindUnused:  ", color=gray80, fontcolor=gray80",
}

var dotEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func dotQuote(s string) string { return `"` + dotEscaper.Replace(s) + `"` }

// labelLines returns the event and, below it, the action.
func labelLines(e *fsm.Edge) []string {
	if e.Action == "" {
		return []string{e.Event}
	}
	return []string{e.Event, e.Action}
}
