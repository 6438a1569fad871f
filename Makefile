# Every target sets up what it needs. `make demo` and `make test` work from a clean clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal
READY := $(VENV)/.ready

.PHONY: help install demo test test-unit test-long test-slow coverage lint format types docs bench clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(READY) ## a virtual environment in .venv with everything in it

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' \
		|| { echo 'sau needs Python 3.11 or later: make PYTHON=python3.12 ...' >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: $(READY) ## plant a backdoor, remove it, measure, export: under 2 minutes
	$(BIN)/sau demo --out demo --force

test: $(READY) lint ## lint and all fast tests, in under five minutes
	$(PYTEST) -m 'not long and not slow and not gpu' --cov --cov-report= --cov-fail-under=91 -q

test-unit: $(READY) ## the fast tests of single parts alone, in under a minute
	$(PYTEST) -m 'not long and not slow and not gpu' -q tests/unit

test-long: $(READY) ## the other tests that CI runs: whole commands, stopped, resumed and gone wrong
	$(PYTEST) -m 'long and not slow and not gpu' --cov --cov-append --cov-report= --cov-fail-under=0 -q

coverage: $(READY) ## what the last test and test-long covered, and whether that is enough
	$(BIN)/coverage report

test-slow: $(READY) ## the long sweeps
	$(BIN)/python -m pytest -m slow -q

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

types: $(READY) ## both type checkers
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(READY) ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## the manual in site/, its tables and its reference written anew
	$(BIN)/python docs/generate/tables.py
	$(BIN)/python docs/generate/command_line.py
	$(BIN)/mkdocs build --quiet

bench: $(READY) ## speed, as ratios taken in one run
	$(BIN)/python -m tests.benchmarks.start_up
	$(BIN)/python -m tests.benchmarks.purify_epoch --images 256 --rounds 1
	$(BIN)/python -m tests.benchmarks.purify_memory
	$(BIN)/python -m tests.benchmarks.purify_rounds --images 512

clean: ## remove what the targets made
	rm -rf $(VENV) demo site .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
