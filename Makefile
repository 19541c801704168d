# `make demo` and `make test` do everything from a fresh clone; both run `make setup` first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DECODERS := .venv-decoders
LIBTPU := .libtpu
# Where the demo and the recipe live: data, stages and report.
DEMO ?= workdir/demo
RECIPE ?= workdir/recipe
# Processes that run tests; each keeps one core busy.
JOBS ?= auto
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: help setup demo recipe recipe-quick test test-8b test-parity test-slow test-readme docs \
	bench-decode libtpu kernels-tpu wheel lock lint format clean

help:
	@echo "make setup        create $(VENV) and install ivx with what its tests need"
	@echo "make demo         convert, train, evaluate, chat, agent, export (8 to 10 minutes on two cores)"
	@echo "make recipe       every stage in a row, at tiny size (25 to 45 minutes on two cores)"
	@echo "make recipe-quick the same stages with few steps (3 to 6 minutes)"
	@echo "make test         run the tests"
	@echo "make test-8b      compile a step of 8b for a pod, lower all others (fifteen minutes, 6 GB)"
	@echo "make test-parity  compare with torch and transformers, which it installs"
	@echo "make test-slow    kill the recipe in every stage, read a thousand damaged videos"
	@echo "make test-readme  run every command of the README and the notebook"
	@echo "make docs         build the documentation site into workdir/site"
	@echo "make wheel        build a wheel into dist/"
	@echo "make libtpu       fetch the compiler for TPUs (200 MB, 700 unpacked): see ivx compile"
	@echo "make bench-decode compare video decoders, which it installs apart"
	@echo "make kernels-tpu  static schedules of all kernels for all TPUs (about an hour, resumable)"
	@echo "make lock         pin the versions that are installed in $(VENV)"
	@echo "make lint         check format and style"
	@echo "make format       apply them"
	@echo "make clean        remove environments and what the demo made"

$(VENV)/.installed: setup.py requirements.lock
	@echo "Installing ivx into $(VENV) (about 1.2 GB of packages, a few minutes the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ivx needs Python 3.11 or later; name one, as in: make setup PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[test,lint,tfds]'
	@touch $@

setup: $(VENV)/.installed

demo: setup
	@$(BIN)/ivx recipe --config=recipe:demo --workdir=$(DEMO)
	@printf '\n== chat: the same question before and after training (the shape is visible from 2.0 to 6.0 s)\n'
	@for model in base sft_short; do echo "-- $$model" && $(BIN)/ivx chat --workdir=$(DEMO)/$$model \
		--video=assets/clip.mp4 --question="When is the shape visible?" || exit 1; done
	@printf '\nOpen $(DEMO)/report.html\n'

recipe: setup
	@$(BIN)/ivx recipe --config=recipe:tiny --workdir=$(RECIPE)

recipe-quick: setup
	@$(BIN)/ivx recipe --config=recipe:quick --workdir=$(RECIPE)-quick

test: setup
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --ignore=tests/parity

test-8b: libtpu
	@$(BIN)/python -m pytest -m slow tests/test_compile_8b.py

# trl brings the chat templates of Qwen; none of its code runs. torchvision, which resizes for the
# processors, must take the torch of requirements.lock as it is, with CUDA or without.
PEERS := trl==1.16.0 torchvision==0.28.0

$(VENV)/.parity: $(VENV)/.installed
	@echo "Installing torch and transformers into $(VENV) (about 1 GB, more where torch comes with CUDA) ..."
	@$(PIP) --editable '.[hf]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(PEERS)
	@touch $@

test-parity: $(VENV)/.parity
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/parity

test-slow: setup
	@$(BIN)/python -m pytest -m slow

test-readme: $(VENV)/.docs
	@$(BIN)/python -m pytest -m docs tests/test_docs.py

$(VENV)/.docs: $(VENV)/.installed
	@$(PIP) --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs
	@$(BIN)/mkdocs build --strict --quiet --site-dir workdir/site
	@echo "open workdir/site/index.html"

wheel: setup
	@$(PIP) build
	@$(BIN)/python -m build --wheel --outdir dist . > /dev/null
	@ls dist/*.whl

# An environment of their own, since they bring torch; FFmpeg's shared libraries are for torchcodec.
$(DECODERS)/.installed: benchmarks/decode/peers.txt
	@echo "Installing the other decoders into $(DECODERS) (over 1 GB) ..."
	@test -x $(DECODERS)/bin/python || $(PYTHON) -m venv $(DECODERS)
	@$(DECODERS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-decode: setup $(DECODERS)/.installed
	@$(BIN)/python -m benchmarks decode --peers=$(DECODERS)/bin/python --repeats=3

# Not into $(VENV): JAX would look for a TPU at every start.
$(LIBTPU)/.installed: requirements.lock $(VENV)/.installed
	@echo "Fetching libtpu into $(LIBTPU) (about 200 MB) ..."
	@rm -rf $(LIBTPU)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(LIBTPU) \
		$$(grep '^libtpu==' requirements.lock)
	@touch $@

libtpu: $(LIBTPU)/.installed

# tokamax, whose kernels are compiled next to ours.
$(VENV)/.peers: $(VENV)/.installed
	@$(PIP) --editable '.[peers]'
	@touch $@

# Rows of unchanged kernels are kept; AGAIN=--again compiles all.
kernels-tpu: libtpu $(VENV)/.peers
	@$(BIN)/python -m benchmarks schedules --peers $(AGAIN) --out=docs/results/kernels_tpu.md \
		--store=benchmarks/results/kernels_tpu.json

lock: setup
	@mkdir -p workdir
	@bash .ci/lock $(BIN) > workdir/requirements.lock && mv workdir/requirements.lock requirements.lock

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DECODERS) $(LIBTPU) $(DEMO) $(RECIPE) $(RECIPE)-quick *.egg-info build dist
