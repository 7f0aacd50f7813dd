package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loadCommand is the first argument of a process that is a load.
const loadCommand = "load"

// done is what a load says of itself at its end.
type done struct {
	Connections int           `json:"connections,omitempty"`
	Bytes       int64         `json:"bytes,omitempty"`
	Elapsed     time.Duration `json:"elapsed"`
}

func (d done) perSecond() float64          { return float64(d.Connections) / d.Elapsed.Seconds() }
func (d done) megabytesPerSecond() float64 { return float64(d.Bytes) / 1e6 / d.Elapsed.Seconds() }

// load is a process that makes connections in a network namespace of its own, which
// goes with it: what it leaves in TIME_WAIT is no burden to the next.
type load struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// startLoad prepares a load, in a new namespace, which waits for begin.
func startLoad(ctx context.Context, kind string, amount string) (*load, error) {
	return newLoad(ctx, unix.CLONE_NEWNET, kind, amount)
}

func newLoad(ctx context.Context, namespaces uintptr, kind, amount string) (*load, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l := &load{cmd: exec.CommandContext(ctx, self, loadCommand, kind, amount)}
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: unix.SIGKILL}
	l.cmd.Stderr = os.Stderr
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.stdout = bufio.NewReader(stdout)
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the load: %w", err)
	}
	return l, nil
}

// begin lets it go on and returns what it says then.
func (l *load) begin() (d done, err error) {
	if _, err := l.stdin.Write([]byte{'\n'}); err != nil {
		return d, fmt.Errorf("begin the load: %w", err)
	}
	line, err := l.stdout.ReadBytes('\n')
	if err != nil {
		return d, fmt.Errorf("read what the load did: %w", err)
	}
	return d, json.Unmarshal(line, &d)
}

// end waits for its end.
func (l *load) end() error {
	return errors.Join(l.stdin.Close(), l.cmd.Wait())
}

// runLoad is the process of a load: it does its work each time that a line comes.
func runLoad(args []string, stdout io.Writer) error {
	if len(args) != 2 {
		return errors.New("want a kind of load and its amount")
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	// So many as there may be in a minute: more would be skipped.
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("4000000"), 0); err != nil {
		return err
	}
	work, err := newWork(args[0], args[1])
	if err != nil {
		return err
	}
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		start := time.Now()
		d, err := work()
		if err != nil {
			return err
		}
		d.Elapsed = time.Since(start)
		if err := json.NewEncoder(stdout).Encode(d); err != nil {
			return err
		}
	}
	return commands.Err()
}

func newWork(kind, amount string) (func() (done, error), error) {
	switch kind {
	case "churn":
		length, err := time.ParseDuration(amount)
		return func() (done, error) { return churn(length, -1) }, err
	case "connections":
		n, err := strconv.Atoi(amount)
		return func() (done, error) { return churn(time.Hour, n) }, err
	case "bulk":
		length, err := time.ParseDuration(amount)
		return func() (done, error) { return bulk(length) }, err
	case "requests":
		return newRequests(amount)
	case "http":
		return newRequests(amount, "Connection: close")
	case "open":
		n, err := strconv.Atoi(amount)
		var held []*load // they end with their pipes
		return func() (done, error) {
			parts, err := open(n)
			held = append(held, parts...)
			return done{Connections: n}, err
		}, err
	}
	return nil, fmt.Errorf("load %q: want churn, connections, bulk, requests, http or open", kind)
}

// onEachCPU does a work as many times as there are CPUs, at once.
func onEachCPU(work func(n int) error) error {
	workers := runtime.NumCPU()
	ends := make(chan error, workers)
	for w := range workers {
		go func() {
			runtime.LockOSThread()
			ends <- work(w)
		}()
	}
	var errs []error
	for range workers {
		errs = append(errs, <-ends)
	}
	return errors.Join(errs...)
}

