package segment

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"tcptrace/fsm"
)

// all calls f with every segment that can reach an end in every state. Flags that change
// nothing (PSH, URG, ECE, CWR) are tried in TestFlagsWithoutMeaning.
func all(f func(fsm.State, Received)) {
	states := append(fsm.States(), 0, 12, 13, 255)
	for _, state := range states {
		for flags := range ACK << 1 {
			if flags.Has(PSH) {
				continue
			}
			for at := range positions {
				for acked := range ackeds {
					if flags.Has(ACK) == (acked == AckedNone) {
						continue
					}
					for _, text := range []bool{false, true} {
						for _, passive := range []bool{false, true} {
							f(state, Received{Flags: flags, At: at, Acked: acked, Text: text, Passive: passive})
						}
					}
				}
			}
		}
	}
}

// rule is one of RFC 9293 3.10.7, as a person reads it: where it applies, in which
// order, and what follows. The test holds the program against a list of these, that was
// written from the RFC and not from the program.
type rule struct {
	section string
	states  []fsm.State
	when    func(Received) bool
	want    string // states in order, answer, finding
}

var (
	synchronized = []fsm.State{fsm.Established, fsm.FinWait1, fsm.FinWait2, fsm.CloseWait, fsm.Closing, fsm.LastAck, fsm.TimeWait}
	afterSYN     = slices.Concat([]fsm.State{fsm.SynRcvd}, synchronized)
	beyondFIN    = []fsm.State{fsm.CloseWait, fsm.Closing, fsm.LastAck, fsm.TimeWait} // of the peer
)

func has(f Flags) func(Received) bool { return func(r Received) bool { return r.Flags.Has(f) } }
func always(Received) bool            { return true }
func and(list ...func(Received) bool) func(Received) bool {
	return func(r Received) bool {
		return !slices.ContainsFunc(list, func(f func(Received) bool) bool { return !f(r) })
	}
}
func not(f func(Received) bool) func(Received) bool { return func(r Received) bool { return !f(r) } }
func at(list ...Position) func(Received) bool {
	return func(r Received) bool { return slices.Contains(list, r.At) }
}
func acked(list ...Acked) func(Received) bool {
	return func(r Received) bool { return slices.Contains(list, r.Acked) }
}

var (
	news    = acked(AckedSome, AckedAll) // SND.UNA < SEG.ACK =< SND.NXT
	text    = func(r Received) bool { return r.Text }
	passive = func(r Received) bool { return r.Passive }
	finNow  = and(has(FIN), at(Next))
)

