package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tcptrace/events"
	"tcptrace/events/capture"
	"tcptrace/fsm"
)

// finish ends the walk and checks what was said of it.
func (k *walk) finish() {
	t, ns := k.t, k.ns
	t.Helper()
	check(t, k.odd.end())
	for _, m := range k.mailboxes {
		check(t, syscall.Close(m[0]))
		check(t, syscall.Close(m[1]))
	}
	k.nft("flush chain inet walk in")
	patience := time.Duration(k.rng.IntN(5)) * time.Second
	k.settle(patience)
	minisocks := ns.counters().minisocks()
	if k.rng.IntN(2) == 0 && !k.skipped {
		k.endNamespace()
	}

	var later string
	if k.second != nil {
		k.second.signal(syscall.SIGTERM)
		later = k.out.rest(t)
	}
	r := k.result()
	a := newAccount(r.result, k.deeds)
	all := k.tr.oracle.lives(func(*life) bool { return true })
	a.match(all)
	a.checkMissing(0)
	a.checkVerdicts(k.skipped)
	r.checkTimes()
	a.checkOwners()
	k.checkCounts(r, a, minisocks)
	k.checkLives(r, a)
	found := k.checkSnapshots(a, k.tr.recording, true)
	for _, recording := range k.looks {
		found += k.checkSnapshots(a, recording, false)
	}
	if k.second != nil {
		k.checkLater(newResult(ns, strings.NewReader(later), k.second.stderr.String()), all)
	}
	t.Logf("%d calls; %d transitions of %d sockets, %d handshakes, %d lives; %d found by walks; %d missing; apart by %v",
		len(k.deeds), len(r.transitions), len(r.sockets), len(r.requests), len(r.lives), found, a.missing, &a.skews)
}

// settle waits until all sockets are closed, by the kernel's timers or, when patience is
// at its end, by an administrator.
func (k *walk) settle(patience time.Duration) {
	t := k.t
	t.Helper()
	open := func() []*life {
		k.tr.oracle.drain(t)
		return k.tr.oracle.lives(func(l *life) bool { return k.ns.owns(l) && !l.over() })
	}
	impatient := time.Now().Add(patience)
	for deadline := time.Now().Add(usualWait); len(open()) > 0; lapse(2 * time.Millisecond) {
		if time.Now().After(impatient) {
			impatient = deadline
			k.ns.destroy("state", "connected", "exclude", "time-wait")
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until all sockets are closed: %v\n%s", open(), k.ns.runSS("-tanHope"))
		}
	}
	k.tr.oracle.checkComplete(t)
}

// endNamespace lets the namespace go, with what is in TIME_WAIT.
func (k *walk) endNamespace() {
	ns := k.ns
	listener, client, server := ns.connected()
	cookie := client.cookie()
	leaveInTimeWait(client, server)
	listener.close()
	k.settle(usualWait)
	ns.end()
	eventually(k.t, "the namespace has gone", func() bool {
		return strings.Contains(k.tr.textSoFar(), `"socket":"`+cookie+`"`)
	})
}

// result stops the command and reads what it said, of the lives and of the steps.
func (k *walk) result() *lifeResult {
	t := k.t
	t.Helper()
	text := k.tr.text()
	if k.tr.tracing.status != exitDone {
		t.Errorf("ended with status %d: %s", k.tr.tracing.status, k.tr.stderr)
	}
	again := replayAs(t, slices.Concat([]string{"life", "-r", k.tr.recording, "-o", "json"}, k.tr.args), exitDone)
	for strings.HasPrefix(text, `{"type":"notice","kind":"unmeasured"`) { // on this host, which a recording does not tell
		_, text, _ = strings.Cut(text, "\n")
	}
	live, replayed := strings.Split(text, "\n"), strings.Split(again, "\n")
	if !slices.Equal(live, replayed) {
		i := 0
		for i < min(len(live), len(replayed))-1 && live[i] == replayed[i] {
			i++
		}
		t.Errorf("the recording has %d lines, %d were live: line %d is\n%s\nlive:\n%s", len(replayed), len(live), i+1, replayed[i], live[i])
	}
	r := &lifeResult{result: newResult(k.ns, strings.NewReader(replayWhole(t, k.tr.recording)), k.tr.stderr.String())}
	var rest []line
	r.lives, rest = parseLives(t, []byte(text))
	r.total = rest[len(rest)-1]
	for i := range r.notices {
		n := &r.notices[i]
		gone := k.ns.ended && n.Kind == "unseen"
		if n.Reason != passedOver && !gone {
			t.Errorf("unexpected notice: %s %s %d", n.Kind, n.Reason, n.Count)
		}
	}
	return r
}

