package output

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// Widths of the path: the longest usual one, SS·E·F1·F2·TW, and that it goes on.
const (
	narrowPath = len("SS E F1 F2 TW .")
	widePath   = len("SS 10.0ms E 10.0ms F1 10.0ms F2 10.0ms TW ~60.0s.")
)

func (t *Text) pathWidth() int {
	if t.options.Wide {
		return widePath
	}
	return narrowPath
}

func (t *Text) lifecycleHeading() {
	fmt.Fprintf(t.w, "%6s %6s %10s ", "TX", "RX", "MS")
	if t.options.Wide {
		fmt.Fprintf(t.w, "%-12s %-10s %-7s %10s %8s %5s ", "SOCKET", "NETNS", "ROLE", "SHAKE_MS", "RTT_MS", "RETR")
	}
	fmt.Fprintf(t.w, "%-*s %s\n", t.pathWidth(), "PATH"+t.inferred(), "CLOSE")
}

// Lifecycle implements [Sink].
func (t *Text) Lifecycle(c *lifecycle.Lifecycle) error {
	local, remote := knownEnds(c.Local, c.Remote, true)
	b := t.appendWho(t.row[:0], c.End, &c.Owner, local, remote)
	b = append(appendSize(b, c.BytesSent, c.HasCounters), ' ')
	b = append(appendSize(b, c.BytesReceived, c.HasCounters), ' ')

	d, known, atLeast := duration(c)
	mark := ""
	if c.Open || atLeast {
		mark = "≥"
	}
	b = append(appendMillisColumn(b, mark, d, known, 10), ' ')
	if t.options.Wide {
		b = appendWideLifecycle(b, c)
	}
	start := len(b)
	b = append(pad(t.appendPath(b, c), start, t.pathWidth()), ' ')
	return t.end(t.appendStory(b, c))
}

func appendWideLifecycle(b []byte, c *lifecycle.Lifecycle) []byte {
	b = appendSocketColumns(b, c.Cookie, c.NetNS)
	start := len(b)
	if role := c.Role.String(); role != "" {
		b = append(b, role...)
	} else {
		b = append(b, '-')
	}
	b = append(pad(b, start, 7), ' ')
	b = append(appendMillisColumn(b, "", c.Handshake, c.HasHandshake, 10), ' ')
	b = append(appendMillisColumn(b, "", time.Duration(c.SRTT)*time.Microsecond, c.SRTT != 0, 8), ' ')
	start = len(b)
	if c.HasCounters {
		b = strconv.AppendUint(b, uint64(c.Retransmits), 10)
	} else {
		b = append(b, '-')
	}
	return append(padLeft(b, start, 5), ' ')
}

// ShortName names a state in two letters at most, as in a path; one without a name
// as String does.
func ShortName(s fsm.State) string {
	if name := shortNames[s]; name != "" {
		return name
	}
	return s.String()
}

var shortNames = map[fsm.State]string{
	fsm.Closed: "C", fsm.Listen: "L", fsm.SynSent: "SS", fsm.SynRcvd: "SR", fsm.Established: "E",
	fsm.FinWait1: "F1", fsm.FinWait2: "F2", fsm.CloseWait: "CW", fsm.Closing: "CG", fsm.LastAck: "LA",
	fsm.TimeWait: "TW",
}

// appendPath appends SS·E·F1·F2·TW, without the CLOSED or LISTEN that it begins
// with and the CLOSED that it ends in, and with … if it goes on.
func (t *Text) appendPath(b []byte, c *lifecycle.Lifecycle) []byte {
	path := c.Path
	if len(path) > 1 && (path[0] == fsm.Closed || path[0] == fsm.Listen) {
		path = path[1:]
	}
	if !c.Open && len(path) > 1 && path[len(path)-1] == fsm.Closed {
		path = path[:len(path)-1]
	}
	for i, s := range path {
		if i > 0 {
			b = append(b, "·"...)
		}
		b = append(b, ShortName(s)...)
		if !t.options.Wide {
			continue
		}
		last := c.Open && i == len(path)-1
		if d, known := c.Dwell(s); known && last && d == 0 {
			continue // it has only begun
		}
		b = AppendDwell(append(b, ' '), c, s, last)
	}
	if c.Open {
		b = append(b, "…"...)
	}
	return b
}

