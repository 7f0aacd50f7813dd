package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"os/exec"
)

// builder makes virtual machines of what it downloads, builds, and keeps.
type builder struct {
	dir   string
	built map[string]string // test binaries and the init, by architecture and package
}

// machine is one that is ready to be started.
type machine struct {
	kernel  kernel
	version string
	command []string // starts it
	console string   // file that the kernel's messages go to
	output  string   // file that the output of the tests goes to
}

// machine makes one that runs the suites on the kernel.
func (b *builder) machine(ctx context.Context, k kernel, list []suite) (*machine, error) {
	dir, err := filepath.Abs(b.dir)
	if err != nil {
		return nil, err
	}
	tools, err := b.tools(ctx, dir, k.arch)
	if err != nil {
		return nil, err
	}
	emulator, err := b.emulator(ctx, dir, k.arch)
	if err != nil {
		return nil, err
	}
	root, version, err := b.kernel(ctx, dir, &k)
	if err != nil {
		return nil, err
	}

	image, err := newImage()
	if err != nil {
		return nil, err
	}
	for _, pkg := range []string{"bpf", "cmd/tcptrace", "cmd/vmtest"} {
		binary, err := b.build(ctx, dir, goArch(k.arch), pkg)
		if err != nil {
			return nil, err
		}
		to := "init"
		if pkg != "cmd/vmtest" {
			to = testBinary(pkg)
			if err := image.tree("src/"+pkg+"/testdata", pkg+"/testdata"); err != nil {
				return nil, err
			}
			image.directory("src/" + pkg)
		}
		if err := image.file(to, binary); err != nil {
			return nil, err
		}
	}
	objects, err := filepath.Glob("bpf/*.o")
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if err := image.file("src/"+o, o); err != nil {
			return nil, err
		}
	}
	for _, tool := range guestTools {
		if err := image.program(tools, tool); err != nil {
			return nil, err
		}
	}
	modules, err := image.modules(root, guestModules)
	if err != nil {
		return nil, err
	}
	if err := image.task(&task{Modules: modules, Suites: list}); err != nil {
		return nil, err
	}
	work := filepath.Join(dir, "run", k.name)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	initrd := filepath.Join(work, "initrd")
	if err := image.write(initrd); err != nil {
		return nil, err
	}

	linux, err := glob(root, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinux")
	if err != nil {
		return nil, err
	}
	m := &machine{kernel: k, version: version, console: filepath.Join(work, "console"), output: filepath.Join(work, "output")}
	m.command = emulate(emulator, k.arch, linux, initrd, m.console, m.output)
	return m, nil
}

// kernel returns where the kernel is unpacked, and its version.
func (b *builder) kernel(ctx context.Context, dir string, k *kernel) (root, version string, err error) {
	base := filepath.Join(dir, "kernels", k.name)
	if kept, err := filepath.Glob(filepath.Join(base, "root-*")); err != nil {
		return "", "", err
	} else if i := len(kept) - 1; i >= 0 && !strings.HasSuffix(kept[i], ".part") {
		return kept[i], strings.TrimPrefix(filepath.Base(kept[i]), "root-"), nil
	}
	a, err := newAPT(ctx, filepath.Join(base, "apt"), k.arch, k.archive+" "+k.suite)
	if err != nil {
		return "", "", err
	}
	names, err := a.names(ctx, "linux-")
	if err != nil {
		return "", "", err
	}
	version, ok := k.newest(names)
	if !ok {
		return "", "", fmt.Errorf("%s has no linux-image-%s.*-cloud-%s any more: look for it in another suite of Debian", k.suite, k.series, k.arch)
	}
	suffix := version + "-cloud-" + k.arch
	packages := []string{"linux-image-" + suffix}
	for _, name := range names { // from 7.0 on, the image is an empty one that needs these
		if name == "linux-binary-"+suffix || name == "linux-modules-"+suffix {
			packages = append(packages, name)
		}
	}
	root = filepath.Join(base, "root-"+version)
	return root, version, a.unpack(ctx, root, false, packages...)
}

// guestTools are what the tests execute.
var guestTools = []string{"ss", "ip", "sh", "sleep", "true"}

// guestModules are what the tools need, in this order.
var guestModules = []string{"inet_diag", "tcp_diag"}

func (b *builder) tools(ctx context.Context, dir, arch string) (string, error) {
	return b.unpacked(ctx, filepath.Join(dir, "tools-"+arch), arch, "iproute2", "dash", "coreutils")
}

// emulator returns where QEMU is unpacked: 10.0, as 7.2 gets CMPXCHG16B wrong.
func (b *builder) emulator(ctx context.Context, dir, arch string) (string, error) {
	pkg := "qemu-system-x86"
	if arch == "arm64" {
		pkg = "qemu-system-arm"
	}
	return b.unpacked(ctx, filepath.Join(dir, pkg), hostArch, pkg)
}

// hostArch is the one of Debian that the emulator is for.
const hostArch = "amd64"

func (b *builder) unpacked(ctx context.Context, base, arch string, packages ...string) (string, error) {
	root := filepath.Join(base, "root")
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		return root, err
	}
	a, err := newAPT(ctx, filepath.Join(base, "apt"), arch, "debian bookworm-backports", "debian bookworm")
	if err != nil {
		return "", err
	}
	return root, a.unpack(ctx, root, true, packages...)
}

func goArch(debian string) string { return debian } // the same, for these two

// build returns the binary of a command, or of the tests of a package.
func (b *builder) build(ctx context.Context, dir, arch, pkg string) (string, error) {
	key := arch + "/" + pkg
	if binary, ok := b.built[key]; ok {
		return binary, nil
	}
	binary := filepath.Join(dir, "build", key+".test") // testscript takes one called tcptrace for the command
	args := []string{"test", "-c"}
	if pkg == "cmd/vmtest" {
		args = []string{"build"}
	}
	args = append(args, "-ldflags", "-s -w", "-o", binary, "./"+pkg)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	if b.built == nil {
		b.built = map[string]string{}
	}
	b.built[key] = binary
	return binary, nil
}

// glob returns the one file below root that matches a pattern.
func glob(root string, patterns ...string) (string, error) {
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(root, p))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("%s has no %s", root, strings.Join(patterns, ", "))
}
