package main

import (
	"strings"
	"testing"
	"time"

	"tcptrace/fsm"
)

// told makes one of a path in short names, with a step each second.
func told(t *testing.T, text string) *telling {
	t.Helper()
	s := &telling{whole: true}
	for i, name := range strings.Split(text, "·") {
		for _, state := range fsm.States() {
			if pathText([]fsm.State{state}) == name {
				s.states = append(s.states, state)
			}
		}
		s.times = append(s.times, uint64(i)*uint64(time.Second))
	}
	if len(s.states) != len(s.times) {
		t.Fatalf("%s has a state of no name", text)
	}
	return s
}

func TestDifference(t *testing.T) {
	const end = uint64(time.Hour)
	for name, test := range map[string]struct {
		kernel, wire string
		change       func(k, w *telling)
		to           uint64
		want         string
	}{
		"the same":                        {kernel: "C·SS·E·F1·F2·TW", wire: "C·SS·E·F1·F2·TW"},
		"the ACK came with the FIN":       {kernel: "C·SS·E·F1·F2·TW", wire: "C·SS·E·F1·TW"},
		"an end without a packet":         {kernel: "C·SS·C", wire: "C·SS", change: func(k, _ *telling) { k.silent = true }},
		"an end that should have one":     {kernel: "C·SS·C", wire: "C·SS", want: "by the kernel C·SS·C, by the packets C·SS"},
		"a FIN that reached a minisock":   {kernel: "C·SS·E·F1·F2", wire: "C·SS·E·F1·F2·TW", change: func(k, _ *telling) { k.minisock = true }},
		"a FIN that reached nothing":      {kernel: "C·SS·E·F1·F2", wire: "C·SS·E·F1·F2·TW", want: "by the kernel C·SS·E·F1·F2, by the packets C·SS·E·F1·F2·TW"},
		"an answer that was dropped":      {kernel: "C·SS", wire: "C·SS·E", want: "by the kernel C·SS, by the packets C·SS·E"},
		"the capture ends before":         {kernel: "C·SS·E·CW", wire: "C·SS·E", to: 2},
		"the recording ends before":       {kernel: "C·SS·E", wire: "C·SS·E·CW", to: 2},
		"packets are missing":             {kernel: "C·SS·E·CW", wire: "C·SS·E", change: func(_, w *telling) { w.gap = true }, want: "by the kernel C·SS·E·CW, by the packets C·SS·E, not all of which were captured"},
		"the kernel is late":              {kernel: "C·SS·E", wire: "C·SS·E", change: func(k, _ *telling) { k.times[2] += 1500 * uint64(time.Millisecond) }, want: "the kernel came to ESTABLISHED 1.5s after the packets show it"},
		"a handshake takes what it takes": {kernel: "L·SR·E", wire: "L·SR·E", change: func(k, _ *telling) { k.times[1] += 2 * uint64(time.Second) }},
	} {
		t.Run(name, func(t *testing.T) {
			k, w := told(t, test.kernel), told(t, test.wire)
			if test.change != nil {
				test.change(k, w)
			}
			to := end
			if test.to != 0 {
				to = test.to * uint64(time.Second)
			}
			if got := difference(k, w, to); got != test.want {
				t.Errorf("difference %q, want %q", got, test.want)
			}
		})
	}
}
