# make demo    train, evaluate and draw the small demo, from nothing
# make check   style, types and the fast tests: what to run while you work
# make test    run all the tests
# make lint    check style; make format mends it
# make types   check types
# make cover   run all the tests and print which lines they leave out
# make env     only make .venv, which the others make by themselves
# make clean   remove .venv
# Another Python: make PYTHON=/path/to/python3.12

PYTHON ?= python3 python3.12 python3.11
WORKERS ?= 2
BIN := .venv/bin
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

# Threads that spin while they wait are many times slower on busy cores.
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest \
  -n $(WORKERS) --dist worksteal --durations=15

# The libraries of all export formats, loaded into the processes of the other tests,
# ended in a segmentation fault: these tests have processes of their own.
DEPLOYMENT := tests/deploy

.PHONY: demo check test lint format types cover env clean

demo: .venv/complete
	$(BIN)/python tools/demo.py

check: lint types
	$(PYTEST) -m 'not slow and not deploy' --ignore=$(DEPLOYMENT)

test: .venv/complete
	$(PYTEST) --ignore=$(DEPLOYMENT)
	$(PYTEST) $(DEPLOYMENT)

cover: .venv/complete
	$(PYTEST) --cov --cov-report= --ignore=$(DEPLOYMENT)
	$(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-append $(DEPLOYMENT)

lint: .venv/complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/complete
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/complete
	$(BIN)/mypy

env: .venv/complete

# Both files are made last, so that a broken-off installation starts again.
.venv/complete: .venv/locked setup.py pyproject.toml
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	$(BIN)/pip check
	touch $@

.venv/locked: requirements/lock.txt
	@for python in $(PYTHON); do \
	  $$python -c '$(SUPPORTED)' 2>/dev/null && exec $$python -m venv --clear .venv; \
	done; \
	echo 'Found no Python 3.11 or 3.12 (tried: $(PYTHON)).' \
	  'Name one: make PYTHON=/path/to/python3.12' >&2; \
	exit 1
	$(BIN)/pip install -r requirements/lock.txt
	touch $@

clean:
	rm -rf .venv
