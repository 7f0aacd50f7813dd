package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// allThreads reports whether all threads can be confined: with cgo they cannot.
func allThreads() bool {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
	return errno != syscall.ENOTSUP
}

// tryConfined is a program of the scripts: it says what can be done when confined.
func tryConfined() {
	try := func(what string, err error) {
		switch {
		case err == nil:
			fmt.Println(what, "is possible")
		case errors.Is(err, unix.EPERM):
			fmt.Println(what, "is refused")
		default:
			fmt.Println(what, "fails:", err)
		}
	}
	file, err := os.Create("before")
	try("making a file before", err)
	try("confining", confine(1<<unix.CAP_DAC_READ_SEARCH))
	_, err = file.WriteString("more")
	try("writing to what is open", err)
	_, err = os.ReadFile("before")
	try("reading", err)
	_, err = os.Create("after")
	try("making a file", err)
	_, err = os.OpenFile("before", os.O_WRONLY, 0)
	try("opening for writing", err)
	_, err = unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), unix.O_WRONLY)
	try("opening for writing by a handle", err)
	try("removing", os.Remove("before"))
	try("renaming", os.Rename("before", "after"))
	try("executing", exec.Command("true").Run())
	_, err = unix.PtracePeekData(1, 0, make([]byte, 8))
	try("reading another's memory", err)
}
