package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// kernel is one that is tested, by the packages of Debian that hold it.
type kernel struct {
	name   string // what it is chosen by
	series string // the beginning of its version
	arch   string // of Debian
	// suite of Debian, below deb.debian.org, that has it.
	archive, suite string
	// lacks is the requirement for the want of which tracing is refused there. Empty:
	// it is not.
	lacks string
}

// kernels are the long-term ones that distributions have, the newest ones, and one
// that is too old.
func kernels() []kernel {
	const security = "debian-security"
	return []kernel{
		{"5.10", "5.10", "amd64", security, "bullseye-security", "helper bpf_get_socket_cookie in tracing programs"},
		{"6.1", "6.1", "amd64", security, "bookworm-security", ""},
		{"6.12", "6.12", "amd64", "debian", "trixie", ""},
		{"6.18", "6.18", "amd64", "debian", "trixie-backports", ""},
		{"7.2", "7.2", "amd64", "debian", "sid", ""},
		{"7.3", "7.3", "amd64", "debian", "trixie-backports", ""},
		{"arm64", "6.12", "arm64", "debian", "trixie", ""},
	}
}

func names() (list []string) {
	for _, k := range kernels() {
		list = append(list, k.name)
	}
	return list
}

// choose returns the kernels of these names, or all.
func choose(wanted []string) ([]kernel, error) {
	all := kernels()
	if len(wanted) == 0 {
		return all, nil
	}
	var chosen []kernel
	for _, name := range wanted {
		i := slices.IndexFunc(all, func(k kernel) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no kernel %q: there are %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// newest returns the version of the newest image among the names of packages: the
// rest of the name between linux-image- and -cloud-ARCH.
func (k *kernel) newest(packages []string) (version string, ok bool) {
	image := regexp.MustCompile(`^linux-image-(` + regexp.QuoteMeta(k.series) + `\.[0-9][0-9.]*([+-][0-9a-z.]+)?)-cloud-` + k.arch + `$`)
	for _, name := range packages {
		if m := image.FindStringSubmatch(name); m != nil && (!ok || compareVersions(m[1], version) > 0) {
			version, ok = m[1], true
		}
	}
	return version, ok
}

// compareVersions compares the numbers in them, one after the other.
func compareVersions(a, b string) int {
	return slices.Compare(numbers(a), numbers(b))
}

func numbers(version string) (list []int) {
	within := false
	for _, c := range version {
		digit := c >= '0' && c <= '9'
		if digit && !within {
			list = append(list, 0)
		}
		if digit {
			list[len(list)-1] = list[len(list)-1]*10 + int(c-'0')
		}
		within = digit
	}
	return list
}
