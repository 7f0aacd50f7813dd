package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tcptrace/events"
	"tcptrace/events/eventstest"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/ladder"
	"tcptrace/output/picture"
	"tcptrace/output/stat"
	"tcptrace/output/web"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hostile is a name that a process can choose.
const hostile = "<b>&\"'\n"

func owner() events.Owner {
	return events.Owner{PID: 7, Comm: events.MakeComm(hostile), Source: events.OwnerConnect}
}

// life is of a connection that was opened and is open.
func life() *lifecycle.Lifecycle {
	tracker := lifecycle.NewTracker(0)
	var t lifecycle.Transition
	for i, to := range []fsm.State{fsm.SynSent, fsm.Established} {
		e := events.Event{
			Time: eventstest.Start + uint64(i+1)*1000, Entered: eventstest.Start + uint64(i)*1000, Cookie: 0x1f, Seq: uint32(i + 1),
			From: fsm.Closed, To: to, Source: events.SourceTracepoint, Family: 2, Owner: owner(),
			Local: netip.MustParseAddrPort("10.0.0.1:4000"), Remote: netip.MustParseAddrPort("10.0.0.2:80"),
		}
		if i > 0 {
			e.From = fsm.SynSent
		}
		tracker.Observe(&e, &t)
	}
	c := &lifecycle.Lifecycle{}
	t.Life.Lifecycle(eventstest.Start+5000, c)
	return c
}

// draw makes a picture with one of everything.
func draw(r *picture.Request) *picture.Picture {
	id := picture.SocketID{Cookie: 0x1f}
	ends := [2]netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:4000"), netip.MustParseAddrPort("10.0.0.2:80")}
	p := &picture.Picture{
		Request: r, Time: time.Unix(1, 0), Walked: true, Transitions: 3, Lost: 2,
		Notices: []output.Notice{{Kind: output.NoticeGrowing, Reason: hostile, Count: 1}},
		Edges:   []picture.Edge{{From: fsm.Closed, To: fsm.SynSent, All: 3, Median: 5, HasMedian: true}},
		Groups:  []picture.Group{{Name: `7 <b>&"'\x0a`, Sockets: [fsm.Closing + 1]int{fsm.Established: 1}, All: 1}},
		Stuck: []picture.Stuck{{State: fsm.CloseWait, Count: 1, Oldest: lifecycle.Stuck{
			State: fsm.CloseWait, Age: time.Minute, Limit: time.Second, Owner: owner(), Local: ends[0], Remote: ends[1], Cookie: 0x1f,
		}}},
		Findings: []picture.Finding{{From: fsm.Listen, To: fsm.TimeWait, Owner: owner(), Reason: "no rule", Rule: "RFC 9293", ID: id, Local: ends[0], Remote: ends[1]}},
		Times:    map[fsm.State]picture.Times{fsm.Established: {Count: 2, Median: 3 * time.Millisecond, Buckets: []stat.Bucket{{From: 1, To: 2, Count: 2}}}},
	}
	p.Sockets[fsm.Established] = 1
	if r.Table == picture.TableSockets {
		p.All = 1
		p.Rows = []picture.Socket{{ID: id, State: r.State, Owner: owner(), Local: ends[0], Remote: ends[1]}}
	}
	if r.Socket == id {
		p.Detail = &picture.Detail{ID: id, Life: *life(), Ladder: ladder.New(life(), nil)}
	}
	return p
}

func start(t *testing.T, o *web.Options) (url string) {
	t.Helper()
	if o.Ask == nil {
		o.Ask = func(_ context.Context, r *picture.Request) *picture.Picture { return draw(r) }
	}
	page := web.New(o)
	server := httptest.NewUnstartedServer(page)
	server.Config.ReadTimeout = 10 * time.Second
	server.Start()
	t.Cleanup(func() {
		page.Close()
		server.Close()
	})
	return server.URL
}

func get(t *testing.T, method, url, host string) (status int, header http.Header, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	check(t, err)
	request.Host = host
	response, err := http.DefaultClient.Do(request)
	check(t, err)
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	check(t, err)
	return response.StatusCode, response.Header, string(all)
}

