package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

func TestParsePortRange(t *testing.T) {
	for _, test := range []struct {
		ports, reserved string
		want            uint64
	}{
		{"32768\t60999\n", "\n", 28232},
		{"1000\t1000\n", "", 1},
		{"1000\t1009\n", "1001,1005-1006,2000\n", 7},
		{"1000\t1009\n", "1-65535\n", 0},
		{"1024\t65535\n", "\n", 64512},
		{"", "", 0},
		{"1000", "", 0},
		{"a b", "", 0},
		{"1000\t1009\n", "none", 0},
	} {
		if got := parsePortRange(test.ports, test.reserved); got != test.want {
			t.Errorf("%q without %q: %d, want %d", test.ports, test.reserved, got, test.want)
		}
	}
}

// socketsFrom returns where a walk found n sockets of a namespace, from ports of 10.0.0.1
// to a port of 10.0.0.2.
func socketsFrom(netns uint32, n int, state fsm.State, to uint16, flags events.Flags) (found records) {
	for i := range n {
		found = append(found, events.Record{Kind: events.KindTransition, Event: events.Event{
			Time: 10, Cookie: uint64(netns)<<40 | uint64(to)<<20 | uint64(state)<<16 | uint64(i+1), NetNS: netns,
			From: state, To: state, Source: events.SourceSnapshot, Flags: flags,
			Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(20000+1000*int(state)+i)),
			Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 2}), to),
		}})
	}
	return found
}

// walkAt is a walk that skipped a namespace.
func walkAt(at uint64) *events.Walked {
	return &events.Walked{Start: at, Time: at, Skipped: []uint32{skippedNetNS}}
}

const skippedNetNS = 1 << 20

// sharesOf follows the sockets.
func sharesOf(lists ...records) *portShares {
	all := slices.Concat(lists...)
	p := newPipeline(&records{}, &filter{})
	s := newPortShares(p)
	var out lifecycle.Transition
	for i := range all {
		p.tracker.Observe(&all[i].Event, &out)
	}
	return s
}

// The share is the highest of the namespace, and absent where it is not known.
func TestPortShares(t *testing.T) {
	const minisock = events.FlagMinisock
	for _, c := range []struct {
		name      string
		sockets   []records
		available map[uint32]uint64
		want      map[uint32]float64
	}{
		{"none", nil, map[uint32]uint64{1: 20}, nil},
		{"live and in TIME_WAIT", []records{
			socketsFrom(1, 6, fsm.Established, 80, 0), socketsFrom(1, 4, fsm.TimeWait, 80, minisock),
		}, map[uint32]uint64{1: 20}, map[uint32]float64{1: 0.5}},
		{"the fullest destination", []records{
			socketsFrom(1, 5, fsm.Established, 80, 0), socketsFrom(1, 8, fsm.Established, 81, 0), socketsFrom(1, 7, fsm.Established, 82, 0),
		}, map[uint32]uint64{1: 10}, map[uint32]float64{1: 0.8}},
		{"each namespace by its own range", []records{
			socketsFrom(1, 5, fsm.Established, 80, 0), socketsFrom(2, 5, fsm.Established, 80, 0),
		}, map[uint32]uint64{1: 10, 2: 20}, map[uint32]float64{1: 0.5, 2: 0.25}},
		{"no known range", []records{
			socketsFrom(1, 5, fsm.Established, 80, 0), socketsFrom(2, 5, fsm.Established, 80, 0),
		}, map[uint32]uint64{2: 20}, map[uint32]float64{2: 0.25}},
		{"not walked", []records{socketsFrom(skippedNetNS, 5, fsm.Established, 80, 0)}, map[uint32]uint64{skippedNetNS: 10}, nil},
		{"listeners only", []records{socketsFrom(1, 5, fsm.Listen, 0, 0)}, map[uint32]uint64{1: 10}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sharesOf(c.sockets...)
			s.available = func([]uint32) map[uint32]uint64 { return c.available }
			if got := s.ratios(walkAt(20)); !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			s.timeWait = false
			if got := s.ratios(walkAt(20)); len(got) > 0 {
				t.Errorf("without TIME_WAIT: %v", got)
			}
		})
	}
}

