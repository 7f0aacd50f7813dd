package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// actor is a process that does with sockets what it is told, one thing after the
// other, and with it the processes that it has started.
type actor struct {
	*process
	in io.Writer
}

// actor starts one in the namespace, as the user, that calls itself so.
func (ns *netns) actor(uid uint32, comm string) *actor {
	ns.t.Helper()
	p := ns.startRole(uid, "actor")
	a := &actor{process: p, in: p.in.(io.Writer)}
	a.do("name %s", comm)
	return a
}

func (a *actor) pid() int { return a.cmd.Process.Pid }

// do lets it do something and returns what came of it.
func (a *actor) do(format string, args ...any) string {
	a.t.Helper()
	_, err := fmt.Fprintf(a.in, format+"\n", args...)
	check(a.t, err)
	answer := a.says()
	if what, failed := strings.CutPrefix(answer, "error: "); failed {
		a.t.Fatalf("%s: %s", fmt.Sprintf(format, args...), what)
	}
	return answer
}

// number is do for what a number comes of: a file descriptor or a process.
func (a *actor) number(format string, args ...any) int {
	a.t.Helper()
	n, err := strconv.Atoi(a.do(format, args...))
	check(a.t, err)
	return n
}

// kill ends the process on the spot.
func (a *actor) kill() {
	a.t.Helper()
	check(a.t, a.cmd.Process.Kill())
	_ = a.cmd.Wait()
}

// Of an actor that another one has started: its end of a socket between them.
const familyFD = 3

// performance is an actor at work.
type performance struct {
	child *exec.Cmd
	toIt  io.WriteCloser
	says  *bufio.Reader
	pair  int // to send it file descriptors; familyFD in the child itself
	apart chan func()
}

// playActor does what the lines on standard input say and answers each, until
// that is closed.
func playActor([]string) error {
	p := &performance{pair: familyFD}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer, err := p.act(lines.Text())
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
	if p.child == nil {
		return nil
	}
	return errors.Join(p.toIt.Close(), p.child.Wait())
}

func (p *performance) act(order string) (answer string, err error) {
	verb, rest, _ := strings.Cut(order, " ")
	switch verb {
	case "child": // passes it on
		if _, err := fmt.Fprintln(p.toIt, rest); err != nil {
			return "", err
		}
		text, err := p.says.ReadString('\n')
		return strings.TrimSuffix(text, "\n"), err
	case "thread": // another than the first
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			answer, err = p.act(rest)
		}()
		<-done
		return answer, err
	case "apart": // by a thread that has files of its own
		if p.apart == nil {
			p.apart = make(chan func())
			go func() {
				runtime.LockOSThread()
				for f := range p.apart {
					f()
				}
			}()
			if err := p.byThreadApart(func() error { return unix.Unshare(unix.CLONE_FILES) }); err != nil {
				return "", err
			}
		}
		err = p.byThreadApart(func() (err error) {
			answer, err = p.act(rest)
			return err
		})
		return answer, err
	case "name":
		// Orders are carried out on the first thread, which has the name of the process.
		return "ok", os.WriteFile("/proc/self/comm", []byte(rest), 0)
	case "connect", "listen":
		return open(verb, rest)
	}

	text, rest, _ := strings.Cut(rest, " ")
	fd, err := strconv.Atoi(text)
	if text != "" && err != nil {
		return "", fmt.Errorf("%s: %w", order, err)
	}
	switch verb {
	case "accept":
		return number(unix.Accept4(fd, unix.SOCK_CLOEXEC))
	case "dup":
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return strconv.Itoa(n), err
	case "read": // one byte
		_, err = unix.Read(fd, make([]byte, 1))
	case "write":
		_, err = unix.Write(fd, []byte(rest))
	case "shutdown":
		err = unix.Shutdown(fd, unix.SHUT_WR)
	case "close":
		err = unix.Close(fd)
	case "spawn": // an actor that has the file as well, if there is one
		if text == "" {
			fd = -1
		}
		return p.spawn(fd)
	case "send": // to the child
		err = unix.Sendmsg(p.pair, []byte{0}, unix.UnixRights(fd), nil, 0)
	case "receive": // from the parent
		return p.receive()
	default:
		err = fmt.Errorf("%s: no such verb", verb)
	}
	return "ok", err
}

func (p *performance) byThreadApart(f func() error) error {
	done := make(chan error)
	p.apart <- func() { done <- f() }
	return <-done
}

func number(n int, _ unix.Sockaddr, err error) (string, error) { return strconv.Itoa(n), err }

func open(verb, address string) (string, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return "", err
	}
	fd, err := unix.Socket(family(at.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return "", err
	}
	if verb == "listen" {
		err = errors.Join(unix.Bind(fd, sockaddr(at)), unix.Listen(fd, 16))
	} else {
		err = unix.Connect(fd, sockaddr(at))
	}
	return strconv.Itoa(fd), err
}

// spawn starts another actor and returns the number of the process. The file that
// it inherits is its file descriptor 4.
func (p *performance) spawn(inherited int) (string, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	p.pair = pair[0]
	files := []*os.File{os.NewFile(uintptr(pair[1]), "pair")}
	if inherited >= 0 {
		again, err := unix.FcntlInt(uintptr(inherited), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		files = append(files, os.NewFile(uintptr(again), "inherited"))
	}
	p.child = exec.Command(selfExe)
	p.child.Env = append(os.Environ(), envRole+"=actor")
	p.child.ExtraFiles, p.child.Stderr = files, os.Stderr
	if p.toIt, err = p.child.StdinPipe(); err != nil {
		return "", err
	}
	out, err := p.child.StdoutPipe()
	if err != nil {
		return "", err
	}
	p.says = bufio.NewReader(out)
	if err := p.child.Start(); err != nil {
		return "", err
	}
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return strconv.Itoa(p.child.Process.Pid), err
}

const inheritedFD = 4

func (p *performance) receive() (string, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(p.pair, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return "", err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return "", fmt.Errorf("%d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return "", fmt.Errorf("%d file descriptors: %w", len(fds), err)
	}
	return strconv.Itoa(fds[0]), nil
}
