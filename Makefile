# One door to everything: `make help` lists it. Every target sets up .venv by itself, once.

VENV ?= .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

# What tests, soak and bench take from the command line.
SECONDS ?= 120
SEED ?=
NAME ?=
JOBS ?= 2
# Where tests have their files, if not in pytest's own place; it is emptied first.
BASETEMP ?=
PYTEST = $(BIN)/pytest -n $(JOBS) --dist worksteal $(if $(BASETEMP),--basetemp $(BASETEMP) -o tmp_path_retention_policy=failed)
FUZZ = $(if $(filter command,$(firstword $(origin COUNT))),--count $(COUNT) --resume,$(FUZZ_TIMED))
FUZZ_TIMED = $(if $(EACH),--seconds $(EACH),--guided --seconds $(SECONDS))
COUNT ?= 1000
OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types architecture soak fuzz simulate-missions docker-test test-aarch64 bench check constraints clean

help: ## List what can be made.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## Fly a real model over an emulated link; KEEP=1 leaves everything running.
	@$(BIN)/python demo/fly.py $(if $(KEEP),--keep)

test: $(READY) ## Run the fast tests (under three minutes), in JOBS=2 processes.
	$(PYTEST)

test-slow: $(READY) ## Run the slow tests: real weights, kill -9, real power cuts where root allows.
	$(PYTEST) -m '(slow or power) and not soak and not docker' --timeout 900

lint: $(READY) ## Check style: ruff's rules and its formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Check types: mypy --strict on the three packages.
	$(BIN)/mypy

architecture: $(READY) ## Check who imports whom: import-linter.
	$(BIN)/lint-imports --no-cache

soak: $(READY) ## Fly over random links for SECONDS=120, with SEED=n to repeat a run.
	$(BIN)/python -m tests.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

simulate-missions: $(READY) ## Fly COUNT=1000 random missions in virtual time, SEED=n and on; some 20 minutes.
	@$(BIN)/skyload simulate --missions $(COUNT) --seed $(or $(SEED),1)

fuzz: $(READY) ## Attack every parser: SECONDS=120 for each room, guided; or EACH=5 seconds for each; or COUNT=1000000 cases.
	$(BIN)/python -m tests.fuzz $(FUZZ) --jobs $(JOBS) $(if $(SEED),--seed $(SEED))

docker-test: $(READY) ## Fly between containers; skips itself where no Docker engine answers.
	$(BIN)/pytest tests/docker -m docker --timeout 1500 -rs

test-aarch64: $(READY) ## Run the weight codec on an emulated ARM machine; needs Debian's qemu-user.
	@command -v qemu-aarch64 >/dev/null || { echo "hint: apt install qemu-user" >&2; exit 1; }
	@tests/aarch64/make-sysroot
	$(BIN)/pytest tests/aarch64 -m slow -rs

bench: $(READY) ## Run one measurement, NAME=flight, KEEP=1 to write it down, OPTIONS=...; without NAME, list them.
	@$(BIN)/python -m bench $(NAME) $(OPTIONS) $(if $(KEEP),--keep)

check: lint types architecture test test-slow soak docker-test ## Everything that must be green.

constraints: ## Pin anew: make a fresh environment from pyproject.toml and write constraints.txt.
	.ci/pin-constraints

clean: ## Remove caches, builds and the demo's leftovers (not .venv).
	rm -rf build dist demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted set-up is taken up again by the next `make`.
$(READY): pyproject.toml constraints.txt .ci/make-venv
	@VENV=$(VENV) PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX) .ci/make-venv
	@touch $@
