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
		{"time wait", func(s *Script) { s.TimeWait(fsm.EndExpired, 60*time.Second) }},
		{"time wait reused", func(s *Script) { s.TimeWait(fsm.EndReused, 2*time.Second) }},
		{"time wait reset", func(s *Script) { s.TimeWait(fsm.EndReset, time.Millisecond) }},
		{"time wait destroyed", func(s *Script) { s.TimeWait(fsm.EndKilled, time.Second) }},
		{"simultaneous close", (*Script).SimultaneousClose},
		{"orphan", (*Script).Orphan},
		{"orphan answers data", (*Script).OrphanAnswersData},
		{"orphan, FIN estimated", (*Script).OrphanEstimated},
		{"orphan, FIN seen", (*Script).OrphanTimeWait},
		{"begun anew", (*Script).BegunAnew},
		{"time wait skipped", func(s *Script) { s.Skipped(Skipped(16384, 16384)) }},
		{"time wait not observed", func(s *Script) { s.Skipped(Skipped(12, 16384)) }},
		{"handshakes", (*Script).Handshakes},
		{"SYN cookie", (*Script).SYNCookie},
		{"resets with reasons", (*Script).ResetsWithReasons},
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

// Reasons of the resets here.
var (
	resetUnread = reset("TCP_ABORT_ON_CLOSE")
	resetData   = reset("TCP_ABORT_ON_DATA")
	resetMemory = reset("TCP_ABORT_ON_MEMORY")
)

func reset(name string) events.Reset { return events.Reset(events.ResetNumbers()[name]) }

// askAndAnswer opens a connection in which curl asks 78 bytes and nginx, who
// heard of it 20 ms before, answers 1024, and sets what each has counted then.
func (s *Script) askAndAnswer() (c, child *Socket, asked, answered []Option) {
	c, listener := s.Pair("10.0.0.1:40008", "10.0.0.2:80")
	child = listener.To(fsm.Listen, 0).Accept("10.0.0.2:80", "10.0.0.1:40008")
	c.To(fsm.SynSent, time.Second)
	c.To(fsm.Established, 10*time.Millisecond, Counters(1, 0, 10_000, 0))
	child.To(fsm.SynRcvd, 10*time.Millisecond)
	child.To(fsm.Established, 3*time.Microsecond, Since(20*time.Millisecond+3*time.Microsecond))
	return c, child,
		[]Option{Counters(79, 1024, 10_000, 0), Sent(78)},
		[]Option{Counters(1025, 78, 10_000, 1), Sent(1024)}
}

// untilFinWait2 goes on to where curl has closed, or only shut its side, and
// nginx has acknowledged that but not closed.
func (s *Script) untilFinWait2(how Option) (c, child *Socket, asked, answered []Option) {
	c, child, asked, answered = s.askAndAnswer()
	c.To(fsm.FinWait1, 100*time.Millisecond, append(asked, how)...)
	// The FIN counts.
	asked[0], answered[0] = Counters(80, 1024, 10_000, 0), Counters(1025, 79, 10_000, 1)
	child.To(fsm.CloseWait, 10*time.Millisecond, answered...)
	c.To(fsm.FinWait2, 10*time.Millisecond, asked...)
	return c, child, asked, answered
}

// hungUp is the end of both sides, from FIN_WAIT_2 on, and what c has counted
// then.
func (s *Script) hungUp(child *Socket, answered []Option) Option {
	child.To(fsm.LastAck, time.Second, append(answered, ByClose)...)
	child.To(fsm.Closed, 20*time.Millisecond, Counters(1026, 79, 10_000, 1), Sent(1024))
	return func(c *Socket, e *events.Event) {
		Counters(80, 1025, 10_000, 0)(c, e)
		Sent(78)(c, e)
	}
}

// TimeWait is a connection that ends in good order. A minisock keeps it in
// TIME_WAIT, to the given end.
func (s *Script) TimeWait(end fsm.End, lasts time.Duration) {
	c, child, _, answered := s.untilFinWait2(ByClose)
	counted := s.hungUp(child, answered)
	c.To(fsm.TimeWait, time.Microsecond, Minisock, counted)
	c.End(end, lasts)
}

// SimultaneousClose is a connection of which both sides close before they hear
// of the other.
func (s *Script) SimultaneousClose() {
	c, child, asked, answered := s.askAndAnswer()
	c.To(fsm.FinWait1, time.Second, append(asked, ByClose)...)
	child.To(fsm.FinWait1, time.Microsecond, append(answered, ByClose)...)
	c.To(fsm.Closing, 10*time.Millisecond)
	child.To(fsm.Closing, time.Microsecond)
	c.To(fsm.TimeWait, 10*time.Millisecond, Minisock, Counters(80, 1025, 10_000, 0), Sent(78))
	child.To(fsm.TimeWait, time.Microsecond, Minisock, Counters(1026, 79, 10_000, 1), Sent(1024))
	c.End(fsm.EndExpired, 60*time.Second)
	child.End(fsm.EndExpired, time.Millisecond)
}

// Orphan is a connection that curl closes and nginx does not: a minisock waits
// for the FIN in FIN_WAIT_2, in vain.
func (s *Script) Orphan() {
	c, _, asked, _ := s.untilFinWait2(ByClose)
	c.To(fsm.FinWait2, time.Microsecond, append(asked, Minisock)...)
	c.End(fsm.EndExpired, 60*time.Second)
}

