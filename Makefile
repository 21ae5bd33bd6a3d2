# Two commands for a fresh clone: `make quickstart` trains a model, `make test` checks everything.
# Both need python3 and make only; what they install lies in .venv, at the versions of constraints.txt.

PYTHON ?= python3
VENV ?= .venv
# More arguments for pip, such as --index-url; TORCH_ARGS for the installation of torch alone, whose CPU-only build is
# much smaller than the default one (pytorch.org names its index).
PIP_ARGS ?=
TORCH_ARGS ?=
# More arguments for pytest, such as -k recover. Two processes at a time suit two cores.
PYTEST_ARGS ?=
JOBS ?= 2
# Of `make gpu`: the interpreter of a machine that is lent, wheels of what it lacks, and more arguments.
GPU_PYTHON ?= python3
GPU_WHEELS ?=
GPU_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Python 3.10, the oldest that we run on, has pins of its own.
PINS := $(shell $(PYTHON) -c "import sys; print('constraints-3.10.txt' if sys.version_info < (3, 11) else 'constraints.txt')")
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) $(PIP_ARGS)

# What the tests with several hosts need of the system, tried once: root with apt-get installs what is missing.
SYSTEM := $(VENV)/.system

.PHONY: help setup quickstart test test-all test-gpu gpu check lint types format families lock clean
.DELETE_ON_ERROR:

help:
	@echo "make quickstart   install into $(VENV), then train a small mixture-of-experts model that loses a worker"
	@echo "make test         install, then lint, types and every test but the slow ones"
	@echo "make test-all     the same with the slow ones"
	@echo "make test-gpu     the tests that need an NVIDIA GPU"
	@echo "make gpu          what is looked at on a lent GPU, by GPU_PYTHON; GPU_ARGS=--part=1, GPU_WHEELS=FOLDER"
	@echo "make check        lint and types only"
	@echo "make format       put the sources into the house's form"
	@echo "make families    write the families of the transformers in $(VENV) anew, and docs/families.md"
	@echo "make lock         write $(PINS) anew from the newest versions that pyproject.toml allows"
	@echo "make clean        remove $(VENV) and caches; runs/ stays"

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py $(PINS)
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	  { echo "$(PYTHON) is older than 3.10: name a newer one, make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c "import venv, ensurepip" 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments: apt-get install python3-venv (as root), then again"; exit 1; }
	@echo "== environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "== torch (first and pinned, so that nothing else chooses its build)"
	@$(PIP) $(TORCH_ARGS) torch setuptools
	@echo "== dougong and what it needs"
	@DS_BUILD_OPS=0 $(PIP) --no-build-isolation -e ".[dev]"
	@touch $(STAMP)

$(SYSTEM): $(STAMP)
	@echo "== packages of the system for tests with several hosts"
	@$(BIN)/python -m dougong.testing.packages
	@touch $(SYSTEM)

quickstart: setup
	@echo "== dougong run examples/quickstart.yaml"
	@$(BIN)/dougong run examples/quickstart.yaml

test: check $(SYSTEM)
	@echo "== tests"
	@$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-all: check $(SYSTEM)
	@echo "== all tests"
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-gpu: setup
	@echo "== tests on a GPU"
	@$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

# Installs nothing: the interpreter's own torch is what is looked at. Packages that it lacks come from wheels in a folder.
gpu:
	@test -x "$$(command -v $(firstword $(GPU_PYTHON)))" || { \
	  test -e "$(firstword $(GPU_PYTHON))" && why="cannot be executed" || why="is not there"; \
	  echo "GPU_PYTHON=$(GPU_PYTHON) $$why: name the interpreter that has torch, make gpu GPU_PYTHON=PATH" >&2; exit 1; }
	@$(GPU_PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" >/dev/null 2>&1 || { \
	  echo "GPU_PYTHON=$(GPU_PYTHON) is no Python of 3.10 or newer: name the interpreter that has torch, make gpu GPU_PYTHON=PATH" >&2; exit 1; }
	@$(GPU_PYTHON) benchmarks/gpu.py $(if $(GPU_WHEELS),--wheels $(GPU_WHEELS)) $(GPU_ARGS)

check: lint types

lint: setup
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@echo "== types"
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

families: setup
	@echo "== transformers' families, each built once"
	@$(BIN)/python schema/families.py
	@echo "== each of those with experts, trained on three layouts (half an hour on two cores)"
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/families.py

lock:
	@echo "== newest versions into a fresh environment"
	@rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip install --quiet $(PIP_ARGS) $(TORCH_ARGS) "$$(grep '^torch==' $(PINS))" setuptools
	@$(VENV)-lock/bin/python -m pip install --quiet $(PIP_ARGS) --no-build-isolation -e ".[dev]" "$$(grep '^triton==' $(PINS))"
	@{ grep '^#' $(PINS); $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	  | grep -vE '^(cuda-|nvidia-[^m])' | sed 's/+[a-z0-9.]*$$//'; } > $(PINS).new
	@mv $(PINS).new $(PINS) && rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
