package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcptrace/events"
	"tcptrace/fsm"
)

// played is a source of given records.
type played struct {
	source
	records []events.Record
	closed  bool
}

func (p *played) Next(r *events.Record) error {
	if len(p.records) == 0 {
		return io.EOF
	}
	*r = p.records[0]
	p.records = p.records[1:]
	return nil
}

func (p *played) Close() error {
	p.closed = true
	return nil
}

// delivered returns what a source delivers, in short: names as they are, the time
// of the rest.
func delivered(t *testing.T, s source) (list []string) {
	t.Helper()
	for {
		var r events.Record
		switch err := s.Next(&r); err {
		case nil:
		case io.EOF:
			return list
		default:
			t.Fatal(err)
		}
		switch r.Kind {
		case events.KindName:
			list = append(list, fmt.Sprintf("%d=%s", r.Name.ID, r.Name.Text))
		case events.KindTransition:
			list = append(list, time.Duration(r.Event.Time).String())
		default:
			list = append(list, fmt.Sprintf("kind %d", r.Kind))
		}
	}
}

func in(cgroup uint64, at time.Duration) events.Record {
	return events.Record{Kind: events.KindTransition, Event: events.Event{Time: uint64(at), Cgroup: cgroup}}
}

// dirTree is a cgroupTree of a directory of any file system, that cannot use
// handles of files.
func dirTree(t *testing.T) *cgroupTree {
	t.Helper()
	return &cgroupTree{mount: cgroupMount{point: t.TempDir(), root: "/"}, fd: -1}
}

// mkdir makes a directory and returns its inode, the id that a cgroup would have.
func mkdir(t *testing.T, dir string) uint64 {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	var stat unix.Stat_t
	check(t, unix.Stat(dir, &stat))
	return stat.Ino
}

// A name comes once, before the first record that needs it. What has none is asked
// for once a second, and all else costs nothing.
func TestNamerNamesCgroups(t *testing.T) {
	tree := dirTree(t)
	a, b := mkdir(t, tree.mount.point+"/a"), mkdir(t, tree.mount.point+"/a/b")
	const unknown = 1 << 50
	s := &played{records: []events.Record{
		in(a, 1*time.Second), in(a, 2*time.Second), in(b, 3*time.Second), in(a, 4*time.Second), in(0, 5*time.Second),
		{Kind: events.KindIdle}, in(b, 6*time.Second), in(unknown, 7*time.Second),
	}}
	n := &namer{source: s, cgroups: tree, retry: make(map[uint64]uint64)}
	want := []string{
		fmt.Sprintf("%d=/a", a), "1s", "2s", fmt.Sprintf("%d=/a/b", b), "3s", "4s", "5s", "kind 3", "6s", "7s",
	}
	if got := delivered(t, n); !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}

	// One that was made after the last walk has its name when the next is due.
	tree.walkAt = uint64(20 * time.Second)
	c := mkdir(t, tree.mount.point+"/c")
	s.records = []events.Record{in(c, 10*time.Second), in(c, 19*time.Second), in(c, 20*time.Second), in(c, 21*time.Second)}
	want = []string{"10s", "19s", fmt.Sprintf("%d=/c", c), "20s", "21s"}
	if got := delivered(t, n); !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}
	if tree.walkAt < uint64(21*time.Second) {
		t.Errorf("the next walk is due at %v, want a second after the last or later", time.Duration(tree.walkAt))
	}

	check(t, n.Close())
	if !s.closed {
		t.Error("the source is not closed")
	}
}

func TestNamerWithoutCgroups(t *testing.T) {
	n := &namer{source: &played{records: []events.Record{in(1, 1), in(2, 2)}}}
	if got, want := delivered(t, n), []string{"1ns", "2ns"}; !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}
}

