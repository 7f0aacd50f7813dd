package main

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output/stat"
	"tcptrace/output/tui"
)

// A picture of very many sockets, which the reading waits for.
func BenchmarkTopPicture(b *testing.B) {
	const sockets = 100_000
	p := &pipeline{source: &live{}, tracker: lifecycle.NewTracker(0), results: &results{filter: &filter{}}}
	v := newTopView(b.Context(), p, &tui.Request{By: stat.ByPID}, 0, "")
	p.view = &stuckView{results: p.results, limits: lifecycle.DefaultLimits(), inner: v}
	for i := range sockets {
		e := events.Event{
			Time: eventstest.Start, Entered: eventstest.Start - uint64(time.Hour), Cookie: uint64(i + 1), From: fsm.Established, To: fsm.Established,
			Source: events.SourceSnapshot, Flags: events.FlagAtLeast, Family: 2, NetNS: eventstest.NetNS,
			Local:  netip.MustParseAddrPort("10.0.0.2:8080"),
			Remote: netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("10.0.%d.1", i>>14)), uint16(40000+i&(1<<14-1))),
			Owner:  events.Owner{PID: uint32(4000 + i%10), Comm: events.MakeComm("server"), Source: events.OwnerSnapshot},
		}
		p.tracker.Observe(&e, &p.transition)
	}
	v.now = eventstest.Start + uint64(time.Second)
	for name, r := range map[string]tui.Request{
		"groups":  {By: stat.ByPID, Rows: 200},
		"sockets": {Table: tui.TableSockets, Rows: 200},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				v.picture(&r)
			}
		})
	}
}
