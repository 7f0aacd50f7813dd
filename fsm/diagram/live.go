package diagram

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"tcptrace/fsm"
)

// LiveStyle is the style sheet of the picture that [WriteLive] writes.
const LiveStyle = svgStyle + usedStyle

// WriteLive writes the picture for a page that fills in numbers as they come: an svg
// element without a style sheet, which is [LiveStyle], and without footnotes.
//
// A state is a group with the id state-NAME, that is a button named by its text, with one empty text of
// the class number. An edge is a group with the id edge-FROM-TO, drawn as one that was
// not used; data-kind has the class that it is to get when it is, beside illegal. Its
// text has three empty lines, tspan; data-fill says which is nearest to the arrow, the
// first or the last. The edges that are illegal and known to occur are
// among them.
func WriteLive(w io.Writer) error {
	var out strings.Builder
	const top = 50 // without the heading
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" class="tcpfsm" viewBox="0 %d %d %d" role="group" aria-label="%s">`+"\n<defs>\n",
		top, width, figureHeight+10-top, title)
	u := &Usage{}
	svgMarkers(&out, u.kinds())
	out.WriteString("</defs>\n<g aria-hidden=\"true\">\n")
	for _, a := range areas {
		svgArea(&out, a)
	}
	edges := legalEdges()
	for e := range illegalRoutes {
		edges = append(edges, edgeOf(&Use{From: e.from, To: e.to}))
	}
	slices.SortStableFunc(edges[len(legalEdges()):], func(a, b fsm.Edge) int { return cmp.Compare(a.From, b.From) })
	for _, e := range edges {
		r, fill := routeOf(&e), "first"
		if r.label.anchor == middle && r.toLine() > 0 {
			fill = "last"
		}
		drawEdge(&out, &e, kindUnused, fmt.Sprintf(` data-kind="%s" data-fill="%s"`, kindOf(&e), fill), []string{"", "", ""})
	}
	out.WriteString("</g>\n")
	for _, s := range fsm.States() {
		at := nodes[s]
		fmt.Fprintf(&out, `<g id="state-%s" class="state" role="button" tabindex="0" aria-pressed="false">`+
			`<rect x="%s" y="%s" width="%d" height="%d" rx="10"/>`,
			s, num(at.x-nodeWidth/2), num(at.y-nodeHeight/2), nodeWidth, nodeHeight)
		fmt.Fprintf(&out, "<text x=\"%s\" y=\"%s\" text-anchor=\"middle\">%s</text>\n", num(at.x), num(at.y-4), s)
		fmt.Fprintf(&out, "<text class=\"number\" x=\"%s\" y=\"%s\" text-anchor=\"middle\"></text></g>\n", num(at.x), num(at.y+16))
	}
	out.WriteString("</svg>\n")
	_, err := io.WriteString(w, out.String())
	return err
}
