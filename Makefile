# Needs nothing but make and Python 3.10 to 3.13 with venv and pip. Everything is installed into
# .venv, once, and again when pyproject.toml or the pins change. Only results go to stdout.

PYTHON ?= python3
DATA ?= corpus
MODEL ?= tiny-zh
SHAPES ?=
SECONDS ?= 600
TARGETS ?=
ROUNDS ?=
MORE_PEERS ?=

PINS := .ci/constraints.txt
BIN := .venv/bin
INSTALLED := .venv/installed
CODE := gentool tests
PEERS := .venv-peers
PEER_PINS := tests/bench/peers-requirements.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow fuzz check format pages readme bench bench-heldout bench-peers clean
MAKEFLAGS += --no-print-directory

help:  ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## installs gentool into .venv and continues 今天天气不错
	@$(BIN)/gentool complete "今天天气不错"

test: $(INSTALLED)  ## runs the tests that take seconds
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(INSTALLED)  ## runs the tests that take minutes, and the laws of decoding on XLA
	@$(BIN)/python -m pytest -m slow --timeout 1800
	@GENTOOL_TEST_RUNTIME=xla $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile tests/decoding tests/generation

fuzz: $(INSTALLED)  ## tries damaged files, wrong keys, numbers and command lines (SECONDS=600 TARGETS="bytes keys")
	@$(BIN)/python tests/fuzz $(TARGETS) --seconds $(SECONDS)

check: $(INSTALLED)  ## checks format, lint and types; counts lines per file
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/mypy gentool
	@find gentool -name '*.py' -exec wc -l {} + | sort -rn

format: $(INSTALLED)  ## formats the code and sorts its imports
	@$(BIN)/ruff check --fix --select I $(CODE)
	@$(BIN)/ruff format $(CODE)

pages: $(INSTALLED)  ## writes what the pages' commands print today into them
	@PYTHONPATH=tests $(BIN)/python tests/test_pages.py

readme: pages

bench: $(INSTALLED)  ## measures cold start, tokens/s and memory of the shipped model
	@$(BIN)/python tests/bench/figures.py

bench-heldout: $(INSTALLED)  ## bits per character on held-out text, MODEL and a 5-gram (DATA=FOLDER of the corpus)
	@$(BIN)/python tests/bench/heldout.py configs/train/tiny-zh.yaml --data $(DATA) --model $(MODEL) --ngram

bench-peers: $(INSTALLED) $(PEERS)/installed  ## measures gentool beside its peers (SHAPES="tiny 12x768 32x2560" ROUNDS=3)
	@$(BIN)/python tests/bench/peers.py $(if $(SHAPES),--shapes $(SHAPES)) $(if $(ROUNDS),--rounds $(ROUNDS))

clean:  ## removes what the tools left behind (the installation too: rm -r .venv)
	@rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find gentool tests -name __pycache__ -type d -prune -exec rm -rf {} +

# pip reads the user's own configuration for proxies and indices; the pins hold for builds too.
$(INSTALLED): pyproject.toml $(PINS)
	@{ $(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) .venv; } >&2
	@echo "installing gentool into .venv (TensorFlow is a download of some 600 MB)" >&2
	@PIP_CONSTRAINT=$(PINS) PIP_BUILD_CONSTRAINT=$(PINS) PIP_DISABLE_PIP_VERSION_CHECK=1 \
		$(BIN)/python -m pip install --prefer-binary -e ".[dev]" >&2
	@touch $@

# llama.cpp is compiled: without a compiler the others are measured without it. Its products for AMX
# end in a segmentation fault on some machines (llama.cpp issue 20824), so it is built without them.
# MORE_PEERS="torch transformers tensorflow keras-hub" installs what is not measured unless asked for.
$(PEERS)/installed: $(PEER_PINS)
	@echo "installing gentool's peers into $(PEERS) (llama.cpp is compiled: minutes)" >&2
	@$(PYTHON) -m venv $(PEERS) >&2
	@PIP_CONSTRAINT=$(PEER_PINS) PIP_DISABLE_PIP_VERSION_CHECK=1 $(PEERS)/bin/python -m pip install \
		--prefer-binary safetensors gguf ctranslate2 $(MORE_PEERS) >&2
	@CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__" PIP_CONSTRAINT=$(PEER_PINS) \
		$(PEERS)/bin/python -m pip install llama-cpp-python >&2 || \
		echo "warning: llama.cpp was not compiled, and is left out" >&2
	@touch $@

.PHONY: .venv
.venv:
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: $(PYTHON) not found"; \
		echo "hint: install Python 3.10 to 3.13, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "error: TensorFlow 2.21 does not run on $$($(PYTHON) --version 2>&1)"; \
		echo "hint: it needs Python 3.10 to 3.13; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "error: $(PYTHON) has no venv"; \
		echo "hint: on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv
