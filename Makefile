# make help lists the targets.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GO      ?= go
ARGS    ?=
FUZZTIME ?= 30s
SOAK     ?= 30m
WALK     ?= 10m
KERNEL   ?=
RUN      ?=

GOLANGCI_LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
# The tests that need TCPTRACE_FAULTS.
FAULTS = ^TestKernel(ClockSet|Symbols|ThousandNamespaces|BornDuringWalk|MemoryHit)$$
LDFLAGS = -s -w -X main.version=$(VERSION)
export CGO_ENABLED = 0

# What making and checking the C side needs, and the kernel tests (ss, ip, nft, a
# terminal): building and running need none.
PACKAGES = clang-19 llvm-19 clang-format-19 libbpf-dev iproute2 nftables tmux
# What make test-web drives the browser with, from npm.
BROWSER_MODULES = playwright-core@1.65.1 axe-core@4.14.1
# What make bench loads the host with, and compares with.
BENCH_PACKAGES = wrk libbpf-tools bpftrace

# Prometheus and its promtool, for the tests of the agent, and nginx, for make bench:
# unpacked, not installed, as the packages would start servers.
TOOLS = $(CURDIR)/bin/tools
export PATH := $(PATH):$(TOOLS)/usr/bin:$(TOOLS)/usr/sbin

# $(call install,PACKAGES) installs those that are missing.
define install
missing=$$(for p in $(1); do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $$missing; fi
endef
# $(call unpack,COMMAND,PACKAGE) unpacks it where the command is missing.
define unpack
command -v $(1) >/dev/null || { \
		mkdir -p $(TOOLS) && cd $(TOOLS) && apt-get update -qq && \
		apt-get download -qq $(2) && dpkg-deb -x $(2)_*.deb . && rm $(2)_*.deb; }
endef

.DEFAULT_GOAL := build

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/tcptrace, static, needing nothing but Go
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/tcptrace ./cmd/tcptrace

.PHONY: run
run: build ## build and trace this host; ARGS='-o json --duration 5s' passes arguments
	@./bin/tcptrace $(ARGS)

.PHONY: test
test: ## all tests; those of the kernel side run as root, elsewhere they are skipped
	$(GO) test -p 1 ./... # one package at a time: the kernel's own trace is of the whole host

.PHONY: test-web
test-web: ## the page of the agent in a real browser, as root: installs chromium and node
	@$(call install,chromium)
	@command -v npm >/dev/null || { $(call install,nodejs npm); }
	@npm install --silent --no-audit --no-fund --no-save --prefix $(TOOLS)/browser $(BROWSER_MODULES)
	TCPTRACE_BROWSER=$(TOOLS)/browser TCPTRACE_REQUIRE_KERNEL=1 $(GO) test -count 1 -v -run '^TestBrowserPage$$' ./cmd/tcptrace

.PHONY: test-vm
test-vm: ## kernel tests on emulated machines with Debian's kernels; KERNEL='6.1 7.3' and RUN choose
	$(GO) run ./cmd/vmtest -run '$(RUN)' $(KERNEL)

.PHONY: race
race: ## all tests with the race detector, which needs cgo and a C compiler
	CGO_ENABLED=1 $(GO) test -race ./...

.PHONY: deps
deps: ## install the Debian packages that generate, lint and test need, where missing
	@$(call install,$(PACKAGES))
	@$(call unpack,promtool,prometheus)

.PHONY: generate
generate: deps ## make the generated Go files and objects in bpf/ and the picture in docs/ anew
	$(GO) generate ./...
	$(GO) run ./cmd/tcptrace machine -o svg >docs/machine.svg

.PHONY: check-generated
check-generated: generate ## fail if generate changes anything that is committed
	@test -z "$$(git status --porcelain -- bpf docs)" || { \
		git status --short -- bpf docs; git --no-pager diff --stat -- bpf docs; \
		echo 'these files are not what their sources give: run make generate and commit them' >&2; exit 1; }

.PHONY: lint
lint: deps ## gofmt, go vet, golangci-lint, clang-format, both architectures
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these' >&2; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) run $(GOLANGCI_LINT) run
	clang-format-19 --dry-run --Werror bpf/*.c bpf/*.h

.PHONY: bench
bench: build ## what it costs beside other tools, as root, in a quarter of an hour; ARGS='-only kernel'
	@$(call install,$(BENCH_PACKAGES))
	@$(call unpack,nginx,nginx)
	@$(GO) build -trimpath -o bin/bench ./cmd/bench
	@./bin/bench -json bin/bench.json $(ARGS)

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$pkg || exit 1; \
		done; done

.PHONY: soak
soak: ## churn for SOAK, as root: the memory of the agent stays flat
	TCPTRACE_REQUIRE_KERNEL=1 TCPTRACE_SOAK=$(SOAK) $(GO) test -count 1 -v -timeout 0 -run '^TestKernelSoak$$' ./cmd/tcptrace

.PHONY: walk
walk: ## random walks with new seeds for WALK, as root: see docs/walks.md
	TCPTRACE_REQUIRE_KERNEL=1 TCPTRACE_WALK=$(WALK) $(GO) test -count 1 -v -timeout 0 -run '^TestKernelWalk$$' ./cmd/tcptrace

.PHONY: faults
faults: ## as root: the tests that set the clock and settings of this host, and put them back
	TCPTRACE_REQUIRE_KERNEL=1 TCPTRACE_FAULTS=1 $(GO) test -count 1 -v -timeout 20m -run '$(FAULTS)' ./cmd/tcptrace

.PHONY: vuln
vuln: ## known vulnerabilities of what is linked; needs vuln.go.dev
	$(GO) run $(GOVULNCHECK) ./cmd/tcptrace

.PHONY: dist
dist: ## static binaries, Debian packages, SBOMs and checksums in dist/
	@GO='$(GO)' VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' deploy/dist.sh

.PHONY: check-dist
check-dist: dist ## fail if a clone elsewhere gives other bytes for what is committed
	@clone=$$(mktemp -d) && trap 'rm -rf "$$clone"' EXIT && git clone -q . "$$clone" && \
		$(MAKE) -s -C "$$clone" dist VERSION='$(VERSION)' >/dev/null && diff -r dist "$$clone/dist"

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
