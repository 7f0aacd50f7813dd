package stat_test

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcptrace/output/stat"
)

func TestFullIn(t *testing.T) {
	growing := stat.Ports{Live: 40, TimeWait: 50, HasTimeWait: true, Available: 100, Growth: 2, HasGrowth: true}
	for name, test := range map[string]struct {
		change func(*stat.Ports)
		want   time.Duration // -1: not known
	}{
		"growing":             {func(*stat.Ports) {}, 5 * time.Second},
		"full":                {func(p *stat.Ports) { p.Live = 50 }, 0},
		"more than there are": {func(p *stat.Ports) { p.Live = 500 }, 0},
		"hardly growing":      {func(p *stat.Ports) { p.Growth = 1e-12 }, 100 * 365 * 24 * time.Hour},
		"not growing":         {func(p *stat.Ports) { p.Growth = 0 }, -1},
		"shrinking":           {func(p *stat.Ports) { p.Growth = -2 }, -1},
		"not measured":        {func(p *stat.Ports) { p.HasGrowth = false }, -1},
		"range not known":     {func(p *stat.Ports) { p.Available = 0 }, -1},
		"no TIME_WAIT":        {func(p *stat.Ports) { p.HasTimeWait = false }, -1},
		"not all known":       {func(p *stat.Ports) { p.AtLeast = true }, -1},
	} {
		p := growing
		test.change(&p)
		got, known := p.FullIn()
		if !known {
			got = -1
		}
		if got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// The fullest come first, and what is not known is told as such.
func TestPorts(t *testing.T) {
	route := stat.Route{NetNS: 7, Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddrPort("10.0.0.2:443")}
	list := []stat.Ports{
		{Route: route, Live: 1},
		{Route: route, Live: 40, TimeWait: 50, HasTimeWait: true, Available: 100, Growth: 0.125, HasGrowth: true},
		{Route: route, Live: 2, TimeWait: 3, HasTimeWait: true, AtLeast: true, Available: 100},
	}
	stat.SortPorts(list)
	k := &kept{}
	s := stat.NewSink(k, k, clock, 0, &stat.Options{Ports: func(at uint64) []stat.Ports {
		if at != 5 {
			t.Errorf("asked for %d, want the end of the window", at)
		}
		return list
	}})
	if err := s.Finish(5); err != nil {
		t.Fatal(err)
	}
	var text, object bytes.Buffer
	err := errors.Join(
		stat.NewText(&text, clock, &stat.TextOptions{Top: 3}).Window(k.windows[0]),
		stat.NewJSON(&object, clock, 3).Window(k.windows[0]),
	)
	if err != nil {
		t.Fatal(err)
	}
	const wantText = `
NETNS    LADDR    RADDR RPORT LIVE TIME_WAIT  OF USED FULL IN
7     10.0.0.1 10.0.0.2   443   40        50 100  90%   1m20s
7     10.0.0.1 10.0.0.2   443   ≥2        ≥3 100  ≥5%       -
7     10.0.0.1 10.0.0.2   443    1         -   -    -       -
`
	if !strings.HasSuffix(text.String(), wantText) {
		t.Errorf("got\n%s\nwant\n%s", &text, wantText)
	}
	const ends = `{"netns":7,"local":{"addr":"10.0.0.1"},"remote":{"addr":"10.0.0.2","port":443},`
	const wantObject = `"ports":[` +
		ends + `"live":40,"time_wait":50,"available":100,"growth_per_second":0.125,"full_in_ns":80000000000},` +
		ends + `"live":2,"time_wait":3,"at_least":true,"available":100},` +
		ends + `"live":1}]}`
	if !strings.HasSuffix(strings.TrimSpace(object.String()), wantObject) {
		t.Errorf("got\n%s\nwant\n%s", &object, wantObject)
	}
}
