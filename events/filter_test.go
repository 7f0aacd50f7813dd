package events_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
)

// event is a transition of a connection; owner is known.
func event(from, to fsm.State, local, remote string) events.Event {
	e := events.Event{
		From: from, To: to,
		Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
		Family: 2, NetNS: 100, Cgroup: 200, Cookie: 300,
		Owner: eventstest.Owned(4242, "curl", events.OwnerConnect),
	}
	if !e.Local.Addr().Is4() {
		e.Family = 10
	}
	return e
}

func ports(t *testing.T, text string) events.PortSet {
	t.Helper()
	set, err := events.ParsePorts(text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func nets(cidrs ...string) (list []netip.Prefix) {
	for _, c := range cidrs {
		list = append(list, netip.MustParsePrefix(c))
	}
	return list
}

func TestFilterMatch(t *testing.T) {
	established := event(fsm.SynSent, fsm.Established, "10.0.0.1:40000", "10.0.0.2:443")
	established6 := event(fsm.SynSent, fsm.Established, "[2001:db8::1]:40000", "[2001:db8::2]:443")
	mapped := established
	mapped.Family = 10
	connect := event(fsm.Closed, fsm.SynSent, "10.0.0.1:0", "10.0.0.2:443")
	connect6 := event(fsm.Closed, fsm.SynSent, "[2001:db8::1]:0", "[2001:db8::2]:443")
	bound := event(fsm.Closed, fsm.SynSent, "10.0.0.1:5000", "10.0.0.2:443")
	listen := event(fsm.Closed, fsm.Listen, "0.0.0.0:80", "0.0.0.0:0")
	listen6 := event(fsm.Closed, fsm.Listen, "[::]:80", "[::]:0")
	born := event(fsm.Listen, fsm.SynRcvd, "0.0.0.0:80", "0.0.0.0:0")
	bornDual := event(fsm.Listen, fsm.SynRcvd, "[::]:80", "[::]:0")
	bornBound := event(fsm.Listen, fsm.SynRcvd, "[::1]:80", "[::]:0")
	unowned := established
	unowned.Owner = events.Owner{}
	unbound := event(fsm.SynSent, fsm.Closed, "10.0.0.1:0", "10.0.0.2:443") // not pending: it never got a port

	every := events.PortSet{{First: 0, Last: 65535}} // as ParsePorts would not make it

	const (
		no    = events.Reject
		yes   = events.Accept
		later = events.Undecided
	)
	type f = events.Filter
	for _, c := range []struct {
		name   string
		filter f
		event  events.Event
		want   events.Decision
	}{
		{"nothing asked", f{}, established, yes},
		{"nothing asked of nothing", f{}, events.Event{}, yes},
		{"nothing asked, ends pending", f{}, bornDual, yes},

		{"IPv4", f{IPv4: true}, established, yes},
		{"IPv4 of IPv6", f{IPv4: true}, established6, no},
		{"IPv4 of v4-mapped", f{IPv4: true}, mapped, yes},
		{"IPv6", f{IPv6: true}, established6, yes},
		{"IPv6 of IPv4", f{IPv6: true}, established, no},
		{"IPv6 of v4-mapped", f{IPv6: true}, mapped, no},
		{"both of IPv4", f{IPv4: true, IPv6: true}, established, yes},
		{"both of IPv6", f{IPv4: true, IPv6: true}, established6, yes},
		{"IPv4 of a connect", f{IPv4: true}, connect, yes},
		{"IPv4 of an IPv6 connect", f{IPv4: true}, connect6, no},
		{"IPv6 of an IPv6 connect", f{IPv6: true}, connect6, yes},
		{"IPv4 of a dual-stack child", f{IPv4: true}, bornDual, later},
		{"IPv6 of a dual-stack child", f{IPv6: true}, bornDual, later},
		{"both of a dual-stack child", f{IPv4: true, IPv6: true}, bornDual, yes},
		{"IPv4 of an IPv4 child", f{IPv4: true}, born, yes},
		{"IPv6 of an IPv4 child", f{IPv6: true}, born, no},
		{"IPv4 of an IPv4 listener", f{IPv4: true}, listen, yes},
		{"IPv6 of a dual-stack listener", f{IPv6: true}, listen6, yes},

		{"local port", f{LocalPorts: ports(t, "40000")}, established, yes},
		{"local port is the remote one", f{LocalPorts: ports(t, "443")}, established, no},
		{"local range", f{LocalPorts: ports(t, "1,39999-40001")}, established, yes},
		{"local port not assigned yet", f{LocalPorts: ports(t, "40000")}, connect, later},
		{"local port bound before", f{LocalPorts: ports(t, "5000")}, bound, yes},
		{"another local port bound before", f{LocalPorts: ports(t, "40000")}, bound, no},
		{"local port never assigned", f{LocalPorts: ports(t, "1-65535")}, unbound, no},
		{"local port of a listener", f{LocalPorts: ports(t, "80")}, listen, yes},
		{"local port of a child", f{LocalPorts: ports(t, "80")}, born, yes},
		{"another local port of a child", f{LocalPorts: ports(t, "81")}, born, no},

		{"remote port", f{RemotePorts: ports(t, "443")}, established, yes},
		{"remote port is the local one", f{RemotePorts: ports(t, "40000")}, established, no},
		{"remote port of a connect", f{RemotePorts: ports(t, "443")}, connect, yes},
		{"another remote port of a connect", f{RemotePorts: ports(t, "80")}, connect, no},
		{"remote port of a child", f{RemotePorts: ports(t, "40000")}, born, later},
		{"remote port of a listener", f{RemotePorts: ports(t, "1-65535")}, listen, no},

		{"either port, local", f{EitherPorts: ports(t, "40000")}, established, yes},
		{"either port, remote", f{EitherPorts: ports(t, "443")}, established, yes},
		{"either port, neither", f{EitherPorts: ports(t, "80")}, established, no},
		{"either port of a connect, remote", f{EitherPorts: ports(t, "443")}, connect, yes},
		{"either port of a connect, not remote", f{EitherPorts: ports(t, "40000")}, connect, later},
		{"either port of a bound connect", f{EitherPorts: ports(t, "40000")}, bound, no},
		{"either port of a child, local", f{EitherPorts: ports(t, "80")}, born, yes},
		{"either port of a child, not local", f{EitherPorts: ports(t, "40000")}, born, later},
		{"either port of a listener", f{EitherPorts: ports(t, "80")}, listen, yes},
		{"either port of a listener, neither", f{EitherPorts: ports(t, "1-79,81-65535")}, listen, no},

		{"no port is in no set", f{RemotePorts: every}, listen, no},
		{"no port is in no set, either", f{EitherPorts: every}, event(fsm.Established, fsm.Closed, "10.0.0.1:0", "10.0.0.2:0"), no},
		{"no port yet is in no set", f{EitherPorts: events.PortSet{{First: 0, Last: 0}}}, connect, later},

		{"local net", f{LocalNets: nets("10.0.0.0/31")}, established, yes},
		{"local net, not", f{LocalNets: nets("10.0.0.2/31")}, established, no},
		{"local net of two", f{LocalNets: nets("192.0.2.0/24", "10.0.0.1/32")}, established, yes},
		{"local net of v4-mapped", f{LocalNets: nets("10.0.0.0/8")}, mapped, yes},
		{"local net of IPv6", f{LocalNets: nets("2001:db8::/32")}, established6, yes},
		{"local IPv4 net of IPv6", f{LocalNets: nets("0.0.0.0/0")}, established6, no},
		{"local IPv6 net of IPv4", f{LocalNets: nets("::/0")}, established, no},
		{"local net of a connect", f{LocalNets: nets("10.0.0.1/32")}, connect, yes},
		{"local net of a child", f{LocalNets: nets("10.0.0.0/8")}, born, later},
		{"local net of a child of a bound listener", f{LocalNets: nets("::1/128")}, bornBound, yes},
		{"local net, not, of a child of a bound listener", f{LocalNets: nets("::2/128")}, bornBound, no},
		{"local net of a listener on any", f{LocalNets: nets("10.0.0.0/8")}, listen, no},
		{"remote net", f{RemoteNets: nets("10.0.0.2/32")}, established, yes},
		{"remote net, not", f{RemoteNets: nets("10.0.0.1/32")}, established, no},
		{"remote net of a child", f{RemoteNets: nets("10.0.0.0/8")}, bornBound, later},
		{"remote net of a listener", f{RemoteNets: nets("10.0.0.0/8")}, listen, no},

		{"PID", f{PIDs: []uint32{1, 4242}}, established, yes},
		{"another PID", f{PIDs: []uint32{1}}, established, no},
		{"PID of nobody", f{PIDs: []uint32{0, 4242}}, unowned, no},
		{"name", f{Comms: []string{"wget", "curl"}}, established, yes},
		{"a part of the name", f{Comms: []string{"cur"}}, established, no},
		{"the name in another case", f{Comms: []string{"Curl"}}, established, no},
		{"name of nobody", f{Comms: []string{"", "curl"}}, unowned, no},

		{"state left", f{States: []fsm.State{fsm.SynSent}}, established, yes},
		{"state entered", f{States: []fsm.State{fsm.Closed, fsm.Established}}, established, yes},
		{"neither state", f{States: []fsm.State{fsm.Closed, fsm.Listen}}, established, no},

		{"netns", f{NetNS: 100}, established, yes},
		{"another netns", f{NetNS: 101}, established, no},
		{"cgroup", f{Cgroups: []uint64{1, 200}}, established, yes},
		{"another cgroup", f{Cgroups: []uint64{1}}, established, no},
		{"socket", f{Cookies: []uint64{1, 300}}, established, yes},
		{"another socket", f{Cookies: []uint64{1}}, established, no},

		{"all met", f{
			IPv4: true, LocalPorts: ports(t, "40000"), RemotePorts: ports(t, "443"), EitherPorts: ports(t, "443"),
			LocalNets: nets("10.0.0.1/32"), RemoteNets: nets("10.0.0.2/32"), PIDs: []uint32{4242}, Comms: []string{"curl"},
			States: []fsm.State{fsm.SynSent}, NetNS: 100, Cgroups: []uint64{200},
		}, established, yes},
		{"all but one met", f{LocalPorts: ports(t, "40000"), RemotePorts: ports(t, "80")}, established, no},
		{"both ports of a connect", f{LocalPorts: ports(t, "40000"), RemotePorts: ports(t, "443")}, connect, later},
		{"undecided does not save what is not met after it", f{LocalPorts: ports(t, "40000"), RemotePorts: ports(t, "80")}, connect, no},
		{"undecided does not save what is not met before it", f{IPv6: true, LocalPorts: ports(t, "40000")}, connect, no},
		{"undecided does not save the PID", f{PIDs: []uint32{1}, LocalPorts: ports(t, "40000")}, connect, no},
		{"undecided port does not save the net", f{LocalPorts: ports(t, "40000"), LocalNets: nets("192.0.2.0/24")}, connect, no},
		{"undecided net does not save the port", f{LocalPorts: ports(t, "81"), LocalNets: nets("10.0.0.0/8")}, born, no},
		{"port met, net undecided", f{LocalPorts: ports(t, "80"), LocalNets: nets("10.0.0.0/8")}, born, later},
		{"port undecided, net met", f{LocalPorts: ports(t, "40000"), LocalNets: nets("10.0.0.0/8")}, connect, later},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.filter.Match(&c.event); got != c.want {
				t.Errorf("%+v of %v -> %v, %v, %v is %v, want %v", c.filter, c.event.From, c.event.To, c.event.Local, c.event.Remote, got, c.want)
			}
		})
	}
}

