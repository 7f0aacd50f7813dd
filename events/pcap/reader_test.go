package pcap_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tcptrace/events/pcap"
	"tcptrace/events/pcap/pcaptest"
	"tcptrace/fsm/segment"
)

var (
	day  = time.Date(2026, 11, 29, 12, 0, 0, 123456789, time.UTC)
	v4   = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:80")}
	v6   = []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:40000"), netip.MustParseAddrPort("[2001:db8::2]:443")}
	both = [][]netip.AddrPort{v4, v6}
)

// samples are three segments of either family.
func samples() []pcaptest.Segment {
	var list []pcaptest.Segment
	for i, ends := range both {
		at := day.Add(time.Duration(i) * time.Second)
		list = append(list,
			pcaptest.Segment{Time: at, From: ends[0], To: ends[1], Flags: segment.SYN, Seq: 1<<32 - 1, Window: 1000, MSS: 1460, Stamp: 77},
			pcaptest.Segment{Time: at.Add(time.Millisecond), From: ends[1], To: ends[0], Flags: segment.SYN | segment.ACK, Seq: 5, Ack: 0, ID: 9},
			pcaptest.Segment{Time: at.Add(2 * time.Millisecond), From: ends[0], To: ends[1], Flags: segment.FIN | segment.PSH | segment.ACK, Seq: 0, Ack: 6, Text: 100, ID: 10})
	}
	return list
}

func read(t *testing.T, file []byte) ([]pcap.Segment, pcap.Counts) {
	t.Helper()
	r, err := pcap.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []pcap.Segment
	for {
		var s pcap.Segment
		switch err := r.Next(&s); err {
		case nil:
			all = append(all, s)
		case io.EOF:
			return all, r.Counts()
		default:
			t.Fatal(err)
		}
	}
}

// check holds what was read against the samples, to the unit of the times.
func check(t *testing.T, got []pcap.Segment, want []pcaptest.Segment, unit time.Duration) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d segments, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := &got[i], &want[i]
		if g.Time != uint64(w.Time.Truncate(unit).UnixNano()) {
			t.Errorf("segment %d is of %d, want %d", i, g.Time, w.Time.Truncate(unit).UnixNano())
		}
		if g.Source() != w.From || g.Destination() != w.To || g.IPv6 != w.From.Addr().Is6() ||
			g.Seq != w.Seq || g.Ack != w.Ack || g.Flags != w.Flags || g.Text != uint32(w.Text) || g.MSS != w.MSS ||
			g.HasStamp != (w.Stamp != 0) || g.Stamp != w.Stamp {
			t.Errorf("segment %d is %+v, want %+v", i, g, w)
		}
		if want := w.Seq + segment.Space(w.Flags, uint32(w.Text)); g.Next() != want {
			t.Errorf("after segment %d comes %d, want %d", i, g.Next(), want)
		}
	}
}

func plain(ip []byte) []byte { return ip }

func TestFormats(t *testing.T) {
	type file struct {
		name string
		data []byte
		unit time.Duration
	}
	var files []file
	orders := []interface {
		binary.ByteOrder
		binary.AppendByteOrder
	}{binary.LittleEndian, binary.BigEndian}
	packets := pcaptest.Packets(samples(), func(ip []byte) []byte { return pcaptest.Ethernet(ip) })
	for _, order := range orders {
		files = append(files,
			file{"pcap µs " + order.String(), pcaptest.Pcap(order, false, 1, packets...), time.Microsecond},
			file{"pcap ns " + order.String(), pcaptest.Pcap(order, true, 1, packets...), time.Nanosecond},
			file{"pcapng µs " + order.String(), pcaptest.Pcapng(order, pcaptest.NgInterface{Link: 1, Resolution: 6, Packets: packets}), time.Microsecond},
			file{"pcapng ns " + order.String(), pcaptest.Pcapng(order, pcaptest.NgInterface{Link: 1, Resolution: 9, Packets: packets}), time.Nanosecond},
			file{"pcapng of two interfaces " + order.String(), pcaptest.Pcapng(order,
				pcaptest.NgInterface{Link: 1, Resolution: 9, Packets: packets[:2]},
				pcaptest.NgInterface{Link: 101, Resolution: 9, Packets: pcaptest.Packets(samples()[2:], plain)}), time.Nanosecond})
	}
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			got, _ := read(t, f.data)
			check(t, got, samples(), f.unit)
		})
		t.Run(f.name+" gzip", func(t *testing.T) {
			got, _ := read(t, zipped(t, f.data))
			check(t, got, samples(), f.unit)
		})
		t.Run(f.name+" zstd", func(t *testing.T) {
			w, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := read(t, w.EncodeAll(f.data, nil))
			check(t, got, samples(), f.unit)
		})
	}
}

func zipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// frames are the link types, with their numbers in files.
var frames = map[string]struct {
	link  uint32
	frame func([]byte) []byte
}{
	"Ethernet":      {1, func(ip []byte) []byte { return pcaptest.Ethernet(ip) }},
	"VLAN":          {1, func(ip []byte) []byte { return pcaptest.Ethernet(ip, 7) }},
	"VLAN in VLAN":  {1, func(ip []byte) []byte { return pcaptest.Ethernet(ip, 7, 8) }},
	"raw":           {101, plain},
	"raw of BSD":    {12, plain},
	"raw OpenBSD":   {14, plain},
	"Linux cooked":  {113, func(ip []byte) []byte { return cooked(ip) }},
	"cooked VLAN":   {113, func(ip []byte) []byte { return cooked(ip, 0x8100, 7) }},
	"Linux cooked2": {276, func(ip []byte) []byte { return cooked2(ip) }},
	"cooked2 VLAN":  {276, func(ip []byte) []byte { return cooked2(ip, 0x8100, 7) }},
	"null, little":  {0, func(ip []byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, family(ip, 30)), ip...) }},
	"null, big":     {0, func(ip []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, family(ip, 24)), ip...) }},
	"loop":          {108, func(ip []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, family(ip, 28)), ip...) }},
}

func cooked(ip []byte, tag ...uint16) []byte {
	b := make([]byte, 14)
	return append(tags(b, ip, tag), ip...)
}

func cooked2(ip []byte, tag ...uint16) []byte {
	proto := pcaptest.EtherType(ip)
	if len(tag) > 0 {
		proto = tag[0]
	}
	b := append(binary.BigEndian.AppendUint16(nil, proto), make([]byte, 18)...)
	if len(tag) > 0 {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, tag[1]), pcaptest.EtherType(ip))
	}
	return append(b, ip...)
}

func tags(b, ip []byte, tag []uint16) []byte {
	for _, t := range tag {
		b = binary.BigEndian.AppendUint16(b, t)
	}
	return binary.BigEndian.AppendUint16(b, pcaptest.EtherType(ip))
}

func family(ip []byte, v6 uint32) uint32 {
	if ip[0]>>4 == 6 {
		return v6
	}
	return 2
}

func TestLinkTypes(t *testing.T) {
	for name, f := range frames {
		t.Run(name, func(t *testing.T) {
			got, counts := read(t, pcaptest.Pcap(binary.LittleEndian, true, f.link, pcaptest.Packets(samples(), f.frame)...))
			check(t, got, samples(), time.Nanosecond)
			if want := (pcap.Counts{Packets: 6, Segments: 6}); counts != want {
				t.Errorf("counts %+v, want %+v", counts, want)
			}
		})
	}
}

// TestSnapshots cuts packets off at each length: either the segment is read whole, or
// it is counted.
func TestSnapshots(t *testing.T) {
	for name, f := range frames {
		for _, sample := range samples() {
			whole := f.frame(sample.Packet())
			needed := 0
			for cut := range whole {
				packet := pcaptest.Packet{Time: sample.Time, Data: whole[:cut], Size: len(whole)}
				got, counts := read(t, pcaptest.Pcap(binary.LittleEndian, true, f.link, packet))
				if len(got) == 0 {
					if counts.Truncated != 1 || needed > 0 {
						t.Fatalf("%s cut at %d: not read, though at %d it was: %+v", name, cut, needed, counts)
					}
					continue
				}
				needed = max(needed, cut)
				if g := got[0]; g.Text != uint32(sample.Text) || g.Flags != sample.Flags || g.Source() != sample.From || g.Seq != sample.Seq {
					t.Fatalf("%s cut at %d: %+v, want %+v", name, cut, g, sample)
				}
			}
		}
	}
}

