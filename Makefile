# One command for each thing a contributor does. Each does all of its own set-up, and nothing twice.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Seconds for each decoder that is fuzzed.
RAFTWORK_FUZZ_SECONDS ?= 20
export PYTHON VENV RAFTWORK_FUZZ_SECONDS

SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find src -name '*.rs')

.PHONY: help setup build build-release demo test test-rust test-python test-upgrade lint format bench wheel clean

help: ## Show this list
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Needed on the machine: Python 3.11 or newer, a C compiler, a Rust toolchain. Nothing else."

# ---------------------------------------------------------------------------------------------------------------------

setup: $(VENV)/.setup ## Make .venv with the pinned tools; as root also the system packages that tests use
$(VENV)/.setup: pyproject.toml .ci/setup
	@.ci/setup
	@touch $@

build: $(VENV)/.built-dev ## Build the Rust core into .venv, for tests and the demo
build-release: $(VENV)/.built-release ## The same with full optimisation, for measurements

# Only one build can be the one that Python imports, so each takes away the other's stamp.
$(VENV)/.built-dev: $(VENV)/.setup $(SOURCES)
	@rm -f $(VENV)/.built-release
	VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/maturin develop --quiet --locked
	@touch $@
$(VENV)/.built-release: $(VENV)/.setup $(SOURCES)
	@rm -f $(VENV)/.built-dev
	VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/maturin develop --quiet --locked --release
	@touch $@

# ---------------------------------------------------------------------------------------------------------------------

demo: build ## Three nodes on this machine: kill the leader, bring it back, and the ledger of what was lost
	$(BIN)/raftwork demo

test: test-rust test-python ## Every test: the core, then Python (35 minutes on two cores, the build included)

test-rust: setup ## The core's tests, with the decoders' fuzz targets
	RAFTWORK_FUZZ_SECONDS=20 cargo test --locked --features sim --lib --test rust
	cargo test --locked --features sim --doc
	cargo test --locked --features sim --profile sim --test sim -- --show-output

test-python: build ## The Python tests, the documents' code blocks included
	$(BIN)/pytest

# Not a part of `test`: it needs the history of the repository, and builds another commit.
test-upgrade: setup ## A cluster under load goes from the build of another commit to this one: FROM=<commit>
	@older=$$(.ci/older-build "$(FROM)") && $(MAKE) --no-print-directory build && \
		$(BIN)/pytest tests/builds --older "$$older"

lint: build ## Formatting, warnings and types, in both languages; changes nothing
	cargo fmt --check
	cargo clippy --locked --all-targets --features sim,python -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m mypy.stubtest raftwork._core --concise
	$(BIN)/ty check

format: setup ## Format both languages
	cargo fmt
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

bench: build-release ## Measure this machine and print the table of benches/README.md
	$(BIN)/python benches/run.py

wheel: setup ## Build dist/*.whl for manylinux and try it where there is no compiler
	.ci/wheel

clean: ## Remove what the build and the tools made
	rm -rf target dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find python src tests benches -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/raftwork/_core*.so
