package main

import (
	"bytes"
	"io"
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
	lost := events.Loss{Time: s.Events()[len(s.Events())-1].Time + uint64(10*time.Second), Reason: events.LossHandshakes, Count: 3}
	return eventstest.Recording(s.Events(), lost)
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