// The files that owners execute are asked for in each walk anew.
func TestNamerNamesExes(t *testing.T) {
	self, err := os.Executable()
	check(t, err)
	comm, err := os.ReadFile("/proc/self/comm")
	check(t, err)
	owner := events.Owner{PID: uint32(os.Getpid()), Comm: events.MakeComm(strings.TrimSuffix(string(comm), "\n")), Source: events.OwnerConnect}
	found := func(o events.Owner, at uint64) events.Record {
		return events.Record{Kind: events.KindTransition, Event: events.Event{Time: at, Owner: o, Source: events.SourceSnapshot}}
	}
	reused, gone, none := owner, owner, owner
	reused.Comm = events.MakeComm("another")
	gone.PID = 1 << 23 // above what the kernel gives
	none.Source = events.OwnerNone
	transition := found(owner, 1)
	transition.Event.Source = events.SourceTracepoint
	walked := events.Record{Kind: events.KindWalked}
	named := fmt.Sprintf("%d=%s", owner.PID, self)
	records := []events.Record{
		transition, found(none, 2), found(owner, 3), found(owner, 4), walked, found(owner, 5), walked,
		found(reused, 6), walked, found(gone, 7),
	}
	for _, c := range []struct {
		exes map[uint32]struct{}
		want []string
	}{
		{make(map[uint32]struct{}), []string{"1ns", "2ns", named, "3ns", "4ns", "kind 4", named, "5ns", "kind 4", "6ns", "kind 4", "7ns"}},
		{nil, []string{"1ns", "2ns", "3ns", "4ns", "kind 4", "5ns", "kind 4", "6ns", "kind 4", "7ns"}},
	} {
		n := &namer{source: &played{records: records}, exes: c.exes}
		if got := delivered(t, n); !slices.Equal(got, c.want) {
			t.Errorf("wanted: %v: delivered %q, want %q", c.exes != nil, got, c.want)
		}
	}
}

// Both names of a record come before it.
func TestNamerNamesAll(t *testing.T) {
	tree := dirTree(t)
	r := in(mkdir(t, tree.mount.point), 1)
	r.Event.Source = events.SourceSnapshot
	comm, err := os.ReadFile("/proc/self/comm")
	check(t, err)
	r.Event.Owner = events.Owner{PID: uint32(os.Getpid()), Comm: events.MakeComm(strings.TrimSuffix(string(comm), "\n")), Source: events.OwnerSnapshot}
	n := &namer{
		source: &played{records: []events.Record{r}}, cgroups: tree,
		retry: make(map[uint64]uint64), exes: make(map[uint32]struct{}),
	}
	got := delivered(t, n)
	if len(got) != 3 || !strings.HasSuffix(got[0], "=/") || !strings.HasPrefix(got[1], strconv.Itoa(os.Getpid())+"=/") || got[2] != "1ns" {
		t.Errorf("delivered %q", got)
	}
}

// However many cgroups come and go, what the namer believes to have delivered is
// still there.
func TestNamesInStep(t *testing.T) {
	tree := dirTree(t)
	tree.byID = map[uint64]string{}
	tree.walkAt = never
	s := &played{}
	n := &namer{source: s, cgroups: tree, retry: make(map[uint64]uint64)}
	var table nameTable
	const often = 1
	tree.byID[often] = "/often"
	for i := range uint64(5 * maxNames) {
		once := 2 + i
		tree.byID[once] = "/once"
		s.records = append(s.records, in(once, 0))
		if i%7 == 0 || i > 3*maxNames { // at first not always
			s.records = append(s.records, in(often, 0), in(1<<40+i, 0)) // and one without a name
		}
	}
	var r events.Record
	for n.Next(&r) == nil {
		switch r.Kind {
		case events.KindName:
			table.take(&r.Name)
		case events.KindTransition:
			if got, want := table.place(r.Event.Cgroup).Path, tree.byID[r.Event.Cgroup]; got != want {
				t.Fatalf("cgroup %d is %q, want %q", r.Event.Cgroup, got, want)
			}
		}
	}
	if len(n.retry) > maxNames || len(table.young) > maxNames || len(table.old) > maxNames {
		t.Errorf("%d, %d and %d names are kept", len(n.retry), len(table.young), len(table.old))
	}
}

func TestNameTable(t *testing.T) {
	var table nameTable
	if got := table.place(0); got != (events.Place{}) {
		t.Errorf("nothing is %+v", got)
	}
	steps := []struct {
		take events.Name
		want map[uint64]string // paths
		exes map[uint32]string
	}{
		{events.Name{Kind: events.NameCgroup, ID: 1, Text: "/a.service"}, map[uint64]string{0: "", 1: "/a.service", 2: ""}, map[uint32]string{1: ""}},
		{events.Name{Kind: events.NameCgroup, ID: 2, Text: "/b"}, map[uint64]string{1: "/a.service", 2: "/b"}, nil},
		{events.Name{Kind: events.NameCgroup, ID: 2, Text: "/c"}, map[uint64]string{1: "/a.service", 2: "/c"}, nil},
		{events.Name{Kind: events.NameExe, ID: 1, Text: "/bin/sh"}, map[uint64]string{1: "/a.service"}, map[uint32]string{1: "/bin/sh", 2: ""}},
		{events.Name{Kind: 99, ID: 1, Text: "/later"}, map[uint64]string{1: "/a.service"}, map[uint32]string{1: "/bin/sh"}},
	}
	for _, s := range steps {
		table.take(&s.take)
		for id, want := range s.want {
			if got := table.place(id); got.Path != want {
				t.Errorf("after %+v, cgroup %d is %+v, want %q", s.take, id, got, want)
			}
		}
		for pid, want := range s.exes {
			if got := table.exe(pid); got != want {
				t.Errorf("after %+v, process %d executes %q, want %q", s.take, pid, got, want)
			}
		}
	}
	if got := table.place(1).Unit; got != "a.service" {
		t.Errorf("cgroup 1 is for %q", got)
	}
	table.walked()
	if got := table.exe(1); got != "" {
		t.Errorf("after the walk, process 1 executes %q", got)
	}
	for pid := range uint64(maxExes + 10) {
		table.take(&events.Name{Kind: events.NameExe, ID: pid, Text: "/bin/sh"})
	}
	if len(table.exes) != maxExes {
		t.Errorf("%d files are kept", len(table.exes))
	}
}

