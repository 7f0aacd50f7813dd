package main

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcptrace/fsm"
)

// TestKernelCaptured plays what TCP sockets do before tcpdump and the kernel's
// tracepoint at once: what is inferred from the packets is, for both ends, what the
// kernel says, as far as packets show it.
func TestKernelCaptured(t *testing.T) {
	requireKernel(t)
	if _, err := exec.LookPath("tcpdump"); err != nil {
		unavailable(t, "there is no tcpdump: %v", err)
	}
	closing := func(play func(*netns) []ending) func(*netns) { return func(ns *netns) { play(ns) } }
	for _, test := range []struct {
		name string
		play func(*netns)
	}{
		{"client closes first", playClientFirst},
		{"server closes first", playServerFirst},
		{"IPv6", playIPv6},
		{"listener on any address", playAnyAddress},
		{"refused", playRefused},
		{"SYN timeout", playSYNTimeout},
		{"given up", playGivenUp},
		{"timeout when established", playTimeout},
		{"timeout of an orphan", playTimeoutOrphan},
		{"no port left", playNoPort},
		{"linger 0", playLinger0},
		{"unread data", playUnread},
		{"unread data after FIN", playUnreadAfterFIN},
		{"half-close", playHalfClose},
		{"second close in FIN_WAIT_1", playSecondCloseFinWait1},
		{"second close in FIN_WAIT_2", playSecondCloseFinWait2},
		{"second close in LAST_ACK", playSecondCloseLastAck},
		{"second close in CLOSING", playSecondCloseClosing},
		{"unread data in FIN_WAIT_2", playUnreadFinWait2},
		{"linger 0 in FIN_WAIT_2", playLinger0FinWait2},
		{"disconnected in FIN_WAIT_2", playDisconnectFinWait2},
		{"negative TCP_LINGER2", playLinger2},
		{"connected to itself", playSelf},
		{"listener with a full backlog closes", playFullBacklog},
		{"ended before accept", playBeforeAccept},
		{"listens again", playListenAgain},
		{"Fast Open", playFastOpen},
		{"Fast Open child closes early", playFastOpenEarly},
		{"MPTCP", playMPTCP},
		{"MPTCP falls back", playMPTCPFallback},
		{"opened by both at once", playBothOpen},

		{"as curl and nginx with keep-alive", closing(closeKeepAlive)},
		{"as nginx that closes with lingering", closing(closeLingering)},
		{"as an HTTP/1.0 server", closing(closeByServer)},
		{"at the same time", closing(closeBoth)},
		{"linger 0 in CLOSE_WAIT", closing(closeLinger0CloseWait)},
		{"data after shutdown", closing(closeDataAfterShutdown)},
		{"data after close", closing(closeDataAfterClose)},
		{"timeout in SYN_SENT", closing(closeSYNTimeout)},
		{"timeout with data", closing(closeTimeout)},
		{"timeout of keep-alive", closing(closeKeepAliveTimeout)},
		{"unreachable", closing(closeUnreachable)},
		{"cancelled", closing(closeCancelled)},
		{"disconnected", closing(closeDisconnected)},
		{"destroyed", closing(closeDestroyed)},
		{"destroyed in SYN_SENT", closing(closeDestroyedSynSent)},
		{"listener closed", closing(closeListenerClosed)},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				tr := trace(ns)
				d := ns.dump(device(test.name))
				test.play(ns)
				lives := tr.oracle.settle(ns)
				file := d.finish()
				r := tr.result()
				ns.checkDisturbance(lives, r.traced(), r.passedOver())
				compareCaptured(r, inferred(ns.t, file), file)
			})
		})
	}
}

// device is what a scene is captured on: each second one on all of them at once, which
// gives the packets another link type.
func device(name string) string {
	if len(name)%2 == 0 {
		return "any"
	}
	return "lo"
}

