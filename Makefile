# The commands of this repository; `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test check fix test-unit test-integration test-acceptance chaos bench lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "taskserver needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.installed-test: requirements-test.lock $(VENV)/.installed
	$(BIN)/pip install -q --require-hashes --no-deps -r requirements-test.lock
	@touch $@

setup: $(VENV)/.installed ## Make .venv with the locked dependencies and the product

demo: setup ## Run the main job on the embedded stack and show its outcome
	@$(BIN)/taskserver demo

dev: setup ## Run the embedded stack in the foreground
	@$(BIN)/taskserver dev

test: check ## Lint, types and the whole test suite
	$(BIN)/pytest -n 3 --no-loadscope-reorder

check: $(VENV)/.installed-test ## Format, lint and type checks
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy

fix: $(VENV)/.installed-test ## Format, and mend what the linter can
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

test-unit: $(VENV)/.installed-test ## Tests without any server
	$(BIN)/pytest tests/unit

test-integration: $(VENV)/.installed-test ## Tests on a real PostgreSQL
	$(BIN)/pytest tests/integration

test-acceptance: $(VENV)/.installed-test ## Tests on the whole stack with real workers
	$(BIN)/pytest tests/acceptance

chaos: $(VENV)/.installed-test ## Kills and outages at length, and far more random histories than `make test` tries
	$(BIN)/pytest -m chaos
	HYPOTHESIS_PROFILE=explore $(BIN)/pytest tests/integration/test_transition_properties.py tests/unit/test_planner_properties.py

bench: $(VENV)/.installed-test ## Measure against plain Celery on the same Redis
	$(BIN)/python -m tests.bench

lock: ## Renew the lock files (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --extra embedded --group build -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --extra embedded --group build --group test -c requirements.lock -o requirements-test.lock

clean: ## Remove the environment and the embedded state
	rm -rf $(VENV) .taskserver
