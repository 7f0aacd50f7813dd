package web

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/picture"
)

// stateJSON is what the page shows. What is not known is absent. Names that a process
// chose are escaped, though the page takes all of it as text. Fields are those of
// docs/json.md where there are such; a text beside a number is that for people.
type stateJSON struct {
	Time        time.Time    `json:"time"`
	Span        int64        `json:"span_ns"` // that is counted
	Transitions uint64       `json:"transitions"`
	Rate        *float64     `json:"transitions_per_second,omitempty"`
	Closed      uint64       `json:"closed"`
	Illegal     uint64       `json:"illegal"`
	Gaps        uint64       `json:"gaps"`
	Lost        uint64       `json:"lost"`
	Forgotten   uint64       `json:"forgotten"`
	StuckCount  int          `json:"stuck"`
	Walked      bool         `json:"walked"`
	SocketsAt   *time.Time   `json:"sockets_at,omitempty"` // if not of now
	InKernel    bool         `json:"in_kernel,omitempty"`
	States      []oneState   `json:"states"`
	Edges       []oneEdge    `json:"edges"`
	Stuck       []stuckGroup `json:"stuck_groups"`
	Findings    []finding    `json:"findings"`
	Notices     []notice     `json:"notices"`
}

type oneState struct {
	Name string `json:"name"`
	// Sockets: absent where not known. If AtLeast there may be more.
	Sockets *int        `json:"sockets,omitempty"`
	AtLeast bool        `json:"sockets_at_least,omitempty"`
	Owners  []ownerHas  `json:"owners"`
	Others  int         `json:"other_owners"` // not among them
	Dwell   *dwell      `json:"dwell,omitempty"`
	Buckets []oneBucket `json:"histogram,omitempty"`
}

type ownerHas struct {
	Name    string `json:"name"`
	Sockets int    `json:"sockets"`
}

type dwell struct {
	Count     uint64 `json:"count"`
	Estimated uint64 `json:"estimated"`
	AtLeast   uint64 `json:"at_least"`
	Unknown   uint64 `json:"unknown"`
	Min       *span  `json:"min,omitempty"`
	Median    *span  `json:"p50,omitempty"`
	P90       *span  `json:"p90,omitempty"`
	P99       *span  `json:"p99,omitempty"`
	Max       *span  `json:"max,omitempty"`
}

// span is a duration for programs and for people.
type span struct {
	NS   int64  `json:"ns"`
	Text string `json:"text"`
}

func spanOf(d time.Duration) *span {
	return &span{int64(d), string(output.AppendDuration(nil, d))}
}

type oneBucket struct {
	From  span   `json:"from"`
	To    span   `json:"to"`
	Count uint64 `json:"count"`
}

type oneEdge struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Count   uint64   `json:"count"`
	Illegal uint64   `json:"illegal"`
	Rate    *float64 `json:"per_second,omitempty"`
	Median  *span    `json:"p50,omitempty"` // of the time in From
}

type stuckGroup struct {
	State string `json:"state"`
	Count int    `json:"count"`
	Owner string `json:"owner"`
	Age   string `json:"age"` // of the oldest, and so on
	Limit string `json:"limit"`
	Hint  string `json:"hint"`
	socketEnds
}

type finding struct {
	Time   time.Time `json:"time"`
	From   string    `json:"from"`
	To     string    `json:"to"`
	Owner  string    `json:"owner"`
	Rule   string    `json:"rule"`
	Reason string    `json:"reason"`
	socketEnds
}

// socketEnds says which socket it is.
type socketEnds struct {
	Socket     string `json:"socket,omitempty"`
	Generation uint32 `json:"generation"`
	Local      string `json:"local"`
	Remote     string `json:"remote"`
}

type notice struct {
	Kind  string     `json:"kind"`
	Time  *time.Time `json:"time,omitempty"` // absent: of the whole run
	Text  string     `json:"text"`
	Count uint64     `json:"count,omitempty"`
}

// shownOwners is how many owners of a state are named.
const shownOwners = 10

