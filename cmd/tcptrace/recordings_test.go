package main

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
)

// recordings are what the scripts read, by file name.
var recordings = map[string]func() []byte{
	"scenarios.tct":  scenarios,
	"lifecycles.tct": lifecycles,
	"containers.tct": containers,
	"stuck.tct":      stuck,
	"ports.tct":      portsInUse,
	"clock.tct":      clockSet,
}

// scenarios is one host on which everything happens in turn that one transition
// can show.
func scenarios() []byte {
	s := eventstest.New(eventstest.Start)
	s.Exchange("127.0.0.1:40000", "127.0.0.1:80")
	s.Exchange("[2001:db8::1]:40000", "[2001:db8::2]:443")
	s.Mapped()
	s.Refused()
	s.Reset()
	s.SelfConnected()
	s.Reconnected()
	s.Relistened()
	s.HostileNames()
	s.Gap()
	lost := events.Loss{Time: s.Events()[len(s.Events())-1].Time, Reason: events.LossRingFull, Count: 1}
	s.IllegalEdge()
	s.IllegalJump()
	return eventstest.Recording(s.Events(), lost)
}

// lifecycles is one on which connections end in every way, and two do not.
func lifecycles() []byte {
	s := eventstest.New(eventstest.Start)
	s.TimeWait(fsm.EndExpired, 60*time.Second)
	s.TimeWait(fsm.EndReused, 2*time.Second)
	s.SimultaneousClose()
	s.Orphan()
	s.OrphanAnswersData()
	s.OrphanEstimated()
	s.OrphanTimeWait()
	s.BegunAnew()
	s.Skipped(eventstest.Skipped(16384, 16384))
	s.Handshakes()
	s.SYNCookie()
	s.ResetsWithReasons()
	s.Refused()
	s.Gap()
	open, _ := s.Pair("10.0.0.1:40100", "10.0.0.2:80")
	open.To(fsm.SynSent, 0).To(fsm.Established, time.Millisecond)
	waiting, _ := s.Pair("10.0.0.1:40101", "10.0.0.2:80")
	waiting.To(fsm.SynSent, time.Second).To(fsm.Established, time.Millisecond).
		To(fsm.FinWait1, time.Second, eventstest.ByClose).To(fsm.FinWait2, time.Millisecond).
		To(fsm.TimeWait, time.Second, eventstest.Minisock)
	lost := events.Loss{Time: s.Events()[len(s.Events())-1].Time + uint64(10*time.Second), Reason: events.LossMinisocks, Count: 3}
	return eventstest.Recording(s.Events(), lost)
}

// containers is one on which owners are in cgroups, most of which have a name.
func containers() []byte {
	cgroups := []struct {
		id   uint64
		path string
	}{
		{101, "/system.slice/docker-4f2a9c0d1e3b58677f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6.scope"},
		{102, "/system.slice/nginx.service"},
		{103, "/system.slice/nginx.service/worker"},
		{104, "/system.slice/nginx.service2"},
		{105, "/lxc.payload.a\x1b[2J\"\xff\nb/system.slice/cron.service"},
		{106, ""}, // gone before it was asked for
		{0, ""},   // not known
	}
	s := eventstest.New(eventstest.Start)
	var records []events.Record
	done := 0
	for i, c := range cgroups {
		client, _ := s.Pair(fmt.Sprintf("10.0.0.1:%d", 40000+i), "10.0.0.2:80")
		client.Cgroup = c.id
		client.To(fsm.SynSent, time.Second).To(fsm.Closed, time.Millisecond, eventstest.Errno(111))
		if c.path != "" {
			records = append(records, events.Record{Kind: events.KindName, Name: events.Name{Kind: events.NameCgroup, ID: c.id, Text: c.path}})
		}
		for _, e := range s.Events()[done:] {
			records = append(records, events.Record{Kind: events.KindTransition, Event: e})
			done++
		}
	}
	return eventstest.RecordingOf(records)
}

