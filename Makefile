# Everything a developer or a curious stranger runs. Needs Python >= 3.11 and make; the rest goes into .venv.

VENV := .venv
BIN := $(VENV)/bin
# What was installed is kept as an empty file, and installed again only when pyproject.toml is newer.
DEV := $(VENV)/.installed-dev
DEMO := $(VENV)/.installed-demo
PACKAGES := broker agent workers tests
# Options for the program behind a target: make test ARGS="-k signal -x", make demo ARGS=--kill-agents
ARGS ?=
# Processes that run tests side by side.
WORKERS ?= 2

# The first interpreter that is new enough. Name another one with: make env PYTHON=/path/to/python3.12
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$python && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help env check format test demo bench bench-nvflare chaos clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r target text; do \
		printf '  make %-14s %s\n' "$$target" "$$text"; done

env: $(DEV) ## create .venv with all that development needs

check: $(DEV) ## formatting, lint, types, and who may import whom
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## format the code and mend what ruff can mend
	$(BIN)/ruff format $(PACKAGES)
	$(BIN)/ruff check --fix $(PACKAGES)

# pytest ends with 5 when there was no test for it: ARGS may choose from one of the two only. It ends with 2 when it was
# interrupted, or a file could not be read.
test: $(DEV) ## run all tests: first those that can run side by side, then those marked as serial
	@beside=0; alone=0; \
	$(BIN)/python -m pytest --serial without -n $(WORKERS) --dist worksteal $(ARGS) || beside=$$?; \
	test $$beside -ne 2 || exit 2; \
	$(BIN)/python -m pytest --serial only $(ARGS) || alone=$$?; \
	case "$$beside $$alone" in "0 0" | "0 5" | "5 0") ;; *) exit 1 ;; esac

# A development environment holds all of the demo; otherwise only what the demo needs is installed.
demo: $(if $(wildcard $(DEV)),$(DEV),$(DEMO)) ## train a model over four agents and show it live
	@exec $(BIN)/redflare demo $(ARGS)

bench: $(DEV) ## measure the link beside its floors
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-nvflare: $(DEV) ## the same trainer inside real NVFlare, over its link and over ours
	$(BIN)/python -m tests.benchmarks --only nvflare $(ARGS)

chaos: $(DEV) ## the long soaks: thousands of tasks, and whole federations, under random kills
	$(BIN)/python -m tests.chaos $(ARGS)

clean: ## remove .venv and everything that was generated
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist out
	find $(PACKAGES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "No Python >= 3.11 was found. Install one (Debian, Ubuntu: apt install python3 python3-venv)," >&2; \
		echo "or name it: make $(or $(MAKECMDGOALS),env) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "$(PYTHON) is no Python >= 3.11; name another with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot create environments. Debian, Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(DEMO): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@
