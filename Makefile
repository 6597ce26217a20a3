# Everything a user runs: make train, make test. Everything a developer adds: make lint, make parity.
# Needs make and Python 3.11 or newer; every other tool is installed into .venv/ from setup.cfg.

# The newest interpreter that the suite is tested with, or else another that works; PYTHON=... chooses one.
VERSIONS := 3.13 3.12 3.11 3.14 3
PYTHON ?=

WORKDIR ?= runs/tiny
CONFIG ?= experiments/configs/tiny.py
STEPS ?=
# libtpu, in the environment for its compiler, complains where there is no TPU: then JAX is not to look for one.
JAX_PLATFORMS ?= $(if $(wildcard /dev/accel* /dev/vfio/[0-9]* /dev/nvidia[0-9]*),,cpu)
# Huge pages for the C library's allocator. XLA on a CPU takes its buffers anew at every step, and faulting them in by
# 4 KiB can cost as much as the step (docs/guides/train.md); elsewhere it does nothing.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
ARGS ?=
# One test process per core, each with one XLA thread. Compiling is nearly all that the suite does, so it is told not
# to optimise: what is computed is the same.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
QUICK_COMPILE := --xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0 \
                 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false
# quick_compile ENVIRONMENT: those of the flags above that its XLA knows, found when it was installed.
quick_compile = $$(cat $(1)/.quick_compile) $(XLA_FLAGS)
# pytest ENVIRONMENT
pytest = JAX_PLATFORMS=cpu XLA_FLAGS="$(call quick_compile,$(1))" OMP_NUM_THREADS=1 \
         $(1)/bin/python -m pytest -n $(JOBS) --dist worksteal

# The oldest JAX that is supported, and the tests that hold it to the newest one's results.
OLDEST := jax==0.10.2 flax==0.12.8
OLDEST_TESTS ?= tests/pallas_kernels tests/titans_jax/memory tests/titans_jax/models/test_causality.py \
                tests/titans_jax/models/test_gradients.py tests/experiments/test_resume.py

.PHONY: help test test-fast test-oldest lint format train notebooks docs parity clean

help:
	@echo "make train       train the tiny model (STEPS=n, WORKDIR=dir, CONFIG=file, ARGS='--config.field=value ...')"
	@echo "make test        the whole test suite (test-fast: without the slow ones)"
	@echo "make test-oldest the tests of memory, models, kernels and resuming, with the oldest JAX that is supported"
	@echo "make lint        ruff, format check and types (format: rewrite the files)"
	@echo "make notebooks   run experiments/notebooks at a small scale (SCALE=1 ARGS=--write: as they are committed)"
	@echo "make docs        the documentation, into site/"
	@echo "make parity      compare with titans-pytorch, in an environment of its own"
	@echo "make clean       remove the environments and caches (runs/ stays)"

# install ENVIRONMENT, VERSIONS OF PYTHON, PACKAGES. An XLA that does not know a flag ends the process: each is tried.
define install
	@python=$(or $(PYTHON),$$(.ci/find_python $(2))) || { echo "No usable Python found: one of $(2) with its venv" \
	  "module is needed. Install it (Debian: apt-get install python3-venv) or name it: make PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || { echo "$$python cannot be used:" \
	  "Python 3.11 or newer with its venv module is needed. Name another: make PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	echo "$(1): $$($$python --version), $$python"; \
	$$python -m venv --clear $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' $(3)
	@for flag in $(QUICK_COMPILE); do \
	  JAX_PLATFORMS=cpu XLA_FLAGS=$$flag $(1)/bin/python -c 'import jax; jax.devices()' >/dev/null 2>&1 && echo $$flag; \
	done >$(1)/.quick_compile; test -s $(1)/.quick_compile
	@touch $@
endef

.venv/.installed: setup.cfg pyproject.toml
	$(call install,.venv,$(VERSIONS),)

.venv-oldest/.installed: setup.cfg pyproject.toml
	$(call install,.venv-oldest,3.11 3.12 3.13,$(OLDEST))

.venv-parity/.installed: setup.cfg pyproject.toml
	$(call install,.venv-parity,$(VERSIONS),torch==2.13.0 titans-pytorch==0.5.5)

test: .venv/.installed
	$(call pytest,.venv) $(ARGS)

test-fast: .venv/.installed
	$(call pytest,.venv) -m "not slow" $(ARGS)

test-oldest: .venv-oldest/.installed
	$(call pytest,.venv-oldest) -m "not slow" $(or $(ARGS),$(OLDEST_TESTS))

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
	  $(if $(filter 1,$(SCALE)),,XLA_FLAGS="$(call quick_compile,.venv)") \
	  .venv/bin/python -m experiments.notebooks.check $(ARGS)

docs: .venv/.installed
	.venv/bin/mkdocs build --strict $(ARGS)

parity: .venv-parity/.installed
	JAX_PLATFORMS=cpu .venv-parity/bin/python -m pytest tests/parity $(ARGS)

clean:
	rm -rf .venv .venv-oldest .venv-parity .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site titans_jax.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
