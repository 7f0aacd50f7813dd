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
	boot           string   // further arguments of the kernel
	only           []string // the tests that are run there, of cmd/tcptrace. None: the usual ones
	// lacks is the requirement for the want of which tracing is refused there.
	lacks string
}

// kernels are the long-term ones that distributions have, the newest ones, one that is too
// old, and one that is locked down (/sys/kernel/security/lockdown).
func kernels() []kernel {
	const security = "debian-security"
	return []kernel{
		{
			name: "5.10", series: "5.10", arch: "amd64", archive: security, suite: "bullseye-security",
			only: []string{"TestKernelRefused"}, lacks: "helper bpf_get_socket_cookie in tracing programs",
		},
		{name: "6.1", series: "6.1", arch: "amd64", archive: security, suite: "bookworm-security"},
		{name: "6.12", series: "6.12", arch: "amd64", archive: "debian", suite: "trixie"},
		{
			name: "integrity", series: "6.12", arch: "amd64", archive: "debian", suite: "trixie",
			boot: "lockdown=integrity", only: []string{"TestKernelOwner", "TestKernelTimeWaitExpires", "TestKernelStuckLeak"},
		},
		{
			name: "confidentiality", series: "6.12", arch: "amd64", archive: "debian", suite: "trixie",
			boot: "lockdown=confidentiality", only: []string{"TestKernelLockdown"},
		},
		{name: "6.18", series: "6.18", arch: "amd64", archive: "debian", suite: "trixie-backports"},
		{name: "7.2", series: "7.2", arch: "amd64", archive: "debian", suite: "sid"},
		{name: "7.3", series: "7.3", arch: "amd64", archive: "debian", suite: "trixie-backports"},
		{name: "arm64", series: "6.12", arch: "arm64", archive: "debian", suite: "trixie"},
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
