package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestBrowserPage has a real browser look at the page, on real traffic. It takes what
// make test-web installs, and tells by TCPTRACE_BROWSER where that is.
func TestBrowserPage(t *testing.T) {
	requireKernel(t)
	modules := os.Getenv("TCPTRACE_BROWSER")
	if modules == "" {
		t.Skip("it takes a browser: make test-web")
	}
	pictures := os.Getenv("TCPTRACE_PICTURES")
	if pictures == "" {
		pictures = t.TempDir()
	}
	inNetNS(t, func(ns *netns) {
		t := ns.t
		listener := ns.listen(ns.v4(1))
		a := ns.startAgent("--limit", "CLOSE_WAIT=1s")
		client, server := ns.dial(ns.v4(2), listener)
		client.close()
		server.close()

		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		var stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, "node", "testdata/page.mjs", a.url, modules, pictures, "tcptrace.test")
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			t.Log(lines.Text())
			if lines.Text() == "ready" {
				for range 3 { // which this process never closes
					leaving, _ := ns.dial(ns.v4(2), listener)
					leaving.close()
				}
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, stderr.String())
		}
	})
}

// TestKernelPage: the page is sent what happens, as it happens: whose leak there is, and
// also where the kernel counts, after the next walk.
func TestKernelPage(t *testing.T) {
	requireKernel(t)
	for name, args := range map[string][]string{"streamed": nil, "in kernel": {"--in-kernel"}} {
		t.Run(name, func(t *testing.T) {
			inNetNS(t, func(ns *netns) {
				t := ns.t
				listener := ns.listen(ns.v4(1))
				a := ns.startAgent(append(args, "--limit", "CLOSE_WAIT=1s")...)
				response, err := http.Get(a.url + "/events")
				check(t, err)
				defer response.Body.Close()
				pictures := bufio.NewReader(response.Body)
				client, server := ns.dial(ns.v4(2), listener)
				client.close()
				defer server.close()
				begun := time.Now()
				for {
					line, err := pictures.ReadString('\n')
					check(t, err)
					data, ok := strings.CutPrefix(line, "data: ")
					if !ok {
						continue
					}
					state := &pageState{}
					check(t, json.Unmarshal([]byte(data), state))
					if state.Stuck == 1 && len(state.StuckGroups) == 1 && state.StuckGroups[0].State == "CLOSE_WAIT" &&
						strings.HasPrefix(state.StuckGroups[0].Owner, "tcptrace.test") && ownerOf(state, "CLOSE_WAIT") != "" {
						t.Logf("the leak is there after %v", time.Since(begun))
						_, text := get(t, a.url+"/ladder.txt?socket="+state.StuckGroups[0].Socket)
						if !strings.Contains(text, "CLOSE_WAIT") {
							t.Errorf("its connection: %s", text)
						}
						return
					}
					if time.Since(begun) > usualWait {
						t.Fatalf("the leak never comes: %s", data)
					}
				}
			})
		})
	}
}

// ownerOf returns who has most sockets in the state.
func ownerOf(page *pageState, state string) string {
	for _, s := range page.States {
		if s.Name == state && len(s.Owners) > 0 {
			return s.Owners[0].Name
		}
	}
	return ""
}
