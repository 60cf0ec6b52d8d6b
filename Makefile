# Marquee. `make` alone explains itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help up test check bench format reference browser clean

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Marquee into $(VENV) (the first time takes a few minutes)"
	$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Marquee and the development tools into $(VENV) (the first time takes a few minutes)"
	$(PIP) --editable '.[all,dev]'
	@touch $(VENV)/.run $@

up: $(VENV)/.run ## Bring everything up on this machine and print its address (options: ARGS='--port 9000')
	@exec $(BIN)/marquee up $(ARGS)

test: $(VENV)/.dev browser check ## Run the checks and every test (Chromium is installed when missing)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev ## Lint, format, types and import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Run the benchmarks and print their ratios
	$(BIN)/python -m benchmarks $(ARGS)

reference: $(VENV)/.dev ## Write docs/reference.md from the code
	$(BIN)/python -m tools.reference

browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || echo "No Chromium: the browser tests will be skipped"

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
