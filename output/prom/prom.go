// Package prom keeps what was found as metrics for Prometheus. Metrics are of the
// host as a whole, or grouped by a few labels of a bounded number of values: never by
// the peer's address or an ephemeral port.
package prom

import (
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// DefaultMaxSeries is how many series grouping may make.
const DefaultMaxSeries = 1000

// Sizes of tables. The first place of a state is for numbers without a name.
const (
	states = 12
	causes = int(fsm.CauseUnknown) + 1
	roles  = int(lifecycle.RolePassive) + 1
	losses = int(events.LossMinisocks) + 1
)

// Options of a Sink.
type Options struct {
	Version string // of the program
	// Events returns how many transitions have been read. It is called by scrapes.
	Events func() uint64
	// By groups transitions, ends and stuck sockets. MaxSeries bounds the series that
	// this makes, 0 meaning DefaultMaxSeries; the rest is counted as "other".
	By        []Label
	MaxSeries int
	// Counted returns what the kernel side has counted by [Bounds]. It is called by
	// scrapes; nil: everything comes as a transition. It excludes By.
	Counted output.Counter
}

// Sink keeps the metrics. Its methods of [output.Sink] may be called from one
// goroutine, while others scrape.
//
// All is counted in tables, from which each scrape makes the metrics: one lock is
// cheaper than a dozen of atomic counters, and what a scrape shows is of one moment.
type Sink struct {
	version   string
	events    func() uint64
	by        []Label
	wants     struct{ comm, container, unit, netns, lport bool }
	maxSeries int
	counter   output.Counter // nil: none
	since     time.Time
	descs     descs

	mu        sync.Mutex
	taken     []output.Counted // of what was counted, into the tables
	all       group            // without grouping all, else what has no room
	groups    map[key]*group
	series    int // of groups
	listeners map[end]struct{}
	stuck     map[stuckID]stuckIn
	now       uint64 // of the last event
	forgetAt  uint64
	dwell     [states]histogram
	illegal   [states][states]uint64
	gaps      uint64
	lost      [losses]uint64
	ends      [len(endNames)]uint64
	sockets   [states]int
	counted   bool // sockets were
	forgotten uint64
	ports     map[uint32]float64 // by network namespace
}

var _ interface {
	output.Sink
	prometheus.Collector
} = (*Sink)(nil)

// New returns a sink without observations.
func New(o *Options) *Sink {
	s := &Sink{
		version: o.Version, events: o.Events, by: o.By, maxSeries: o.MaxSeries, since: time.Now(), counter: o.Counted,
		groups: make(map[key]*group), listeners: make(map[end]struct{}), stuck: make(map[stuckID]stuckIn),
	}
	if s.maxSeries <= 0 {
		s.maxSeries = DefaultMaxSeries
	}
	for _, l := range s.by {
		s.all.labels = append(s.all.labels, other)
		switch l {
		case LabelComm:
			s.wants.comm = true
		case LabelContainer:
			s.wants.container = true
		case LabelUnit:
			s.wants.unit = true
		case LabelNetNS:
			s.wants.netns = true
		case LabelLPort:
			s.wants.lport = true
		}
	}
	s.descs = newDescs(s.by)
	return s
}

// Registry returns the metrics, with those of the Go runtime and the process.
func (s *Sink) Registry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(s, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Handler serves metrics.
func Handler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, Timeout: 10 * time.Second,
	})
}

// place is where a state is in the tables.
func place(s fsm.State) int {
	if !s.Known() {
		return 0
	}
	return int(s)
}

// Ends of TIME_WAIT, as in time_wait.end of JSON.
var endNames = [...]string{"expired", "reused", "reset", "netns", "killed", "skipped"}

// Their places.
const (
	endExpired = iota
	endReused
	endReset
	endNetNS
	endKilled
	endSkipped
)

func endOf(e fsm.End) int {
	switch e.OfTimeWait() {
	case fsm.EndExpired:
		return endExpired
	case fsm.EndReused:
		return endReused
	case fsm.EndReset:
		return endReset
	case fsm.EndNetNS:
		return endNetNS
	}
	return endKilled // or not known how
}

