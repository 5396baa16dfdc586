# `make demo` and `make test` need python3.11 (or later), make and pip; everything else they fetch themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := build/native
COMPILED_TESTS := $(addprefix tests/,audit batching conformance execution monitor/test_ordered.py monitor/test_placing.py monitor/test_tap.py router simulation/test_batcher_simulation.py unit wire)
SOURCES = $(shell find gateway runtimes router -name '*.py')

.DEFAULT_GOAL := help
.PHONY: help venv tools native demo check format test sim parity bench clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(INSTALLED)  ## .venv with `tidegate` and all that tests and demo need

$(INSTALLED): pyproject.toml
	@sh .ci/packages ensurepip:$(PYTHON)=python3-venv
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,demo]'
	@touch $@

tools:  # commands that tests and benchmarks call; without them those tests are skipped
	@sh .ci/packages wrk=wrk promtool=prometheus prometheus-alertmanager=prometheus-alertmanager redis-server=redis-server

native: $(NATIVE)/.built  ## build/native: the package with its hot path compiled; put it on PYTHONPATH to run it

$(NATIVE)/.built: setup.py $(SOURCES) $(INSTALLED)
	@sh .ci/packages cc=build-essential headers:$(PYTHON)=python3-dev
	rm -rf build
	TIDEGATE_COMPILE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(NATIVE) .
	@touch $@

demo: venv  ## serve models, let evidence decide on new versions, print a report (KEEP=1: leave the server running)
	@sh .ci/packages redis-server=redis-server || true
	@$(BIN)/python -m examples.credit.demo

check: venv  ## format, lint, types, architecture
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --no-cache --quiet .
	$(BIN)/mypy
	$(BIN)/mypy -p examples -p loadtests
	$(BIN)/python -m pytest tests/architecture

format: venv  ## let ruff put things right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: venv tools  ## everything but the long simulations; process trees run compiled, one after another
	@sh .ci/packages cc=build-essential headers:$(PYTHON)=python3-dev
	@if sh .ci/packages --ask cc= headers:$(PYTHON)=; then $(MAKE) --no-print-directory native; \
	else echo "No compiler: all runs interpreted."; fi
	$(BIN)/python -m pytest -n 2 -m "not sim and not process"
	$(BIN)/python -m pytest -n 2 -m "not sim and not process and not interpreted" -o pythonpath="$(NATIVE) ." $(COMPILED_TESTS)
	PYTHONPATH=$(CURDIR)/$(NATIVE) $(BIN)/python -m pytest -m "process and not sim"

sim: venv tools native  ## long simulations and repetitions
	PYTHONPATH=$(CURDIR)/$(NATIVE) $(BIN)/python -m pytest -m sim -o pythonpath="$(NATIVE) ." --timeout 900

parity:  ## compute the figures of Evidently, NannyML and River anew, in an environment of their own
	@test -x .venv-parity/bin/python || $(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -r tests/parity/requirements.txt
	PYTHONHASHSEED=0 .venv-parity/bin/python -m tests.parity.parity

targets:  ## ask Prefect's and Airflow's own servers for retraining, each in an environment of its own
	@for one in prefect==3.9.1 airflow-core==3.3.2; do \
	  name=$${one%%[-=]*}; package=$$one; [ $$name = prefect ] || package=apache-$$one; \
	  test -x .venv-$$name/bin/python || $(PYTHON) -m venv .venv-$$name; \
	  .venv-$$name/bin/python -m pip install --quiet --disable-pip-version-check $$package msgspec || exit 1; \
	  .venv-$$name/bin/python -m tests.parity.retrain_targets $$name || exit 1; \
	done

bench: venv tools native  ## closed loop against the echo floor; writes bench-results/ (a quiet machine, please)
	PYTHONPATH=$(CURDIR)/$(NATIVE) $(BIN)/python -m loadtests.run

clean:  ## remove what the targets made, but not .venv
	rm -rf demo-data bench-results build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