func stateOf(p *picture.Picture) *stateJSON {
	s := &stateJSON{
		Time: p.Time, Span: int64(p.Span), Transitions: p.Transitions, Closed: p.Closed,
		Illegal: p.Illegal, Gaps: p.Gaps, Lost: p.Lost, Forgotten: p.Evicted, StuckCount: p.StuckCount,
		Walked: p.Walked, InKernel: p.InKernel,
		States: []oneState{}, Edges: []oneEdge{}, Stuck: []stuckGroup{}, Findings: []finding{}, Notices: []notice{},
	}
	if p.HasRate {
		s.Rate = &p.Rate
	}
	if !p.SocketsAt.IsZero() {
		s.SocketsAt = &p.SocketsAt
	}
	for _, state := range fsm.States() {
		s.States = append(s.States, oneStateOf(p, state))
	}
	for i := range p.Edges {
		e := &p.Edges[i]
		edge := oneEdge{From: e.From.String(), To: e.To.String(), Count: e.All, Illegal: e.Illegal}
		if e.HasRate {
			edge.Rate = &e.Rate
		}
		if e.HasMedian {
			edge.Median = spanOf(e.Median)
		}
		s.Edges = append(s.Edges, edge)
	}
	for i := range p.Stuck {
		g := &p.Stuck[i]
		o := &g.Oldest
		s.Stuck = append(s.Stuck, stuckGroup{
			State: g.State.String(), Count: g.Count, Owner: ownerName(&o.Owner),
			Age: string(output.AppendAge(nil, o.Age, o.AgeExact)), Limit: lifecycle.FormatDuration(o.Limit), Hint: o.Hint(),
			socketEnds: endsOf(picture.SocketID{Cookie: o.Cookie, Generation: o.Generation}, o.Local, o.Remote),
		})
	}
	for i := range p.Findings {
		f := &p.Findings[i]
		s.Findings = append(s.Findings, finding{
			Time: f.Time, From: f.From.String(), To: f.To.String(), Owner: ownerName(&f.Owner), Rule: f.Rule, Reason: f.Reason,
			socketEnds: endsOf(f.ID, f.Local, f.Remote),
		})
	}
	for i := range p.Notices {
		n := &p.Notices[i]
		shown := notice{Kind: string(n.Kind), Text: string(output.AppendEscaped(nil, []byte(n.Words()))), Count: n.Count}
		if !n.Time.IsZero() {
			shown.Time = &n.Time
		}
		s.Notices = append(s.Notices, shown)
	}
	return s
}

func oneStateOf(p *picture.Picture, state fsm.State) oneState {
	s := oneState{Name: state.String(), Owners: []ownerHas{}}
	if state == fsm.Closed { // is of no socket that is there
		return s
	}
	if p.Walked {
		s.Sockets = &p.Sockets[state]
		s.AtLeast = p.Evicted > 0 || state == fsm.TimeWait && p.TimeWaitUnseen
	}
	for i := range p.Groups {
		if g := &p.Groups[i]; g.Sockets[state] > 0 {
			s.Owners = append(s.Owners, ownerHas{g.Name, g.Sockets[state]})
		}
	}
	slices.SortStableFunc(s.Owners, func(a, b ownerHas) int { return cmp.Compare(b.Sockets, a.Sockets) })
	if more := len(s.Owners) - shownOwners; more > 0 {
		s.Owners, s.Others = s.Owners[:shownOwners], more
	}
	t := p.Times[state]
	if t.Count+t.AtLeast+t.Unknown == 0 {
		return s
	}
	s.Dwell = &dwell{Count: t.Count, Estimated: t.Estimated, AtLeast: t.AtLeast, Unknown: t.Unknown}
	if t.Count > 0 {
		s.Dwell.Min, s.Dwell.Max = spanOf(t.Min), spanOf(t.Max)
		s.Dwell.Median, s.Dwell.P90, s.Dwell.P99 = spanOf(t.Median), spanOf(t.P90), spanOf(t.P99)
	}
	for _, b := range t.Buckets {
		s.Buckets = append(s.Buckets, oneBucket{*spanOf(b.From), *spanOf(b.To), b.Count})
	}
	return s
}

// socketsJSON is the sockets of a state.
type socketsJSON struct {
	State string      `json:"state"`
	All   int         `json:"all"` // of which these are the first
	Rows  []oneSocket `json:"sockets"`
}

type oneSocket struct {
	Owner   string `json:"owner"`
	Age     string `json:"age,omitempty"` // in the state
	Stuck   bool   `json:"stuck,omitempty"`
	Illegal bool   `json:"illegal,omitempty"`
	socketEnds
}

func socketsOf(p *picture.Picture) *socketsJSON {
	s := &socketsJSON{State: p.Request.State.String(), All: p.All, Rows: []oneSocket{}}
	for i := range p.Rows {
		r := &p.Rows[i]
		row := oneSocket{
			Owner: ownerName(&r.Owner), Stuck: r.Stuck, Illegal: r.Verdict == fsm.Illegal,
			socketEnds: endsOf(r.ID, r.Local, r.Remote),
		}
		if r.HasAge {
			row.Age = string(output.AppendAge(nil, r.Age, r.AgeExact))
		}
		s.Rows = append(s.Rows, row)
	}
	return s
}

// ownerName is "curl (4242)", escaped, "" if it is not known.
func ownerName(o *events.Owner) string {
	if !o.Known() {
		return ""
	}
	name := output.AppendEscaped(nil, o.Comm.Bytes())
	return string(name) + " (" + strconv.FormatUint(uint64(o.PID), 10) + ")"
}

func endsOf(id picture.SocketID, local, remote netip.AddrPort) socketEnds {
	s := socketEnds{Generation: id.Generation}
	s.Local, s.Remote = output.Ends(local, remote)
	if id.Cookie != 0 {
		s.Socket = strconv.FormatUint(id.Cookie, 16)
	}
	return s
}
