# make demo    train, evaluate and draw the small demo, from nothing
# make check   style, types and the fast tests: what to run while you work
# make test    run all the tests
# make lint    check style; make format mends it
# make types   check types
# make cover   run all the tests and print which lines they leave out
# make env     only make .venv, which the others make by themselves
# make clean   remove .venv
# make docs    build the site of the pages in site/
# make try     use the wheel in a fresh environment: what docs/versions.md lists
# Another Python: make PYTHON=/path/to/python3.14
# The other set of OpenMMLab's packages, in .venv-onedl: make test OPENMMLAB=onedl

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
OPENMMLAB ?= official-lite
WORKERS ?= 2
VENV := $(if $(filter official-lite,$(OPENMMLAB)),.venv,.venv-$(OPENMMLAB))
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
FIND_PYTHON := for python in $(PYTHON); do \
    $$python -c '$(SUPPORTED)' 2>/dev/null && break; python=; \
  done; \
  test -n "$$python" || { \
    echo 'Found no Python 3.11 to 3.14 (tried: $(PYTHON)). Install one (on Debian and' \
      'Ubuntu: apt install python3 python3-venv; anywhere: uv python install 3.13),' \
      'or name yours: make PYTHON=/path/to/python3.13' >&2; \
    exit 1; \
  }

# Threads that spin while they wait are many times slower on busy cores.
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest \
  -n $(WORKERS) --dist worksteal --durations=15

# The libraries of all export formats, loaded into the processes of the other tests,
# ended in a segmentation fault: these tests have processes of their own.
DEPLOYMENT := tests/deploy

.PHONY: demo check test lint format types cover docs env try clean

demo: $(VENV)/complete
	$(BIN)/python tools/demo.py

check: lint types
	$(PYTEST) -m 'not slow and not deploy' --ignore=$(DEPLOYMENT)

test: $(VENV)/complete
	$(PYTEST) --ignore=$(DEPLOYMENT)
	$(PYTEST) $(DEPLOYMENT)

cover: $(VENV)/complete
	$(PYTEST) --cov --cov-report= --ignore=$(DEPLOYMENT)
	$(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-append $(DEPLOYMENT)

lint: $(VENV)/complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/complete
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/complete
	$(BIN)/mypy

# A link that leads nowhere ends it. The variable leaves out an advertisement.
docs: $(VENV)/complete
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'To read it: $(BIN)/python -m http.server -d site'

env: $(VENV)/complete

try:
	@$(FIND_PYTHON); $$python tests/try_wheel.py --openmmlab $(OPENMMLAB) $(ARGS)

# Both files are made last, so that a broken-off installation starts again.
$(VENV)/complete: $(VENV)/locked setup.py pyproject.toml
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	$(BIN)/pip check
	touch $@

$(VENV)/locked: requirements/lock.txt requirements/$(OPENMMLAB).txt
	@$(FIND_PYTHON); $$python -m venv --clear $(VENV)
	$(BIN)/pip install -r requirements/$(OPENMMLAB).txt
	touch $@

clean:
	rm -rf .venv .venv-onedl
