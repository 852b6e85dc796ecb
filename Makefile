# Everything runs in an environment of its own, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PEERS := .venv-peers
# the sweep that was run last, for `make notebooks`
SWEEP ?= $(or $(notdir $(shell ls -td runs/sweeps/* 2>/dev/null | head -n 1)),quickstart)

.PHONY: quickstart test test-fast test-cluster lint docs notebooks bench bench-peers install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

quickstart: install  ## the main job on the embedded dataset; prints the comparison table
	$(BIN)/mpcwdwm sweep run quickstart.yaml

test: install  ## all but test-cluster; two processes, since tests that start Ray wait more than they compute
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not services"

test-fast: install  ## without clusters and long trainings
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

test-cluster: install  ## what needs several nodes or a server; one after the other
	$(BIN)/python -m pytest -m services

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install  ## the site, in build/docs; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -E -b html docs build/docs

notebooks: install  ## JupyterLab on this machine, at the sweep that was just run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[notebooks]"
	MLFLOW_TRACKING_URI=sqlite:///$(CURDIR)/runs/mlflow.db STORAGE=$(CURDIR)/runs SWEEP=$(SWEEP) \
		$(BIN)/jupyter lab --ip 127.0.0.1 analysis/notebooks

bench: install  ## speed against named alternatives; docs/benchmarks.md keeps the results
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/planning.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/pretraining.py --peer $(PEERS)/bin/python
	$(BIN)/python tests/benchmarks/sweep.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/growth.py --quick

bench-peers: $(PEERS)/installed  ## what `make bench` compares with, in an environment of its own; once before it

$(PEERS)/installed: tests/benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	touch $@

clean:  ## removes the environment, never results
	rm -rf $(VENV) $(PEERS) build dist *.egg-info
