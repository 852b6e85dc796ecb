# Everything runs in an environment of its own, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint bench install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

quickstart: install  ## the main job on the embedded dataset; prints the comparison table
	$(BIN)/mpcwdwm sweep run quickstart.yaml

test: install  ## every test
	$(BIN)/python -m pytest

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install  ## speed against named alternatives; docs/benchmarks.md keeps the results
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/planning.py

clean:  ## removes the environment, never results
	rm -rf $(VENV) build dist *.egg-info