// account holds the transitions of a run against the oracle's, step by step.
type account struct {
	*result
	bySocket map[string][]*deed
	byPID    map[int]string // comm
	last     map[int]*deed  // of each process
	spawned  map[int]bool   // by PID; it may have been killed before it told anything
	listened map[int]bool   // likewise: to any socket
	owned    []*life
	of       map[*line]*seen
	steps    map[*step]*line
	holed    map[*tracedLife]bool // steps are missing
	holes    map[string]bool      // sockets of which
	missing  int
	skews    skews
}

// seen is where the oracle has a step.
type seen struct {
	life *life
	at   int
}

func newAccount(r *result, deeds []*deed) *account {
	a := &account{
		result: r, bySocket: make(map[string][]*deed), byPID: make(map[int]string), last: make(map[int]*deed), spawned: make(map[int]bool), listened: make(map[int]bool),
		of: make(map[*line]*seen), steps: make(map[*step]*line), holed: make(map[*tracedLife]bool), holes: make(map[string]bool),
	}
	for _, d := range deeds {
		a.byPID[d.PID] = d.Comm
		if d.Verb == "listen" {
			a.listened[d.PID] = true
		}
		a.last[d.PID] = d
		if child, ok := strings.CutSuffix(d.Note, ": <nil>"); ok && d.Verb == "spawn" {
			if pid, err := strconv.Atoi(child); err == nil {
				a.spawned[pid] = true
			}
		}
		if d.Socket != "" {
			a.bySocket[d.Socket] = append(a.bySocket[d.Socket], d)
		}
	}
	return a
}

// story tells what was done to a socket.
func (a *account) story(cookie string) string {
	var b strings.Builder
	for _, d := range a.bySocket[cookie] {
		fmt.Fprintf(&b, "\n    %v", d)
	}
	for _, s := range a.sockets {
		if s.lines[0].Socket != cookie {
			continue
		}
		for _, l := range s.lines {
			at := a.at(l)
			fmt.Fprintf(&b, "\n    %d.%06d saw %v, owner %v", at/1e9, at/1e3%1e6, l, l.owner())
		}
	}
	return b.String()
}

// match finds for each transition the oracle's step, among those of the whole host.
func (a *account) match(all []*life) {
	type place struct {
		life *life
		at   int
	}
	type edge struct{ from, to string }
	places := make(map[edge][]place)
	for _, l := range all {
		for i := range l.steps {
			e := edge{l.steps[i].from.String(), l.steps[i].to.String()}
			places[e] = append(places[e], place{l, i})
		}
	}
	when := func(p place) uint64 { return p.life.steps[p.at].at }
	for _, list := range places {
		slices.SortFunc(list, func(a, b place) int { return cmp.Compare(when(a), when(b)) })
	}
	next := make(map[lifeID]place) // where the step is that follows in the same life
	for i := range slices.Backward(a.transitions) {
		l := &a.transitions[i]
		if l.ofMinisock() {
			continue
		}
		at, id := a.at(l), lifeID{l.Socket, l.Generation}
		list := places[edge{l.From, l.kernelTo()}]
		if n, follows := next[id]; follows && stalePort(l) {
			// Sockets on two CPUs may connect, or listen, at the same time.
			if own := (place{n.life, n.at - 1}); slices.Contains(list, own) {
				list = []place{own}
			}
		}
		first, _ := slices.BinarySearchFunc(list, at-uint64(worstSkew), func(p place, at uint64) int { return cmp.Compare(when(p), at) })
		var best *place
		least := worstSkew
		for j := first; j < len(list) && when(list[j]) <= at+uint64(worstSkew); j++ {
			s := &list[j].life.steps[list[j].at]
			skew := int64(at - s.at)
			if skew = max(skew, -skew); skew <= least && a.steps[s] == nil && sameEnds(l, s) {
				best, least = &list[j], skew
			}
		}
		if best == nil {
			a.t.Errorf("the oracle did not see %v%s", l, a.story(l.Socket))
			continue
		}
		next[id] = *best
		a.of[l] = &seen{best.life, best.at}
		a.steps[&best.life.steps[best.at]] = l
		a.skews.add(least)
	}
	a.owned = slices.DeleteFunc(slices.Clone(all), func(l *life) bool { return !a.ns.owns(l) })
}

