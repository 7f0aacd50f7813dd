package main

import (
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// runAsProgram makes the test binary the program itself, for tests that need a
// process of their own: to send signals to, to take privileges from.
const runAsProgram = "TCPTRACE_TEST_RUN_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(runAsProgram) != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"tcptrace": main, "confined": tryConfined})
}

// TestScripts runs testdata/script: the whole command over recorded files.
// UPDATE=1 writes the golden parts anew, to be looked at before they are
// committed.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Condition: func(condition string) (bool, error) {
			return condition == "threads" && allThreads(), nil
		},
		Deadline:            time.Now().Add(time.Minute), // of a command that should have refused, and traces
		UpdateScripts:       os.Getenv("UPDATE") != "",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			here, err := os.Getwd()
			env.Setenv("RECORDINGS", here+"/testdata/recordings")
			env.Setenv("CAPTURES", here+"/testdata/captures")
			return err
		},
	})
}
