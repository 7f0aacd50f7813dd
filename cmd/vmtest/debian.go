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

// apt is apt-get with sources and a state of its own: what is installed on this
// machine, and where it gets its packages from, is neither looked at nor changed.
type apt struct {
	dir    string // absolute
	config string
}

// newAPT reads the lists of the sources, each "ARCHIVE SUITE" as below
// deb.debian.org. The first one is preferred.
func newAPT(ctx context.Context, dir, arch string, sources ...string) (*apt, error) {
	a := &apt{dir: dir, config: filepath.Join(dir, "apt.conf")}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	const keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
	var list strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&list, "deb [arch=%s signed-by=%s] http://deb.debian.org/%s main\n", arch, keys, s)
	}
	_, preferred, _ := strings.Cut(sources[0], " ")
	config := fmt.Sprintf(`Dir::State "%[1]s";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "%[1]s/parts";
Dir::Etc::preferencesparts "%[1]s/parts";
APT::Architecture "%[2]s";
APT::Architectures "%[2]s";
APT::Default-Release "%[3]s";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
`, dir, arch, preferred)
	for name, text := range map[string]string{"sources.list": list.String(), "status": "", "apt.conf": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return a, a.run(ctx, nil, "apt-get", "update", "-qq")
}

func (a *apt) run(ctx context.Context, out *strings.Builder, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C")
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if out != nil {
		cmd.Stdout = out
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return nil
}

// names lists the packages whose names begin so.
func (a *apt) names(ctx context.Context, prefix string) ([]string, error) {
	var out strings.Builder
	err := a.run(ctx, &out, "apt-cache", "pkgnames", prefix)
	return strings.Fields(out.String()), err
}

// unpack downloads packages, with all that they need if whole is set, and unpacks
// them below a directory, which is there whole or not at all.
func (a *apt) unpack(ctx context.Context, to string, whole bool, packages ...string) error {
	download := append([]string{"download", "-qq"}, packages...)
	archives := filepath.Join(a.dir, "cache/archives")
	if whole {
		download = append([]string{"install", "-qq", "-y", "--download-only"}, packages...)
	}
	cmd := exec.CommandContext(ctx, "apt-get", download...)
	cmd.Dir = archives
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(download, " "), err, out)
	}
	debs, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return err
	}
	part := to + ".part"
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
		return err
	}
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, part).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", deb, err, out)
		}
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	return os.Rename(part, to)
}