func TestExtensionHeaders(t *testing.T) {
	s := samples()[3]
	tcp := s.Packet()[40:]
	chain := func(headers ...byte) []byte { // kinds, each of 16 bytes but fragment (8) and AH (12)
		var b []byte
		for i, kind := range headers {
			next := byte(6)
			if i+1 < len(headers) {
				next = headers[i+1]
			}
			switch kind {
			case 44:
				b = append(b, next, 0, 0, 0, 0, 0, 0, 1)
			case 51:
				b = append(b, next, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
			default:
				b = append(b, next, 1)
				b = append(b, make([]byte, 14)...)
			}
		}
		return pcaptest.IP(s.From.Addr(), s.To.Addr(), headers[0], 0, append(b, tcp...))
	}
	for _, headers := range [][]byte{{0}, {43}, {60}, {135}, {139}, {140}, {44}, {51}, {0, 60, 43, 44, 51, 60}} {
		got, _ := read(t, pcaptest.Pcap(binary.BigEndian, true, 101, pcaptest.Packet{Time: s.Time, Data: chain(headers...)}))
		check(t, got, []pcaptest.Segment{s}, time.Nanosecond)
	}
}

// TestCounted: what is no segment is counted, once.
func TestCounted(t *testing.T) {
	s4, s6 := samples()[2], samples()[5]
	change := func(b []byte, at int, v ...byte) []byte {
		b = slices.Clone(b)
		copy(b[at:], v)
		return b
	}
	fragment6 := pcaptest.IP(s6.From.Addr(), s6.To.Addr(), 44, 0, append([]byte{6, 0, 0, 1, 0, 0, 0, 1}, s6.Packet()[40:]...))
	for name, test := range map[string]struct {
		packet []byte
		want   pcap.Counts
	}{
		"UDP":                     {pcaptest.IP(v4[0].Addr(), v4[1].Addr(), 17, 0, make([]byte, 8)), pcap.Counts{Other: 1}},
		"ICMPv6":                  {pcaptest.IP(v6[0].Addr(), v6[1].Addr(), 58, 0, make([]byte, 8)), pcap.Counts{Other: 1}},
		"neither":                 {[]byte{0x20, 1, 2, 3}, pcap.Counts{Other: 1}},
		"the first fragment":      {change(s4.Packet(), 6, 0x20), pcap.Counts{Fragments: 1}},
		"another fragment":        {change(s4.Packet(), 6, 0x00, 0x10), pcap.Counts{Fragments: 1}},
		"the first of IPv6":       {fragment6, pcap.Counts{Fragments: 1}},
		"header of four bytes":    {change(s4.Packet(), 32, 0x10), pcap.Counts{Malformed: 1}},
		"header beyond the whole": {change(s4.Packet()[:40], 2, 0, 40, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1), pcap.Counts{Other: 1}},
		"longer header than text": {change(change(s4.Packet(), 32, 0xf0), 2, 0, 60), pcap.Counts{Malformed: 1}},
		"total below the header":  {change(s4.Packet(), 2, 0, 10), pcap.Counts{Malformed: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, counts := read(t, pcaptest.Pcap(binary.LittleEndian, true, 101, pcaptest.Packet{Time: day, Data: test.packet}))
			test.want.Packets = 1
			if len(got) != 0 || counts != test.want {
				t.Errorf("%d segments, counts %+v, want %+v", len(got), counts, test.want)
			}
		})
	}
	// Segmentation left to the hardware: more than the length of the header can say.
	big := s4
	big.Text = 70_000
	huge := change(big.Packet(), 2, 0, 0)
	got, _ := read(t, pcaptest.Pcap(binary.LittleEndian, true, 101, pcaptest.Packet{Time: big.Time, Data: huge[:100], Size: len(huge)}))
	check(t, got, []pcaptest.Segment{big}, time.Nanosecond)
}

func TestTimes(t *testing.T) {
	list := samples()[:3]
	list[1].Time = day.Add(-time.Second)
	file := pcaptest.Pcap(binary.LittleEndian, true, 101, pcaptest.Packets(list, plain)...)
	got, counts := read(t, file)
	if counts.Backwards != 1 || got[1].Time != got[0].Time || got[2].Time <= got[1].Time {
		t.Errorf("times %d, %d, %d, counts %+v: want the second not before the first", got[0].Time, got[1].Time, got[2].Time, counts)
	}
	list[1].Time = time.Unix(0, 0)
	got, counts = read(t, pcaptest.Pcap(binary.LittleEndian, true, 101, pcaptest.Packets(list, plain)...))
	if counts.Undated != 1 || got[1].Time != got[0].Time {
		t.Errorf("times %d, %d, counts %+v: want that of the packet before", got[0].Time, got[1].Time, counts)
	}
}

// TestPrint: the same segment has the same print on every interface, and others do not.
func TestPrint(t *testing.T) {
	seen := make(map[uint64]string)
	base := samples()[2]
	for name, change := range map[string]func(*pcaptest.Segment){
		"itself": func(*pcaptest.Segment) {}, "seq": func(s *pcaptest.Segment) { s.Seq++ }, "ack": func(s *pcaptest.Segment) { s.Ack++ },
		"flags": func(s *pcaptest.Segment) { s.Flags &^= segment.PSH }, "text": func(s *pcaptest.Segment) { s.Text++ },
		"window": func(s *pcaptest.Segment) { s.Window++ }, "stamp": func(s *pcaptest.Segment) { s.Stamp++ }, "id": func(s *pcaptest.Segment) { s.ID++ },
	} {
		s := base
		change(&s)
		prints := make(map[uint64]bool)
		for _, f := range frames {
			got, _ := read(t, pcaptest.Pcap(binary.LittleEndian, true, f.link, pcaptest.Packets([]pcaptest.Segment{s}, f.frame)...))
			prints[got[0].Print] = true
			if other := seen[got[0].Print]; other != "" && other != name {
				t.Errorf("%s has the print of %s", name, other)
			}
			seen[got[0].Print] = name
		}
		if len(prints) != 1 {
			t.Errorf("%s has %d prints, want one", name, len(prints))
		}
	}
}

func TestErrors(t *testing.T) {
	packets := pcaptest.Packets(samples(), plain)
	whole := pcaptest.Pcap(binary.LittleEndian, true, 101, packets...)
	ng := pcaptest.Pcapng(binary.LittleEndian, pcaptest.NgInterface{Link: 101, Resolution: 9, Packets: packets})
	for name, test := range map[string]struct {
		file []byte
		want error
	}{
		"empty":                  {nil, pcap.ErrForeign},
		"text":                   {[]byte("no capture at all, but long enough for one"), pcap.ErrForeign},
		"text, gzip":             {zipped(t, []byte("no capture")), pcap.ErrForeign},
		"gzip in gzip":           {zipped(t, zipped(t, whole)), pcap.ErrForeign},
		"header cut off":         {whole[:20], pcap.ErrCutOff},
		"pcapng header cut off":  {ng[:20], pcap.ErrCutOff},
		"gzip cut off":           {zipped(t, whole)[:30], pcap.ErrCutOff},
		"wrong version":          {append([]byte{0xd4, 0xc3, 0xb2, 0xa1, 9, 0}, make([]byte, 20)...), pcap.ErrCorrupt},
		"802.11":                 {pcaptest.Pcap(binary.LittleEndian, true, 105), pcap.ErrLinkType},
		"zstd that is none":      {[]byte{0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, pcap.ErrCorrupt},
		"a packet of 4 gigabyte": {append(slices.Clone(whole[:24+8]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), pcap.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := pcap.NewReader(bytes.NewReader(test.file))
			if err == nil {
				err = r.Next(new(pcap.Segment))
				r.Close()
			}
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
	// Cut at each byte, all before the cut is read.
	for name, file := range map[string][]byte{"pcap": whole, "pcapng": ng} {
		for cut := 64; cut < len(file); cut++ {
			r, err := pcap.NewReader(bytes.NewReader(file[:cut]))
			if err != nil {
				continue
			}
			n := 0
			for err == nil {
				if err = r.Next(new(pcap.Segment)); err == nil {
					n++
				}
			}
			if err != io.EOF && !errors.Is(err, pcap.ErrCutOff) {
				t.Fatalf("%s cut at %d: %v after %d segments", name, cut, err, n)
			}
		}
	}
	_, err := pcap.NewReader(io.MultiReader(bytes.NewReader(whole[:10]), failing{}))
	if want := "disk on fire"; err == nil || !bytes.Contains([]byte(fmt.Sprint(err)), []byte(want)) {
		t.Errorf("error %v, want %s", err, want)
	}
}

// A few bytes of a compressed capture may stand for gigabytes of one packet.
func TestPacketWithoutEnd(t *testing.T) {
	const length, snap = 1 << 30, 0xffffffff
	old := pcaptest.Pcap(binary.LittleEndian, true, 101)
	binary.LittleEndian.PutUint32(old[16:], snap)
	old = append(old, make([]byte, 8)...)
	old = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(old, length), length)
	ng := pcaptest.Pcapng(binary.LittleEndian, pcaptest.NgInterface{Link: 101, Resolution: 9})
	ng = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(ng, 6), length+32) // enhanced packet block
	ng = append(ng, make([]byte, 12)...)
	ng = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(ng, length), length)
	for name, begin := range map[string][]byte{"pcap": old, "pcapng": ng} {
		endless := &zeros{}
		r, err := pcap.NewReader(io.MultiReader(bytes.NewReader(begin), endless))
		if err == nil {
			err = r.Next(new(pcap.Segment))
			r.Close()
		}
		if !errors.Is(err, pcap.ErrCorrupt) || endless.read > 128<<20 {
			t.Errorf("%s: %v after %d bytes, want %v", name, err, endless.read, pcap.ErrCorrupt)
		}
	}
}

// zeros has no end.
type zeros struct{ read int }

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.read += len(p)
	return len(p), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

func TestNoAllocations(t *testing.T) {
	var many []pcaptest.Packet
	for range 200 {
		many = append(many, pcaptest.Packets(samples(), plain)...)
	}
	file := pcaptest.Pcap(binary.LittleEndian, true, 101, many...)
	r, err := pcap.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	var s pcap.Segment
	if err := r.Next(&s); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if err := r.Next(&s); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a segment, want none", n)
	}
}

// FuzzReader: no file makes the reader panic, loop or take more than it may; what it
// gives is in order.
func FuzzReader(f *testing.F) {
	packets := pcaptest.Packets(samples(), func(ip []byte) []byte { return pcaptest.Ethernet(ip, 3) })
	f.Add(pcaptest.Pcap(binary.LittleEndian, true, 1, packets...))
	f.Add(pcaptest.Pcap(binary.BigEndian, false, 276, pcaptest.Packets(samples(), func(ip []byte) []byte { return cooked2(ip, 0x8100, 1) })...))
	f.Add(pcaptest.Pcap(binary.LittleEndian, false, 0, pcaptest.Packets(samples(), frames["null, big"].frame)...))
	f.Add(pcaptest.Pcapng(binary.BigEndian, pcaptest.NgInterface{Link: 1, Resolution: 9, Packets: packets[:1]}, pcaptest.NgInterface{Link: 101, Resolution: 63, Packets: pcaptest.Packets(samples(), plain)}))
	f.Add(zipped(f, pcaptest.Pcap(binary.LittleEndian, true, 1, packets...)))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := pcap.NewReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		defer r.Close()
		last := uint64(0)
		for n := uint64(0); ; n++ {
			var s pcap.Segment
			if err := r.Next(&s); err != nil {
				c := r.Counts()
				if sum := c.Segments + c.Other + c.Fragments + c.Truncated + c.Malformed + c.UnknownLink; sum != c.Packets || c.Segments != n {
					t.Fatalf("%d segments, and all of the packets are %d: %+v", n, sum, c)
				}
				return
			}
			if s.Time < last {
				t.Fatalf("time goes back from %d to %d", last, s.Time)
			}
			last = s.Time
		}
	})
}
