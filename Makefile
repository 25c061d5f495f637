# `make help` lists the targets. Everything runs in .venv, which `make` builds when it is missing
# or when pyproject.toml or constraints.txt is newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench mutants reliability soak clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Seamline needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[embedded,calendars,test,bench]'
	@touch $@

install: $(STAMP) ## set up .venv with every extra

demo: $(STAMP) ## run the whole plane once on an embedded broker and registry; ends with a certificate
	$(BIN)/seamline demo

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Three processes, each with a broker and a registry of its own; a file stays in one of them. Much of
# the long files is waiting, and they come first: in order of collection, not of their tests' number.
test: lint ## linters, then every test that needs no container engine
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## the benchmarks of tests/bench, with their peers, on the embedded broker
	PYTHONPATH=tests $(BIN)/python -m bench

mutants: $(STAMP) ## break the code in each named place and see that a test fails
	PYTHONPATH=tests $(BIN)/python -m mutants --jobs 2 --write docs/mutants.md

reliability: $(STAMP) ## break things for real by seed, compare, and write the table of docs/reliability.md
	PYTHONPATH=tests $(BIN)/python -m faults --write docs/reliability.md

soak: $(STAMP) ## long fault series: the experiments of the suite with many more seeds
	SEAMLINE_SOAK=1 $(BIN)/pytest tests/e2e --timeout 3600
	PYTHONPATH=tests $(BIN)/python -m faults
	SEAMLINE_SOAK=1 $(BIN)/pytest tests/simulation --timeout 43200 -s

clean: ## remove what make and the tools made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
