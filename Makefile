# Two commands are enough for a start: `make demo` shows the main job, `make test` proves the parts.
# Both do their own set-up: a virtual environment in .venv and the Debian packages that they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test acceptance bench lint clean demo-packages test-packages guest-packages

help:            ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml
	@.ci/debian-packages venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	$(BIN)/python -m ops.warm_up
	@touch $(STAMP)

setup: $(STAMP)  ## the virtual environment alone

demo-packages:
	@.ci/debian-packages demo

test-packages:
	@.ci/debian-packages demo test

guest-packages:
	@.ci/debian-packages guest

demo: $(STAMP) demo-packages  ## capture, verify, roll up and restore a real volume, in two minutes
	$(BIN)/rollforward demo

test: $(STAMP) test-packages  ## every test but the full-size ones
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not acceptance"

acceptance: $(STAMP) test-packages guest-packages  ## the checks at full size, grouped by subject, each with its figure
	$(BIN)/python -m pytest tests/acceptance -m acceptance -p no:cacheprovider -s -q

bench: $(STAMP) test-packages  ## speed as ratios to peers, measured in one run
	$(BIN)/python -m bench

lint: $(STAMP)   ## ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
