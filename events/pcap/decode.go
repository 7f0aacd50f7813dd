package pcap

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"tcptrace/fsm/segment"
)

// Addr is an IP address; IPv4 is mapped into IPv6.
type Addr [16]byte

// Segment is a TCP segment with what its packet tells beside.
type Segment struct {
	// Time in nanoseconds since 1970, of the packet's capture. 0: there was none.
	Time uint64

	Src, Dst         Addr
	SrcPort, DstPort uint16
	IPv6             bool

	Seq, Ack uint32
	Flags    segment.Flags
	// Text is how many bytes the segment carries, by the IP header: also what the
	// snapshot left out.
	Text uint32
	// MSS is the option of a SYN, 0 where there is none.
	MSS uint16
	// Stamp is the option of RFC 7323, if HasStamp.
	Stamp    uint32
	HasStamp bool
	// Print tells this segment from others of the same connection: two with the same are
	// one, captured twice.
	Print uint64
}

// Next returns the sequence number after the segment.
func (s *Segment) Next() uint32 { return s.Seq + segment.Space(s.Flags, s.Text) }

// Source and Destination return the ends.
func (s *Segment) Source() netip.AddrPort { return addrPort(s.Src, s.SrcPort) }

// Destination returns where it goes.
func (s *Segment) Destination() netip.AddrPort { return addrPort(s.Dst, s.DstPort) }

func addrPort(a Addr, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
}

// Link types that have two numbers, or none at gopacket.
const (
	linkRawBSD  = 12 // of OpenBSD: 14
	linkRawBSD2 = 14
)

func understood(l layers.LinkType) bool {
	switch l {
	case layers.LinkTypeNull, layers.LinkTypeLoop, layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL, layers.LinkTypeLinuxSLL2,
		layers.LinkTypeRaw, linkRawBSD, linkRawBSD2, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		return true
	}
	return false
}

// Numbers of the protocols, as in the headers.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd

	protoTCP      = 6
	protoHopByHop = 0
	protoRouting  = 43
	protoFragment = 44
	protoAuth     = 51
	protoOptions  = 60
	protoMobility = 135
	protoHIP      = 139
	protoShim6    = 140
)

// decode takes a packet of so many bytes, of which b was captured, apart, and reports
// whether it is a segment. If not, it has counted why.
func (r *Reader) decode(link layers.LinkType, b []byte, length int, s *Segment) bool {
	header, proto, ok := linkHeader(link, b)
	switch {
	case !understood(link):
		r.counts.UnknownLink++
		return false
	case !ok:
		r.counts.Truncated++
		return false
	}
	b, length = b[header:], length-header
	*s = Segment{}
	switch proto {
	case etherIPv4:
		return r.ipv4(b, length, s)
	case etherIPv6:
		return r.ipv6(b, length, s)
	}
	r.counts.Other++
	return false
}

// linkHeader returns how long the header before the IP packet is, and the protocol by
// its number for Ethernet, 0 for what is not IP.
func linkHeader(link layers.LinkType, b []byte) (size int, proto uint16, ok bool) {
	switch link {
	case layers.LinkTypeNull, layers.LinkTypeLoop:
		if len(b) < 4 {
			return 0, 0, false
		}
		family := binary.LittleEndian.Uint32(b)
		if family > 0xffff { // of a host of the other byte order, or of LinkTypeLoop
			family = binary.BigEndian.Uint32(b)
		}
		switch family {
		case 2:
			return 4, etherIPv4, true
		case 10, 24, 28, 30: // of Linux, NetBSD, FreeBSD, macOS
			return 4, etherIPv6, true
		}
		return 4, 0, true
	case layers.LinkTypeEthernet:
		return tagged(b, 12)
	case layers.LinkTypeLinuxSLL:
		return tagged(b, 14)
	case layers.LinkTypeLinuxSLL2: // the protocol is in front, tags follow the header
		const header = 20
		if len(b) < header {
			return 0, 0, false
		}
		proto = binary.BigEndian.Uint16(b)
		if !isTag(proto) {
			return header, proto, true
		}
		return tagged(b, header+2)
	}
	// The IP packet comes first and says which it is.
	if len(b) < 1 {
		return 0, 0, false
	}
	switch b[0] >> 4 {
	case 4:
		return 0, etherIPv4, true
	case 6:
		return 0, etherIPv6, true
	}
	return 0, 0, true
}

// tagged reads the protocol at the offset, behind any VLAN tags.
func tagged(b []byte, at int) (size int, proto uint16, ok bool) {
	for {
		if len(b) < at+2 {
			return 0, 0, false
		}
		proto = binary.BigEndian.Uint16(b[at:])
		if !isTag(proto) {
			return at + 2, proto, true
		}
		at += 4
	}
}