// What is served, how, and what is not.
func TestPage(t *testing.T) {
	url := start(t, &web.Options{Version: `v"1"<`, Host: "<host>"})
	const html, text = "text/html; charset=utf-8", "text/plain; charset=utf-8"
	for _, c := range []struct {
		method, path, host string
		status             int
		contentType, has   string
	}{
		{"GET", "/", "", 200, html, "<h1>tcptrace"},
		{"HEAD", "/", "", 200, html, ""},
		{"GET", "/", "", 200, html, "v&#34;1&#34;&lt;"},
		{"GET", "/", "", 200, html, "&lt;host&gt;"},
		{"GET", "/", "", 200, html, `id="state-FIN_WAIT_1"`},
		{"GET", "/page.css", "", 200, "text/css; charset=utf-8", ".tcpfsm .unused"},
		{"GET", "/page.js", "", 200, "text/javascript; charset=utf-8", "EventSource"},
		{"GET", "/icon.svg", "", 200, "image/svg+xml", "<svg"},
		{"GET", "/state.json", "", 200, "application/json", `"transitions":3`},
		{"GET", "/sockets.json?state=close-wait", "", 200, "application/json", `"state":"CLOSE_WAIT"`},
		{"GET", "/sockets.json?state=NOWHERE", "", 400, text, "NOWHERE"},
		{"GET", "/sockets.json", "", 400, text, "state"},
		{"GET", "/ladder.svg?socket=1f&generation=0", "", 200, "image/svg+xml", "&lt;b&gt;&amp;"},
		{"GET", "/ladder.txt?socket=1f", "", 200, text, "ESTABLISHED"},
		{"GET", "/ladder.svg?socket=2f", "", 404, text, "not known any more"},
		{"GET", "/ladder.svg?socket=x", "", 400, text, "ss -e"},
		{"GET", "/ladder.svg?socket=1f&generation=-1", "", 400, text, "generation"},
		{"POST", "/", "", 405, text, "Method Not Allowed"},
		{"DELETE", "/events", "", 405, text, "Method Not Allowed"},
		{"GET", "/../etc/passwd", "", 404, text, "not found"},
		{"GET", "/assets/page.html", "", 404, text, "not found"},
		{"GET", "/state.json", "attacker.example", 421, text, "another name"},
		{"GET", "/state.json", "localhost:9917", 200, "application/json", ""},
		{"GET", "/state.json", "[::1]:9917", 200, "application/json", ""},
	} {
		status, header, body := get(t, c.method, url+c.path, c.host)
		if status != c.status || header.Get("Content-Type") != c.contentType || !strings.Contains(body, c.has) {
			t.Errorf("%s %s %s: %d %s %q, want %d %s %q", c.method, c.path, c.host, status, header.Get("Content-Type"), body, c.status, c.contentType, c.has)
		}
		policy := header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: %v", c.method, c.path, header)
		}
	}
}

// Nothing is within the page that its policy forbids: scripts, styles, handlers; nothing
// comes from elsewhere. A ladder has a style, which its policy names.
func TestPolicy(t *testing.T) {
	url := start(t, &web.Options{})
	_, _, body := get(t, "GET", url+"/", "")
	for _, bad := range []string{`<style`, `\sstyle=`, `\son[a-z]+=`, `javascript:`, `<script[^>]*>[^<]`, `(src|href)="(https?:|//|data:)`} {
		if found := regexp.MustCompile(bad).FindString(body); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	_, _, script := get(t, "GET", url+"/page.js", "")
	for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"} {
		if strings.Contains(script, bad) {
			t.Errorf("the script has %s", bad)
		}
	}
	_, header, drawing := get(t, "GET", url+"/ladder.svg?socket=1f", "")
	if strings.Count(drawing, "<style>") != 1 || !strings.Contains(drawing, "<style>"+ladder.SVGStyle+"</style>") || strings.Contains(drawing, "style=") {
		t.Errorf("the ladder has other styles: %s", drawing)
	}
	if policy := header.Get("Content-Security-Policy"); !strings.Contains(policy, "style-src 'sha256-") {
		t.Error(policy)
	}
}

// A name that a process chose is escaped, and what is not known is absent.
func TestStateEscapes(t *testing.T) {
	url := start(t, &web.Options{})
	_, _, body := get(t, "GET", url+"/state.json", "")
	var state struct {
		Notices []struct{ Text string }
		Stuck   []struct{ Owner, Hint string } `json:"stuck_groups"`
		States  []map[string]any
	}
	check(t, json.Unmarshal([]byte(body), &state))
	const want = `<b>&"'\x0a (7)`
	if state.Stuck[0].Owner != want || state.Stuck[0].Hint == "" || strings.Contains(state.Notices[0].Text, "\n") {
		t.Errorf("%+v, want %s", state, want)
	}
	if strings.Contains(body, "<b>") { // json.Marshal escapes it
		t.Error(body)
	}
	for _, s := range state.States {
		_, known := s["sockets"]
		_, dwell := s["dwell"]
		if known == (s["name"] == "CLOSED") || dwell != (s["name"] == "ESTABLISHED") {
			t.Errorf("%v", s)
		}
	}
}

