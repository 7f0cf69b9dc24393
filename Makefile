# Everything is set up in .venv; `make demo` and `make test` need only Python >= 3.11, a compiler and package registries.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

.PHONY: demo test lint types install ui

demo: install
	rsqa run

test: install $(VENV)/browser/chromium
	ruff check .
	ruff format --check .
	mypy
	dagster definitions validate -w workspace.yaml
	pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	ruff check .
	ruff format --check .

types: install
	mypy

ui: install
	rsqa ui

install: $(VENV)/installed

# Without it the tests that open pages are skipped, with the reason.
$(VENV)/browser/chromium: tests/explorer/install_browser.py $(VENV)/installed
	-$(BIN)/python tests/explorer/install_browser.py $(VENV)/browser

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
