package eventstest

import (
	"fmt"
	"net/netip"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
)

// Scenario is something that happened on a host.
type Scenario struct {
	Name   string
	Events []events.Event
}

// Scenarios returns all that this package has ready, each beginning at [Start].
func Scenarios() []Scenario {
	var list []Scenario
	for _, s := range []struct {
		name  string
		write func(*Script)
	}{
		{"loopback IPv4", func(s *Script) { s.Exchange("127.0.0.1:40000", "127.0.0.1:80") }},
		{"loopback IPv6", func(s *Script) { s.Exchange("[::1]:40000", "[::1]:80") }},
		{"loopback v4-mapped", (*Script).Mapped},
		{"refused", (*Script).Refused},
		{"reset", (*Script).Reset},
		{"connected to itself", (*Script).SelfConnected},
		{"reconnected", (*Script).Reconnected},
		{"listener reopened", (*Script).Relistened},
		{"hostile names", (*Script).HostileNames},
		{"gap", (*Script).Gap},
		{"illegal edge", (*Script).IllegalEdge},
		{"illegal jump", (*Script).IllegalJump},
	} {
		script := New(Start)
		s.write(script)
		list = append(list, Scenario{s.name, script.Events()})
	}
	return list
}

// Pair returns a connecting socket and the listener that it will find, both
// closed, of the processes curl and nginx.
func (s *Script) Pair(client, server string) (c, listener *Socket) {
	listener = s.Socket(server, "")
	listener.Owner = Owned(80, "nginx", events.OwnerListen)
	c = s.Socket(client, server)
	c.Owner = Owned(4242, "curl", events.OwnerConnect)
	return c, listener
}

// Exchange is a connection on loopback, from listen to the end of both
// sides: curl asks, closes first, and is closed by nginx.
func (s *Script) Exchange(client, server string) {
	c, listener := s.Pair(client, server)
	s.exchange(c, listener)
}

func (s *Script) exchange(c, listener *Socket) {
	listener.To(fsm.Listen, 0)
	child := listener.Accept(c.Remote.String(), c.Local.String())
	c.To(fsm.SynSent, time.Second)
	c.To(fsm.Established, 30*time.Microsecond, Counters(1, 0, 33, 0))
	child.To(fsm.SynRcvd, 20*time.Microsecond)
	child.To(fsm.Established, 3*time.Microsecond, Counters(1, 0, 45, 0))
	s.hangUp(c, child, 176*time.Millisecond)
	listener.To(fsm.Closed, time.Second, ByClose)
}

// hangUp ends an established connection, c first.
func (s *Script) hangUp(c, child *Socket, after time.Duration) {
	asked, answered := Counters(79, 1024, 40, 0), Counters(1025, 78, 50, 0)
	c.To(fsm.FinWait1, after, ByClose, asked)
	child.To(fsm.CloseWait, 10*time.Microsecond, answered)
	c.To(fsm.FinWait2, 10*time.Microsecond, asked)
	child.To(fsm.LastAck, 40*time.Microsecond, ByClose, answered)
	c.To(fsm.Closed, 10*time.Microsecond, ByFIN, asked)
	child.To(fsm.Closed, 5*time.Microsecond, answered)
}

// Mapped is Exchange with a dual-stack listener: its child is an AF_INET6
// socket with IPv4 ends, and the client's socket too.
func (s *Script) Mapped() {
	c, listener := s.Pair("127.0.0.1:40000", "[::]:80")
	c.Remote = netip.MustParseAddrPort("127.0.0.1:80")
	c.Family = afInet6
	s.exchange(c, listener)
}

// Refused is a connect to a port on which nobody listens.
func (s *Script) Refused() {
	c, _ := s.Pair("10.0.0.1:40001", "10.0.0.2:81")
	c.To(fsm.SynSent, 0)
	c.To(fsm.Closed, 300*time.Microsecond, Errno(111))
}

// Reset is a connection that nginx ends by closing with data unread: a reset
// goes to curl.
func (s *Script) Reset() {
	c, listener := s.Pair("127.0.0.1:40002", "127.0.0.1:80")
	child := listener.To(fsm.Listen, 0).Accept("127.0.0.1:80", "127.0.0.1:40002")
	c.To(fsm.SynSent, time.Second)
	c.To(fsm.Established, 30*time.Microsecond)
	child.To(fsm.SynRcvd, 20*time.Microsecond)
	child.To(fsm.Established, 3*time.Microsecond)
	child.To(fsm.Closed, time.Millisecond, ByClose, With(events.FlagUnread))
	c.To(fsm.Closed, 10*time.Microsecond, Errno(104))
}