var rules = []rule{
	{"3.10.7.1", []fsm.State{fsm.Closed}, has(RST), ""},
	{"3.10.7.1", []fsm.State{fsm.Closed}, always, "answer RST"},

	{"3.10.7.2 first", []fsm.State{fsm.Listen}, has(RST), ""},
	{"3.10.7.2 second", []fsm.State{fsm.Listen}, has(ACK), "answer RST"},
	{"3.10.7.2 third", []fsm.State{fsm.Listen}, has(SYN), "SYN_RCVD answer SYN,ACK"},
	{"3.10.7.2 fourth", []fsm.State{fsm.Listen}, always, ""},

	{"3.10.7.3 first", []fsm.State{fsm.SynSent}, and(has(ACK), not(news), has(RST)), ""},
	{"3.10.7.3 first", []fsm.State{fsm.SynSent}, and(has(ACK), not(news)), "answer RST"},
	{"3.10.7.3 second", []fsm.State{fsm.SynSent}, and(has(RST), has(ACK)), "CLOSED"},
	{"3.10.7.3 second", []fsm.State{fsm.SynSent}, has(RST), ""},
	{"3.10.7.3 fourth", []fsm.State{fsm.SynSent}, and(has(SYN), has(ACK)), "ESTABLISHED answer ACK"},
	{"3.10.7.3 fourth", []fsm.State{fsm.SynSent}, has(SYN), "SYN_RCVD answer SYN,ACK"},
	{"3.10.7.3 fifth", []fsm.State{fsm.SynSent}, always, ""},

	// Second: resets, by 3.5.3 and RFC 5961. Those outside the window are dropped first.
	{"3.10.7.4 first", afterSYN, and(has(RST), at(Old, Outside)), ""},
	{"3.10.7.4 second", afterSYN, and(has(RST), at(Ahead)), "answer challenge ACK"},
	{"3.10.7.4 second", []fsm.State{fsm.SynRcvd}, and(has(RST), passive), "LISTEN"},
	{"3.10.7.4 second", afterSYN, has(RST), "CLOSED"},

	// Fourth: a SYN, by RFC 5961 wherever it lies.
	{"3.10.7.4 fourth", []fsm.State{fsm.TimeWait}, has(SYN), "reopen"},
	{"3.10.7.4 first, 3.5 figure 8", []fsm.State{fsm.SynRcvd}, and(has(SYN), at(Old), news), "ESTABLISHED answer ACK"},
	{"3.10.7.4 first", []fsm.State{fsm.SynRcvd}, and(has(SYN), at(Old)), "answer SYN,ACK"},
	{"3.10.7.4 first", synchronized, and(has(SYN), at(Old)), "answer ACK"},
	{"3.10.7.4 fourth", []fsm.State{fsm.SynRcvd}, and(has(SYN), passive), "LISTEN"},
	{"3.10.7.4 fourth", []fsm.State{fsm.SynRcvd}, has(SYN), "answer challenge ACK"},
	{"3.10.7.4 fourth", synchronized, has(SYN), "answer challenge ACK finding SYN in a synchronised state"},

	{"3.10.7.4 first", afterSYN, at(Old, Outside), "answer ACK"},
	{"3.10.7.4 fifth", afterSYN, not(has(ACK)), ""},
	{"3.10.7.4 fifth", []fsm.State{fsm.SynRcvd}, not(news), "answer RST"},
	{"3.10.7.4 fifth", synchronized, acked(AckedUnsent), "answer ACK finding acknowledges what was not sent"},

	// Of what is left, in each state.
	{"SYN-RECEIVED", []fsm.State{fsm.SynRcvd}, finNow, "ESTABLISHED CLOSE_WAIT answer ACK"},
	{"SYN-RECEIVED", []fsm.State{fsm.SynRcvd}, text, "ESTABLISHED answer ACK"},
	{"SYN-RECEIVED", []fsm.State{fsm.SynRcvd}, always, "ESTABLISHED"},
	{"ESTABLISHED", []fsm.State{fsm.Established}, finNow, "CLOSE_WAIT answer ACK"},
	{"ESTABLISHED", []fsm.State{fsm.Established}, text, "answer ACK"},
	{"FIN-WAIT-1", []fsm.State{fsm.FinWait1}, and(finNow, acked(AckedAll)), "TIME_WAIT answer ACK"},
	{"FIN-WAIT-1", []fsm.State{fsm.FinWait1}, finNow, "CLOSING answer ACK"},
	{"FIN-WAIT-1", []fsm.State{fsm.FinWait1}, and(text, acked(AckedAll)), "FIN_WAIT_2 answer ACK"},
	{"FIN-WAIT-1", []fsm.State{fsm.FinWait1}, acked(AckedAll), "FIN_WAIT_2"},
	{"FIN-WAIT-1", []fsm.State{fsm.FinWait1}, text, "answer ACK"},
	{"FIN-WAIT-2", []fsm.State{fsm.FinWait2}, finNow, "TIME_WAIT answer ACK"},
	{"FIN-WAIT-2", []fsm.State{fsm.FinWait2}, text, "answer ACK"},
	{"LAST-ACK", []fsm.State{fsm.LastAck}, acked(AckedAll), "CLOSED"},
	{"CLOSING", []fsm.State{fsm.Closing}, and(acked(AckedAll), text), "TIME_WAIT finding data after FIN"},
	{"CLOSING", []fsm.State{fsm.Closing}, and(acked(AckedAll), finNow), "TIME_WAIT answer ACK"},
	{"CLOSING", []fsm.State{fsm.Closing}, acked(AckedAll), "TIME_WAIT"},
	{"seventh", beyondFIN, text, "finding data after FIN"},
	{"eighth", beyondFIN, finNow, "answer ACK"}, // it stays; in TIME-WAIT the 2 MSL begin again
}

func words(o *Outcome) string {
	var list []string
	for _, s := range o.Steps() {
		list = append(list, s.To.String())
	}
	if o.Answer != AnswerNone {
		list = append(list, "answer "+o.Answer.String())
	}
	if o.Finding != FindingNone {
		list = append(list, "finding "+o.Finding.String())
	}
	if o.Reopen {
		list = append(list, "reopen")
	}
	return strings.Join(list, " ")
}

