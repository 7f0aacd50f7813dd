package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"tcptrace/bpf"
	"tcptrace/events"
	"tcptrace/fsm"
)

// filterFlags are the flags that choose what is shown, as given.
type filterFlags struct {
	ipv4, ipv6                         bool
	pids, comms                        []string
	localPorts, remotePorts, eitherEnd string
	local, remote                      []string
	states, verdicts                   []string
	netns, cgroup, container           string
	sockets                            []string
}

func (f *filterFlags) register(flags *pflag.FlagSet) {
	flags.BoolVarP(&f.ipv4, "ipv4", "4", false, "IPv4 on the wire, v4-mapped sockets included")
	flags.BoolVarP(&f.ipv6, "ipv6", "6", false, "IPv6 on the wire")
	flags.StringSliceVarP(&f.pids, "pid", "p", nil, "sockets owned by process `PID`, ...")
	flags.StringSliceVar(&f.comms, "comm", nil, "sockets owned by processes called `NAME`, ...")
	flags.StringVarP(&f.localPorts, "local-port", "L", "", "local `PORTS`, such as 80,443,8000-8080")
	flags.StringVarP(&f.remotePorts, "remote-port", "D", "", "remote `PORTS`")
	flags.StringVar(&f.eitherEnd, "port", "", "local or remote `PORTS`")
	flags.StringSliceVar(&f.local, "local", nil, "local address in `CIDR`, ...")
	flags.StringSliceVar(&f.remote, "remote", nil, "remote address in `CIDR`, ...")
	flags.StringSliceVarP(&f.states, "state", "s", nil, "transitions from or to `STATE`, ..., connections that were in it; in any usual spelling")
	flags.StringSliceVar(&f.verdicts, "verdict", nil, "judged `VERDICT`, ...: legal, abort, linux, gap, illegal; a connection by its worst")
	flags.StringVar(&f.netns, "netns", "", "network namespace `NS`: its inode or a path, such as /run/netns/NAME")
	flags.StringVar(&f.cgroup, "cgroup", "", "cgroup by `PATH` (/system.slice/nginx.service), with those below it, or by id")
	flags.StringSliceVar(&f.sockets, "socket", nil, "sockets by `ID`, ..., as printed by --wide and, as sk:, by ss -e")
	flags.StringVar(&f.container, "container", "", "container by `ID`, or its beginning; a system container by its name")
}

// filter is what the flags mean.
type filter struct {
	events   events.Filter
	verdicts []fsm.Verdict
	// By the names of cgroups, which may be made at any time: "" is any.
	cgroup    string // path of it or of one above
	container string // beginning of its id
}

// minContainerID is what docker shows of an id; less might be part of anything.
const minContainerID = 4

func (f *filterFlags) parse() (*filter, error) {
	p := &filter{}
	p.events.IPv4, p.events.IPv6 = f.ipv4, f.ipv6
	if f.ipv4 && f.ipv6 {
		return nil, usagef("-4 and -6 exclude each other: leave both out for both families")
	}
	for _, ports := range []struct {
		flag, text string
		set        *events.PortSet
	}{
		{"-L", f.localPorts, &p.events.LocalPorts},
		{"-D", f.remotePorts, &p.events.RemotePorts},
		{"--port", f.eitherEnd, &p.events.EitherPorts},
	} {
		if ports.text == "" {
			continue
		}
		set, err := events.ParsePorts(ports.text)
		if err != nil {
			return nil, usagef("%s: %w", ports.flag, err)
		}
		*ports.set = set
	}
	var err error
	if p.events.LocalNets, err = parseEach("--local", f.local, parsePrefix); err != nil {
		return nil, err
	}
	if p.events.RemoteNets, err = parseEach("--remote", f.remote, parsePrefix); err != nil {
		return nil, err
	}
	if p.events.PIDs, err = parseEach("-p", f.pids, parsePID); err != nil {
		return nil, err
	}
	if p.events.Comms, err = parseEach("--comm", f.comms, parseComm); err != nil {
		return nil, err
	}
	if p.events.States, err = parseEach("-s", f.states, fsm.ParseState); err != nil {
		return nil, err
	}
	if p.verdicts, err = parseEach("--verdict", f.verdicts, fsm.ParseVerdict); err != nil {
		return nil, err
	}
	if p.events.Cookies, err = parseEach("--socket", f.sockets, events.ParseCookie); err != nil {
		return nil, err
	}
	if f.netns != "" {
		if p.events.NetNS, err = parseNetNS(f.netns); err != nil {
			return nil, usagef("--netns: %w", err)
		}
	}
	if f.cgroup != "" && f.container != "" {
		return nil, usagef("--cgroup and --container exclude each other: a container is a cgroup")
	}
	if f.cgroup != "" {
		var id uint64
		if id, p.cgroup, err = parseCgroup(f.cgroup); err != nil {
			return nil, usagef("--cgroup: %w", err)
		}
		if id != 0 {
			p.events.Cgroups = []uint64{id}
		}
	}
	if p.container = f.container; p.container != "" && len(p.container) < minContainerID {
		return nil, usagef("--container: %q is too short: want at least %d characters of the container's id, or its cgroup with --cgroup", p.container, minContainerID)
	}
	return p, nil
}