// clockSet is one on which the wall clock is set forward by an hour while a connection
// is open, and back by two when it is over.
func clockSet() []byte {
	s := eventstest.New(eventstest.Start)
	client, _ := s.Pair("10.0.0.1:40000", "10.0.0.2:80")
	client.To(fsm.SynSent, time.Second).To(fsm.Established, time.Millisecond)
	before := len(s.Events())
	client.To(fsm.Closed, 10*time.Second, eventstest.Errno(104))
	after := len(s.Events())
	s.Refused()

	list := s.Events()
	at := list[before-1].Time + uint64(time.Second)
	offset := eventstest.Header().ClockOffset
	var records []events.Record
	for i, e := range list {
		switch i {
		case before:
			records = append(records, events.Record{Kind: events.KindClock, Clock: events.ClockStep{Time: at, Offset: offset + int64(time.Hour)}})
		case after:
			at = list[after-1].Time + 1
			records = append(records, events.Record{Kind: events.KindClock, Clock: events.ClockStep{Time: at, Offset: offset - int64(time.Hour)}})
		}
		records = append(records, events.Record{Kind: events.KindTransition, Event: e})
	}
	return eventstest.RecordingOf(records)
}

// stuck is one that begins when a server leaks connections, with three walks over its
// sockets.
func stuck() []byte {
	const second = uint64(time.Second)
	start := eventstest.Start
	server := events.Owner{PID: 4243, UID: 33, Comm: events.MakeComm("python3"), Source: events.OwnerSnapshot}
	socket := func(cookie uint64, state fsm.State, at, entered uint64, flags events.Flags) events.Event {
		return events.Event{
			Time: start + at, Entered: start + entered, Cookie: cookie, From: state, To: state,
			Source: events.SourceSnapshot, Flags: flags, Family: 2, NetNS: 4026531840, Cgroup: 101,
			Local:  netip.MustParseAddrPort("10.0.0.2:8080"),
			Remote: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 40000+uint16(cookie)),
		}
	}
	held := func(e events.Event, fd int32) events.Event {
		e.Owner = server
		e.Snapshot = events.Snapshot{Silent: e.Time - e.Entered, Holders: 1, FD: fd}
		return e
	}
	var records []events.Record
	add := func(e events.Event) {
		records = append(records, events.Record{Kind: events.KindTransition, Event: e})
	}
	walked := func(at uint64, unseen string) {
		records = append(records, events.Record{Kind: events.KindWalked, Walked: events.Walked{Start: start + at - second/1000, Time: start + at, Unseen: unseen}})
	}
	step := func(e events.Event, to fsm.State, seq uint32) events.Event {
		e.Source, e.Snapshot, e.To, e.Seq = events.SourceTracepoint, events.Snapshot{}, to, seq
		return e
	}
	records = append(records,
		events.Record{Kind: events.KindName, Name: events.Name{Kind: events.NameCgroup, ID: 101, Text: "/system.slice/app.service"}},
		events.Record{Kind: events.KindName, Name: events.Name{Kind: events.NameExe, ID: 4243, Text: "/usr/bin/python3.11"}})

	const atLeast = events.FlagAtLeast
	const begun = 200 * second // so that there is a time before it
	start -= begun
	leaked := socket(1, fsm.CloseWait, begun+1*second, begun-90*second, atLeast|events.FlagPeerFIN)
	leaked = held(leaked, 7)
	leaked.Snapshot.RecvQueue = 120
	add(leaked)
	listener := held(socket(2, fsm.Listen, begun+1*second, begun+1*second, atLeast), 3)
	listener.Remote = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	listener.Snapshot = events.Snapshot{Holders: 1, FD: 3, SendQueue: 128}
	add(listener)
	busy := held(socket(3, fsm.Established, begun+1*second, begun-10*second, atLeast), 8)
	add(busy)
	minisock := socket(4, fsm.TimeWait, begun+1*second, begun-39*second, atLeast|events.FlagMinisock)
	minisock.Snapshot.Left = 20 * second
	add(minisock)
	request := socket(5, fsm.SynRcvd, begun+1*second, begun-12*second, atLeast|events.FlagRequest)
	request.Snapshot = events.Snapshot{Unanswered: 3, Left: 2 * second}
	add(request)
	walked(begun+1*second, "network namespaces that cannot be entered: 1 (enter network namespace 4026532177: operation not permitted)")

	fin := step(busy, fsm.CloseWait, 1)
	fin.Time = start + begun + 5*second
	fin.Flags = atLeast | events.FlagPeerFIN
	add(fin)

	leaked.Time = start + begun + 30*second
	add(leaked)
	waiting := held(socket(3, fsm.CloseWait, begun+30*second, begun+5*second, events.FlagPeerFIN), 8)
	waiting.Seq = 1
	add(waiting)
	walked(begun+30*second, "")

	leaked.Time, waiting.Time = start+begun+70*second, start+begun+70*second
	add(leaked)
	add(waiting)
	walked(begun+70*second, "")

	closed := step(leaked, fsm.LastAck, 1)
	closed.Time = start + begun + 80*second
	closed.Flags = atLeast | events.FlagPeerFIN | events.FlagLocal
	closed.Shutdown = 3
	add(closed)
	gone := step(closed, fsm.Closed, 2)
	gone.From, gone.Entered, gone.Time, gone.Flags = fsm.LastAck, closed.Time, closed.Time+second/10, events.FlagOrphan|events.FlagPeerFIN
	add(gone)
	return eventstest.RecordingOf(records)
}

