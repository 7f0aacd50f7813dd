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
}

// trace runs the command in this process, beside an oracle, until it is
// stopped: with -o json, -v and for the namespace alone, and the given
// arguments. It returns when the tracer is attached.
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
	}
	// The signal that stops the command would otherwise end the tests, should
	// it come when the command has ended by itself.
	survive := make(chan os.Signal, 1)
	signal.Notify(survive, syscall.SIGTERM)
	t.Cleanup(func() { signal.Stop(survive) })

	args = append([]string{"-o", "json", "-v", "--netns", strconv.FormatUint(uint64(ns.inode), 10)}, args...)
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

// attached is what -v says from when on every transition is seen.
var attached = regexp.MustCompile(`attached to sock:inet_sock_set_state" clock_offset=(-?\d+)`)

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
// with the oracle.
func (tr *tracing) finish() *result {
	tr.t.Helper()
	return tr.finishWith(func(*life) bool { return true })
}

// finishWith is finish for a command that filters: it must have said all of the
// lives to keep, and nothing of the others.
func (tr *tracing) finishWith(keep func(*life) bool) *result {
	tr.t.Helper()
	lives := slices.DeleteFunc(tr.oracle.settle(tr.ns), func(l *life) bool { return !keep(l) })
	r := tr.result()
	tr.ns.checkDisturbance(lives, len(r.transitions), r.passedOver())
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
	return newResult(tr.ns, bufio.NewReader(tr.stdout), tr.stderr.String())
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
	Family      string
	Local       endpoint
	Remote      endpoint
	PID         *int
	Comm        *string
	UID         *int
	OwnerSource string `json:"owner_source"`
	NetNS       uint32
	Errno       int
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
	notices     []line
	summary     line
	sockets     []*tracedLife // each generation of each
	stderr      string
	clockOffset int64
}

// tracedLife is one generation of one socket.
type tracedLife struct {
	local, remote netip.AddrPort
	lines         []*line
}

func newResult(ns *netns, stdout io.Reader, stderr string) *result {
	t := ns.t
	t.Helper()
	r := &result{t: &reporter{T: t}, ns: ns, stderr: stderr}
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
			r.transitions = append(r.transitions, l)
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
		if n.Reason != passedOver {
			t.Errorf("unexpected notice: %s %s %d", n.Kind, n.Reason, n.Count)
		}
	}
	connections := 0
	for _, s := range r.sockets {
		for i, l := range s.lines {
			switch {
			case l.Seq != uint32(i+1):
				t.Errorf("number %d of %v is counted as %d", i+1, s, l.Seq)
			case l.Verdict == fsm.Illegal.String(), l.Verdict == fsm.Gap.String():
				t.Errorf("judged %s: %s: %v", l.Verdict, l.Reason, s)
			}
		}
		if !s.isListener() {
			connections++
		}
	}
	r.checkTimes()
	want := line{Type: "summary", Transitions: len(r.transitions), Connections: connections, Lost: r.passedOver()}
	if r.summary != want {
		t.Errorf("the summary is %+v, want %+v", r.summary, want)
	}
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
	type present struct {
		state string
		since int64 // 0: not seen
	}
	now := make(map[string]present)
	last := int64(0)
	for i := range r.transitions {
		l := &r.transitions[i]
		at := l.Time.UnixNano()
		if at < last {
			t.Errorf("time goes back by %d ns at %s -> %s of %s", last-at, l.From, l.To, l.Socket)
		}
		last = at
		if l.NetNS != r.ns.inode || l.Source != "tracepoint" {
			t.Errorf("namespace %d, source %q, want %d, tracepoint", l.NetNS, l.Source, r.ns.inode)
		}

		p := now[l.Socket]
		switch {
		case p.state != l.From || p.since == 0:
			if l.Dwell != nil && l.Verdict != fsm.Gap.String() {
				t.Errorf("%s -> %s of %s has a dwell, %d ns, but the start was not seen", l.From, l.To, l.Socket, *l.Dwell)
			}
		case l.Dwell == nil:
			t.Errorf("%s -> %s of %s has no dwell", l.From, l.To, l.Socket)
		case *l.Dwell != at-p.since || *l.Dwell <= 0:
			t.Errorf("%s -> %s of %s: dwell %d ns, want %d", l.From, l.To, l.Socket, *l.Dwell, at-p.since)
		}
		if p.state != l.To || l.From != l.To {
			p = present{l.To, at}
		}
		now[l.Socket] = p
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
			compared += len(s.lines)
			r.compareSteps(s, lives[i], &skews)
		}
	}
	skews.check(t)
	t.Logf("compared %d transitions of %d sockets; apart by %v", compared, len(r.sockets), &skews)
}

// compareSteps compares two lives with the same path.
func (r *result) compareSteps(s *tracedLife, want *life, skews *skews) {
	t := r.t
	t.Helper()
	entered := uint64(0) // on the oracle's clock
	for i, l := range s.lines {
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
		if l.Dwell != nil && entered != 0 {
			skews.add(*l.Dwell - int64(at-entered))
		}
		if l.From != l.To {
			entered = at
		}
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
func (s *tracedLife) path() string { return s.describe(func(*line) string { return "" }) }

func (s *tracedLife) describe(remark func(*line) string) string {
	states := []string{s.lines[0].From}
	for i, l := range s.lines {
		if i > 0 && l.From != s.lines[i-1].To {
			states = append(states, "?", l.From)
		}
		states = append(states, l.To+remark(l))
	}
	return strings.Join(states, " ")
}

func (s *tracedLife) String() string { return fmt.Sprintf("%v>%v %s", s.local, s.remote, s.judged()) }

// judged writes the states, each with what is remarkable about the way there.
func (s *tracedLife) judged() string {
	return s.describe(func(l *line) string {
		switch l.Verdict {
		case fsm.Legal.String():
			return ""
		case fsm.Linux.String():
			return "(linux)"
		}
		return fmt.Sprintf("(%s: %s)", l.Verdict, l.Reason)
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