// SelfConnected is a socket bound to a port and connected to it: it opens and
// closes simultaneously with itself.
func (s *Script) SelfConnected() {
	c := s.Socket("127.0.0.1:5000", "127.0.0.1:5000")
	c.Owner = Owned(4243, "narcissus", events.OwnerConnect)
	c.To(fsm.SynSent, 0, func(c *Socket, e *events.Event) { e.Local = c.Local }) // bound before
	c.To(fsm.SynRcvd, 20*time.Microsecond)
	c.To(fsm.Established, 5*time.Microsecond)
	c.To(fsm.FinWait1, time.Second, ByShutdown)
	c.To(fsm.Closing, 10*time.Microsecond)
	c.To(fsm.Closing, time.Second, ByClose) // the close after a shutdown
	c.To(fsm.Closed, 5*time.Microsecond)
}

// Reconnected is a socket that its process disconnects with connect(AF_UNSPEC)
// and connects again: generation 1.
func (s *Script) Reconnected() {
	c, _ := s.Pair("10.0.0.1:40003", "10.0.0.2:80")
	c.To(fsm.SynSent, 0)
	c.To(fsm.Established, time.Millisecond)
	c.To(fsm.Closed, time.Second, With(events.FlagLocal))
	c.Local, c.Remote = netip.MustParseAddrPort("10.0.0.1:40004"), netip.MustParseAddrPort("10.0.0.3:80")
	c.To(fsm.SynSent, time.Second)
	c.To(fsm.Established, time.Millisecond)
	c.To(fsm.CloseWait, time.Second)
	c.To(fsm.LastAck, time.Millisecond, ByClose)
	c.To(fsm.Closed, time.Millisecond)
}

// Relistened is a listener that is shut down and listens again.
func (s *Script) Relistened() {
	l := s.Socket("0.0.0.0:8080", "")
	l.Owner = Owned(80, "nginx", events.OwnerListen)
	l.To(fsm.Listen, 0)
	l.To(fsm.Closed, time.Minute)
	l.To(fsm.Listen, time.Second)
	l.To(fsm.Closed, time.Minute, ByClose)
}

// HostileComms are names that a process may give itself and that no output may
// show as they are.
var HostileComms = []string{
	"a b\tc\nd",
	"\x1b[2J\x1b]0;x\a",
	`"},{"x":"`,
	"\xff\xfe\x80",
	"\u202eevil",
	"<b>&amp;",
	"-",
	"exactly15bytes!",
	" ",
	"",
}

// HostileNames is one refused connect by each of HostileComms.
func (s *Script) HostileNames() {
	for i, comm := range HostileComms {
		c := s.Socket(fmt.Sprintf("10.0.0.1:%d", 41000+i), "10.0.0.2:81")
		c.Owner = Owned(uint32(5000+i), comm, events.OwnerConnect)
		c.To(fsm.SynSent, time.Millisecond)
		c.To(fsm.Closed, time.Millisecond, Errno(111))
	}
}

// Gap is a connection of which two records were lost.
func (s *Script) Gap() {
	c, _ := s.Pair("10.0.0.1:40005", "10.0.0.2:80")
	c.To(fsm.SynSent, 0)
	c.To(fsm.Established, time.Millisecond)
	c.Lose(fsm.FinWait1, time.Second, ByClose)
	c.Lose(fsm.FinWait2, time.Millisecond)
	c.To(fsm.Closed, time.Millisecond, ByFIN)
}

// IllegalEdge is a connection that takes an edge that the machine does not have.
func (s *Script) IllegalEdge() {
	c, _ := s.Pair("10.0.0.1:40006", "10.0.0.2:80")
	c.To(fsm.SynSent, 0)
	c.To(fsm.Established, time.Millisecond)
	c.To(fsm.LastAck, time.Second)
	c.To(fsm.Closed, time.Millisecond)
}

// IllegalJump is a connection that leaves a state it was not in.
func (s *Script) IllegalJump() {
	c, _ := s.Pair("10.0.0.1:40007", "10.0.0.2:80")
	c.To(fsm.SynSent, 0)
	c.To(fsm.Established, time.Millisecond)
	c.Jump(fsm.LastAck).To(fsm.Closed, time.Second)
}

// Churn is n short connections on loopback, one after the other.
func (s *Script) Churn(n int) {
	listener := s.Socket("127.0.0.1:80", "")
	listener.Owner = Owned(80, "nginx", events.OwnerListen)
	listener.To(fsm.Listen, 0)
	for i := range n {
		client := fmt.Sprintf("127.0.0.1:%d", 32768+i%28232)
		c := s.Socket(client, "127.0.0.1:80")
		c.Owner = Owned(4242, "wrk", events.OwnerConnect)
		child := listener.Accept("127.0.0.1:80", client)
		c.To(fsm.SynSent, 20*time.Microsecond)
		c.To(fsm.Established, 30*time.Microsecond)
		child.To(fsm.SynRcvd, 20*time.Microsecond)
		child.To(fsm.Established, 3*time.Microsecond)
		s.hangUp(c, child, time.Millisecond)
	}
}
