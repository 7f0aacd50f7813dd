package stat

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tcptrace/fsm/lifecycle"
)

// Ports is how many local ports connections from one address to another and a port
// there have in a network namespace. There it must be another one for each.
type Ports struct {
	Route
	// Live are of sockets, TimeWait of minisocks, by which the kernel keeps the port
	// in TIME_WAIT and for the rest of FIN_WAIT_2; that is not known without
	// HasTimeWait.
	Live, TimeWait uint64
	HasTimeWait    bool
	// AtLeast: not all sockets that are there are known.
	AtLeast bool
	// Available is how many there are to choose from, 0 where that is not known.
	Available uint64
	// Growth is by how many more there are each second, if HasGrowth.
	Growth    float64
	HasGrowth bool
}

// Route is between whom, and where.
type Route struct {
	NetNS  uint32 // inode
	Local  netip.Addr
	Remote netip.AddrPort
}

// Used returns how many ports are in use.
func (p *Ports) Used() uint64 { return p.Live + p.TimeWait }

// FullIn returns when no port will be left, if it goes on like this. It is not known
// where there are not ever more.
func (p *Ports) FullIn() (d time.Duration, known bool) {
	if p.Available == 0 || !p.HasTimeWait || p.AtLeast || !p.HasGrowth || p.Growth <= 0 {
		return 0, false
	}
	left := float64(p.Available) - float64(min(p.Used(), p.Available))
	const most = 100 * 365 * 24 * time.Hour
	return time.Duration(min(left/p.Growth*float64(time.Second), float64(most))), true
}

// SortPorts sorts the fullest first.
func SortPorts(list []Ports) {
	slices.SortFunc(list, func(a, b Ports) int {
		return cmp.Or(
			cmp.Compare(b.Used(), a.Used()), cmp.Compare(a.NetNS, b.NetNS),
			a.Local.Compare(b.Local), a.Remote.Compare(b.Remote),
		)
	})
}

// ports writes how full the ports are.
func (t *Text) ports(w *Window) {
	if w.options.Ports == nil {
		return
	}
	t.w.WriteByte('\n')
	if len(w.ports) == 0 {
		t.w.WriteString("no local ports are in use for connections to others\n")
		return
	}
	rows := [][]cell{cells("NETNS", "LADDR", "RADDR", "RPORT", "LIVE", "TIME_WAIT", "OF", "USED", "FULL IN")}
	for i := range w.ports[:min(len(w.ports), t.options.Top)] {
		p := &w.ports[i]
		least := ""
		if p.AtLeast {
			least = "≥"
		}
		timeWait, of, used, full := "-", "-", "-", "-"
		if p.HasTimeWait {
			timeWait = least + strconv.FormatUint(p.TimeWait, 10)
		}
		if p.Available > 0 {
			of = strconv.FormatUint(p.Available, 10)
			if p.HasTimeWait {
				used = least + strconv.FormatFloat(100*float64(p.Used())/float64(p.Available), 'f', 0, 64) + "%"
			}
		}
		if d, known := p.FullIn(); known {
			full = lifecycle.FormatDuration(d)
		}
		row := cells(strconv.FormatUint(uint64(p.NetNS), 10), p.Local.String(), p.Remote.Addr().String(),
			strconv.FormatUint(uint64(p.Remote.Port()), 10), least+strconv.FormatUint(p.Live, 10), timeWait, of, used, full)
		rows = append(rows, row)
	}
	t.table(rows)
}

// portsObject is a [Ports] in JSON.
type portsObject struct {
	NetNS     uint32   `json:"netns"`
	Local     end      `json:"local"`
	Remote    end      `json:"remote"`
	Live      uint64   `json:"live"`
	TimeWait  *uint64  `json:"time_wait,omitempty"`
	AtLeast   bool     `json:"at_least,omitempty"`
	Available uint64   `json:"available,omitempty"`
	Growth    *float64 `json:"growth_per_second,omitempty"`
	FullIn    *int64   `json:"full_in_ns,omitempty"`
}

type end struct {
	Addr string `json:"addr"`
	Port uint16 `json:"port,omitempty"`
}

func portsOf(p *Ports) portsObject {
	o := portsObject{
		NetNS: p.NetNS, Local: end{Addr: p.Local.String()}, Remote: end{p.Remote.Addr().String(), p.Remote.Port()},
		Live: p.Live, AtLeast: p.AtLeast, Available: p.Available,
	}
	if p.HasTimeWait {
		o.TimeWait = &p.TimeWait
	}
	if p.HasGrowth {
		o.Growth = &p.Growth
	}
	if d, known := p.FullIn(); known {
		ns := int64(d)
		o.FullIn = &ns
	}
	return o
}