// isTag reports whether it is that of a VLAN: 802.1Q, 802.1ad, and the one before that.
func isTag(proto uint16) bool { return proto == 0x8100 || proto == 0x88a8 || proto == 0x9100 }

func (r *Reader) ipv4(b []byte, length int, s *Segment) bool {
	if len(b) < 20 {
		r.counts.Truncated++
		return false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 { // segmentation is left to the hardware, and there was no room to say how much it is
		total = length
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	switch {
	case b[9] != protoTCP:
		r.counts.Other++
		return false
	case b[0]>>4 != 4 || header < 20 || total < header:
		r.counts.Malformed++
		return false
	case fragment&0x3fff != 0: // more of them, or an offset
		r.counts.Fragments++
		return false
	case len(b) < header:
		r.counts.Truncated++
		return false
	}
	s.Src, s.Dst = mapped(b[12:]), mapped(b[16:])
	s.Print = uint64(binary.BigEndian.Uint16(b[4:]))
	return r.tcp(b[header:min(total, len(b))], total-header, s)
}

func mapped(b []byte) Addr {
	return Addr{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}
}

func (r *Reader) ipv6(b []byte, length int, s *Segment) bool {
	const fixed = 40
	if len(b) < fixed {
		r.counts.Truncated++
		return false
	}
	total := fixed + int(binary.BigEndian.Uint16(b[4:]))
	if total == fixed { // a jumbogram, or segmentation left to the hardware
		total = length
	}
	next, at := b[6], fixed
	for next != protoTCP {
		var size int
		switch next {
		case protoHopByHop, protoRouting, protoOptions, protoMobility, protoHIP, protoShim6:
			size = 8
			if len(b) > at+1 {
				size += int(b[at+1]) * 8
			}
		case protoAuth:
			size = 8
			if len(b) > at+1 {
				size += int(b[at+1]) * 4
			}
		case protoFragment:
			size = 8
			if len(b) >= at+4 && binary.BigEndian.Uint16(b[at+2:])&0xfff9 != 0 { // an atomic one is whole
				r.counts.Fragments++
				return false
			}
		default:
			r.counts.Other++
			return false
		}
		if len(b) < at+size {
			r.counts.Truncated++
			return false
		}
		next, at = b[at], at+size
	}
	if b[0]>>4 != 6 || total < at {
		r.counts.Malformed++
		return false
	}
	s.IPv6 = true
	s.Src, s.Dst = Addr(b[8:]), Addr(b[24:])
	return r.tcp(b[at:max(at, min(total, len(b)))], total-at, s)
}

// tcp reads the header of a segment of so many bytes.
func (r *Reader) tcp(b []byte, length int, s *Segment) bool {
	const fixed, flagsEnd = 20, 14
	if len(b) < flagsEnd {
		r.counts.Truncated++
		return false
	}
	header := int(b[12]>>4) * 4
	if header < fixed || length < header {
		r.counts.Malformed++
		return false
	}
	s.SrcPort, s.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	s.Seq, s.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	s.Flags = segment.Flags(b[13])
	s.Text = uint32(length - header)
	s.print(b[:min(header, len(b))])
	if len(b) > fixed && header > fixed {
		s.options(b[fixed:min(header, len(b))])
	}
	return true
}

// print makes a number of the header, but for the checksum, which a copy for the
// hardware to fill in has otherwise.
func (s *Segment) print(header []byte) {
	const prime = 0x100000001b3 // of FNV-1a, a word at a time
	h := (s.Print ^ 0xcbf29ce484222325) * prime
	h = (h ^ uint64(s.Text)) * prime
	h = (h ^ uint64(s.Seq)<<32 ^ uint64(s.Ack)) * prime
	h = (h ^ uint64(s.SrcPort)<<16 ^ uint64(s.Flags)) * prime
	h ^= h >> 29
	if len(header) >= 16 {
		h = (h ^ uint64(binary.BigEndian.Uint16(header[14:]))) * prime
	}
	for at := 20; at+4 <= len(header); at += 4 {
		h = (h ^ uint64(binary.BigEndian.Uint32(header[at:]))) * prime
	}
	s.Print = h ^ h>>32
}

func (s *Segment) options(b []byte) {
	for len(b) > 0 {
		kind := b[0]
		switch kind {
		case 0:
			return
		case 1:
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return
		}
		size := int(b[1])
		switch {
		case kind == 2 && size == 4:
			s.MSS = binary.BigEndian.Uint16(b[2:])
		case kind == 8 && size == 10:
			s.Stamp, s.HasStamp = binary.BigEndian.Uint32(b[2:]), true
		}
		b = b[size:]
	}
}
