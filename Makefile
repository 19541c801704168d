# `make demo` and `make test` do everything from a fresh clone; both call `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where the demo lives: data, run and report.
DEMO ?= workdir/demo

.PHONY: help setup demo recipe recipe-quick test test-slow lint format clean

help:
	@echo "make setup    create $(VENV) and install ivx with what its tests need"
	@echo "make demo     synthesize videos, train, evaluate, ask, report (about 15 minutes on two cores)"
	@echo "make recipe   run every stage in a row (about 22 minutes on two cores)"
	@echo "make recipe-quick  the same stages with few steps"
	@echo "make test     run the tests"
	@echo "make test-slow  kill the recipe in every stage"
	@echo "make lint     check format and style"
	@echo "make format   apply them"
	@echo "make clean    remove $(VENV) and the demo"

$(VENV)/.installed: setup.py
	@echo "Installing ivx into $(VENV) (about 1 GB of packages, a few minutes the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ivx needs Python 3.11 or later; say which, as in: make setup PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

setup: $(VENV)/.installed

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" DEMO="$(DEMO)" bash experiments/demo.sh

recipe: setup
	@$(BIN)/ivx recipe --config=experiments/recipe.py:tiny --workdir=workdir/recipe

recipe-quick: setup
	@$(BIN)/ivx recipe --config=experiments/recipe.py:quick --workdir=workdir/recipe-quick

test: setup
	@$(BIN)/python -m pytest

test-slow: setup
	@$(BIN)/python -m pytest -m slow

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) workdir/demo workdir/recipe workdir/recipe-quick *.egg-info
