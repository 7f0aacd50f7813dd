package main

import "strings"

// leftOut are tests that a guest cannot run, or that say nothing there.
var leftOut = []string{
	// So much load that it takes minutes there.
	"TestKernelManySockets", "TestKernelChurn", "TestKernelInterrupted", "TestKernelUnderLoad",
	"TestKernelSYNFlood", "TestKernelSnapshotChurn", "TestKernelStuckFlood", "TestKernelStdoutBlocked",
	"TestRingOverflow", "TestKernelNamespacesGo", "TestKernelAgentNotRead", "TestKernelSnapshotBounds",
	"TestFailedOpenLeavesNothing", "TestOpenRefusesBufferSizes", // open it again and again
	"TestKernelSoak", "TestKernelAgentPrometheus", "TestKernelAgentUnderSystemd",
}

// suites returns what is run on a kernel.
func suites(k kernel, only string) []suite {
	env := []string{"TCPTRACE_REQUIRE_KERNEL=1", "GOGC=400"}
	pattern := "^TestKernel"
	if only != "" {
		pattern = only
	}
	args := func(pattern string) []string {
		return []string{"-test.v", "-test.timeout=60m", "-test.run=" + pattern, "-test.skip=^(" + strings.Join(leftOut, "|") + ")$"}
	}
	return []suite{
		{Package: "bpf", Args: args(only), Env: env},
		{Package: "cmd/tcptrace", Args: args(pattern), Env: env},
	}
}
