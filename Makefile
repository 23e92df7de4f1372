# make demo    train, evaluate and draw the small demo, from nothing
# make test    run the tests
# make lint    check style; make format mends it
# make env     only make .venv, which the others make by themselves
# make clean   remove .venv
# Another Python: make PYTHON=/path/to/python3.12

PYTHON ?= python3 python3.12 python3.11
BIN := .venv/bin
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

.PHONY: demo test lint format env clean

demo: .venv/complete
	$(BIN)/python tools/demo.py

# Threads that spin while they wait are many times slower on busy cores. What loads the
# libraries of every format has a process of its own: beside all the other tests, in one
# process, it ended in a segmentation fault.
DEPLOYMENT := tests/deploy

test: .venv/complete
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --ignore=$(DEPLOYMENT)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest $(DEPLOYMENT)

lint: .venv/complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/complete
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: .venv/complete

# The file is made last, so that a broken-off installation starts again.
.venv/complete: requirements/lock.txt setup.py
	@for python in $(PYTHON); do \
	  $$python -c '$(SUPPORTED)' 2>/dev/null && exec $$python -m venv --clear .venv; \
	done; \
	echo 'Found no Python 3.11 or 3.12 (tried: $(PYTHON)).' \
	  'Name one: make PYTHON=/path/to/python3.12' >&2; \
	exit 1
	$(BIN)/pip install -r requirements/lock.txt
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	$(BIN)/pip check
	touch $@

clean:
	rm -rf .venv
