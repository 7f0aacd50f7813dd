package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"tcptrace/events"
	"tcptrace/events/pcap"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// viewFlags are the flags that all views have, as given.
type viewFlags struct {
	filter   filterFlags
	format   string
	read     string // "": from the kernel
	readToo  string // beside it: of a recording and a capture, the other
	write    string
	count    uint64
	duration time.Duration
	wide     bool
	noColor  bool
	verbose  bool
	failOn   []string
	buffer   int

	maxConnections int
	noTimeWait     bool

	formats []string // of -o, the default first; nil: text and json

	stuck     stuckFlags
	stuckMode stuckMode

	// noCapture is a flag, as given, that has no meaning for a capture of packets; "": none.
	noCapture string

	ladder ladderFlags

	inKernel bool
	counts   *kernelCounts // nil: each transition is sent
}

// Conditions of --fail-on.
const (
	failOnIllegal = "illegal"
	failOnStuck   = "stuck"
	failOnLost    = "lost"
)

// conditions are all of --fail-on.
var conditions = []string{failOnIllegal, failOnStuck, failOnLost}

func (f *viewFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	f.filter.register(flags)
	flags.StringVarP(&f.format, "output", "o", f.outputs()[0], "`FORMAT`: "+orList(f.outputs()))
	flags.BoolVar(&f.wide, "wide", false, "text: more columns, whole names")
	flags.BoolVar(&f.noColor, "no-color", false, "text: no colours (also NO_COLOR)")
	flags.VarP(readValue{f}, "read", "r", "read the recording, or the capture of packets, `FILE` (- for standard input) instead of the kernel")
	flags.StringVarP(&f.write, "write", "w", "", "also record to the new `FILE`, what -p, --comm, -s, --verdict, --socket, addresses and names of cgroups leave out included")
	flags.Uint64VarP(&f.count, "count", "c", 0, "stop after `N` rows")
	flags.DurationVar(&f.duration, "duration", 0, "stop after `D`, such as 30s or 5m")
	flags.StringSliceVar(&f.failOn, "fail-on", nil, "end with status 4 if there was `WHAT`: illegal, stuck, lost")
	f.registerTracing(flags)

	complete(cmd, "output", f.outputs()...)
	complete(cmd, "state", names(fsm.States())...)
	complete(cmd, "verdict", names(fsm.Verdicts())...)
	complete(cmd, "fail-on", conditions...)
}

// readValue is the value of -r, which may be given twice.
type readValue struct{ f *viewFlags }

// Set implements [pflag.Value].
func (v readValue) Set(name string) error {
	switch {
	case v.f.read == "":
		v.f.read = name
		v.f.readToo = ""
	case v.f.readToo == "":
		v.f.readToo = name
	default:
		return errors.New("want two files at most: a recording and a capture")
	}
	return nil
}

// String implements [pflag.Value].
func (v readValue) String() string {
	if v.f == nil {
		return ""
	}
	return v.f.read
}

// Type implements [pflag.Value].
func (v readValue) Type() string { return "string" }

// registerTracing adds the flags that say how the kernel is traced.
func (f *viewFlags) registerTracing(flags *pflag.FlagSet) {
	flags.IntVar(&f.buffer, "buffer", 0, "`BYTES` of the buffers that the kernel fills, of all CPUs together, a power of two (default 16 MiB, 512 KiB for each CPU at least)")
	flags.IntVar(&f.maxConnections, "max-connections", lifecycle.DefaultMaxConnections, "follow up to `N` sockets at once, at about 300 bytes each")
	flags.BoolVar(&f.noTimeWait, "no-time-wait", false, "leave out what the kernel's timers tell: TIME_WAIT and handshakes are not measured")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say on standard error what is being done")
}

// complete offers the values of a flag to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// Fails only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// outputs are the values of -o.
func (f *viewFlags) outputs() []string {
	if f.formats != nil {
		return f.formats
	}
	return []string{"text", "json"}
}