// stalePort reports whether the local port of the oracle's step may be an earlier one, as
// on connect and listen.
func stalePort(l *line) bool {
	return l.To == fsm.SynSent.String() || l.To == fsm.Listen.String()
}

// sameEnds reports whether a step can be of the same socket as a line. The peer's address
// may be stale where there is none.
func sameEnds(l *line, s *step) bool {
	return isEnd(l.Local, s.local, stalePort(l)) && (l.Remote == (endpoint{}) && s.remote.Port() == 0 || isEnd(l.Remote, s.remote, false))
}

// isEnd reports whether the end of a line is the given one, in which an address that is
// not set is any.
func isEnd(e endpoint, end netip.AddrPort, anyPort bool) bool {
	unset := !e.Addr.IsValid() && (!end.Addr().IsValid() || end.Addr().IsUnspecified())
	return (unset || e.Addr == end.Addr()) && (anyPort || e.Port == end.Port())
}

// checkMissing checks that each life is told by one of tcptrace's, whole from the given
// time on, but for what the kernel has not run the program for.
func (a *account) checkMissing(from uint64) {
	for _, s := range a.sockets {
		steps := s.steps()
		for i, l := range steps {
			is, was := a.of[l], (*seen)(nil)
			if i > 0 {
				was = a.of[steps[i-1]]
			}
			switch {
			case is == nil:
			case was == nil && i > 0:
			case i == 0 && is.at > 0 && is.life.steps[is.at-1].at >= from, i > 0 && is.life == was.life && is.at > was.at+1:
				a.holed[s] = true
			case i > 0 && (is.life != was.life || is.at != was.at+1):
				a.t.Errorf("not of one socket, by the oracle: %v after %v%s", l, steps[i-1], a.story(l.Socket))
			}
		}
		if len(steps) > 0 {
			if last := a.of[steps[len(steps)-1]]; last != nil && last.at != len(last.life.steps)-1 {
				a.holed[s] = true
			}
		}
		if a.holed[s] {
			a.holes[s.lines[0].Socket] = true
		}
	}
	var missed []*step
	strangers := 0
	of := make(map[*step]*life)
	for _, l := range a.owned {
		for i := range l.steps {
			if s := &l.steps[i]; s.at >= from && a.steps[s] == nil {
				missed = append(missed, s)
				of[s] = l
				if s.stranger() {
					strangers++
				}
			}
		}
	}
	a.missing = len(missed)
	if len(missed) <= a.passedOver()+strangers {
		return
	}
	for _, s := range missed {
		a.t.Errorf("tcptrace, from %d on, did not see %v -> %v at %d.%06d of %v (%d passed over, %d on strangers)",
			from, s.from, s.to, s.at/1e9, s.at/1e3%1e6, of[s], a.passedOver(), strangers)
	}
}

// checkVerdicts checks that only what was provoked is judged illegal, and that records
// are numbered without a hole.
func (a *account) checkVerdicts(skipped bool) {
	for _, s := range a.sockets {
		if a.holes[s.lines[0].Socket] {
			continue
		}
		for i, l := range s.lines {
			provoked := skipped && strings.HasPrefix(l.Reason, "TIME_WAIT skipped")
			if l.Verdict == fsm.Gap.String() || l.Verdict == fsm.Illegal.String() && !provoked || l.Reason == unobserved && !skipped {
				a.t.Errorf("judged %s: %s: %v%s", l.Verdict, l.Reason, s, a.story(l.Socket))
			}
			if l.Seq != uint32(i+1) {
				a.t.Errorf("number %d is counted as %d: %v%s", i+1, l.Seq, l, a.story(l.Socket))
			}
		}
	}
}

// unobserved is said where TIME_WAIT was skipped, and nothing proves it.
const unobserved = "the minisock that takes over for TIME_WAIT was not observed"

