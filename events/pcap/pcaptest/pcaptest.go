// Package pcaptest makes captures for tests: segments, the packets that carry them, and
// files of these, byte by byte and without the library that reads them.
package pcaptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"tcptrace/fsm/segment"
)

// Flags are those of a header.
type Flags = segment.Flags

// Segment is a TCP segment of a test.
type Segment struct {
	Time     time.Time
	From, To netip.AddrPort
	Flags    segment.Flags
	Seq, Ack uint32
	Window   uint16
	Text     int    // bytes
	MSS      uint16 // option; 0: none
	Stamp    uint32 // option; 0: none
	ID       uint16 // of the IPv4 packet
}

// Packet returns the IP packet.
func (s *Segment) Packet() []byte {
	var options []byte
	if s.MSS != 0 {
		options = binary.BigEndian.AppendUint16(append(options, 2, 4), s.MSS)
	}
	if s.Stamp != 0 {
		options = binary.BigEndian.AppendUint32(append(options, 1, 1, 8, 10), s.Stamp)
		options = binary.BigEndian.AppendUint32(options, 0)
	}
	tcp := make([]byte, 20, 20+len(options)+s.Text)
	binary.BigEndian.PutUint16(tcp, s.From.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.To.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.Seq)
	binary.BigEndian.PutUint32(tcp[8:], s.Ack)
	tcp[12], tcp[13] = byte(5+len(options)/4)<<4, byte(s.Flags)
	binary.BigEndian.PutUint16(tcp[14:], s.Window)
	tcp = append(tcp, options...)
	for i := range s.Text {
		tcp = append(tcp, byte('a'+i%26))
	}
	return IP(s.From.Addr(), s.To.Addr(), 6, s.ID, tcp)
}

// IP returns a packet of a protocol.
func IP(from, to netip.Addr, protocol byte, id uint16, payload []byte) []byte {
	if from.Is4() {
		b := make([]byte, 20, 20+len(payload))
		b[0], b[8], b[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		binary.BigEndian.PutUint16(b[4:], id)
		b[6] = 0x40 // do not fragment
		copy(b[12:], from.AsSlice())
		copy(b[16:], to.AsSlice())
		binary.BigEndian.PutUint16(b[10:], checksum(b))
		return append(b, payload...)
	}
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return append(b, payload...)
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// EtherType is that of an IP packet.
func EtherType(ip []byte) uint16 {
	if ip[0]>>4 == 6 {
		return 0x86dd
	}
	return 0x0800
}

// Ethernet puts an IP packet into a frame, behind these VLAN tags.
func Ethernet(ip []byte, tags ...uint16) []byte {
	b := make([]byte, 12)
	for i, tag := range tags {
		kind := uint16(0x8100)
		if i < len(tags)-1 {
			kind = 0x88a8
		}
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, kind), tag)
	}
	b = append(binary.BigEndian.AppendUint16(b, EtherType(ip)), ip...)
	for len(b) < 60 { // as short ones are filled up
		b = append(b, 0)
	}
	return b
}

// Packet is one of a file.
type Packet struct {
	Time time.Time
	Data []byte // captured
	Size int    // of the whole, 0: of Data
}

func (p *Packet) size() uint32 { return uint32(max(p.Size, len(p.Data))) }

// Pcap returns a file of the old format, with times in nanoseconds or microseconds.
func Pcap(order binary.AppendByteOrder, nanoseconds bool, link uint32, packets ...Packet) []byte {
	magic, unit := uint32(0xa1b2c3d4), 1000
	if nanoseconds {
		magic, unit = 0xa1b23c4d, 1
	}
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(order.AppendUint16(b, 2), 4)
	for _, v := range []uint32{0, 0, 262144, link} {
		b = order.AppendUint32(b, v)
	}
	for i := range packets {
		p := &packets[i]
		for _, v := range []uint32{uint32(p.Time.Unix()), uint32(p.Time.Nanosecond() / unit), uint32(len(p.Data)), p.size()} {
			b = order.AppendUint32(b, v)
		}
		b = append(b, p.Data...)
	}
	return b
}

// NgInterface is an interface of a file of the new format.
type NgInterface struct {
	Link uint16
	// Resolution is of the times: a negative power of ten.
	Resolution byte
	Packets    []Packet
}