// AppendDwell appends the time that the connection was in the state, with its mark, - if
// it is not known. If it is there still, that is how long by now.
func AppendDwell(b []byte, c *lifecycle.Lifecycle, s fsm.State, still bool) []byte {
	d, known := c.Dwell(s)
	switch {
	case !known:
		return append(b, '-')
	case still || dwellAtLeast(c, s):
		b = append(b, "≥"...)
	case c.Estimated && s == fsm.TimeWait:
		b = append(b, '~')
	}
	return AppendDuration(b, d)
}

// Story says how the connection ended, and what was wrong, in plain text.
func Story(c *lifecycle.Lifecycle) string { return string((&Text{}).appendStory(nil, c)) }

// appendStory appends how it ended, and what was wrong.
func (t *Text) appendStory(b []byte, c *lifecycle.Lifecycle) []byte {
	b = AppendStory(b, c)
	if c.Verdict == fsm.Gap {
		b = t.appendColored(append(b, "  "...), fsm.Gap, "gap", Missing(c))
	}
	for i := range c.Violations {
		b = t.appendColored(append(b, "  "...), fsm.Illegal, "ILLEGAL", c.Violations[i].Reason)
	}
	return b
}

// Missing says in words what a connection with gaps lacks.
func Missing(c *lifecycle.Lifecycle) string {
	if events.IsWireCookie(c.Cookie) {
		return "not all of it was captured"
	}
	return "records are missing"
}

// AppendStory appends why a connection ended, who closed first, and what ended
// TIME_WAIT, in words.
func AppendStory(b []byte, c *lifecycle.Lifecycle) []byte {
	switch {
	case c.Cause != fsm.CauseNone:
		b = append(b, strings.ReplaceAll(c.Cause.String(), "_", " ")...)
	case c.First != lifecycle.FirstUnknown:
		b = append(b, "closing"...)
	default:
		b = append(b, "open"...)
	}
	if c.Cause <= fsm.CauseFinished && c.First != lifecycle.FirstUnknown {
		b = append(b, ", "...)
		b = append(b, c.First.String()...)
		b = append(b, " first"...)
	}
	if end := c.TimeWaitEnd.OfTimeWait(); end != fsm.EndNone && c.HasTimeWait {
		b = append(b, ", TIME_WAIT "...)
		b = append(b, end.String()...)
		b = append(b, " after "...)
		if dwellAtLeast(c, fsm.TimeWait) {
			b = append(b, "≥"...)
		} else if c.Estimated {
			b = append(b, '~')
		}
		b = AppendDuration(b, c.TimeWait)
	}
	return b
}

// appendSize appends a number of bytes as 512, 1.2K, 34M, in a column of six.
func appendSize(b []byte, n uint64, known bool) []byte {
	start := len(b)
	switch {
	case !known:
		b = append(b, '-')
	case n < 1024:
		b = strconv.AppendUint(b, n, 10)
	default:
		value, unit := float64(n), 0
		for ; value >= 1023.5 && unit < len(sizeUnits)-1; unit++ {
			value /= 1024
		}
		decimals := 0
		if value < 9.95 {
			decimals = 1
		}
		b = append(strconv.AppendFloat(b, value, 'f', decimals, 64), sizeUnits[unit])
	}
	return padLeft(b, start, 6)
}

const sizeUnits = " KMGTPE"

// AppendDuration appends a duration with three digits, such as 12.3ms.
func AppendDuration(b []byte, d time.Duration) []byte {
	value, unit := float64(d), "ns"
	for _, u := range []struct {
		size time.Duration
		name string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "µs"}} {
		if d >= u.size-u.size/2000 { // which three digits round up
			value, unit = float64(d)/float64(u.size), u.name
			break
		}
	}
	decimals := 0
	switch {
	case unit == "ns" || value >= 99.95:
	case value >= 9.995:
		decimals = 1
	default:
		decimals = 2
	}
	b = strconv.AppendFloat(b, value, 'f', decimals, 64)
	return append(b, unit...)
}
