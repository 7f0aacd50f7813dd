package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// builder makes virtual machines of what it downloads, builds, and keeps.
type builder struct {
	dir   string            // absolute
	built map[string]string // test binaries and the init, by architecture and package
}

func newBuilder(dir string) (*builder, error) {
	dir, err := filepath.Abs(dir) // the tools are run in other directories
	return &builder{dir: dir, built: map[string]string{}}, err
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
	emulator, err := b.emulator(ctx, k.arch)
	if err != nil {
		return nil, err
	}
	root, version, err := b.kernel(ctx, &k)
	if err != nil {
		return nil, err
	}
	image, err := b.image(ctx, root, k.arch, list)
	if err != nil {
		return nil, err
	}
	work := filepath.Join(b.dir, "run", k.name)
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
	m.command = emulate(emulator, &k, linux, initrd, m.console, m.output)
	return m, nil
}

// image makes the file system of a machine: the tests, what they need, and the task.
func (b *builder) image(ctx context.Context, kernel, arch string, list []suite) (*image, error) {
	i, err := newImage()
	if err != nil {
		return nil, err
	}
	for place, pkg := range map[string]string{"init": "cmd/vmtest", testBinary("bpf"): "bpf", testBinary("cmd/tcptrace"): "cmd/tcptrace"} {
		binary, err := b.build(ctx, arch, pkg)
		if err != nil {
			return nil, err
		}
		if err := i.file(place, binary); err != nil {
			return nil, err
		}
	}
	// What tests read of their sources.
	i.directory("src/cmd/tcptrace")
	objects, err := filepath.Glob("bpf/*.o")
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if err := i.file("src/"+o, o); err != nil {
			return nil, err
		}
	}
	tools, err := b.unpacked(ctx, "tools-"+arch, arch, "iproute2", "dash", "coreutils")
	if err != nil {
		return nil, err
	}
	for _, tool := range []string{"ss", "ip", "sh", "sleep", "true"} {
		if err := i.program(tools, tool); err != nil {
			return nil, err
		}
	}
	modules, err := i.modules(kernel, []string{"inet_diag", "tcp_diag"}) // for ss, in this order
	if err != nil {
		return nil, err
	}
	return i, i.task(&task{Modules: modules, Suites: list})
}

// kernel returns where the kernel is unpacked, and its version.
func (b *builder) kernel(ctx context.Context, k *kernel) (root, version string, err error) {
	base := filepath.Join(b.dir, "kernels", k.series+"-"+k.arch)
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

// emulator returns where QEMU is unpacked: 10.0, as 7.2 gets CMPXCHG16B wrong.
func (b *builder) emulator(ctx context.Context, arch string) (string, error) {
	pkg := "qemu-system-x86"
	if arch == "arm64" {
		pkg = "qemu-system-arm"
	}
	const host = "amd64" // what this QEMU runs on
	return b.unpacked(ctx, pkg, host, pkg)
}

// unpacked returns where packages of bookworm-backports are unpacked, with all that they
// need.
func (b *builder) unpacked(ctx context.Context, name, arch string, packages ...string) (string, error) {
	base := filepath.Join(b.dir, name)
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

// build returns the binary of a command, or of the tests of a package. Go calls the
// architectures as Debian does.
func (b *builder) build(ctx context.Context, arch, pkg string) (string, error) {
	key := arch + "/" + pkg
	if binary, ok := b.built[key]; ok {
		return binary, nil
	}
	binary := filepath.Join(b.dir, "build", key+".test") // testscript takes one called tcptrace for the command
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