// orList writes "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func names[T fmt.Stringer](values []T) []string {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = v.String()
	}
	return names
}

// run traces, from the kernel or a file, until it is told to stop, and shows the
// results.
func (f *viewFlags) run(cmd *cobra.Command, doing string, text *output.TextOptions, makeView func(*results) view) error {
	return f.trace(cmd, doing, func(p *pipeline) view {
		p.sink = f.sink(cmd, p.source, text)
		if f.format == "text" && text.Table == output.TableStuckReport {
			p.limit = 0 // its rows are of many sockets: it counts them itself
		}
		return makeView(p.results)
	})
}

// trace traces, from the kernel or a file, until it is told to stop. What the results
// go to is for makeView to say.
func (f *viewFlags) trace(cmd *cobra.Command, doing string, makeView func(*pipeline) view) (err error) {
	if err := f.validate(cmd.Flags()); err != nil {
		return err
	}
	filter, err := f.filter.parse()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), stopSignals()...)
	defer stop()
	log := f.logger(cmd.ErrOrStderr())

	source, recording, err := f.open(cmd, filter, log)
	if err != nil {
		return err
	}
	if f.read == "" && f.format == "text" && doing != "" {
		cmd.PrintErrf("tcptrace: %s; Ctrl-C ends it\n", doing)
	}
	defer func() {
		if f.counts != nil {
			f.counts.detach()
		}
		err = errors.Join(err, source.Close())
	}()

	if f.read == "" && f.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	defer context.AfterFunc(ctx, func() {
		source.Stop()
		// Another signal then ends it at once, but not one of the same moment, such as
		// timeout(1) sends.
		time.AfterFunc(time.Second, stop)
	})()

	p := &pipeline{
		source:    source,
		recording: recording,
		tracker:   lifecycle.NewTracker(f.maxConnections),
		results:   &results{filter: filter, clock: source.Clock(), limit: f.count},
		log:       log,
	}
	p.live = f.read == ""
	_, p.packets = source.(*captured)
	p.view = f.stuckView(makeView(p), p.results)
	f.confine(cmd, log)
	err = p.run()
	if f.met(&p.summary) && (err == nil || errors.Is(err, syscall.EPIPE)) { // what was seen stands
		return errCondition
	}
	return err
}

// confine gives up what is needed no more.
func (f *viewFlags) confine(cmd *cobra.Command, log *slog.Logger) {
	if cmd.Context().Value(confined{}) == nil {
		return
	}
	keep := kept
	if f.read != "" {
		keep = 0
	}
	if err := confine(keep); err != nil {
		log.Warn("keeps privileges that it does not need", "error", err)
	}
}

// stuckView adds to a view what is to be said of sockets that are stuck.
func (f *viewFlags) stuckView(inner view, r *results) view {
	if f.stuckMode == stuckOff {
		return inner
	}
	r.summary.HasStuck = true
	// In a capture nothing tells of a socket that does not move, until it has ended.
	return &stuckView{results: r, limits: f.stuck.limits, inner: inner, once: f.stuckMode == stuckOnce || r.packets}
}

// stopSignals are those that end tracing in good order. A hang-up that nohup
// ignores stays ignored.
func stopSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// checkEmpty says whether a flag was given without a value.
func checkEmpty(flags *pflag.FlagSet) (empty error) {
	flags.Visit(func(flag *pflag.Flag) {
		if value := flag.Value.String(); value == "" || value == "[]" {
			empty = usagef("--%s: its value is empty: give one or leave the flag out", flag.Name)
		}
	})
	return empty
}