func TestCgroupMountPath(t *testing.T) {
	for _, c := range []struct{ root, point, dir, want string }{
		{"/", "/sys/fs/cgroup", "/sys/fs/cgroup", "/"},
		{"/", "/sys/fs/cgroup", "/sys/fs/cgroup/a/b", "/a/b"},
		{"/", "/sys/fs/cgroup", "/sys/fs/cgroup2/a", "/sys/fs/cgroup2/a"},
		{"/docker/1", "/sys/fs/cgroup", "/sys/fs/cgroup/a", "/docker/1/a"},
		{"/../..", "/sys/fs/cgroup", "/sys/fs/cgroup/a", "/a"}, // in a cgroup namespace
		{"/", "/", "/a/b", "/a/b"},
	} {
		m := cgroupMount{root: c.root, point: c.point}
		if got := m.path(c.dir); got != c.want {
			t.Errorf("%s of %s at %s is %s, want %s", c.dir, c.root, c.point, got, c.want)
		}
	}
}

func TestParseCgroup(t *testing.T) {
	m, err := cgroup2Mount()
	if err != nil {
		m.point = "/"
	}
	for _, c := range []struct {
		text string
		id   uint64
		path string
	}{
		{"77", 77, ""},
		{"18446744073709551615", 1<<64 - 1, ""},
		{"/", 0, "/"},
		{"/not/there/yet", 0, "/not/there/yet"},
		{"/a/", 0, "/a"},
		{"/a//b/../c", 0, "/a/c"},
		{filepath.Join(m.point, "not/there/yet"), 0, "/not/there/yet"},
		{"/77", 0, "/77"},
		{"", 0, ""}, {"0", 0, ""}, {"-1", 0, ""}, {"a/b", 0, ""}, {"18446744073709551616", 0, ""},
	} {
		id, path, err := parseCgroup(c.text)
		if id != c.id || path != c.path || (err == nil) != (id != 0 || path != "") {
			t.Errorf("%q is cgroup %d, %q, %v, want %d, %q", c.text, id, path, err, c.id, c.path)
		}
	}
}

func TestFilterWantsPlace(t *testing.T) {
	const id = "4f2a9c0d1e3b58677f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6"
	web := events.Place{Path: "/docker/" + id + "/web", Container: id}
	for _, c := range []struct {
		cgroup, container string
		place             events.Place
		want              bool
	}{
		{"", "", web, true},
		{"", "", events.Place{}, true},
		{"", "4f2a", web, true},
		{"", id, web, true},
		{"", "9c0d", web, false},
		{"", "4f2a", events.Place{Path: "/4f2a"}, false},
		{"", "4f2a", events.Place{}, false},
		{"/docker", "", web, true},
		{"/docker/" + id, "", web, true},
		{"/docker/" + id + "/web", "", web, true},
		{"/docker/" + id + "/web/below", "", web, false},
		{"/dock", "", web, false},
		{"/docker/" + id + "/we", "", web, false},
		{"/", "", web, true},
		{"/", "", events.Place{Path: "/"}, true},
		{"/", "", events.Place{}, false},
	} {
		f := filter{cgroup: c.cgroup, container: c.container}
		if got := f.wantsPlace(c.place); got != c.want {
			t.Errorf("--cgroup %q --container %q of %+v: %v", c.cgroup, c.container, c.place, got)
		}
	}
}

