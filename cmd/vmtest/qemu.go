package main

import "path/filepath"

// emulate returns the command that starts a machine of one processor, all of it
// emulated. The clock of the guest counts instructions, a nanosecond each, and leaps
// over the time in which it has nothing to do: a minute of TIME_WAIT is gone in a blink,
// and no load on this host makes a test late.
func emulate(root string, k *kernel, linux, initrd, console, output string) []string {
	libraries := ""
	for _, dir := range []string{"lib", "usr/lib"} {
		for _, sub := range []string{"x86_64-linux-gnu", "x86_64-linux-gnu/pulseaudio"} {
			libraries += ":" + filepath.Join(root, dir, sub)
		}
	}
	program, tty, cpu := "qemu-system-x86_64", "ttyS", []string{"-cpu", "max,-erms,-fsrm,-fzrm,-fsrs"}
	if k.arch == "arm64" {
		program, tty, cpu = "qemu-system-aarch64", "ttyAMA", []string{"-machine", "virt", "-cpu", "max,pauth-impdef=on"}
	}
	command := []string{
		// With the libraries of its packages, whatever this host has.
		filepath.Join(root, "lib64/ld-linux-x86-64.so.2"), "--library-path", libraries[1:],
		filepath.Join(root, "usr/bin", program),
	}
	command = append(command, cpu...)
	return append(command,
		"-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1", "-m", "2G",
		"-L", filepath.Join(root, "usr/share/qemu"), "-L", filepath.Join(root, "usr/share/seabios"),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:"+console, "-serial", "file:"+output,
		"-kernel", linux, "-initrd", initrd,
		"-append", "console="+tty+"0 panic=-1 reboot=t nokaslr mitigations=off random.trust_cpu=on rcupdate.rcu_expedited=1 "+k.boot+" vmtest.output="+tty+"1",
	)
}