// checkOwners checks that no socket is said to be of a process that did not touch it,
// and none that was touched to be of nobody.
func (a *account) checkOwners() {
	for _, s := range a.sockets {
		if a.holes[s.lines[0].Socket] {
			continue
		}
		for _, l := range s.lines {
			if l.PID == nil || !a.mayOwn(l, a.at(s.lines[0])) {
				a.t.Errorf("of %+v, which it is not: %v%s", l.owner(), l, a.story(l.Socket))
				break
			}
		}
	}
}

// mayOwn reports whether the owner of the line, of a life that has begun then, can be who
// it says.
func (a *account) mayOwn(l *line, begun uint64) bool {
	// A child is named as its parent at first, and has all of its sockets, then as its
	// program.
	name, known := a.byPID[*l.PID]
	parent, isChild := strings.CutSuffix(name, " child")
	if known && *l.Comm != name && *l.Comm != "exe" && (!isChild || *l.Comm != parent) {
		return false
	}
	at, deeds := a.at(l), a.bySocket[l.Socket]
	switch {
	case len(deeds) == 0: // never accepted, or its process was killed before it told
		return known || a.spawned[*l.PID] || *l.PID == os.Getpid()
	case a.mayHave(*l.PID, at), l.OwnerSource == "listen" && a.listened[*l.PID]:
		return true
	case l.OwnerSource == "close" && *l.PID == os.Getpid():
		// The test closes what is in a mailbox, or a file that one of its own tracers
		// looks at.
		return true
	}
	return slices.ContainsFunc(deeds, func(d *deed) bool {
		mine := d.PID == *l.PID
		switch l.OwnerSource {
		case "connect":
			return mine && d.Verb == "connect" && d.Begun <= begun+uint64(usualSkew) && begun <= d.Ended+uint64(usualSkew)
		case "listen":
			return mine && d.Verb == "listen" && d.Begun <= begun+uint64(usualSkew)
		}
		return (mine || isChild && d.Comm == parent) && (d.Begun <= at+uint64(usualSkew) || d.Verb == "accepted")
	})
}

// mayHave reports whether the process may have made a call at that time that it could
// not tell of, as it was killed.
func (a *account) mayHave(pid int, at uint64) bool {
	last := a.last[pid]
	if last == nil {
		return a.spawned[pid]
	}
	return last.Verb != "exit" && at+uint64(usualSkew) >= last.Ended
}

// checkCounts checks the sums.
func (k *walk) checkCounts(r *lifeResult, a *account, minisocks int) {
	t := k.t
	t.Helper()
	if a.missing == 0 && k.ns.ended {
		minisocks++ // endNamespace
	}
	if got := r.takenOver(); a.missing == 0 && got != minisocks {
		t.Errorf("%d minisocks took over, the kernel made %d", got, minisocks)
	}
	illegal, connections := 0, len(r.requests)
	for _, s := range r.sockets {
		if isConnection(s) {
			connections++
		}
		for _, l := range s.lines {
			if l.Verdict == fsm.Illegal.String() {
				illegal++
			}
		}
	}
	if s := &r.summary; s.Transitions != len(r.transitions)+len(r.requests) || s.Illegal != illegal || s.Connections != connections {
		t.Errorf("the summary has %d transitions of %d connections, %d illegal, want %d of %d, %d",
			s.Transitions, s.Connections, s.Illegal, len(r.transitions)+len(r.requests), connections, illegal)
	}
}

// isConnection reports whether it is one: no listener, and no socket that was closed
// already.
func isConnection(s *tracedLife) bool {
	return !s.isListener() && slices.ContainsFunc(s.lines, func(l *line) bool { return l.From != l.To || l.From != fsm.Closed.String() })
}

