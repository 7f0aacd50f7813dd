package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tcptrace/fsm"
)

// tracing is the command at work on the sockets of one namespace.
type tracing struct {
	t      *testing.T
	ns     *netns
	oracle *oracle
	stdout *os.File // a file: there may be much
	stderr *safeBuffer
	exited chan int // the status, once
	status int
	ended  bool
	timers bool // not --no-time-wait
}

// trace runs the command in this process, beside an oracle, until it is
// stopped: with -o json, -v and for the namespace alone, and the given
// arguments, which may begin with a subcommand. It returns when the tracer is
// attached.
func trace(ns *netns, args ...string) *tracing {
	ns.t.Helper()
	const roomKiB = 8 << 10 // enough for what the host does beside the test
	return traceMany(ns, roomKiB, args...)
}

// traceMany gives the oracle so much room for each CPU: it takes about 100
// bytes for a transition.
func traceMany(ns *netns, roomKiB int, args ...string) *tracing {
	t := ns.t
	t.Helper()
	stdout, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	check(t, err)
	t.Cleanup(func() { check(t, stdout.Close()) })
	tr := &tracing{
		t: t, ns: ns, oracle: newOracle(t, roomKiB),
		stdout: stdout, stderr: &safeBuffer{}, exited: make(chan int, 1),
		timers: !slices.Contains(args, "--no-time-wait"),
	}
	// The signal that stops the command would otherwise end the tests, should
	// it come when the command has ended by itself.
	survive := make(chan os.Signal, 1)
	signal.Notify(survive, syscall.SIGTERM)
	t.Cleanup(func() { signal.Stop(survive) })

	args = ns.arguments(args)
	go func() { tr.exited <- run(args, strings.NewReader(""), stdout, tr.stderr) }()
	t.Cleanup(func() { tr.stop() })
	eventually(t, "the tracer is attached", func() bool {
		if tr.poll() {
			t.Fatalf("ended with status %d: %s", tr.status, tr.stderr)
		}
		return attached.MatchString(tr.stderr.String())
	})
	return tr
}

// arguments adds those of every run to the given ones, which may overrule them.
func (ns *netns) arguments(args []string) []string {
	subcommand := 0
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		subcommand = 1
	}
	always := []string{"-o", "json", "-v", "--netns", strconv.FormatUint(uint64(ns.inode), 10)}
	return slices.Concat(args[:subcommand], always, args[subcommand:])
}

// attached is what -v says from when on every transition is seen.
var attached = regexp.MustCompile(`attached to sock:inet_sock_set_state" clock_offset=(-?\d+)`)

// awaitWalk waits until the sockets that were there before have been found.
func (tr *tracing) awaitWalk() {
	tr.t.Helper()
	eventually(tr.t, "the sockets have been walked", func() bool {
		return strings.Contains(tr.stderr.String(), "walked the sockets")
	})
}

// poll reports whether the command has ended.
func (tr *tracing) poll() bool {
	select {
	case tr.status = <-tr.exited:
		tr.ended = true
	default:
	}
	return tr.ended
}

