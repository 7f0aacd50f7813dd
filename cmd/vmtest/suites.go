package main

import "strings"

// leftOut are tests that a guest cannot run, or that say nothing there.
var leftOut = []string{}

// suites returns what is run on a kernel.
func suites(k kernel, only string) []suite {
	env := []string{"TCPTRACE_REQUIRE_KERNEL=1"}
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
