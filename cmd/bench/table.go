package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// row is one figure of the table.
type row struct {
	Measure string `json:"measure"`
	What    string `json:"what"`
	// Value is in Unit; Least and Most are of the rounds, where there were several.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Least float64 `json:"least,omitempty"`
	Most  float64 `json:"most,omitempty"`
	// Budget is what the value is to keep to, as words; "" if it only compares.
	Budget string `json:"budget,omitempty"`
	// Met is whether it does; nil without a budget.
	Met *bool `json:"met,omitempty"`
	// Note says what a figure leaves open.
	Note string `json:"note,omitempty"`
}

// table is the result of a run.
type table struct {
	rows []row
}

// add puts in a figure, which is the median of the values.
func (t *table) add(measure, what, unit string, values ...float64) *row {
	slices.Sort(values)
	r := row{Measure: measure, What: what, Value: median(values), Unit: unit}
	if n := len(values); n > 1 {
		r.Least, r.Most = values[0], values[n-1]
	}
	t.rows = append(t.rows, r)
	return &t.rows[len(t.rows)-1]
}

// atMost holds a figure against its budget.
func (r *row) atMost(limit float64) *row {
	r.Budget = strings.TrimSpace(fmt.Sprintf("≤ %s %s", number(limit), r.Unit))
	met := r.Value <= limit
	r.Met = &met
	return r
}

// atLeast is likewise.
func (r *row) atLeast(limit float64) *row {
	r.Budget = strings.TrimSpace(fmt.Sprintf("≥ %s %s", number(limit), r.Unit))
	met := r.Value >= limit
	r.Met = &met
	return r
}

// note adds what is to be known of a figure.
func (r *row) note(format string, args ...any) {
	r.Note = fmt.Sprintf(format, args...)
}

// missed counts the budgets that were not kept.
func (t *table) missed() (n int) {
	for i := range t.rows {
		if met := t.rows[i].Met; met != nil && !*met {
			n++
		}
	}
	return n
}

func (t *table) text(w io.Writer) error {
	var cells, aligned bytes.Buffer
	fmt.Fprintf(&aligned, "Linux %s, %d CPUs, %s\n\n", kernelRelease(), runtime.NumCPU(), runtime.GOARCH)
	fmt.Fprintln(&cells, "MEASURE\tWHAT\tVALUE\tROUNDS\tBUDGET\t\tNOTE")
	for i := range t.rows {
		r := &t.rows[i]
		rounds, verdict := "", ""
		if r.Most != 0 {
			rounds = number(r.Least) + " … " + number(r.Most)
		}
		if r.Met != nil {
			verdict = "met"
			if !*r.Met {
				verdict = "MISSED"
			}
		}
		fmt.Fprintln(&cells, strings.Join([]string{r.Measure, r.What, number(r.Value) + " " + r.Unit, rounds, r.Budget, verdict, r.Note}, "\t"))
	}
	tw := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	if _, err := cells.WriteTo(tw); err != nil {
		return err
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(aligned.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range t.rows {
		if err := e.Encode(&t.rows[i]); err != nil {
			return err
		}
	}
	return nil
}

// number has three digits, or all before the point.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 1:
		return fmt.Sprintf("%.3f", v)
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// median of sorted values; the mean of the two in the middle of an even number.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(name.Release[:])
}