// What is undecided at one event is decided at the next of the same socket.
func TestFilterDecidesAtTheNextEvent(t *testing.T) {
	filters := []events.Filter{
		{IPv4: true}, {IPv6: true},
		{LocalPorts: ports(t, "40000")}, {RemotePorts: ports(t, "40000")}, {EitherPorts: ports(t, "40000")},
		{LocalNets: nets("127.0.0.0/8")}, {RemoteNets: nets("127.0.0.0/8")},
	}
	for _, s := range eventstest.Scenarios() {
		undecided := map[uint64]bool{}
		for _, e := range s.Events {
			pending := false
			for _, f := range filters {
				if f.Match(&e) == events.Undecided {
					pending = true
					if undecided[e.Cookie] {
						t.Errorf("%s: %v -> %v of %d is undecided like the one before", s.Name, e.From, e.To, e.Cookie)
					}
				}
			}
			undecided[e.Cookie] = pending
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	f := events.Filter{
		IPv4: true, EitherPorts: ports(t, "1-1000"), LocalNets: nets("10.0.0.0/8"), RemoteNets: nets("10.0.0.0/8"),
		PIDs: []uint32{4242}, Comms: []string{"curl"}, States: fsm.States(), NetNS: 100, Cgroups: []uint64{200}, Cookies: []uint64{300},
	}
	e := event(fsm.SynSent, fsm.Established, "10.0.0.1:40000", "10.0.0.2:443")
	if n := testing.AllocsPerRun(100, func() {
		if f.Match(&e) != events.Accept {
			t.Fatal("not met")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParsePorts(t *testing.T) {
	type r = events.PortRange
	for text, want := range map[string]events.PortSet{
		"80":               {r{80, 80}},
		"1":                {r{1, 1}},
		"65535":            {r{65535, 65535}},
		"80,443":           {r{80, 80}, r{443, 443}},
		"8000-8080,9000":   {r{8000, 8080}, r{9000, 9000}},
		"1-65535":          {r{1, 65535}},
		"80-80":            {r{80, 80}},
		" 80 , 90 - 100 ":  {r{80, 80}, r{90, 100}},
		"80,80":            {r{80, 80}, r{80, 80}},
		"0080":             {r{80, 80}},
		"443,80,1000-2000": {r{443, 443}, r{80, 80}, r{1000, 2000}},
	} {
		if got, err := events.ParsePorts(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("ParsePorts(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestParsePortsErrors(t *testing.T) {
	for _, text := range []string{
		"", " ", "0", "65536", "80-", "-80", "-", "--", "abc", "90-80", "80,,443", ",", "80,", ",80",
		"80-90-100", "0-80", "80-65536", "80 90", "80;90", "http", "+80", "-1", "8_0", "0x50", "8e1", "80.0",
		"99999999999999999999", "\x00", "\xff", "８０",
	} {
		set, err := events.ParsePorts(text)
		if err == nil || set != nil {
			t.Errorf("ParsePorts(%q) = %v, %v, want an error", text, set, err)
			continue
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("ports %q", text)) {
			t.Errorf("ParsePorts(%q): the error does not tell what was asked: %v", text, err)
		}
	}
}

func TestPortSetContains(t *testing.T) {
	set := ports(t, "80,8000-8080")
	for port := range 65536 {
		want := port == 80 || 8000 <= port && port <= 8080
		if set.Contains(uint16(port)) != want {
			t.Errorf("%v contains %d: %v", set, port, !want)
		}
	}
	if (events.PortSet)(nil).Contains(80) {
		t.Error("an empty set contains 80")
	}
}

// What parses holds ports only and means the same written plainly.
func FuzzParsePorts(f *testing.F) {
	for _, text := range []string{"80", "80,443", "8000-8080,9000", " 1 - 2 ", "", "0", "65536", "80-", "-80", "90-80", "80,,443"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, err := events.ParsePorts(text)
		if err != nil {
			if set != nil {
				t.Fatalf("%v with the error %v", set, err)
			}
			return
		}
		if len(set) != strings.Count(text, ",")+1 {
			t.Fatalf("%q gives %d ranges", text, len(set))
		}
		var plain []string
		for _, r := range set {
			if r.First == 0 || r.First > r.Last {
				t.Fatalf("%q gives %v", text, r)
			}
			plain = append(plain, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
		again, err := events.ParsePorts(strings.Join(plain, ","))
		if err != nil || !slices.Equal(again, set) {
			t.Fatalf("%q gives %v, which gives %v, %v", text, set, again, err)
		}
		if set.Contains(0) {
			t.Fatalf("%q contains 0", text)
		}
	})
}
