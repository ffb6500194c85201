# Two commands for everybody: `make quickstart` and `make test`. Both make their own environment in $(VENV).
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
BIN := $(VENV)/bin
# One thread per test worker: two workers on two cores are faster than one with two threads (see docs/log.md).
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: quickstart install install-dev browser test test-all lint docs bench clean

quickstart: install
	$(BIN)/luopan run quickstart --runs $(RUNS)

install: $(VENV)/.quickstart
install-dev: $(VENV)/.dev

$(VENV)/.quickstart: pyproject.toml tools/install.py
	$(PYTHON) tools/install.py --venv $(VENV) --extras quickstart
	@touch $@

$(VENV)/.dev: pyproject.toml tools/install.py
	$(PYTHON) tools/install.py --venv $(VENV) --extras dev
	@touch $@

$(VENV)/.slow: pyproject.toml tools/install.py
	$(PYTHON) tools/install.py --venv $(VENV) --extras slow
	@touch $@ $(VENV)/.dev

# Looks for a Chromium for the tests of the page, and installs Debian's where it can; without one they are skipped.
browser: install-dev
	-@$(BIN)/python tools/browser.py --bring

# The default run: everything but the tests marked slow, gpu or data. On two cores in under 15 minutes.
test: install-dev browser
	$(PYTEST) -n 2 --dist loadgroup -m "not slow"

# Everything that this machine can run, the long ones included; compiles llama.cpp for some minutes the first time.
test-all: $(VENV)/.slow browser
	$(PYTEST) -n 2 --dist loadgroup

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The reference pages are written from the code; a test holds the rest of docs/ to it.
docs: install-dev
	$(BIN)/luopan schema --markdown > docs/recipe-reference.md

bench: install-dev
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/generate.py --shape 5.5M --ragged --prompt-tokens 64 --new-tokens 64 --batch 1 16 64 --rounds 5
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/trainer.py
	$(BIN)/python benchmarks/trainer.py --vocab 49152 --steps 7
	$(BIN)/python benchmarks/sft.py
	$(BIN)/python benchmarks/preference.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
