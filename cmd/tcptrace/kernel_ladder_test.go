package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The textbooks' handshake and close. Which of two ends is first in a row of its own
// may differ.
var (
	drawnHandshake = []string{
		"CLOSED LISTEN",
		"SYN_SENT active OPEN", "SYN > SYN_RCVD", "ESTABLISHED < SYN,ACK", "ACK > ESTABLISHED",
	}
	drawnClientFirst = slices.Concat(drawnHandshake, []string{
		"FIN_WAIT_1 CLOSE", "FIN > CLOSE_WAIT", "FIN_WAIT_2 < ACK", "CLOSE LAST_ACK", "TIME_WAIT < FIN", "ACK > CLOSED",
		": goes on", "client: finished, local first", "server: finished, remote first",
	})
	drawnServerFirst = slices.Concat(drawnHandshake, []string{
		"CLOSE FIN_WAIT_1", "CLOSE_WAIT < FIN", "ACK > FIN_WAIT_2", "LAST_ACK CLOSE", "FIN > TIME_WAIT", "CLOSED < ACK",
		": goes on", "client: finished, remote first", "server: finished, local first",
	})
)

// TestKernelLadder draws connections as they happen: both ends, one alone, one that is
// connected to itself.
func TestKernelLadder(t *testing.T) {
	requireKernel(t)
	for _, c := range []struct {
		name string
		play func(*netns)
		want []string
	}{
		{"client closes first", playClientFirst, drawnClientFirst},
		{"server closes first", func(ns *netns) {
			listener, client, server := ns.connected()
			server.close()
			client.read("")
			client.close()
			listener.close()
		}, drawnServerFirst},
		{"IPv6", playIPv6, drawnClientFirst},
		{"v4-mapped", playAnyAddress, nil},
		{"connected to itself", playSelf, []string{
			"CLOSED CLOSED", "SYN_SENT active OPEN SYN_SENT", "SYN_RCVD < SYN > SYN_RCVD", "ESTABLISHED < SYN,ACK > ESTABLISHED",
			"FIN_WAIT_1 CLOSE FIN_WAIT_1", "CLOSING < FIN > CLOSING", "TIME_WAIT < ACK > TIME_WAIT",
			": goes on : goes on", "both: finished, both first",
		}},
		{"reset", playLinger0, slices.Concat(drawnHandshake, []string{
			"CLOSED ABORT", "RST > CLOSED", "client: reset sent", "server: reset received",
		})},
		{"refused", playRefused, []string{"CLOSED", "SYN_SENT SYN >", "CLOSED < RST", "client: refused"}},
		{"timed out", playSYNTimeout, []string{"CLOSED", "SYN_SENT SYN >", "CLOSED timeout", "client: timeout"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				tr := traceLadder(ns, "life")
				c.play(ns)
				text := tr.end()
				if c.want == nil {
					if !strings.Contains(text, "---> SYN_RCVD") || strings.Contains(text, "PEER") {
						ns.t.Errorf("want two ends each:\n%s", text)
					}
					return
				}
				wantDrawn(ns.t, text, c.want)
			})
		})
	}
}

// ladderTracing is a command that draws, and records as well.
type ladderTracing struct {
	*tracing
	args      []string
	recording string
}

func traceLadder(ns *netns, args ...string) *ladderTracing {
	ns.t.Helper()
	recording := filepath.Join(ns.t.TempDir(), "a.tct")
	args = append(args, "--ladder", "--ascii", "-o", "text")
	return &ladderTracing{trace(ns, append(slices.Clone(args), "-w", recording)...), args, recording}
}

// end stops the command and returns what it drew, which its recording shows as well. It
// gives up the try if the kernel has passed transitions over.
func (tr *ladderTracing) end() string {
	t := tr.t
	t.Helper()
	made := tr.oracle.settle(tr.ns)
	text := tr.text()
	netns := []string{"--netns", strconv.FormatUint(uint64(tr.ns.inode), 10)}
	again := slices.Concat(tr.args, netns, []string{"-r", tr.recording})
	if tr.args[0] == "life" {
		again = append(again, "--until", "closed")
	}
	if replayed := replayAs(t, again, exitDone); replayed != text {
		t.Errorf("the recording shows:\n%s\nlive:\n%s", replayed, text)
	}
	all := replayAs(t, slices.Concat(netns, []string{"-r", tr.recording, "-o", "json"}), exitDone)
	r := newResult(tr.ns, strings.NewReader(all), tr.stderr.String())
	tr.ns.checkDisturbance(made, r.traced(), r.passedOver())
	return text
}

var (
	drawnTime  = regexp.MustCompile(`(^| )([~>=]*[0-9.]+([num]?s)?|-)( |$)`)
	drawnArrow = regexp.MustCompile(`(<?)-+ ([A-Z,]+) -+(>?)`)
	drawnRail  = regexp.MustCompile(`(^| )\|( |$)`)
)

