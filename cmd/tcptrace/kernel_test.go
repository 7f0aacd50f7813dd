package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tcptrace/bpf"
)

// The tests of the files kernel*_test.go run the whole command on the real
// kernel. Each makes its connections in a network namespace of its own (see
// kernel_netns_test.go), so that nothing else on the host is seen or disturbed,
// and holds what comes out against what the kernel itself says of the same
// tracepoint (see kernel_oracle_test.go).

var kernelMissing = sync.OnceValue(func() error {
	for _, r := range bpf.Requirements() {
		if !r.Optional && r.Err != nil {
			return fmt.Errorf("%s: %w", r.Name, r.Err)
		}
	}
	return nil
})

// requireKernel skips a test where kernel or privileges do not allow it, or
// fails it if TCPTRACE_REQUIRE_KERNEL=1.
func requireKernel(t *testing.T) {
	t.Helper()
	if err := kernelMissing(); err != nil {
		unavailable(t, "tracing is not possible: %v", err)
	}
}

// unavailable ends a test for want of something on this host.
func unavailable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("TCPTRACE_REQUIRE_KERNEL") == "1" {
		t.Fatalf("TCPTRACE_REQUIRE_KERNEL=1, but "+format, args...)
	}
	t.Skipf(format, args...)
}

// requireHostPIDs skips a test that compares process numbers where the host's
// differ from those of this process.
func requireHostPIDs(t *testing.T) {
	t.Helper()
	if err := bpf.HostPIDs(); err != nil {
		t.Skipf("processes are numbered otherwise than on the host: %v", err)
	}
}

// symbolsHidden reports whether this kernel tells nobody the addresses of its symbols
// (kernel.kptr_restrict), so that it is not known what ends a minisock.
var symbolsHidden = sync.OnceValue(func() bool {
	return slices.ContainsFunc(bpf.Requirements(), func(r bpf.Requirement) bool {
		return strings.Contains(r.Name, "kallsyms") && r.Err != nil
	})
})

// usualWait is the deadline for what never comes, not a measure of anything.
const usualWait = 30 * time.Second

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(usualWait); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
