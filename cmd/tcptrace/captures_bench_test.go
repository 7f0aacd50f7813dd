package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"tcptrace/events/pcap/pcaptest"
)

// benchmarkCaptureSize is what a run reads at least.
const benchmarkCaptureSize = 1 << 30

// BenchmarkCapture is the whole way from a capture of 1 GB to a line for each of its
// connections: of long ones, with full segments, and of short ones, with one request.
func BenchmarkCapture(b *testing.B) {
	for name, texts := range map[string]struct {
		connections, segments, size int
	}{
		"bulk":  {200, 100, 1448},
		"short": {3000, 2, 700},
	} {
		b.Run(name, func(b *testing.B) {
			pass := exchangesCaptured(texts.connections, texts.segments, texts.size)
			b.ReportAllocs()
			heap := uint64(0)
			read := int64(0)
			for b.Loop() {
				in := &passes{header: pass[:24], records: pass[24:], left: benchmarkCaptureSize/len(pass) + 1}
				var stderr strings.Builder
				if status := run([]string{"life", "-o", "json", "-r", "-", "--max-connections", "20000"}, in, io.Discard, &stderr); status != exitDone {
					b.Fatalf("status %d: %s", status, &stderr)
				}
				read += in.read
				heap = max(heap, heapInUse())
				runtime.GC()
			}
			b.SetBytes(read / int64(b.N))
			b.ReportMetric(float64(heap)/(1<<20), "MiB-heap")
		})
	}
}

// heapInUse returns how much the heap holds, garbage included.
func heapInUse() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// exchangesCaptured returns a capture in which connections go on side by side: a client asks, a
// server answers in so many segments, each acknowledged, and both close.
func exchangesCaptured(connections, segments, size int) []byte {
	var packets []pcaptest.Packet
	at := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	id := uint16(0)
	for step := range segments + 4 {
		for c := range connections {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(c >> 8), byte(c)}), 40000)
			server := netip.MustParseAddrPort("10.0.0.1:80")
			mine, other := uint32(c*1000), uint32(c*7000)
			send := func(from, to netip.AddrPort, flags byte, seq, ack uint32, text int) {
				id++
				at = at.Add(time.Microsecond)
				s := pcaptest.Segment{Time: at, From: from, To: to, Flags: pcaptest.Flags(flags), Seq: seq, Ack: ack, Text: text, Stamp: uint32(id) + 1, ID: id}
				packets = append(packets, pcaptest.Packet{Time: at, Data: pcaptest.Ethernet(s.Packet())})
			}
			answered := other + 1 + uint32(size*max(step-2, 0))
			switch step {
			case 0:
				send(client, server, flagSYN, mine, 0, 0)
				send(server, client, flagSYN|flagACK, other, mine+1, 0)
			case 1:
				send(client, server, flagACK, mine+1, other+1, 0)
				send(client, server, flagACK|flagPSH, mine+1, other+1, 100)
			case segments + 2:
				send(client, server, flagFIN|flagACK, mine+101, answered, 0)
				send(server, client, flagFIN|flagACK, answered, mine+102, 0)
			case segments + 3:
				end := other + 1 + uint32(size*segments)
				send(client, server, flagACK, mine+102, end+1, 0)
			default:
				send(server, client, flagACK, answered, mine+101, size)
				send(client, server, flagACK, mine+101, answered+uint32(size), 0)
			}
		}
	}
	return pcaptest.Pcap(binary.LittleEndian, false, 1, packets...)
}

// passes reads a capture again and again, each time later.
type passes struct {
	header, records []byte
	at              int
	left            int
	read            int64
}

// later is more than an end stays in TIME_WAIT.
const later = 61

func (p *passes) Read(b []byte) (int, error) {
	if len(p.header) > 0 {
		n := copy(b, p.header)
		p.header = p.header[n:]
		return n, nil
	}
	if p.at == len(p.records) {
		if p.left--; p.left <= 0 {
			return 0, io.EOF
		}
		p.at = 0
		for i := 0; i < len(p.records); i += 16 + int(binary.LittleEndian.Uint32(p.records[i+8:])) {
			binary.LittleEndian.PutUint32(p.records[i:], binary.LittleEndian.Uint32(p.records[i:])+later)
		}
	}
	n := copy(b, p.records[p.at:])
	p.at += n
	p.read += int64(n)
	return n, nil
}

// TestBenchmarkedCapture: what the benchmark reads is what it should be.
func TestBenchmarkedCapture(t *testing.T) {
	const connections, rounds = 5, 3
	pass := exchangesCaptured(connections, 4, 100)
	var stdout, stderr strings.Builder
	in := &passes{header: pass[:24], records: pass[24:], left: rounds}
	if status := run([]string{"life", "-o", "json", "-r", "-"}, in, &stdout, &stderr); status != exitDone {
		t.Fatalf("status %d: %s", status, &stderr)
	}
	for text, want := range map[string]int{
		`"bytes_sent":100,"bytes_received":400`:                                       connections * rounds,
		`"bytes_sent":400,"bytes_received":100`:                                       connections * rounds,
		`"verdict":"legal"`:                                                           2 * connections * rounds,
		`"path":["CLOSED","SYN_SENT","ESTABLISHED","FIN_WAIT_1","TIME_WAIT"]`:         connections * rounds,
		`"path":["LISTEN","SYN_RCVD","ESTABLISHED","CLOSE_WAIT","LAST_ACK","CLOSED"]`: connections * rounds,
		fmt.Sprintf(`"connections":%d,`, 2*connections*rounds):                        1,
	} {
		if got := strings.Count(stdout.String(), text); got != want {
			t.Errorf("%d times %s, want %d:\n%s%s", got, text, want, &stdout, &stderr)
		}
	}
}