// drawnLines returns the lines of a drawing below its title, without times, and with
// arrows like "SYN_SENT SYN >".
func drawnLines(text string) (lines []string) {
	_, below, _ := strings.Cut(text, " FOR ")
	_, below, _ = strings.Cut(below, "\n")
	for line := range strings.Lines(below) {
		line = drawnArrow.ReplaceAllString(line, "$1 $2 $3")
		line = strings.Join(strings.Fields(line), "  ") // so that what is to go does not overlap
		line = drawnRail.ReplaceAllString(drawnTime.ReplaceAllString(line, " "), " ")
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(lines)
	return lines
}

func wantDrawn(t *testing.T, text string, want []string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := drawnLines(text); !slices.Equal(got, want) {
		t.Errorf("drawn, in order of the alphabet:\n%s\nwant:\n%s\nthe drawing:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), text)
	}
}

// TestKernelLadderOfSocket: one of two connections from before, by its server's number.
func TestKernelLadderOfSocket(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		listener, client, server := ns.connected()
		otherClient, otherServer := ns.dial(ns.v4(2), listener)
		cookies := []string{client.cookie(), server.cookie()}
		tr := traceLadder(ns, "trace", "--socket", cookies[1])
		tr.awaitWalk()
		first, second := client, server // the one that is drawn left closes first
		if server.addr().Port() > client.addr().Port() {
			first, second = server, client
		}
		for _, s := range []*socket{otherServer, otherClient, first, second, listener} {
			s.close()
		}
		text := tr.end()
		if strings.Count(text, ", socket ") != 2 || !strings.Contains(text, ", socket "+cookies[0]+"\n") || !strings.Contains(text, ", socket "+cookies[1]+"\n") {
			ns.t.Errorf("want the sockets %q:\n%s", cookies, text)
		}
		wantDrawn(ns.t, text, []string{
			"ESTABLISHED ESTABLISHED", "FIN_WAIT_1 CLOSE", "FIN > CLOSE_WAIT", "FIN_WAIT_2 < ACK", "CLOSE LAST_ACK", "TIME_WAIT < FIN", "ACK > CLOSED",
			": goes on", "end: finished, remote first", "end: finished, local first",
		})
	})
}

// TestKernelLadderAcross: the ends are in two network namespaces, of which the filter
// names the client's.
func TestKernelLadderAcross(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		t := ns.t
		there := newNetNS(t)
		thread := 0
		there.do(func() error { thread = unix.Gettid(); return nil })
		ip := func(ns *netns, args ...string) {
			t.Helper()
			ns.do(func() error {
				out, err := exec.Command("ip", args...).CombinedOutput()
				if err != nil {
					return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
				}
				return nil
			})
		}
		ip(ns, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", strconv.Itoa(thread))
		ip(ns, "addr", "add", "10.77.0.1/24", "dev", "v0")
		ip(there, "addr", "add", "10.77.0.2/24", "dev", "v1")
		ip(ns, "link", "set", "v0", "up")
		ip(there, "link", "set", "v1", "up")

		tr := traceLadder(ns, "life")
		listener := there.listen(netip.MustParseAddr("10.77.0.2"))
		clientCloses(ns, listener, netip.MustParseAddr("10.77.0.1"))
		text := tr.text()
		if strings.Contains(tr.stderr.String(), "passed them over") {
			ns.disturbed = true
			t.Skip("transitions passed over by the kernel")
		}
		wantDrawn(t, text, drawnClientFirst)
		for _, inode := range []uint32{ns.inode, there.inode} {
			if !strings.Contains(text, fmt.Sprintf(", netns %d\n", inode)) {
				t.Errorf("no word of network namespace %d:\n%s", inode, text)
			}
		}
	})
}

// TestKernelLadderPicture: the same as a picture.
func TestKernelLadderPicture(t *testing.T) {
	requireKernel(t)
	inNetNS(t, func(ns *netns) {
		tr := trace(ns, "life", "--ladder", "-o", "svg")
		playClientFirst(ns)
		made := tr.oracle.settle(ns)
		picture := tr.text()
		if strings.Contains(tr.stderr.String(), "passed them over") {
			ns.checkDisturbance(made, 0, len(made))
		}
		words := make(map[string]bool)
		for d := xml.NewDecoder(strings.NewReader(picture)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			check(ns.t, err)
			if text, ok := token.(xml.CharData); ok {
				words[string(text)] = true
			}
		}
		for _, word := range []string{"SYN_SENT", "SYN_RCVD", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "TIME_WAIT", "CLOSE_WAIT", "LAST_ACK", "SYN,ACK", "FIN", "goes on"} {
			if !words[word] {
				ns.t.Errorf("the picture has no %s", word)
			}
		}
	})
}
