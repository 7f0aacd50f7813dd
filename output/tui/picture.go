package tui

import (
	"net/netip"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/stat"
)

// Request is what the screen wants to show.
type Request struct {
	// Filter has the flags of the filter, as on the command line.
	Filter string
	// By is what sockets are grouped by.
	By stat.By
	// Table is what the table has.
	Table Table
	// State and Group choose the sockets of TableSockets: 0 and nil are any. In CLOSED
	// there are those that were closed last.
	State fsm.State
	Group *stat.Key
	// Sort is the column, the greatest first or, with Reverse, last.
	Sort    Column
	Reverse bool
	// Rows is how many rows are wanted.
	Rows int
	// Socket is of which all is wanted; the zero value: of none.
	Socket SocketID
}

// Table is what a table has.
type Table uint8

// The tables.
const (
	TableGroups Table = iota
	TableSockets
)

// SocketID names one generation of a socket.
type SocketID struct {
	Cookie     uint64
	Generation uint32
}

// Picture is what there is at one time. It is not changed after it was made.
type Picture struct {
	// Request is what it answers: as it was asked or, if that was a Mistake, which says
	// why, by other groups. Filter is the one in effect.
	Request         *Request
	Mistake, Filter string

	// Recording is the name of the file, "" while tracing. Ended: it has been read to
	// its end, or an error.
	Recording string
	Ended     bool
	Err       error // of reading
	Time      time.Time
	Span      time.Duration // that is counted
	Walked    bool          // the sockets from before are known

	Transitions                  uint64
	Illegal, Gaps, Lost, Evicted uint64
	// Notices are all that the reader must know to trust the numbers.
	Notices []output.Notice

	// Sockets are the numbers of those that are in each state now, by fsm.State. A
	// handshake has none before its end.
	Sockets [fsm.Closing + 1]int
	// TimeWaitUnseen: of TIME_WAIT not all are known.
	TimeWaitUnseen bool
	Edges          []Edge

	Groups []Group
	Rows   []Socket
	// All is how many rows there are, of which the table has the first.
	All    int
	Detail *Detail // nil: not asked for, or not known

	// Stuck has the groups of what is stuck now, the largest first.
	Stuck      []Stuck
	StuckCount int
	// Findings are the last illegal transitions, the youngest first.
	Findings []Finding

	// Cost is how long it took to make.
	Cost time.Duration
}

// Edge is how often there was a transition.
type Edge struct {
	From, To     fsm.State
	All, Illegal uint64
	// Rate is how many there are in a second, of late; of all that has been read if the
	// recording has ended. HasRate: some time has passed.
	Rate    float64
	HasRate bool
}

// Group is a row for all sockets that have something in common. The part of stat counts
// what happened, the others what there is.
type Group struct {
	Key     stat.Key
	Name    string // for people, escaped
	Tally   stat.Tally
	AtLeast bool // there may have been more
	Rate    float64
	HasRate bool
	Sockets [fsm.Closing + 1]int // by state, now
	All     int                  // of Sockets
	Stuck   int
}

// Socket is a row for a socket.
type Socket struct {
	ID            SocketID
	State         fsm.State
	Age           time.Duration // in State
	AgeExact      bool          // else at least so long
	HasAge        bool
	Owner         events.Owner
	Local, Remote netip.AddrPort
	Verdict       fsm.Verdict
	Stuck         bool
}

// Detail is all that is known of a socket.
type Detail struct {
	ID    SocketID
	Life  lifecycle.Lifecycle
	Stuck *lifecycle.Stuck // nil: it is not
}

// Stuck is what the same process has stuck in the same state.
type Stuck struct {
	State  fsm.State
	Count  int
	Oldest lifecycle.Stuck
}

// Finding is an illegal transition.
type Finding struct {
	Time          time.Time
	From, To      fsm.State
	Owner         events.Owner
	Local, Remote netip.AddrPort
	Reason        string
}

// Column is what rows are sorted by.
type Column uint8

// The columns. Of those of a table that is not shown none is used.
const (
	ColumnDefault Column = iota // the first of the table
	ColumnSockets
	ColumnRate
	ColumnTransitions
	ColumnClosed
	ColumnAbort
	ColumnIllegal
	ColumnStuck
	ColumnEstablished
	ColumnCloseWait
	ColumnTimeWait
	ColumnName

	ColumnAge
	ColumnState
	ColumnPID
	ColumnComm
	ColumnLocal
	ColumnRemote
)
