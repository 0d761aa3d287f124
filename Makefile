## up [TEMPLATE=astro-minimal]  start a workspace on this machine; Ctrl-C ends it and leaves no process behind
## test [ARGS="-k name -x"]     run the tests, on two processes; WORKERS=0 for one and a debugger
## check                        everything that must hold: lint, format, types, import contracts, tests
## lint                         ruff's rules
## format                       rewrite the sources the way `check` wants them
## types                        mypy --strict
## imports                      the import contracts of pyproject.toml
## lock [ARGS=--upgrade]        make locks/*.txt fit pyproject.toml again (needs the network)
## image                        build workspace-core:latest; BASE=name builds it on another image
## image-test [ARGS="-k x"]     test that image in real containers; starts Docker for as long when root has none running
## bench [ARGS="--only watch"]  our figures beside floors and peers, in under five minutes
## bench-full                   all of them, in eighteen minutes, into benchmarks/results/full.md
## fuzz [SECONDS=30]            search for input that breaks a promise, so long for each target
## clean                        remove the environment and every cache
#
# PYTHON=python3.12 before or after any target asks for a certain interpreter.

TEMPLATE ?= astro-minimal
WORKERS ?= 2
SECONDS ?= 30
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help environment up test check lint format format-check types imports lock image image-test bench bench-full fuzz clean

help:
	@sed -n 's/^## /  make /p' $(MAKEFILE_LIST)

environment:
	@python3 scripts/environment.py

# exec: the signal of a Ctrl-C, and the exit code, are the workspace's own and no shell stands between.
up: environment
	@$(if $(strip $(TEMPLATE)),exec $(BIN)/workspace up '$(subst ','\'',$(TEMPLATE))',$(BIN)/workspace template list)

# With bytecode kept, whatever the shell wishes: reading all tests anew takes each process ten seconds. In the order of
# tests/conftest.py: by the number of its tests, the file that takes longest would come last.
test: environment
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# In this order, quick ones first, also under `make -j`.
check: environment
	@$(MAKE) --no-print-directory -j1 lint format-check types imports test

lint: environment
	@$(BIN)/ruff check .

format: environment
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

format-check: environment
	@$(BIN)/ruff format --check .

types: environment
	@$(BIN)/mypy

imports: environment
	@$(BIN)/lint-imports --no-logo

# Without the environment: it may be the locks that keep it from being made.
lock:
	@python3 -m scripts.lock $(ARGS)

image: environment
	@$(BIN)/python -m scripts.image

image-test: environment
	@$(BIN)/python -m pytest -m image $(ARGS) tests/image

bench: environment
	@$(BIN)/python -m benchmarks $(ARGS)

bench-full: environment
	@$(BIN)/python -m benchmarks --full $(ARGS)

fuzz: environment
	@$(BIN)/python -m tests.fuzz $(TARGETS) --seconds $(SECONDS)

clean:
	rm -rf .venv .fuzz .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
