# `make train` runs the main job, `make test` the tests; both set up .venv first. Needs Python >= 3.11 and make.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python python3.14 python3.13 python3.12 python3.11; do \
  $$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?= -n auto --dist worksteal

.PHONY: help train test lint types docs clean
.DEFAULT_GOAL := help

help:
	@echo "make train   set up, then train the default model   (ARGS='--steps 200 --out runs/a' passes options on)"
	@echo "make test    set up with the tools for development, then run the tests"
	@echo "make lint    ruff and the import order"
	@echo "make types   mypy on the public face"
	@echo "make docs    make the generated tables of docs/ anew"
	@echo "make clean   remove .venv and all that was built"

# Made once; a changed pyproject.toml installs again. Byte code is written now, so that the first import is as fast as the next.
$(BIN)/python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(NEW_ENOUGH)' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV), once"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@$(BIN)/python -m compileall -q mainspring
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(BIN)/python -m compileall -q mainspring
	@touch $@ $(VENV)/.installed

train: $(VENV)/.installed
	$(BIN)/mainspring train $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
