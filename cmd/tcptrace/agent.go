package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"tcptrace/events"
	"tcptrace/output"
	"tcptrace/output/otlp"
	"tcptrace/output/picture"
	"tcptrace/output/prom"
	"tcptrace/output/web"
)

const agentHelp = `  sudo tcptrace agent                                   metrics on http://127.0.0.1:9917/metrics,
                                                        a page to look at on http://127.0.0.1:9917/
  curl -s 127.0.0.1:9917/metrics | grep ^tcptrace_      what they are
  sudo tcptrace agent --listen :9917 --web.config.file web.yml   for others, by TLS and password
  sudo tcptrace agent --by comm,lport                   transitions, ends and stuck sockets by process and port
  sudo tcptrace agent --otlp-endpoint http://127.0.0.1:4318      to an OpenTelemetry Collector, too
  sudo tcptrace agent --config /etc/tcptrace/agent.yml  the same flags from a file
  sudo tcptrace agent --limit CLOSE_WAIT=30s >> findings.jsonl   what is illegal or stuck, as JSON Lines

agent runs until it is stopped. It counts transitions, time in each state, ends of
connections and of TIME_WAIT for Prometheus, and writes what is illegal and what is
stuck to standard output. A browser sees the state machine live, with whose sockets are
in which state. docs/agent.md describes the metrics and the page.`

// defaultListen is where the agent listens unless told otherwise.
const defaultListen = "127.0.0.1:9917"

// defaultFindings is how many findings are written in a minute.
const defaultFindings = 100

// defaultOTLPInterval is how often metrics are sent, as OpenTelemetry has it.
const defaultOTLPInterval = time.Minute

// agentFlags are the flags of the agent, as given.
type agentFlags struct {
	viewFlags
	listen, webConfig, config string
	by                        []string
	maxSeries                 int
	findings                  uint64
	profiles                  bool
	otlpEndpoint              string
	otlpInterval              time.Duration
}

func newAgent() *cobra.Command {
	f := &agentFlags{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run for long: metrics for Prometheus, a page to look at, findings as JSON Lines",
		Long:  agentHelp,
		Args:  cobra.NoArgs,
		RunE:  begun(f.run),
	}
	f.register(cmd)
	return cmd
}

func (f *agentFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.listen, "listen", defaultListen, "serve /, which is a page to look at, /metrics and /healthz at `ADDRESS`")
	flags.StringVar(&f.webConfig, "web.config.file", "", "TLS and passwords, from a `FILE` as of all Prometheus exporters")
	flags.StringVar(&f.config, "config", "", "read the flags that are not given from `FILE`: YAML with their long names")
	flags.StringSliceVar(&f.by, "by", nil, "group transitions, ends and stuck sockets by `LABEL`, ...: comm, container, unit, netns, lport")
	flags.IntVar(&f.maxSeries, "max-series", prom.DefaultMaxSeries, "with --by, up to `N` series; the rest is counted as other")
	flags.Uint64Var(&f.findings, "max-findings", defaultFindings, "write up to `N` findings a minute; 0: none")
	flags.StringVar(&f.otlpEndpoint, "otlp-endpoint", "", "also send metrics and findings to the OpenTelemetry receiver at `URL`, such as http://127.0.0.1:4318")
	flags.DurationVar(&f.otlpInterval, "otlp-interval", defaultOTLPInterval, "... metrics every `TIME`")
	flags.BoolVar(&f.profiles, "pprof", false, "also serve /debug/pprof, which shows what this program does")
	f.stuck.register(flags)
	f.filter.register(flags)
	f.registerTracing(flags)
	f.registerInKernel(flags)

	by := make([]string, 0, len(prom.Labels()))
	for _, l := range prom.Labels() {
		by = append(by, string(l))
	}
	complete(cmd, "by", by...)
}

// check says whether the flags make sense.
func (f *agentFlags) check(cmd *cobra.Command) error {
	if err := f.validate(cmd.Flags()); err != nil {
		return err
	}
	if _, err := f.filter.parse(); err != nil {
		return err
	}
	if _, err := prom.ParseLabels(f.by); err != nil {
		return usagef("--by: %w", err)
	}
	if _, _, err := net.SplitHostPort(f.listen); err != nil {
		return usagef("--listen: %w: want HOST:PORT or :PORT, such as %s", err, defaultListen)
	}
	if f.maxSeries < 1 {
		return usagef("--max-series %d: want at least 1", f.maxSeries)
	}
	if f.otlpEndpoint != "" {
		if _, err := otlp.ParseEndpoint(f.otlpEndpoint); err != nil {
			return usagef("--otlp-endpoint: %w", err)
		}
	}
	if f.otlpInterval < time.Second {
		return usagef("--otlp-interval %v: want at least 1s", f.otlpInterval)
	}
	return nil
}

