package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// inParallel runs functions on threads of their own, all inside the namespace,
// where they may make sockets without asking anyone.
func (ns *netns) inParallel(functions ...func() error) {
	ns.t.Helper()
	var home int
	ns.do(func() (err error) {
		home, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	defer func() { check(ns.t, unix.Close(home)) }()
	done := make(chan error)
	for _, f := range functions {
		go func() {
			runtime.LockOSThread() // never unlocked: the thread is of no use elsewhere
			if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
			done <- f()
		}()
	}
	for range functions {
		if err := <-done; err != nil {
			ns.t.Error(err)
		}
	}
	if ns.t.Failed() {
		ns.t.FailNow()
	}
}

// TestKernelManySockets holds 8,000 connections, 16,000 sockets, open at once.
func TestKernelManySockets(t *testing.T) {
	requireKernel(t)
	const connections = 8000
	var limit unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < 2*connections+200 {
		unavailable(t, "only %d files may be open", limit.Cur)
	}
	inNetNS(t, func(ns *netns) {
		t := ns.t
		tr := traceMany(ns, 16<<10)
		listener := ns.listen(ns.v4(1))
		to := sockaddr(listener.addr())
		var clients, servers []int
		ns.do(func() error {
			for range connections {
				client, server, err := connectPair(listener.fd, sockaddr(netip.AddrPortFrom(ns.v4(2), 0)), to)
				if err != nil {
					return err
				}
				clients, servers = append(clients, client), append(servers, server)
			}
			return nil
		})
		// All at once on one side, then on the other: every server is in CLOSE_WAIT.
		for _, fd := range slices.Concat(clients, servers) {
			check(t, unix.Close(fd))
		}
		listener.close()

		r := tr.finish()
		paths := make(map[string]int)
		for _, s := range r.sockets {
			paths[s.judged()]++
			for _, l := range s.lines {
				if l.From == fsm.Established.String() && l.Dwell == nil {
					t.Errorf("%s -> %s without a dwell: %v", l.From, l.To, s)
				}
			}
		}
		if paths[clientFirst] != connections || paths[serverSecond] != connections || paths[listened] != 1 || len(paths) != 3 {
			t.Errorf("saw %v, want %d connections that the client closed", paths, connections)
		}
	})
}

// connectPair connects a new socket from one address to the other.
func connectPair(listener int, from, to unix.Sockaddr) (client, server int, err error) {
	client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, 0, err
	}
	// A port is then chosen by both addresses: there are enough.
	if err := unix.SetsockoptInt(client, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return 0, 0, err
	}
	if err := errors.Join(unix.Bind(client, from), unix.Connect(client, to)); err != nil {
		return 0, 0, fmt.Errorf("connect: %w", err)
	}
	server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	return client, server, err
}

// TestKernelChurn makes 50,000 connections as fast as it can: no record is
// lost, and each connection has exactly those that it should.
func TestKernelChurn(t *testing.T) {
	requireKernel(t)
	const workers, perWorker = 2, 25_000
	// The tracer has a process of its own elsewhere: the workers, who leave a CPU only when
	// they have to, shall not have it wait for one of Go's either.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + workers))
	inNetNS(t, func(ns *netns) {
		t := ns.t
		ns.sysctl("ipv4/tcp_max_tw_buckets", "100000")
		tr := traceMany(ns, 96<<10, churnArgs...)
		var listeners []*socket
		var work []func() error
		for w := range workers {
			listener := ns.listen(ns.v4(byte(1 + w)))
			listeners = append(listeners, listener)
			to := sockaddr(listener.addr())
			work = append(work, func() error {
				for i := range perWorker {
					// Several addresses, as TIME_WAIT keeps the ports of half of them.
					from := netip.AddrPortFrom(ns.v4(byte(10+10*w+i%8)), 0)
					if err := connectAndClose(listener.fd, sockaddr(from), to, i%2 == 0); err != nil {
						return fmt.Errorf("connection %d: %w", i, err)
					}
				}
				return nil
			})
		}
		ns.inParallel(work...)
		for _, listener := range listeners {
			listener.close()
		}

		r := tr.finish()
		paths := make(map[string]int)
		for _, s := range r.sockets {
			paths[s.judged()]++
		}
		const half = workers * perWorker / 2
		if want := map[string]int{
			listened:    workers,
			clientFirst: half, serverSecond: half,
			clientAborts: half, serverReset: half,
		}; !maps.Equal(paths, want) {
			t.Errorf("saw %v, want %v", paths, want)
		}
	})
}

// connectAndClose makes a connection that its client ends, in one way or the
// other.
func connectAndClose(listener int, from, to unix.Sockaddr, byReset bool) error {
	client, server, err := connectPair(listener, from, to)
	if err != nil {
		return err
	}
	if byReset {
		err = unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	return errors.Join(err, unix.Close(client), unix.Close(server))
}

// TestKernelInterrupted: the tracer is at work for one socket when the same CPU
// is interrupted for another one, as the timers of delayed ACKs do here: ten at
// once, while somebody else on the host keeps the tracer busy.
func TestKernelInterrupted(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		tr := traceMany(ns, 128<<10)
		newNetNS(ns.t).startTraffic()
		listener := ns.listen(ns.v4(1))
		for range 200 {
			var clients, servers [10]*socket
			for i := range clients {
				clients[i], servers[i] = ns.dial(ns.v4(2), listener)
			}
			for _, client := range clients {
				client.shutdown(unix.SHUT_WR)
			}
			for _, client := range clients {
				client.await(fsm.FinWait2)
			}
			for i := range clients {
				clients[i].close()
				servers[i].close()
			}
		}
		listener.close()

		lives := tr.oracle.settle(ns)
		r := tr.result()
		ns.checkDisturbance(lives, len(r.transitions), 0)
		made := 0
		for _, l := range lives {
			made += len(l.steps)
		}
		if len(r.transitions) != made || r.summary.Lost != 0 {
			ns.t.Errorf("%d transitions made, %d shown; %d of the whole host lost", made, len(r.transitions), r.summary.Lost)
		}
	})
}
