# Every target makes its own virtual environment when it is missing or out of date, and reuses it otherwise.
#   make demo PYTHON=python3.12                                       another interpreter
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu        torch from another package index
#   make test PYTEST_ARGS="-k ledger -x"                              part of the tests
#   make test WORKERS=0                                               in one process, for a debugger or printed output
PYTHON ?= python3
TORCH_INDEX ?=
IGNORE_GPU ?=
PYTEST_ARGS ?=
DEPENDENCIES ?= shared
SLOW ?= slow
# A worker per core, four at most: each holds its own torch, about 1.3 GB.
WORKERS ?= auto
PYTEST = python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal

BIN := .venv/bin
STAMP := .venv/.installed
MAKE_VENV = $(PYTHON) scripts/make_venv.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(if $(IGNORE_GPU),--ignore-gpu)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check golden golden-check mutants bench bench-table constraints test-newest test-oldest wheel clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## the whole story on rendered tissue, in minutes: a report that compares heads
	$(BIN)/histotune demo

test: $(STAMP)  ## the default tests
	$(BIN)/$(PYTEST) $(PYTEST_ARGS)

test-slow: $(STAMP)  ## the tests that take minutes each (SLOW="slow and not long": those below ten minutes)
	$(BIN)/$(PYTEST) -m "$(SLOW)" $(PYTEST_ARGS)

check: $(STAMP)  ## style, types and the order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_room_order.py

golden: $(STAMP)  ## record what every command prints and writes today (AT=COMMIT: what that commit's do)
	$(BIN)/python scripts/golden record $(if $(AT),--at $(AT))

golden-check: $(STAMP)  ## record again and tell every difference from the kept record, key by key
	$(BIN)/python scripts/golden check

mutants: $(STAMP)  ## plant a hundred faults one by one: do those that the tests found once still die?
	$(BIN)/python -m scripts.mutants run

bench: $(STAMP)  ## measure every claim on this machine and print the table
	$(BIN)/python -m benchmarks run

bench-table: $(STAMP)  ## print the table of the recorded claims
	$(BIN)/python -m benchmarks table

constraints: .venv-newest/.installed  ## pin the newest versions that fit together into constraints.txt
	.venv-newest/bin/python scripts/write_constraints.py > constraints.txt.new
	mv constraints.txt.new constraints.txt

test-newest: .venv-newest/.installed  ## the tests with the newest versions, constraints ignored
	.venv-newest/bin/$(PYTEST) $(PYTEST_ARGS)

test-oldest: .venv-oldest/.installed  ## the tests with the lowest declared versions (torch 2.8)
	.venv-oldest/bin/$(PYTEST) $(PYTEST_ARGS)

wheel: $(STAMP)  ## build the wheel, install it outside of this tree and run the demo there (DEPENDENCIES=fresh: all anew)
	$(BIN)/python scripts/check_wheel.py --dependencies $(DEPENDENCIES)

clean:  ## remove what was built and cached, not the environments
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the environments
	rm -rf .venv .venv-newest .venv-oldest

$(STAMP): pyproject.toml constraints.txt scripts/make_venv.py
	$(MAKE_VENV) .venv --constraints constraints.txt
	touch $@

.venv-newest/.installed: pyproject.toml scripts/make_venv.py
	$(MAKE_VENV) .venv-newest --extras dev,kaggle
	touch $@

.venv-oldest/.installed: pyproject.toml
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install uv
	.venv-oldest/bin/uv pip install --python .venv-oldest/bin/python --resolution lowest-direct -e '.[dev]'
	touch $@