// TestReceive holds what every segment does in every state against the rules, the first
// of which that applies decides.
func TestReceive(t *testing.T) {
	used := make([]bool, len(rules))
	n := 0
	all(func(state fsm.State, r Received) {
		n++
		o := Receive(state, r)
		want := ""
		for i, rule := range rules {
			if slices.Contains(rule.states, state) && rule.when(r) {
				want, used[i] = rule.want, true
				break
			}
		}
		if got := words(&o); got != want {
			t.Errorf("%v receives %+v: %q, want %q", state, r, got, want)
		}
	})
	t.Logf("%d segments", n)
	for i, u := range used {
		if !u {
			t.Errorf("nothing is decided by %+v", rules[i])
		}
	}
}

// TestSteps: what a segment does are edges of the reference machine, one after the
// other, by the names that it has for them.
func TestSteps(t *testing.T) {
	reached := make(map[[2]fsm.State]bool)
	check := func(state fsm.State, o Outcome, what any) {
		now := state
		for _, s := range o.Steps() {
			if s.From != now {
				t.Errorf("%v, %v: a step from %v, want %v", state, what, s.From, now)
			}
			now = s.To
			reached[[2]fsm.State{s.From, s.To}] = true
			if strings.Contains(s.Trigger, "RST") && s.To == fsm.Closed {
				if j := fsm.Check(s.From, s.To, fsm.Evidence{ResetReceived: strings.HasPrefix(s.Trigger, "rcv"), ResetSent: strings.Contains(s.Trigger, "snd")}); j.Verdict != fsm.Abort {
					t.Errorf("%v, %v: %v is %v, want an abort", state, what, s, j.Verdict)
				}
				continue
			}
			i := slices.IndexFunc(fsm.Machine(), func(e fsm.Edge) bool { return e.From == s.From && e.To == s.To && e.Class == fsm.Legal })
			if i < 0 {
				t.Errorf("%v, %v: %v is no legal edge", state, what, s)
				continue
			}
			if want := fsm.Machine()[i].Trigger(); s.Trigger != want && s.To != fsm.Listen {
				t.Errorf("%v, %v: %v, want the trigger %q", state, what, s, want)
			}
		}
		if got := o.State(state); got != now {
			t.Errorf("%v, %v: ends in %v, want %v", state, what, got, now)
		}
	}
	all(func(state fsm.State, r Received) { check(state, Receive(state, r), r) })
	for _, state := range append(fsm.States(), 0, 13) {
		for flags := range ACK << 1 {
			for _, isNew := range []bool{false, true} {
				check(state, Send(state, flags, isNew), fmt.Sprintf("sends %v, new: %t", flags, isNew))
			}
		}
	}
	// All edges but those that no segment brings about.
	silent := []string{"passive OPEN / create TCB", "CLOSE / delete TCB", "timeout 2MSL / delete TCB"}
	// A FIN in SYN_RCVD has an ACK, which leads to ESTABLISHED first.
	reached[[2]fsm.State{fsm.SynRcvd, fsm.CloseWait}] = true
	for _, e := range fsm.Machine() {
		if e.Class == fsm.Legal && !reached[[2]fsm.State{e.From, e.To}] && !slices.Contains(silent, e.Trigger()) {
			t.Errorf("no segment leads from %v to %v (%s)", e.From, e.To, e.Trigger())
		}
	}
}

// TestSend holds what sending shows against a golden list, to be read.
func TestSend(t *testing.T) {
	var b strings.Builder
	for _, state := range fsm.States() {
		for _, flags := range []Flags{ACK, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK} {
			for _, isNew := range []bool{true, false} {
				o := Send(state, flags, isNew)
				if w := words(&o); w != "" {
					again := ""
					if !isNew {
						again = " again"
					}
					trigger := ""
					if s := o.Steps(); len(s) > 0 {
						trigger = " (" + s[0].Trigger + ")"
					}
					fmt.Fprintf(&b, "%v sends %v%s: %s%s\n", state, flags, again, w, trigger)
				}
			}
		}
	}
	const name = "testdata/send.txt"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("sending shows\n%s\nwant\n%s", b.String(), want)
	}
}

// TestFlagsWithoutMeaning: those of the text and of congestion change nothing.
func TestFlagsWithoutMeaning(t *testing.T) {
	all(func(state fsm.State, r Received) {
		more := r
		more.Flags |= PSH | URG | ECE | CWR
		if got, want := Receive(state, more), Receive(state, r); got != want {
			t.Errorf("%v: %+v gives %+v, %+v gives %+v", state, more, got, r, want)
		}
		if got, want := Send(state, more.Flags, true), Send(state, r.Flags, true); got != want {
			t.Errorf("%v sends %v: %+v, want as %v: %+v", state, more.Flags, got, r.Flags, want)
		}
	})
}

