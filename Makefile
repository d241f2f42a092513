# `make demo` and `make test` need nothing but Python >= 3.11 and make: each makes its own environment.
PYTHON ?= python3
VENV := .venv
OLD := .venv-oldest
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-oldest lint types unit bench clean

help:
	@echo "make demo         curate two noisy tables; prints a table, writes demo.png"
	@echo "make test         lint, types, and the whole test suite"
	@echo "make test-oldest  the test suite on the oldest supported versions"
	@echo "make bench        all benchmarks (set SKINFLUENCE_DATA_HOME to a folder of data sets)"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch $@

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest -n auto

bench: $(STAMP)
	$(BIN)/python -m benchmarks run noise
	$(BIN)/python -m benchmarks run speed

$(OLD)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/python -m pip install --quiet --upgrade pip
	$(OLD)/bin/python -m pip install --quiet --editable . --constraint constraints-oldest.txt
	$(OLD)/bin/python -m pip install --quiet pytest pytest-xdist hypothesis pandas polars pyarrow imbalanced-learn matplotlib --constraint constraints-oldest.txt
	touch $@

test-oldest: $(OLD)/.installed
	$(OLD)/bin/python -m pytest -n auto

clean:
	rm -rf $(VENV) $(OLD) build dist *.egg-info
