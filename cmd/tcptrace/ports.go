package main

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcptrace/bpf"
	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output/stat"
)

// ports counts the local ports of connections that were made from here, by what the
// tracker follows.
type ports struct {
	*results
	tracker *lifecycle.Tracker
	// timeWait: minisocks are followed. live: the namespaces are those of this host.
	timeWait, live bool
	top            int
	maxRoutes      int // that are counted; 0: any number

	complete bool // a walk has found all sockets
	before   map[stat.Route]uint64
	at       uint64 // time of before; 0: there is none

	lifecycle lifecycle.Lifecycle // reused
}

// newPorts counts the ports of the top routes by what a pipeline follows, live or in a
// recording.
func newPorts(p *pipeline, live bool, top int) *ports {
	unmeasured := slices.ContainsFunc(p.source.Unmeasured(), func(what string) bool { return strings.HasPrefix(what, fsm.TimeWait.String()) })
	return &ports{results: p.results, tracker: p.tracker, timeWait: !unmeasured, live: live, top: top}
}

// walkEnded implements a part of [view]: from now on growth can be measured.
func (p *ports) walkEnded(w *events.Walked) {
	p.complete = p.complete || w.Unseen == ""
	if p.at == 0 {
		p.remember(p.count(w.Time), w.Time)
	}
}

func (p *ports) remember(list map[stat.Route]*stat.Ports, at uint64) {
	p.at, p.before = at, make(map[stat.Route]uint64, len(list))
	for r, n := range list {
		p.before[r] = n.Used()
	}
}

// used returns what is in use at the time, the fullest first. Growth is since the last
// call, or since the first walk.
func (p *ports) used(now uint64) []stat.Ports {
	const least = 1.0 // seconds: of less, nothing follows
	counts := p.count(now)
	list := make([]stat.Ports, 0, len(counts))
	seconds := float64(now-min(p.at, now)) / 1e9
	for r, n := range counts {
		if p.at != 0 && p.timeWait && seconds >= least {
			n.Growth, n.HasGrowth = (float64(n.Used())-float64(p.before[r]))/seconds, true
		}
		list = append(list, *n)
	}
	if p.at != 0 && seconds >= least {
		p.remember(counts, now)
	}
	stat.SortPorts(list)
	list = list[:min(len(list), p.top)]
	if p.live {
		addAvailable(list)
	}
	return list
}

// count counts the ports of connections that the filter wants. A port on which
// somebody listens is not of those, but where a connection was seen to be made from it.
func (p *ports) count(now uint64) map[stat.Route]*stat.Ports {
	type listening struct {
		netns uint32
		port  uint16
	}
	listens := make(map[listening]bool)
	c := &p.lifecycle
	_ = p.tracker.Each(func(l *lifecycle.Life) error {
		if !l.IsConnection() {
			l.Lifecycle(now, c)
			listens[listening{c.NetNS, c.Local.Port()}] = true
		}
		return nil
	})
	counts := make(map[stat.Route]*stat.Ports)
	_ = p.tracker.Each(func(l *lifecycle.Life) error {
		if !l.IsConnection() {
			return nil
		}
		l.Lifecycle(now, c)
		c.Place = p.names.place(c.Cgroup)
		unbound := c.Local.Port() == 0 || c.Remote.Port() == 0
		accepted := c.Role == lifecycle.RolePassive || c.Role != lifecycle.RoleActive && listens[listening{c.NetNS, c.Local.Port()}]
		if unbound || accepted || !p.filter.wantsLifecycle(c) {
			return nil
		}
		r := stat.Route{NetNS: c.NetNS, Local: c.Local.Addr(), Remote: c.Remote}
		n := counts[r]
		if n == nil {
			if p.maxRoutes > 0 && len(counts) >= p.maxRoutes {
				return nil
			}
			n = &stat.Ports{Route: r, HasTimeWait: p.timeWait, AtLeast: !p.complete || p.tracker.Evicted() > 0}
			counts[r] = n
		}
		if l.InMinisock() {
			n.TimeWait++
		} else {
			n.Live++
		}
		return nil
	})
	return counts
}

