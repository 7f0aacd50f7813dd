package fsm_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"tcptrace/fsm"
)

// errnos are those that the kernel ends connections with, some that it may,
// and some that are none.
var errnos = []int{0, 1, 13, 32, 71, 92, 100, 101, 103, 104, 110, 111, 112, 113, 9999, -1}

// allEvidence calls f with every combination of flags with each errno.
func allEvidence(f func(fsm.Evidence)) {
	for flags := range 1 << 8 {
		bit := func(n int) bool { return flags>>n&1 != 0 }
		for _, errno := range errnos {
			f(fsm.Evidence{
				Errno: errno, Local: bit(0), Orphan: bit(1), Unaccepted: bit(2), ShutDown: bit(3),
				Linger0: bit(4), Linger2: bit(5), Unread: bit(6), PeerFIN: bit(7),
			})
		}
	}
}

// allTimers calls f with what minisocks, requests and resets add to evidence.
func allTimers(f func(fsm.Evidence)) {
	for flags := range 1 << 8 {
		bit := func(n int) bool { return flags>>n&1 != 0 }
		for _, end := range []fsm.End{0, 1, 2, 3, 4, 5, 6, 7, 8, 255} {
			e := fsm.Evidence{
				End: end, Minisock: bit(0), Skipped: bit(1), Counted: bit(2), MinisockLimit: 16,
				ResetSent: bit(4), Local: bit(5), ShutDown: bit(6), PeerFIN: bit(7),
			}
			if bit(3) {
				e.Minisocks = 16
			}
			f(e)
		}
	}
}

// checkSound checks what holds for every judgement.
func checkSound(t *testing.T, from, to fsm.State, e fsm.Evidence) fsm.Judgement {
	t.Helper()
	j := fsm.Check(from, to, e)
	bad := func(what string) { t.Errorf("%v -> %v, %+v: %s: %+v", from, to, e, what, j) }
	switch j.Verdict {
	case fsm.Legal:
	case fsm.Abort, fsm.Linux, fsm.Illegal:
		if j.Reason == "" {
			bad("no reason")
		}
	default:
		bad("verdict")
	}
	if j.Rule == "" {
		bad("no rule")
	}
	if j.Verdict == fsm.Abort && to != fsm.Closed {
		bad("an abort that does not end in CLOSED")
	}
	// Whatever ended TIME_WAIT, its connection was finished.
	ofTimeWait := from == fsm.TimeWait && e.End != fsm.EndNone
	if j.Verdict == fsm.Abort && (j.Cause == fsm.CauseNone || j.Cause == fsm.CauseFinished) != ofTimeWait {
		bad("an abort without a cause")
	}
	if known := from.Known() && to == fsm.Closed; (j.Cause != fsm.CauseNone) != known {
		bad("cause")
	}
	if strings.HasPrefix(j.Reason, "TIME_WAIT skipped: ") {
		if !e.Skipped || !e.Counted || to != fsm.Closed || from != fsm.FinWait2 && from != fsm.Closing {
			bad("skipped without evidence")
		}
	} else if j.Verdict == fsm.Illegal && (!strings.Contains(j.Reason, from.String()) || !strings.Contains(j.Reason, to.String())) {
		bad("the reason does not name both states")
	}
	return j
}

