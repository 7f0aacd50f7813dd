package output

import (
	"fmt"
	"io"
	"time"

	"tcptrace/events"
	"tcptrace/fsm/lifecycle"
)

// Messages tells notices and the summary in words, for the terminal of whoever
// runs the program. It shows no results.
type Messages struct {
	Discard
	w io.Writer
}

// NewMessages returns a sink that writes to w, usually standard error.
func NewMessages(w io.Writer) *Messages { return &Messages{w: w} }

var _ Sink = (*Messages)(nil)

// Transition implements [Sink]: nothing.
func (*Messages) Transition(*lifecycle.Transition) error { return nil }

// Notice implements [Sink]. A reason may come from a recording, and be any bytes.
func (m *Messages) Notice(n *Notice) error {
	_, err := fmt.Fprintf(m.w, "tcptrace: %s\n", AppendEscaped(nil, []byte(n.Words())))
	return err
}

// Words tells the notice to people.
func (n *Notice) Words() string {
	switch n.Kind {
	case NoticeLost:
		switch n.Reason {
		case events.LossRingFull.String():
			return fmt.Sprintf("%s lost: the output is slower than the traffic and the buffer was full. Write to a file, filter, or enlarge it with --buffer", count(n.Count, "record"))
		case events.LossHistory.String():
			return fmt.Sprintf("%s without history: the kernel had no memory for it", count(n.Count, "record"))
		case events.LossMissed.String():
			return fmt.Sprintf("%s not seen: the kernel passed them over while the program was running", count(n.Count, "transition"))
		case events.LossMinisocks.String():
			return fmt.Sprintf("TIME_WAIT of %s of this host not measured: too many, or gone too soon", count(n.Count, "connection"))
		}
		return fmt.Sprintf("%s lost: %s", count(n.Count, "record"), n.Reason)
	case NoticeUndecided:
		if n.Reason != "" {
			return fmt.Sprintf("%s left out: %s", count(n.Count, "transition"), n.Reason)
		}
		return fmt.Sprintf("%s left out: the end that the filter asks for was not known when tracing ended", count(n.Count, "transition"))
	case NoticeForgotten:
		if n.Reason != "" {
			return fmt.Sprintf("%s forgotten: %s", count(n.Count, "socket"), n.Reason)
		}
		return fmt.Sprintf("%s forgotten: more than are followed at once, so a hole in their records may go unnoticed", count(n.Count, "socket"))
	case NoticeUnmeasured:
		return "not measured: " + n.Reason
	case NoticeGrowing:
		return "growing: " + n.Reason
	case NoticeUnseen:
		return "not looked at: " + n.Reason
	case NoticeDisagree:
		return "kernel and packets disagree: " + n.Reason
	case NoticePackets, NoticeJoined:
		return fmt.Sprintf("%s: %d", n.Reason, n.Count)
	case NoticeSuppressed:
		return fmt.Sprintf("%s not shown: more than are shown in a minute", count(n.Count, "finding"))
	case NoticeClock:
		return n.Reason + ": what came before is dated by the clock before"
	}
	return fmt.Sprintf("%s %s: %d", n.Kind, n.Reason, n.Count)
}

// Summary implements [Sink].
func (m *Messages) Summary(s *Summary) error {
	_, err := fmt.Fprintf(m.w, "tcptrace: %s\n", s.words())
	return err
}

func (s *Summary) words() string {
	stuck := fmt.Sprintf("%d of %s stuck", s.Stuck, count(s.Sockets, "socket"))
	if s.HasStuck && s.Transitions == 0 { // nothing else was asked for
		if s.Lost > 0 {
			stuck += fmt.Sprintf(", %s lost", count(s.Lost, "record"))
		}
		return stuck
	}
	all := fmt.Sprintf("%s of %s in %v: %d illegal, %s, %d lost",
		count(s.Transitions, "transition"), count(s.Connections, "connection"),
		s.Duration.Round(time.Millisecond), s.Illegal, count(s.Gaps, "gap"), s.Lost)
	if s.HasStuck {
		all += ", " + stuck
	}
	return all
}

// count writes "1 record", "2 records".
func count(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
