# Every target sets itself up: all it needs is make and Python 3.10 to 3.13 (choose one with PYTHON=python3.12).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
DEMO ?= demo-output
PYTEST_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help:  ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY)  ## register generated anatomy, use one prompt, write demo-output/report.html
	$(BIN)/deepdiffreg demo -o $(DEMO) --overwrite

test: $(READY)  ## run the whole test suite
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

lint: $(READY)  ## check style, formatting and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell DeepDiffRegLib Testing Resources/Docs README.md CHANGELOG.md

bench: $(READY) $(PEERS)/.ready  ## measure accuracy, time and memory beside greedy and ANTs
	PEERS_PYTHON=$(PEERS)/bin/python $(BIN)/python Testing/Benchmarks/run.py

clean:  ## remove environments, caches and the demo's output
	rm -rf $(VENV) $(PEERS) $(DEMO) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 14) else "Python 3.10 to 3.13 is needed, PYTHON=$(PYTHON) is %d.%d" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lint,test,slicer-tests,training]' -c constraints.txt
	@touch $@

$(PEERS)/.ready: Testing/Benchmarks/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r Testing/Benchmarks/peers.txt
	@touch $@