// playBothOpen lets two SYNs cross.
func playBothOpen(ns *netns) {
	const port = 1000
	silent := ns.socket(ns.v4(2)) // takes the SYN that comes too early
	silent.bind(ns.v4(2), port)
	silent.listen(1)
	silent.deafen()
	a := ns.socket(ns.v4(1))
	a.bind(ns.v4(1), port)
	a.deafen()
	check(ns.t, unix.SetNonblock(a.fd, true))
	if err := a.tryConnect(silent.addr()); err != unix.EINPROGRESS {
		ns.t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	silent.close()
	b := ns.socket(ns.v4(2))
	b.bind(ns.v4(2), port)
	b.deafen()
	check(ns.t, unix.SetNonblock(b.fd, true))
	if err := b.tryConnect(a.addr()); err != unix.EINPROGRESS {
		ns.t.Errorf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
	a.hear()
	b.hear()
	a.await(fsm.Established)
	b.await(fsm.Established)
	a.close()
	b.read("")
	b.close()
}

// dump is tcpdump in a namespace.
type dump struct {
	ns     *netns
	cmd    *exec.Cmd
	file   string
	stderr *safeBuffer
}

// dump captures all packets of a device from now on.
func (ns *netns) dump(device string) *dump {
	ns.t.Helper()
	d := &dump{ns: ns, file: filepath.Join(ns.t.TempDir(), "dump.pcap"), stderr: &safeBuffer{}}
	d.cmd = exec.Command("tcpdump", "-i", device, "--immediate-mode", "-U", "-s", "128", "-B", "8192", "-Z", "root", "-w", d.file)
	d.cmd.Stderr = d.stderr
	ns.do(d.cmd.Start)
	ns.t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
	})
	eventually(ns.t, "tcpdump listens", func() bool { return strings.Contains(d.stderr.String(), "listening on") })
	return d
}

const lastPacket = "nothing comes after this"

// finish ends it when all packets up to now are in the file, whose name it returns.
func (d *dump) finish() string {
	t := d.ns.t
	t.Helper()
	d.ns.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, []byte(lastPacket), 0, sockaddr(netip.AddrPortFrom(d.ns.v4(9), 9)))
	})
	eventually(t, "tcpdump has seen the last packet", func() bool {
		b, err := os.ReadFile(d.file)
		check(t, err)
		return bytes.Contains(b, []byte(lastPacket))
	})
	check(t, d.cmd.Process.Signal(syscall.SIGTERM))
	if err := d.cmd.Wait(); err != nil {
		t.Fatalf("tcpdump: %v: %s", err, d.stderr)
	}
	if !strings.Contains(d.stderr.String(), "0 packets dropped by kernel") {
		t.Fatalf("tcpdump has lost packets: %s", d.stderr)
	}
	return d.file
}

// inferred returns what the command makes of a capture: each end of a connection.
func inferred(t *testing.T, file string) []*tracedLife {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if status := run([]string{"-o", "json", "-r", file}, strings.NewReader(""), &stdout, &stderr); status != exitDone {
		t.Fatalf("ended with status %d: %s", status, &stderr)
	}
	bySocket := make(map[string]*tracedLife)
	var list []*tracedLife
	for d := json.NewDecoder(&stdout); ; {
		l := new(line)
		if err := d.Decode(l); err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		if l.Type != "transition" {
			continue
		}
		if l.Source != "packets" || l.PID != nil || l.NetNS != 0 || !strings.HasPrefix(l.Socket, "wire-") {
			t.Errorf("%v is not marked as inferred, or has what no packet tells", l)
		}
		if l.Verdict == "gap" || l.Verdict == "illegal" {
			t.Errorf("of a whole capture: %v", l)
		}
		s := bySocket[l.Socket]
		if s == nil {
			s = &tracedLife{local: l.Local.addrPort(), remote: l.Remote.addrPort()}
			bySocket[l.Socket] = s
			list = append(list, s)
		}
		s.lines = append(s.lines, l)
	}
}

// states returns where a socket went. A second close shows in no packet.
func (s *tracedLife) states() []string {
	list := []string{s.lines[0].From}
	for _, l := range s.lines {
		if l.To != list[len(list)-1] {
			list = append(list, l.To)
		}
	}
	return list
}

// silent reports whether the last step of the kernel's was one without a packet.
func (s *tracedLife) silent() bool {
	l := s.lines[len(s.lines)-1]
	if l.End == "expired" {
		return true
	}
	for _, reason := range []string{"timed out", "given up", "unreachable", "destroyed"} {
		if strings.Contains(l.Reason, reason) {
			return true
		}
	}
	return false
}

