// Package tcptrace traces the TCP state transitions of a Linux host with eBPF
// and judges each against the state machine of RFC 9293.
//
// The way of one transition is the order of the packages: bpf (kernel side,
// loader, reader), events (what came off the wire), fsm (the rules),
// fsm/lifecycle (one socket's history), output (what people and programs
// read) and cmd/tcptrace (the command).
package tcptrace

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -no-global-types -output-dir bpf -go-package bpf -target bpfel,bpfeb -cflags "-O2 -g -Wall -Werror -mcpu=v3" tcptrace bpf/tcptrace.bpf.c
