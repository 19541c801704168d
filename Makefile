# `make demo` and `make test` do everything from a fresh clone; both call `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DECODERS := .venv-decoders
LIBTPU := .libtpu
# Where the demo lives: data, stages and report.
DEMO ?= workdir/demo

.PHONY: help setup demo demo-quick test test-8b test-parity test-slow bench-decode libtpu kernels-tpu lint format clean

help:
	@echo "make setup      create $(VENV) and install ivx with what its tests need"
	@echo "make demo       every stage in a row, from a converted model to an agent (25 to 45 minutes on two cores)"
	@echo "make demo-quick the same stages with few steps (3 to 6 minutes)"
	@echo "make test       run the tests"
	@echo "make test-8b    compile the whole step of 8b for a pod (five minutes, 6 GB)"
	@echo "make test-parity compare with torch and transformers, which it installs (two minutes, and two for installing)"
	@echo "make test-slow  kill the recipe in every stage, read a thousand damaged videos"
	@echo "make bench-decode  decode beside torchcodec, decord and others, which it installs apart"
	@echo "make libtpu     fetch the compiler for TPUs (200 MB, 700 unpacked), beside $(VENV): see ivx compile"
	@echo "make kernels-tpu  static schedules of all kernels for all TPUs (about an hour; goes on where it was cut off)"
	@echo "make lint       check format and style"
	@echo "make format     apply them"
	@echo "make clean      remove $(VENV), $(DECODERS) and what the demos made"

$(VENV)/.installed: setup.py
	@echo "Installing ivx into $(VENV) (about 1.2 GB of packages, a few minutes the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ivx needs Python 3.11 or later; say which, as in: make setup PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint,tfds]'
	@touch $@

setup: $(VENV)/.installed

demo: setup
	@$(BIN)/ivx recipe --config=experiments/recipe.py:tiny --workdir=$(DEMO)

demo-quick: setup
	@$(BIN)/ivx recipe --config=experiments/recipe.py:quick --workdir=$(DEMO)-quick

test: setup
	@$(BIN)/python -m pytest --ignore=tests/parity

test-8b: libtpu
	@$(BIN)/python -m pytest -m slow tests/test_compile_8b.py

# trl brings the chat templates of Qwen; no code of it is run. torchvision, of the torch in setup.py,
# resizes for the processors; it is to take that torch as it is, with CUDA or without.
PEERS := trl==1.16.0 torchvision==0.28.0

$(VENV)/.parity: $(VENV)/.installed
	@echo "Installing torch and transformers into $(VENV) (about 1 GB, more where torch comes with CUDA) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[hf]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(PEERS)
	@touch $@

test-parity: $(VENV)/.parity
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/parity

test-slow: setup
	@$(BIN)/python -m pytest -m slow

# Of their own environment, since they bring torch; FFMPEG's shared libraries are for torchcodec.
$(DECODERS)/.installed: ivx/commands/bench/decode_peers.txt
	@echo "Installing decoders to compare with into $(DECODERS) (over 1 GB) ..."
	@test -x $(DECODERS)/bin/python || $(PYTHON) -m venv $(DECODERS)
	@$(DECODERS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-decode: setup $(DECODERS)/.installed
	@$(BIN)/ivx bench decode --peers=$(DECODERS)/bin/python --repeats=3

# Not into $(VENV): JAX would look for a TPU at every start. The pin stands in setup.py.
$(LIBTPU)/.installed: setup.py
	@echo "Fetching libtpu into $(LIBTPU) (about 200 MB) ..."
	@rm -rf $(LIBTPU)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(LIBTPU) \
		$$(sed -n 's/^LIBTPU = "\(.*\)"/\1/p' setup.py)
	@touch $@

libtpu: setup $(LIBTPU)/.installed

# tokamax, whose kernels stand beside ours.
$(VENV)/.peers: $(VENV)/.installed
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[peers]'
	@touch $@

# What docs/results/kernels_tpu.json has of unchanged kernels is kept; AGAIN=--again compiles all.
kernels-tpu: libtpu $(VENV)/.peers
	@$(BIN)/ivx compile kernel --peers $(AGAIN) --out=docs/results/kernels_tpu.md

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DECODERS) $(LIBTPU) $(DEMO) $(DEMO)-quick *.egg-info