// churn makes connections that do nothing and are closed by their client first, so that
// it goes to TIME_WAIT: as fast as it can for the time, or so many on each CPU.
func churn(length time.Duration, each int) (done, error) {
	counts := make([]int, runtime.NumCPU())
	deadline := time.Now().Add(length)
	err := onEachCPU(func(w int) error {
		listener, address, err := listen(byte(w + 1))
		if err != nil {
			return err
		}
		defer unix.Close(listener)
		n := 0
		for ; n != each && (n%64 != 0 || time.Now().Before(deadline)); n++ {
			// The ports of an address are for 28,000 in TIME_WAIT.
			client, server, err := connect(listener, source(w, n/16), address)
			if err != nil {
				return fmt.Errorf("connection %d: %w", n, err)
			}
			if err := errors.Join(unix.Close(client), unix.Close(server)); err != nil {
				return err
			}
		}
		counts[w] = n
		return nil
	})
	var d done
	for _, n := range counts {
		d.Connections += n
	}
	return d, err
}

// source is one of 250 addresses of a worker.
func source(worker, n int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: [4]byte{127, 1, byte(worker + 1), byte(1 + n%250)}}
}

// listen returns a listener on a loopback address.
func listen(last byte) (fd int, address unix.Sockaddr, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, nil, err
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, last}}); err == nil {
		err = unix.Listen(fd, 1024)
	}
	if err == nil {
		address, err = unix.Getsockname(fd)
	}
	if err != nil {
		return 0, nil, errors.Join(fmt.Errorf("listen: %w", err), unix.Close(fd))
	}
	return fd, address, nil
}

// connect returns both ends of a new connection.
func connect(listener int, from *unix.SockaddrInet4, to unix.Sockaddr) (client, server int, err error) {
	if client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, 0, err
	}
	// A port is then chosen by both addresses: there are enough.
	err = errors.Join(
		unix.SetsockoptInt(client, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(client, from),
		unix.Connect(client, to),
	)
	if err == nil {
		server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		return 0, 0, errors.Join(err, unix.Close(client))
	}
	return client, server, nil
}

// bulk sends through one connection on each CPU for the time.
func bulk(length time.Duration) (done, error) {
	counts := make([]int64, runtime.NumCPU())
	deadline := time.Now().Add(length)
	err := onEachCPU(func(w int) error {
		listener, address, err := listen(byte(w + 1))
		if err != nil {
			return err
		}
		defer unix.Close(listener)
		client, server, err := connect(listener, source(w, 0), address)
		if err != nil {
			return err
		}
		out, in := make([]byte, 64<<10), make([]byte, 64<<10)
		for time.Now().Before(deadline) {
			if _, err := unix.Write(client, out); err != nil {
				return err
			}
			for got := 0; got < len(in); {
				n, err := unix.Read(server, in)
				if err != nil {
					return err
				}
				got += n
			}
			counts[w] += int64(len(out))
		}
		return errors.Join(unix.Close(client), unix.Close(server))
	})
	var d done
	for _, n := range counts {
		d.Bytes += n
	}
	return d, err
}

// open makes n connections, two sockets each, that last as long as the process: this one,
// or as many as it takes where each may have only so many files. They last as long as
// what is returned.
func open(n int) (parts []*load, err error) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return parts, err
	}
	files.Cur = files.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return parts, fmt.Errorf("raise the limit of open files: %w", err)
	}
	const others = 100
	for most := (int(files.Max) - others) / 2; n > most; n -= most {
		l, err := newLoad(context.Background(), 0, "open", strconv.Itoa(most))
		if err != nil {
			return parts, err
		}
		parts = append(parts, l)
		if _, err := l.begin(); err != nil {
			return parts, err
		}
	}
	listener, address, err := listen(1)
	if err != nil {
		return parts, err
	}
	for i := range n {
		if _, _, err := connect(listener, source(0, i/256), address); err != nil {
			return parts, fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return parts, nil
}

// loopbackUp sets up the loopback device of a new network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set the loopback device up: %w", err)
	}
	return nil
}

// mountTracefs sees to it that the tools that need it find the kernel's tracefs.
func mountTracefs() error {
	const at = "/sys/kernel/tracing"
	if _, err := os.Stat(at + "/events"); err == nil {
		return nil
	}
	if err := unix.Mount("tracefs", at, "tracefs", 0, ""); err != nil {
		return fmt.Errorf("mount tracefs on %s: %w", at, err)
	}
	return nil
}
