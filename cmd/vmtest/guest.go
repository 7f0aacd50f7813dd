package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// taskFile is where the guest finds its task.
const taskFile = "task.json"

// task is what a guest does: load the modules and run the suites.
type task struct {
	Modules []string
	Suites  []suite
}

// suite is a run of the tests of one package.
type suite struct {
	Package string
	Args    []string // of the test binary
	Env     []string
}

func testBinary(pkg string) string { return "tests/" + path.Base(pkg) + ".test" }

// statusLine is the last one of the output. Without it the guest has failed.
const statusLine = "vmtest: exit status "

// beGuest is the first process of a virtual machine. It ends with the machine.
func beGuest() {
	status := 0
	if err := guest(); err != nil {
		fmt.Println("vmtest: guest:", err)
		status = 1
	}
	fmt.Printf("%s%d\n", statusLine, status)
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // until it is written
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func guest() error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := openOutput(); err != nil {
		return err
	}
	data, err := os.ReadFile("/" + taskFile)
	if err != nil {
		return err
	}
	var t task
	if err := json.Unmarshal(data, &t); err != nil {
		return err
	}
	for _, m := range t.Modules {
		if err := loadModule(m); err != nil {
			return err
		}
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	var errs []error
	for _, s := range t.Suites {
		fmt.Printf("%s%s\n", suiteLine, s.Package)
		if err := s.run(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Package, err))
		}
	}
	return errors.Join(errs...)
}

func mountAll() error {
	for _, m := range []struct{ kind, at string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tracefs", "/sys/kernel/tracing"},
		{"debugfs", "/sys/kernel/debug"}, {"securityfs", "/sys/kernel/security"}, {"bpf", "/sys/fs/bpf"}, {"cgroup2", "/sys/fs/cgroup"},
		{"tmpfs", "/tmp"}, {"tmpfs", "/run"}, {"tmpfs", "/dev/shm"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return os.Symlink("/proc/self/fd", "/dev/fd")
}

// openOutput makes the terminal that the host named the output of this process and its
// children.
func openOutput() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	_, name, _ := strings.Cut(string(line), "vmtest.output=")
	name = strings.TrimSpace(name)
	fd, err := unix.Open("/dev/"+name, unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open the terminal %q: %w", name, err)
	}
	settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	settings.Oflag &^= unix.OPOST
	settings.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, settings); err != nil {
		return err
	}
	return errors.Join(unix.Dup3(fd, 1, 0), unix.Dup3(fd, 2, 0), unix.Close(fd))
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load the module %s: %w", file, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo, err := unix.NewIfreq("lo")
	if err == nil {
		lo.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}
	return errors.Join(err, unix.Close(fd))
}

// run runs the tests. It waits for all children, of which the first process inherits
// those that have lost their parents.
func (s *suite) run() error {
	binary := "/" + testBinary(s.Package)
	tests, err := os.StartProcess(binary, append([]string{binary}, s.Args...), &os.ProcAttr{
		Dir:   "/src/" + s.Package,
		Env:   append([]string{"PATH=/bin", "HOME=/tmp"}, s.Env...),
		Files: []*os.File{nil, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case pid != tests.Pid:
		case status.Signaled():
			return fmt.Errorf("ended by signal %v", status.Signal())
		case status.ExitStatus() != 0:
			return fmt.Errorf("ended with status %d", status.ExitStatus())
		default:
			return nil
		}
	}
}
