package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/netutil"
)

// stalled is for how long the reader may read nothing, not even that there is nothing,
// and count as healthy.
const stalled = 10 * time.Second

// maxScrapers bounds the connections that are served at once; others wait. So whoever
// opens many takes neither the files nor the memory that tracing needs.
const maxScrapers = 32

// health is what /healthz answers.
type health struct {
	Attached bool `json:"attached"`
	// Reading: there was a read of the ring within the last seconds; LastRead is how
	// many ago. Walked: the sockets from before are known.
	Reading  bool    `json:"reading"`
	LastRead float64 `json:"last_read_seconds,omitempty"`
	Walked   bool    `json:"walked"`
	Lost     uint64  `json:"lost"`
}

// agentServer serves what the agent knows.
type agentServer struct {
	http.Server
	listener net.Listener
	config   string // of exporter-toolkit; "": none
	log      *slog.Logger
}

// newAgentServer returns a server that listens, but does not serve yet. The page has all
// that is not of others.
func newAgentServer(address, config string, profiles bool, metrics, page http.Handler, state func() health, log *slog.Logger) (*agentServer, error) {
	if err := web.Validate(config); err != nil {
		return nil, usagef("--web.config.file %s: %w", config, err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", page)
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h := state()
		w.Header().Set("Content-Type", "application/json")
		if !h.Attached || !h.Reading {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h) // who asked may be gone
	})
	if profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &agentServer{
		Server: http.Server{
			Handler: mux,
			// Whoever reads slowly is not waited for. A profile of 30 s fits.
			ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 5 * time.Minute,
			MaxHeaderBytes: 16 << 10,
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
		listener: netutil.LimitListener(listener, maxScrapers), config: config, log: log,
	}, nil
}

// serve serves until stop, and returns why it ended otherwise.
func (s *agentServer) serve() error {
	err := web.Serve(s.listener, &s.Server, &web.FlagConfig{WebConfigFile: &s.config}, s.log)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// stop ends serving: answers that have begun have a moment left.
func (s *agentServer) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close()
	}
	_ = s.listener.Close() // if it never served
}
