package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nginxConfig serves a word to whoever asks, with connections that are kept.
const nginxConfig = `
daemon off;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log stderr emerg;
events { worker_connections 1024; }
http {
	access_log off;
	keepalive_requests 1000000000;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server { listen 127.0.0.1:8080; location / { return 200 "hello\n"; } }
}
`

// newRequests starts nginx, for wrk to ask: by a connection for each request, or by
// connections that are kept.
func newRequests(length string, header ...string) (func() (done, error), error) {
	seconds, err := time.ParseDuration(length)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "tcptrace-bench-nginx-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, folder), 0o644); err != nil {
		return nil, err
	}
	nginx := exec.Command("nginx", "-p", folder, "-c", config)
	nginx.Stderr = os.Stderr
	nginx.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	if err := nginx.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp4", "127.0.0.1:8080")
		if err == nil {
			if err := errors.Join(c.Close(), os.RemoveAll(folder)); err != nil {
				return nil, err
			}
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("nginx does not answer: %w", err)
		}
	}
	return func() (done, error) {
		args := []string{"-t", "1", "-c", "32", "-d", strconv.FormatFloat(seconds.Seconds(), 'f', 0, 64), "http://127.0.0.1:8080/"}
		for _, h := range header {
			args = append(args, "-H", h)
		}
		out, err := exec.Command("wrk", args...).Output()
		if err != nil {
			return done{}, fmt.Errorf("run wrk: %w", err)
		}
		n, err := parseWrk(out)
		return done{Connections: n}, err
	}, nil
}

// parseWrk finds how many requests wrk made.
func parseWrk(out []byte) (int, error) {
	before, _, ok := bytes.Cut(out, []byte(" requests in "))
	fields := strings.Fields(string(before))
	if !ok || len(fields) == 0 {
		return 0, fmt.Errorf("read what wrk says: no number of requests in %q", out)
	}
	return strconv.Atoi(fields[len(fields)-1])
}
