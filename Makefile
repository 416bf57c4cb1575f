# Every target sets up what it needs by itself: a virtual environment in build/venv, from hashed locks, nothing global.
# CI (.ci/run) calls these same targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

# The first Python >= 3.11 on this machine; PYTHON=/path/to/python chooses another.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { command -v "$$name"; break; }; done)
JOBS ?= 2

VENV := build/venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready$(if $(filter file,$(origin PYTHON)),,$(subst /,-,$(PYTHON)))
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
UV := $(BIN)/uv --quiet --system-certs
MEMBERS := core agent collector
TYPED := $(MEMBERS) tools $(patsubst %/,%,$(sort $(dir $(wildcard tests/demo/*.py tests/bench/*.py tests/sim/*.py))))
COVERAGE_DIR := build/coverage

.PHONY: help setup demo test test-pure test-processes test-sim coverage check static format bench sim lock wheels clean

help: ## this list
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 18

# ---------------------------------------------------------------- set-up

setup: $(READY) ## build/venv with everything that the other targets need (they call it themselves)

$(READY): requirements/dev.txt $(MEMBERS:%=%/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it (Debian 12: apt-get install python3), or name one with make PYTHON=/path/to/python." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not a Python 3.11 or newer: name one with make PYTHON=/path/to/python." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: run apt-get install python3-venv as root, then this again." >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON) from requirements/dev.txt (once, and again when the locks change)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements/dev.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --no-index $(MEMBERS:%=-e ./%)
	@$(PIP) check || { echo "requirements/dev.txt lacks what a pyproject.toml asks for: run make lock, then this again." >&2; exit 1; }
	@touch $@

# ---------------------------------------------------------------- run
# These programs share code with the tests, as tests.…, hence the path.

RUN := PYTHONPATH="$(CURDIR)" $(BIN)/python

demo: $(READY) ## the whole path of a line on this machine's logs, then a tampered byte named (KEEP=1 leaves it running)
	$(RUN) tests/demo/demo.py $(if $(KEEP),--keep)

bench: $(READY) ## CPU seconds, wall time and peak memory of whole processes
	$(RUN) tests/bench/bench.py

sim: $(READY) ## simulated runs with new seeds for SECONDS=60
	$(RUN) tests/sim/sim.py --seconds $(or $(SECONDS),60)

# ---------------------------------------------------------------- test
# A suite measures into a folder of its own, emptied first; `coverage` adds them up and holds the floor.

# $(call suite,NAME,PYTEST ARGUMENTS)
define suite
@rm -rf $(COVERAGE_DIR)/$(1) && mkdir -p $(COVERAGE_DIR)/$(1)
COVERAGE_FILE="$(CURDIR)/$(COVERAGE_DIR)/$(1)/data" $(BIN)/coverage run -m pytest $(2) $(ARGS)
endef

test: test-pure test-processes test-sim coverage ## every test, and the coverage floor

test-pure: $(READY) ## tests that start no process; ARGS="-k name" goes to pytest
	$(call suite,pure,-n $(JOBS) -m "not process" --ignore=tests/sim tests)

test-processes: $(READY) ## tests of real processes
	$(call suite,processes,-m process --ignore=tests/sim tests)

test-sim: $(READY) ## the simulation's fixed seeds
	$(call suite,sim,-n $(JOBS) tests/sim)

coverage: $(READY) ## adds up what the suites measured; fails below the floor in pyproject.toml
	@rm -f $(COVERAGE_DIR)/data
	@$(BIN)/coverage combine --quiet --keep $(wildcard $(COVERAGE_DIR)/pure $(COVERAGE_DIR)/processes $(COVERAGE_DIR)/sim)
	$(BIN)/coverage report

# ---------------------------------------------------------------- check

check: static test ## test, and format, lint, types, import contracts

static: $(READY) ## format, lint, types, import contracts; no tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports --no-cache

format: $(READY) ## rewrites the source in the house format
	$(BIN)/ruff check --quiet --select I --fix .
	$(BIN)/ruff format .

# ---------------------------------------------------------------- release

# The development lock first; the others then take their versions from it. An entry never records where it came from.
COMPILE = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-package duramen \
  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: ## writes requirements/*.txt anew from the pyproject files (UPGRADE=1 takes newer versions)
	@test -x $(BIN)/uv || $(MAKE) --no-print-directory setup || test -x $(BIN)/uv
	$(COMPILE) --all-extras --group dev $(MEMBERS:%=%/pyproject.toml) -o requirements/dev.txt
	$(COMPILE) -c requirements/dev.txt --extra cli --extra http core/pyproject.toml -o requirements/duramen.txt
	$(COMPILE) -c requirements/dev.txt agent/pyproject.toml -o requirements/agent.txt
	$(COMPILE) -c requirements/dev.txt collector/pyproject.toml -o requirements/collector.txt

wheels: $(READY) ## the three wheels in build/wheels, and proof that the agent's environment holds nothing else
	@rm -rf build/wheels
	$(PIP) wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir build/wheels $(MEMBERS:%=./%)
	$(BIN)/python tools/wheels.py build/wheels requirements build/agent-env

clean: ## removes build/ and every cache
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
