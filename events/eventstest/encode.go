package eventstest

import (
	"bytes"
	"io"

	"tcptrace/events"
	"tcptrace/events/capture"
)

// Records returns the events as they lie in the ring buffer, one after the
// other: events.RecordSize bytes each, or events.SnapshotSize.
func Records(list []events.Event) []byte {
	var b []byte
	for i := range list {
		b = list[i].AppendRecord(b)
	}
	return b
}

// Header is that of every recording of this package: begun at [Start] of a host
// that was booted at the beginning of 2026.
func Header() capture.Header {
	return capture.Header{
		Start:       Start,
		ClockOffset: 1_767_225_600_000_000_000,
		Kernel:      "6.18.44-test",
		BootID:      "3f1a8c52-0b6d-4e47-9a31-5d2c7e9f1b84",
		Program:     "tcptrace test",
	}
}

// WriteRecording writes a whole recording of the events, which ends with the
// last of them. A loss comes before the events that are younger.
func WriteRecording(w io.Writer, list []events.Event, losses ...events.Loss) error {
	return writeRecords(w, merge(list, losses))
}

func writeRecords(w io.Writer, records []events.Record) error {
	cw, err := capture.NewWriter(w, Header())
	if err != nil {
		return err
	}
	end := Start
	for _, r := range records {
		if err := cw.Write(&r); err != nil {
			return err
		}
		end = max(end, r.Event.Time, r.Loss.Time, r.Walked.Time)
	}
	return cw.Close(end)
}

func merge(list []events.Event, losses []events.Loss) []events.Record {
	var records []events.Record
	for _, e := range list {
		for len(losses) > 0 && losses[0].Time < e.Time {
			records = append(records, events.Record{Kind: events.KindLoss, Loss: losses[0]})
			losses = losses[1:]
		}
		records = append(records, events.Record{Kind: events.KindTransition, Event: e})
	}
	for _, l := range losses {
		records = append(records, events.Record{Kind: events.KindLoss, Loss: l})
	}
	return records
}

// RecordingOf returns a whole recording of the records, which ends with the last of
// them.
func RecordingOf(records []events.Record) []byte {
	var b bytes.Buffer
	if err := writeRecords(&b, records); err != nil {
		panic(err) // a buffer does not fail
	}
	return b.Bytes()
}

// Recording returns what [WriteRecording] writes.
func Recording(list []events.Event, losses ...events.Loss) []byte {
	return RecordingOf(merge(list, losses))
}
