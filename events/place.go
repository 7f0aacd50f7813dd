package events

import (
	"strconv"
	"strings"
)

// MaxName is how many bytes of the text of a [Name] are kept.
const MaxName = 4096

// Place is a cgroup, and what it is for, as far as its path tells. The zero value is
// one that is not known.
//
// Whoever may make cgroups chooses their names: they can lie, and hold any bytes.
// Escape them before showing them.
type Place struct {
	Path      string // from the root of the hierarchy; "": not known
	Container string // full id of the container; "": none
	Unit      string // systemd unit, such as nginx.service; "": none
}

// ParsePlace reads the path of a cgroup, from the root of the hierarchy, by the
// habits of systemd and the container runtimes. Of containers in containers it
// takes the innermost, of units the innermost service, or else the innermost scope
// that is no container's. Neither is longer than the name of a file.
func ParsePlace(cgroupPath string) Place {
	const maxFileName = 255 // NAME_MAX
	place := Place{Path: cgroupPath}
	var scope, parent string
	for name := range strings.SplitSeq(cgroupPath, "/") {
		if len(name) > maxFileName {
			name = ""
		}
		container := containerOf(parent, name)
		switch {
		case container != "":
			place.Container = container
		case isUnit(name, ".service"):
			place.Unit = strings.TrimPrefix(name, "_")
		case isUnit(name, ".scope"):
			scope = strings.TrimPrefix(name, "_")
		}
		parent = name
	}
	if place.Unit == "" {
		place.Unit = scope
	}
	return place
}

// isUnit reports whether it is the name of a cgroup that systemd would make for a
// unit of the type. One that could be taken for a file of the kernel's has a "_"
// before it there.
func isUnit(name, suffix string) bool {
	const others = ":-_.\\@" // beside letters and digits: systemd.unit(5)
	return len(name) > len(suffix) && strings.HasSuffix(name, suffix) &&
		strings.Trim(name, others+"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// containerOf returns the id of the container that a cgroup is for, by its name
// and that of the one above it, or "".
func containerOf(parent, name string) string {
	scope, isScope := strings.CutSuffix(name, ".scope")
	// docker, containerd, cri-o, podman: ID, docker-ID.scope, crio-ID, and
	// kubepods-….slice:cri-containerd:ID.
	if i := len(scope) - containerIDSize; i >= 0 && isHex(scope[i:]) {
		runtime := scope[:i]
		switch {
		case runtime == "", strings.HasSuffix(runtime, ":"):
			return scope[i:]
		case strings.HasSuffix(runtime, "-") && !strings.HasSuffix(runtime, "conmon-"): // which watches the container
			return scope[i:]
		}
	}
	// systemd-machined: nspawn, libvirt; but a virtual machine is no container.
	if machine, ok := strings.CutPrefix(scope, "machine-"); isScope && ok && !strings.HasPrefix(machine, `qemu\x2d`) {
		return unescapeUnit(machine)
	}
	if service, ok := strings.CutPrefix(parent, "systemd-nspawn@"); ok && name == "payload" {
		return strings.TrimSuffix(service, ".service")
	}
	// LXC, LXD, Incus.
	if container, ok := strings.CutPrefix(name, "lxc.payload."); ok {
		return container
	}
	if parent == "lxc" || parent == "lxc.payload" {
		return name
	}
	return ""
}

// containerIDSize is the length of the ids of all runtimes of the Open Container
// Initiative.
const containerIDSize = 64

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// unescapeUnit undoes what systemd-escape does to a name: \x2d is "-".
func unescapeUnit(name string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(name, `\x`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		char, err := strconv.ParseUint(after[:min(2, len(after))], 16, 8)
		if err != nil || len(after) < 2 {
			b.WriteString(`\x`)
			name = after
			continue
		}
		b.WriteByte(byte(char))
		name = after[2:]
	}
}