// checkLives holds the lives against the steps that they are made of.
func (k *walk) checkLives(r *lifeResult, a *account) {
	t := r.t
	t.Helper()
	if r.total.Connections != len(r.lives) {
		t.Errorf("the summary has %d connections, %d are shown", r.total.Connections, len(r.lives))
	}
	byID := make(map[lifeID]*tracedLife)
	for _, s := range r.sockets {
		if isConnection(s) {
			byID[lifeID{s.lines[0].Socket, s.lines[0].Generation}] = s
		}
	}
	rest := maps.Clone(byID)
	for i := range r.lives {
		c := &r.lives[i]
		if c.NetNS != k.ns.inode {
			t.Errorf("namespace %d, want %d: %v", c.NetNS, k.ns.inode, c)
		}
		if c.Socket == "" {
			continue // a handshake
		}
		s := byID[c.id()]
		if s == nil {
			t.Errorf("a life without transitions: %v", c)
			continue
		}
		if rest[c.id()] == nil {
			t.Errorf("shown twice: %v", c)
		}
		delete(rest, c.id())
		if !a.holes[c.Socket] {
			before := t.errors
			if s.lines[len(s.lines)-1].Reason == unobserved && !c.Complete {
				continue // it is not known whether it is whole
			}
			r.checkLife(withoutFound(c, s), s)
			if t.errors > before {
				t.Logf("%v%s", c, a.story(c.Socket))
			}
		}
	}
	for id, s := range rest {
		if last := s.lines[len(s.lines)-1]; last.To == fsm.Closed.String() {
			t.Errorf("not shown: %v%s", s, a.story(id.socket))
		}
	}
}

// withoutFound returns a life as the steps alone tell it: that a FIN has reached a
// minisock, which goes on in TIME_WAIT, only a walk has told.
func withoutFound(c *lifecycleLine, s *tracedLife) *lifecycleLine {
	last := s.lines[len(s.lines)-1]
	if c.Path[len(c.Path)-1] != fsm.TimeWait.String() || last.To != fsm.FinWait2.String() {
		return c
	}
	one := *c
	one.Path = c.Path[:len(c.Path)-1]
	one.Dwell = maps.Clone(c.Dwell)
	delete(one.Dwell, fsm.TimeWait.String())
	one.TimeWait = nil
	return &one
}

// checkSnapshots holds what walks over the sockets have found, by a recording, against
// the oracle and, if it is the one of the steps, against their numbers.
func (k *walk) checkSnapshots(a *account, recording string, own bool) (found int) {
	t := a.t
	t.Helper()
	sockets := make(map[string][]*tracedLife)
	for _, s := range a.sockets {
		sockets[s.lines[0].Socket] = append(sockets[s.lines[0].Socket], s)
	}
	walks := k.walksOf(recording)
	met := make(map[int]map[string]bool) // by walk
	for i := range walks {
		met[i] = make(map[string]bool)
	}
	for _, e := range k.ns.snapshotsOf(recording) {
		cookie := strconv.FormatUint(e.Cookie, 16)
		if e.Flags&events.FlagRequest != 0 || a.holes[cookie] {
			continue
		}
		found++
		for i, one := range walks {
			if one.Start <= e.Time && e.Time <= one.Time {
				// It may be connected again meanwhile, and leave a minisock each time.
				if key := fmt.Sprint(cookie, e.Local, e.Remote, e.Flags&events.FlagMinisock); met[i][key] {
					t.Errorf("twice in a walk: %+v%s", e, a.story(cookie))
				} else {
					met[i][key] = true
				}
				if e.Flags&events.FlagMinisock == 0 {
					met[i][cookie] = true
				}
			}
		}
		if e.Flags&events.FlagMinisock != 0 {
			k.checkMinisock(a, sockets[cookie], &e)
			continue
		}
		k.checkSocket(a, sockets[cookie], &e, own)
	}
	// What did not move while it was walked has been found.
	for i, one := range walks {
		if one.Failed || len(one.Skipped) > 0 || one.Unseen != "" {
			continue
		}
		for cookie, lives := range sockets {
			if state, stays := a.stays(lives, one.Start, one.Time); stays && !a.holes[cookie] && !met[i][cookie] {
				t.Errorf("in %s from %d to %d, but the walk has not found it: %s%s", state, one.Start, one.Time, cookie, a.story(cookie))
			}
		}
	}
	return found
}

// stays reports whether the socket was in one state, not CLOSED, all the time.
func (a *account) stays(lives []*tracedLife, from, to uint64) (state string, stays bool) {
	const skew = uint64(usualSkew)
	for _, s := range lives {
		for _, l := range s.steps() {
			switch at := a.at(l); {
			case at+skew < from:
				state = l.kernelTo()
			case at < to+skew:
				return "", false
			}
		}
	}
	return state, state != "" && state != fsm.Closed.String()
}

