package bpf

import "testing"

func TestCountingIsChecked(t *testing.T) {
	edge := CountedEdge{From: 2, To: 1, Timed: true}
	for name, c := range map[string]*Counting{
		"no edges":        {Bounds: []uint64{1}},
		"no bounds":       {Edges: []CountedEdge{edge}},
		"too many bounds": {Edges: []CountedEdge{edge}, Bounds: make([]uint64, MaxBounds+1)},
		"not in order":    {Edges: []CountedEdge{edge}, Bounds: []uint64{2, 1}},
		"no such state":   {Edges: []CountedEdge{{From: 1, To: 16}}, Bounds: []uint64{1}},
	} {
		spec, err := loadTcptrace()
		if err != nil {
			t.Fatal(err)
		}
		var s tcptraceVariableSpecs
		if err := spec.Assign(&s); err != nil {
			t.Fatal(err)
		}
		if err := c.configure(spec, &s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
