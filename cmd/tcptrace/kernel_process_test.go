package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// roles are what the test binary is, instead of the tests, where a test needs
// processes beside its own. They tell what they have done on standard output,
// and wait for standard input to be closed where it says so.
var roles = map[string]func(args []string) error{}

const envRole = "TCPTRACE_TEST_ROLE"

func init() {
	roles = map[string]func([]string) error{
		"client": playClient, "server": playServer, "prefork": playPrefork, "worker": playWorker,
		"actor": playActor, "walker": playWalker,
	}
	name := os.Getenv(envRole)
	if name == "" {
		return
	}
	role, ok := roles[name]
	err := errors.New("no such role")
	if ok {
		err = role(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// process is a process in a role.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

const selfExe = "/proc/self/exe" // whoever runs it may not enter the test binary's folder

// startRole starts a process in the namespace, as the user.
func (ns *netns) startRole(uid uint32, name string, args ...string) *process {
	t := ns.t
	t.Helper()
	cmd := exec.Command(selfExe, args...)
	cmd.Env = append(os.Environ(), envRole+"="+name)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	ns.do(cmd.Start) // it is born into the namespace of the thread
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &process{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
}

// says returns the next line of the process.
func (p *process) says() string {
	p.t.Helper()
	text, err := p.out.ReadString('\n')
	check(p.t, err)
	return strings.TrimSuffix(text, "\n")
}

// finish lets the process end and waits for that.
func (p *process) finish() {
	p.t.Helper()
	check(p.t, p.in.Close())
	check(p.t, p.cmd.Wait())
}

func awaitStdin() { _, _ = io.Copy(io.Discard, os.Stdin) }

// playClient calls itself COMM and connects to ADDRESS. With a third argument it
// also says a byte and waits for the answer.
func playClient(args []string) error {
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	if len(args) > 1 {
		// Roles run on the first thread, which has the name of the process.
		if err := os.WriteFile("/proc/self/comm", []byte(args[1]), 0); err != nil {
			return err
		}
	}
	fd, err := unix.Socket(family(to.Addr()), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return err
	}
	if len(args) > 2 {
		b := []byte{'x'}
		if _, err := unix.Write(fd, b); err != nil {
			return err
		}
		if _, err := unix.Read(fd, b); err != nil {
			return err
		}
	}
	fmt.Println("connected")
	awaitStdin()
	return unix.Close(fd)
}

func listenAt(arg string) (fd int, err error) {
	at, err := netip.ParseAddrPort(arg)
	if err != nil {
		return 0, err
	}
	if fd, err = unix.Socket(family(at.Addr()), unix.SOCK_STREAM, unix.IPPROTO_TCP); err != nil {
		return 0, err
	}
	return fd, errors.Join(unix.Bind(fd, sockaddr(at)), unix.Listen(fd, 16))
}

// playServer listens on ADDRESS and serves one client to its end: it says again what
// that says.
func playServer(args []string) error {
	listener, err := listenAt(args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	if err := serveOne(listener); err != nil {
		return err
	}
	awaitStdin()
	return unix.Close(listener)
}

func serveOne(listener int) error {
	fd, _, err := unix.Accept(listener)
	if err != nil {
		return err
	}
	for b := make([]byte, 1); ; {
		if n, err := unix.Read(fd, b); err != nil || n == 0 {
			return errors.Join(err, unix.Close(fd))
		}
		if _, err := unix.Write(fd, b); err != nil {
			return err
		}
	}
}

// playPrefork listens on ADDRESS and lets another process serve one client.
func playPrefork(args []string) error {
	listener, err := listenAt(args[0])
	if err != nil {
		return err
	}
	worker := exec.Command(selfExe)
	worker.Env = append(os.Environ(), envRole+"=worker")
	worker.ExtraFiles = []*os.File{os.NewFile(uintptr(listener), "listener")}
	worker.Stderr = os.Stderr
	if err := worker.Start(); err != nil {
		return err
	}
	fmt.Println(worker.Process.Pid)
	err = worker.Wait()
	awaitStdin()
	return errors.Join(err, unix.Close(listener))
}

// playWorker serves one client of the listener it has inherited.
func playWorker([]string) error { return serveOne(3) }
