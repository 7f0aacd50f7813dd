package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"os"
	"slices"
	"testing"
	"time"

	"tcptrace/events/pcap/pcaptest"
)

// captures are what the scripts read, by file name: each is made of what tcpdump printed,
// which stands beside it as text.
var captures = map[string]func([]pcaptest.Segment) []byte{
	"http.pcap": func(list []pcaptest.Segment) []byte {
		return pcaptest.Pcap(binary.LittleEndian, false, 1, pcaptest.Packets(list, func(ip []byte) []byte { return pcaptest.Ethernet(ip) })...)
	},
	"findings.pcap": func(list []pcaptest.Segment) []byte {
		return pcaptest.Pcapng(binary.BigEndian, pcaptest.NgInterface{Link: 101, Resolution: 6, Packets: pcaptest.Packets(list, slices.Clone)})
	},
}

// TestCaptures holds the captures against the texts. UPDATE=1 writes them anew.
func TestCaptures(t *testing.T) {
	for name, build := range captures {
		text, err := os.ReadFile("testdata/captures/" + name[:len(name)-len(".pcap")] + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		list, err := pcaptest.ParseTcpdump(time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC), string(text))
		if err != nil {
			t.Fatal(err)
		}
		slices.SortStableFunc(list, func(a, b pcaptest.Segment) int { return cmp.Compare(a.Time.UnixNano(), b.Time.UnixNano()) })
		pcaptest.Follow(list)
		want := build(list)
		file := "testdata/captures/" + name
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what its text gives (%v): look at the change and run UPDATE=1 go test", file, err)
		}
	}
}