// Transition implements [output.Sink]. It does not allocate, but for a new group.
func (s *Sink) Transition(t *lifecycle.Transition) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := t.Event
	from, to := place(e.From), place(e.To)
	s.now = max(s.now, e.Time)
	s.listens(e)
	g := s.groupOf(&e.Owner, &t.Place, e.NetNS, e.Local, t.Life.Role(), e.Time)
	g = s.room(g, g.transitions[from][to] > 0)
	g.transitions[from][to]++

	// A lower bound is no observation, nor is the time so far of a state that goes on.
	if t.HasDwell && !t.AtLeast && e.From != e.To {
		s.dwell[from].observe(t.Dwell)
	}
	switch t.Verdict {
	case fsm.Illegal:
		s.illegal[from][to]++
		if e.Flags&events.FlagSkipped != 0 {
			s.ends[endSkipped]++
		}
	case fsm.Gap:
		s.gaps++
	}
	if e.From == fsm.TimeWait && e.To == fsm.Closed {
		s.ends[endOf(e.End)]++
	}
	return nil
}

// takeCounted takes over what the kernel side has counted since it was asked last.
func (s *Sink) takeCounted() {
	if s.counter == nil {
		return
	}
	now := s.counter()
	for i := range now {
		more := now[i]
		if s.taken != nil {
			more = now[i].Since(&s.taken[i])
		}
		if more.Steps == 0 {
			continue
		}
		from, to := place(more.From), place(more.To)
		s.all.transitions[from][to] += more.Steps
		if !more.HasDwell {
			continue
		}
		h := &s.dwell[from]
		h.sum += more.Sum.Seconds()
		for bin, n := range more.Bins {
			h.add(more.Least(bin), n)
		}
	}
	s.taken = now
}

// Found takes in a snapshot: which ports are a listener's.
func (s *Sink) Found(t *lifecycle.Transition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = max(s.now, t.Time)
	s.listens(t.Event)
}

// Lifecycle implements [output.Sink], for a connection that both sides have closed or
// that is no more.
func (s *Sink) Lifecycle(c *lifecycle.Lifecycle) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cause := c.Cause
	if cause == fsm.CauseNone || int(cause) >= causes {
		cause = fsm.CauseUnknown
	}
	s.now = max(s.now, c.End)
	g := s.groupOf(&c.Owner, &c.Place, c.NetNS, c.Local, c.Role, c.End)
	g = s.room(g, g.closed[cause][c.Role] > 0)
	g.closed[cause][c.Role]++
	return nil
}

// Notice implements [output.Sink]: it counts what was lost.
func (s *Sink) Notice(n *output.Notice) error {
	if n.Kind != output.NoticeLost {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := events.LossRingFull; int(r) < losses; r++ {
		if n.Reason == r.String() {
			s.lost[r] += n.Count
		}
	}
	return nil
}

// Lost returns how many records have been lost so far.
func (s *Sink) Lost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost[events.LossRingFull] + s.lost[events.LossMissed]
}

// Sockets takes over how many sockets there are in each state, and how many have been
// forgotten for want of room. Before the first call there is no such metric.
func (s *Sink) Sockets(count func(fsm.State) int, forgotten uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, state := range fsm.States() {
		s.sockets[place(state)] = count(state)
	}
	s.counted, s.forgotten = true, forgotten
}

// Ports takes over the highest share of the local ports in use by network namespace. The
// map is not to be changed any more.
func (s *Sink) Ports(ratios map[uint32]float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = ratios
}

// Summary implements [output.Sink]: it says nothing that is not counted.
func (*Sink) Summary(*output.Summary) error { return nil }

// Flush implements [output.Sink]: it forgets what is stale.
func (s *Sink) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(s.now)
	return nil
}

// Close implements [output.Sink].
func (*Sink) Close() error { return nil }

// descs describes the metrics.
type descs struct {
	transitions, dwell, sockets, forgotten, ports, closed, illegal, stuck, ends, events, lost, gaps, build *prometheus.Desc
}

func newDescs(by []Label) descs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tcptrace_"+name, help, labels, nil)
	}
	return descs{
		transitions: desc("state_transitions_total", "TCP state transitions, by the states that they lead from and to.", labelNames(by, "from", "to")...),
		dwell:       desc("state_dwell_seconds", "Time that a socket spent in a state, where its beginning was seen.", "state"),
		sockets:     desc("sockets", "TCP sockets that are followed, minisocks included, by state.", "state"),
		forgotten:   desc("sockets_forgotten_total", "TCP sockets that are no longer followed, as there were more than --max-connections."),
		ports:       desc("local_ports_used_ratio", "Highest share of the ephemeral ports in use from one local address to one remote address and port, TIME_WAIT included.", "netns"),
		closed:      desc("connections_closed_total", "Connections that both sides have closed or that were ended, by cause and by who began them.", labelNames(by, "cause", "role")...),
		illegal:     desc("illegal_transitions_total", "Transitions that the state machine of RFC 9293 does not allow.", "from", "to"),
		stuck:       desc("stuck_sockets", "Sockets that have been in a state for longer than its limit.", labelNames(by, "state")...),
		ends:        desc("time_wait_ends_total", "Ends of TIME_WAIT, by why it ended; skipped: it should have been and was not.", "end"),
		events:      desc("events_total", "Transitions read from the kernel."),
		lost:        desc("events_lost_total", "Transitions, or parts of what there is to know of them, that were lost, by reason.", "reason"),
		gaps:        desc("sequence_gaps_total", "Transitions before which records of their socket are missing."),
		build:       desc("build_info", "1, with what this program is.", "version", "goversion"),
	}
}

