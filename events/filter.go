package events

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tcptrace/fsm"
)

// Decision is what a [Filter] says of an event.
type Decision uint8

// The decisions.
const (
	Reject Decision = iota
	Accept
	// Undecided: an end that the filter asks for is not assigned yet. The next
	// event of the same socket decides.
	Undecided
)

// Filter chooses events. Every condition that is set must be met; the zero
// Filter accepts all. It must not be changed while in use.
type Filter struct {
	// IPv4, IPv6 restrict the family as on the wire; both or none set is any.
	IPv4, IPv6 bool
	// LocalPorts, RemotePorts and EitherPorts: empty is any.
	LocalPorts, RemotePorts, EitherPorts PortSet
	// LocalNets, RemoteNets: empty is any.
	LocalNets, RemoteNets []netip.Prefix
	// PIDs, Comms: of the owner. An event without owner meets neither.
	PIDs  []uint32
	Comms []string
	// States of which one must be From or To.
	States []fsm.State
	// NetNS is the inode of a network namespace; 0 is any.
	NetNS uint32
	// Cgroups are cgroup ids; empty is any.
	Cgroups []uint64
	// Cookies of sockets; empty is any.
	Cookies []uint64
}

// Match decides about an event.
func (f *Filter) Match(e *Event) Decision {
	if !f.MatchStates(e.From, e.To) {
		return Reject
	}
	return f.MatchSocket(e)
}

// MatchStates reports whether one of the states is wanted.
func (f *Filter) MatchStates(states ...fsm.State) bool {
	return len(f.States) == 0 ||
		slices.ContainsFunc(states, func(s fsm.State) bool { return slices.Contains(f.States, s) })
}

// MatchSocket decides about an event by all but its states.
func (f *Filter) MatchSocket(e *Event) Decision {
	switch {
	case f.NetNS != 0 && e.NetNS != f.NetNS,
		len(f.Cookies) > 0 && !slices.Contains(f.Cookies, e.Cookie),
		len(f.Cgroups) > 0 && !slices.Contains(f.Cgroups, e.Cgroup),
		len(f.PIDs) > 0 && (!e.Owner.Known() || !slices.Contains(f.PIDs, e.Owner.PID)),
		len(f.Comms) > 0 && (!e.Owner.Known() || !slices.Contains(f.Comms, string(e.Owner.Comm.Bytes()))):
		return Reject
	}

	decision := Accept
	for _, ok := range [...]Decision{
		f.matchFamily(e),
		matchEnd(e, e.Local, len(f.LocalPorts) > 0, f.LocalPorts.Contains(e.Local.Port()), f.LocalNets),
		matchEnd(e, e.Remote, len(f.RemotePorts) > 0, f.RemotePorts.Contains(e.Remote.Port()), f.RemoteNets),
		f.matchEither(e),
	} {
		if ok == Reject {
			return Reject
		}
		if ok == Undecided {
			decision = Undecided
		}
	}
	return decision
}

func (f *Filter) matchFamily(e *Event) Decision {
	switch {
	case f.IPv4 == f.IPv6:
		return Accept
	case e.Local.Addr().Is4() || e.Remote.Addr().Is4():
		return accept(f.IPv4)
	case e.EndsPending() && e.Remote.Addr().IsUnspecified():
		return Undecided // a child of a dual-stack listener
	}
	return accept(f.IPv6)
}

// matchEnd holds one end against ports and networks.
func matchEnd(e *Event, end netip.AddrPort, byPort, portMatches bool, nets []netip.Prefix) Decision {
	decision := Accept
	switch {
	case !byPort:
	case end.Port() == 0 && e.EndsPending():
		decision = Undecided
	case end.Port() == 0 || !portMatches:
		return Reject
	}
	if len(nets) == 0 {
		return decision
	}
	if end.Addr().IsUnspecified() && e.EndsPending() {
		return Undecided
	}
	if !slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(end.Addr()) }) {
		return Reject
	}
	return decision
}

func (f *Filter) matchEither(e *Event) Decision {
	switch {
	case len(f.EitherPorts) == 0,
		e.Local.Port() != 0 && f.EitherPorts.Contains(e.Local.Port()),
		e.Remote.Port() != 0 && f.EitherPorts.Contains(e.Remote.Port()):
		return Accept
	case e.EndsPending():
		return Undecided
	}
	return Reject
}

func accept(ok bool) Decision {
	if ok {
		return Accept
	}
	return Reject
}

// PortSet is a set of ports as inclusive ranges.
type PortSet []PortRange

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }

// Contains reports whether the port is in the set.
func (s PortSet) Contains(port uint16) bool {
	for _, r := range s {
		if r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

// ParsePorts understands "80", "80,443" and "8000-8080,9000". Ports go from 1
// to 65535.
func ParsePorts(text string) (PortSet, error) {
	var set PortSet
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		r := PortRange{}
		var err error
		if r.First, err = parsePort(first); err == nil {
			r.Last, err = parsePort(last)
		}
		if err != nil {
			return nil, fmt.Errorf("ports %q: %w", text, err)
		}
		if r.First > r.Last {
			return nil, fmt.Errorf("ports %q: the range %s ends before it begins", text, part)
		}
		set = append(set, r)
	}
	return set, nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port: want 1 to 65535, as in 80,443,8000-8080", text)
	}
	return uint16(n), nil
}
