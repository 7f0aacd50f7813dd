package main

import "strings"

// The tests of a package that are run in a guest: those of what may differ from kernel to
// kernel. The others are of the program more than of the kernel, or are so much load
// that it takes minutes on an emulated processor and says nothing of a real one.
var chosen = []struct {
	pkg   string
	tests []string
}{
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

// suites returns what is run on a kernel: the chosen tests, or those that match.
func suites(k kernel, only string) (list []suite) {
	env := []string{"TCPTRACE_REQUIRE_KERNEL=1", "GOGC=400"}
	if k.lacks != "" {
		return []suite{{
			Package: "cmd/tcptrace", Env: append(env, "TCPTRACE_KERNEL_LACKS="+k.lacks),
			Args: arguments("^TestKernelRefused$"),
		}}
	}
	for _, c := range chosen {
		pattern := only
		if only == "" {
			pattern = "^(" + strings.Join(c.tests, "|") + ")$"
		}
		list = append(list, suite{Package: c.pkg, Args: arguments(pattern), Env: env})
	}
	return list
}

func arguments(pattern string) []string {
	return []string{"-test.v", "-test.timeout=60m", "-test.run=" + pattern}
}
