# Everything a user runs: make train, make test. Everything a developer adds: make lint, make parity.
# Needs make and Python 3.11 or newer; every other tool is installed into .venv/ from setup.cfg.

# The first interpreter that is new enough and can create environments; PYTHON=... chooses another.
PROBE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
            $$p -c '$(PROBE)' >/dev/null 2>&1 && echo $$p && break; done)

WORKDIR ?= runs/tiny
CONFIG ?= experiments/configs/tiny.py
STEPS ?=
# libtpu, in the environment for its compiler, complains where there is no TPU: then JAX is not to look for one.
JAX_PLATFORMS ?= $(if $(wildcard /dev/accel* /dev/vfio/[0-9]* /dev/nvidia[0-9]*),,cpu)
# Huge pages for the C library's allocator. XLA on a CPU takes its buffers anew at every step, and faulting them in by
# 4 KiB can cost as much as the step (see README); elsewhere it does nothing.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
ARGS ?=
# One test process per core, each with one XLA thread. Compiling is nearly all that the suite does, so it is told not
# to optimise: what is computed is the same.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
QUICK_COMPILE := --xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0 \
                 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false
PYTEST = JAX_PLATFORMS=cpu XLA_FLAGS="$(QUICK_COMPILE) $(XLA_FLAGS)" OMP_NUM_THREADS=1 \
         .venv/bin/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: help test test-fast lint format train notebooks parity clean

help:
	@echo "make train       train the tiny model (STEPS=n, WORKDIR=dir, CONFIG=file, ARGS='--config.field=value ...')"
	@echo "make test        the whole test suite (test-fast: without the slow ones)"
	@echo "make lint        ruff, format check and types (format: rewrite the files)"
	@echo "make notebooks   run experiments/notebooks at a small scale (SCALE=1 ARGS=--write: as they are committed)"
	@echo "make parity      compare with titans-pytorch, in an environment of its own"
	@echo "make clean       remove the environments and caches (runs/ stays)"

# install ENVIRONMENT, PACKAGES
define install
	@$(if $(PYTHON),,echo "No usable Python found: Python 3.11 or newer with its venv module is needed." \
	  "Install it (Debian: apt-get install python3-venv) or name it: make PYTHON=/path/to/python3.11" >&2; exit 1)
	@$(PYTHON) -c '$(PROBE)' || { echo "$(PYTHON) cannot be used: Python 3.11 or newer with its venv module is" \
	  "needed. Name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' $(2)
	@touch $@
endef

.venv/.installed: setup.cfg pyproject.toml
	$(call install,.venv,)

.venv-parity/.installed: setup.cfg pyproject.toml
	$(call install,.venv-parity,torch==2.13.0 titans-pytorch==0.5.5)

test: .venv/.installed
	$(PYTEST) $(ARGS)

test-fast: .venv/.installed
	$(PYTEST) -m "not slow" $(ARGS)

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

train: .venv/.installed
	$(if $(JAX_PLATFORMS),JAX_PLATFORMS=$(JAX_PLATFORMS)) .venv/bin/python -m experiments.train --config=$(CONFIG) --workdir=$(WORKDIR) \
	  $(if $(STEPS),--config.steps=$(STEPS)) $(ARGS)

SCALE ?= 0.02
notebooks: .venv/.installed
	NOTEBOOK_SCALE=$(SCALE) $(if $(JAX_PLATFORMS),JAX_PLATFORMS=$(JAX_PLATFORMS)) \
	  $(if $(filter 1,$(SCALE)),,XLA_FLAGS="$(QUICK_COMPILE) $(XLA_FLAGS)") \
	  .venv/bin/python -m experiments.notebooks.check $(ARGS)

parity: .venv-parity/.installed
	JAX_PLATFORMS=cpu .venv-parity/bin/python -m pytest tests/parity $(ARGS)

clean:
	rm -rf .venv .venv-parity .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist titans_jax.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
