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

// walk writes random legal lives of many sockets, interleaved, with their
// minisocks. A socket does not end twice while its first minisock lives: its next
// life would be forgotten before that ends.
func walk(r *rand.Rand, steps int) []events.Event {
	s := eventstest.New(eventstest.Start)
	var sockets []*eventstest.Socket
	minisocks := map[*eventstest.Socket]fsm.State{}
	children := map[*eventstest.Socket]bool{}
	anyEvidence := func(_ *eventstest.Socket, e *events.Event) {
		e.Flags = events.Flags(r.IntN(1 << 7))
		e.Shutdown = events.Shutdown(r.IntN(8))
		e.Errno = []int32{0, 0, 0, 32, 104, 110}[r.IntN(6)]
	}
	halfOpen := func(_ *eventstest.Socket, e *events.Event) {
		if e.From == fsm.SynRcvd && e.Generation == 0 {
			e.Entered -= uint64(r.IntN(3))
		}
	}
	end := func(c *eventstest.Socket, after time.Duration) {
		switch in := minisocks[c]; {
		case in == fsm.FinWait2 && r.IntN(3) == 0:
			minisocks[c] = fsm.TimeWait
			c.MinisockTo(fsm.TimeWait, after)
			return
		case in == fsm.FinWait2 && r.IntN(2) == 0:
			c.End(fsm.EndExpired, after, eventstest.Estimated(0))
		default:
			c.End(fsm.End(1+r.IntN(7)), after)
		}
		delete(minisocks, c)
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
			children[child] = true
		case len(sockets) < 20 && r.IntN(10) == 0: // there before the tracer
			old := s.Socket("10.0.0.1:40000", "10.0.0.2:80").Jump(fsm.States()[r.IntN(11)])
			if old.State() == fsm.Closed {
				continue
			}
			sockets = append(sockets, old)
		case len(sockets) > 0:
			i := r.IntN(len(sockets))
			c := sockets[i]
			_, has := minisocks[c]
			if has && r.IntN(3) == 0 {
				end(c, after)
				continue
			}
			if c.State() == fsm.Closed && r.IntN(3) == 0 { // gone
				sockets = append(sockets[:i], sockets[i+1:]...)
				continue
			}
			choice := next[c.State()]
			to, opts := choice[r.IntN(len(choice))], []eventstest.Option{anyEvidence}
			if children[c] {
				opts = append(opts, halfOpen)
			}
			switch {
			case has && (to == fsm.Closed || to == fsm.TimeWait):
				for ; has; _, has = minisocks[c] {
					end(c, 0)
				}
			case c.State() == fsm.FinWait2 && (to == fsm.FinWait2 || to == fsm.TimeWait), c.State() == fsm.Closing && to == fsm.TimeWait:
				if !has && r.IntN(2) == 0 {
					minisocks[c] = to
					opts = append(opts, eventstest.Minisock)
				}
			}
			c.To(to, after, opts...)
		}
	}
	return s.Events()
}

func TestLegalWalksAreLegal(t *testing.T) {
	for _, room := range []int{0, 5, 1} { // with eviction too
		for seed := range uint64(20) {
			tr := lifecycle.NewTracker(room)
			for i, tn := range observe(tr, walk(rand.New(rand.NewPCG(seed, 1)), 2000)) {
				if room > 0 && tn.Verdict == fsm.Gap && tn.Generation > 0 {
					continue // a minisock of its last life was seen again, but not its beginning
				}
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