// Namespaces are asked when they are new, and each minute, whether they answered or not.
func TestPortSharesAsk(t *testing.T) {
	s := sharesOf(socketsFrom(1, 1, fsm.Established, 80, 0), socketsFrom(2, 2, fsm.Established, 80, 0))
	var asked [][]uint32
	s.available = func(spaces []uint32) map[uint32]uint64 {
		asked = append(asked, spaces)
		of := map[uint32]uint64{2: uint64(len(asked) * 10), 3: 10}
		maps.DeleteFunc(of, func(netns uint32, _ uint64) bool { return !slices.Contains(spaces, netns) })
		return of
	}
	second := uint64(time.Second)
	s.ratios(walkAt(second))
	s.ratios(walkAt(2 * second))
	s.tracker.Observe(&socketsFrom(3, 1, fsm.Established, 80, 0)[0].Event, new(lifecycle.Transition))
	s.ratios(walkAt(3 * second))
	got := s.ratios(walkAt(61 * second))
	if want := "[[2 1] [3] [2 1 3]]"; fmt.Sprint(asked) != want {
		t.Errorf("asked %v, want %s", asked, want)
	}
	if want := (map[uint32]float64{2: 2.0 / 30, 3: 0.1}); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// However many namespaces and destinations there are, what is kept is bounded.
func TestPortSharesAreBounded(t *testing.T) {
	var spaces, routes []records
	for i := range uint32(maxPortSpaces + 1) {
		spaces = append(spaces, socketsFrom(i+1, 1+min(int(i), 1), fsm.Established, 80, 0))
	}
	s := sharesOf(spaces...)
	s.available = func(spaces []uint32) map[uint32]uint64 {
		of := make(map[uint32]uint64)
		for _, netns := range spaces {
			of[netns] = 10
		}
		return of
	}
	got := s.ratios(walkAt(20))
	if _, least := got[1]; len(got) != maxPortSpaces || least {
		t.Errorf("%d namespaces, want %d without the least", len(got), maxPortSpaces)
	}

	for i := range 5 {
		routes = append(routes, socketsFrom(1, 2, fsm.Established, uint16(80+i), 0))
	}
	s = sharesOf(routes...)
	s.maxRoutes = 3
	counts := s.count(20)
	if len(counts) != 3 {
		t.Errorf("%d routes, want 3", len(counts))
	}
	for r, n := range counts {
		if n.Used() != 2 {
			t.Errorf("%v has %d, want 2: what has room is counted", r, n.Used())
		}
	}
}

// A port on which somebody listens elsewhere is one of a connection that was made from
// it; of one that was found, that is not known.
func TestPortsOfListeners(t *testing.T) {
	found := socketsFrom(1, 1, fsm.Established, 80, 0)[0]
	made := found
	made.Event.Source, made.Event.From, made.Event.To, made.Event.Seq = events.SourceTracepoint, fsm.Closed, fsm.SynSent, 1
	listener := found
	listener.Event.Cookie, listener.Event.From, listener.Event.To, listener.Event.Remote = 1, fsm.Listen, fsm.Listen, netip.AddrPort{}
	for _, c := range []struct {
		name string
		list records
		want int
	}{
		{"found", records{found, listener}, 0},
		{"made", records{made, listener}, 1},
		{"found, without a listener", records{found}, 1},
	} {
		if got := len(sharesOf(c.list).count(20)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func BenchmarkPortShares(b *testing.B) {
	for name, each := range map[string]int{"few-routes": 20000, "many-routes": 2} {
		b.Run(name, func(b *testing.B) {
			var lists []records
			for i := range 100000 / each {
				lists = append(lists, socketsFrom(1, each, fsm.Established, uint16(80+i), 0))
			}
			s := sharesOf(lists...)
			s.available = func([]uint32) map[uint32]uint64 { return map[uint32]uint64{1: 28232} }
			b.ReportAllocs()
			for b.Loop() {
				s.ratios(walkAt(20))
			}
		})
	}
}
