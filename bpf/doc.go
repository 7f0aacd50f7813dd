// Package bpf is the kernel side of tcptrace: the eBPF programs and the code
// that loads, attaches and reads them.
//
// [Open] attaches to the tracepoint sock:inet_sock_set_state in its BTF-typed
// form, and [Tracer.Read] hands out the records of its ring buffer as bytes,
// laid out as struct event in event.h; package events decodes them.
// [Requirements] tells what the running kernel and the process's privileges
// allow.
//
// The generated Go files and the objects are committed: building needs no C
// compiler. `make generate` makes them from the C sources.
package bpf
