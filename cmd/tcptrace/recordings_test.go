package main

import (
	"bytes"
	"io"
	"os"
	"reflect"
	"testing"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/events/eventstest"
)

// scenarios is one host on which everything happens in turn.
func scenarios() ([]events.Event, events.Loss) {
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
	return s.Events(), lost
}

// TestRecordings holds the recordings that the scripts read against the
// scenarios. UPDATE=1 writes them anew.
func TestRecordings(t *testing.T) {
	const name = "testdata/recordings/scenarios.tct"
	list, lost := scenarios()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(name, eventstest.Recording(list, lost), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// Compressed bytes may differ between versions of the library.
	want, got := read(t, eventstest.Recording(list, lost)), read(t, file)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s is not what the scenarios give: look at the change and run UPDATE=1 go test", name)
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
