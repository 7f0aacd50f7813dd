package diagram_test

import (
	"encoding/xml"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"tcptrace/fsm"
	"tcptrace/fsm/diagram"
)

// element is any element of the picture.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []element  `xml:",any"`
	Text     string     `xml:",chardata"`
}

func (e *element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (e *element) number(name string) float64 {
	v, _ := strconv.ParseFloat(e.attr(name), 64)
	return v
}

// words is all text in the element.
func (e *element) words() string {
	s := e.Text
	for i := range e.Children {
		s += e.Children[i].words() + " "
	}
	return strings.TrimSpace(s)
}

// all returns the elements of that name in it, at any depth.
func (e *element) all(name string) []*element {
	var found []*element
	for i := range e.Children {
		c := &e.Children[i]
		if c.XMLName.Local == name {
			found = append(found, c)
		}
		found = append(found, c.all(name)...)
	}
	return found
}

func parse(t *testing.T) (root element, byID map[string]*element) {
	t.Helper()
	return parseSVG(t, draw(t, diagram.SVG))
}

func parseSVG(t *testing.T, picture string) (root element, byID map[string]*element) {
	t.Helper()
	if err := xml.Unmarshal([]byte(picture), &root); err != nil {
		t.Fatal(err)
	}
	byID = map[string]*element{}
	for _, g := range root.all("g") {
		if id := g.attr("id"); id != "" {
			if byID[id] != nil {
				t.Errorf("two groups have the id %s", id)
			}
			byID[id] = g
		}
	}
	return root, byID
}

func stateID(s fsm.State) string { return "state-" + s.String() }
func edgeID(e *fsm.Edge) string  { return "edge-" + e.From.String() + "-" + e.To.String() }

func TestSVGGroups(t *testing.T) {
	_, groups := parse(t)
	for _, s := range fsm.States() {
		if g := groups[stateID(s)]; g == nil || g.all("text")[0].Text != s.String() {
			t.Errorf("no group shows %s", s)
		}
	}
	for _, e := range legalEdges() {
		g := groups[edgeID(&e)]
		if g == nil {
			t.Errorf("no group %s", edgeID(&e))
			continue
		}
		var lines []string
		for _, span := range g.all("tspan") {
			lines = append(lines, span.Text)
		}
		if got := strings.Join(lines, " / "); got != e.Trigger() {
			t.Errorf("%s: labelled %q, want %q", edgeID(&e), got, e.Trigger())
		}
	}
	if got, want := len(groups), len(fsm.States())+len(legalEdges()); got != want {
		t.Errorf("%d groups with an id, want %d", got, want)
	}
}

// box is what an element takes up, given by two corners.
type box struct{ x0, y0, x1, y1 float64 }

func (b box) overlaps(c box) bool {
	return b.x0 <= c.x1 && c.x0 <= b.x1 && b.y0 <= c.y1 && c.y0 <= b.y1
}

func (b box) grown(by float64) box { return box{b.x0 - by, b.y0 - by, b.x1 + by, b.y1 + by} }

func nodeBox(g *element) box {
	r := g.all("rect")[0]
	x, y := r.number("x"), r.number("y")
	return box{x, y, x + r.number("width"), y + r.number("height")}
}

// textBox estimates the box of a text; the letters of most fonts are narrower.
func textBox(text *element) box {
	size := 13.0
	if text.attr("class") == "heading" {
		size = 22
	}
	lines := text.all("tspan")
	if len(lines) == 0 {
		lines = []*element{text}
	}
	chars := 0
	for _, l := range lines {
		chars = max(chars, utf8.RuneCountInString(l.Text))
	}
	width := 0.6 * size * float64(chars)
	x := lines[0].number("x")
	switch text.attr("text-anchor") {
	case "middle":
		x -= width / 2
	case "end":
		x -= width
	}
	return box{x, lines[0].number("y") - 0.75*size, x + width, lines[len(lines)-1].number("y") + 0.2*size}
}

var number = regexp.MustCompile(`[\d.]+`)

// lineBoxes returns the parts of an edge's path, which run across or down, so
// that their boxes are lines.
func lineBoxes(g *element) []box {
	var v []float64
	for _, s := range number.FindAllString(g.all("path")[0].attr("d"), -1) {
		f, _ := strconv.ParseFloat(s, 64)
		v = append(v, f)
	}
	var parts []box
	for ; len(v) >= 4; v = v[2:] {
		parts = append(parts, box{min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])})
	}
	return parts
}

func TestSVGLabelsAreReadable(t *testing.T) {
	root, groups := parse(t)
	checkReadable(t, root, groups)
}

func checkReadable(t *testing.T, root element, groups map[string]*element) {
	t.Helper()
	taken := map[string][]box{}
	for id, g := range groups {
		if strings.HasPrefix(id, "state-") {
			taken[id] = []box{nodeBox(g)}
		} else {
			taken[id] = lineBoxes(g)
		}
	}
	labels := slices.DeleteFunc(root.all("text"), func(text *element) bool {
		return slices.ContainsFunc(fsm.States(), func(s fsm.State) bool { return s.String() == text.Text })
	})
	for i, l := range labels {
		b := textBox(l)
		if b.x0 < 0 || b.y0 < 0 || b.x1 > root.number("width") || b.y1 > root.number("height") {
			t.Errorf("%q leaves the picture: %v", l.words(), b)
		}
		for _, m := range labels[:i] {
			if b.overlaps(textBox(m)) {
				t.Errorf("%q overlaps %q", l.words(), m.words())
			}
		}
		for id, parts := range taken {
			if slices.ContainsFunc(parts, b.overlaps) {
				t.Errorf("%q overlaps %s", l.words(), id)
			}
		}
	}
}

func TestSVGEdgesLeadFromNodeToNode(t *testing.T) {
	_, groups := parse(t)
	for _, e := range legalEdges() {
		parts := lineBoxes(groups[edgeID(&e)])
		first, last := parts[0], parts[len(parts)-1]
		if !first.overlaps(nodeBox(groups[stateID(e.From)])) || !last.overlaps(nodeBox(groups[stateID(e.To)])) {
			t.Errorf("%s does not join its states", edgeID(&e))
		}
		for _, s := range fsm.States() {
			if slices.ContainsFunc(parts, nodeBox(groups[stateID(s)]).grown(-1).overlaps) {
				t.Errorf("%s runs into %s", edgeID(&e), s)
			}
		}
	}
}

func TestSVGEdgesCrossOnce(t *testing.T) {
	_, groups := parse(t)
	var crossings []string
	edges := legalEdges()
	for i := range edges {
		for j := range edges[:i] {
			for _, part := range lineBoxes(groups[edgeID(&edges[i])]) {
				if slices.ContainsFunc(lineBoxes(groups[edgeID(&edges[j])]), part.overlaps) {
					crossings = append(crossings, edgeID(&edges[j])+" "+edgeID(&edges[i]))
				}
			}
		}
	}
	want := []string{"edge-SYN_SENT-ESTABLISHED edge-SYN_RCVD-CLOSE_WAIT"}
	if !slices.Equal(crossings, want) {
		t.Errorf("crossings %q, want %q alone", crossings, want)
	}
}