func (f *agentFlags) run(cmd *cobra.Command) error {
	f.format, f.stuckMode = "text", stuckBeside
	if err := f.check(cmd); err != nil {
		return err
	}
	if f.config != "" {
		if err := readConfig(f.config, cmd.Flags(), func() error { return f.check(cmd) }); err != nil {
			return usagef("--config: %w", err)
		}
	}
	by, err := prom.ParseLabels(f.by)
	if err != nil {
		return usagef("--by: %w", err)
	}
	var counter output.Counter
	if f.inKernel {
		if err := f.countInKernel(cmd, prom.Bounds(), "by"); err != nil {
			return err
		}
		counter = f.counts.read
	}
	log := f.logger(cmd.ErrOrStderr())

	pulse := &pulse{begun: time.Now()}
	read := func() uint64 {
		counted, _ := f.counts.total()
		return pulse.events.Load() + counted
	}
	metrics := prom.New(&prom.Options{Version: version, Events: read, By: by, MaxSeries: f.maxSeries, Counted: counter})
	registry := metrics.Registry()
	exporter, err := f.exporter(cmd, registry)
	if err != nil {
		return err
	}
	var attached atomic.Bool
	var looked atomic.Pointer[pictures] // nil: not attached yet
	page := web.New(&web.Options{Version: version, Host: hostName(), Ask: func(ctx context.Context, r *picture.Request) *picture.Picture {
		if p := looked.Load(); p != nil {
			return p.ask(ctx, r)
		}
		return nil
	}})
	defer page.Close()
	server, err := newAgentServer(f.listen, f.webConfig, f.profiles, prom.Handler(registry), page, func() health {
		h := health{Attached: attached.Load(), Walked: pulse.walked.Load(), Lost: metrics.Lost()}
		if h.Attached {
			age := pulse.age()
			h.Reading, h.LastRead = age < stalled, age.Seconds()
		}
		return h
	}, log)
	if err != nil {
		return err
	}
	server.RegisterOnShutdown(page.Close)

	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	cmd.SetContext(ctx)
	served := make(chan error, 1)
	go func() {
		served <- server.serve()
		cancel()
	}()
	go feedWatchdog(ctx, pulse, log)

	stderr := &enduring{w: cmd.ErrOrStderr(), complaints: cmd.ErrOrStderr(), name: "standard error"}
	stdout := newOutlet(&enduring{w: cmd.OutOrStdout(), complaints: stderr, name: "standard output"})
	defer stdout.close()

	doing := fmt.Sprintf("serving metrics on %[1]s/metrics, a page on %[1]s/", server.listener.Addr())
	err = f.trace(cmd, doing, func(p *pipeline) view {
		v := newAgentView(p, metrics, pulse, f.findingsSink(stdout, stderr, p.clock, exporter))
		v.ports.available = availablePorts
		v.countInKernel(f.counts)
		v.ready = func() { notify(log, daemon.SdNotifyReady) }
		pulse.beat()
		looked.Store(v.pictures)
		attached.Store(true)
		return v
	})
	notify(log, daemon.SdNotifyStopping)
	server.stop()
	return errors.Join(err, <-served)
}

// hostName is for people, "" if there is none.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// exporter returns what sends the metrics of the registry, with its own, and findings
// by OTLP; nil if that is not asked for.
func (f *agentFlags) exporter(cmd *cobra.Command, registry *prometheus.Registry) (*otlp.Exporter, error) {
	if f.otlpEndpoint == "" {
		return nil, nil
	}
	endpoint, err := otlp.ParseEndpoint(f.otlpEndpoint)
	if err != nil {
		return nil, usagef("--otlp-endpoint: %w", err)
	}
	stderr := cmd.ErrOrStderr()
	exporter, err := otlp.New(&otlp.Options{
		Endpoint: endpoint, Interval: f.otlpInterval, Version: version, Metrics: registry,
		// Where that cannot be told, nothing is left to do.
		Complain: func(text string) { _, _ = fmt.Fprintf(stderr, "tcptrace: OTLP: %s\n", text) },
	})
	if err != nil {
		return nil, usagef("--otlp-endpoint: %w", err)
	}
	return exporter, registry.Register(exporter)
}

// findingsSink is where findings go: to standard output, and by OTLP if there is an
// exporter; notices and the summary to standard error, too.
func (f *agentFlags) findingsSink(stdout, stderr io.Writer, clock events.Clock, exporter *otlp.Exporter) *findings {
	var all output.Multi
	if f.findings > 0 {
		all = append(all, output.NewJSON(stdout, clock))
	}
	all = append(all, output.NewMessages(stderr))
	if exporter != nil {
		all = append(all, exporter.Start(clock))
	}
	return &findings{Sink: all, clock: clock, most: f.findings}
}

// notify tells systemd, if it started this.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "error", err)
	}
}

// feedWatchdog tells systemd that all is well, as long as the ring is read.
func feedWatchdog(ctx context.Context, p *pulse, log *slog.Logger) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	for tick := time.NewTicker(interval / 2); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
			if p.age() < stalled {
				notify(log, daemon.SdNotifyWatchdog)
			}
		}
	}
}
