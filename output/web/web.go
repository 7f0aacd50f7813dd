// Package web serves a page that shows the machine and its sockets as they are now. The
// page is one file each of HTML, CSS and JavaScript, embedded here; it needs nothing else.
//
// Pictures are asked for while somebody looks, one for all of them, and at a pace that
// leaves who answers his time. Each browser gets the latest when it has taken the one
// before: a slow one gets fewer, a dead one none.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"tcptrace/fsm"
	"tcptrace/fsm/diagram"
	"tcptrace/output/ladder"
	"tcptrace/output/picture"
	"tcptrace/output/stat"
)

//go:embed assets
var assets embed.FS

// Bounds.
const (
	// DefaultMaxClients is how many browsers can look at once.
	DefaultMaxClients = 32

	refresh   = 250 * time.Millisecond // between two pictures, at least
	rest      = 20                     // times what a picture costs is between two, if that is more
	longest   = time.Second            // and at most: it may have cost much because others had the CPU
	patience  = 5 * time.Second        // for a browser to take what it is sent, and for an answer
	sign      = 15 * time.Second       // of life, if there is nothing to send
	maxAsking = 8                      // questions at once
	maxOwners = 4096                   // in a picture
	maxRows   = 100                    // of sockets
)

// Options of a Page.
type Options struct {
	Version string // of the program
	Host    string // whose sockets these are
	// Ask returns a picture, nil if there is none yet or any more. It is called from
	// other goroutines, never twice at once.
	Ask func(context.Context, *picture.Request) *picture.Picture
	// MaxClients is how many can look at once, 0 meaning DefaultMaxClients.
	MaxClients int
}

// Page is an [http.Handler] for all paths of the page.
type Page struct {
	options Options
	mux     http.ServeMux
	asking  chan struct{} // has as many as are asking or wait for that
	turn    chan struct{} // has the one whose turn it is
	nextAt  time.Time     // begins the next turn
	over    context.Context
	close   context.CancelFunc

	mu      sync.Mutex
	clients int
	cancel  context.CancelFunc // of drawing, while there are clients
	latest  []byte             // nil: none yet
	number  uint64             // of latest
	changed chan struct{}      // closed by the next
}

// New returns a page.
func New(o *Options) *Page {
	p := &Page{options: *o, asking: make(chan struct{}, maxAsking), turn: make(chan struct{}, 1), changed: make(chan struct{})}
	if p.options.MaxClients <= 0 {
		p.options.MaxClients = DefaultMaxClients
	}
	p.over, p.close = context.WithCancel(context.Background())
	index := p.index()
	p.serve("/{$}", "text/html; charset=utf-8", index)
	p.serve("/page.css", "text/css; charset=utf-8", append(asset("page.css"), diagram.LiveStyle...))
	p.serve("/page.js", "text/javascript; charset=utf-8", asset("page.js"))
	p.serve("/icon.svg", "image/svg+xml", asset("icon.svg"))
	p.mux.HandleFunc("GET /events", p.events)
	p.mux.HandleFunc("GET /state.json", p.state)
	p.mux.HandleFunc("GET /sockets.json", p.sockets)
	p.mux.HandleFunc("GET /ladder.svg", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", ladderPolicy)
		p.ladder(w, r, "image/svg+xml", func(b *bytes.Buffer, o *ladder.Options) ladder.Drawer { return ladder.NewSVG(b, o) })
	})
	p.mux.HandleFunc("GET /ladder.txt", func(w http.ResponseWriter, r *http.Request) {
		p.ladder(w, r, "text/plain; charset=utf-8", func(b *bytes.Buffer, o *ladder.Options) ladder.Drawer { return ladder.NewText(b, o) })
	})
	return p
}

func asset(name string) []byte {
	b, err := assets.ReadFile("assets/" + name)
	if err != nil { // it is embedded
		panic(err)
	}
	return b
}

