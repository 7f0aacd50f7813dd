package main

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// oddPeer is what answers for hosts that are not there: seldom as it should.
type oddPeer struct {
	rng    *rand.Rand
	hosts  []netip.Addr // that it is, or lies to be
	own    []netip.Addr // of the namespace, IPv4
	ports  []uint16     // of listeners there
	tap    int          // sees what is sent to the hosts
	raw    int
	enough chan struct{}
	done   chan error
	ended  bool
}

// startOddPeer starts one in the namespace.
func (ns *netns) startOddPeer(seed uint64, c *walkerConfig) *oddPeer {
	t := ns.t
	t.Helper()
	p := &oddPeer{
		rng: rand.New(rand.NewPCG(seed, 1<<32)), hosts: c.Silent, ports: c.Listen,
		own:    slices.DeleteFunc(slices.Clone(c.Own), netip.Addr.Is6),
		enough: make(chan struct{}), done: make(chan error, 1),
	}
	const toAll = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // in the order of the network
	ns.do(func() (err error) {
		if p.tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, toAll); err != nil {
			return err
		}
		p.raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	t.Cleanup(func() { _ = p.end() })
	check(t, unix.SetsockoptTimeval(p.tap, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 5000}))
	go func() { p.done <- p.run() }()
	return p
}

// end stops it; what it answered for is silent from then on.
func (p *oddPeer) end() error {
	if p.ended {
		return nil
	}
	p.ended = true
	close(p.enough)
	return errors.Join(<-p.done, unix.Close(p.tap), unix.Close(p.raw))
}

func (p *oddPeer) run() error {
	due := time.Now()
	for b := make([]byte, 64<<10); ; {
		select {
		case <-p.enough:
			return nil
		default:
		}
		n, from, err := unix.Recvfrom(p.tap, b, 0)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return err
		}
		const ipHeader, tcpHeader = 20, 20
		if link, ok := from.(*unix.SockaddrLinklayer); ok && err == nil && link.Pkttype == unix.PACKET_OUTGOING &&
			n >= ipHeader+tcpHeader && b[9] == unix.IPPROTO_TCP {
			if s := parseSegment(b[:n]); slices.Contains(p.hosts, s.to.Addr()) {
				p.answer(&s)
			}
		}
		if time.Now().After(due) {
			due = time.Now().Add(time.Duration(p.rng.IntN(20)) * time.Millisecond)
			p.send(&segment{ // begins to connect
				from: netip.AddrPortFrom(pick(p.rng, p.hosts), uint16(5000+p.rng.IntN(20))),
				to:   netip.AddrPortFrom(pick(p.rng, p.own), pick(p.rng, p.ports)),
				seq:  p.rng.Uint32(), flags: flagSYN,
			})
		}
	}
}

// send sends a segment, if it can: there may be a rule against it.
func (p *oddPeer) send(s *segment) { _ = sendSegment(p.raw, s) }

// oddAnswer is how often it gives an answer, against the others; flags 0 for none.
// ack and seq are what is added to the numbers that would be right.
type oddAnswer struct {
	weight   int
	flags    byte
	seq, ack uint32
}

var (
	toSYN = []oddAnswer{
		{12, flagSYN | flagACK, 0, 0},
		{3, flagRST | flagACK, 0, 0},
		{2, flagSYN, 0, 0}, // both open at once
		{1, flagSYN | flagACK, 0, 1 << 20},
		{1, flagSYN | flagACK | flagFIN, 0, 0},
		{1, flagACK, 0, 0},
		{1, flagFIN | flagACK, 0, 0},
		{4, 0, 0, 0},
	}
	toSYNACK = []oddAnswer{
		{10, flagACK, 0, 0},
		{3, flagFIN | flagACK, 0, 0},
		{3, flagRST, 0, 0},
		{1, flagACK, 0, 1 << 16},
		{1, flagSYN, 0, 0},
		{3, 0, 0, 0},
	}
	toFIN = []oddAnswer{
		{8, flagACK, 0, 0},
		{8, flagFIN | flagACK, 0, 0},
		{3, flagRST, 0, 0},
		{3, flagFIN | flagACK, 0, ^uint32(0)}, // the FIN is not acknowledged: both close at once
		{1, flagSYN, 1 << 10, 0},
		{1, flagRST, 1 << 20, 0},
		{4, 0, 0, 0},
	}
	toOther = []oddAnswer{
		{10, flagACK, 0, 0},
		{5, flagFIN | flagACK, 0, 0},
		{2, flagRST, 0, 0},
		{1, flagRST, 1 << 20, 0}, // not in the window
		{1, flagRST, 1, 0},       // in it, not exact
		{1, flagSYN, 0, 0},
		{1, flagACK, 0, 1 << 20},
		{1, flagFIN | flagRST | flagACK, 0, 0},
		{10, 0, 0, 0},
	}
)

func (p *oddPeer) answer(s *segment) {
	list := toOther
	switch {
	case s.flags&flagRST != 0:
		return
	case s.flags&flagSYN != 0 && s.flags&flagACK != 0:
		list = toSYNACK
	case s.flags&flagSYN != 0:
		list = toSYN
	case s.flags&flagFIN != 0:
		list = toFIN
	}
	sum := 0
	for _, a := range list {
		sum += a.weight
	}
	n := p.rng.IntN(sum)
	for _, a := range list {
		if n -= a.weight; n >= 0 {
			continue
		}
		seq := s.ack
		if s.flags&flagACK == 0 {
			seq = p.rng.Uint32()
		}
		if a.flags != 0 {
			p.send(&segment{from: s.to, to: s.from, seq: seq + a.seq, ack: s.next() + a.ack, flags: a.flags})
		}
		return
	}
}