// All 65,536 pairs, without evidence and with the most misleading.
func TestCheckAllPairs(t *testing.T) {
	wantLegal, wantLinux, wantAbort := edges(t, rfcEdges), edges(t, linuxEdges), edges(t, abortEdges)
	want := map[pair]fsm.Verdict{}
	for p := range wantAbort {
		want[p] = fsm.Abort
	}
	for p := range wantLegal { // an orderly end goes before an abort
		want[p] = fsm.Legal
	}
	for p := range wantLinux {
		want[p] = fsm.Linux
	}
	// Legal for the user who calls CLOSE, but the connection did not come about.
	want[pair{fsm.SynSent, fsm.Closed}] = fsm.Abort

	got := map[pair]fsm.Verdict{}
	for from := range 256 {
		for to := range 256 {
			p := pair{fsm.State(from), fsm.State(to)}
			j := checkSound(t, p.from, p.to, fsm.Evidence{})
			if j.Verdict != fsm.Illegal {
				got[p] = j.Verdict
			}
			// Evidence does not make a legal edge of an illegal one, nor the
			// other way round.
			for _, e := range []fsm.Evidence{
				{Errno: 104},
				{Errno: 9999},
				{Errno: 110, Local: true, Orphan: true, Unaccepted: true, ShutDown: true, Linger0: true, Linger2: true, Unread: true, PeerFIN: true},
				{Local: true, Orphan: true, Unaccepted: true, ShutDown: true, Linger0: true, Linger2: true, Unread: true},
				{Minisock: true, Skipped: true},
				{Minisock: true, Skipped: true, Counted: true, Minisocks: 1, MinisockLimit: 16384},
				{ResetSent: true, ResetReason: "TCP_STATE"},
				{End: fsm.EndExpired}, {End: fsm.EndReused}, {End: 255},
			} {
				if with := checkSound(t, p.from, p.to, e); (with.Verdict == fsm.Illegal) != (j.Verdict == fsm.Illegal) {
					t.Errorf("%v -> %v is %v, but with %+v %v", p.from, p.to, j.Verdict, e, with.Verdict)
				}
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("without evidence:\n%v, want\n%v", got, want)
	}
}

// All pairs of known states with all evidence, which can only turn an orderly
// end into an abort.
func TestCheckAllEvidence(t *testing.T) {
	aborts := edges(t, abortEdges)
	for _, from := range fsm.States() {
		for _, to := range fsm.States() {
			plain := fsm.Check(from, to, fsm.Evidence{})
			_, mayAbort := aborts[pair{from, to}]
			if !mayAbort {
				// Only an end depends on evidence: one of each will do.
				checkSound(t, from, to, fsm.Evidence{Errno: 104, Local: true, ShutDown: true, Linger0: true})
				continue
			}
			told := false
			allEvidence(func(e fsm.Evidence) {
				if j := checkSound(t, from, to, e); j.Verdict != plain.Verdict && j.Verdict != fsm.Abort && !told {
					told = true // once is enough
					t.Errorf("%v -> %v is %v, but with %+v %v", from, to, plain.Verdict, e, j.Verdict)
				}
			})
		}
	}
}

// All pairs of known states with all that timers tell. It makes an end of a
// minisock or a request of a transition to CLOSED that may be an abort, and of
// one past TIME_WAIT, as the count has it, a finding.
func TestCheckAllTimers(t *testing.T) {
	aborts := edges(t, abortEdges)
	for _, from := range fsm.States() {
		for _, to := range fsm.States() {
			plain := fsm.Check(from, to, fsm.Evidence{})
			_, mayAbort := aborts[pair{from, to}]
			allTimers(func(e fsm.Evidence) {
				j := checkSound(t, from, to, e)
				without := e
				without.End = fsm.EndNone
				if !mayAbort && j != fsm.Check(from, to, without) {
					t.Errorf("%v -> %v with %+v depends on the end: %+v", from, to, e, j)
				}
				pastTimeWait := to == fsm.Closed && (from == fsm.FinWait2 || from == fsm.Closing)
				if !pastTimeWait && (j.Verdict == fsm.Illegal) != (plain.Verdict == fsm.Illegal) {
					t.Errorf("%v -> %v is %v, but with %+v %v", from, to, plain.Verdict, e, j.Verdict)
				}
			})
		}
	}
}

// LISTEN and CLOSED hold no connection: nothing there is an abort.
func TestNoAbortWithoutConnection(t *testing.T) {
	for _, all := range []func(func(fsm.Evidence)){allEvidence, allTimers} {
		all(func(e fsm.Evidence) {
			for from, want := range map[fsm.State]fsm.Verdict{fsm.Listen: fsm.Legal, fsm.Closed: fsm.Linux} {
				if j := fsm.Check(from, fsm.Closed, e); j.Verdict != want {
					t.Errorf("%v -> CLOSED with %+v is %v, want %v", from, e, j.Verdict, want)
				}
			}
		})
	}
}

func TestIllegalReasons(t *testing.T) {
	for _, c := range []struct {
		from, to fsm.State
		want     string
	}{
		{fsm.Established, fsm.Listen, "no edge leads from ESTABLISHED to LISTEN"},
		{fsm.Established, fsm.Established, "no edge leads from ESTABLISHED back to itself"},
		{13, fsm.Closed, "no edge leads from STATE_13 to CLOSED: STATE_13 is no TCP state"},
		{fsm.Closed, 12, "no edge leads from CLOSED to STATE_12: STATE_12 is no TCP state"},
		{0, 0, "no edge leads from STATE_0 to STATE_0: STATE_0 is no TCP state"},
	} {
		if j := fsm.Check(c.from, c.to, fsm.Evidence{}); j.Reason != c.want {
			t.Errorf("%v -> %v: %q, want %q", c.from, c.to, j.Reason, c.want)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		fsm.Check(fsm.Established, fsm.FinWait1, fsm.Evidence{Local: true})
		fsm.Check(fsm.Established, fsm.Closed, fsm.Evidence{Errno: 104})
		fsm.Check(fsm.FinWait2, fsm.Closed, fsm.Evidence{PeerFIN: true})
		fsm.Check(fsm.FinWait2, fsm.TimeWait, fsm.Evidence{Minisock: true})
		fsm.Check(fsm.TimeWait, fsm.Closed, fsm.Evidence{End: fsm.EndExpired})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A total order: of any two the worse one, whichever is named first.
func TestWorse(t *testing.T) {
	order := []fsm.Verdict{0, fsm.Legal, fsm.Linux, fsm.Abort, fsm.Gap, fsm.Illegal}
	for i, a := range order {
		for j, b := range order {
			if got, want := fsm.Worse(a, b), order[max(i, j)]; got != want {
				t.Errorf("the worse of %v and %v is %v, want %v", a, b, got, want)
			}
		}
	}
	if len(order) != 1+len(fsm.Verdicts()) {
		t.Errorf("verdicts: %v", fsm.Verdicts())
	}
}

func TestVerdicts(t *testing.T) {
	names := map[fsm.Verdict]string{
		fsm.Legal: "legal", fsm.Abort: "abort", fsm.Linux: "linux", fsm.Gap: "gap", fsm.Illegal: "illegal",
	}
	if len(fsm.Verdicts()) != len(names) {
		t.Errorf("verdicts: %v", fsm.Verdicts())
	}
	for _, v := range fsm.Verdicts() {
		if v.String() != names[v] {
			t.Errorf("%d is %q, want %q", v, v, names[v])
		}
		for _, name := range []string{v.String(), strings.ToUpper(v.String()), " " + v.String() + "\n"} {
			if got, err := fsm.ParseVerdict(name); err != nil || got != v {
				t.Errorf("ParseVerdict(%q) = %v, %v, want %v", name, got, err, v)
			}
		}
	}
	for _, v := range []fsm.Verdict{0, 6, 255} {
		if v.String() != "none" {
			t.Errorf("%d is %q", v, v)
		}
	}
}

func TestParseVerdictErrors(t *testing.T) {
	for _, name := range []string{"", "none", "leg", "legal,abort", "lega1", "\xff"} {
		v, err := fsm.ParseVerdict(name)
		if err == nil || v != 0 {
			t.Errorf("ParseVerdict(%q) = %v, %v, want an error", name, v, err)
			continue
		}
		for _, want := range []string{fmt.Sprintf("%q", name), "legal, abort, linux, gap, illegal"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("ParseVerdict(%q): the error does not tell %s: %v", name, want, err)
			}
		}
	}
}

// Whatever a recording holds, there is a judgement.
func FuzzCheck(f *testing.F) {
	f.Add(uint8(fsm.TimeWait), uint8(fsm.Closed), uint8(fsm.EndExpired), uint16(0), int64(0), uint32(0), uint32(0), "")
	f.Add(uint8(fsm.FinWait2), uint8(fsm.Closed), uint8(0), uint16(1<<9|1<<10), int64(0), uint32(16384), uint32(16384), "")
	f.Add(uint8(fsm.FinWait2), uint8(fsm.FinWait2), uint8(0), uint16(1<<8), int64(0), uint32(0), uint32(0), "")
	f.Add(uint8(fsm.LastAck), uint8(fsm.Closed), uint8(0), uint16(1<<11), int64(32), uint32(0), uint32(0), "TCP_STATE")
	f.Add(uint8(13), uint8(255), uint8(255), uint16(0xffff), int64(-1), ^uint32(0), ^uint32(0), "\xff")
	f.Fuzz(func(t *testing.T, from, to, end uint8, flags uint16, errno int64, minisocks, limit uint32, reason string) {
		bit := func(n int) bool { return flags>>n&1 != 0 }
		checkSound(t, fsm.State(from), fsm.State(to), fsm.Evidence{
			Errno: int(errno), Local: bit(0), Orphan: bit(1), Unaccepted: bit(2), ShutDown: bit(3),
			Linger0: bit(4), Linger2: bit(5), Unread: bit(6), PeerFIN: bit(7),
			Minisock: bit(8), Skipped: bit(9), Counted: bit(10), Minisocks: minisocks, MinisockLimit: limit,
			End: fsm.End(end), ResetSent: bit(11), ResetReason: reason,
		})
	})
}

func BenchmarkCheck(b *testing.B) {
	for _, c := range []struct {
		name     string
		from, to fsm.State
		evidence fsm.Evidence
	}{
		{"legal", fsm.Established, fsm.FinWait1, fsm.Evidence{Local: true, ShutDown: true}},
		{"abort", fsm.Established, fsm.Closed, fsm.Evidence{Errno: 104}},
		{"linux", fsm.FinWait2, fsm.Closed, fsm.Evidence{PeerFIN: true}},
		{"illegal", fsm.Established, fsm.Listen, fsm.Evidence{}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fsm.Check(c.from, c.to, c.evidence)
			}
		})
	}
}