func (f *viewFlags) validate(flags *pflag.FlagSet) error {
	if err := checkEmpty(flags); err != nil {
		return err
	}
	if formats := f.outputs(); !slices.Contains(formats, f.format) {
		return usagef("-o %s: want %s", f.format, orList(formats))
	}
	for _, condition := range f.failOn {
		if !slices.Contains(conditions, condition) {
			return usagef("--fail-on %s: want illegal, stuck or lost", condition)
		}
	}
	// What is asked for is looked for.
	if f.stuckMode == stuckOff && (f.stuck.on || slices.Contains(f.failOn, failOnStuck)) {
		f.stuckMode = stuckBeside
	}
	switch {
	case f.maxConnections < 1:
		return usagef("--max-connections %d: want at least 1", f.maxConnections)
	case flags.Changed("count") && f.count == 0:
		return usagef("-c 0: want at least 1")
	case flags.Changed("duration") && f.duration <= 0:
		return usagef("--duration %v: want a time span above 0, such as 30s", f.duration)
	case f.read != "" && f.write != "":
		return usagef("-r and -w exclude each other: the recording is there already")
	case f.write == "-":
		return usagef("-w -: results go to standard output: name a file, or a pipe (mkfifo)")
	case f.read != "" && f.buffer != 0:
		return usagef("-r and --buffer exclude each other: a recording needs no buffer")
	case f.read != "" && f.noTimeWait:
		return usagef("-r and --no-time-wait exclude each other: a recording has what was measured")
	case f.buffer < 0 || f.buffer&(f.buffer-1) != 0 || f.buffer != 0 && (f.buffer < os.Getpagesize() || f.buffer > 1<<30):
		return usagef("--buffer %d: want a power of two from %d to %d", f.buffer, os.Getpagesize(), 1<<30)
	}
	return nil
}

// open opens the source, and the recording if there is to be one. The file is
// made before the kernel side is loaded, so that a wrong name costs nothing.
func (f *viewFlags) open(cmd *cobra.Command, filter *filter, log *slog.Logger) (source, *recording, error) {
	if f.read != "" {
		source, err := f.openFiles(cmd.InOrStdin(), filter, log)
		return source, nil, err
	}

	if filter.cgroup != "" || filter.container != "" {
		if _, err := cgroup2Mount(); err != nil {
			return nil, nil, err
		}
	}
	var file *os.File
	if f.write != "" {
		var err error
		if file, err = createRecording(f.write); err != nil {
			return nil, nil, err
		}
	}
	options := filter.kernelOptions()
	if f.ladder.on {
		options = filter.eitherEnd().kernelOptions()
	}
	options.BufferSize = f.buffer
	options.NoTimers = f.noTimeWait
	options.ResetReasons = events.ResetNumbers()
	if f.counts != nil {
		if filter.cgroup != "" {
			return nil, nil, usagef("--in-kernel and --cgroup by its path exclude each other: give the id of the cgroup (ls -d -i)")
		}
		options.Counting = &f.counts.counting
	}
	walks := walks{only: f.stuckMode == stuckOnce}
	if f.stuckMode == stuckWatch || f.stuckMode == stuckBeside {
		walks.every = f.stuck.interval()
	}
	options.WalkOnly = walks.only
	l, err := openLive(options, walks)
	var rec *recording
	if err == nil && file != nil {
		rec, err = newRecording(file, l)
	}
	if err != nil {
		if file != nil {
			err = errors.Join(err, abandon(file))
		}
		if l != nil {
			err = errors.Join(err, l.Close())
		}
		return nil, nil, err
	}
	if f.counts != nil {
		f.counts.attach(l.tracer, log)
	}
	log.Info("attached to sock:inet_sock_set_state", "clock_offset", l.clock.Offset,
		"time_wait", l.tracer.TimeWait() == nil, "handshakes", l.tracer.HalfOpen() == nil)
	return newNamer(l, f.stuckMode != stuckOff), rec, nil
}

