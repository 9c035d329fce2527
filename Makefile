# Everything from a fresh machine with Python 3.11 to 3.13 and make:
#   make quickstart   set up .venv, run configs/quickstart.yaml on the bundled sample
#   make test         set up .venv, lint, check types, run all tests
#   make bench        measure (see docs/benchmarks.md)

PYTHON ?= python3
VENV ?= .venv
# Files of tests that run at once; each may start a Ray cluster of two workers (2 GB), so more than two want more than two cores
TEST_PROCESSES ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-dev
RUN_STAMP := $(VENV)/.installed-run

.PHONY: quickstart test lint format bench clean

quickstart: $(RUN_STAMP)
	$(BIN)/python -m pipeline run configs/quickstart.yaml

test: lint
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m benchmarks

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(RUN_STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