// next reads the next picture.
func next(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		check(t, err)
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			return data
		}
	}
}

// looker is a browser that looks.
type looker struct {
	status int
	header http.Header
	body   *bufio.Reader
	leave  func() error
}

func look(t *testing.T, url string) *looker {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/events", nil)
	check(t, err)
	response, err := http.DefaultClient.Do(request)
	check(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	return &looker{response.StatusCode, response.Header, bufio.NewReader(response.Body), response.Body.Close}
}

// All who look are sent the same; one too many is refused, until one goes. When nobody
// looks, nothing is asked for.
func TestClients(t *testing.T) {
	var asked atomic.Uint64
	url := start(t, &web.Options{MaxClients: 2, Ask: func(_ context.Context, r *picture.Request) *picture.Picture {
		p := draw(r)
		p.Transitions = asked.Add(1)
		return p
	}})
	if asked.Load() != 0 {
		t.Error("asked though nobody looks")
	}
	first, second := look(t, url), look(t, url)
	if kind := first.header.Get("Content-Type"); kind != "text/event-stream" {
		t.Error(kind)
	}
	for _, l := range []*looker{first, second} {
		if got := next(t, l.body); !strings.Contains(got, `"transitions":`) {
			t.Error(got)
		}
	}
	third := look(t, url)
	if third.status != http.StatusServiceUnavailable || third.header.Get("Retry-After") == "" {
		t.Errorf("the third: %d %v", third.status, third.header)
	}
	check(t, second.leave())
	waitFor(t, "there is room again", func() bool { return look(t, url).status == http.StatusOK })
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// A browser that takes nothing holds up neither pictures nor the others, and gets the
// latest when it does; one that has died is let go.
func TestSlowClient(t *testing.T) {
	var asked atomic.Uint64
	padding := strings.Repeat("x", 1<<20) // more than any buffer on the way takes
	url := start(t, &web.Options{MaxClients: 2, Ask: func(_ context.Context, r *picture.Request) *picture.Picture {
		p := draw(r)
		p.Notices[0].Reason = padding
		p.Transitions = asked.Add(1)
		return p
	}})
	slow, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	check(t, err)
	defer slow.Close()
	_, err = fmt.Fprintf(slow, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	check(t, err)
	waitFor(t, "the slow one is sent something", func() bool { return asked.Load() > 0 })

	quick := look(t, url).body
	begun := asked.Load()
	for range 4 {
		next(t, quick)
	}
	if asked.Load() < begun+3 {
		t.Errorf("%d pictures while one was slow", asked.Load()-begun)
	}
	waitFor(t, "the slow one is let go", func() bool { return look(t, url).status == http.StatusOK })
}

// What has no answer is said, and does not wait for ever.
func TestNoAnswer(t *testing.T) {
	url := start(t, &web.Options{Ask: func(context.Context, *picture.Request) *picture.Picture { return nil }})
	if status, _, body := get(t, "GET", url+"/state.json", ""); status != http.StatusServiceUnavailable || !strings.Contains(body, "not attached") {
		t.Errorf("%d %s", status, body)
	}
}

// Of many questions at once some are refused, and none is asked beside another.
func TestManyQuestions(t *testing.T) {
	var at atomic.Int32
	hold := make(chan struct{})
	url := start(t, &web.Options{Ask: func(_ context.Context, r *picture.Request) *picture.Picture {
		if at.Add(1) > 1 {
			t.Error("asked beside another")
		}
		<-hold
		at.Add(-1)
		return draw(r)
	}})
	statuses := make(chan int)
	const all = 12
	for range all {
		go func() {
			response, err := http.Get(url + "/state.json")
			if err != nil {
				statuses <- 0
				return
			}
			_ = response.Body.Close()
			statuses <- response.StatusCode
		}()
	}
	if got := <-statuses; got != http.StatusServiceUnavailable { // before any answer
		t.Errorf("the first to be answered: %d", got)
	}
	close(hold)
	ok := 0
	for range all - 1 {
		if <-statuses == http.StatusOK {
			ok++
		}
	}
	if ok == 0 {
		t.Error("none was answered")
	}
}
