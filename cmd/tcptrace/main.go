// Command tcptrace traces the TCP state transitions of a Linux host.
package main

import "os"

func main() { os.Exit(runProcess(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
