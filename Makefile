# Every target that needs the environment makes it first, so a clean clone needs only Python and make.

# The interpreter of the environment: any 3.11 or later. Override with `make PYTHON=/path/to/python3 install`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo check test test-slow oracle bench fuzz mutate chaos soak install-test clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY) ## make .venv with the package and all it needs

$(READY): pyproject.toml requirements/constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; name one with PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; echo \
		"make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu, apt-get install python3-venv provides it" >&2; exit 1; }
	$(BIN)/pip install --quiet -c requirements/constraints.txt -e '.[train,evaluate,serve,dev]'
	@touch $@

demo: install ## paint an exemplar into a photograph: demo/strip.png
	$(BIN)/python examples/demo.py
	@echo demo/strip.png

check: install ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow and not gpu"

test-slow: install ## the tests that take longer
	$(BIN)/pytest -m "slow and not gpu"

oracle: install .venv-oracle/.ready ## compare whole edits with diffusers' own pipeline, in its last version that works
	.venv-oracle/bin/python -m tests.oracle.ancestor build/oracle
	$(BIN)/python -m tests.oracle.compare build/oracle

.venv-oracle/.ready: requirements/oracle.txt
	@test -x .venv-oracle/bin/pip || $(PYTHON) -m venv .venv-oracle
	.venv-oracle/bin/pip install --quiet -r requirements/oracle.txt
	@touch $@

bench: install ## the benchmarks that need no download and no GPU, one after another: prints figures, takes minutes
	$(BIN)/python benchmarks/edit_time.py
	$(BIN)/python benchmarks/speed.py --no-full-size --no-first
	$(BIN)/python benchmarks/batch.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/data.py --pictures 24
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/memory.py

fuzz: install .venv/.fuzz ## malformed inputs to everything that takes some: SEED=0, SCALE=1 for 15,000 of them
	$(BIN)/python -m tests.fuzz --seed $(or $(SEED),0) --scale $(or $(SCALE),1)

.venv/.fuzz: requirements/fuzz.txt
	$(BIN)/pip install --quiet -r requirements/fuzz.txt
	@touch $@

mutate: install .venv/.mutate ## small changes of the code that no test notices: FILE=sampling.py, LIMIT=25, SEED=0
	$(BIN)/python -m tests.mutate $(addprefix --file ,$(FILE)) --limit $(or $(LIMIT),25) --seed $(or $(SEED),0)

.venv/.mutate: requirements/mutate.txt
	$(BIN)/pip install --quiet -c requirements/constraints.txt -r requirements/mutate.txt
	@touch $@

chaos: install ## kill -9, a full disk, folders that cannot be written, a clock that jumps
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "chaos and not gpu"

soak: install ## an hour of mixed traffic at a server: MINUTES=15 for less
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),60)

install-test: ## build sdist and wheel, install the wheel outside the checkout, use it and test it there
	$(PYTHON) tests/install.py

clean: ## remove the environments, caches and the demo's pictures; data/ and runs-out/ stay
	rm -rf .venv .venv-oracle build dist demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