// stop ends the command as Ctrl-C does and waits for it.
func (tr *tracing) stop() {
	tr.t.Helper()
	if tr.poll() {
		return
	}
	check(tr.t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	eventually(tr.t, "the command has ended", tr.poll)
}

// finish ends the command when all sockets are closed and compares what it said
// with the oracle, and with the kernel's count of minisocks.
func (tr *tracing) finish() *result {
	tr.t.Helper()
	r := tr.finishWith(func(*life) bool { return true })
	if want := tr.ns.counters().minisocks(); tr.timers && r.takenOver() != want {
		r.t.Errorf("%d minisocks took over, the kernel made %d", r.takenOver(), want)
	}
	return r
}

// finishWith is finish for a command that filters: it must have said all of the
// lives to keep, and nothing of the others.
func (tr *tracing) finishWith(keep func(*life) bool) *result {
	tr.t.Helper()
	lives := slices.DeleteFunc(tr.oracle.settle(tr.ns), func(l *life) bool { return !keep(l) })
	r := tr.result()
	tr.ns.checkDisturbance(lives, r.traced(), r.passedOver())
	r.checkSound()
	r.compare(lives)
	return r
}

// result stops the command and reads what it wrote.
func (tr *tracing) result() *result {
	tr.t.Helper()
	tr.stop()
	if tr.status != exitDone {
		tr.t.Errorf("ended with status %d: %s", tr.status, tr.stderr)
	}
	check(tr.t, rewind(tr.stdout))
	r := newResult(tr.ns, bufio.NewReader(tr.stdout), tr.stderr.String())
	r.timers = tr.timers
	return r
}

func rewind(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// rows ends a command that writes text when all sockets are closed, and returns
// the rows below the heading.
func (tr *tracing) rows() []string {
	tr.t.Helper()
	lives := tr.oracle.settle(tr.ns)
	rows := strings.Split(strings.TrimSuffix(tr.text(), "\n"), "\n")[1:]
	tr.ns.checkDisturbance(lives, len(rows), 0)
	return rows
}

// text stops the command and returns what it wrote.
func (tr *tracing) text() string {
	tr.t.Helper()
	tr.stop()
	check(tr.t, rewind(tr.stdout))
	text, err := io.ReadAll(tr.stdout)
	check(tr.t, err)
	return string(text)
}

// safeBuffer takes what another goroutine writes.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// line is a line of JSON; which fields it has depends on its type.
type line struct {
	Type string
	Time time.Time

	// Of a transition. A pointer tells 0 from what is not known.
	Socket      string
	Generation  uint32
	Seq         uint32
	From, To    string
	Dwell       *int64 `json:"dwell_ns"`
	Estimated   bool   `json:"dwell_estimated"`
	DwellExact  *bool  `json:"dwell_exact"`
	Family      string
	Local       endpoint
	Remote      endpoint
	PID         *int
	Comm        *string
	UID         *int
	OwnerSource string `json:"owner_source"`
	NetNS       uint32
	Errno       int
	End         string
	Verdict     string
	Reason      string
	Source      string

	// Of a notice; Reason too.
	Kind  string
	Count int

	// Of the summary.
	Transitions, Connections, Illegal, Gaps, Lost int
}

// endpoint is an end of a connection, as far as it is known.
type endpoint struct {
	Addr netip.Addr
	Port uint16
}

func (e endpoint) addrPort() netip.AddrPort { return netip.AddrPortFrom(e.Addr, e.Port) }

// tookOver reports whether a minisock took over from the socket, which the
// kernel has in CLOSED since then. The lines that follow are the minisock's. After a gap
// FIN_WAIT_2 may also be one that was closed again, but hardly is.
func (l *line) tookOver() bool {
	const timeWait, finWait2 = "TIME_WAIT", "FIN_WAIT_2"
	return l.Source == "tracepoint" && (l.To == timeWait && l.From != timeWait ||
		l.To == finWait2 && (l.Reason == "a minisock waits for the peer's FIN" || l.From == finWait2 && l.Verdict == fsm.Gap.String()))
}

// atLeast reports whether the dwell is a lower bound: the beginning was not seen.
func (l *line) atLeast() bool { return l.DwellExact != nil && !*l.DwellExact }

// kernelTo returns where the socket went, by the kernel's tracepoint.
func (l *line) kernelTo() string {
	if l.tookOver() {
		return fsm.Closed.String()
	}
	return l.To
}

// String tells a transition.
func (l *line) String() string {
	return fmt.Sprintf("%s/%d #%d %v>%v %s -> %s after %s by %s, end %q, %s: %s",
		l.Socket, l.Generation, l.Seq, l.Local.addrPort(), l.Remote.addrPort(), l.From, l.To, nanos(l.Dwell), l.Source, l.End, l.Verdict, l.Reason)
}

// nanos writes a duration, if there is one.
func nanos(d *int64) string {
	if d == nil {
		return "nothing"
	}
	return time.Duration(*d).String()
}

func (l *line) ofMinisock() bool { return l.Source == "timewait" }

// reporter is the test, of which the first errors suffice: where one
// connection of thousands is wrong, all may be.
type reporter struct {
	*testing.T
	errors int
}

func (r *reporter) Errorf(format string, args ...any) {
	r.Helper()
	r.T.Errorf(format, args...)
	if r.errors++; r.errors >= 20 {
		r.Fatal("too many errors")
	}
}

// result is what a run has said.
type result struct {
	t           *reporter
	ns          *netns
	transitions []line
	requests    []line // handshakes that came to nothing: of no socket
	notices     []line
	summary     line
	sockets     []*tracedLife // each generation of each
	stderr      string
	clockOffset int64
	timers      bool // not --no-time-wait
}

// tracedLife is one generation of one socket.
type tracedLife struct {
	local, remote netip.AddrPort
	lines         []*line
}

// steps returns the lines that the kernel's tracepoint has told.
func (s *tracedLife) steps() []*line {
	return slices.DeleteFunc(slices.Clone(s.lines), (*line).ofMinisock)
}

// traced returns how many transitions the kernel's tracepoint has told.
func (r *result) traced() (n int) { return r.count(func(l *line) bool { return !l.ofMinisock() }) }

func (r *result) takenOver() (n int) { return r.count((*line).tookOver) }

func (r *result) count(which func(*line) bool) (n int) {
	for i := range r.transitions {
		if which(&r.transitions[i]) {
			n++
		}
	}
	return n
}

func newResult(ns *netns, stdout io.Reader, stderr string) *result {
	t := ns.t
	t.Helper()
	r := &result{t: &reporter{T: t}, ns: ns, stderr: stderr, timers: true}
	m := attached.FindStringSubmatch(stderr)
	if m == nil {
		t.Fatalf("no word of being attached: %s", stderr)
	}
	var err error
	r.clockOffset, err = strconv.ParseInt(m[1], 10, 64)
	check(t, err)

	summaries := 0
	for d := json.NewDecoder(stdout); ; {
		var l line
		if err := d.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("no JSON: %v", err)
		}
		switch l.Type {
		case "transition":
			if l.Source == "request" {
				r.requests = append(r.requests, l)
			} else {
				r.transitions = append(r.transitions, l)
			}
		case "notice":
			r.notices = append(r.notices, l)
		case "summary":
			r.summary = l
			summaries++
		default:
			t.Fatalf("unexpected line: %+v", l)
		}
	}
	if summaries != 1 {
		t.Fatalf("%d summaries, want one", summaries)
	}

	type id struct {
		socket     string
		generation uint32
	}
	byID := make(map[id]*tracedLife)
	for i := range r.transitions {
		l := &r.transitions[i]
		key := id{l.Socket, l.Generation}
		s := byID[key]
		if s == nil {
			s = &tracedLife{}
			byID[key] = s
			r.sockets = append(r.sockets, s)
		}
		s.lines = append(s.lines, l)
		if l.Local.Port != 0 || !s.local.IsValid() {
			s.local = l.Local.addrPort()
		}
		if l.Remote.Port != 0 {
			s.remote = l.Remote.addrPort()
		}
	}
	return r
}

// at returns the time of a line on the clock of the kernel.
func (r *result) at(l *line) uint64 { return uint64(l.Time.UnixNano() - r.clockOffset) }

// checkSound checks what holds for every run in which nothing was lost.
func (r *result) checkSound() {
	t := r.t
	t.Helper()
	for i := range r.notices {
		n := &r.notices[i]
		if n.Reason != passedOver && !n.ofSymbols() {
			t.Errorf("unexpected notice: %s %s %d", n.Kind, n.Reason, n.Count)
		}
	}
	connections, illegal := len(r.requests), 0
	for _, s := range r.sockets {
		for i, l := range s.lines {
			if l.Seq != uint32(i+1) {
				t.Errorf("number %d of %v is counted as %d", i+1, s, l.Seq)
			}
			if l.Verdict == fsm.Illegal.String() {
				illegal++
			}
			if l.Verdict == fsm.Illegal.String() && r.ns.illegal == 0 || l.Verdict == fsm.Gap.String() {
				t.Errorf("judged %s: %s: %v", l.Verdict, l.Reason, s)
			}
		}
		if !s.isListener() {
			connections++
		}
	}
	r.checkTimes()
	if illegal != r.ns.illegal {
		t.Errorf("%d illegal, want %d", illegal, r.ns.illegal)
	}
	if len(r.requests) != r.ns.requests {
		t.Errorf("%d handshakes came to nothing, want %d: %s", len(r.requests), r.ns.requests, r.firstRequest())
	}
	want := line{
		Type: "summary", Transitions: len(r.transitions) + len(r.requests), Connections: connections,
		Illegal: r.ns.illegal, Lost: r.passedOver(),
	}
	if r.summary != want {
		t.Errorf("the summary is %+v, want %+v", r.summary, want)
	}
}

// ofSymbols reports whether a notice says what a kernel that hides its symbols makes
// it say.
func (l *line) ofSymbols() bool {
	return l.Kind == "unmeasured" && strings.HasPrefix(l.Reason, "why TIME_WAIT ends") && symbolsHidden()
}

// firstRequest writes one of the handshakes that came to nothing.
func (r *result) firstRequest() string {
	if len(r.requests) == 0 {
		return "none"
	}
	return r.requests[0].String()
}

// passedOver is the reason of a notice that concerns the host as a whole: the
// transitions need not be of the test's namespace.
const passedOver = "missed"

// passedOver returns how many transitions of the host were passed over.
func (r *result) passedOver() (n int) {
	for i := range r.notices {
		if r.notices[i].Reason == passedOver {
			n += r.notices[i].Count
		}
	}
	return n
}

// checkTimes checks times and dwells against each other: nanoseconds of one
// clock, they must agree exactly.
func (r *result) checkTimes() {
	t := r.t
	t.Helper()
	type minisock struct {
		socket     string
		generation uint32
	}
	sockets, minisocks := make(map[string]present), make(map[minisock]present)
	last := int64(0)
	for i := range r.transitions {
		l := &r.transitions[i]
		at := l.Time.UnixNano()
		if at < last {
			t.Errorf("time goes back by %d ns at %s -> %s of %s", last-at, l.From, l.To, l.Socket)
		}
		last = at
		if l.NetNS != r.ns.inode {
			t.Errorf("namespace %d, want %d", l.NetNS, r.ns.inode)
		}

		id := minisock{l.Socket, l.Generation}
		switch l.Source {
		case "tracepoint":
			p := sockets[l.Socket]
			r.checkDwell(l, p)
			if l.tookOver() {
				minisocks[id] = p.after(l)
			}
			ofSocket := *l
			ofSocket.To = l.kernelTo()
			sockets[l.Socket] = p.after(&ofSocket)
		case "timewait":
			p := minisocks[id]
			if l.From == fsm.TimeWait.String() && l.Estimated && p.state == fsm.FinWait2.String() && l.Dwell != nil {
				// The FIN reached the minisock unseen, at some time since.
				if *l.Dwell < 0 || *l.Dwell > at-p.since {
					t.Errorf("%s -> %s of %s: estimated dwell %d ns, want at most %d", l.From, l.To, l.Socket, *l.Dwell, at-p.since)
				}
			} else {
				r.checkDwell(l, p)
			}
			if p.state == "" {
				t.Errorf("%s -> %s of %s, of which no minisock took over", l.From, l.To, l.Socket)
			}
			minisocks[id] = p.after(l)
		default:
			t.Errorf("%s -> %s of %s is from %q", l.From, l.To, l.Socket, l.Source)
		}
	}
}

// present is the state that a socket or minisock is in.
type present struct {
	state string
	since int64 // 0: not seen
	child bool  // in SYN_RCVD, of a listener
}

func (p present) after(l *line) present {
	at := l.Time.UnixNano()
	switch {
	case l.From != l.To:
		return present{state: l.To, since: at, child: l.From == fsm.Listen.String() && l.To == fsm.SynRcvd.String()}
	case p.state == l.To:
		return p
	}
	return present{state: l.To}
}

// checkDwell checks the dwell of a line by what is known of the state it leaves.
func (r *result) checkDwell(l *line, p present) {
	t := r.t
	t.Helper()
	at := l.Time.UnixNano()
	known := p.state == l.From && p.since != 0
	switch {
	case !known:
		if l.Dwell != nil && !l.atLeast() && l.Verdict != fsm.Gap.String() {
			t.Errorf("%s -> %s of %s has an exact dwell, %d ns, but the start was not seen", l.From, l.To, l.Socket, *l.Dwell)
		}
	case l.Dwell != nil && l.atLeast(): // a walk found it, whose beginning was not told yet
		if *l.Dwell < 0 || *l.Dwell > at-p.since {
			t.Errorf("%s -> %s of %s: dwell of at least %d ns, but it was %d", l.From, l.To, l.Socket, *l.Dwell, at-p.since)
		}
	case p.child && (!r.timers || r.ns.noRequests):
		if l.Dwell != nil {
			t.Errorf("%s -> %s of %s has a dwell, %d ns, but the SYN was not seen", l.From, l.To, l.Socket, *l.Dwell)
		}
	case l.Dwell == nil && p.child && r.ns.fastOpen:
	case l.Dwell == nil:
		t.Errorf("%s -> %s of %s has no dwell", l.From, l.To, l.Socket)
	case p.child: // since the SYN; it was born at the final ACK
		if *l.Dwell < at-p.since {
			t.Errorf("%s -> %s of %s: dwell %d ns, want at least %d", l.From, l.To, l.Socket, *l.Dwell, at-p.since)
		}
	case *l.Dwell != at-p.since || *l.Dwell <= 0:
		t.Errorf("%s -> %s of %s: dwell %d ns, want %d", l.From, l.To, l.Socket, *l.Dwell, at-p.since)
	}
}

// compare holds the run against the oracle: the same lives, each with the same
// ends, the same steps, at the same times.
func (r *result) compare(want []*life) {
	t := r.t
	t.Helper()
	if len(want) == 0 {
		t.Fatal("the oracle saw nothing: there is nothing to compare")
	}
	wantBy, gotBy := make(map[string][]*life), make(map[string][]*tracedLife)
	for _, l := range want {
		key := fmt.Sprint(l.local, l.remote)
		wantBy[key] = append(wantBy[key], l)
	}
	for _, s := range r.sockets {
		key := fmt.Sprint(s.local, s.remote)
		gotBy[key] = append(gotBy[key], s)
	}
	for key, lives := range wantBy {
		if got := gotBy[key]; len(got) != len(lives) {
			t.Errorf("the oracle saw %v, tcptrace %v", lives, got)
		}
	}
	clients := make(map[string]*life) // by their ends, as their servers name them
	for _, l := range want {
		clients[fmt.Sprint(l.remote, l.local)] = l
	}
	var skews skews
	compared := 0
	for key, sockets := range gotBy {
		lives := wantBy[key]
		if len(lives) == 0 {
			t.Errorf("the oracle did not see %v", sockets)
		}
		// The same ends may meet more than once.
		slices.SortFunc(lives, func(a, b *life) int { return cmp.Compare(a.steps[0].at, b.steps[0].at) })
		for i, s := range sockets[:min(len(sockets), len(lives))] {
			if s.path() != lives[i].path() {
				t.Errorf("%v: tcptrace saw %s, the oracle %s", s, s.path(), lives[i].path())
				continue
			}
			compared += len(lives[i].steps)
			r.compareSteps(s, lives[i], &skews)
			if len(lives) == 1 {
				r.compareHandshake(s, clients[key], &skews)
			}
		}
	}
	skews.check(t)
	t.Logf("compared %d transitions of %d sockets; apart by %v", compared, len(r.sockets), &skews)
}

// compareSteps compares two lives with the same path.
func (r *result) compareSteps(s *tracedLife, want *life, skews *skews) {
	t := r.t
	t.Helper()
	entered, child := uint64(0), false // entered: on the oracle's clock
	for i, l := range s.steps() {
		for _, end := range []struct {
			got  endpoint
			want netip.AddrPort
		}{{l.Local, want.local}, {l.Remote, want.remote}} {
			if end.got.Addr.IsValid() && end.got.Addr != end.want.Addr() || end.got.Port != 0 && end.got.Port != end.want.Port() {
				t.Errorf("%s -> %s has an end %v, want %v", l.From, l.To, end.got.addrPort(), end.want)
			}
		}
		at := want.steps[i].at
		skews.add(int64(r.at(l) - at))
		if l.Dwell != nil && entered != 0 && !child {
			skews.add(*l.Dwell - int64(at-entered))
		}
		if l.From != l.kernelTo() {
			entered = at
		}
		child = l.From == fsm.Listen.String()
	}
}

// compareHandshake holds a child's time in SYN_RCVD against its client: the SYN
// came after the client had entered SYN_SENT. With one that was not lost on the
// way, it came at once.
func (r *result) compareHandshake(s *tracedLife, client *life, skews *skews) {
	r.t.Helper()
	steps := s.steps()
	if client == nil || len(steps) < 2 || steps[0].From != fsm.Listen.String() || steps[1].Dwell == nil || client.steps[0].to != fsm.SynSent {
		return
	}
	sent := int64(client.steps[0].at)
	came := int64(r.at(steps[1])) - *steps[1].Dwell
	switch {
	case came < sent:
		r.t.Errorf("%v: its SYN came %v before it was sent", s, time.Duration(sent-came))
	case !r.ns.slowSYN:
		skews.add(came - sent)
	}
}

// skews are by how many nanoseconds two times of one thing differ. Both are
// taken in the same call of the tracepoint, one after the other, so microseconds
// are usual; but an interrupt, or the host of a virtual machine, may come
// between.
type skews []int64

func (s *skews) add(ns int64) { *s = append(*s, max(ns, -ns)) }

const (
	usualSkew = int64(200 * time.Microsecond)
	worstSkew = int64(100 * time.Millisecond)
)

func (s skews) check(t *reporter) {
	t.Helper()
	unusual := 0
	for _, ns := range s {
		if ns > worstSkew {
			t.Errorf("a time or dwell is off by %v", time.Duration(ns))
		} else if ns > usualSkew {
			unusual++
		}
	}
	if unusual > 2+len(s)/100 {
		t.Errorf("%d of %d times and dwells are off by more than %v", unusual, len(s), time.Duration(usualSkew))
	}
}

func (s skews) String() string {
	if len(s) == 0 {
		return "nothing"
	}
	sorted := slices.Sorted(slices.Values(s))
	return fmt.Sprintf("%v (median), %v (most)", time.Duration(sorted[len(s)/2]), time.Duration(sorted[len(s)-1]))
}

// path writes the states of a life: "CLOSED LISTEN CLOSED".
func (l *life) path() string {
	states := []string{l.steps[0].from.String()}
	for i := range l.steps {
		states = append(states, l.steps[i].to.String())
	}
	return strings.Join(states, " ")
}

func (l *life) String() string { return fmt.Sprintf("%v>%v %s", l.local, l.remote, l.path()) }

// path writes the states as life does.
func (s *tracedLife) path() string {
	return describe(s.steps(), (*line).kernelTo)
}

func describe(lines []*line, to func(*line) string) string {
	if len(lines) == 0 {
		return "nothing"
	}
	states := []string{lines[0].From}
	for i, l := range lines {
		if i > 0 && l.From != lines[i-1].kernelTo() {
			states = append(states, "?", l.From)
		}
		states = append(states, to(l))
	}
	return strings.Join(states, " ")
}

func (s *tracedLife) String() string { return fmt.Sprintf("%v>%v %s", s.local, s.remote, s.judged()) }

// judged writes the states of the socket, each with what is remarkable about the
// way there. What becomes of its minisock, and whether that begins in FIN_WAIT_2,
// depends on whether the peer's ACK or its FIN is faster: it is not told here.
func (s *tracedLife) judged() string {
	return describe(s.steps(), func(l *line) string {
		switch {
		case l.tookOver():
			return "minisock"
		case l.Verdict == fsm.Legal.String():
			return l.To
		case l.Verdict == fsm.Linux.String():
			return l.To + "(linux)"
		}
		return fmt.Sprintf("%s(%s: %s)", l.To, l.Verdict, l.Reason)
	})
}

func (s *tracedLife) isListener() bool {
	first := s.lines[0]
	return first.To == fsm.Listen.String() || first.From == fsm.Listen.String() && first.To != fsm.SynRcvd.String()
}

// expect checks the lives, in no order.
func (r *result) expect(want ...string) {
	r.t.Helper()
	var got []string
	for _, s := range r.sockets {
		prefix := ""
		if g := s.lines[0].Generation; g > 0 {
			prefix = fmt.Sprintf("life %d: ", g)
		}
		got = append(got, prefix+s.judged())
	}
	want = slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.t.Errorf("saw\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
