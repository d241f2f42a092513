# `make demo` and `make test` need nothing but Python >= 3.11 and make: each makes its own environment.
PYTHON ?= python3
VENV := .venv
OLD := .venv-oldest
PEERS := .venv-peers
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help coverage demo test test-oldest test-peers lint types unit docs docs-check bench clean

help:
	@echo "make demo         curate two noisy tables; prints a table, writes demo.png"
	@echo "make test         lint, types, and the whole test suite"
	@echo "make test-oldest  the test suite on the oldest supported versions"
	@echo "make test-peers   nets' scores beside those of captum, dattri, kronfluence and pyDVL"
	@echo "make coverage     the tests, and the share of lines and branches that they reach, which is to be 95 %"
	@echo "make docs         the documentation, into docs/_build/html; warnings are errors"
	@echo "make docs-check   every page of it in a headless browser (needs chromium and chromedriver)"
	@echo "make bench        all benchmarks (set SKINFLUENCE_DATA_HOME to a folder of data sets)"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev,docs]" --constraint constraints.txt
	touch $@

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

test: lint types unit docs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest -n auto

coverage: $(STAMP)
	$(BIN)/python -m pytest -n auto --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

docs: $(STAMP)
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

docs-check: docs
	$(BIN)/python docs/check.py docs/_build/html

bench: $(STAMP)
	$(BIN)/python -m benchmarks run noise
	$(BIN)/python -m benchmarks run speed

$(OLD)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/python -m pip install --quiet --upgrade pip
	$(OLD)/bin/python -m pip install --quiet --editable ".[torch,plot]" --constraint constraints-oldest.txt
	$(OLD)/bin/python -m pip install --quiet pytest pytest-xdist hypothesis pandas polars pyarrow imbalanced-learn --constraint constraints-oldest.txt
	touch $@

test-oldest: $(OLD)/.installed
	$(OLD)/bin/python -m pytest -n auto

$(PEERS)/.installed: pyproject.toml constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --editable ".[torch,peers]" pytest hypothesis --constraint constraints-peers.txt
	touch $@

test-peers: $(PEERS)/.installed
	$(PEERS)/bin/python -m pytest tests/test_net_peers.py

clean:
	rm -rf docs/_build docs/api docs/auto_examples docs/results docs/sg_execution_times.rst $(VENV) $(OLD) $(PEERS) build dist *.egg-info