// index makes the page, which has no number of its own.
func (p *Page) index() []byte {
	var machine strings.Builder
	if err := diagram.WriteLive(&machine); err != nil { // a Builder never fails
		panic(err)
	}
	var out bytes.Buffer
	err := template.Must(template.ParseFS(assets, "assets/page.html")).Execute(&out, map[string]any{
		"Version": p.options.Version, "Host": p.options.Host,
		"Machine": template.HTML(machine.String()), //nolint:gosec // it is ours, from constants
		"States":  fsm.States(),
	})
	if err != nil {
		panic(err)
	}
	return out.Bytes()
}

// serve serves what does not change while the program runs.
func (p *Page) serve(path, contentType string, body []byte) {
	sum := sha256.Sum256(body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	p.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	})
}

// Policies: all comes from here, and nothing is within the page or the document but the
// style of a ladder.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

var ladderPolicy = func() string {
	sum := sha256.Sum256([]byte(ladder.SVGStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; frame-ancestors 'none'"
}()

// ServeHTTP implements [http.Handler].
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	if !addressed(r) {
		http.Error(w, "this listens on loopback and is asked for by another name: use http://127.0.0.1 or localhost, or have the proxy set Host to that", http.StatusMisdirectedRequest)
		return
	}
	p.mux.ServeHTTP(w, r)
}

// addressed reports whether the request means this server. One that listens on loopback
// has no other name: where one is used, it is that of a page elsewhere which has its name
// resolved to loopback, to read what is here.
func addressed(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !local.IP.IsLoopback() {
		return true
	}
	name := r.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return true
	}
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// Close ends all that goes on. It may be called more than once.
func (p *Page) Close() { p.close() }

var (
	errBusy  = errors.New("too many ask at once: try again")
	errOver  = errors.New("there is no answer: it is not attached to the kernel yet, or ending, or too busy")
	errGone  = errors.New("this socket is not known any more: of those closed, the last thousand or so are")
	errNoOne = errors.New("this socket is no connection that can be drawn: a listener, or one of which no step is known")
)

// ask waits for its turn, and asks.
func (p *Page) ask(ctx context.Context, r *picture.Request) (*picture.Picture, error) {
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	default:
		return nil, errBusy
	}
	return p.askInTurn(ctx, r)
}

func (p *Page) askInTurn(ctx context.Context, r *picture.Request) (*picture.Picture, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer context.AfterFunc(p.over, cancel)()
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, errOver
	}
	if !wait(ctx, time.Until(p.nextAt)) {
		return nil, errOver
	}
	found := p.options.Ask(ctx, r)
	if found == nil {
		return nil, errOver
	}
	p.nextAt = time.Now().Add(min(rest*found.Cost, longest))
	return found, nil
}

// wait waits, and reports whether the context goes on.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// overview is what all who look see.
func overview() *picture.Request {
	return &picture.Request{By: stat.ByPID, Rows: maxOwners, Times: true}
}

// draw makes pictures until the context is done.
func (p *Page) draw(ctx context.Context) {
	for wait(ctx, refresh) {
		found, err := p.askInTurn(ctx, overview())
		if err != nil {
			continue
		}
		body, err := json.Marshal(stateOf(found))
		if err != nil { // it has no value that cannot be
			continue
		}
		p.mu.Lock()
		if ctx.Err() == nil {
			p.show(body)
		}
		p.mu.Unlock()
	}
}

// show has all see what is the latest now. It is called with the lock.
func (p *Page) show(body []byte) {
	p.latest = body
	p.number++
	close(p.changed)
	p.changed = make(chan struct{})
}

// enter lets one more look, if there is room.
func (p *Page) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients >= p.options.MaxClients || p.over.Err() != nil {
		return false
	}
	if p.clients++; p.clients == 1 {
		var ctx context.Context
		ctx, p.cancel = context.WithCancel(p.over)
		go p.draw(ctx)
	}
	return true
}

