package diagram

import (
	"fmt"
	"strings"

	"tcptrace/fsm"
)

// textWidth is about that of the table.
const textWidth = 90

func text(u *Usage) string {
	if u != nil {
		return u.text()
	}
	var out strings.Builder
	out.WriteString("The reference machine (RFC 9293 3.3.2)\n\n")
	textTable(&out, legalEdges())

	out.WriteString("\nAborts end a connection at once; the cause decides the rule\n")
	for _, b := range fold(fsm.Abort) {
		textBundle(&out, &b)
	}

	out.WriteString("\nHow Linux renders it\n")
	for _, b := range fold(fsm.Linux) {
		textBundle(&out, &b)
	}
	return out.String()
}

func textTable(out *strings.Builder, edges []fsm.Edge) {
	from, to, trigger := len("FROM"), len("TO"), len("TRIGGER")
	for _, e := range edges {
		from = max(from, len(e.From.String()))
		to = max(to, len(e.To.String()))
		trigger = max(trigger, len(e.Trigger()))
	}
	row := func(a, arrow, b, c, d string) {
		fmt.Fprintf(out, "%-*s %s %-*s  %-*s  %s\n", from, a, arrow, to, b, trigger, c, d)
	}
	row("FROM", "  ", "TO", "TRIGGER", "RULE")
	for i, e := range edges {
		if i > 0 && edges[i-1].From != e.From {
			out.WriteByte('\n')
		}
		row(e.From.String(), "->", e.To.String(), e.Trigger(), e.Rule)
	}
}

func textBundle(out *strings.Builder, b *bundle) {
	const indent = "    "
	out.WriteByte('\n')
	for _, line := range wrap(b.ends("->"), textWidth) {
		fmt.Fprintln(out, line)
	}
	for _, part := range []string{b.Trigger(), b.Rule, b.Note} {
		for _, line := range wrap(part, textWidth-len(indent)) {
			fmt.Fprintln(out, indent+line)
		}
	}
}
