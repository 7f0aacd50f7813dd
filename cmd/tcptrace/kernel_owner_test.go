package main

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"tcptrace/fsm"
)

const nobody = 65534

// owner is what a line says of it; the zero value is: nothing.
type owner struct {
	pid    int
	comm   string
	uid    int
	source string
}

func (l *line) owner() (o owner) {
	if l.PID != nil {
		o.pid = *l.PID
	}
	if l.Comm != nil {
		o.comm = *l.Comm
	}
	if l.UID != nil {
		o.uid = *l.UID
	}
	o.source = l.OwnerSource
	return o
}

// checkOwners checks the owner of each line of the lives on one side.
func (r *result) checkOwners(side func(*tracedLife) bool, want func(*line) owner) {
	r.t.Helper()
	lines := 0
	for _, s := range r.sockets {
		if !side(s) {
			continue
		}
		for _, l := range s.lines {
			lines++
			if got := l.owner(); got != want(l) {
				r.t.Errorf("%s -> %s of %v: owner %+v, want %+v", l.From, l.To, s, got, want(l))
			}
		}
	}
	if lines == 0 {
		r.t.Error("found no lines to check")
	}
}

func localAt(at netip.AddrPort) func(*tracedLife) bool {
	return func(s *tracedLife) bool { return s.local == at }
}

func remoteAt(at netip.AddrPort) func(*tracedLife) bool {
	return func(s *tracedLife) bool { return s.remote == at }
}

// TestKernelOwner: each side belongs to its own process, though on loopback the
// one does the other's work: a client's SYN is answered, and its FIN received,
// in the softirq that runs on top of the client.
func TestKernelOwner(t *testing.T) {
	requireKernel(t)
	requireHostPIDs(t)
	inNetNS(t, func(ns *netns) {
		tr := trace(ns)
		at := netip.AddrPortFrom(ns.v4(1), 1000)
		server := ns.startRole(0, "server", at.String())
		server.says()
		client := ns.startRole(nobody, "client", at.String(), "the client", "talks")
		client.says()
		client.finish()
		server.finish()

		r := tr.finish()
		r.expect(listened, clientFirst, serverSecond)
		r.checkOwners(remoteAt(at), func(*line) owner {
			return owner{client.cmd.Process.Pid, "the client", nobody, "connect"}
		})
		r.checkOwners(localAt(at), func(l *line) owner {
			return owner{server.cmd.Process.Pid, "exe", 0, sourceOfChild(l)}
		})
	})
}

// sourceOfChild says how the process of an accepted socket is known: it reads a
// byte before the connection is closed.
func sourceOfChild(l *line) string {
	switch l.From {
	case fsm.Closed.String(), fsm.Listen.String(), fsm.SynRcvd.String():
		return "listen"
	}
	return "accept"
}

// TestKernelOwnerPrefork: a child belongs to the process that listens until the
// one that serves it shows itself.
func TestKernelOwnerPrefork(t *testing.T) {
	requireKernel(t)
	requireHostPIDs(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := trace(ns)
		at := netip.AddrPortFrom(ns.v4(1), 1000)
		server := ns.startRole(0, "prefork", at.String())
		worker, err := strconv.Atoi(server.says())
		check(t, err)
		client := ns.startRole(nobody, "client", at.String(), "the client", "talks")
		client.says()
		client.finish()
		server.finish()

		r := tr.finish()
		r.expect(listened, clientFirst, serverSecond)
		r.checkOwners(localAt(at), func(l *line) owner {
			if sourceOfChild(l) == "accept" {
				return owner{worker, "exe", 0, "accept"}
			}
			return owner{server.cmd.Process.Pid, "exe", 0, "listen"}
		})
	})
}