// openFiles opens what -r names: a file, or a recording and a capture, in any order.
func (f *viewFlags) openFiles(stdin io.Reader, filter *filter, log *slog.Logger) (source, error) {
	if f.readToo == "" {
		return f.openFile(f.read, stdin, filter, log)
	}
	if f.read == "-" && f.readToo == "-" {
		return nil, usagef("-r - -r -: there is one standard input")
	}
	j := &joined{}
	for _, name := range []string{f.read, f.readToo} {
		// Filters are for what is shown, which is the recording.
		s, err := f.openFile(name, stdin, nil, log)
		if err != nil {
			return nil, errors.Join(err, j.closeOpen())
		}
		switch s := s.(type) {
		case *replay:
			if j.replay != nil {
				return nil, errors.Join(usagef("-r %s -r %s: both are recordings: want one, and a capture", f.read, f.readToo), s.Close(), j.closeOpen())
			}
			j.replay = s
		case *captured:
			if j.capture != nil {
				return nil, errors.Join(usagef("-r %s -r %s: both are captures: want one, and a recording", f.read, f.readToo), s.Close(), j.closeOpen())
			}
			j.capture = s
		}
	}
	return j, nil
}

// openFile opens a file of -r, which says by its first bytes what it is. Without a filter
// it may be a capture whatever is asked for.
func (f *viewFlags) openFile(name string, stdin io.Reader, filter *filter, log *slog.Logger) (source, error) {
	in, err := openInput(name, stdin)
	if err != nil {
		return nil, err
	}
	begin, err := in.Peek(pcap.MagicSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, in.close())
	}
	if !pcap.Recognize(begin) {
		r, err := newReplay(in, f.duration)
		if err != nil {
			return nil, err
		}
		h := r.reader.Header()
		log.Info("reading a recording", "file", name, "kernel", h.Kernel, "boot_id", h.BootID, "program", h.Program, "start", h.Clock().Time(h.Start))
		return r, nil
	}
	if flag := f.meaningless(filter); flag != "" {
		return nil, errors.Join(usagef("%s and a capture of packets exclude each other: packets do not tell it", flag), in.close())
	}
	c, err := newCaptured(in, f.duration, f.maxConnections)
	if err != nil {
		return nil, err
	}
	log.Info("reading a capture", "file", name, "start", c.Clock().Time(c.Start()))
	return c, nil
}

// meaningless returns a flag that chooses by what packets do not tell, or "".
func (f *viewFlags) meaningless(filter *filter) string {
	if filter == nil {
		return ""
	}
	switch e := &filter.events; {
	case len(e.PIDs) > 0:
		return "-p"
	case len(e.Comms) > 0:
		return "--comm"
	case f.filter.netns != "":
		return "--netns"
	case f.filter.cgroup != "":
		return "--cgroup"
	case f.filter.container != "":
		return "--container"
	}
	return f.noCapture
}

func (f *viewFlags) logger(w io.Writer) *slog.Logger {
	if !f.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// sink is where the results go: to standard output, and what the user must
// know beside them to standard error.
func (f *viewFlags) sink(cmd *cobra.Command, s source, text *output.TextOptions) output.Sink {
	out := cmd.OutOrStdout()
	var results output.Sink
	if f.format == "json" {
		results = output.NewJSON(out, s.Clock())
	} else {
		text.Wide = f.wide
		text.MaxRows = f.count
		text.Color = f.color(out)
		text.Location = time.Local
		_, text.Packets = s.(*captured)
		results = output.NewText(out, s.Clock(), text)
	}
	return output.Multi{results, output.NewMessages(cmd.ErrOrStderr())}
}

// color reports whether text is to have colours.
func (f *viewFlags) color(out io.Writer) bool {
	return !f.noColor && os.Getenv("NO_COLOR") == "" && isTerminal(out)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// met reports whether a condition of --fail-on was met.
func (f *viewFlags) met(s *output.Summary) bool {
	return slices.Contains(f.failOn, failOnIllegal) && s.Illegal > 0 ||
		slices.Contains(f.failOn, failOnStuck) && s.Stuck > 0 ||
		slices.Contains(f.failOn, failOnLost) && s.Lost > 0
}
