package diagram

import (
	"fmt"
	"strings"

	"tcptrace/fsm"
)

func mermaid(u *Usage) string {
	var out strings.Builder
	out.WriteString("stateDiagram-v2\n")
	for _, e := range append(legalEdges(), u.otherEdges()...) {
		label := e.Trigger()
		if u != nil {
			label = strings.Join(u.labelLines(&e), ", ")
		}
		fmt.Fprintf(&out, "    %s --> %s", e.From, e.To)
		if label != "" {
			out.WriteString(" : " + mermaidEscaper.Replace(label))
		}
		out.WriteByte('\n')
	}
	if u != nil {
		return out.String()
	}
	// What is no edge of the figure is a note, as Mermaid has only one kind of
	// arrow.
	mermaidNotes(&out, "Abort", fold(fsm.Abort))
	mermaidNotes(&out, "Linux", fold(fsm.Linux))
	return out.String()
}

func mermaidNotes(out *strings.Builder, topic string, bundles []bundle) {
	for _, b := range bundles {
		// On one line, as Mermaid wraps notes itself, to its own width.
		fmt.Fprintf(out, "    note right of %s : %s\n", b.To, mermaidEscaper.Replace(topic+", from "+b.remark("to")))
	}
}

// mermaidEscaper writes what ends a label, or begins an entity or a tag, as
// Mermaid's entities.
var mermaidEscaper = strings.NewReplacer("#", "#35;", ":", "#58;", ";", "#59;", "<", "#lt;", ">", "#gt;")