// addAvailable asks each namespace how many ports it has to choose from.
func addAvailable(list []stat.Ports) {
	var spaces []uint32
	for _, p := range list {
		if !slices.Contains(spaces, p.NetNS) {
			spaces = append(spaces, p.NetNS)
		}
	}
	available := availablePorts(spaces)
	for i := range list {
		list[i].Available = available[list[i].NetNS]
	}
}

// availablePorts asks namespaces how many ports each has to choose from.
func availablePorts(spaces []uint32) map[uint32]uint64 {
	available := make(map[uint32]uint64)
	// What cannot be read is not known.
	_ = bpf.InNetNS(spaces, func(inode uint32) {
		text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
		if err != nil {
			return
		}
		reserved, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
		if err == nil {
			available[inode] = parsePortRange(string(text), string(reserved))
		}
	})
	return available
}

// Bounds of the agent's metric.
const (
	maxPortRoutes = 1 << 16
	maxPortSpaces = 1000 // network namespaces
	// portsRefresh is how long what a namespace says of its range is believed.
	portsRefresh = uint64(time.Minute)
)

// portShares is the highest share of the local ports in use, by network namespace.
type portShares struct {
	*ports
	available func(spaces []uint32) map[uint32]uint64 // nil: nobody can be asked
	known     map[uint32]uint64                       // what was answered; 0: nothing
	refreshAt uint64
}

// newPortShares counts by what a pipeline follows. Nobody is asked yet.
func newPortShares(p *pipeline) *portShares {
	s := &portShares{ports: newPorts(p, false, 0)}
	s.maxRoutes = maxPortRoutes
	return s
}

// ratios returns the shares after a walk, of the namespaces where they are known: where it
// was, and the range was learnt. A share is of the ports from one address to another and
// a port there.
func (s *portShares) ratios(w *events.Walked) map[uint32]float64 {
	if s.available == nil || !s.timeWait {
		return nil
	}
	used := make(map[uint32]uint64)
	for r, n := range s.count(w.Time) {
		used[r.NetNS] = max(used[r.NetNS], n.Used())
	}
	spaces := slices.SortedFunc(maps.Keys(used), func(a, b uint32) int {
		return cmp.Or(cmp.Compare(used[b], used[a]), cmp.Compare(a, b))
	})
	spaces = spaces[:min(len(spaces), maxPortSpaces)]
	s.ask(spaces, w.Time)
	ratios := make(map[uint32]float64)
	for _, netns := range spaces {
		if n := s.known[netns]; n > 0 && !slices.Contains(w.Skipped, netns) {
			ratios[netns] = float64(used[netns]) / float64(n)
		}
	}
	return ratios
}

// ask asks the namespaces that were not asked yet, and now and then all anew.
func (s *portShares) ask(spaces []uint32, now uint64) {
	if now >= s.refreshAt {
		s.known, s.refreshAt = make(map[uint32]uint64), now+portsRefresh
	}
	var unasked []uint32
	for _, netns := range spaces {
		if _, asked := s.known[netns]; !asked {
			unasked = append(unasked, netns)
			s.known[netns] = 0
		}
	}
	if len(unasked) > 0 {
		maps.Copy(s.known, s.available(unasked))
	}
}

// parsePortRange returns how many ports there are in a range "32768	60999" without
// those of a list "8080,9000-9010"; 0 where it says something else.
func parsePortRange(text, reserved string) (n uint64) {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return 0
	}
	first, err1 := strconv.ParseUint(fields[0], 10, 16)
	last, err2 := strconv.ParseUint(fields[1], 10, 16)
	if err1 != nil || err2 != nil {
		return 0
	}
	var taken events.PortSet
	if reserved = strings.TrimSpace(reserved); reserved != "" {
		var err error
		if taken, err = events.ParsePorts(reserved); err != nil {
			return 0
		}
	}
	for port := first; port <= last; port++ {
		if !taken.Contains(uint16(port)) {
			n++
		}
	}
	return n
}