// portsInUse is one that begins when some connections, to a peer and from others, are
// there already, with a walk, after which there are more.
func portsInUse() []byte {
	const second = uint64(time.Second)
	var records []events.Record
	add := func(e events.Event) {
		records = append(records, events.Record{Kind: events.KindTransition, Event: e})
	}
	cookie := uint64(100)
	there := func(state fsm.State, netns uint32, local, remote string, flags events.Flags) {
		cookie++
		add(events.Event{
			Time: eventstest.Start + second/2, Entered: eventstest.Start - second, Cookie: cookie, From: state, To: state,
			Source: events.SourceSnapshot, Flags: flags | events.FlagAtLeast, Family: 2, NetNS: netns,
			Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
		})
	}
	const host, other = eventstest.NetNS, eventstest.NetNS + 1
	there(fsm.Listen, host, "0.0.0.0:8080", "0.0.0.0:0", 0)
	there(fsm.Established, host, "10.0.0.1:8080", "10.0.0.7:50000", 0) // of the listener
	for i := range 5 {
		there(fsm.Established, host, fmt.Sprintf("10.0.0.1:%d", 40000+i), "10.0.0.9:443", 0)
	}
	for i := range 7 {
		there(fsm.TimeWait, host, fmt.Sprintf("10.0.0.1:%d", 41000+i), "10.0.0.9:443", events.FlagMinisock)
	}
	there(fsm.FinWait2, other, "10.0.0.1:40000", "10.0.0.9:443", events.FlagMinisock)
	there(fsm.Established, other, "10.0.0.1:8080", "10.0.0.9:443", 0) // nobody listens there
	records = append(records, events.Record{Kind: events.KindWalked, Walked: events.Walked{Start: eventstest.Start, Time: eventstest.Start + second}})

	s := eventstest.New(eventstest.Start + second)
	s.Exchange("10.0.0.1:42000", "10.0.0.1:80") // comes and goes
	for i := range 4 {
		c := s.Socket(fmt.Sprintf("10.0.0.1:%d", 43000+i), "10.0.0.9:443")
		c.To(fsm.SynSent, time.Second).To(fsm.Established, time.Millisecond)
		if i == 0 {
			c.To(fsm.FinWait1, time.Millisecond, eventstest.ByClose).To(fsm.FinWait2, time.Millisecond).To(fsm.TimeWait, time.Millisecond, eventstest.Minisock)
		}
	}
	list := s.Events()
	end := list[len(list)-1]
	end.Time, end.Cookie, end.Generation, end.Seq = eventstest.Start+11*second, 99, 0, 1
	end.From, end.To, end.Entered, end.Local = fsm.Closed, fsm.SynSent, 0, netip.AddrPortFrom(end.Local.Addr(), 0)
	for _, e := range append(list, end) {
		add(e)
	}
	return eventstest.RecordingOf(records)
}

// TestRecordings holds the recordings against the scenarios. UPDATE=1 writes
// them anew.
func TestRecordings(t *testing.T) {
	for name, record := range recordings {
		t.Run(name, func(t *testing.T) {
			name := "testdata/recordings/" + name
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(name, record(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			file, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			// Compressed bytes may differ between versions of the library.
			if want, got := read(t, record()), read(t, file); !reflect.DeepEqual(got, want) {
				t.Errorf("%s is not what the scenarios give: look at the change and run UPDATE=1 go test", name)
			}
		})
	}
}

func read(t *testing.T, file []byte) []events.Record {
	t.Helper()
	r, err := capture.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []events.Record
	for {
		var rec events.Record
		switch err := r.Read(&rec); err {
		case nil:
			all = append(all, rec)
		case io.EOF:
			return all
		default:
			t.Fatal(err)
		}
	}
}