func (p *Page) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients--; p.clients == 0 {
		p.cancel()
		p.latest = nil // it would be old when the next comes
	}
}

// events sends a picture again and again.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	if !p.enter() {
		w.Header().Set("Retry-After", "5")
		http.Error(w, fmt.Sprintf("%d look already: close another", p.options.MaxClients), http.StatusServiceUnavailable)
		return
	}
	defer p.leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // of nginx before this
	send := http.NewResponseController(w)
	// What the server bounds is one answer; this one goes on. Where that cannot be said,
	// it ends sooner, and the browser comes again.
	_ = send.SetReadDeadline(time.Time{})
	alive := time.NewTicker(sign)
	defer alive.Stop()
	seen, text := uint64(0), []byte("retry: 2000\n\n")
	for {
		_ = send.SetWriteDeadline(time.Now().Add(patience))
		if _, err := w.Write(text); err != nil || send.Flush() != nil {
			return
		}
		for text = nil; text == nil; {
			p.mu.Lock()
			latest, number, changed := p.latest, p.number, p.changed
			p.mu.Unlock()
			if latest != nil && number != seen {
				seen, text = number, append(append([]byte("data: "), latest...), "\n\n"...)
				break
			}
			select {
			case <-changed:
			case <-alive.C:
				text = []byte(":\n\n")
			case <-r.Context().Done():
				return
			case <-p.over.Done():
				return
			}
		}
	}
}

// state answers with one picture.
func (p *Page) state(w http.ResponseWriter, r *http.Request) {
	found, err := p.ask(r.Context(), overview())
	if err != nil {
		unavailable(w, err)
		return
	}
	answer(w, stateOf(found))
}

// sockets answers with those of a state, the oldest first; of CLOSED, those that were
// closed last.
func (p *Page) sockets(w http.ResponseWriter, r *http.Request) {
	state, err := fsm.ParseState(r.FormValue("state"))
	if err != nil {
		http.Error(w, "state: "+err.Error(), http.StatusBadRequest)
		return
	}
	found, err := p.ask(r.Context(), &picture.Request{Table: picture.TableSockets, State: state, Rows: maxRows, Keep: true})
	if err != nil {
		unavailable(w, err)
		return
	}
	answer(w, socketsOf(found))
}

// ladder answers with the drawing of a connection.
func (p *Page) ladder(w http.ResponseWriter, r *http.Request, contentType string, drawer func(*bytes.Buffer, *ladder.Options) ladder.Drawer) {
	id, err := parseID(r.FormValue("socket"), r.FormValue("generation"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	found, err := p.ask(r.Context(), &picture.Request{Table: picture.TableSockets, State: fsm.Closed, Socket: id, Ladder: true})
	if err != nil {
		unavailable(w, err)
		return
	}
	switch {
	case found.Detail == nil:
		http.Error(w, errGone.Error(), http.StatusNotFound)
		return
	case found.Detail.Ladder == nil:
		http.Error(w, errNoOne.Error(), http.StatusNotFound)
		return
	}
	var out bytes.Buffer
	d := drawer(&out, &ladder.Options{Clock: found.Clock, Location: found.Time.Location()})
	if err := errors.Join(d.Draw(found.Detail.Ladder), d.Close()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = out.WriteTo(w) // who asked may be gone
}

// parseID understands the identity of a socket, as it is in JSON.
func parseID(socket, generation string) (id picture.SocketID, err error) {
	if id.Cookie, err = strconv.ParseUint(socket, 16, 64); err != nil {
		return id, fmt.Errorf("socket %q: want its id, as in ss -e", socket)
	}
	n := uint64(0)
	if generation != "" {
		if n, err = strconv.ParseUint(generation, 10, 32); err != nil {
			return id, fmt.Errorf("generation %q: want a number", generation)
		}
	}
	id.Generation = uint32(n)
	return id, nil
}

func unavailable(w http.ResponseWriter, err error) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // who asked may be gone
}
