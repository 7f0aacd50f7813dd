package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNewest(t *testing.T) {
	packages := []string{
		"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-57-cloud-amd64", "linux-image-6.1.0-57-cloud-amd64-dbg",
		"linux-image-6.1.0-58-cloud-amd64-unsigned", "linux-image-6.1.0-59-amd64", "linux-headers-6.1.0-60-cloud-amd64",
		"linux-image-6.12.95+deb12-cloud-amd64", "linux-image-6.12.107+deb12-cloud-amd64", "linux-image-cloud-amd64",
		"linux-image-6.1.0-70-cloud-arm64",
	}
	for _, test := range []struct{ name, want string }{{"6.1", "6.1.0-57"}, {"6.12", "6.12.107+deb12"}, {"6", ""}, {"7.3", ""}} {
		k := kernel{series: test.name, arch: "amd64"}
		if got, ok := k.newest(packages); got != test.want && test.name != "6" || ok != (got != "") {
			t.Errorf("the newest of %s is %q, want %q", test.name, got, test.want)
		}
	}
}

func TestChoose(t *testing.T) {
	if all, err := choose(nil); err != nil || len(all) != len(kernels()) {
		t.Errorf("%v, %v, want all", all, err)
	}
	if two, err := choose([]string{"7.3", "5.10"}); err != nil || len(two) != 2 || two[0].name != "7.3" || two[1].lacks == "" {
		t.Errorf("%v, %v, want 7.3 and 5.10", two, err)
	}
	if _, err := choose([]string{"7.1"}); err == nil || !strings.Contains(err.Error(), "6.12") {
		t.Errorf("%v, want an error with what there is", err)
	}
}

// TestChosenTestsExist: one that was renamed would be left out silently.
func TestChosenTestsExist(t *testing.T) {
	wanted := slices.Clone(chosen)
	for _, k := range kernels() {
		if k.only != nil {
			wanted = append(wanted, tests{"cmd/tcptrace", k.only})
		}
	}
	for _, c := range wanted {
		files, err := filepath.Glob("../../" + c.pkg + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		var source strings.Builder
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
		for _, name := range c.names {
			if !strings.Contains(source.String(), "\nfunc "+name+"(t *testing.T) {\n") {
				t.Errorf("%s has no %s", c.pkg, name)
			}
		}
	}
}

func TestVerdict(t *testing.T) {
	const (
		suite  = suiteLine + "bpf\n"
		passed = "=== RUN   TestA\n--- PASS: TestA (0.10s)\n    --- PASS: TestA/b (0.10s)\nPASS\n"
	)
	for _, test := range []struct{ name, output, want string }{
		{"passed", suite + passed + statusLine + "0\n", ""},
		{"no status", suite + passed, "did not come to its end"},
		{"nothing", "", "did not come to its end"},
		{"status of something else", suite + statusLine + "0\nPASS\n", "did not come to its end"},
		{"failed", suite + "--- FAIL: TestA (0.10s)\n" + statusLine + "1\n", "failed"},
		{"no tests", suite + "PASS\n" + statusLine + "0\n", "no test ran"},
		{"skipped", suite + passed + "--- SKIP: TestB (0.00s)\n" + statusLine + "0\n", "skipped"},
	} {
		err := verdict(test.output)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestCount(t *testing.T) {
	got := count(suiteLine + "bpf\n--- PASS: TestA (1s)\n    --- FAIL: TestA/b (1s)\n" + suiteLine + "cmd/tcptrace\n--- SKIP: TestB (1s)\n--- FAIL: TestC (1s)\n")
	want := []counts{{"bpf", 1, 0, 0}, {"cmd/tcptrace", 0, 1, 1}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestImage reads the archive again, as the kernel does.
func TestImage(t *testing.T) {
	i, err := newImage()
	if err != nil {
		t.Fatal(err)
	}
	i.put("a/b/odd", []byte("12345"))
	i.put("init", []byte("1234"))
	file := filepath.Join(t.TempDir(), "initrd")
	if err := i.write(file); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for rest := archive; ; {
		header := rest[:110]
		if !bytes.HasPrefix(header, []byte("070701")) {
			t.Fatalf("not a header: %q", header)
		}
		field := func(n int) (v int) {
			for _, c := range header[6+8*n : 14+8*n] {
				v = v<<4 | strings.IndexByte("0123456789ABCDEF", c)
			}
			return v
		}
		name := string(rest[110 : 110+field(11)-1])
		data := (110 + field(11) + 3) &^ 3
		end := (data + field(6) + 3) &^ 3
		if name == "TRAILER!!!" {
			break
		}
		got = append(got, name+" "+map[int]string{0o040755: "directory", 0o100755: "file"}[field(1)]+" "+string(rest[data:data+field(6)]))
		rest = rest[end:]
	}
	if want := "a directory ;a/b directory ;a/b/odd file 12345;init file 1234"; strings.Join(got, ";") != want {
		t.Errorf("%q, want %q", strings.Join(got, ";"), want)
	}
}
