package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// contender is a tool in a measurement of what is kept under it.
type contender struct {
	*tool
	// budget is the share to be kept; 0: it is only compared.
	budget float64
}

// http measures how many connections a second are kept where each is for one request, of
// wrk to nginx: as much churn as a server can have that answers.
func (b *bench) http(ctx context.Context) error {
	if !b.hasWeb() {
		return nil
	}
	k := &kept{bench: b, measure: "http", what: "requests/s kept, one a connection,", load: "http", rate: done.perSecond, records: true}
	return k.run(ctx, b.allModes())
}

// churn is the same of connections that do nothing at all, which nobody has: what it
// keeps is the least.
func (b *bench) churn(ctx context.Context) error {
	k := &kept{bench: b, measure: "churn", what: "connections/s kept, empty ones,", load: "churn", rate: done.perSecond, records: true}
	return k.run(ctx, b.allModes())
}

// allModes are the ways in which every transition is counted.
func (b *bench) allModes() []contender {
	list := []contender{
		{b.ours("tcptrace -o json", "trace", "-o", "json"), keptOfChurn},
		{b.ours("tcptrace life -o json", "life", "-o", "json"), keptOfChurn},
		{b.ours("tcptrace stat", "stat", "-o", "json"), keptOfChurn},
		{b.ours("tcptrace stat --in-kernel", "stat", "-o", "json", "--in-kernel"), keptOfChurn},
		{b.ours("tcptrace agent", "agent", "--listen", "127.0.0.1:0"), keptOfChurn},
	}
	for _, t := range b.others() {
		list = append(list, contender{tool: t})
	}
	return list
}

// hasWeb reports whether there is what makes requests and answers them.
func (b *bench) hasWeb() bool {
	wrk := b.installed(&tool{"requests of wrk", []string{"wrk"}, "wrk"})
	return b.installed(&tool{"answers of nginx", []string{"nginx"}, "nginx"}) && wrk
}

// requests measures what is kept of keep-alive HTTP.
func (b *bench) requests(ctx context.Context) error {
	if !b.hasWeb() {
		return nil
	}
	k := &kept{bench: b, measure: "requests", what: "keep-alive requests/s kept", load: "requests", rate: done.perSecond}
	return k.run(ctx, b.withAndWithoutTimeWait())
}

// bulk measures what is kept of transfers.
func (b *bench) bulk(ctx context.Context) error {
	k := &kept{bench: b, measure: "bulk", what: "bytes/s kept", load: "bulk", rate: done.megabytesPerSecond}
	return k.run(ctx, b.withAndWithoutTimeWait())
}

func (b *bench) withAndWithoutTimeWait() []contender {
	return []contender{
		{b.ours("tcptrace -o json", "trace", "-o", "json"), keptOfBulk},
		{b.ours("tcptrace -o json --no-time-wait", "trace", "-o", "json", "--no-time-wait"), keptOfBulk},
	}
}

// kept measures what share of a load is kept under each contender: each of its rounds
// lies between two without a tracer.
type kept struct {
	*bench
	measure, what, load string
	rate                func(done) float64
	records             bool // enough of them to say what one costs
}

// cost is what a tracer took in a round.
type cost struct {
	kept         float64
	user, system float64 // ns for each record
	lost, total  float64 // records; 0: it does not tell
}

func (k *kept) run(ctx context.Context, contenders []contender) error {
	costs := make([][]cost, len(contenders))
	rates := []float64{}
	for range k.rounds {
		before, _, err := k.round(ctx, nil)
		if err != nil {
			return err
		}
		for i, c := range contenders {
			rate, cost, err := k.round(ctx, c.tool)
			if err != nil {
				return err
			}
			after, _, err := k.round(ctx, nil)
			if err != nil {
				return err
			}
			cost.kept = rate / ((before + after) / 2)
			costs[i] = append(costs[i], cost)
			rates = append(rates, after)
			before = after
		}
	}
	unit := "/s"
	if k.load == "bulk" {
		unit = "MB/s"
	}
	k.table.add(k.measure, "untraced", unit, rates...)
	for i, c := range contenders {
		r := k.table.add(k.measure, k.what+" by "+c.name, "", column(costs[i], func(c cost) float64 { return c.kept })...)
		if c.budget > 0 {
			r.atLeast(c.budget)
		}
		if k.records && costs[i][0].total > 0 {
			k.table.add(k.measure, "user CPU of "+c.name, "ns/record", column(costs[i], func(c cost) float64 { return c.user })...).atMost(perRecord)
			k.table.add(k.measure, "system CPU of "+c.name, "ns/record", column(costs[i], func(c cost) float64 { return c.system })...)
			var lost, total float64
			for _, c := range costs[i] {
				lost, total = lost+c.lost, total+c.total
			}
			k.table.add(k.measure, "lost by "+c.name, "records", lost).atMost(0).note("of %.0f", total)
		}
	}
	return nil
}

func column(costs []cost, of func(cost) float64) []float64 {
	list := make([]float64, len(costs))
	for i, c := range costs {
		list[i] = of(c)
	}
	return list
}

// round runs the load once, under a tool or, nil, none.
func (k *kept) round(ctx context.Context, t *tool) (rate float64, c cost, err error) {
	l, err := startLoad(ctx, k.load, k.length.String())
	if err != nil {
		return 0, c, err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	if t == nil {
		d, err := l.begin()
		return k.rate(d), c, err
	}
	r, err := k.trace(ctx, t)
	if err != nil {
		return 0, c, err
	}
	user, system, err := r.cpu()
	if err != nil {
		return 0, c, errors.Join(err, r.stop())
	}
	d, err := l.begin()
	if err != nil {
		return 0, c, errors.Join(err, r.stop())
	}
	errIdle := r.untilIdle(ctx) // what waits in the rings is read
	userAfter, systemAfter, err := r.cpu()
	if err := errors.Join(errIdle, err, r.stop()); err != nil {
		return 0, c, err
	}
	if r.from == "" && t.command[1] == "trace" {
		s, err := readSummary(r.output.Name())
		if err != nil {
			return 0, c, fmt.Errorf("%s: %w", t.name, err)
		}
		c.total, c.lost = float64(s.Transitions+s.Lost), float64(s.Lost)
		c.user = float64(userAfter-user) / c.total
		c.system = float64(systemAfter-system) / c.total
	}
	return k.rate(d), c, os.Remove(filepath.Join(k.folder, "output"))
}