// TestKernelOwnerOfThreads: the process is shown, not the thread that calls.
func TestKernelOwnerOfThreads(t *testing.T) {
	requireKernel(t)
	requireHostPIDs(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := trace(ns)
		playClientFirst(ns) // from threads of this process
		name, err := os.ReadFile("/proc/self/comm")
		check(t, err)
		r := tr.finish()
		for i := range r.transitions {
			l := &r.transitions[i]
			if got := l.owner(); got.pid != os.Getpid() || got.comm != strings.TrimSpace(string(name)) {
				t.Errorf("%s -> %s: owner %+v, want %d, %s", l.From, l.To, got, os.Getpid(), name)
			}
		}
	})
}

// TestKernelHostileName: a process can call itself anything.
func TestKernelHostileName(t *testing.T) {
	requireKernel(t)
	for _, test := range []struct{ name, comm, json, text string }{
		{"newline and quote", "a\n\"b\\", "a\n\"b\\", `a\x0a"b\\`},
		{"escape sequence", "\x1b[2J\x1b]0;x\a", "\x1b[2J\x1b]0;x\a", `\x1b[2J\x1b]0;x\x07`},
		{"invalid UTF-8", "\xff\xfe\xc3(", "\ufffd\ufffd\ufffd(", `\xff\xfe\xc3(`},
		{"all of it", "\"}\n\r\t\x1b\x7f\xc2\x9b\xf0\x9f", "\"}\n\r\t\x1b\x7f\u009b\ufffd\ufffd", `"}\x0a\x0d\x09\x1b\x7f\u{9b}\xf0\x9f`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Run("json", func(t *testing.T) {
				inNetNS(t, func(ns *netns) {
					tr := trace(ns)
					pid := ns.visit(test.comm)
					r := tr.finish()
					r.checkOwners(
						func(s *tracedLife) bool { return s.lines[0].OwnerSource == "connect" },
						func(*line) owner { return owner{pid, test.json, 0, "connect"} })
				})
			})
			t.Run("text", func(t *testing.T) {
				inNetNS(t, func(ns *netns) {
					tr := trace(ns, "-o", "text", "--wide", "--no-time-wait")
					ns.visit(test.comm)
					checkNamedRows(ns.t, tr.rows(), test.text)
				})
			})
		})
	}
}

// visit makes a connection from a process of the name, and returns its number.
func (ns *netns) visit(comm string) (pid int) {
	ns.t.Helper()
	listener := ns.listen(ns.v4(1))
	client := ns.startRole(0, "client", listener.addr().String(), comm)
	client.says()
	server := listener.accept()
	client.finish()
	server.close()
	listener.close()
	return client.cmd.Process.Pid
}

// checkNamedRows checks the rows of a listener and of a connection that was made
// under the name.
func checkNamedRows(t *testing.T, rows []string, name string) {
	t.Helper()
	const listeners, each = 2, 5
	if len(rows) != listeners+2*each {
		t.Errorf("%d rows, want %d: %q", len(rows), listeners+2*each, rows)
	}
	named := 0
	for _, row := range rows {
		if strings.ContainsFunc(row, func(c rune) bool { return c == '\ufffd' || unicode.IsControl(c) }) {
			t.Errorf("a row that does something to the terminal: %q", row)
		}
		if strings.Contains(row, " "+name+" ") {
			named++
		}
	}
	if named != each {
		t.Errorf("%d rows show %s, want the client's %d: %q", named, name, each, rows)
	}
}

// TestKernelOwnerDestroyed: who destroys a socket is not its owner, though it is in a call
// on it, and though nobody else has shown to work on it.
func TestKernelOwnerDestroyed(t *testing.T) {
	requireKernel(t)
	requireHostPIDs(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := trace(ns)
		listener, client, accepted := ns.connected()
		waiting := ns.client()
		waiting.connect(listener.addr()) // not accepted
		ns.destroy("state", "listening")
		ns.destroy("state", "established")
		for _, s := range []*socket{listener, client, accepted, waiting} {
			s.close()
		}
		r := tr.finish()
		want := owner{os.Getpid(), self(t, "").comm, os.Getuid(), ""}
		for i := range r.transitions {
			l := &r.transitions[i]
			got := l.owner()
			if got.source = ""; got != want {
				t.Errorf("owner %+v, want %+v: %v", got, want, l)
			}
		}
	})
}