// TestPlaceOf compares with the four cases of RFC 9293, counted number by number, around
// the point where numbers wrap.
func TestPlaceOf(t *testing.T) {
	for _, next := range []uint32{0, 3, 1<<31 - 2, 1 << 31, 1<<32 - 3} {
		for window := range uint32(6) {
			for offset := -6; offset <= 8; offset++ {
				for space := range uint32(6) {
					seq := next + uint32(offset)
					acceptable := space == 0 && (offset == 0 || offset > 0 && uint32(offset) < window)
					for i := range int(space) {
						at := offset + i
						acceptable = acceptable || at >= 0 && uint32(at) < window
					}
					got := PlaceOf(seq, space, next, window)
					// At next, a segment too long or a window of 0 is for the receiver to cut.
					if first := offset == 0 || offset < 0 && offset+int(space) > 0; first {
						if got != Next {
							t.Errorf("%d+%d against %d+%d: %d, want next", seq, space, next, window, got)
						}
						continue
					}
					if ok := got == Next || got == Ahead; ok != acceptable {
						t.Errorf("%d+%d against %d+%d: %d, acceptable: %t", seq, space, next, window, got, acceptable)
					}
				}
			}
		}
	}
}

func TestAckOf(t *testing.T) {
	for _, una := range []uint32{0, 7, 1<<31 - 1, 1<<32 - 2} {
		for sent := range uint32(5) {
			for offset := -3; offset <= 7; offset++ {
				want := AckedSome
				switch {
				case offset > int(sent):
					want = AckedUnsent
				case offset <= 0:
					want = AckedOld
				case offset == int(sent):
					want = AckedAll
				}
				if got := AckOf(una+uint32(offset), una, una+sent); got != want {
					t.Errorf("%d of %d+%d is %d, want %d", una+uint32(offset), una, sent, got, want)
				}
			}
		}
	}
}

func TestFlagsString(t *testing.T) {
	for f, want := range map[Flags]string{0: "none", SYN | ACK: "SYN,ACK", FIN | PSH | ACK: "FIN,PSH,ACK", 0xff: "SYN,FIN,RST,PSH,ACK,URG,ECE,CWR"} {
		if got := f.String(); got != want {
			t.Errorf("%08b is %q, want %q", f, got, want)
		}
	}
	if got := Space(SYN|FIN, 3); got != 5 {
		t.Errorf("SYN, 3 bytes and FIN take %d, want 5", got)
	}
}

// FuzzReceive: whatever comes, steps are edges that follow each other, and nothing comes
// after CLOSED.
func FuzzReceive(f *testing.F) {
	f.Add(uint8(fsm.FinWait1), uint8(FIN|ACK), uint32(100), uint32(8), uint32(100), uint32(500), uint32(51), uint32(50), uint32(51), true)
	f.Add(uint8(fsm.SynSent), uint8(SYN|ACK), uint32(0), uint32(0), uint32(0), uint32(0), uint32(1), uint32(0), uint32(1), false)
	f.Add(uint8(fsm.TimeWait), uint8(RST), uint32(1<<31), uint32(1<<30), uint32(1<<31+5), uint32(1<<16), uint32(0), uint32(0), uint32(0), false)
	f.Add(uint8(200), uint8(255), uint32(1<<32-1), uint32(1<<32-1), uint32(0), uint32(1<<32-1), uint32(1<<32-1), uint32(0), uint32(1), true)
	f.Fuzz(func(t *testing.T, state, flags uint8, seq, text, next, window, ack, una, sent uint32, passive bool) {
		r := Received{Flags: Flags(flags), Text: text > 0, Passive: passive}
		r.At = PlaceOf(seq, Space(r.Flags, text), next, window)
		if r.Flags.Has(ACK) {
			r.Acked = AckOf(ack, una, sent)
		}
		for _, o := range []Outcome{Receive(fsm.State(state), r), Send(fsm.State(state), r.Flags, passive)} {
			now := fsm.State(state)
			for _, s := range o.Steps() {
				if s.From != now || s.To == s.From || s.Trigger == "" || now == fsm.Closed && s.To != fsm.SynSent {
					t.Fatalf("%v with %+v: %+v", fsm.State(state), r, o.Steps())
				}
				now = s.To
			}
			if now != o.State(fsm.State(state)) {
				t.Fatalf("ends in %v, want %v", o.State(fsm.State(state)), now)
			}
		}
	})
}
