# Two commands are enough: `make quickstart` trains a model, `make test` proves the house.
# Both make .venv where it is missing. Nothing here installs system packages.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --no-input --quiet
DATA ?=
SET ?=
BENCH_DATA ?=

.PHONY: help quickstart up test check deep docs bench clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart              train a small model of Python on this machine, and let it write"
	@echo "make quickstart DATA=path    the same on your own text: a file, a folder or a quoted glob"
	@echo "                 SET=a.b=c   and with another key of the recipe, as of little text: SET=tokenizer.vocab=1024"
	@echo "make up                      start the platform: API, conductor and a worker"
	@echo "make test                    format, lint, types, import contracts, all tests (make check is the same)"
	@echo "make docs                    write the generated pages of docs/ anew"
	@echo "make bench                   the benchmarks, one after the other; BENCH_DATA=folder adds those on given texts"

quickstart: .venv/.runtime
	$(BIN)/cerulea train recipes/quickstart.toml $(if $(DATA),--data '$(DATA)') $(if $(SET),--set '$(SET)')
	$(BIN)/cerulea sample brook --prompt 'def ' --n 3 --max-tokens 60
	@echo
	@echo "Next:  $(BIN)/cerulea sample brook --prompt 'class Queue:' --max-tokens 200"

up: .venv/.runtime
	$(BIN)/cerulea up

test: .venv/.dev
	@echo "== format";           $(BIN)/ruff format --check .
	@echo "== lint";             $(BIN)/ruff check .
	@echo "== types";            $(BIN)/mypy
	@echo "== import contracts"; $(BIN)/lint-imports
	@echo "== generated docs";   $(BIN)/python -m cerulea.cli.reference --check
	@echo "== tests";            $(BIN)/pytest -n 2

check: test

deep: .venv/.dev
	$(BIN)/pytest -m deep -n 2

docs: .venv/.runtime
	$(BIN)/python -m cerulea.cli.reference

bench: .venv/.dev
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/packing.py --checkpoints
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/schedule.py
	$(BIN)/python benchmarks/overhead.py
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/time_to_loss.py '$(BENCH_DATA)/tinyshakespeare.txt' --peer)
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/time_to_loss.py '$(BENCH_DATA)/tinyshakespeare.txt')
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/packing.py --books '$(BENCH_DATA)/books-train.jsonl.xz' --gpt2 '$(BENCH_DATA)/gpt2-bpe')
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/token_efficiency.py --train '$(BENCH_DATA)/books-train.jsonl.xz' --valid '$(BENCH_DATA)/books-valid.jsonl.xz')

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Cerulea needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one, for example: make PYTHON=python3.12 quickstart"; exit 1; }
	$(PYTHON) -m venv .venv

# torch comes first and alone: pinned, it stays the build that this machine's index offers by default.
.venv/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing Cerulea into .venv"
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[serve,games]'
	@touch $@

.venv/.dev: .venv/.runtime
	@echo "== installing what the tests need into .venv"
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@
