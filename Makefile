SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-cluster test-local test-newest test-newest-cluster test-newest-unit test-newest-spark quick quick-contract quick-unit lint format format-check types unit clean machine machine-build

# The first interpreter the package supports; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	if $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; \
	then echo $$p; exit; fi; done; echo python3)
VENV := .venv
NEWEST := .venv-newest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP_HINT := echo "missing: pip could not install the packages. It needs PyPI or a mirror of it: \
	set PIP_INDEX_URL and run make again." >&2
PYTEST_ARGS ?=

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: $(VENV)/.stamp-demo ## Install from PyPI and train a model inside a Spark ML Pipeline
	@$(BIN)/python examples/quickstart.py

# Side by side: most tests wait for a JVM, a rank or a limit to pass.
test: $(VENV)/.stamp-horovod format-check lint ## Format, lint, types and all tests, Horovod included
	@$(MAKE) --no-print-directory -j3 test-cluster test-local types

# Each with a temporary directory of its own, as tests look for what is left there.
test-cluster: TESTS = tests/cluster
test-local: TESTS = tests/programs tests/spark tests/unit
test-cluster test-local: $(VENV)/.stamp-horovod
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	TMPDIR=$$folder $(BIN)/python -m pytest $(TESTS) $(PYTEST_ARGS) 2>&1 | sed -u ''

# What petastorm keeps old is new here. Of the faults one with each backend.
test-newest: ## Tests with the newest Spark, pyarrow and numpy, in an environment of their own
	@$(MAKE) --no-print-directory -j2 test-newest-spark test-newest-cluster test-newest-unit

test-newest-cluster: TESTS = tests/cluster/test_contract.py \
	tests/cluster/test_faults.py::test_rank_killed \
	tests/cluster/test_parameter_server_faults.py::test_a_killed_worker_comes_back_and_its_chunk_is_done_again \
	tests/cluster/test_shuffle_faults.py::test_slices_lost_with_their_files
test-newest-unit: TESTS = tests/unit
test-newest-spark: TESTS = tests/spark
test-newest-cluster test-newest-unit test-newest-spark: $(NEWEST)/.stamp
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	TMPDIR=$$folder $(NEWEST)/bin/python -m pytest $(TESTS) $(PYTEST_ARGS) 2>&1 | sed -u ''

quick: $(VENV)/.stamp-horovod ## Unit tests, and what every backend promises: some minutes
	@$(MAKE) --no-print-directory -j2 quick-contract quick-unit

quick-contract: TESTS = tests/cluster/test_contract.py
quick-unit: TESTS = tests/unit
quick-contract quick-unit: $(VENV)/.stamp-horovod
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	TMPDIR=$$folder $(BIN)/python -m pytest $(TESTS) -q -m "not slow" $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev ## Lint with ruff
	$(BIN)/ruff check .

format: $(VENV)/.stamp-dev ## Format the code in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

format-check: $(VENV)/.stamp-dev
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev ## Check the types with mypy
	$(BIN)/mypy

unit: $(VENV)/.stamp-dev ## Only the tests that start no Spark
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

clean: ## Remove the environment and every output of this checkout
	rm -rf $(VENV) $(NEWEST) build dist demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -rf spark-warehouse metastore_db derby.log mlruns mlartifacts mlflow.db
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define RUNS
$(PYTHON) -c '' || { echo "missing: $(PYTHON) does not run. Python 3.10, 3.11 or 3.12 is needed: \
	make PYTHON=/path/to/python3.11 ... (Debian: apt-get install python3.11 python3.11-venv)" >&2; \
	exit 1; }
endef

machine:
	@$(RUNS)
	@$(PYTHON) scripts/check_machine.py

machine-build:
	@$(RUNS)
	@$(PYTHON) scripts/check_machine.py --build

# One pip call each: the packages only fit together when they are resolved together.
$(VENV)/.stamp-demo: pyproject.toml | machine
	@echo "Installing into $(VENV): some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -q -e '.[cpu,petastorm]' || { $(PIP_HINT); exit 1; }
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml | machine
	@echo "Installing with the development tools into $(VENV): some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -q -e '.[cpu,petastorm,horovod-build,mpi,dev]' || { $(PIP_HINT); exit 1; }
	@touch $@ $(VENV)/.stamp-demo

# The wheel of Horovod is the same: it is built against TensorFlow alone.
$(NEWEST)/.stamp: pyproject.toml $(VENV)/.stamp-horovod | machine
	@echo "Installing the newest versions into $(NEWEST): some minutes the first time"
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@$(NEWEST)/bin/python -m pip --disable-pip-version-check install -q -e '.[cpu,horovod-build,mpi,dev]' \
		|| { $(PIP_HINT); exit 1; }
	@$(NEWEST)/bin/spark-dlobd build-horovod
	@touch $@

$(VENV)/.stamp-horovod: $(VENV)/.stamp-dev $(wildcard spark_dlobd/horovod_build/*.py) | machine-build
	@$(BIN)/spark-dlobd build-horovod
	@touch $@