// OrphanAnswersData is Orphan, but nginx sends more.
func (s *Script) OrphanAnswersData() {
	c, child, asked, answered := s.untilFinWait2(ByClose)
	c.To(fsm.FinWait2, time.Microsecond, append(asked, Minisock)...)
	c.End(fsm.EndResetSent, time.Second)
	child.To(fsm.Closed, 10*time.Millisecond, append(answered, Errno(32))...)
}

// OrphanEstimated is Orphan, but the FIN reaches the minisock. The kernel side
// does not see that, only what it did to the timer.
func (s *Script) OrphanEstimated() {
	c, child, asked, answered := s.untilFinWait2(ByClose)
	c.To(fsm.FinWait2, time.Microsecond, append(asked, Minisock)...)
	s.hungUp(child, answered)
	c.End(fsm.EndExpired, 60*time.Second, Estimated(60*time.Second))
}

// OrphanTimeWait is Orphan, but the FIN reaches the minisock, and the kernel side
// sees its timer being set.
func (s *Script) OrphanTimeWait() {
	c, child, asked, answered := s.untilFinWait2(ByClose)
	c.To(fsm.FinWait2, time.Microsecond, append(asked, Minisock)...)
	s.hungUp(child, answered)
	c.MinisockTo(fsm.TimeWait, time.Microsecond)
	c.End(fsm.EndExpired, 60*time.Second)
}

// BegunAnew is a socket that is connected again, generation 1, while its minisock
// is in TIME_WAIT.
func (s *Script) BegunAnew() {
	c, child, _, answered := s.untilFinWait2(ByShutdown)
	counted := s.hungUp(child, answered)
	c.To(fsm.TimeWait, time.Microsecond, Minisock, counted)
	c.Flags, c.Shutdown = 0, 0
	c.Local, c.Remote = netip.MustParseAddrPort("10.0.0.1:40009"), netip.MustParseAddrPort("10.0.0.3:80")
	c.To(fsm.SynSent, time.Second)
	c.To(fsm.Established, time.Millisecond)
	c.End(fsm.EndExpired, 59*time.Second)
	c.To(fsm.Closed, time.Second, Errno(104))
}

// Skipped is a connection that ends in good order, but without TIME_WAIT: why
// says what is known of that.
func (s *Script) Skipped(why Option) {
	c, child, _, answered := s.untilFinWait2(ByClose)
	counted := s.hungUp(child, answered)
	c.To(fsm.Closed, time.Microsecond, ByFIN, counted, why)
}

// Handshakes is four of a listener that come to nothing, each in another way.
func (s *Script) Handshakes() {
	_, l := s.Pair("10.0.0.1:40000", "10.0.0.2:80")
	l.To(fsm.Listen, 0)
	l.Request("10.0.0.2:80", "10.0.0.9:50001", fsm.EndReset, 10*time.Millisecond, time.Second)
	l.Request("10.0.0.2:80", "10.0.0.9:50002", fsm.EndResetSent, 10*time.Millisecond, time.Second)
	l.Request("10.0.0.2:80", "10.0.0.9:50003", fsm.EndExpired, 63*time.Second, 63*time.Second)
	l.To(fsm.Closed, time.Second, ByClose)
	l.Request("10.0.0.2:80", "10.0.0.9:50004", fsm.EndListenerClosed, time.Second, time.Microsecond)
}

// SYNCookie is a child of a handshake of which the kernel kept nothing.
func (s *Script) SYNCookie() {
	_, l := s.Pair("10.0.0.1:40000", "10.0.0.2:80")
	child := l.To(fsm.Listen, 0).Accept("10.0.0.2:80", "10.0.0.1:40010")
	child.To(fsm.SynRcvd, time.Second)
	child.To(fsm.Established, 3*time.Microsecond, Unseen)
	child.To(fsm.CloseWait, time.Second)
	child.To(fsm.LastAck, time.Millisecond, ByClose)
	child.To(fsm.Closed, time.Millisecond)
}

// ResetsWithReasons is four ends by which the kernel sends a reset and says why.
func (s *Script) ResetsWithReasons() {
	_, child, _, answered := s.askAndAnswer()
	child.To(fsm.Closed, time.Second, append(answered, ByClose, With(events.FlagUnread), ResetSent(resetUnread))...)
	for i, end := range []struct {
		from fsm.State
		opts []Option
	}{
		{fsm.FinWait1, []Option{ResetSent(resetMemory)}},
		{fsm.FinWait2, []Option{ResetSent(resetData)}},
		{fsm.LastAck, []Option{Errno(32), ResetSent(events.ResetUnspecified)}},
	} {
		c, _ := s.Pair(fmt.Sprintf("10.0.0.1:%d", 40011+i), "10.0.0.2:80")
		c.To(fsm.SynSent, 0)
		c.To(fsm.Established, time.Millisecond)
		if end.from == fsm.LastAck {
			c.To(fsm.CloseWait, time.Second)
			c.To(fsm.LastAck, time.Millisecond, ByClose)
		} else {
			c.To(fsm.FinWait1, time.Second, ByClose)
		}
		if end.from == fsm.FinWait2 {
			c.To(fsm.FinWait2, time.Millisecond)
		}
		c.To(fsm.Closed, time.Millisecond, end.opts...)
	}
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