// wantsPlace decides about a cgroup by its name. One whose name is not known is
// wanted if none is asked for.
func (f *filter) wantsPlace(p events.Place) bool {
	switch {
	case f.cgroup != "":
		return p.Path != "" && below(p.Path, f.cgroup)
	case f.container != "":
		return strings.HasPrefix(p.Container, f.container)
	}
	return true
}

// kernelOptions are the parts of the filter that the kernel can decide. It knows no
// names of cgroups.
func (f *filter) kernelOptions() *bpf.Options {
	o := &bpf.Options{NetNS: f.events.NetNS, Cgroups: f.events.Cgroups}
	switch {
	case f.events.IPv4:
		o.Family = unix.AF_INET
	case f.events.IPv6:
		o.Family = unix.AF_INET6
	}
	o.LocalPorts = wants(f.events.LocalPorts)
	o.RemotePorts = wants(f.events.RemotePorts)
	o.EitherPorts = wants(f.events.EitherPorts)
	return o
}

// eitherEnd returns what of the filter the kernel can decide of a connection that is
// wanted if one of its ends is.
func (f *filter) eitherEnd() *filter {
	e := &filter{}
	e.events.IPv4, e.events.IPv6 = f.events.IPv4, f.events.IPv6
	for _, ports := range []events.PortSet{f.events.EitherPorts, f.events.LocalPorts, f.events.RemotePorts} {
		if len(ports) > 0 {
			e.events.EitherPorts = ports
			break
		}
	}
	return e
}

func wants(set events.PortSet) func(uint16) bool {
	if len(set) == 0 {
		return nil
	}
	return set.Contains
}

func (f *filter) wantsVerdict(v fsm.Verdict) bool {
	return len(f.verdicts) == 0 || slices.Contains(f.verdicts, v)
}

func parseEach[T any](flag string, texts []string, parse func(string) (T, error)) ([]T, error) {
	var values []T
	for _, text := range texts {
		v, err := parse(text)
		if err != nil {
			return nil, usagef("%s: %w", flag, err)
		}
		values = append(values, v)
	}
	return values, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return prefix, fmt.Errorf("%q is no network: want an address or a prefix, as in 10.0.0.0/8 or 2001:db8::/32", text)
	}
	return prefix.Masked(), nil
}

func parsePID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no process ID", text)
	}
	return uint32(n), nil
}

// parseComm cuts a name to what the kernel keeps of it.
func parseComm(text string) (string, error) {
	if text == "" {
		return "", errors.New("the name is empty")
	}
	comm := events.MakeComm(text)
	return string(comm.Bytes()), nil
}

func parseNetNS(text string) (uint32, error) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil && n > 0 {
		return uint32(n), nil
	}
	var stat unix.Stat_t
	if err := unix.Stat(text, &stat); err != nil {
		return 0, fmt.Errorf("%q is neither the inode of a network namespace (ls -L -i /proc/PID/ns/net) nor a path to one: %w", text, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(text, &fs); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: text, Err: err}
	}
	if fs.Type != unix.NSFS_MAGIC {
		return 0, fmt.Errorf("%q is no namespace: want a path such as /run/netns/NAME or /proc/PID/ns/net", text)
	}
	return uint32(stat.Ino), nil
}
