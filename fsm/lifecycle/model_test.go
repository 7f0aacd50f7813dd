package lifecycle_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// next are the edges that a kernel shows of a socket, by where they begin. A
// listener's child is another socket, so LISTEN to SYN_RCVD is only a birth;
// Linux closes the child where the RFC returns it to LISTEN; and a closed
// socket closed again has a test of its own.
var next = func() (m [12][]fsm.State) {
	for _, e := range fsm.Machine() {
		switch {
		case e.From == fsm.Listen && e.To == fsm.SynRcvd,
			e.From == fsm.SynRcvd && e.To == fsm.Listen,
			e.From == fsm.Closed && e.To == fsm.Closed:
		default:
			m[e.From] = append(m[e.From], e.To)
		}
	}
	return m
}()

// walk writes random legal lives of many sockets, interleaved.
func walk(r *rand.Rand, steps int) []events.Event {
	s := eventstest.New(eventstest.Start)
	var sockets []*eventstest.Socket
	anyEvidence := func(_ *eventstest.Socket, e *events.Event) {
		e.Flags = events.Flags(r.IntN(1 << 7))
		e.Shutdown = uint8(r.IntN(4))
		e.Errno = []int32{0, 0, 0, 32, 104, 110}[r.IntN(6)]
	}
	listener := s.Socket("[::]:80", "").To(fsm.Listen, 0)
	for range steps {
		after := time.Duration(r.IntN(3)) // often at the same time
		switch {
		case len(sockets) < 20 && r.IntN(3) == 0:
			sockets = append(sockets, s.Socket("10.0.0.1:40000", "10.0.0.2:80"))
		case len(sockets) < 20 && r.IntN(3) == 0:
			child := listener.Accept("10.0.0.2:80", "10.0.0.1:40000").To(fsm.SynRcvd, after)
			sockets = append(sockets, child)
		case len(sockets) < 20 && r.IntN(10) == 0: // there before the tracer
			old := s.Socket("10.0.0.1:40000", "10.0.0.2:80").Jump(fsm.States()[r.IntN(11)])
			if old.State() == fsm.Closed {
				continue
			}
			sockets = append(sockets, old)
		case len(sockets) > 0:
			i := r.IntN(len(sockets))
			c := sockets[i]
			if c.State() == fsm.Closed && r.IntN(3) == 0 { // gone
				sockets = append(sockets[:i], sockets[i+1:]...)
				continue
			}
			to := next[c.State()]
			c.To(to[r.IntN(len(to))], after, anyEvidence)
		}
	}
	return s.Events()
}

func TestLegalWalksAreLegal(t *testing.T) {
	for _, room := range []int{0, 5, 1} { // with eviction too
		for seed := range uint64(20) {
			tr := lifecycle.NewTracker(room)
			for i, tn := range observe(tr, walk(rand.New(rand.NewPCG(seed, 1)), 2000)) {
				if want := fsm.Check(tn.From, tn.To, tn.Evidence()); tn.Judgement != want {
					t.Fatalf("room for %d, seed %d, event %d: %v -> %v is %+v, want %+v", room, seed, i, tn.From, tn.To, tn.Judgement, want)
				}
			}
			if room == 0 && tr.Evicted() != 0 || room == 1 && tr.Evicted() == 0 {
				t.Errorf("room for %d: %d evicted", room, tr.Evicted())
			}
		}
	}
}

// Whatever is lost, nothing legal looks illegal. And a record is a gap exactly
// if the one before it, of its socket and generation, is missing.
func TestLostRecordsAreGapsAndNothingElse(t *testing.T) {
	type key struct {
		cookie     uint64
		generation uint32
	}
	for _, percent := range []int{1, 10, 50, 90} {
		t.Run(fmt.Sprintf("%d percent lost", percent), func(t *testing.T) {
			for seed := range uint64(20) {
				r := rand.New(rand.NewPCG(seed, 2))
				tr := lifecycle.NewTracker(0)
				last := map[key]uint32{}
				gaps, lost := 0, 0
				for i, e := range walk(r, 2000) {
					if r.IntN(100) < percent {
						lost++
						continue
					}
					var out lifecycle.Transition
					tr.Observe(&e, &out)
					k := key{e.Cookie, e.Generation}
					want := fsm.Check(e.From, e.To, e.Evidence()).Verdict
					if e.Seq != last[k]+1 {
						want = fsm.Gap
						gaps++
					}
					last[k] = e.Seq
					if out.Verdict != want {
						t.Fatalf("seed %d, event %d: %v -> %v is %v, %q, want %v", seed, i, e.From, e.To, out.Verdict, out.Reason, want)
					}
				}
				if gaps == 0 || gaps > lost {
					t.Fatalf("seed %d: %d gaps of %d lost", seed, gaps, lost)
				}
			}
		})
	}
}

// The same where the kernel had no memory to number the records, or began to
// number late, if the losses are told.
func TestLostRecordsWithoutNumberAreNeverIllegal(t *testing.T) {
	for _, room := range []int{0, 5} {
		for seed := range uint64(20) {
			r := rand.New(rand.NewPCG(seed, 3))
			tr := lifecycle.NewTracker(room)
			unnumbered := map[uint64]int{} // for how many records more
			offset := map[uint64]uint32{}
			for i, e := range walk(r, 2000) {
				if _, seen := unnumbered[e.Cookie]; !seen {
					unnumbered[e.Cookie] = r.IntN(6)
				}
				if unnumbered[e.Cookie] > 0 {
					unnumbered[e.Cookie]--
					offset[e.Cookie] = e.Seq
					e.Seq, e.Generation, e.Entered = 0, 0, 0
				} else if e.Generation == 0 {
					e.Seq -= offset[e.Cookie]
				}
				if r.IntN(4) == 0 {
					continue
				}
				var out lifecycle.Transition
				if tr.Observe(&e, &out); out.Verdict == fsm.Illegal {
					t.Fatalf("room for %d, seed %d, event %d: %v -> %v: %s", room, seed, i, e.From, e.To, out.Reason)
				}
			}
		}
	}
}