// walksOf returns the walks that a recording tells of.
func (k *walk) walksOf(recording string) (walks []events.Walked) {
	t := k.t
	t.Helper()
	f, err := os.Open(recording)
	check(t, err)
	defer f.Close()
	r, err := capture.NewReader(f)
	check(t, err)
	defer r.Close()
	for {
		var rec events.Record
		if err := r.Read(&rec); err == io.EOF {
			return walks
		} else if err != nil {
			t.Fatal(err)
		}
		if rec.Kind == events.KindWalked {
			walks = append(walks, rec.Walked)
		}
	}
}

// checkSocket holds the state of a socket that a walk found against its steps.
func (k *walk) checkSocket(a *account, lives []*tracedLife, e *events.Event, own bool) {
	const skew = uint64(usualSkew)
	t := a.t
	cookie := strconv.FormatUint(e.Cookie, 16)
	possible := make(map[string]bool) // the states about that time
	state, since, generation, seq := "", uint64(0), uint32(0), uint32(0)
	near := false
	for _, s := range lives {
		for _, l := range s.steps() {
			switch at := a.at(l); {
			case at+skew < e.Time:
				if state != l.kernelTo() || l.From != l.To {
					since = at
				}
				state, generation, seq = l.kernelTo(), l.Generation, l.Seq
			case at < e.Time+skew:
				near = true
				possible[l.kernelTo()], possible[l.From] = true, true
			}
		}
	}
	possible[state] = true
	if !possible[e.To.String()] {
		t.Errorf("found in %v, but it was in %v: %+v%s", e.To, slices.Collect(maps.Keys(possible)), e, a.story(cookie))
		return
	}
	if near {
		return
	}
	exact := e.Flags&events.FlagAtLeast == 0
	if e.Entered > e.Time || e.Entered+skew < since || exact && e.Entered > since+skew {
		t.Errorf("found in %v since %d (exact: %t), but it was since %d: %+v%s", e.To, e.Entered, exact, since, e, a.story(cookie))
	}
	if own && (e.Generation != generation || e.Seq != seq) {
		t.Errorf("found after record %d of life %d, but it was %d of %d: %+v%s", e.Seq, e.Generation, seq, generation, e, a.story(cookie))
	}
	if e.Owner.Known() && a.byPID[int(e.Owner.PID)] == "" && !a.spawned[int(e.Owner.PID)] && int(e.Owner.PID) != os.Getpid() {
		t.Errorf("found of process %d, that is none of ours: %+v%s", e.Owner.PID, e, a.story(cookie))
	}
}

// checkMinisock holds a minisock that a walk found against what took over when.
func (k *walk) checkMinisock(a *account, lives []*tracedLife, e *events.Event) {
	const skew = uint64(usualSkew)
	cookie := strconv.FormatUint(e.Cookie, 16)
	for _, s := range lives {
		began, ended := uint64(0), ^uint64(0)
		for _, l := range s.lines {
			switch {
			case l.tookOver():
				began = a.at(l)
			case l.ofMinisock() && l.To == fsm.Closed.String():
				ended = a.at(l)
			}
		}
		if began != 0 && began <= e.Time+skew && e.Time-skew <= ended {
			if e.Entered > e.Time {
				a.t.Errorf("a minisock since %d: %+v%s", e.Entered, e, a.story(cookie))
			}
			return
		}
	}
	a.t.Errorf("there was no minisock: %+v%s", e, a.story(cookie))
}

// checkLater checks what a tracer said that was started in the middle of the walk.
func (k *walk) checkLater(r *result, all []*life) {
	t := k.t
	t.Helper()
	a := newAccount(r, k.deeds)
	a.match(all)
	a.checkMissing(k.from)
	for _, s := range a.sockets {
		// A minisock from before, whose socket has been connected again since, has the
		// same name as the first life of that which was seen.
		if slices.ContainsFunc(s.lines, func(l *line) bool { return l.ofMinisock() && l.Seq == 0 }) && len(s.steps()) > 0 {
			continue
		}
		for _, l := range s.lines {
			provoked := k.skipped && strings.HasPrefix(l.Reason, "TIME_WAIT skipped")
			if !a.holes[l.Socket] && (l.Verdict == fsm.Gap.String() || l.Verdict == fsm.Illegal.String() && !provoked) {
				a.t.Errorf("a tracer that came later judges %s: %s: %v%s", l.Verdict, l.Reason, s, a.story(l.Socket))
			}
		}
	}
}
