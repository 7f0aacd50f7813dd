package main

import "strings"

// tests are some of those of a package.
type tests struct {
	pkg   string
	names []string
}

// The tests that are run in a guest: those of what may differ from kernel to
// kernel. The others are of the program more than of the kernel, or are so much load
// that it takes minutes on an emulated processor and says nothing of a real one.
var chosen = []tests{
	{"bpf", []string{
		"TestRequirements", "TestCloseLeavesNothing", "TestLostRecordsLeaveAHole", "TestFilterByCgroup",
		"TestRecordsAreWhole", "TestTimers", "TestSelfTestIsNotSeen",
	}},
	{"cmd/tcptrace", []string{
		"TestKernelScenarios", "TestKernelReconnect", "TestKernelStartedBefore", "TestKernelStartedBeforeInFinWait2",
		"TestKernelOwner", "TestKernelOwnerPrefork", "TestKernelCloseCauses",
		"TestKernelWitness", "TestKernelTimeWaitEnds", "TestKernelTimeWaitExpires", "TestKernelTimeWaitSkipped",
		"TestKernelDeferAccept", "TestKernelHandshakesToNothing", "TestKernelSYNCookies",
		"TestKernelSnapshotNamespaces", "TestKernelSnapshotTimeWait", "TestKernelStuckStates", "TestKernelStuckLeak",
		"TestKernelPortFilterForgets", "TestKernelLongAddress", "TestKernelStatInKernel",
		"TestKernelKilled", "TestKernelTwoCapabilities",
	}},
}

// suites returns what is run on a kernel: its only tests, the chosen ones, or those that
// match.
func suites(k kernel, only string) (list []suite) {
	env := []string{"TCPTRACE_REQUIRE_KERNEL=1", "GOGC=400"}
	if k.lacks != "" {
		env = append(env, "TCPTRACE_KERNEL_LACKS="+k.lacks)
	}
	wanted := chosen
	if k.only != nil {
		wanted = []tests{{"cmd/tcptrace", k.only}}
	}
	for _, c := range wanted {
		pattern := only
		if only == "" || k.lacks != "" {
			pattern = "^(" + strings.Join(c.names, "|") + ")$"
		}
		list = append(list, suite{Package: c.pkg, Args: arguments(pattern), Env: env})
	}
	return list
}

func arguments(pattern string) []string {
	return []string{"-test.v", "-test.timeout=60m", "-test.run=" + pattern}
}
