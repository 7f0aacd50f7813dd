package events_test

import (
	"strings"
	"testing"

	"tcptrace/events"
)

func TestParsePlace(t *testing.T) {
	const (
		id    = "4f2a9c0d1e3b58677f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6"
		outer = "0000000000000000000000000000000000000000000000000000000000000abc"
		pod   = "pod8a1d7f0e-5c3b-4f6a-9e2d-1b0c9d8e7f6a"
		slice = "kubepods-burstable-pod8a1d7f0e_5c3b_4f6a_9e2d_1b0c9d8e7f6a.slice"
	)
	for _, c := range []struct {
		name, path      string
		container, unit string
	}{
		{"nothing", "", "", ""},
		{"the root", "/", "", ""},
		{"a cgroup of nobody's", "/batch/job-7", "", ""},
		{"a slice", "/system.slice", "", ""},

		// Containers.
		{"docker", "/docker/" + id, id, ""},
		{"docker by systemd", "/system.slice/docker-" + id + ".scope", id, ""},
		{"docker, with systemd in it", "/system.slice/docker-" + id + ".scope/system.slice/nginx.service", id, "nginx.service"},
		{"docker, its init", "/system.slice/docker-" + id + ".scope/init", id, ""},
		{"docker with a parent of the user's", "/batch/" + id, id, ""},
		{"rootless docker", "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id + ".scope", id, "user@1000.service"},
		{"containerd", "/system.slice/nerdctl-" + id + ".scope", id, ""},
		{"Kubernetes, cgroupfs", "/kubepods/burstable/" + pod + "/" + id, id, ""},
		{"Kubernetes, guaranteed", "/kubepods/" + pod + "/" + id, id, ""},
		{"Kubernetes, systemd", "/kubepods.slice/kubepods-burstable.slice/" + slice + "/cri-containerd-" + id + ".scope", id, ""},
		{"Kubernetes, systemd, below kubelet", "/kubelet.slice/kubelet-kubepods.slice/kubelet-" + slice + "/cri-containerd-" + id + ".scope", id, ""},
		{"Kubernetes, one driver for the other's path", "/" + slice + ":cri-containerd:" + id, id, ""},
		{"the same below containerd", "/system.slice/containerd.service/" + slice + ":cri-containerd:" + id, id, "containerd.service"},
		{"docker, one driver for the other's path", "/system.slice:docker:" + id, id, ""},
		{"cri-o", "/kubepods.slice/kubepods-besteffort.slice/" + slice + "/crio-" + id + ".scope", id, ""},
		{"cri-o, cgroup of the container's own", "/kubepods.slice/" + slice + "/crio-" + id + ".scope/container", id, ""},
		{"cri-o, cgroupfs", "/kubepods/besteffort/" + pod + "/crio-" + id, id, ""},
		{"conmon of cri-o", "/system.slice/crio-conmon-" + id + ".scope", "", "crio-conmon-" + id + ".scope"},
		{"conmon of cri-o, cgroupfs", "/kubepods/besteffort/" + pod + "/crio-conmon-" + id, "", ""},
		{"podman", "/machine.slice/libpod-" + id + ".scope/container", id, ""},
		{"rootless podman", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope/container", id, "user@1000.service"},
		{"podman, cgroupfs", "/libpod_parent/libpod-" + id, id, ""},
		{"podman in a service", "/system.slice/web.service/libpod-payload-" + id, id, "web.service"},
		{"conmon of podman", "/machine.slice/libpod-conmon-" + id + ".scope", "", "libpod-conmon-" + id + ".scope"},
		{"conmon of podman, cgroupfs", "/libpod_parent/conmon", "", ""},
		{"a health check of podman", "/system.slice/" + id + "-5f2e.service", "", id + "-5f2e.service"},
		{"LXC, Incus", "/lxc.payload.web", "web", ""},
		{"LXC, a service in it", "/lxc.payload.web/system.slice/cron.service", "web", "cron.service"},
		{"LXC 3", "/lxc.payload/web", "web", ""},
		{"LXC 2", "/lxc/web/init.scope", "web", "init.scope"},
		{"monitor of LXC", "/lxc.monitor.web", "", ""},
		{"nspawn", `/machine.slice/machine-web.scope/payload/system.slice/cron.service`, "web", "cron.service"},
		{"nspawn, escaped", `/machine.slice/machine-my\x2dweb\x2d01.scope`, "my-web-01", ""},
		{"nspawn as a service", "/machine.slice/systemd-nspawn@my-web.service/payload", "my-web", "systemd-nspawn@my-web.service"},
		{"nspawn as a service, the supervisor", "/machine.slice/systemd-nspawn@my-web.service/supervisor", "", "systemd-nspawn@my-web.service"},
		{"a virtual machine", `/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator`, "", `machine-qemu\x2d1\x2dweb.scope`},
		{"docker in docker", "/docker/" + outer + "/docker/" + id, id, ""},
		{"docker in LXC", "/lxc.payload.web/system.slice/docker-" + id + ".scope", id, ""},
		{"LXC in docker", "/docker/" + outer + "/lxc.payload.web", "web", ""},

		// Units.
		{"a service", "/system.slice/nginx.service", "", "nginx.service"},
		{"of a template", "/system.slice/system-getty.slice/getty@tty1.service", "", "getty@tty1.service"},
		{"escaped", `/system.slice/system-systemd\x2dfsck.slice/systemd-fsck@dev-disk-by\x2duuid-1.service`, "", `systemd-fsck@dev-disk-by\x2duuid-1.service`},
		{"below a service", "/system.slice/foo.service/worker/3", "", "foo.service"},
		{"called like a file of the kernel's", "/system.slice/_memory.service", "", "memory.service"},
		{"of a user", "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", "", "foo.service"},
		{"the user's manager", "/user.slice/user-1000.slice/user@1000.service/init.scope", "", "user@1000.service"},
		{"a session", "/user.slice/user-1000.slice/session-3.scope", "", "session-3.scope"},
		{"systemd itself", "/init.scope", "", "init.scope"},
		{"the innermost scope", "/a.scope/b.scope", "", "b.scope"},

		// Nearly.
		{"a short id", "/docker/" + id[1:], "", ""},
		{"a long id", "/docker/a" + id, "", ""},
		{"no hexadecimal id", "/docker/" + id[1:] + "g", "", ""},
		{"an id in capitals", "/docker/" + strings.ToUpper(id), "", ""},
		{"an id that goes on", "/system.slice/docker-" + id + ".mount", "", ""},
		{"conmon without a runtime", "/conmon-" + id, "", ""},
		{"names of nothing", "/lxc.payload./machine-.scope/.service/.scope", "", "machine-.scope"},
		{"nspawn of nothing", "/systemd-nspawn@.service/payload", "", "systemd-nspawn@.service"},

		// Hostile.
		{"control characters", "/a\x1b[2J\n.service", "", ""},
		{"no UTF-8", "/\xff\xfe.scope", "", ""},
		{"control characters, as a container", "/lxc.payload.a\nb", "a\nb", ""},
		{"the same, escaped", `/machine-a\x0ab.scope`, "a\nb", ""},
		{"escapes cut off", `/machine-a\x.scope/machine-\x2.scope/machine-\xzz\x2dy.scope`, `\xzz-y`, ""},
		{"too long for a service", "/" + strings.Repeat("a", 248) + ".service", "", ""},
		{"as long as can be", "/" + strings.Repeat("a", 247) + ".service", "", strings.Repeat("a", 247) + ".service"},
		{"too long for a container", "/lxc/" + strings.Repeat("a", 4096), "", ""},
		{"nothing but slashes", strings.Repeat("/", 4096), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := events.Place{Path: c.path, Container: c.container, Unit: c.unit}
			if got := events.ParsePlace(c.path); got != want {
				t.Errorf("ParsePlace(%q) = %+v, want %+v", c.path, got, want)
			}
		})
	}
}

// Names come from files that anybody can write.
func FuzzParsePlace(f *testing.F) {
	for _, path := range []string{"/", "/lxc/a", "/machine-\\x2d.scope", "/systemd-nspawn@a.service/payload", "/" + strings.Repeat("0", 64)} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		place := events.ParsePlace(path)
		if len(place.Container) > 255 || len(place.Unit) > 255 {
			t.Fatalf("%+v is too long", place)
		}
		if place.Unit != "" && !strings.Contains(path, place.Unit) {
			t.Fatalf("%q is not in %q", place.Unit, path)
		}
	})
}