// TestCgroupTree asks this kernel for the names of cgroups, by handles and by a
// walk.
func TestCgroupTree(t *testing.T) {
	const container = "docker-4f2a9c0d1e3b58677f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6.scope"
	tree, err := openCgroups()
	if err != nil {
		unavailable(t, "there are no cgroups: %v", err)
	}
	t.Cleanup(func() { _ = tree.close() })
	parent, err := os.MkdirTemp(tree.mount.point, "tcptrace-test-")
	if err != nil {
		unavailable(t, "a cgroup cannot be made: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(parent) })
	dir := filepath.Join(parent, container)
	id := mkdir(t, dir)
	t.Cleanup(func() { _ = os.Remove(dir) })
	hostile := filepath.Join(parent, "a\x1b[2J\\ \xff (deleted)x")
	hostileID := mkdir(t, hostile)
	t.Cleanup(func() { _ = os.Remove(hostile) })

	walking := &cgroupTree{mount: tree.mount, fd: -1}
	for _, c := range []struct {
		how  string
		tree *cgroupTree
	}{{"handles", tree}, {"a walk", walking}} {
		if c.tree == tree && tree.fd < 0 {
			t.Fatal("no handles")
		}
		for id, dir := range map[uint64]string{id: dir, hostileID: hostile, mkdir(t, parent): parent} {
			if got, want := c.tree.path(id, 0), tree.mount.path(dir); got != want {
				t.Errorf("by %s cgroup %d is %q, want %q", c.how, id, got, want)
			}
		}
		if got := c.tree.path(id+1<<40, 0); got != "" {
			t.Errorf("by %s a cgroup that is not is %q", c.how, got)
		}
	}
	if tree.fd < 0 {
		unavailable(t, "cgroups cannot be found by handles: CAP_DAC_READ_SEARCH is missing")
	}
	if tree.byID != nil {
		t.Error("the tree was walked, though handles work")
	}
	if got, want := events.ParsePlace(tree.path(id, 0)).Container, strings.TrimSuffix(strings.TrimPrefix(container, "docker-"), ".scope"); got != want {
		t.Errorf("the container is %q, want %q", got, want)
	}

	check(t, os.Remove(dir))
	if got := tree.path(id, 0); got != "" {
		t.Errorf("a cgroup that is gone is %q", got)
	}
}

// endless is a source of the same records, over and over.
type endless struct {
	source
	records []events.Event
	next    int
}

func (e *endless) Next(r *events.Record) error {
	r.Kind, r.Event = events.KindTransition, e.records[e.next]
	e.next = (e.next + 1) % len(e.records)
	return nil
}

// transitionsIn returns as many transitions, each in the next of the cgroups.
func transitionsIn(cgroups int) (list []events.Event) {
	for i := range cgroups {
		list = append(list, events.Event{Time: 1, Cgroup: uint64(i + 1), From: fsm.Closed, To: fsm.SynSent})
	}
	return list
}

func testNamer(list []events.Event) *namer {
	tree := &cgroupTree{fd: -1, byID: map[uint64]string{}, walkAt: never}
	for _, e := range list {
		if e.Cgroup%2 == 1 { // the others have no name
			tree.byID[e.Cgroup] = "/system.slice/nginx.service"
		}
	}
	return &namer{source: &endless{records: list}, cgroups: tree, retry: make(map[uint64]uint64), exes: make(map[uint32]struct{})}
}

func TestNamerDoesNotAllocate(t *testing.T) {
	list := transitionsIn(3)
	n := testNamer(list)
	var r events.Record
	next := func() {
		for range 100 {
			if err := n.Next(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
	next()
	if a := testing.AllocsPerRun(10, next); a != 0 {
		t.Errorf("%v allocations for 100 records", a)
	}
}

func BenchmarkNamer(b *testing.B) {
	for _, cgroups := range []int{1, 2, 1000} {
		list := transitionsIn(cgroups)
		run := func(name string, s source) {
			b.Run(fmt.Sprintf("%s/cgroups=%d", name, cgroups), func(b *testing.B) {
				b.ReportAllocs()
				var r events.Record
				for b.Loop() {
					if err := s.Next(&r); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("source", &endless{records: list})
		run("namer", testNamer(list))
	}
}

func BenchmarkNameTable(b *testing.B) {
	for _, cgroups := range []int{1, 2, 1000} {
		var table nameTable
		for id := range uint64(cgroups) {
			table.take(&events.Name{Kind: events.NameCgroup, ID: id + 1, Text: "/system.slice/nginx.service"})
		}
		b.Run(fmt.Sprintf("cgroups=%d", cgroups), func(b *testing.B) {
			b.ReportAllocs()
			id := uint64(0)
			for b.Loop() {
				if id++; id > uint64(cgroups) {
					id = 1
				}
				if table.place(id).Unit == "" {
					b.Fatal("no name")
				}
			}
		})
	}
}