// compareCaptured compares the paths of all ends.
func compareCaptured(r *result, wire []*tracedLife, file string) {
	t := r.t
	t.Helper()
	failed := false
	fail := func(format string, args ...any) {
		failed = true
		t.Errorf(format, args...)
	}
	for _, s := range r.sockets {
		if s.isListener() {
			continue
		}
		kernel := s.states()
		if i := slices.Index(kernel, "TIME_WAIT"); i >= 0 {
			kernel = kernel[:i+1] // its end shows in no packet
		}
		shorter := kernel
		if s.silent() && kernel[len(kernel)-1] == "CLOSED" {
			shorter = kernel[:len(kernel)-1]
		}
		i := slices.IndexFunc(wire, func(w *tracedLife) bool { return w.local == s.local && w.remote == s.remote })
		if i < 0 {
			if s.local.Port() != 0 && len(shorter) > 2 || !s.silent() {
				fail("no packets show %v", s)
			}
			continue
		}
		w := wire[i]
		wire = slices.Delete(wire, i, i+1)
		got := w.states()
		if i := slices.Index(got, "TIME_WAIT"); i > 0 && got[i-1] == "FIN_WAIT_1" {
			// Where the ACK came with the FIN, Linux takes one after the other.
			got = slices.Insert(got, i, "FIN_WAIT_2")
		}
		if last := s.lines[len(s.lines)-1]; last.tookOver() && last.To == "FIN_WAIT_2" {
			// What reaches the minisock shows when that ends.
			kernel = append(kernel, "TIME_WAIT")
		}
		if !slices.Equal(got, kernel) && !slices.Equal(got, shorter) {
			fail("packets show\n  %v, the kernel\n  %v", got, kernel)
		}
	}
	for _, w := range wire {
		states := w.states()
		ofPeer := w.local.Addr() == r.ns.v4(5) // which the test plays itself
		request := states[0] == "LISTEN" && len(states) == 2 || len(states) == 3 && states[1] == "SYN_RCVD" && states[2] == "CLOSED"
		if !ofPeer && !request {
			fail("packets show %v of %v>%v, which the kernel does not", states, w.local, w.remote)
		}
	}
	if failed {
		text, _ := exec.Command("tcpdump", "-nr", file).Output()
		t.Logf("the capture:\n%s", text)
	}
}

// TestKernelJoined holds a recording and a capture of the same time together: they tell
// the same, but of a socket that a reset does not reach, though it is captured.
func TestKernelJoined(t *testing.T) {
	requireKernel(t)
	if _, err := exec.LookPath("tcpdump"); err != nil {
		unavailable(t, "there is no tcpdump: %v", err)
	}
	inNetNS(t, func(ns *netns) {
		t := ns.t
		recording := filepath.Join(t.TempDir(), "both.tct")
		tr := trace(ns, "-w", recording)
		d := ns.dump("lo")
		playClientFirst(ns)
		playHalfClose(ns)
		playRefused(ns)
		playSelf(ns)
		listener, client, server := ns.connected()
		server.deafen()
		client.reset()
		server.hear()
		deaf := server.addr()
		server.close() // its FIN meets no socket
		listener.close()
		lives := tr.oracle.settle(ns)
		capture := d.finish()
		r := tr.result()
		ns.checkDisturbance(lives, r.traced(), r.passedOver())

		for _, order := range [][]string{{"-r", recording, "-r", capture}, {"-r", capture, "-r", recording}} {
			var stdout, stderr bytes.Buffer
			if status := run(append([]string{"-o", "json"}, order...), strings.NewReader(""), &stdout, &stderr); status != exitDone {
				t.Fatalf("ended with status %d: %s", status, &stderr)
			}
			counts := make(map[string]int)
			transitions := 0
			for d := json.NewDecoder(&stdout); ; {
				var l line
				if err := d.Decode(&l); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				switch {
				case l.Type == "transition":
					transitions++
					if l.Source == "packets" {
						t.Errorf("shows what is inferred: %v", &l)
					}
				case l.Kind == "disagree":
					counts[l.Kind]++
					if want := "by the kernel L·SR·E·F1·C, by the packets L·SR·E·C"; !strings.HasPrefix(l.Reason, deaf.String()+" > ") || !strings.HasSuffix(l.Reason, want) {
						t.Errorf("they disagree about %s, want of %v: %s", l.Reason, deaf, want)
					}
				case l.Kind == "joined":
					counts[l.Reason] = l.Count
				}
			}
			want := map[string]int{
				"disagree": 1,
				"sockets of which the kernel and the packets tell the same": 7,
				"sockets of which they do not":                              1,
			}
			if !maps.Equal(counts, want) || transitions != len(r.transitions) {
				t.Errorf("%d transitions, want %d; %v, want %v\n%s", transitions, len(r.transitions), counts, want, &stderr)
			}
		}
	})
}