// Describe implements [prometheus.Collector].
func (s *Sink) Describe(ch chan<- *prometheus.Desc) {
	d := &s.descs
	for _, desc := range []*prometheus.Desc{
		d.transitions, d.dwell, d.sockets, d.forgotten, d.ports, d.closed, d.illegal, d.stuck, d.ends, d.events, d.lost, d.gaps, d.build,
	} {
		ch <- desc
	}
}

// Collect implements [prometheus.Collector].
func (s *Sink) Collect(ch chan<- prometheus.Metric) {
	for _, m := range s.metrics() { // not under the lock: it may have to wait
		ch <- m
	}
}

func (s *Sink) metrics() (list []prometheus.Metric) {
	add := func(desc *prometheus.Desc, value float64, labels ...string) {
		list = append(list, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...))
	}
	since := s.since
	count := func(desc *prometheus.Desc, n uint64, labels ...string) {
		list = append(list, prometheus.MustNewConstMetricWithCreatedTimestamp(desc, prometheus.CounterValue, float64(n), since, labels...))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeCounted()

	for _, g := range s.groups {
		since = g.since
		s.collect(g, count, add)
	}
	since = s.since
	s.collect(&s.all, count, add)
	for from, row := range s.illegal {
		for to, n := range row {
			if n > 0 || from != 0 && to != 0 {
				count(s.descs.illegal, n, stateName(from), stateName(to))
			}
		}
	}
	for _, state := range fsm.States() {
		if state == fsm.Closed {
			continue // of no socket that is there
		}
		list = append(list, s.dwell[state].metric(s.descs.dwell, s.since, state.String()))
		if s.counted {
			add(s.descs.sockets, float64(s.sockets[state]), state.String())
		}
	}
	if s.counted {
		count(s.descs.forgotten, s.forgotten)
	}
	for netns, ratio := range s.ports {
		add(s.descs.ports, ratio, strconv.FormatUint(uint64(netns), 10))
	}
	for i, n := range s.ends {
		count(s.descs.ends, n, endNames[i])
	}
	for r := events.LossRingFull; int(r) < losses; r++ {
		count(s.descs.lost, s.lost[r], r.String())
	}
	count(s.descs.events, s.events())
	count(s.descs.gaps, s.gaps)
	add(s.descs.build, 1, s.version, runtime.Version())
	return list
}

// collect adds the metrics that may be grouped: those of one group. Without grouping
// there are also those that are 0, so that the first of a kind is a rise.
func (s *Sink) collect(g *group,
	count func(*prometheus.Desc, uint64, ...string), add func(*prometheus.Desc, float64, ...string),
) {
	zeros := len(s.by) == 0
	with := func(own ...string) []string { return append(own, g.labels...) }
	for from, row := range g.transitions {
		for to, n := range row {
			if n > 0 || zeros && expected[from][to] {
				count(s.descs.transitions, n, with(stateName(from), stateName(to))...)
			}
		}
	}
	for cause, row := range g.closed {
		for role, n := range row {
			if n > 0 || zeros && cause != 0 && role != 0 {
				count(s.descs.closed, n, with(fsm.Cause(cause).String(), lifecycle.Role(role).String())...)
			}
		}
	}
	for state, n := range g.stuck {
		if n.seen || zeros && limited(fsm.State(state)) {
			add(s.descs.stuck, float64(n.n), with(stateName(state))...)
		}
	}
}

// expected are the transitions that the machine knows.
var expected = func() (is [states][states]bool) {
	for _, e := range fsm.Machine() {
		is[e.From][e.To] = true
	}
	return is
}()

// limited reports whether a socket can be stuck in the state.
func limited(s fsm.State) bool { return s.Known() && s != fsm.Closed && s != fsm.Listen }

// stateName is a state's in labels.
func stateName(place int) string {
	if place == 0 {
		return other
	}
	return fsm.State(place).String()
}
