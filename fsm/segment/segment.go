package segment

import "strings"

// Flags are the control bits of a TCP header, numbered as in it.
type Flags uint8

// The flags.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

var flagNames = [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

// Has reports whether all of these flags are set.
func (f Flags) Has(all Flags) bool { return f&all == all }

// String returns the names that are set, SYN first, as SYN,ACK; "none" for none.
func (f Flags) String() string {
	var names []string
	for _, bit := range [...]int{1, 0, 2, 3, 4, 5, 6, 7} {
		if f&(1<<bit) != 0 {
			names = append(names, flagNames[bit])
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ",")
}

// Before reports whether sequence number a is before b. Numbers wrap around: of two
// that lie more than 2^31 apart, the answer means nothing.
func Before(a, b uint32) bool { return int32(a-b) < 0 }

// Space is how many sequence numbers a segment with so much text takes: SYN and FIN
// take one each.
func Space(f Flags, text uint32) uint32 {
	n := text
	if f.Has(SYN) {
		n++
	}
	if f.Has(FIN) {
		n++
	}
	return n
}

// Position is where a segment lies against what its receiver expects.
type Position uint8

// The positions. PositionNone is for states that expect nothing yet.
const (
	PositionNone Position = iota
	Next                  // it begins at, or reaches over, RCV.NXT
	Ahead                 // it is in the window, and something before it is missing
	Old                   // all of it was there before
	Outside               // it is outside the window
	positions
)

// Acked is what a segment acknowledges of what its receiver has sent.
type Acked uint8

// What can be acknowledged. A segment without the flag ACK has AckedNone, which is not
// to be given with the flag.
const (
	AckedNone   Acked = iota
	AckedOld          // nothing that was not acknowledged before
	AckedSome         // more, but not the SYN or FIN that was sent last
	AckedAll          // all that was sent, SYN and FIN included
	AckedUnsent       // what was never sent
	ackeds
)

// PlaceOf says where a segment of so many sequence numbers lies against a window of a
// receiver: the four cases of RFC 9293 3.10.7.4, first check. A window of 0 accepts
// what takes no sequence numbers, at next.
func PlaceOf(seq, space, next, window uint32) Position {
	end := seq + space
	switch {
	case seq == next:
		return Next
	case Before(seq, next):
		if Before(next, end) {
			return Next
		}
		return Old
	case seq-next < window:
		return Ahead
	}
	return Outside
}

// AckOf says what the number acknowledges, where una is the first that was not
// acknowledged yet, and next the one after the last that was sent.
func AckOf(ack, una, next uint32) Acked {
	switch {
	case Before(next, ack):
		return AckedUnsent
	case !Before(una, ack):
		return AckedOld
	case ack == next:
		return AckedAll
	}
	return AckedSome
}