// Pcapng returns a file of the new format, with the packets of one interface after those
// of the other.
func Pcapng(order binary.AppendByteOrder, interfaces ...NgInterface) []byte {
	block := func(b []byte, kind uint32, body []byte) []byte {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		size := uint32(12 + len(body))
		b = order.AppendUint32(order.AppendUint32(b, kind), size)
		return order.AppendUint32(append(b, body...), size)
	}
	section := order.AppendUint16(order.AppendUint16(order.AppendUint32(nil, 0x1a2b3c4d), 1), 0)
	b := block(nil, 0x0a0d0d0a, order.AppendUint64(section, 1<<64-1))
	for _, i := range interfaces {
		body := order.AppendUint32(order.AppendUint16(order.AppendUint16(nil, i.Link), 0), 262144)
		body = append(order.AppendUint16(order.AppendUint16(body, 9), 1), i.Resolution, 0, 0, 0) // if_tsresol
		b = block(b, 1, order.AppendUint32(body, 0))
	}
	for n, i := range interfaces {
		for j := range i.Packets {
			p := &i.Packets[j]
			stamp := uint64(p.Time.UnixNano())
			for r := i.Resolution; r < 9; r++ {
				stamp /= 10
			}
			var body []byte
			for _, v := range []uint32{uint32(n), uint32(stamp >> 32), uint32(stamp), uint32(len(p.Data)), p.size()} {
				body = order.AppendUint32(body, v)
			}
			b = block(b, 6, append(body, p.Data...))
		}
	}
	return b
}

// ParseTcpdump reads segments as tcpdump -n -S prints them, on the given day. Lines that
// begin with # are passed over. Of an ACK alone tcpdump tells no sequence number: see
// Follow.
//
//	15:58:19.333425 IP 127.0.0.1.49455 > 127.0.0.1.8080: Flags [S], seq 4076194383, win 43690, options [mss 65495,sackOK,TS val 1559458260 ecr 0,nop,wscale 7], length 0
func ParseTcpdump(day time.Time, text string) ([]Segment, error) {
	var list []Segment
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseTcpdump(day, line)
		if err != nil {
			return nil, fmt.Errorf("parse %q: %w", line, err)
		}
		s.ID = uint16(len(list) + 1)
		list = append(list, s)
	}
	return list, nil
}

func parseTcpdump(day time.Time, line string) (s Segment, err error) {
	head, rest, ok := strings.Cut(line, ": Flags [")
	words := strings.Fields(head)
	if !ok || len(words) != 5 {
		return s, errors.New("no segment")
	}
	at, err := time.Parse("15:04:05.000000", words[0])
	if err != nil {
		return s, err
	}
	s.Time = day.Add(at.Sub(at.Truncate(24 * time.Hour)))
	for i, end := range map[int]*netip.AddrPort{2: &s.From, 4: &s.To} {
		dot := strings.LastIndexByte(words[i], '.')
		if *end, err = netip.ParseAddrPort(words[i][:max(dot, 0)] + ":" + words[i][dot+1:]); err != nil {
			return s, err
		}
	}
	flags, rest, _ := strings.Cut(rest, "]")
	for _, c := range flags {
		s.Flags |= map[rune]segment.Flags{'S': segment.SYN, 'F': segment.FIN, 'R': segment.RST, 'P': segment.PSH, '.': segment.ACK}[c]
	}
	number := func(name string) uint32 {
		_, after, ok := strings.Cut(rest, name+" ")
		if !ok {
			return 0
		}
		digits := strings.IndexFunc(after, func(r rune) bool { return r < '0' || r > '9' })
		if digits < 0 {
			digits = len(after)
		}
		n, parseErr := strconv.ParseUint(after[:digits], 10, 32)
		if parseErr != nil {
			err = parseErr
		}
		return uint32(n)
	}
	s.Seq, s.Ack, s.Text = number("seq"), number(" ack"), int(number("length"))
	s.Window, s.MSS, s.Stamp = uint16(number("win")), uint16(number("mss")), number("TS val")
	return s, err
}

// Follow gives acknowledgements without text the sequence number that they must have,
// as tcpdump does not print it: the one after all that their sender has sent.
func Follow(list []Segment) {
	next := make(map[[2]netip.AddrPort]uint32)
	for i := range list {
		s := &list[i]
		key := [2]netip.AddrPort{s.From, s.To}
		if s.Seq == 0 && s.Text == 0 && s.Flags == segment.ACK {
			s.Seq = next[key]
		}
		next[key] = s.Seq + segment.Space(s.Flags, uint32(s.Text))
	}
}

// Packets returns the segments in packets, each put into a frame by the function.
func Packets(list []Segment, frame func(ip []byte) []byte) []Packet {
	packets := make([]Packet, len(list))
	for i := range list {
		packets[i] = Packet{Time: list[i].Time, Data: frame(list[i].Packet())}
	}
	return packets
}
