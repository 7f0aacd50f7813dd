// Package diagram draws the reference machine of package fsm: as a table for a
// terminal, as a picture, and as the source of one for Graphviz and Mermaid.
//
// All edges and their triggers come from [fsm.Machine]; only where the picture
// puts them is written here. Equal machines give equal bytes.
package diagram

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"tcptrace/fsm"
)

// Format is what the machine is drawn as.
type Format string

// The formats.
const (
	Text    Format = "text"    // a table, at most 100 columns wide, in ASCII
	DOT     Format = "dot"     // for Graphviz
	SVG     Format = "svg"     // a picture laid out by hand, complete in itself
	Mermaid Format = "mermaid" // for Markdown: a stateDiagram-v2
)

var writers = map[Format]func(*Usage) string{Text: text, DOT: dot, SVG: svg, Mermaid: mermaid}

// Formats returns all formats.
func Formats() []Format { return []Format{Text, DOT, SVG, Mermaid} }

// Write draws the machine on w.
func Write(w io.Writer, f Format) error { return WriteUsed(w, f, nil) }

// WriteUsed draws on w how the machine was used, nil meaning the machine alone.
func WriteUsed(w io.Writer, f Format, u *Usage) error {
	draw, ok := writers[f]
	if !ok {
		return fmt.Errorf("unknown format %q: want one of %s", string(f), join(Formats()))
	}
	_, err := io.WriteString(w, draw(u))
	return err
}

// legalEdges returns the edges of the reference machine, those of one state
// together.
func legalEdges() []fsm.Edge {
	edges := edgesOf(fsm.Legal)
	order := fsm.States()
	slices.SortStableFunc(edges, func(a, b fsm.Edge) int {
		return cmp.Compare(slices.Index(order, a.From), slices.Index(order, b.From))
	})
	return edges
}

func edgesOf(class fsm.Verdict) []fsm.Edge {
	return slices.DeleteFunc(fsm.Machine(), func(e fsm.Edge) bool { return e.Class != class })
}

// bundle is edges that differ only in where they begin.
type bundle struct {
	fsm.Edge // the first of them
	froms    []fsm.State
}

// fold bundles the edges of a class, which drawn one by one would hide the
// others: nearly every state has an abort.
func fold(class fsm.Verdict) []bundle {
	var bundles []bundle
	for _, e := range edgesOf(class) {
		i := slices.IndexFunc(bundles, func(b bundle) bool { return b.alike(e) })
		if i < 0 {
			i = len(bundles)
			bundles = append(bundles, bundle{Edge: e})
		}
		bundles[i].froms = append(bundles[i].froms, e.From)
	}
	return bundles
}

func (b *bundle) alike(e fsm.Edge) bool {
	if b.isLoop() && e.From == e.To {
		e.To = b.To
	}
	e.From = b.From
	return e == b.Edge
}

func (b *bundle) isLoop() bool { return b.From == b.To }

// target names where the edges lead.
func (b *bundle) target() string {
	if b.isLoop() {
		return "itself"
	}
	return b.To.String()
}

// ends is "SYN_SENT or ESTABLISHED -> CLOSED" with the given arrow.
func (b *bundle) ends(arrow string) string {
	from := join(b.froms)
	if i := strings.LastIndex(from, ", "); i >= 0 {
		from = from[:i] + " or " + from[i+len(", "):]
	}
	return from + " " + arrow + " " + b.target()
}

// remark is the bundle in one sentence, for a footnote.
func (b *bundle) remark(arrow string) string {
	s := b.ends(arrow) + " on " + b.Trigger()
	if b.Note != "" {
		s += " (" + b.Note + ")"
	}
	return s
}

func join[T any](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ", ")
}

// wrap breaks s at spaces into lines of at most width characters.
func wrap(s string, width int) []string {
	var lines []string
	for _, word := range strings.Fields(s) {
		last := len(lines) - 1
		if last >= 0 && len([]rune(lines[last]+" "+word)) <= width {
			lines[last] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}
